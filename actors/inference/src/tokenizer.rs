//! Text to token ids. A text never becomes a special token, whatever it spells: miners write what is tokenised here, and
//! a `</s>` of theirs must not end anything.

use std::{fs, path::Path};

use candle_core::quantized::gguf_file::{Content, Value};
use serde::Deserialize;
use tokenizers::{
    DecoderWrapper, PreTokenizerWrapper, Tokenizer, TruncationParams,
    models::bpe::BPE,
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use crate::catalogue::LoadError;

/// A model's tokenizer. Shared by threads: encoding does not change it.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    inner: Tokenizer,
    max_tokens: usize,
}

/// The part of `tokenizer_config.json` that says where a text is cut. A model without a limit says 1e30.
#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

/// The part of `sentence_bert_config.json` that says where a text is cut.
#[derive(Deserialize)]
struct SentenceBertConfig {
    max_seq_length: Option<f64>,
}

// === impl TextTokenizer ===

impl TextTokenizer {
    /// Reads `tokenizer.json` of a model's folder. Texts are cut where `tokenizer_config.json` says, which is where the
    /// reference cuts them; else where `sentence_bert_config.json` says; and never beyond `network_max_tokens`.
    pub(crate) fn from_folder(folder: &Path, network_max_tokens: usize) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer.json");
        let inner = Tokenizer::from_file(&path)
            .map_err(|error| LoadError::Unusable { path: path.clone(), reason: error.to_string() })?;
        let stated = optional_json::<TokenizerConfig>(&folder.join("tokenizer_config.json"))?
            .and_then(|config| config.model_max_length)
            .or(optional_json::<SentenceBertConfig>(&folder.join("sentence_bert_config.json"))?
                .and_then(|config| config.max_seq_length));
        // `as` saturates: the 1e30 of a model without a limit becomes the network's own.
        let max_tokens = stated.map_or(network_max_tokens, |stated| (stated as usize).min(network_max_tokens));
        Self::neutral(inner, max_tokens).map_err(|reason| LoadError::Unusable { path, reason })
    }

    /// Builds the byte-level BPE that lies in a GGUF file: `tokenizer.ggml.model` is `gpt2`, `tokenizer.ggml.pre` is
    /// `smollm` (digits one by one, then GPT-2's pattern).
    pub(crate) fn from_gguf(content: &Content, max_tokens: usize) -> Result<Self, String> {
        let find = |key: &str| content.metadata.get(key).ok_or_else(|| format!("the file's metadata has no `{key}`"));
        let text = |key: &str| find(key)?.to_string().map_err(|error| format!("`{key}`: {error}"));
        let strings = |key: &str| {
            find(key)?
                .to_vec()
                .and_then(|values| values.iter().map(Value::to_string).collect::<Result<Vec<_>, _>>())
                .map_err(|error| format!("`{key}`: {error}"))
        };
        for (key, known) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")] {
            let found = text(key)?;
            if found != known {
                return Err(format!("`{key}` is `{found}`; only `{known}` is supported"));
            }
        }
        let vocabulary: tokenizers::models::bpe::Vocab =
            (0_u32..).zip(strings("tokenizer.ggml.tokens")?).map(|(id, token)| (token.clone(), id)).collect();
        let merges = strings("tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| match merge.split_once(' ') {
                Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
                None => Err(format!("`tokenizer.ggml.merges` holds `{merge}`, which is not a pair")),
            })
            .collect::<Result<_, _>>()?;
        let bpe = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(|error| error.to_string())?;
        let byte_level = ByteLevel::new(false, true, true);
        let mut inner = Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(byte_level),
        ]))));
        inner.with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
        Self::neutral(inner, max_tokens)
    }

    fn neutral(mut inner: Tokenizer, max_tokens: usize) -> Result<Self, String> {
        inner.set_encode_special_tokens(true);
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams { max_length: max_tokens, ..TruncationParams::default() }))
            .map_err(|error| error.to_string())?;
        Ok(Self { inner, max_tokens })
    }

    /// The ids of `text` with the tokens the model puts around a text, cut on the right at [`Self::max_tokens`].
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The greatest number of ids [`Self::encode`] returns.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The text that `ids` stand for.
    #[cfg(test)]
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap()
    }
}

