//! Llama in a GGUF file: <https://arxiv.org/abs/2302.13971>, tensor names and layout as in
//! <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py>.
//!
//! Weights are dequantised to f32 when the file is loaded. Scoring runs hundreds of tokens through each weight, so the
//! products are bound by arithmetic, and there the f32 kernels of `gemm` are some thirty times faster than candle's
//! quantised ones (`benches/scoring.rs` prints both). The price is four bytes a weight: 540 MB for 135 million. Tied
//! embeddings are held once.

use std::io::{Read, Seek};

use candle_core::{Device, Result, Tensor, quantized::gguf_file};
use candle_nn::{Embedding, Linear, Module, RmsNorm};

use super::{CausalBody, CausalLm, Network, Packed, Past, nothing};
use crate::ops::{self, Attention, Bias, Heads, Rotary};

/// Makes the network from an open file.
pub(crate) fn build<R: Read + Seek>(content: &gguf_file::Content, reader: &mut R, device: &Device) -> Result<Network> {
    Ok(Network::CausalLm(Llama::load(content, reader, device)?))
}

/// What the metadata of the file says of the network, under keys `llama.*`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) block_count: usize,
    pub(crate) context_length: usize,
    pub(crate) embedding_length: usize,
    pub(crate) head_count: usize,
    pub(crate) head_count_kv: usize,
    pub(crate) rms_epsilon: f64,
    pub(crate) rope_freq_base: f32,
}

impl Config {
    pub(crate) fn from_metadata(content: &gguf_file::Content) -> Result<Self> {
        let find = |key: &str| content.metadata.get(&format!("llama.{key}"));
        let need = |key: &str| match find(key) {
            Some(value) => Ok(value),
            None => candle_core::bail!("the file's metadata has no `llama.{key}`"),
        };
        let size = |key: &str| Ok::<_, candle_core::Error>(need(key)?.to_u32()? as usize);
        let head_count = size("attention.head_count")?;
        let config = Self {
            block_count: size("block_count")?,
            context_length: size("context_length")?,
            embedding_length: size("embedding_length")?,
            head_count,
            head_count_kv: match find("attention.head_count_kv") {
                Some(count) => count.to_u32()? as usize,
                None => head_count,
            },
            rms_epsilon: need("attention.layer_norm_rms_epsilon")?.to_f32()?.into(),
            rope_freq_base: find("rope.freq_base").map_or(Ok(10_000.0), gguf_file::Value::to_f32)?,
        };
        let Self { embedding_length, head_count, head_count_kv, .. } = config;
        if head_count == 0 || head_count_kv == 0 || !head_count.is_multiple_of(head_count_kv) {
            candle_core::bail!("{head_count} query heads do not share {head_count_kv} key heads");
        }
        if !embedding_length.is_multiple_of(2 * head_count) {
            candle_core::bail!("a width of {embedding_length} does not divide into {head_count} heads of even size");
        }
        let head_size = embedding_length / head_count;
        if let Some(rotated) = find("rope.dimension_count").map(gguf_file::Value::to_u32).transpose()?
            && rotated as usize != head_size
        {
            candle_core::bail!("{rotated} rotated values in heads of {head_size}: only whole heads are supported");
        }
        if let Some(scaling) = find("rope.scaling.type")
            && scaling.to_string().is_ok_and(|kind| kind != "none")
        {
            candle_core::bail!("rotary scaling {scaling:?} is not supported");
        }
        Ok(config)
    }

    fn heads(&self) -> Heads {
        Heads { query: self.head_count, key: self.head_count_kv, size: self.embedding_length / self.head_count }
    }
}

/// The network on its device.
#[derive(Debug)]
pub(crate) struct Llama {
    config: Config,
    words: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    rotary: Rotary,
    device: Device,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    /// Query, key and value in one product.
    qkv: Linear,
    attention_output: Linear,
    ffn_norm: RmsNorm,
    /// Gate and up in one product.
    gate_up: Linear,
    down: Linear,
}

impl Layer {
    fn load<R: Read + Seek>(file: &mut Weights<'_, R>, index: usize, config: &Config) -> Result<Self> {
        let mut get = |name: &str| file.get(&format!("blk.{index}.{name}.weight"));
        let qkv = Tensor::cat(&[get("attn_q")?, get("attn_k")?, get("attn_v")?], 0)?;
        let gate_up = Tensor::cat(&[get("ffn_gate")?, get("ffn_up")?], 0)?;
        Ok(Self {
            attention_norm: RmsNorm::new(get("attn_norm")?, config.rms_epsilon),
            qkv: Linear::new(qkv, None),
            attention_output: Linear::new(get("attn_output")?, None),
            ffn_norm: RmsNorm::new(get("ffn_norm")?, config.rms_epsilon),
            gate_up: Linear::new(gate_up, None),
            down: Linear::new(get("ffn_down")?, None),
        })
    }

