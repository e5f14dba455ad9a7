//! The networks the program knows, and how a folder of files becomes one of them.
//!
//! A new network is one file in [`crate::models`] and one line in [`ARCHITECTURES`].

mod weighing;

use std::{
    collections::HashMap,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, quantized::gguf_file::Content};
use candle_nn::VarBuilder;
use openvalidators_messages::inference::ModelName;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    checkpoint::{Checkpoint, guarded},
    config::Config,
    models::{Network, bert, btlm, deberta, gpt_neo, gpt2, gptj, llama, llama_gguf, mpnet, reason, roberta},
    synthetic::RandomTensors,
    tokenizer::{Rules, TextTokenizer},
};

pub use weighing::Weight;

/// Where the files of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// How requests call it.
    pub name: ModelName,
    /// A folder with one `*.gguf` file, or with `config.json`, `tokenizer.json` and tensors: `model.safetensors`,
    /// `pytorch_model.bin`, either in shards with an index, or `hf_ckpt.pt`; or `random.json` for random ones
    /// ([`crate::synthetic`]).
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
    /// `model_type` of `config.json`, or `general.architecture` of a GGUF file. Which head it has, if any, the tensors say.
    name: &'static str,
    build: Build,
    /// Beginnings of the names of tensors that the network does without: heads and poolers that nobody asks.
    ignored: &'static [&'static str],
}

/// How an architecture is made from its files.
enum Build {
    /// From the bytes of `config.json` and the tensors beside it.
    Tensors(FromTensors),
    /// From a GGUF file.
    Gguf(FromGguf),
}

/// Positions, words, columns: the greatest of any network known today is a context of so many tokens.
const MOST_OF_ANYTHING: u64 = 1 << 20;

/// The reward model of Dahoas has its body twice, once in the language model it was made from.
const DAHOAS_COPIES: &[&str] = &["model.transformer.", "model.lm_head."];

/// Old checkpoints hold a tied head a second time; an untied one is taken.
const TIED_COPY: &[&str] = &["lm_head."];

type FromTensors = fn(&[u8], VarBuilder<'_>) -> candle_core::Result<Network>;
type FromGguf = fn(&Content, &mut Cursor<Vec<u8>>, DType, &Device) -> candle_core::Result<Network>;

const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "bert", build: Build::Tensors(bert::build), ignored: &["pooler.", "bert.pooler.", "cls."] },
    Architecture { name: "btlm", build: Build::Tensors(btlm::build), ignored: TIED_COPY },
    Architecture {
        name: "deberta-v2",
        build: Build::Tensors(deberta::build),
        ignored: &["lm_predictions.", "mask_predictions."],
    },
    Architecture { name: "gpt2", build: Build::Tensors(gpt2::build), ignored: TIED_COPY },
    Architecture { name: "gpt_neo", build: Build::Tensors(gpt_neo::build), ignored: TIED_COPY },
    Architecture { name: "gptj", build: Build::Tensors(gptj::build), ignored: DAHOAS_COPIES },
    Architecture { name: "jais", build: Build::Tensors(btlm::build), ignored: TIED_COPY },
    Architecture { name: "llama", build: Build::Tensors(llama::build), ignored: TIED_COPY },
    Architecture {
        name: "mpnet",
        build: Build::Tensors(mpnet::build),
        ignored: &["pooler.", "mpnet.pooler.", "lm_head."],
    },
    Architecture {
        name: "roberta",
        build: Build::Tensors(roberta::build),
        ignored: &["pooler.", "roberta.pooler.", "lm_head."],
    },
    Architecture { name: "llama", build: Build::Gguf(llama_gguf::build), ignored: &[] },
];

// === impl ModelSource ===

impl ModelSource {
    /// The bare network, without a tokenizer or a thread, for who wants to run it by hand. Blocks for seconds.
    ///
    /// # Errors
    /// When the folder is not a model this program can run.
    pub fn network(&self) -> Result<Network, LoadError> {
        load(self, &Config::default(), DType::F32, &Device::Cpu).map(|loaded| loaded.network)
    }
}

/// Loads a model onto `device`, its weights as `dtype`. Blocks for seconds: files are read whole, and their digests are of the very bytes that were
/// loaded.
pub(crate) fn load(source: &ModelSource, config: &Config, dtype: DType, device: &Device) -> Result<Loaded, LoadError> {
    match gguf_file(&source.directory) {
        Some(path) => load_gguf(&path, config, dtype, device),
        None => load_folder(source, config, dtype, device),
    }
}

fn gguf_file(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "gguf"))
}

