//! BTLM: Dey et al., <https://arxiv.org/abs/2309.11568>. The layout of GPT-2 with ALiBi (Press et al.,
//! <https://arxiv.org/abs/2108.12409>), SwiGLU (Shazeer, <https://arxiv.org/abs/2002.05202>) and the maximal update
//! parametrisation (Yang et al., <https://arxiv.org/abs/2203.03466>), whose constants all stand in `config.json`.
//! JAIS (Sengupta et al., <https://arxiv.org/abs/2308.16149>) is the same network with other names in its config; both
//! are described in <https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/jais.py>.

use candle_core::Result;
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{
    CausalLm, Network,
    decoder::{self, Block, Decoder, FeedForward, Norm, Place, conv1d},
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
    pub(crate) n_inner: usize,
    pub(crate) activation_function: Activation,
    pub(crate) position_embedding_type: PositionEmbedding,
    pub(crate) layer_norm_epsilon: f64,
    #[serde(alias = "embeddings_scale")]
    pub(crate) mup_embeddings_scale: f64,
    /// Scores are divided by a head's size when true, else by its root.
    #[serde(alias = "scale_qk_dot_by_d")]
    pub(crate) mup_scale_qk_dot_by_d: bool,
    /// Whether they are divided by the number of the layer too, counted from 1.
    #[serde(default)]
    pub(crate) scale_attn_by_inverse_layer_idx: bool,
    /// BTLM multiplies logits by the product of these two.
    pub(crate) mup_output_alpha: Option<f64>,
    pub(crate) mup_width_scale: Option<f64>,
    /// JAIS multiplies logits by this.
    pub(crate) width_scale: Option<f64>,
    pub(crate) alibi_scaling: Option<AlibiScaling>,
}

/// Activations a checkpoint of this family may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    /// The gated one.
    Swiglu,
}

/// How a token knows its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PositionEmbedding {
    /// By a penalty on scores for distance.
    Alibi,
}

/// How slopes flatten so that rows may be longer than those the network was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct AlibiScaling {
    /// Slopes are divided by this.
    pub(crate) factor: Option<f32>,
    /// Without a factor, the slopes of a row longer than this are divided by how many times longer it is.
    pub(crate) train_seq_len: Option<usize>,
}

impl Config {
    fn scale(&self, heads: Heads, layer: usize) -> f32 {
        let scale = if self.mup_scale_qk_dot_by_d { 1.0 / heads.size as f32 } else { heads.inverse_root() };
        if self.scale_attn_by_inverse_layer_idx { scale / (layer + 1) as f32 } else { scale }
    }

    fn output_scale(&self) -> Result<f64> {
        match (self.width_scale, self.mup_output_alpha, self.mup_width_scale) {
            (Some(width_scale), ..) => Ok(width_scale),
            (None, Some(alpha), Some(width_scale)) => Ok(alpha * width_scale),
            _ => candle_core::bail!(
                "config.json: neither `width_scale` nor both of `mup_output_alpha` and `mup_width_scale`"
            ),
        }
    }

    /// Slopes, and the longest row they are for. Where slopes would change with the length of a row, that is the length
    /// from which they do: beyond it no two rows could share what they begin with.
    fn slopes(&self) -> Result<(Vec<f32>, usize)> {
        let slopes = alibi_slopes(self.n_head);
        let Some(AlibiScaling { factor, train_seq_len }) = self.alibi_scaling else {
            return Ok((slopes, self.n_positions));
        };
        match (factor, train_seq_len) {
            (Some(factor), _) => Ok((slopes.iter().map(|slope| slope / factor).collect(), self.n_positions)),
            (None, Some(trained)) => Ok((slopes, trained.min(self.n_positions))),
            (None, None) => candle_core::bail!("config.json: `alibi_scaling` has neither `factor` nor `train_seq_len`"),
        }
    }
}

/// For a power of two, the series that begins with its own ratio, `2^(-8/n)`; for another number, the series of the power
/// below and then every second slope of the series of the power above.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let below = 1 << heads.max(1).ilog2();
    let series = |of: usize| (1..=of).map(move |i| (-8.0 * i as f64 / of as f64).exp2() as f32);
    series(below).chain(series(2 * below).step_by(2)).take(heads).collect()
}

