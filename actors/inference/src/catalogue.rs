//! The networks the program knows, and how a folder of files becomes one of them.
//!
//! A new network is one file in [`crate::models`] and one line in [`ARCHITECTURES`].

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, quantized::gguf_file::Content};
use candle_nn::VarBuilder;
use openvalidators_messages::inference::ModelName;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    config::Config,
    models::{Network, bert, btlm, deberta, gpt_neo, gpt2, gptj, llama, llama_gguf, mpnet, reason, roberta},
    tokenizer::{Rules, TextTokenizer},
};

/// Where the files of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// How requests call it.
    pub name: ModelName,
    /// A folder with one `*.gguf` file, or with `config.json`, `model.safetensors` and `tokenizer.json`.
    pub directory: PathBuf,
}

/// A folder that is not a model this program can run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is not there.
    #[error(
        "model `{model}` needs {wanted} in {directory}, which is not there; fetch it with `openvalidators models fetch`"
    )]
    Missing {
        /// Which model.
        model: ModelName,
        /// What was looked for.
        wanted: &'static str,
        /// Where.
        directory: PathBuf,
    },
    /// A file is there and of no use.
    #[error("cannot use {path}: {reason}", path = path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The network is none of those in the catalogue.
    #[error("{path} holds a network of architecture `{found}`; known in this format: {known}", path = path.display())]
    UnknownArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it could have said.
        known: String,
    },
}

/// A network and what its owner needs to feed it.
pub(crate) struct Loaded {
    pub(crate) network: Network,
    pub(crate) tokenizer: TextTokenizer,
    /// A text the network writes ends with any of these tokens.
    pub(crate) ends: Vec<u32>,
    /// sha256 of each file read, by file name.
    pub(crate) digests: Vec<(String, String)>,
}

/// One architecture, in one file format.
struct Architecture {
    /// `model_type` of `config.json`, or `general.architecture` of a GGUF file.
    name: &'static str,
    build: Build,
}

/// How an architecture is made from its files.
enum Build {
    /// From the bytes of `config.json` and the tensors of `model.safetensors`.
    Safetensors(fn(&[u8], VarBuilder<'_>) -> candle_core::Result<Network>),
    /// From a GGUF file.
    Gguf(fn(&Content, &mut Cursor<Vec<u8>>, &Device) -> candle_core::Result<Network>),
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "bert", build: Build::Safetensors(bert::build) },
    Architecture { name: "btlm", build: Build::Safetensors(btlm::build) },
    Architecture { name: "deberta-v2", build: Build::Safetensors(deberta::build) },
    Architecture { name: "gpt2", build: Build::Safetensors(gpt2::build) },
    Architecture { name: "gpt_neo", build: Build::Safetensors(gpt_neo::build) },
    Architecture { name: "gptj", build: Build::Safetensors(gptj::build) },
    Architecture { name: "jais", build: Build::Safetensors(btlm::build) },
    Architecture { name: "llama", build: Build::Safetensors(llama::build) },
    Architecture { name: "mpnet", build: Build::Safetensors(mpnet::build) },
    Architecture { name: "roberta", build: Build::Safetensors(roberta::build) },
    Architecture { name: "llama", build: Build::Gguf(llama_gguf::build) },
];

// === impl ModelSource ===

impl ModelSource {
    /// The bare network, without a tokenizer or a thread, for who wants to run it by hand. Blocks for seconds.
    ///
    /// # Errors
    /// When the folder is not a model this program can run.
    pub fn network(&self) -> Result<Network, LoadError> {
        load(self, &Config::default(), &Device::Cpu).map(|loaded| loaded.network)
    }
}

/// Loads a model onto `device`. Blocks for seconds: files are read whole, and their digests are of the very bytes that were
/// loaded.
pub(crate) fn load(source: &ModelSource, config: &Config, device: &Device) -> Result<Loaded, LoadError> {
    let gguf = fs::read_dir(&source.directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    match gguf {
        Some(path) => load_gguf(&path, config, device),
        None => load_safetensors(source, config, device),
    }
}

fn load_gguf(path: &Path, config: &Config, device: &Device) -> Result<Loaded, LoadError> {
    let unusable = |reason: String| LoadError::Unusable { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let digests = vec![digest(path, &bytes)];
    let mut file = Cursor::new(bytes);
    let content = Content::read(&mut file).map_err(|error| unusable(reason(&error)))?;
    let named = content.metadata.get("general.architecture").and_then(|value| value.to_string().ok());
    let build = find(path, named.map_or("", String::as_str), |build| match build {
        Build::Gguf(build) => Some(*build),
        Build::Safetensors(_) => None,
    })?;
    let network = build(&content, &mut file, device).map_err(|error| unusable(reason(&error)))?;
    let tokenizer = TextTokenizer::from_gguf(&content, rules(&network, config)).map_err(unusable)?;
    let ends =
        content.metadata.get("tokenizer.ggml.eos_token_id").and_then(|id| id.to_u32().ok()).into_iter().collect();
    Ok(Loaded { network, tokenizer, ends, digests })
}

fn load_safetensors(source: &ModelSource, settings: &Config, device: &Device) -> Result<Loaded, LoadError> {
    let mut digests = Vec::new();
    let mut read = |name: &'static str| {
        let path = source.directory.join(name);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                LoadError::Missing { model: source.name.clone(), wanted: name, directory: source.directory.clone() }
            }
            _ => LoadError::Unusable { path: path.clone(), reason: error.to_string() },
        })?;
        digests.push(digest(&path, &bytes));
        Ok((path, bytes))
    };
    let (config_path, config) = read("config.json")?;
    read("tokenizer.json")?;
    let (weights_path, weights) = read("model.safetensors")?;

    #[derive(Deserialize)]
    struct Kind {
        model_type: String,
        eos_token_id: Option<EndTokens>,
    }
    let kind: Kind = serde_json::from_slice(&config)
        .map_err(|error| LoadError::Unusable { path: config_path.clone(), reason: error.to_string() })?;
    let build = find(&config_path, &kind.model_type, |build| match build {
        Build::Safetensors(build) => Some(*build),
        Build::Gguf(_) => None,
    })?;
    let network = VarBuilder::from_buffered_safetensors(weights, DType::F32, device)
        .and_then(|tensors| build(&config, tensors))
        .map_err(|error| LoadError::Unusable { path: weights_path, reason: reason(&error) })?;
    let tokenizer = TextTokenizer::from_folder(&source.directory, rules(&network, settings))?;
    let ends = kind.eos_token_id.map_or_else(Vec::new, EndTokens::into_vec);
    Ok(Loaded { network, tokenizer, ends, digests })
}