fn load_gguf(path: &Path, config: &Config, dtype: DType, device: &Device) -> Result<Loaded, LoadError> {
    let unusable = |reason: String| LoadError::Unusable { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let digests = vec![digest(path, &bytes)];
    let mut file = Cursor::new(bytes);
    let content = Content::read(&mut file).map_err(|error| unusable(reason(&error)))?;
    let stated =
        content.metadata.iter().filter(|(key, _)| !key.starts_with("tokenizer.") && !key.starts_with("general."));
    check_sizes(path, stated.filter_map(|(key, value)| Some((key.as_str(), value.to_u64().ok()?))))?;
    let named = content.metadata.get("general.architecture").and_then(|value| value.to_string().ok());
    let (build, _) = find(path, named.map_or("", String::as_str), |build| match build {
        Build::Gguf(build) => Some(*build),
        Build::Tensors(_) => None,
    })?;
    let network = guarded(|| build(&content, &mut file, dtype, device)).map_err(|error| unusable(reason(&error)))?;
    let tokenizer = TextTokenizer::from_gguf(&content, rules(&network, config)).map_err(unusable)?;
    let ends =
        content.metadata.get("tokenizer.ggml.eos_token_id").and_then(|id| id.to_u32().ok()).into_iter().collect();
    Ok(Loaded { network, tokenizer, ends, digests })
}

fn load_folder(source: &ModelSource, settings: &Config, dtype: DType, device: &Device) -> Result<Loaded, LoadError> {
    let mut digests = Vec::new();
    let described = Described::read(source, &mut digests)?;
    let network = match Checkpoint::open(&source.directory, &mut digests)? {
        Some(checkpoint) => {
            let network = described.build(checkpoint.path(), checkpoint.tensors(dtype, device))?;
            checkpoint.check_taken(described.ignored)?;
            network
        }
        None => {
            let random = RandomTensors::open(&source.directory, &mut digests)?;
            let random = random.ok_or_else(|| missing(source, "model.safetensors"))?;
            tracing::warn!(model = %source.name, "its weights are random: what it says means nothing");
            described.build(&described.path, random.tensors(dtype, device))?
        }
    };
    let tokenizer = TextTokenizer::from_folder(&source.directory, rules(&network, settings))?;
    Ok(Loaded { network, tokenizer, ends: described.ends, digests })
}

/// The tensors that a network of random weights asks for, by name, in f32.
pub(crate) fn random_tensors(source: &ModelSource) -> Result<HashMap<String, Tensor>, LoadError> {
    let mut digests = Vec::new();
    let described = Described::read(source, &mut digests)?;
    let random = RandomTensors::open(&source.directory, &mut digests)?;
    let random = random.ok_or_else(|| missing(source, "random.json"))?.keeping_asked();
    described.build(&described.path, random.tensors(DType::F32, &Device::Cpu))?;
    Ok(random.asked())
}

fn missing(source: &ModelSource, wanted: &'static str) -> LoadError {
    LoadError::Missing { model: source.name.clone(), wanted, directory: source.directory.clone() }
}

/// What `config.json` says of a network.
struct Described {
    path: PathBuf,
    config: Vec<u8>,
    build: FromTensors,
    ignored: &'static [&'static str],
    ends: Vec<u32>,
}

// === impl Described ===

impl Described {
    /// Reads `config.json`, and `tokenizer.json` for its digest.
    fn read(source: &ModelSource, digests: &mut Vec<(String, String)>) -> Result<Self, LoadError> {
        let mut read = |name: &'static str| {
            let path = source.directory.join(name);
            let bytes = fs::read(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => missing(source, name),
                _ => LoadError::Unusable { path: path.clone(), reason: error.to_string() },
            })?;
            digests.push(digest(&path, &bytes));
            Ok((path, bytes))
        };
        let (path, config) = read("config.json")?;
        read("tokenizer.json")?;

        #[derive(Deserialize)]
        struct Kind {
            model_type: String,
            eos_token_id: Option<EndTokens>,
        }
        let unusable = |error: serde_json::Error| LoadError::Unusable { path: path.clone(), reason: error.to_string() };
        let kind: Kind = serde_json::from_slice(&config).map_err(unusable)?;
        let stated: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&config).map_err(unusable)?;
        check_sizes(&path, stated.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_u64()?))))?;
        let (build, ignored) = find(&path, &kind.model_type, |build| match build {
            Build::Tensors(build) => Some(*build),
            Build::Gguf(_) => None,
        })?;
        let ends = kind.eos_token_id.map_or_else(Vec::new, EndTokens::into_vec);
        Ok(Self { path, config, build, ignored, ends })
    }

    /// The network of these tensors; `path` is the file that is to blame where they do not fit.
    fn build(&self, path: &Path, tensors: VarBuilder<'_>) -> Result<Network, LoadError> {
        guarded(|| (self.build)(&self.config, tensors))
            .map_err(|error| LoadError::Unusable { path: path.to_owned(), reason: reason(&error) })
    }
}