fn block(vb: &VarBuilder<'_>, config: &Config, heads: Heads, layer: usize) -> Result<Block> {
    let (hidden, wide, mlp) = (config.n_embd, config.n_inner, vb.pp("mlp"));
    let Activation::Swiglu = config.activation_function;
    // c_fc2 is the gate.
    let gate_up = [conv1d(hidden, wide, mlp.pp("c_fc2"))?, conv1d(hidden, wide, mlp.pp("c_fc"))?];
    Ok(Block {
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_1"))?,
        qkv: conv1d(hidden, 3 * hidden, vb.pp("attn.c_attn"))?,
        attention_output: conv1d(hidden, hidden, vb.pp("attn.c_proj"))?,
        scale: config.scale(heads, layer),
        window: None,
        feed_forward_norm: Some(Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_2"))?),
        feed_forward: FeedForward::gated(gate_up, conv1d(wide, hidden, mlp.pp("c_proj"))?)?,
    })
}

/// Takes the network out of a checkpoint. `relative_pe.slopes`, which some have, are computed instead.
pub(crate) fn load(tensors: &VarBuilder<'_>, config: &Config) -> Result<CausalLm> {
    let PositionEmbedding::Alibi = config.position_embedding_type;
    let vb = decoder::body(tensors);
    let hidden = config.n_embd;
    let heads = Heads::over(hidden, config.n_head)?;
    let words = candle_nn::embedding(config.vocab_size, hidden, vb.pp("wte"))?;
    let head = decoder::head(&words, config.tie_word_embeddings, tensors)?;
    let (slopes, context) = config.slopes()?;
    let body = Decoder {
        words,
        typed: false,
        embedding_scale: config.mup_embeddings_scale,
        place: Place::Alibi(slopes),
        blocks: (0..config.n_layer).map(|i| block(&vb.pp("h").pp(i), config, heads, i)).collect::<Result<_>>()?,
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_f"))?,
        output_scale: config.output_scale()?,
        heads,
        context,
    };
    Ok(CausalLm::new(body, head))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::models::{
        decoder::tests::{assert_keeps_its_word, logits},
        parity::{Fixture, assert_close, assert_missing_tensors_are_named},
    };

    const FIXTURE: Fixture = Fixture { name: "btlm", build };

    /// The fixture's config with some keys set, or taken away where the value is null.
    fn config_with(changes: &[(&str, Value)]) -> Vec<u8> {
        let mut config: Value = serde_json::from_slice(&FIXTURE.config()).unwrap();
        let keys = config.as_object_mut().unwrap();
        for (key, value) in changes {
            match value {
                Value::Null => keys.remove(*key),
                value => keys.insert((*key).to_owned(), value.clone()),
            };
        }
        serde_json::to_vec(&config).unwrap()
    }

    fn loaded_with(changes: &[(&str, Value)]) -> Result<CausalLm> {
        load(&FIXTURE.tensors(), &parse(&config_with(changes))?)
    }

    #[test]
    fn rewards_and_logits_equal_the_references() {
        FIXTURE.assert_dpo_golden("dpo_btlm");
    }

    #[test]
    fn rows_are_independent_and_pasts_exact() {
        let Network::CausalLm(model) = FIXTURE.network() else { panic!("a language model") };
        assert_keeps_its_word(&*model.body, 600, 512);
    }

    #[test]
    fn missing_tensors_are_named() {
        assert_missing_tensors_are_named(&FIXTURE, &["transformer.wte.weight", "transformer.h.2.mlp.c_fc2.weight"]);
    }

    #[test]
    fn jais_names_its_constants_otherwise() {
        let jais = loaded_with(&[
            ("mup_embeddings_scale", Value::Null),
            ("embeddings_scale", json!(14.6)),
            ("mup_scale_qk_dot_by_d", Value::Null),
            ("scale_qk_dot_by_d", json!(true)),
            ("mup_output_alpha", Value::Null),
            ("mup_width_scale", Value::Null),
            ("width_scale", json!(2.22 * 0.1)),
        ]);
        let ids: Vec<u32> = (5..30).collect();
        assert_close(&logits(&jais.unwrap(), &ids), &logits(&loaded_with(&[]).unwrap(), &ids));
    }

    #[test]
    fn every_constant_comes_from_the_config() {
        let ids: Vec<u32> = (5..30).collect();
        let plain = logits(&loaded_with(&[]).unwrap(), &ids);
        for (key, value) in [
            ("mup_embeddings_scale", json!(10.0)),
            ("mup_scale_qk_dot_by_d", json!(false)),
            ("mup_output_alpha", json!(2.0)),
            ("mup_width_scale", json!(0.2)),
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("alibi_scaling", json!({"type": "linear", "factor": 2.0})),
        ] {
            let other = logits(&loaded_with(&[(key, value)]).unwrap(), &ids);
            assert!(plain.iter().zip(&other).any(|(a, b)| (a - b).abs() > 1e-3), "{key} changes nothing");
        }
        for key in ["mup_embeddings_scale", "mup_output_alpha", "n_inner"] {
            let error = loaded_with(&[(key, Value::Null)]).err().unwrap().to_string();
            assert!(error.contains(key), "{error}");
        }
        let error = loaded_with(&[("position_embedding_type", json!("learned"))]).err().unwrap().to_string();
        assert!(error.contains("learned"), "{error}");
    }

    #[test]
    fn rows_end_where_slopes_would_change() {
        let scaled = loaded_with(&[("alibi_scaling", json!({"type": "linear", "train_seq_len": 100}))]).unwrap();
        assert_eq!(scaled.body.context_tokens(), 100);
        let ids: Vec<u32> = (5..30).collect();
        assert_close(&logits(&scaled, &ids), &logits(&loaded_with(&[]).unwrap(), &ids));
        let error = loaded_with(&[("alibi_scaling", json!({"type": "linear"}))]).err().unwrap().to_string();
        assert!(error.contains("train_seq_len"), "{error}");
    }

    #[test]
    fn slopes_of_any_number_of_heads() {
        assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015_625, 0.003_906_25]);
        assert_eq!(alibi_slopes(1), [0.003_906_25]);
        let six = alibi_slopes(6);
        assert_eq!(six[..4], alibi_slopes(4));
        assert_eq!(six[4..], [0.5, 0.125]);
        assert_eq!(alibi_slopes(32).len(), 32);
    }
}
