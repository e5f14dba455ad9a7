//! Networks with random weights, for measuring: any architecture of the catalogue from its `config.json` alone, at full
//! size, without a download. A folder holds `config.json`, a tokenizer of the right number of words, and `random.json`
//! instead of tensors; the engine takes it for a model like any other, and warns of it.
//!
//! What such a network says means nothing. What it costs is what the real one costs.

mod peak;
mod tensors;
mod tokenizer;

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

pub use peak::peak_flops;
pub(crate) use tensors::RandomTensors;

use crate::catalogue::{self, LoadError, ModelSource};

/// How large the networks of a stack are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Those of openvalidators 1.2.0: GPT-J-6B, BTLM-3B, DeBERTa-v3-large, MPNet, BERT, RoBERTa.
    Full,
    /// Twelve layers of 768 each, which two cores compute in minutes. In the place of BTLM stands GPT-2, which PyTorch knows
    /// without code from elsewhere.
    Base,
    /// The architectures of the full ones in two narrow layers.
    Tiny,
}

/// A network of a stack.
#[derive(Clone, Debug, Deserialize)]
pub struct Synthetic {
    /// What stands in `config.json`.
    pub config: Value,
    /// Tensors by which a network's head and prefix are known, and their shapes; others are made when they are asked for.
    pub tensors: BTreeMap<String, Vec<usize>>,
}

/// The networks of the stack of openvalidators 1.2.0, by role: `dpo`, `rlhf`, `reciprocate`, `relevance_bert`,
/// `relevance_mpnet` (which serves `diversity` too), `nsfw`.
///
/// # Errors
/// When the data compiled in are damaged.
pub fn stack(size: Size) -> serde_json::Result<BTreeMap<String, Synthetic>> {
    serde_json::from_str(match size {
        Size::Full => include_str!("synthetic/full.json"),
        Size::Base => include_str!("synthetic/base.json"),
        Size::Tiny => include_str!("synthetic/tiny.json"),
    })
}

/// The `count`-th word that every synthetic tokenizer of enough words has, one token each.
#[must_use]
pub fn word(count: usize) -> String {
    format!("w{count}")
}

// === impl Synthetic ===

impl Synthetic {
    /// How many of the words of [`word`] its tokenizer has.
    #[must_use]
    pub fn words(&self) -> usize {
        let vocabulary = self.config["vocab_size"].as_u64().unwrap_or(0) as usize;
        vocabulary.saturating_sub(tokenizer::RESERVED)
    }

    /// Where its tokenizer cuts a text, special tokens included; none where it does not.
    #[must_use]
    pub fn max_tokens(&self) -> Option<usize> {
        tokenizer::max_tokens(&self.config)
    }

    /// Writes the folder of a model. Weights depend on `seed` and their names alone.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, seed: u64) -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let (tokenizer, tokenizer_config) = tokenizer::files(&self.config);
        let random = json!({ "seed": seed, "tensors": self.tensors });
        for (name, content) in [
            ("config.json", &self.config),
            ("tokenizer.json", &tokenizer),
            ("tokenizer_config.json", &tokenizer_config),
            (tensors::FILE, &random),
        ] {
            fs::write(folder.join(name), serde_json::to_vec(content)?)?;
        }
        Ok(())
    }
}

/// Writes the random weights of `source` into `model.safetensors` beside the rest, in f32, for another program to read. From
/// then on the folder is read like any other. Tensors that the network does without are not there.
///
/// # Errors
/// When the folder is not as [`Synthetic::write`] leaves it, or the file cannot be written.
pub fn write_weights(source: &ModelSource) -> Result<(), LoadError> {
    let path = source.directory.join("model.safetensors");
    let asked = catalogue::random_tensors(source)?;
    candle_core::safetensors::save(&asked, &path)
        .map_err(|error| LoadError::Unusable { path, reason: crate::models::reason(&error) })
}

#[cfg(test)]
mod tests;