    /// The states after this layer, and the layer's queries, keys and values.
    fn forward(&self, x: &Tensor, rows: &Rows<'_>, past: &Tensor) -> Result<(Tensor, Tensor)> {
        let Heads { query, key, .. } = rows.attention.heads;
        let qkv = ops::linear(&self.qkv, &self.attention_norm.forward(x)?)?;
        let qkv = rows.rotary.rotate(qkv, query + key, rows.positions)?;
        let attended = rows.attention.forward(&qkv, past)?;
        let x = ops::add(ops::linear(&self.attention_output, &attended)?, x)?;
        let wide = ops::swiglu(&ops::linear(&self.gate_up, &self.ffn_norm.forward(&x)?)?)?;
        Ok((ops::add(ops::linear(&self.down, &wide)?, &x)?, qkv))
    }
}

/// What every layer needs to know of a batch.
struct Rows<'a> {
    attention: Attention<'a>,
    rotary: &'a Rotary,
    positions: &'a [u32],
}

/// The tensors of an open file.
struct Weights<'a, R> {
    content: &'a gguf_file::Content,
    reader: &'a mut R,
    device: &'a Device,
}

impl<R: Read + Seek> Weights<'_, R> {
    fn get(&mut self, name: &str) -> Result<Tensor> {
        self.content.tensor(self.reader, name, self.device)?.dequantize(self.device)
    }
}

impl Llama {
    /// Reads the network whose metadata `content` is from `reader`.
    pub(crate) fn load<R: Read + Seek>(
        content: &gguf_file::Content,
        reader: &mut R,
        device: &Device,
    ) -> Result<CausalLm> {
        let config = Config::from_metadata(content)?;
        let mut file = Weights { content, reader, device };
        let words = file.get("token_embd.weight")?;
        let head =
            if content.tensor_infos.contains_key("output.weight") { file.get("output.weight")? } else { words.clone() };
        let body = Self {
            words: Embedding::new(words, config.embedding_length),
            layers: (0..config.block_count)
                .map(|index| Layer::load(&mut file, index, &config))
                .collect::<Result<_>>()?,
            norm: RmsNorm::new(file.get("output_norm.weight")?, config.rms_epsilon),
            rotary: Rotary::new(config.rope_freq_base, config.heads().size, config.context_length, device)?,
            device: device.clone(),
            config,
        };
        Ok(CausalLm::new(body, Linear::new(head, None)))
    }

    /// Runs `batch` after `past`, handing each layer's queries, keys and values to `keep`.
    fn run(&self, batch: &Packed, past: &Past, mut keep: impl FnMut(Tensor) -> Result<()>) -> Result<Tensor> {
        let positions = batch.positions(past.tokens, self.config.context_length)?;
        let heads = self.config.heads();
        let rows = Rows {
            attention: Attention {
                heads,
                causal: true,
                scale: heads.inverse_root(),
                bias: Bias::None,
                window: None,
                lengths: batch.lengths(),
            },
            rotary: &self.rotary,
            positions: &positions,
        };
        let mut x = self.words.forward(&Tensor::new(batch.ids(), &self.device)?)?;
        for (layer, past) in self.layers.iter().zip(&past.layers) {
            let qkv;
            (x, qkv) = layer.forward(&x, &rows, past)?;
            keep(qkv)?;
        }
        Ok(x)
    }
}

impl CausalBody for Llama {
    fn context_tokens(&self) -> usize {
        self.config.context_length
    }

    fn no_past(&self) -> Result<Past> {
        let layer = nothing(self.config.heads().kv_width(), &self.device)?;
        Ok(Past { tokens: 0, layers: vec![layer; self.layers.len()] })
    }

    fn forward(&self, batch: &Packed, past: &Past) -> Result<Tensor> {
        self.run(batch, past, |_| Ok(()))
    }

    fn extend(&self, ids: &[u32], past: &Past) -> Result<(Tensor, Past)> {
        let heads = self.config.heads();
        let mut own = Vec::with_capacity(self.layers.len());
        let states = self.run(&Packed::new([ids]), past, |qkv| {
            own.push(qkv.narrow(1, heads.query_width(), heads.kv_width())?.contiguous()?);
            Ok(())
        })?;
        Ok((states, past.followed_by(ids.len(), own)?))
    }

    fn normalised(&self, states: &Tensor) -> Result<Tensor> {
        self.norm.forward(states)
    }
}

#[cfg(test)]
pub(crate) mod tests;
