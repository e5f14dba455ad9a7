//! What a network's answer costs in operations, counted from its `config.json`: the products of its layers, of its attention
//! and of its head. Norms, activations and softmax count nothing, so that a share of the peak is never flattered.

use serde_json::Value;

/// The sizes of a network that cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    layers: f64,
    width: f64,
    /// Weights of one layer's products.
    layer: f64,
    /// Weights of the embeddings; those of a tied head are the same.
    words: f64,
    /// Weights of a head that says which token comes next; 0 without one.
    head: f64,
    /// Products of attention for each pair of query and key and unit of width: 2 (scores and values), or with the two of
    /// DeBERTa's relative places 4.
    attention: f64,
}

/// What a network computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Tokens that go through its layers.
    pub tokens: f64,
    /// Pairs of a query and a key it may see.
    pub pairs: f64,
    /// Positions at which its head says which token comes next.
    pub judged: f64,
}

// === impl Network ===

impl Network {
    /// Reads the sizes from a config.
    #[must_use]
    pub fn of(config: &Value) -> Self {
        let size = |keys: &[&str]| keys.iter().find_map(|key| config[*key].as_f64());
        let width = size(&["hidden_size", "n_embd"]).unwrap_or(0.0);
        let wide = size(&["intermediate_size", "n_inner"]).unwrap_or(4.0 * width);
        let gated = config["activation_function"] == "swiglu";
        let words = size(&["vocab_size"]).unwrap_or(0.0) * width;
        let says_next = config["architectures"][0].as_str().is_some_and(|name| name.ends_with("LMHeadModel"));
        Self {
            layers: size(&["num_hidden_layers", "n_layer"]).unwrap_or(0.0),
            width,
            layer: width * (4.0 * width + if gated { 3.0 } else { 2.0 } * wide),
            words,
            head: if says_next { words } else { 0.0 },
            attention: if config["model_type"] == "deberta-v2" { 4.0 } else { 2.0 },
        }
    }

    /// Its weights, near enough to say how much memory they take.
    #[must_use]
    pub fn weights(&self) -> f64 {
        self.layers * self.layer + self.words
    }

    /// The operations of `load`, multiplications and additions counted apart.
    #[must_use]
    pub fn operations(&self, load: Load) -> f64 {
        let Load { tokens, pairs, judged } = load;
        let layers = self.layers * (self.layer * tokens + self.attention * self.width * pairs);
        2.0 * (layers + self.head * judged)
    }
}

// === impl Load ===

impl Load {
    /// A row of `tokens` each of which sees the whole row.
    #[must_use]
    pub fn row(tokens: usize) -> Self {
        let tokens = tokens as f64;
        Self { tokens, pairs: tokens * tokens, judged: 0.0 }
    }

    /// A row of `tokens` that follow `past` others, each of which sees what precedes it; the head judges `judged` of them.
    #[must_use]
    pub fn after(past: usize, tokens: usize, judged: usize) -> Self {
        let (past, tokens) = (past as f64, tokens as f64);
        Self { tokens, pairs: tokens * past + tokens * (tokens + 1.0) / 2.0, judged: judged as f64 }
    }

    /// So many of it.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        let count = count as f64;
        Self { tokens: self.tokens * count, pairs: self.pairs * count, judged: self.judged * count }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, pairs: self.pairs + other.pairs, judged: self.judged + other.judged }
    }
}

#[cfg(test)]
mod tests {
    use openvalidators_inference::synthetic::{Size, stack};

    use super::*;

    /// 5.64 and 2.52 billion weights in the products of GPT-J's and BTLM's layers; 0.30 in DeBERTa-v3-large's.
    #[test]
    fn full_size_networks_have_the_published_weights() {
        let stack = stack(Size::Full).unwrap();
        let layers = |role: &str| {
            let network = Network::of(&stack[role].config);
            network.layers * network.layer / 1e9
        };
        assert!((layers("reciprocate") - 5.64).abs() < 0.01, "{}", layers("reciprocate"));
        assert!((layers("dpo") - 2.52).abs() < 0.01, "{}", layers("dpo"));
        assert!((layers("rlhf") - 0.30).abs() < 0.01, "{}", layers("rlhf"));
    }

    /// 50 completions of 150 tokens behind 600: 94 tera-operations with a shared prompt, 429 without.
    #[test]
    fn sharing_a_prompt_saves_what_arithmetic_says() {
        let network = Network::of(&stack(Size::Full).unwrap()["reciprocate"].config);
        let shared = Load::after(0, 600, 0).and(Load::after(600, 150, 0).times(50));
        let apart = Load::after(0, 750, 0).times(50);
        let [shared, apart] = [shared, apart].map(|load| network.operations(load) / 1e12);
        assert!((shared - 94.0).abs() < 1.5 && (apart - 429.0).abs() < 4.0, "{shared} {apart}");
        assert_eq!(network.head, 0.0);
    }
}
