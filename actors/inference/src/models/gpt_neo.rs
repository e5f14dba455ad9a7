//! GPT-Neo: Black et al., <https://doi.org/10.5281/zenodo.5297715>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/gpt_neo/modeling_gpt_neo.py>.
//!
//! Scores are not scaled, and local layers look back over a window.

use std::num::NonZeroUsize;

use candle_core::Result;
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{
    CausalLm, Network,
    decoder::{self, Activation, Block, Decoder, FeedForward, Norm, Place},
    parse, side_by_side,
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
    pub(crate) max_position_embeddings: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_heads: usize,
    /// Four times `hidden_size` where it is not said.
    pub(crate) intermediate_size: Option<usize>,
    pub(crate) activation_function: Activation,
    pub(crate) layer_norm_epsilon: f64,
    /// Keys a local layer sees, a token's own included.
    pub(crate) window_size: NonZeroUsize,
    /// Runs of kinds and how often each run comes, until there are as many as layers.
    pub(crate) attention_types: Vec<(Vec<Reach>, usize)>,
}

/// How far back a layer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    Global,
    Local,
}

impl Config {
    fn reaches(&self) -> Result<Vec<Reach>> {
        // Taken one by one, so that a run repeated without end costs nothing.
        let runs = self.attention_types.iter().filter(|(run, _)| !run.is_empty());
        let reaches = runs.flat_map(|(run, times)| std::iter::repeat_n(run, *times).flatten());
        let reaches: Vec<Reach> = reaches.copied().take(self.num_layers + 1).collect();
        if reaches.len() != self.num_layers {
            candle_core::bail!("config.json: `attention_types` are not for {} layers", self.num_layers);
        }
        Ok(reaches)
    }
}

fn block(vb: &VarBuilder<'_>, config: &Config, reach: Reach) -> Result<Block> {
    let hidden = config.hidden_size;
    let wide = config.intermediate_size.unwrap_or(4 * hidden);
    let Activation::GeluNew = config.activation_function;
    let attention = vb.pp("attn.attention");
    let qkv = ["q_proj", "k_proj", "v_proj"].map(|name| decoder::linear_no_bias(hidden, hidden, attention.pp(name)));
    Ok(Block {
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_1"))?,
        qkv: side_by_side(&qkv.into_iter().collect::<Result<Vec<_>>>()?)?,
        attention_output: decoder::linear(hidden, hidden, attention.pp("out_proj"))?,
        scale: 1.0,
        window: match reach {
            Reach::Global => None,
            Reach::Local => Some(config.window_size),
        },
        feed_forward_norm: Some(Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_2"))?),
        feed_forward: FeedForward::Gelu {
            input: decoder::linear(hidden, wide, vb.pp("mlp.c_fc"))?,
            output: decoder::linear(wide, hidden, vb.pp("mlp.c_proj"))?,
        },
    })
}

/// Takes the network out of a checkpoint, whether its names carry the prefix `transformer.` or not.
pub(crate) fn load(tensors: &VarBuilder<'_>, config: &Config) -> Result<CausalLm> {
    let vb = decoder::body(tensors);
    let hidden = config.hidden_size;
    let words = candle_nn::embedding(config.vocab_size, hidden, vb.pp("wte"))?;
    let head = decoder::head(&words, config.tie_word_embeddings, tensors)?;
    let body = Decoder {
        words,
        typed: true,
        embedding_scale: 1.0,
        place: Place::Learned(candle_nn::embedding(config.max_position_embeddings, hidden, vb.pp("wpe"))?),
        blocks: (0..)
            .zip(config.reaches()?)
            .map(|(i, reach): (usize, _)| block(&vb.pp("h").pp(i), config, reach))
            .collect::<Result<_>>()?,
        norm: Norm::layer(hidden, config.layer_norm_epsilon, vb.pp("ln_f"))?,
        output_scale: 1.0,
        heads: Heads::over(hidden, config.num_heads)?,
        context: config.max_position_embeddings,
    };
    Ok(CausalLm::new(body, head))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::embedding::last_states;
    use crate::models::{
        Packed,
        decoder::tests::assert_keeps_its_word,
        parity::{Fixture, assert_close, assert_missing_tensors_are_named, floats, gating_layer, golden, ids_of},
    };

    const FIXTURE: Fixture = Fixture { name: "gptneo", build };

    /// The state of the last token of a text, as gating models read it.
    fn last_state(model: &CausalLm, batch: &Packed) -> Vec<f32> {
        last_states(model, batch).unwrap()[0].to_vec()
    }

    #[test]
    fn states_equal_the_references() {
        let model = FIXTURE.causal_lm();
        let golden = golden("inference/causal_golden");
        let rows = golden["gptneo"].as_array().unwrap();
        assert!(rows.len() >= 20);
        let ids: Vec<Vec<u32>> = rows.iter().map(|row| ids_of(&row["ids"])).collect();
        let together = last_states(&model, &Packed::new(ids.iter().map(Vec::as_slice))).unwrap();
        for (row, state) in rows.iter().zip(&together) {
            assert_close(state, &floats(&row["last_state"]));
        }
        for row in rows {
            assert_close(&last_state(&model, &Packed::new([&ids_of(&row["ids"])[..]])), &floats(&row["last_state"]));
        }
    }

    /// The scores of the reference's gating model before its first step of training. The tokenizer of the parity set
    /// hands token types to the network.
    #[test]
    fn gating_scores_equal_the_references() {
        let model = FIXTURE.causal_lm();
        let step = &golden("gating")["gptneo"][0];
        let mut ids = FIXTURE.encode(step["message"].as_str().unwrap());
        ids.truncate(128);
        let types = vec![0; ids.len()];
        let state = last_state(&model, &Packed::typed([(&ids[..], &types[..])]));
        let state = Tensor::new(state, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let scores = crate::ops::linear(&gating_layer("gptneo"), &state).unwrap();
        assert_close(&scores.squeeze(0).unwrap().to_vec1().unwrap(), &floats(&step["scores"]));
    }

    #[test]
    fn rows_are_independent_and_pasts_exact() {
        assert_keeps_its_word(&*FIXTURE.causal_lm().body, 600, 128);
    }

    #[test]
    fn missing_tensors_are_named() {
        assert_missing_tensors_are_named(&FIXTURE, &["wpe.weight", "h.1.attn.attention.k_proj.weight"]);
    }

    #[test]
    fn kinds_of_layers_are_as_many_as_layers() {
        let mut config: Config = parse(&FIXTURE.config()).unwrap();
        assert_eq!(config.reaches().unwrap(), [Reach::Global, Reach::Local]);
        config.attention_types = vec![(vec![Reach::Global, Reach::Local], usize::MAX)];
        assert!(config.reaches().unwrap_err().to_string().contains("not for 2 layers"));
    }
}