/// A small JSON file that a model's folder may lack.
fn optional_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    let unusable = |reason: String| LoadError::Unusable { path: path.to_owned(), reason };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| unusable(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::PathBuf, sync::OnceLock};

    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;
    use crate::models::llama_gguf::tests::write_tiny;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/inference")
    }

    fn from_tiny_gguf() -> TextTokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny(&path);
        let content = Content::read(&mut File::open(&path).unwrap()).unwrap();
        TextTokenizer::from_gguf(&content, 160).unwrap()
    }

    #[test]
    fn ids_equal_the_references_save_where_a_miner_writes_special_tokens() {
        let tokenizer = TextTokenizer::from_folder(&fixtures().join("bert"), 128).unwrap();
        let golden: Vec<Json> =
            serde_json::from_slice(&std::fs::read(fixtures().join("bert_golden.json")).unwrap()).unwrap();
        let (mut equal, mut injected) = (0, 0);
        for case in &golden {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let ours = tokenizer.encode(text).unwrap();
            if text.contains("[SEP]") {
                let separators = |ids: &[u32]| ids.iter().filter(|&&id| id == 3).count();
                assert_eq!((separators(&expected), separators(&ours)), (2, 1), "{text}");
                injected += 1;
            } else {
                assert_eq!(ours, expected, "{text}");
                equal += 1;
            }
        }
        assert_eq!((equal, injected), (19, 1));
    }

    #[test]
    fn the_folder_says_where_a_text_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(fixtures().join("bert/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        let max = |network| TextTokenizer::from_folder(folder.path(), network).unwrap().max_tokens();
        assert_eq!(max(77), 77);
        std::fs::write(folder.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 20}"#).unwrap();
        assert_eq!((max(77), max(9)), (20, 9));
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"model_max_length": 1e30}"#).unwrap();
        assert_eq!(max(77), 77);
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"model_max_length": 12}"#).unwrap();
        let tokenizer = TextTokenizer::from_folder(folder.path(), 77).unwrap();
        let ids = tokenizer.encode(&"word ".repeat(100)).unwrap();
        assert_eq!((ids.len(), ids[0], ids[11]), (12, 2, 3), "special tokens stay at both ends");
        std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
        let error = TextTokenizer::from_folder(folder.path(), 77).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }

    #[test]
    fn a_gguf_tokenizer_merges_and_takes_digits_one_by_one() {
        let tokenizer = from_tiny_gguf();
        let the = tokenizer.encode("the").unwrap();
        assert_eq!(the.len(), 1);
        assert_eq!(tokenizer.encode("2024").unwrap().len(), 4);
        assert_eq!(tokenizer.decode(&the), "the");
    }

    #[test]
    fn special_tokens_in_a_text_are_letters() {
        let tokenizer = from_tiny_gguf();
        let ids = tokenizer.encode("a<|endoftext|>b<|im_end|>").unwrap();
        assert!(ids.iter().all(|&id| id > 1), "{ids:?}");
    }

    /// A miner may write anything of any length: no pattern may run away with it, nothing may be lost.
    #[test]
    fn long_runs_of_one_kind_are_encoded_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny(&path);
        let content = Content::read(&mut File::open(&path).unwrap()).unwrap();
        let tokenizer = TextTokenizer::from_gguf(&content, usize::MAX).unwrap();
        for unit in [" ", "\n", "a", "9", "!", "' ", "\u{301}"] {
            let text = format!("a{}b", unit.repeat(20_000));
            assert!(tokenizer.decode(&tokenizer.encode(&text).unwrap()) == text, "a run of {unit:?} was changed");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in "\\PC{0,40}") {
            static TOKENIZER: OnceLock<TextTokenizer> = OnceLock::new();
            let tokenizer = TOKENIZER.get_or_init(from_tiny_gguf);
            let ids = tokenizer.encode(&text).unwrap();
            prop_assume!(ids.len() < 160);
            prop_assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}
