//! MPNet: <https://arxiv.org/abs/2004.09297>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/mpnet/modeling_mpnet.py>.
//!
//! Every layer adds the same learned bias to its scores, by the distance of two tokens. Only the encoder: the pooler and
//! any head of the checkpoint are left in the file.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{
    Encoder, Network, Packed,
    encoder::{self, Body, Names, Positions},
    parse,
};
use crate::ops::Bias;

const NAMES: Names = Names {
    qkv: ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    output: "attention.attn.o",
    norm: "attention.LayerNorm",
};

/// The id that pads; the reference's code knows no other.
const PADDING: u32 = 1;

/// Classes of distances; the reference's code knows no other count. Half are for keys before the query.
const BUCKETS: usize = 32;

/// From here on all distances are of one class.
const FARTHEST: usize = 128;

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    Ok(Network::Encoder(Box::new(Mpnet::load(&tensors, &parse(config)?)?)))
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) body: encoder::Config,
    pub(crate) relative_attention_num_buckets: usize,
}

/// The network on its device.
#[derive(Debug)]
pub(crate) struct Mpnet {
    body: Body,
    /// For each head the bias of `key - query` from `-FARTHEST` to `FARTHEST`.
    bias: Vec<f32>,
}

// === impl Mpnet ===

impl Mpnet {
    /// Takes the encoder out of a checkpoint, whether its names carry the prefix `mpnet.` or not.
    pub(crate) fn load(vb: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let buckets = config.relative_attention_num_buckets;
        if buckets != BUCKETS {
            candle_core::bail!("relative_attention_num_buckets is {buckets}; only {BUCKETS} is supported");
        }
        let prefixed = vb.contains_tensor("mpnet.embeddings.word_embeddings.weight");
        let vb = if prefixed { vb.pp("mpnet") } else { vb.clone() };
        let body = Body::load(&vb, &config.body, NAMES, Positions::Counted { padding: PADDING })?;
        let learned = vb.get((BUCKETS, config.body.num_attention_heads), "encoder.relative_attention_bias.weight")?;
        let classes = Tensor::new(classes(), &Device::Cpu)?;
        let bias = learned.to_device(&Device::Cpu)?.t()?.contiguous()?.index_select(&classes, 1)?;
        Ok(Self { body, bias: bias.flatten_all()?.to_dtype(DType::F32)?.to_vec1()? })
    }
}

impl Encoder for Mpnet {
    fn max_tokens(&self) -> usize {
        self.body.max_tokens()
    }

    fn forward(&self, batch: &Packed) -> Result<Tensor> {
        self.body.states(batch, Bias::Table { values: &self.bias, reach: FARTHEST })
    }
}

/// The class of each distance `key - query` from `-FARTHEST` to `FARTHEST`: those of T5,
/// <https://arxiv.org/abs/1910.10683>. Near ones have one each, the others share them by their logarithm.
fn classes() -> Vec<u32> {
    const HALF: usize = BUCKETS / 2;
    const NEAR: usize = HALF / 2;
    let class = |distance: usize| {
        if distance < NEAR {
            return distance;
        }
        // In f32 and in this order, as the reference: what lies on the border of two classes falls on its side.
        let share = (distance as f32 / NEAR as f32).ln() / (FARTHEST as f32 / NEAR as f32).ln();
        (NEAR + (share * (HALF - NEAR) as f32) as usize).min(HALF - 1)
    };
    let before = (0..=FARTHEST).rev().map(class);
    let after = (1..=FARTHEST).map(|distance| HALF + class(distance));
    before.chain(after).map(|class| class as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parity::{
        Fixture, as_it_is, assert_close, assert_every_tensor_is_asked_for, assert_rows_are_their_own, embedding,
        floats, golden, texts,
    };

    const FIXTURE: Fixture = Fixture { name: "mpnet", build };

    #[test]
    fn embeddings_equal_the_references() {
        let mpnet = FIXTURE.encoder();
        let golden = golden("diversity_mpnet");
        for (text, expected) in texts("completions").iter().zip(golden["embeddings"].as_array().unwrap()) {
            // The reference cuts a long text: its first window.
            let ours = embedding(&*mpnet, &FIXTURE.windows(text, 128)[0]);
            assert_close(&ours, &floats(expected));
        }
    }

    /// Powers of two lie on the border of two classes.
    #[test]
    fn distances_fall_into_the_references_classes() {
        let classes = classes();
        let class = |distance: i64| classes[(distance + FARTHEST as i64) as usize];
        assert_eq!([0, -1, -7, -8, -11, -12, -15].map(class), [0, 1, 7, 8, 8, 9, 9]);
        assert_eq!([-16, -22, -23, -32, -64, -90, -91, -128].map(class), [10, 10, 11, 12, 14, 14, 15, 15]);
        assert_eq!([1, 8, 16, 128].map(class), [17, 24, 26, 31]);
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let mpnet = FIXTURE.encoder();
        assert_rows_are_their_own(|batch| mpnet.forward(batch).unwrap());
    }

    /// Two of the position rows belong to padding and are never a token's.
    #[test]
    fn a_row_too_long_is_an_error() {
        let mpnet = FIXTURE.encoder();
        assert_eq!(mpnet.forward(&Packed::new([[5_u32; 128].as_slice()])).unwrap().dims(), [128, 48]);
        let error = mpnet.forward(&Packed::new([[5_u32; 129].as_slice()])).unwrap_err().to_string();
        assert!(error.contains("129 tokens in a model of 128"), "{error}");
    }

    #[test]
    fn a_missing_tensor_is_named() {
        assert_every_tensor_is_asked_for(&FIXTURE, |name| name.starts_with("pooler."));
    }

    #[test]
    fn another_count_of_buckets_is_refused() {
        let change = |config: &mut serde_json::Value| config["relative_attention_num_buckets"] = 16.into();
        let error = FIXTURE.changed(change, as_it_is).err().unwrap().to_string();
        assert!(error.contains("is 16; only 32"), "{error}");
    }
}
