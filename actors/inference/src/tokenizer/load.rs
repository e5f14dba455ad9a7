//! Where a tokenizer comes from: files of a model's folder, or the metadata of a GGUF file.

use std::{fs, path::Path};

use candle_core::quantized::gguf_file::{Content, Value};
use serde::Deserialize;
use tokenizers::{
    AddedToken, DecoderWrapper, PostProcessor, PreTokenizerWrapper, Tokenizer,
    models::bpe::BPE,
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::TextTokenizer;
use crate::catalogue::LoadError;

/// `tokenizer.ggml.token_type` of a token that stands for no text.
const CONTROL_TOKEN: i32 = 3;

/// What the operator says of every tokenizer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// No row is longer: here the network ends, or the operator ends it.
    pub(crate) ceiling_tokens: usize,
    /// Special tokens are read in the texts of others too.
    pub(crate) interpret_special_tokens: bool,
}

/// What `tokenizer_config.json` says of the rows that go to the network.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    /// Where a text is cut. A model without a limit says 1e30.
    model_max_length: Option<f64>,
    /// The class of transformers that reads the file.
    tokenizer_class: Option<String>,
    /// What it hands the network; where the file does not say, the class does.
    model_input_names: Option<Vec<String>>,
}

/// Classes of transformers 4.28 that hand the network token types.
const TYPED_CLASSES: [&str; 3] = ["PreTrainedTokenizer", "BertTokenizer", "DebertaV2Tokenizer"];

/// The part of `sentence_bert_config.json` that says where a text is cut.
#[derive(Deserialize)]
struct SentenceBertConfig {
    max_seq_length: Option<f64>,
}

// === impl TextTokenizer ===

impl TextTokenizer {
    /// Reads `tokenizer.json` of a model's folder. Texts are cut where `tokenizer_config.json` says, which is where the
    /// reference cuts them; else where `sentence_bert_config.json` says; and never beyond `rules`.
    pub(crate) fn from_folder(folder: &Path, rules: Rules) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer.json");
        let inner = Tokenizer::from_file(&path)
            .map_err(|error| LoadError::Unusable { path: path.clone(), reason: error.to_string() })?;
        let config: TokenizerConfig = optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let typed = config.hands_types();
        let stated =
            config.model_max_length.or(optional_json::<SentenceBertConfig>(&folder.join("sentence_bert_config.json"))?
                .and_then(|config| config.max_seq_length));
        // `as` saturates: the 1e30 of a model without a limit is no limit.
        let stated = stated.map_or(usize::MAX, |stated| stated as usize);
        Self::new(inner, stated, typed, rules).map_err(|reason| LoadError::Unusable { path, reason })
    }

    /// Builds the byte-level BPE that lies in a GGUF file: `tokenizer.ggml.model` is `gpt2`, `tokenizer.ggml.pre` is
    /// `smollm` (digits one by one, then GPT-2's pattern). Its control tokens are special.
    pub(crate) fn from_gguf(content: &Content, rules: Rules) -> Result<Self, String> {
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
        let tokens = strings("tokenizer.ggml.tokens")?;
        let special = match content.metadata.get("tokenizer.ggml.token_type") {
            None => Vec::new(),
            Some(_) => {
                let key = "tokenizer.ggml.token_type";
                let kinds = find(key)?.to_vec().map_err(|error| format!("`{key}`: {error}"))?;
                let is_control = |kind: &Value| kind.to_i32().is_ok_and(|kind| kind == CONTROL_TOKEN);
                let control = tokens.iter().zip(kinds).filter(|(_, kind)| is_control(kind));
                control.map(|(token, _)| AddedToken::from(token.as_str(), true)).collect()
            }
        };
        let vocabulary: tokenizers::models::bpe::Vocab =
            (0_u32..).zip(tokens).map(|(id, token)| (token.clone(), id)).collect();
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
        inner.add_special_tokens(special).map_err(|error| error.to_string())?;
        Self::new(inner, usize::MAX, None, rules)
    }

    fn new(mut inner: Tokenizer, stated_tokens: usize, typed: Option<bool>, rules: Rules) -> Result<Self, String> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        inner.set_encode_special_tokens(false);
        let mut letters = inner.get_added_vocabulary().clone();
        let unflagged = letters.get_added_tokens_decoder().values().filter(|token| is_markup(&token.content));
        let unflagged: Vec<_> = unflagged.map(|token| AddedToken { special: true, ..token.clone() }).collect();
        letters.add_tokens(unflagged, inner.get_model(), inner.get_normalizer()).map_err(|error| error.to_string())?;
        letters.set_encode_special_tokens(true);
        let Rules { ceiling_tokens, interpret_special_tokens: interpret } = rules;
        let max_tokens = stated_tokens.min(ceiling_tokens);
        let around = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        if max_tokens <= around {
            return Err(format!(
                "rows of at most {max_tokens} tokens have no room for a text beside {around} special tokens; the limit is \
                 the least of `model_max_length`, of what the network takes and of `inference.max_sequence_tokens`"
            ));
        }
        Ok(Self { inner, letters, interpret, typed, max_tokens, ceiling_tokens })
    }
}

impl TokenizerConfig {
    fn hands_types(&self) -> Option<bool> {
        match (&self.model_input_names, &self.tokenizer_class) {
            (Some(names), _) => Some(names.iter().any(|name| name == "token_type_ids")),
            (None, Some(class)) => Some(TYPED_CLASSES.contains(&class.trim_end_matches("Fast"))),
            (None, None) => None,
        }
    }
}

/// Whether a token is made to be told from text, though its file may not say that it is special: `<|prompter|>`.
fn is_markup(content: &str) -> bool {
    (content.starts_with('<') && content.ends_with('>')) || (content.starts_with('[') && content.ends_with(']'))
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
