//! BERT: <https://arxiv.org/abs/1810.04805>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/bert/modeling_bert.py>.
//!
//! Only the encoder: the pooler and any head of the checkpoint are left in the file.

use candle_core::{Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder};
use serde::Deserialize;

use super::{Encoder, Network, Packed, nothing};
use crate::ops::{self, Attention, Bias, Heads};

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    let config: Config =
        serde_json::from_slice(config).map_err(|error| candle_core::Error::msg(format!("config.json: {error}")))?;
    Ok(Network::Encoder(Box::new(Bert::load(tensors, &config)?)))
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: Activation,
    pub(crate) max_position_embeddings: usize,
    pub(crate) type_vocab_size: usize,
    pub(crate) layer_norm_eps: f64,
    #[serde(default)]
    pub(crate) position_embedding_type: PositionEmbedding,
}

/// Activations a checkpoint of this family may name. There is one today; another is an error, never a silent likeness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    /// The exact one.
    Gelu,
}

/// How a token knows its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PositionEmbedding {
    /// By a learned row for each position.
    #[default]
    Absolute,
}

/// The network on its device.
#[derive(Debug)]
pub(crate) struct Bert {
    words: Embedding,
    positions: Embedding,
    /// The row of token type 0: the only type a single text has.
    token_type: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: Heads,
    max_tokens: usize,
    device: Device,
}

