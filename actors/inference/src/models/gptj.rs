//! GPT-J: Wang & Komatsuzaki, <https://github.com/kingoflolz/mesh-transformer-jax>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/gptj/modeling_gptj.py>.
//!
//! Attention and feed-forward stand side by side behind one norm, and rotary embedding turns the first values of each head.
//! What the checkpoint has for a head says what the network is for.

use candle_core::Result;
use candle_nn::{Linear, VarBuilder};
use serde::Deserialize;

use super::{
    CausalClassifier, CausalLm, Network, Reads, RewardHead,
    decoder::{self, Activation, Block, Decoder, FeedForward, Norm, Place},
    parse, side_by_side,
};
use crate::ops::{Heads, Pairing, Rotary};

/// What GPT-J turns its pairs by; its config has no key for it.
const ROTARY_BASE: f32 = 10_000.0;

/// Makes the network from its `config.json` and its tensors. A tensor `score` is the head of sequence classification,
/// `v_head` that of the reward model of Dahoas, which lies beside a language-model head; else there is only the latter.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    let config: Config = parse(config)?;
    let body = load(&tensors, &config)?;
    if tensors.contains_tensor("score.weight") {
        let reads = config.pad_token_id.map_or(Reads::Last, Reads::CountWithout);
        let head = RewardHead { linear: reward(&tensors, "score", &config)?, reads };
        // `reward/reciprocate.py` hands the network all its tokenizer says, types included if there are any; the others
        // hand it ids and mask.
        return Ok(Network::CausalClassifier(CausalClassifier::new(Decoder { typed: true, ..body }, head)));
    }
    if tensors.contains_tensor("v_head.weight") {
        let Some(end) = config.eos_token_id else {
            candle_core::bail!("config.json: no `eos_token_id`, and `v_head` reads the token before it");
        };
        let head = RewardHead { linear: reward(&tensors, "v_head", &config)?, reads: Reads::BeforeFirst(end) };
        return Ok(Network::CausalClassifier(CausalClassifier::new(body, head)));
    }
    let head = decoder::linear(config.n_embd, config.vocab_size, tensors.pp("lm_head"))?;
    Ok(Network::CausalLm(CausalLm::new(body, head)))
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) n_positions: usize,
    pub(crate) n_embd: usize,
    pub(crate) n_layer: usize,
    pub(crate) n_head: usize,
    /// Four times `n_embd` where it is not said.
    pub(crate) n_inner: Option<usize>,
    /// Values of each head that are turned.
    pub(crate) rotary_dim: usize,
    pub(crate) activation_function: Activation,
    pub(crate) layer_norm_epsilon: f64,
    pub(crate) pad_token_id: Option<u32>,
    pub(crate) eos_token_id: Option<u32>,
}

/// A head without bias; as many labels as it has rows.
fn reward(tensors: &VarBuilder<'_>, name: &str, config: &Config) -> Result<Linear> {
    let weight = tensors.get_unchecked(&format!("{name}.weight"))?;
    match weight.dims2() {
        Ok((_, hidden)) if hidden == config.n_embd => Ok(Linear::new(weight, None)),
        _ => candle_core::bail!("{name}.weight has shape {:?}, not [labels, {}]", weight.dims(), config.n_embd),
    }
}

fn block(vb: &VarBuilder<'_>, config: &Config, heads: Heads) -> Result<Block> {
    let hidden = config.n_embd;
    let wide = config.n_inner.unwrap_or(4 * hidden);
    let Activation::GeluNew = config.activation_function;
    let attention = vb.pp("attn");
    let qkv = ["q_proj", "k_proj", "v_proj"].map(|name| decoder::linear_no_bias(hidden, hidden, attention.pp(name)));
    Ok(Block {
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_1"))?,
        qkv: side_by_side(&qkv.into_iter().collect::<Result<Vec<_>>>()?)?,
        attention_output: decoder::linear_no_bias(hidden, hidden, attention.pp("out_proj"))?,
        scale: heads.inverse_root(),
        window: None,
        feed_forward_norm: None,
        feed_forward: FeedForward::Gelu {
            input: decoder::linear(hidden, wide, vb.pp("mlp.fc_in"))?,
            output: decoder::linear(wide, hidden, vb.pp("mlp.fc_out"))?,
        },
    })
}

/// Takes the body out of a checkpoint, whether its names carry the prefix `transformer.` or not.
pub(crate) fn load(tensors: &VarBuilder<'_>, config: &Config) -> Result<Decoder> {
    let vb = decoder::body(tensors);
    let hidden = config.n_embd;
    let heads = Heads::over(hidden, config.n_head)?;
    let (turned, positions) = (config.rotary_dim, config.n_positions);
    let rotary = Rotary::new(ROTARY_BASE, heads.size, turned, Pairing::Interleaved, positions, vb.device())?;
    Ok(Decoder {
        words: candle_nn::embedding(config.vocab_size, hidden, vb.pp("wte"))?,
        typed: false,
        embedding_scale: 1.0,
        place: Place::Rotary(rotary),
        blocks: (0..config.n_layer).map(|i| block(&vb.pp("h").pp(i), config, heads)).collect::<Result<_>>()?,
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_f"))?,
        output_scale: 1.0,
        heads,
        context: config.n_positions,
    })
}

#[cfg(test)]
mod tests;
