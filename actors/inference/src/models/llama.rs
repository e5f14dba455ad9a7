//! Llama as transformers stores it: Touvron et al., <https://arxiv.org/abs/2302.13971>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/llama/modeling_llama.py>.
//! [`super::llama_gguf`] reads the same network from llama.cpp's files.

use candle_core::Result;
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{
    CausalLm, Network,
    decoder::{self, Block, Decoder, FeedForward, Norm, Place},
    parse, side_by_side,
};
use crate::ops::{Heads, Pairing, Rotary};

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    load(&tensors, &parse(config)?).map(Network::CausalLm)
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// As many as query heads where it is not said.
    pub(crate) num_key_value_heads: Option<usize>,
    pub(crate) hidden_act: Activation,
    pub(crate) rms_norm_eps: f64,
    #[serde(default = "usual_base")]
    pub(crate) rope_theta: f32,
    /// Ways to stretch rotary embedding, none of which is computed here.
    pub(crate) rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) tie_word_embeddings: bool,
}

/// Activations a checkpoint of this family may name; that of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    Silu,
}

fn usual_base() -> f32 {
    10_000.0
}

impl Config {
    fn heads(&self) -> Result<Heads> {
        let heads = Heads::over(self.hidden_size, self.num_attention_heads)?;
        let key = self.num_key_value_heads.unwrap_or(heads.query);
        if key == 0 || !heads.query.is_multiple_of(key) {
            candle_core::bail!("config.json: {} query heads do not share {key} key heads", heads.query);
        }
        Ok(Heads { key, ..heads })
    }
}

fn block(vb: &VarBuilder<'_>, config: &Config, heads: Heads) -> Result<Block> {
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let Activation::Silu = config.hidden_act;
    let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
    let of_keys = heads.key * heads.size;
    let qkv = [("q_proj", hidden), ("k_proj", of_keys), ("v_proj", of_keys)]
        .map(|(name, width)| decoder::linear_no_bias(hidden, width, attention.pp(name)));
    let widening = |name| decoder::linear_no_bias(hidden, wide, mlp.pp(name));
    Ok(Block {
        norm: Norm::root_mean_square(hidden, config.rms_norm_eps, vb.pp("input_layernorm"))?,
        qkv: side_by_side(&qkv.into_iter().collect::<Result<Vec<_>>>()?)?,
        attention_output: decoder::linear_no_bias(hidden, hidden, attention.pp("o_proj"))?,
        scale: heads.inverse_root(),
        window: None,
        feed_forward_norm: Some(Norm::root_mean_square(
            hidden,
            config.rms_norm_eps,
            vb.pp("post_attention_layernorm"),
        )?),
        feed_forward: FeedForward::gated(
            [widening("gate_proj")?, widening("up_proj")?],
            decoder::linear_no_bias(wide, hidden, mlp.pp("down_proj"))?,
        )?,
    })
}

/// Takes the network out of a checkpoint.
pub(crate) fn load(tensors: &VarBuilder<'_>, config: &Config) -> Result<CausalLm> {
    if let Some(scaling) = &config.rope_scaling {
        candle_core::bail!("config.json: `rope_scaling` {scaling} is not supported; only models without it are");
    }
    let vb = tensors.pp("model");
    let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
    let heads = config.heads()?;
    let context = config.max_position_embeddings;
    let rotary = Rotary::new(config.rope_theta, heads.size, heads.size, Pairing::Halves, context, vb.device())?;
    let words = candle_nn::embedding(vocabulary, hidden, vb.pp("embed_tokens"))?;
    let head = decoder::head(&words, config.tie_word_embeddings, tensors)?;
    let body = Decoder {
        words,
        typed: false,
        embedding_scale: 1.0,
        place: Place::Rotary(rotary),
        blocks: (0..config.num_hidden_layers)
            .map(|i| block(&vb.pp("layers").pp(i), config, heads))
            .collect::<Result<_>>()?,
        norm: Norm::root_mean_square(hidden, config.rms_norm_eps, vb.pp("norm"))?,
        output_scale: 1.0,
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
        decoder::tests::{assert_keeps_its_word, continued, logits},
        parity::{Fixture, assert_close, assert_missing_tensors_are_named, floats, golden, ids_of},
    };

    const FIXTURE: Fixture = Fixture { name: "llama", build };

    #[test]
    fn logits_and_continuations_equal_the_references() {
        let model = FIXTURE.causal_lm();
        let golden = golden("inference/causal_golden");
        let mut with_logits = 0;
        for row in golden["llama"].as_array().unwrap() {
            let (ids, new) = (ids_of(&row["ids"]), ids_of(&row["new"]));
            assert_eq!(continued(&model, &ids, new.len()), new);
            if !row["last_logits"].is_null() {
                assert_close(&logits(&model, &ids), &floats(&row["last_logits"]));
                with_logits += 1;
            }
        }
        assert_eq!(with_logits, 3);
    }

    #[test]
    fn rows_are_independent_and_pasts_exact() {
        assert_keeps_its_word(&*FIXTURE.causal_lm().body, 620, 4096);
    }

    #[test]
    fn missing_tensors_are_named() {
        assert_missing_tensors_are_named(&FIXTURE, &["lm_head.weight", "model.layers.1.self_attn.o_proj.weight"]);
    }

    #[test]
    fn what_the_config_asks_for_is_computed_or_refused() {
        let loaded_with = |key: &str, value: Value| {
            let mut config: Value = serde_json::from_slice(&FIXTURE.config()).unwrap();
            config[key] = value;
            load(&FIXTURE.tensors(), &parse(&serde_json::to_vec(&config).unwrap())?)
        };
        for (key, value, reason) in [
            ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "dynamic"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("num_key_value_heads", json!(3), "do not share 3"),
            ("num_attention_heads", json!(5), "into 5 heads"),
            // Grouped keys want narrower tensors than the file has.
            ("num_key_value_heads", json!(2), "k_proj"),
        ] {
            let error = loaded_with(key, value).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let tied = loaded_with("tie_word_embeddings", json!(true)).unwrap();
        let ids: Vec<u32> = (5..30).collect();
        assert_ne!(logits(&tied, &ids), logits(&FIXTURE.causal_lm(), &ids));
        let faster = loaded_with("rope_theta", json!(100.0)).unwrap();
        assert_ne!(logits(&faster, &ids), logits(&FIXTURE.causal_lm(), &ids));
    }
}
