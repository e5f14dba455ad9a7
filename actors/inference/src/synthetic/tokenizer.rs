//! Tokenizers of one token a word.

use serde_json::{Map, Value, json};

use super::word;

/// Ids that are no words of [`word`]: the special tokens of any architecture.
pub(super) const RESERVED: usize = 8;

/// `tokenizer.json` and `tokenizer_config.json` for the network of `config`: words as in [`word`], the special tokens of
/// its kind, and ids up to its `vocab_size`.
pub(super) fn files(config: &Value) -> (Value, Value) {
    let kind = config["model_type"].as_str().unwrap_or_default();
    // By id: what stands before, between and behind texts, what pads, what is unknown.
    let (special, open, close, unknown): (&[&str], _, _, _) = match kind {
        "bert" | "deberta-v2" => (&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "[CLS]", "[SEP]", "[UNK]"),
        "mpnet" | "roberta" => (&["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<s>", "</s>", "<unk>"),
        _ => (&["<|endoftext|>", "<|prompter|>", "</s>", "<|assistant|>"], "", "", "<|endoftext|>"),
    };
    let words = config["vocab_size"].as_u64().unwrap_or(0) as usize;
    let spelled = special.iter().map(|&token| token.to_owned());
    let reserved = (special.len()..RESERVED).map(|id| format!("<unused{id}>"));
    let vocabulary: Map<String, Value> = spelled
        .chain(reserved)
        .chain((0..).map(word))
        .take(words)
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let added: Vec<Value> = (0..)
        .zip(special)
        .map(|(id, token)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let around = match open {
        "" => Value::Null,
        _ => around(kind, open, close, &vocabulary),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": around, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": unknown },
    });
    let mut names = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": unknown,
        "model_input_names": ["input_ids", "attention_mask"],
    });
    if let Some(tokens) = max_tokens(config) {
        names["model_max_length"] = tokens.into();
    }
    for (key, token) in match kind {
        "bert" | "deberta-v2" => [("pad_token", "[PAD]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]")],
        "mpnet" | "roberta" => [("pad_token", "<pad>"), ("cls_token", "<s>"), ("sep_token", "</s>")],
        _ => ["pad_token", "bos_token", "eos_token"].map(|key| (key, "<|endoftext|>")),
    } {
        names[key] = token.into();
    }
    (tokenizer, names)
}

/// Where a text is cut, or runs on in windows: where learned positions end. Relative ones do not.
pub(super) fn max_tokens(config: &Value) -> Option<usize> {
    let positions = ["n_positions", "max_position_embeddings"].iter().find_map(|key| config[*key].as_u64());
    match config["model_type"].as_str()? {
        "deberta-v2" => None,
        // Two rows of these are of padding.
        "mpnet" | "roberta" => positions.map(|positions| positions.saturating_sub(2) as usize),
        _ => positions.map(|positions| positions as usize),
    }
}

/// What is put around one text and around a pair.
fn around(kind: &str, open: &str, close: &str, vocabulary: &Map<String, Value>) -> Value {
    let token = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |which: &str| json!({ "Sequence": { "id": which, "type_id": 0 } });
    let spelled = |name: &str| json!({ "id": name, "ids": [vocabulary[name]], "tokens": [name] });
    let mut pair = vec![token(open), text("A"), token(close)];
    if matches!(kind, "mpnet" | "roberta") {
        pair.push(token(close));
    }
    pair.extend([text("B"), token(close)]);
    json!({
        "type": "TemplateProcessing", "single": [token(open), text("A"), token(close)], "pair": pair,
        "special_tokens": { open: spelled(open), close: spelled(close) },
    })
}