#[derive(Debug)]
struct Layer {
    /// Query, key and value in one product.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn load(vb: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let attention = vb.pp("attention");
        let parts = ["query", "key", "value"]
            .map(|name| candle_nn::linear(hidden, hidden, attention.pp("self").pp(name)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let weights: Vec<&Tensor> = parts.iter().map(Linear::weight).collect();
        let biases: Vec<&Tensor> = parts.iter().filter_map(Linear::bias).collect();
        Ok(Self {
            qkv: Linear::new(Tensor::cat(&weights, 0)?, Some(Tensor::cat(&biases, 0)?)),
            attention_output: candle_nn::linear(hidden, hidden, attention.pp("output.dense"))?,
            attention_norm: candle_nn::layer_norm(hidden, config.layer_norm_eps, attention.pp("output.LayerNorm"))?,
            intermediate: candle_nn::linear(hidden, wide, vb.pp("intermediate.dense"))?,
            output: candle_nn::linear(wide, hidden, vb.pp("output.dense"))?,
            output_norm: candle_nn::layer_norm(hidden, config.layer_norm_eps, vb.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, attention: &Attention<'_>, past: &Tensor) -> Result<Tensor> {
        let attended = attention.forward(&ops::linear(&self.qkv, x)?, past)?;
        let attended = ops::linear(&self.attention_output, &attended)?;
        let x = self.attention_norm.forward(&ops::add(attended, x)?)?;
        let wide = ops::gelu(ops::linear(&self.intermediate, &x)?)?;
        self.output_norm.forward(&ops::add(ops::linear(&self.output, &wide)?, &x)?)
    }
}

impl Bert {
    /// Takes the encoder out of a checkpoint, whether its names carry the prefix `bert.` or not, and whether its norms
    /// are called `weight` and `bias` or, as in the first checkpoints, `gamma` and `beta`.
    pub(crate) fn load(vb: VarBuilder<'_>, config: &Config) -> Result<Self> {
        let vb = if vb.contains_tensor("bert.embeddings.word_embeddings.weight") { vb.pp("bert") } else { vb };
        let vb = if vb.contains_tensor("embeddings.LayerNorm.gamma") {
            vb.rename_f(|name| {
                if !name.contains("LayerNorm") {
                    return name.to_owned();
                }
                name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            })
        } else {
            vb
        };
        // The only kinds there are; a new one makes these lines refuse to compile until it is computed.
        let Activation::Gelu = config.hidden_act;
        let PositionEmbedding::Absolute = config.position_embedding_type;
        let hidden = config.hidden_size;
        if config.num_attention_heads == 0 || !hidden.is_multiple_of(config.num_attention_heads) {
            candle_core::bail!("hidden_size {hidden} does not divide into {} heads", config.num_attention_heads);
        }
        let embeddings = vb.pp("embeddings");
        let token_types = candle_nn::embedding(config.type_vocab_size, hidden, embeddings.pp("token_type_embeddings"))?;
        let size = hidden / config.num_attention_heads;
        Ok(Self {
            words: candle_nn::embedding(config.vocab_size, hidden, embeddings.pp("word_embeddings"))?,
            positions: candle_nn::embedding(
                config.max_position_embeddings,
                hidden,
                embeddings.pp("position_embeddings"),
            )?,
            token_type: token_types.embeddings().get(0)?,
            norm: candle_nn::layer_norm(hidden, config.layer_norm_eps, embeddings.pp("LayerNorm"))?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&vb.pp("encoder.layer").pp(i), config))
                .collect::<Result<_>>()?,
            heads: Heads { query: config.num_attention_heads, key: config.num_attention_heads, size },
            max_tokens: config.max_position_embeddings,
            device: vb.device().clone(),
        })
    }
}

impl Encoder for Bert {
    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let positions = Tensor::new(batch.positions(0, self.max_tokens)?, &self.device)?;
        let ids = Tensor::new(batch.ids(), &self.device)?;
        let x = ops::add(self.words.forward(&ids)?, &self.positions.forward(&positions)?)?;
        let x = ops::add(x, &self.token_type)?;
        let mut x = self.norm.forward(&x)?;
        let attention = Attention {
            heads: self.heads,
            causal: false,
            scale: self.heads.inverse_root(),
            bias: Bias::None,
            window: None,
            lengths: batch.lengths(),
        };
        let past = nothing(self.heads.kv_width(), &self.device)?;
        for layer in &self.layers {
            x = layer.forward(&x, &attention, &past)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::DType;
    use candle_nn::VarMap;
    use serde_json::Value;

    use super::*;

    /// A tiny checkpoint with random weights.
    fn tiny() -> Bert {
        let config: Config = serde_json::from_value(serde_json::json!({
            "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 40, "hidden_act": "gelu", "max_position_embeddings": 40, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12
        }))
        .unwrap();
        let weights = VarMap::new();
        let vb = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
        let bert = Bert::load(vb, &config).unwrap();
        for tensor in weights.all_vars() {
            tensor.set(&Tensor::randn(0_f32, 0.3, tensor.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        bert
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let bert = tiny();
        let rows: Vec<Vec<u32>> = [7, 1, 40, 33].map(|n: u32| (0..n).map(|i| (i * 13 + n) % 50).collect()).into();
        let together = bert.forward(&Packed::new(rows.iter().map(Vec::as_slice))).unwrap();
        let mut start = 0;
        for row in &rows {
            let alone = bert.forward(&Packed::new([row.as_slice()])).unwrap();
            let difference = (together.narrow(0, start, row.len()).unwrap() - alone).unwrap();
            assert!(difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5);
            start += row.len();
        }
    }

    #[test]
    fn a_row_too_long_is_an_error() {
        let error = tiny().forward(&Packed::new([[1_u32; 41].as_slice()])).unwrap_err().to_string();
        assert!(error.contains("41 tokens in a model of 40"), "{error}");
    }

    #[test]
    fn another_activation_is_refused_by_name() {
        let error = serde_json::from_str::<Activation>("\"gelu_new\"").unwrap_err().to_string();
        assert!(error.contains("gelu_new"), "{error}");
    }

    /// Means of token states, scaled to length 1, as openvalidators 1.2.0 computes them with transformers 4.28 on this
    /// tiny checkpoint.
    #[test]
    fn states_equal_the_references() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/inference");
        let golden: Value = serde_json::from_slice(&std::fs::read(fixtures.join("bert_golden.json")).unwrap()).unwrap();
        let config: Config =
            serde_json::from_slice(&std::fs::read(fixtures.join("bert/config.json")).unwrap()).unwrap();
        let file = std::fs::read(fixtures.join("bert/model.safetensors")).unwrap();
        let vb = VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu).unwrap();
        let bert = Bert::load(vb, &config).unwrap();
        let mut compared = 0;
        for case in golden.as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let expected: Vec<f32> = serde_json::from_value(case["embedding"].clone()).unwrap();
            let states = bert.forward(&Packed::new([ids.as_slice()])).unwrap();
            let mean = states.mean(0).unwrap();
            let length = mean.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
            let ours: Vec<f32> = mean.broadcast_div(&length).unwrap().to_vec1().unwrap();
            for (ours, expected) in ours.iter().zip(&expected) {
                assert!((ours - expected).abs() < 2e-5 + 1e-5 * expected.abs(), "{ours} {expected}");
            }
            compared += 1;
        }
        assert!(compared >= 15, "only {compared} cases");
    }
}