/// What ends a text: a token, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum EndTokens {
    One(u32),
    Several(Vec<u32>),
}

impl EndTokens {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(token) => vec![token],
            Self::Several(tokens) => tokens,
        }
    }
}

fn rules(network: &Network, config: &Config) -> Rules {
    Rules {
        ceiling_tokens: network.max_tokens().min(config.max_sequence_tokens),
        interpret_special_tokens: config.interpret_special_tokens,
    }
}

/// The builder of the architecture called `name`, among those `of_format` accepts.
fn find<T>(path: &Path, name: &str, of_format: impl Fn(&Build) -> Option<T>) -> Result<T, LoadError> {
    let known = || ARCHITECTURES.iter().filter_map(|known| Some((known.name, of_format(&known.build)?)));
    known().find(|(known, _)| *known == name).map(|(_, build)| build).ok_or_else(|| LoadError::UnknownArchitecture {
        path: path.to_owned(),
        found: name.to_owned(),
        known: known().map(|(name, _)| name).collect::<Vec<_>>().join(", "),
    })
}

fn digest(path: &Path, bytes: &[u8]) -> (String, String) {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    (name, hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::llama_gguf::tests::write_tiny;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/inference/bert")
    }

    fn load_from(directory: &Path) -> Result<Loaded, LoadError> {
        let source = ModelSource { name: ModelName::new("under test"), directory: directory.to_owned() };
        load(&source, &Config { max_sequence_tokens: 100, ..Config::default() }, &Device::Cpu)
    }

    fn error_from(directory: &Path) -> String {
        load_from(directory).err().unwrap().to_string()
    }

    #[test]
    fn both_formats_load_and_are_digested() {
        let bert = load_from(&fixture()).unwrap();
        assert!(matches!(bert.network, Network::Encoder(_)));
        assert_eq!(bert.tokenizer.max_tokens(), 100, "the operator's limit holds");
        let names: Vec<&str> = bert.digests.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["config.json", "tokenizer.json", "model.safetensors"]);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny(&path);
        let llama = load_from(folder.path()).unwrap();
        assert!(matches!(llama.network, Network::CausalLm(_)));
        assert_eq!(llama.digests, [("tiny.gguf".to_owned(), hex::encode(Sha256::digest(fs::read(&path).unwrap())))]);
    }

    #[test]
    fn an_absent_model_names_the_remedy() {
        let error = error_from(Path::new("/nowhere/at/all"));
        assert!(error.contains("config.json") && error.contains("openvalidators models fetch"), "{error}");
    }

    #[test]
    fn an_unknown_architecture_names_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "model.safetensors"] {
            fs::copy(fixture().join(name), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("config.json"), r#"{"model_type": "mamba"}"#).unwrap();
        let error = error_from(folder.path());
        assert!(error.contains("`mamba`") && error.contains("known in this format: bert"), "{error}");
    }

    #[test]
    fn a_truncated_file_is_an_error_and_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny(&path);
        let bytes = fs::read(&path).unwrap();
        for keep in [0, 3, 100, bytes.len() / 2, bytes.len() - 40] {
            fs::write(&path, &bytes[..keep]).unwrap();
            assert!(error_from(folder.path()).contains("tiny.gguf"), "{keep} bytes");
        }
    }
}
