//! What the bidirectional networks share: layers that normalise after attention and after the feed-forward, as Vaswani et
//! al. drew them, <https://arxiv.org/abs/1706.03762>; and [`Body`], the whole of a network whose positions are learned
//! rows. A network's own file says how its tensors are called, how positions count, and what is added to scores.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder};
use serde::Deserialize;

use super::{Packed, side_by_side};
use crate::ops::{self, Attention, Bias, Heads, Then};

/// What `config.json` says of every network of this kind.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: Activation,
    pub(crate) max_position_embeddings: usize,
    /// Absent where the network does not tell types apart.
    #[serde(default)]
    pub(crate) type_vocab_size: usize,
    pub(crate) layer_norm_eps: f64,
    #[serde(default)]
    pub(crate) position_embedding_type: PositionEmbedding,
    /// The labels of a classification head; two where the file is silent, as in the reference.
    #[serde(default = "two_labels")]
    pub(crate) id2label: BTreeMap<String, String>,
}

/// Activations a checkpoint of this kind may name. There is one today; another is an error, never a silent likeness.
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

/// What a family of checkpoints calls the tensors of a layer's attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) qkv: [&'static str; 3],
    pub(crate) output: &'static str,
    pub(crate) norm: &'static str,
}

/// Which row of the position embeddings a token takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    /// That of its place in its row.
    Placed,
    /// RoBERTa's count: other ids take the rows after `padding`, in order; an id that is padding takes row `padding` and
    /// does not count.
    Counted {
        /// The id that pads, and the number of its row.
        padding: u32,
    },
}

/// The layers of a network.
#[derive(Debug)]
pub(crate) struct Layers(Vec<Layer>);

/// Embeddings and layers of a network whose positions are learned rows.
#[derive(Debug)]
pub(crate) struct Body {
    words: Embedding,
    position_rows: Embedding,
    positions: Positions,
    /// The row of token type 0: the only type a single text has.
    token_type: Option<Tensor>,
    norm: LayerNorm,
    layers: Layers,
    heads: Heads,
    max_tokens: usize,
    device: Device,
}

#[derive(Debug)]
pub(crate) struct Layer {
    /// Query, key and value in one product.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

fn two_labels() -> BTreeMap<String, String> {
    ["0", "1"].map(|label| (label.to_owned(), format!("LABEL_{label}"))).into()
}

// === impl Names ===

impl Names {
    /// As the first of them calls them.
    pub(crate) const BERT: Self = Self {
        qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
        output: "attention.output.dense",
        norm: "attention.output.LayerNorm",
    };
}

// === impl Layers ===

impl Layers {
    /// `vb` is where the layers are numbered.
    pub(crate) fn load(vb: &VarBuilder<'_>, config: &Config, names: Names) -> Result<Self> {
        (0..config.num_hidden_layers).map(|i| Layer::load(&vb.pp(i), config, names)).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.0.iter()
    }

    /// The states of the tokens `wanted`, or of all, after the last layer. `attend` gets the number of a layer and its
    /// `[tokens, query | key | value]`.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        wanted: Option<&Tensor>,
        attend: impl Fn(usize, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        for (i, layer) in self.0.iter().enumerate() {
            let mut attended = attend(i, &ops::linear(&layer.qkv, &x)?)?;
            // Behind the last attention a state asks nothing of the others: only those wanted are computed.
            if let (Some(wanted), true) = (wanted, i + 1 == self.0.len()) {
                (attended, x) = (attended.index_select(wanted, 0)?, x.index_select(wanted, 0)?);
            }
            x = layer.finish(&attended, &x)?;
        }
        Ok(x)
    }
}

// === impl Layer ===

impl Layer {
    fn load(vb: &VarBuilder<'_>, config: &Config, names: Names) -> Result<Self> {
        // The only kind there is; a new one makes this line refuse to compile until it is computed.
        let Activation::Gelu = config.hidden_act;
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let parts = names
            .qkv
            .map(|name| candle_nn::linear(hidden, hidden, vb.pp(name)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            qkv: side_by_side(&parts)?,
            attention_output: candle_nn::linear(hidden, hidden, vb.pp(names.output))?,
            attention_norm: candle_nn::layer_norm(hidden, config.layer_norm_eps, vb.pp(names.norm))?,
            intermediate: candle_nn::linear(hidden, wide, vb.pp("intermediate.dense"))?,
            output: candle_nn::linear(wide, hidden, vb.pp("output.dense"))?,
            output_norm: candle_nn::layer_norm(hidden, config.layer_norm_eps, vb.pp("output.LayerNorm"))?,
        })
    }

    /// The layer's query, key and value of `x`, side by side.
    pub(crate) fn qkv(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(&self.qkv, x)
    }

