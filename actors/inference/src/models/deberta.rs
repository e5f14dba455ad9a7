//! DeBERTa, second and third version: <https://arxiv.org/abs/2006.03654>, <https://arxiv.org/abs/2111.09543>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/deberta_v2/modeling_deberta_v2.py>.
//!
//! Only `DebertaV2ForSequenceClassification`. A token knows its place by its distance from others alone, so a row may be
//! of any length. What the layers make of the relative places is computed once when the network is loaded, and which
//! distance has which place once for a batch.

use std::collections::BTreeSet;

use candle_core::{Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder};
use serde::{Deserialize, Deserializer, de::IntoDeserializer};

use super::{
    Classifier, Network, Packed,
    encoder::{self, Activation, Layer, Layers, Names, firsts},
    parse,
};
use crate::ops::{self, Disentangled, Heads, Then};

const NAMES: Names = Names {
    qkv: ["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"],
    output: "attention.output.dense",
    norm: "attention.output.LayerNorm",
};

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    Ok(Network::Classifier(Box::new(Deberta::load(&tensors, &parse(config)?)?)))
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) body: encoder::Config,
    #[serde(default)]
    pub(crate) relative_attention: bool,
    /// Distances beyond this are one; `max_position_embeddings` where it is below 1.
    #[serde(default = "unset")]
    pub(crate) max_relative_positions: i64,
    /// Relative places on each side; below 1 every distance has its own.
    #[serde(default = "unset")]
    pub(crate) position_buckets: i64,
    /// What is done to the relative places before they are used: names with `|` between them.
    #[serde(default)]
    pub(crate) norm_rel_ebd: String,
    #[serde(default)]
    pub(crate) share_att_key: bool,
    #[serde(deserialize_with = "list_or_line")]
    pub(crate) pos_att_type: BTreeSet<Part>,
    #[serde(default = "yes")]
    pub(crate) position_biased_input: bool,
    #[serde(default = "gelu")]
    pub(crate) pooler_hidden_act: Activation,
    #[serde(default)]
    pub(crate) conv_kernel_size: usize,
}

/// What a score counts beside what two tokens say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// What the query says of the key's place.
    C2p,
    /// What the key says of its own place.
    P2c,
}

/// The network on its device.
#[derive(Debug)]
pub(crate) struct Deberta {
    words: Embedding,
    norm: LayerNorm,
    layers: Layers,
    /// For each layer.
    places: Vec<Places>,
    buckets: Buckets,
    scale: f32,
    pooler: Linear,
    classifier: Linear,
    heads: Heads,
    labels: usize,
    device: Device,
}

/// The relative places as a layer's keys and queries, each `[2 · span, hidden]`, or without rows where no score counts
/// them.
#[derive(Debug)]
struct Places {
    keys: Tensor,
    queries: Tensor,
}

/// Which distance has which relative place: near ones have one each, the others share them by their logarithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buckets {
    /// Relative places on each side.
    span: i64,
    /// The distance from which all are one; none where every distance has a place of its own.
    farthest: Option<i64>,
}

fn unset() -> i64 {
    -1
}

fn yes() -> bool {
    true
}

fn gelu() -> Activation {
    Activation::Gelu
}

/// `["p2c", "c2p"]` or, as in older files, `"p2c|c2p"`.
fn list_or_line<'de, D: Deserializer<'de>>(config: D) -> std::result::Result<BTreeSet<Part>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<String>),
        Line(String),
    }
    let names = match Written::deserialize(config)? {
        Written::List(names) => names,
        Written::Line(line) => line.split('|').map(|name| name.trim().to_lowercase()).collect(),
    };
    names.into_iter().map(|name| Part::deserialize(name.into_deserializer())).collect()
}

// === impl Config ===

