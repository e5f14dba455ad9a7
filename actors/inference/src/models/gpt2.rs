//! GPT-2: Radford et al., "Language Models are Unsupervised Multitask Learners", as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/gpt2/modeling_gpt2.py>.

use candle_core::Result;
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{
    CausalLm, Network,
    decoder::{self, Activation, Block, Decoder, FeedForward, Norm, Place, conv1d},
    parse,
};
use crate::ops::Heads;

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    load(&tensors, &parse(config)?).map(Network::CausalLm)
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    /// Whether the head is the embeddings again, as it is where nothing is said.
    #[serde(default = "decoder::yes")]
    pub(crate) tie_word_embeddings: bool,
    pub(crate) n_positions: usize,
    pub(crate) n_embd: usize,
    pub(crate) n_layer: usize,
    pub(crate) n_head: usize,
    /// Four times `n_embd` where it is not said.
    pub(crate) n_inner: Option<usize>,
    pub(crate) activation_function: Activation,
    pub(crate) layer_norm_epsilon: f64,
    /// Whether scores are divided by the root of a head's size.
    #[serde(default = "decoder::yes")]
    pub(crate) scale_attn_weights: bool,
    /// Whether they are divided by the number of the layer too, counted from 1.
    #[serde(default)]
    pub(crate) scale_attn_by_inverse_layer_idx: bool,
}

impl Config {
    fn scale(&self, heads: Heads, layer: usize) -> f32 {
        let scale = if self.scale_attn_weights { heads.inverse_root() } else { 1.0 };
        if self.scale_attn_by_inverse_layer_idx { scale / (layer + 1) as f32 } else { scale }
    }
}

fn block(vb: &VarBuilder<'_>, config: &Config, heads: Heads, layer: usize) -> Result<Block> {
    let hidden = config.n_embd;
    let wide = config.n_inner.unwrap_or(4 * hidden);
    let Activation::GeluNew = config.activation_function;
    Ok(Block {
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_1"))?,
        qkv: conv1d(hidden, 3 * hidden, vb.pp("attn.c_attn"))?,
        attention_output: conv1d(hidden, hidden, vb.pp("attn.c_proj"))?,
        scale: config.scale(heads, layer),
        window: None,
        feed_forward_norm: Some(Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_2"))?),
        feed_forward: FeedForward::Gelu {
            input: conv1d(hidden, wide, vb.pp("mlp.c_fc"))?,
            output: conv1d(wide, hidden, vb.pp("mlp.c_proj"))?,
        },
    })
}

/// Takes the network out of a checkpoint, whether its names carry the prefix `transformer.` or not.
pub(crate) fn load(tensors: &VarBuilder<'_>, config: &Config) -> Result<CausalLm> {
    let vb = decoder::body(tensors);
    let hidden = config.n_embd;
    let heads = Heads::over(hidden, config.n_head)?;
    let words = candle_nn::embedding(config.vocab_size, hidden, vb.pp("wte"))?;
    let head = decoder::head(&words, config.tie_word_embeddings, tensors)?;
    let body = Decoder {
        words,
        typed: false,
        embedding_scale: 1.0,
        place: Place::Learned(candle_nn::embedding(config.n_positions, hidden, vb.pp("wpe"))?),
        blocks: (0..config.n_layer).map(|i| block(&vb.pp("h").pp(i), config, heads, i)).collect::<Result<_>>()?,
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_f"))?,
        output_scale: 1.0,
        heads,
        context: config.n_positions,
    };
    Ok(CausalLm::new(body, head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{
        decoder::tests::assert_keeps_its_word,
        parity::{Fixture, assert_missing_tensors_are_named},
    };

    const FIXTURE: Fixture = Fixture { name: "gpt2", build };

    #[test]
    fn rewards_and_logits_equal_the_references() {
        FIXTURE.assert_dpo_golden("dpo_gpt2");
    }

    #[test]
    fn rows_are_independent_and_pasts_exact() {
        let Network::CausalLm(model) = FIXTURE.network() else { panic!("a language model") };
        assert_keeps_its_word(&*model.body, 600, 256);
    }

    #[test]
    fn missing_tensors_are_named() {
        assert_missing_tensors_are_named(&FIXTURE, &["transformer.wpe.weight", "transformer.h.1.mlp.c_proj.bias"]);
    }

    #[test]
    fn the_scale_of_scores_follows_the_config() {
        let mut config: Config = parse(&FIXTURE.config()).unwrap();
        let heads = Heads::over(32, 2).unwrap();
        assert_eq!(config.scale(heads, 1), 0.25);
        config.scale_attn_by_inverse_layer_idx = true;
        assert_eq!(config.scale(heads, 1), 0.125);
        config.scale_attn_weights = false;
        assert_eq!(config.scale(heads, 3), 0.25);
    }
}