    /// What follows the attention; `x` is what the layer began with.
    fn finish(&self, attended: &Tensor, x: &Tensor) -> Result<Tensor> {
        let x = self.attention_norm.forward(&ops::linear_then(&self.attention_output, attended, Then::Add(x))?)?;
        let wide = ops::linear_then(&self.intermediate, &x, Then::Gelu)?;
        self.output_norm.forward(&ops::linear_then(&self.output, &wide, Then::Add(&x))?)
    }
}

// === impl Body ===

impl Body {
    /// `vb` is where the checkpoint's `embeddings` and `encoder` are.
    pub(crate) fn load(vb: &VarBuilder<'_>, config: &Config, names: Names, positions: Positions) -> Result<Self> {
        let PositionEmbedding::Absolute = config.position_embedding_type;
        let (hidden, rows) = (config.hidden_size, config.max_position_embeddings);
        let embeddings = vb.pp("embeddings");
        let words = candle_nn::embedding(config.vocab_size, hidden, embeddings.pp("word_embeddings"))?;
        let token_type = match config.type_vocab_size {
            0 => None,
            types => {
                let rows = candle_nn::embedding(types, hidden, embeddings.pp("token_type_embeddings"))?;
                Some(rows.embeddings().get(0)?)
            }
        };
        Ok(Self {
            words,
            position_rows: candle_nn::embedding(rows, hidden, embeddings.pp("position_embeddings"))?,
            positions,
            token_type,
            norm: candle_nn::layer_norm(hidden, config.layer_norm_eps, embeddings.pp("LayerNorm"))?,
            layers: Layers::load(&vb.pp("encoder.layer"), config, names)?,
            heads: Heads::over(hidden, config.num_attention_heads)?,
            max_tokens: match positions {
                Positions::Placed => rows,
                Positions::Counted { padding } => rows.saturating_sub(padding as usize + 1),
            },
            device: vb.device().clone(),
        })
    }

    /// The longest row it takes.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// States of all tokens, `[tokens, hidden]`, with `bias` on every layer's scores.
    pub(crate) fn states(&self, batch: &Packed, bias: Bias<'_>) -> Result<Tensor> {
        self.run(batch, bias, None)
    }

    /// The state of each row's first token, `[rows, hidden]`.
    pub(crate) fn firsts(&self, batch: &Packed) -> Result<Tensor> {
        self.run(batch, Bias::None, Some(&firsts(batch, &self.device)?))
    }

    fn run(&self, batch: &Packed, bias: Bias<'_>, wanted: Option<&Tensor>) -> Result<Tensor> {
        let placed = batch.positions(0, self.max_tokens)?;
        let positions = match self.positions {
            Positions::Placed => placed,
            Positions::Counted { padding } => counted(batch, padding),
        };
        let (ids, positions) = (Tensor::new(batch.ids(), &self.device)?, Tensor::new(positions, &self.device)?);
        let mut x = ops::add(self.words.forward(&ids)?, &self.position_rows.forward(&positions)?)?;
        if let Some(token_type) = &self.token_type {
            x = ops::add(x, token_type)?;
        }
        let x = self.norm.forward(&x)?;
        let attention = Attention {
            heads: self.heads,
            causal: false,
            scale: self.heads.inverse_root(),
            bias,
            window: None,
            lengths: batch.lengths(),
        };
        let past = ops::no_rows(self.heads.kv_width(), x.dtype(), &self.device)?;
        self.layers.forward(x, wanted, |_, qkv| attention.forward(qkv, &past))
    }
}

/// Where each row of a batch begins; a head that judges a row reads its first token.
pub(crate) fn firsts(batch: &Packed, device: &Device) -> Result<Tensor> {
    let mut start = 0;
    let mut firsts = Vec::with_capacity(batch.lengths().len());
    for &length in batch.lengths() {
        if length == 0 {
            candle_core::bail!("a row without tokens has no first one to judge it by");
        }
        firsts.push(start as u32);
        start += length;
    }
    Tensor::new(firsts, device)
}

fn counted(batch: &Packed, padding: u32) -> Vec<u32> {
    let mut positions = Vec::with_capacity(batch.ids().len());
    let mut rest = batch.ids();
    for &length in batch.lengths() {
        let (row, after) = rest.split_at(length);
        rest = after;
        let mut last = padding;
        positions.extend(row.iter().map(|&id| {
            if id == padding {
                return padding;
            }
            last += 1;
            last
        }));
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parse;

    #[test]
    fn padding_in_a_text_does_not_count() {
        let batch = Packed::new([[0_u32, 7, 1, 9, 2].as_slice(), &[0, 2], &[]]);
        assert_eq!(counted(&batch, 1), [2, 3, 1, 4, 5, 2, 3]);
    }

    #[test]
    fn a_row_without_tokens_cannot_be_judged() {
        let error = firsts(&Packed::new([[1_u32].as_slice(), &[]]), &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("without tokens"), "{error}");
    }

    #[test]
    fn another_activation_is_refused_by_name() {
        let error = serde_json::from_str::<Activation>("\"gelu_new\"").unwrap_err().to_string();
        assert!(error.contains("gelu_new"), "{error}");
    }

    #[test]
    fn an_error_of_the_config_names_its_key() {
        let error = parse::<Config>(br#"{"vocab_size": 3}"#).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("hidden_size"), "{error}");
    }
}