impl Config {
    /// What networks of this family may have and this file does not compute is refused by its name.
    fn check(&self) -> Result<()> {
        let Activation::Gelu = self.pooler_hidden_act;
        let unsupported = [
            (!self.relative_attention, "relative_attention: false"),
            (self.position_biased_input, "position_biased_input: true"),
            (self.body.type_vocab_size > 0, "type_vocab_size above 0"),
            (self.conv_kernel_size > 0, "conv_kernel_size above 0"),
        ];
        if let Some((_, name)) = unsupported.iter().find(|(found, _)| *found) {
            candle_core::bail!("a DeBERTa with {name} is not supported");
        }
        Ok(())
    }
}

// === impl Buckets ===

impl Buckets {
    fn new(config: &Config) -> Result<Self> {
        let farthest = match config.max_relative_positions {
            stated @ 1.. => stated,
            _ => config.body.max_position_embeddings as i64,
        };
        let buckets = config.position_buckets;
        if buckets < 1 {
            return Ok(Self { span: farthest, farthest: None });
        }
        if buckets < 2 || farthest <= buckets / 2 + 1 {
            candle_core::bail!("position_buckets {buckets} for distances up to {farthest}");
        }
        Ok(Self { span: buckets, farthest: Some(farthest) })
    }

    /// For each `key - query` within a row of `longest` tokens the row of its relative place.
    fn places(self, longest: usize) -> Vec<u32> {
        let end = longest.max(1) as i64;
        (1 - end..end).map(|distance| (self.span - self.bucket(distance)).clamp(0, 2 * self.span - 1) as u32).collect()
    }

    fn bucket(self, distance: i64) -> i64 {
        let near = self.span / 2;
        match self.farthest {
            Some(farthest) if distance.abs() > near => {
                // In f32 and in this order, as the reference: what lies on the border of two falls on its side.
                let (near, farthest) = (near as f32, (farthest - 1) as f32);
                let share = (distance.abs() as f32 / near).ln() / (farthest / near).ln();
                distance.signum() * ((share * (near - 1.0)).ceil() + near) as i64
            }
            _ => distance,
        }
    }
}

// === impl Places ===

impl Places {
    /// `relative` is `[2 · span, hidden]`; `vb` is where the tensors of `layer` are.
    fn load(vb: &VarBuilder<'_>, layer: &Layer, relative: &Tensor, config: &Config) -> Result<Self> {
        let hidden = config.body.hidden_size;
        let shared = if config.share_att_key { Some(layer.qkv(relative)?) } else { None };
        let load = |part: Part, column: usize, name: &str| match &shared {
            _ if !config.pos_att_type.contains(&part) => ops::no_rows(hidden, relative.dtype(), vb.device()),
            Some(qkv) => qkv.narrow(1, column * hidden, hidden)?.contiguous(),
            None => ops::linear(&candle_nn::linear(hidden, hidden, vb.pp("attention.self").pp(name))?, relative),
        };
        Ok(Self { keys: load(Part::C2p, 1, "pos_key_proj")?, queries: load(Part::P2c, 0, "pos_query_proj")? })
    }
}

// === impl Deberta ===

impl Deberta {
    /// Takes the encoder and the head out of a checkpoint.
    pub(crate) fn load(vb: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        config.check()?;
        let (hidden, epsilon) = (config.body.hidden_size, config.body.layer_norm_eps);
        let (embeddings, encoder) = (vb.pp("deberta.embeddings"), vb.pp("deberta.encoder"));
        let (buckets, heads) = (Buckets::new(config)?, Heads::over(hidden, config.body.num_attention_heads)?);
        let layers = Layers::load(&encoder.pp("layer"), &config.body, NAMES)?;

        let mut relative = encoder.get((2 * buckets.span as usize, hidden), "rel_embeddings.weight")?;
        if config.norm_rel_ebd.to_lowercase().split('|').any(|name| name.trim() == "layer_norm") {
            relative = candle_nn::layer_norm(hidden, epsilon, encoder.pp("LayerNorm"))?.forward(&relative)?;
        }
        let places = |(i, layer)| Places::load(&encoder.pp("layer").pp(i), layer, &relative, config);
        let parts = 1 + config.pos_att_type.len();
        let labels = config.body.id2label.len();
        Ok(Self {
            words: candle_nn::embedding(config.body.vocab_size, hidden, embeddings.pp("word_embeddings"))?,
            norm: candle_nn::layer_norm(hidden, epsilon, embeddings.pp("LayerNorm"))?,
            places: layers.iter().enumerate().map(places).collect::<Result<_>>()?,
            layers,
            buckets,
            scale: 1.0 / ((heads.size * parts) as f32).sqrt(),
            pooler: candle_nn::linear(hidden, hidden, vb.pp("pooler.dense"))?,
            classifier: candle_nn::linear(hidden, labels, vb.pp("classifier"))?,
            heads,
            labels,
            device: vb.device().clone(),
        })
    }
}

