//! What `torch.save` wrote that is no network: a dictionary of tensors, of lists of numbers, of lists of texts. The state of
//! openvalidators 1.2.0 is kept so (`utils.py:save_state`).
//!
//! Pickles are read by candle, which runs nothing of what they name.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use candle_core::{
    DType,
    pickle::{Object, Stack},
};
use zip::ZipArchive;

use super::{Held, Kind, guarded};
use crate::models::reason;

/// Larger files are not read: 15,500 embeddings of 768 numbers are 48 MB.
const MOST_FILE_BYTES: u64 = 256 << 20;

/// Of what a file says beside its tensors no more is read: 4,096 hotkeys and scores are 0.3 MB.
const MOST_PICKLE_BYTES: u64 = 16 << 20;

/// What lies under one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Saved {
    /// Numbers in rows, the last dimension running fastest.
    Tensor {
        /// Length of each dimension.
        shape: Vec<usize>,
        /// The numbers, as f32.
        values: Vec<f32>,
    },
    /// A list of numbers.
    Numbers(Vec<f64>),
    /// A list of texts.
    Texts(Vec<String>),
}

/// A file that cannot be read so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading {} as a file of torch.save: {reason}", path.display())]
pub struct SavedError {
    /// The file.
    pub path: PathBuf,
    /// What was found.
    pub reason: String,
}

/// Reads a dictionary; what is none of [`Saved`] is left out.
///
/// # Errors
/// When the file is none that `torch.save` of PyTorch 1.6 or later writes, is damaged, or is larger than such a dictionary
/// gets.
pub fn read_saved(path: &Path) -> Result<BTreeMap<String, Saved>, SavedError> {
    let bad = |reason: String| SavedError { path: path.to_owned(), reason };
    let bytes = path.metadata().map_err(|error| bad(error.to_string()))?.len();
    if bytes > MOST_FILE_BYTES {
        return Err(bad(format!("it has {bytes} bytes; at most {MOST_FILE_BYTES} are read")));
    }
    let mut found = lists(path).map_err(bad)?;
    let held = Held::open(path, Kind::Pickle, &mut Vec::new()).map_err(|error| bad(error.to_string()))?;
    for name in held.names() {
        let tensor = held.load(&name).and_then(|tensor| {
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            Ok(Saved::Tensor { shape: tensor.dims().to_vec(), values })
        });
        found.insert(name, tensor.map_err(|error| bad(reason(&error)))?);
    }
    Ok(found)
}

fn lists(path: &Path) -> Result<BTreeMap<String, Saved>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string())?;
    let name = archive.file_names().filter_map(Result::ok).find(|name| name.ends_with("/data.pkl"));
    let name = name.ok_or("there is no data.pkl in it")?.into_owned();
    let entry = archive.by_name(&name).map_err(|error| error.to_string())?;
    let mut pickle = Vec::new();
    let read = entry.take(MOST_PICKLE_BYTES + 1).read_to_end(&mut pickle).map_err(|error| error.to_string())?;
    if read as u64 > MOST_PICKLE_BYTES {
        return Err(format!("{name} in it has more than {MOST_PICKLE_BYTES} bytes"));
    }
    let object = guarded(|| {
        let mut stack = Stack::empty();
        stack.read_loop(&mut pickle.as_slice())?;
        stack.finalize()
    });
    match object.map_err(|error| reason(&error))? {
        Object::Dict(entries) => {
            Ok(entries.into_iter().filter_map(|(key, value)| Some((key.unicode().ok()?, list(value)?))).collect())
        }
        // The dictionary of a network comes with a note on versions, in which only tensors are of interest.
        Object::Build { .. } => Ok(BTreeMap::new()),
        _ => Err("it holds no dictionary".to_owned()),
    }
}

/// A list of numbers or of texts; an empty one counts as numbers.
fn list(value: Object) -> Option<Saved> {
    let Object::List(items) = value else { return None };
    if matches!(items.first(), Some(Object::Unicode(_))) {
        return items.into_iter().map(|item| item.unicode().ok()).collect::<Option<_>>().map(Saved::Texts);
    }
    let number = |item: Object| match item {
        Object::Float(number) => Some(number),
        Object::Int(number) => Some(number.into()),
        _ => None,
    };
    items.into_iter().map(number).collect::<Option<_>>().map(Saved::Numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/migration").join(name)
    }

    #[test]
    fn what_the_reference_saved_is_read() {
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(state("expected.json")).unwrap()).unwrap();
        let scores: Vec<f64> = serde_json::from_value(expected["scores"].clone()).unwrap();
        let found = read_saved(&state("model.torch")).unwrap();
        assert_eq!(found["neuron_weights"], Saved::Numbers(scores));
        let Saved::Texts(hotkeys) = &found["neuron_hotkeys"] else { panic!("{found:?}") };
        assert_eq!((hotkeys.len(), hotkeys[0].len()), (12, 48));

        let head = read_saved(&state("EleutherAI_gpt-neo-125m_gating_linear_layer.pth")).unwrap();
        let weight: Vec<Vec<f32>> = serde_json::from_value(expected["weight"].clone()).unwrap();
        assert_eq!(head["weight"], Saved::Tensor { shape: vec![16, 32], values: weight.concat() });
        assert_eq!(head.keys().collect::<Vec<_>>(), ["bias", "weight"]);

        let history: Vec<Vec<f32>> = serde_json::from_value(expected["history"].clone()).unwrap();
        let found = read_saved(&state("diversity_model.pth")).unwrap();
        assert_eq!(found["historic_embeddings"], Saved::Tensor { shape: vec![8, 24], values: history.concat() });
    }

    #[test]
    fn what_torch_did_not_save_is_refused_with_words() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |bytes: &[u8]| {
            let path = folder.path().join("model.torch");
            std::fs::write(&path, bytes).unwrap();
            read_saved(&path).unwrap_err().to_string()
        };
        assert!(refused(b"").contains("model.torch as a file of torch.save"));
        assert!(refused(b"<html>").contains("model.torch as a file of torch.save"));
        let whole = std::fs::read(state("model.torch")).unwrap();
        refused(&whole[..whole.len() - 30]);
        let missing = read_saved(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
    }

    /// Whatever a pickle says, reading it ends, and not in a panic.
    #[test]
    fn a_damaged_pickle_is_no_end_of_the_program() {
        let mut whole = ZipArchive::new(File::open(state("model.torch")).unwrap()).unwrap();
        let mut pickle = Vec::new();
        whole.by_name("model/data.pkl").unwrap().read_to_end(&mut pickle).unwrap();
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        let mut refused = 0;
        for place in 0..pickle.len() {
            let mut damaged = pickle.clone();
            damaged[place] ^= 0x5f;
            let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
            archive.start_file("model/data.pkl", stored).unwrap();
            std::io::Write::write_all(&mut archive, &damaged).unwrap();
            archive.finish().unwrap();
            refused += usize::from(read_saved(&path).is_err());
        }
        assert!(refused > 20, "{refused} of {}", pickle.len());
    }
}