/// Whether the sizes that a file states could be a network's. Tables are made of them before any tensor is compared with
/// them, and memory that is not there ends the program.
fn check_sizes<'a>(path: &Path, stated: impl Iterator<Item = (&'a str, u64)>) -> Result<(), LoadError> {
    const WORDS: [&str; 8] = ["n_", "num_", "max_", "rotary", "size", "count", "length", "dim"];
    let is_size = |key: &str| WORDS.iter().any(|word| key.contains(word));
    let mut sizes = stated.filter(|(key, _)| is_size(key));
    match sizes.find(|(_, size)| *size > MOST_OF_ANYTHING) {
        Some((key, size)) => Err(LoadError::Unusable {
            path: path.to_owned(),
            reason: format!("`{key}` is {size}; no network has more than {MOST_OF_ANYTHING} of anything"),
        }),
        None => Ok(()),
    }
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

/// The builder of the architecture called `name`, among those `of_format` accepts, and what it ignores.
fn find<T>(
    path: &Path,
    name: &str,
    of_format: impl Fn(&Build) -> Option<T>,
) -> Result<(T, &'static [&'static str]), LoadError> {
    let known = || ARCHITECTURES.iter().filter_map(|known| Some((known, of_format(&known.build)?)));
    match known().find(|(known, _)| known.name == name) {
        Some((known, build)) => Ok((build, known.ignored)),
        None => Err(LoadError::UnknownArchitecture {
            path: path.to_owned(),
            found: name.to_owned(),
            known: known().map(|(known, _)| known.name).collect::<Vec<_>>().join(", "),
        }),
    }
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
        load(&source, &Config { max_sequence_tokens: 100, ..Config::default() }, DType::F32, &Device::Cpu)
    }

    fn error_from(directory: &Path) -> String {
        load_from(directory).err().unwrap().to_string()
    }

    #[test]
    fn a_tied_head_may_lie_there_twice_and_an_untied_one_is_taken() {
        let (folder, from) = (tempfile::tempdir().unwrap(), fixture().join("../../parity/models/gpt2"));
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        let mut tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
        let head = tensors["transformer.wte.weight"].zeros_like().unwrap();
        tensors.insert("lm_head.weight".to_owned(), head);
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        let greatest_logit = || {
            let Network::CausalLm(model) = load_from(folder.path()).unwrap().network else {
                panic!("a language model")
            };
            let (states, _) = model.body.prefill(&[5, 6]).unwrap();
            model.logits(&states).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
        };
        assert!(greatest_logit() > 0.0);
        let config = fs::read_to_string(from.join("config.json")).unwrap();
        let (tied, untied) = ("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
        assert!(config.contains(tied));
        fs::write(folder.path().join("config.json"), config.replace(tied, untied)).unwrap();
        assert_eq!(greatest_logit(), 0.0);
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

    /// What a checkpoint is for is said by its head; the reward model of Dahoas lies in a pickle.
    #[test]
    fn every_network_of_the_reference_loads_and_is_what_its_head_says() {
        let folder = |name: &str| fixture().join("../../parity/models").join(name);
        let kind = |name: &str| match load_from(&folder(name)).unwrap().network {
            Network::Encoder(_) => "encoder",
            Network::Classifier(_) => "classifier",
            Network::CausalLm(_) => "causal",
            Network::CausalClassifier(_) => "causal classifier",
        };
        for name in ["btlm", "gpt2", "gptneo", "llama"] {
            assert_eq!(kind(name), "causal", "{name}");
        }
        for name in ["gptj_base", "gptj_rm"] {
            assert_eq!(kind(name), "causal classifier", "{name}");
        }
        for name in ["bert", "distilroberta", "mpnet"] {
            assert_eq!(kind(name), "encoder", "{name}");
        }
        for name in ["deberta_rm", "roberta_nsfw"] {
            assert_eq!(kind(name), "classifier", "{name}");
        }
        let dahoas = load_from(&folder("gptj_base")).unwrap();
        assert_eq!(dahoas.digests[2].0, "hf_ckpt.pt");
        assert_eq!(dahoas.ends, [0]);
        assert_eq!(load_from(&folder("llama")).unwrap().ends, [2]);
    }

    #[test]
    fn a_checkpoint_of_more_layers_than_its_config_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "model.safetensors"] {
            fs::copy(fixture().join(name), folder.path().join(name)).unwrap();
        }
        let config = fs::read_to_string(fixture().join("config.json")).unwrap();
        let with = |layers: &str| {
            let config = config.replace("\"num_hidden_layers\": 2", &format!("\"num_hidden_layers\": {layers}"));
            fs::write(folder.path().join("config.json"), config).unwrap();
            error_from(folder.path())
        };
        let error = with("1");
        assert!(error.contains("model.safetensors") && error.contains("no tensor `encoder.layer.1."), "{error}");
        let error = with("3");
        assert!(
            error.contains("there is no tensor `encoder.layer.2.") && error.contains("model.safetensors"),
            "{error}"
        );
    }

    #[test]
    fn absurd_sizes_are_errors_and_no_panics() {
        let folder = tempfile::tempdir().unwrap();
        let from = fixture().join("../../parity/models/gptj_rm");
        for name in ["tokenizer.json", "model.safetensors"] {
            fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        let config: serde_json::Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        for (key, value) in [
            ("n_positions", 1_u64 << 40),
            ("n_embd", 0),
            ("n_embd", 1 << 40),
            ("n_head", 0),
            ("rotary_dim", 1 << 40),
            ("vocab_size", 1 << 40),
            ("n_layer", 1_000),
        ] {
            let mut config = config.clone();
            config[key] = value.into();
            fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let error = error_from(folder.path());
            assert!(error.contains(folder.path().to_str().unwrap()), "{key} {value}: {error}");
        }
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
