//! Llama in a GGUF file: <https://arxiv.org/abs/2302.13971>, tensor names and layout as in
//! <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py>.
//!
//! Weights are dequantised when the file is loaded. Scoring runs hundreds of tokens through each weight, so the
//! products are bound by arithmetic, and there the f32 kernels of `gemm` are some thirty times faster than candle's
//! quantised ones (`benches/scoring.rs` prints both). The price is four bytes a weight: 540 MB for 135 million. Tied
//! embeddings are held once.

use std::{
    collections::BTreeSet,
    io::{Read, Seek},
};

use candle_core::{DType, Device, Error, Result, Tensor, quantized::gguf_file};
use candle_nn::{Embedding, Linear, RmsNorm};

use super::{
    CausalLm, Network,
    decoder::{Block, Decoder, FeedForward, Norm, Place, by_input},
    side_by_side,
};
use crate::{
    checkpoint::of_another_network,
    ops::{Heads, Pairing, Rotary},
};

/// The ending of tensors that old files have and no network needs: angles that are computed.
const CONSTANT: &str = ".attn_rot_embd.weight";

/// Makes the network from an open file.
pub(crate) fn build<R: Read + Seek>(
    content: &gguf_file::Content,
    reader: &mut R,
    dtype: DType,
    device: &Device,
) -> Result<Network> {
    load(content, reader, dtype, device).map(Network::CausalLm)
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

/// The tensors of an open file.
struct Weights<'a, R> {
    content: &'a gguf_file::Content,
    reader: &'a mut R,
    dtype: DType,
    device: &'a Device,
    /// Names of the tensors that were asked for.
    taken: BTreeSet<String>,
}

impl<R: Read + Seek> Weights<'_, R> {
    fn get(&mut self, name: &str) -> Result<Tensor> {
        self.taken.insert(name.to_owned());
        self.content.tensor(self.reader, name, self.device)?.dequantize(self.device)?.to_dtype(self.dtype)
    }

    /// A file with a tensor that nobody asked for is of another network: with biases, with stretched rotary embedding.
    fn check_taken(&self) -> Result<()> {
        let names = self.content.tensor_infos.keys().map(String::as_str);
        let mut surplus: Vec<&str> =
            names.filter(|name| !self.taken.contains(*name) && !name.ends_with(CONSTANT)).collect();
        surplus.sort_unstable();
        if surplus.is_empty() { Ok(()) } else { Err(Error::msg(of_another_network("the file's metadata", &surplus))) }
    }

    fn norm(&mut self, name: &str, config: &Config) -> Result<Norm> {
        Ok(Norm::RootMeanSquare(RmsNorm::new(self.get(name)?, config.rms_epsilon)))
    }

    fn block(&mut self, index: usize, config: &Config) -> Result<Block> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let mut linear = |part: &str| by_input(&self.get(&name(part))?, None);
        let qkv = side_by_side(&[linear("attn_q")?, linear("attn_k")?, linear("attn_v")?])?;
        let attention_output = linear("attn_output")?;
        let gate_up = side_by_side(&[linear("ffn_gate")?, linear("ffn_up")?])?;
        let output = linear("ffn_down")?;
        Ok(Block {
            norm: self.norm(&name("attn_norm"), config)?,
            qkv,
            attention_output,
            scale: config.heads().inverse_root(),
            window: None,
            feed_forward_norm: Some(self.norm(&name("ffn_norm"), config)?),
            feed_forward: FeedForward::Gated { gate_up, output },
        })
    }
}

/// Reads the network whose metadata `content` is from `reader`.
pub(crate) fn load<R: Read + Seek>(
    content: &gguf_file::Content,
    reader: &mut R,
    dtype: DType,
    device: &Device,
) -> Result<CausalLm> {
    let config = Config::from_metadata(content)?;
    let mut file = Weights { content, reader, dtype, device, taken: BTreeSet::new() };
    let words = file.get("token_embd.weight")?;
    let head =
        if content.tensor_infos.contains_key("output.weight") { file.get("output.weight")? } else { words.clone() };
    let (heads, context) = (config.heads(), config.context_length);
    let rotary = Rotary::new(config.rope_freq_base, heads.size, heads.size, Pairing::Interleaved, context, device)?;
    let body = Decoder {
        words: Embedding::new(words, config.embedding_length),
        typed: false,
        embedding_scale: 1.0,
        place: Place::Rotary(rotary),
        blocks: (0..config.block_count).map(|index| file.block(index, &config)).collect::<Result<_>>()?,
        norm: file.norm("output_norm.weight", &config)?,
        output_scale: 1.0,
        heads,
        context,
    };
    file.check_taken()?;
    Ok(CausalLm::new(body, Linear::new(head, None)))
}

#[cfg(test)]
pub(crate) mod tests;