impl Classifier for Deberta {
    fn max_tokens(&self) -> usize {
        usize::MAX
    }

    fn labels(&self) -> usize {
        self.labels
    }

    fn logits(&self, batch: &Packed) -> Result<Tensor> {
        let firsts = firsts(batch, &self.device)?;
        let places = self.buckets.places(batch.lengths().iter().copied().max().unwrap_or(0));
        let attention =
            Disentangled { heads: self.heads, scale: self.scale, places: &places, lengths: batch.lengths() };
        let x = self.norm.forward(&self.words.forward(&Tensor::new(batch.ids(), &self.device)?)?)?;
        let states = self.layers.forward(x, Some(&firsts), |layer, qkv| {
            let Places { keys, queries } = &self.places[layer];
            attention.forward(qkv, keys, queries)
        })?;
        ops::linear(&self.classifier, &ops::linear_then(&self.pooler, &states, Then::Gelu)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::models::parity::{
        Fixture, as_it_is, assert_close, assert_every_tensor_is_asked_for, assert_rows_are_their_own, golden, texts,
    };

    const FIXTURE: Fixture = Fixture { name: "deberta_rm", build };

    fn pairs(prompt: &str, completions: &[String]) -> Vec<Vec<u32>> {
        let tokenizer = FIXTURE.tokenizer();
        let ids = |text: &String| {
            let mut ids = tokenizer.encode((prompt, text.as_str()), true).unwrap().get_ids().to_vec();
            if text.is_empty() {
                // The reference's tokenizers 0.13 make nothing of an empty text, those of today a space.
                ids.remove(ids.len() - 2);
            }
            ids
        };
        completions.iter().map(ids).collect()
    }

    /// The fixture takes 64 positions and has 16 buckets: most rows go past both.
    #[test]
    fn rewards_equal_the_references() {
        let deberta = FIXTURE.classifier();
        assert_eq!(deberta.labels(), 1);
        let (prompts, completions) = (texts("prompts"), texts("completions"));
        let matrix = golden("rlhf_deberta")["matrix"].clone();
        for (prompt, golden) in prompts.iter().zip(matrix.as_array().unwrap()) {
            let rows = pairs(prompt, &completions);
            assert!(rows.iter().any(|row| row.len() > 512));
            let logits = deberta.logits(&Packed::new(rows.iter().map(Vec::as_slice))).unwrap();
            let expected: Vec<f32> = golden["rewards"]
                .as_array()
                .unwrap()
                .iter()
                .map(|reward| serde_json::from_value(reward["ok"].clone()).unwrap())
                .collect();
            assert_close(&logits.squeeze(1).unwrap().to_vec1::<f32>().unwrap(), &expected);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let deberta = FIXTURE.classifier();
        assert_rows_are_their_own(|batch| deberta.logits(batch).unwrap());
    }

    #[test]
    fn a_missing_tensor_is_named() {
        assert_every_tensor_is_asked_for(&FIXTURE, |_| false);
    }

    /// Counted out from the formula of the paper's second version, `ceil(ln(d / 128) / ln(511 / 128) · 127) + 128`.
    #[test]
    fn distances_have_the_references_places() {
        let large = Buckets { span: 256, farthest: Some(512) };
        assert_eq!(
            [0, 1, -127, 128, 129, -130, 510, 511, 512].map(|d| large.bucket(d)),
            [0, 1, -127, 128, 129, -130, 255, 255, 256]
        );
        let places = large.places(700);
        assert_eq!((places.len(), places[0], places[699], places[1398]), (1399, 511, 256, 0));
        assert!(places.is_sorted_by(|a, b| a >= b));
        let each = Buckets { span: 4, farthest: None };
        assert_eq!(each.places(6), [7, 7, 7, 6, 5, 4, 3, 2, 1, 0, 0]);
    }

    /// In f32 no distance may fall into another bucket than in real numbers.
    #[test]
    fn rounding_moves_no_distance() {
        for (span, farthest) in [(256_i64, 512_i64), (16, 64), (32, 512), (48, 512)] {
            let buckets = Buckets { span, farthest: Some(farthest) };
            let near = span / 2;
            for distance in near + 1..farthest - 1 {
                let share = (distance as f64 / near as f64).ln() / ((farthest - 1) as f64 / near as f64).ln();
                assert_eq!(buckets.bucket(distance), (share * (near - 1) as f64).ceil() as i64 + near, "{distance}");
            }
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let refusal = |key: &str, value: Value| {
            let change = |config: &mut Value| config[key] = value;
            FIXTURE.changed(change, as_it_is).err().unwrap().to_string()
        };
        assert!(refusal("relative_attention", false.into()).contains("relative_attention: false"));
        assert!(refusal("position_biased_input", true.into()).contains("position_biased_input"));
        assert!(refusal("type_vocab_size", 2.into()).contains("type_vocab_size"));
        assert!(refusal("conv_kernel_size", 3.into()).contains("conv_kernel_size"));
        assert!(refusal("pos_att_type", "c2p|p2p".into()).contains("p2p"));
        assert!(refusal("pooler_hidden_act", "tanh".into()).contains("tanh"));
        assert!(refusal("position_buckets", 1.into()).contains("position_buckets 1"));
        assert!(refusal("num_attention_heads", 5.into()).contains("into 5 heads"));
        assert!(refusal("share_att_key", false.into()).contains("pos_key_proj"));
    }

    /// A checkpoint whose relative places have projections of their own, here with the values of the shared ones.
    #[test]
    fn places_may_have_projections_of_their_own() {
        let rows = pairs("a prompt", &["a completion".to_owned()]);
        let batch = Packed::new(rows.iter().map(Vec::as_slice));
        let apart = |config: &mut Value| config["share_att_key"] = false.into();
        let twice = |name: &str| {
            let own = name.replace("key_proj", "pos_key_proj").replace("query_proj", "pos_query_proj");
            BTreeSet::from([name.to_owned(), own]).into_iter().collect()
        };
        let Network::Classifier(own) = FIXTURE.changed(apart, twice).unwrap() else { unreachable!() };
        let shared = FIXTURE.classifier();
        let logits = |network: &dyn Classifier| network.logits(&batch).unwrap().to_vec2::<f32>().unwrap();
        assert_close(&logits(&*own)[0], &logits(&*shared)[0]);
    }

    /// Without one of its parts the network still loads, asks for less and says something else.
    #[test]
    fn parts_of_a_score_may_be_left_out() {
        let rows = pairs("a prompt", &["a completion".to_owned()]);
        let batch = Packed::new(rows.iter().map(Vec::as_slice));
        let logit = |parts: Value| {
            let change = |config: &mut Value| config["pos_att_type"] = parts;
            match FIXTURE.changed(change, as_it_is).unwrap() {
                Network::Classifier(network) => network.logits(&batch).unwrap().to_vec2::<f32>().unwrap()[0][0],
                _ => unreachable!(),
            }
        };
        let logits = [serde_json::json!(["c2p", "p2c"]), "p2c|c2p".into(), "c2p".into(), "p2c".into()].map(logit);
        assert_eq!(logits[0], logits[1]);
        assert!(logits[0] != logits[2] && logits[0] != logits[3] && logits[2] != logits[3], "{logits:?}");
    }
}
