//! What a model takes, told by the headers of its files.

use std::{fs, io::BufReader, path::Path};

use candle_core::quantized::gguf_file::Content;
use serde::Deserialize;

use super::{Build, LoadError, ModelSource, TIED_COPY, find, gguf_file};
use crate::{
    checkpoint::{guarded, headers},
    models::reason,
};

/// What a model takes, as the headers of its files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Numbers that the network keeps, each as large as its type.
    pub parameters: u64,
    /// Bytes of files that are in memory too while the network is made of them.
    pub held_bytes: u64,
}

// === impl ModelSource ===

impl ModelSource {
    /// What the model will take, from the headers of its files; at once, for files of any size.
    ///
    /// # Errors
    /// When the folder is not a model this program can run.
    pub fn weigh(&self) -> Result<Weight, LoadError> {
        match gguf_file(&self.directory) {
            Some(path) => weigh_gguf(&path),
            None => weigh_folder(self),
        }
    }
}

fn weigh_gguf(path: &Path) -> Result<Weight, LoadError> {
    let unusable = |reason: String| LoadError::Unusable { path: path.to_owned(), reason };
    let file = fs::File::open(path).map_err(|error| unusable(error.to_string()))?;
    let held_bytes = file.metadata().map_err(|error| unusable(error.to_string()))?.len();
    let content = guarded(|| Content::read(&mut BufReader::new(file))).map_err(|error| unusable(reason(&error)))?;
    let parameters = content.tensor_infos.values().map(|info| info.shape.elem_count() as u64).sum();
    Ok(Weight { parameters, held_bytes })
}

fn weigh_folder(source: &ModelSource) -> Result<Weight, LoadError> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: String,
        tie_word_embeddings: Option<bool>,
    }
    let missing =
        |wanted| LoadError::Missing { model: source.name.clone(), wanted, directory: source.directory.clone() };
    let path = source.directory.join("config.json");
    let unusable = |reason: String| LoadError::Unusable { path: path.clone(), reason };
    let config = fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing("config.json"),
        _ => unusable(error.to_string()),
    })?;
    let kind: Kind = serde_json::from_slice(&config).map_err(|error| unusable(error.to_string()))?;
    let (_, ignored) = find(&path, &kind.model_type, |build| matches!(build, Build::Tensors(_)).then_some(()))?;
    // A head that is not tied is taken; better to count one too many than one too few.
    let ignored = if ignored == TIED_COPY && kind.tie_word_embeddings != Some(true) { &[] } else { ignored };
    let headers = headers(&source.directory, ignored)?.ok_or_else(|| missing("model.safetensors"))?;
    Ok(Weight { parameters: headers.numbers, held_bytes: headers.held_bytes })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::Device;
    use openvalidators_messages::inference::ModelName;

    use super::*;
    use crate::models::llama_gguf::tests::write_tiny;

    /// What the headers say is what the network takes, whatever form the files have.
    #[test]
    fn a_model_is_weighed_without_loading_it() {
        let weigh = |directory: &Path| {
            ModelSource { name: ModelName::new("under test"), directory: directory.to_owned() }.weigh()
        };
        let folder = fixtures().join("parity/models");
        for (name, head) in
            [("bert", "pooler."), ("mpnet", "pooler."), ("deberta_rm", "-"), ("gptj_rm", "-"), ("llama", "-")]
        {
            let file = folder.join(name).join("model.safetensors");
            let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
            let counts =
                |name: &str| !name.contains(head) && !name.ends_with("position_ids") && !name.ends_with("bias_mask");
            let is_weight = |tensor: &candle_core::Tensor| tensor.dtype() == candle_core::DType::F32;
            let tensors = tensors.iter().filter(|(name, tensor)| counts(name) && is_weight(tensor));
            let numbers: usize = tensors.map(|(_, tensor)| tensor.elem_count()).sum();
            let weight = weigh(&folder.join(name)).unwrap();
            assert_eq!(weight.parameters, numbers as u64, "{name}");
            assert_eq!(weight.held_bytes, file.metadata().unwrap().len());
        }
        let pickle = weigh(&folder.join("gptj_base")).unwrap();
        assert!(pickle.parameters > 0 && pickle.held_bytes == 0, "{pickle:?}: tensors of a pickle are read one by one");

        let (tiny, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_tiny(&tiny.path().join("tiny.gguf"));
        assert!(weigh(tiny.path()).unwrap().parameters > 0);
        fs::copy(fixtures().join("inference/bert/config.json"), broken.path().join("config.json")).unwrap();
        for bytes in [vec![], vec![255; 8], vec![255; 100], [&9_u64.to_le_bytes()[..], b"{\"a\": 1}"].concat()] {
            fs::write(broken.path().join("model.safetensors"), bytes).unwrap();
            let error = weigh(broken.path()).unwrap_err().to_string();
            assert!(error.contains("model.safetensors"), "{error}");
        }
    }

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
    }
}
