//! What the tests of all networks share: the reference's tiny checkpoints and what it made of them.

use std::{fs, path::PathBuf};

use candle_core::{DType, Device, Result, Tensor, safetensors};
use candle_nn::{Linear, VarBuilder};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{Classifier, Encoder, Network, Packed};

/// A tiny checkpoint of the parity set.
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    pub(crate) build: fn(&[u8], VarBuilder<'_>) -> Result<Network>,
}

pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// A golden of the parity set, or with its folder of another.
pub(crate) fn golden(path: &str) -> Value {
    let path = if path.contains('/') { path.to_owned() } else { format!("parity/golden/{path}") };
    serde_json::from_slice(&fs::read(fixtures().join(format!("{path}.json"))).unwrap()).unwrap()
}

/// Numbers as the goldens write them.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

pub(crate) fn ids_of(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The gate of raw scores, states and logits.
#[track_caller]
pub(crate) fn assert_close(ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len());
    for (i, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        let bound = 2e-5 + 1e-5 * expected.abs();
        assert!((ours - expected).abs() <= bound, "[{i}] is {ours}, not {expected}");
    }
}

/// The texts that the goldens are of: `prompts` or `completions`.
pub(crate) fn texts(key: &str) -> Vec<String> {
    serde_json::from_value(golden("inputs")[key].clone()).unwrap()
}

/// The layer that the reference's gating by `model` began with, `[uids, hidden]` and `[uids]`.
pub(crate) fn gating_layer(model: &str) -> Linear {
    let path = fixtures().join(format!("parity/golden/gating_{model}_init.safetensors"));
    let mut tensors = safetensors::load(path, &Device::Cpu).unwrap();
    Linear::new(tensors.remove("weight").unwrap(), tensors.remove("bias"))
}

/// A tensor under its own name, for [`Fixture::changed`].
pub(crate) fn as_it_is(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

impl Fixture {
    pub(crate) fn folder(&self) -> PathBuf {
        fixtures().join("parity/models").join(self.name)
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        fs::read(self.folder().join("config.json")).unwrap()
    }

    fn file(&self) -> Vec<u8> {
        fs::read(self.folder().join("model.safetensors")).unwrap()
    }

    pub(crate) fn tensors(&self) -> VarBuilder<'static> {
        VarBuilder::from_buffered_safetensors(self.file(), DType::F32, &Device::Cpu).unwrap()
    }

    pub(crate) fn network(&self) -> Network {
        (self.build)(&self.config(), self.tensors()).unwrap()
    }

    /// The network, which embeds.
    pub(crate) fn encoder(&self) -> Box<dyn Encoder> {
        match self.network() {
            Network::Encoder(network) => network,
            _ => panic!("{} does not embed", self.name),
        }
    }

    /// The network, which judges.
    pub(crate) fn classifier(&self) -> Box<dyn Classifier> {
        match self.network() {
            Network::Classifier(network) => network,
            _ => panic!("{} does not judge", self.name),
        }
    }

    /// The network with `change` made to its config, and each of its tensors under the names that `names` gives it.
    pub(crate) fn changed(
        &self,
        change: impl FnOnce(&mut Value),
        names: impl Fn(&str) -> Vec<String>,
    ) -> Result<Network> {
        let mut config = serde_json::from_slice(&self.config()).unwrap();
        change(&mut config);
        let named = |(name, tensor): (String, Tensor)| {
            names(&name).into_iter().map(move |name| (name, tensor.clone())).collect::<Vec<_>>()
        };
        let tensors = safetensors::load_buffer(&self.file(), &Device::Cpu).unwrap();
        let tensors = tensors.into_iter().flat_map(named).collect();
        let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        (self.build)(&serde_json::to_vec(&config).unwrap(), tensors)
    }

    pub(crate) fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_file(self.folder().join("tokenizer.json")).unwrap()
    }

    /// As the reference tokenises: special tokens are read wherever they stand.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer().encode(text, true).unwrap().get_ids().to_vec()
    }

    /// The ids of `text` in windows of `max_tokens`, each between the model's two special tokens.
    pub(crate) fn windows(&self, text: &str, max_tokens: usize) -> Vec<Vec<u32>> {
        let ids = self.encode(text);
        let [first, inner @ .., last] = ids.as_slice() else { panic!("no special tokens around {text}") };
        let window = |inner: &[u32]| [&[*first], inner, &[*last]].concat();
        if inner.is_empty() { vec![window(&[])] } else { inner.chunks(max_tokens - 2).map(window).collect() }
    }
}

/// The mean of a row's states, scaled to length 1.
pub(crate) fn embedding(encoder: &dyn Encoder, ids: &[u32]) -> Vec<f32> {
    let mean = encoder.forward(&Packed::new([ids])).unwrap().mean(0).unwrap();
    let length = mean.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
    mean.broadcast_div(&length).unwrap().to_vec1().unwrap()
}

/// The mean of the windows' embeddings, as the reference embeds what is longer than a model takes.
pub(crate) fn embedding_of_windows(encoder: &dyn Encoder, windows: &[Vec<u32>]) -> Vec<f32> {
    let mut mean = Vec::new();
    for window in windows {
        let embedding = embedding(encoder, window);
        mean.resize(embedding.len(), 0.0);
        mean.iter_mut().zip(embedding).for_each(|(mean, value)| *mean += value / windows.len() as f32);
    }
    mean
}

/// Asserts that what `forward` makes of rows together, in any order, is what it makes of each alone.
pub(crate) fn assert_rows_are_their_own(forward: impl Fn(&Packed) -> Tensor) {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let rows: Vec<Vec<u32>> =
        [70, 7, 1, 33, 98].map(|length: u32| (0..length).map(|i| (i * 13 + length) % 200).collect()).into();
    let alone: Vec<Tensor> = rows.iter().map(|row| forward(&Packed::new([row.as_slice()]))).collect();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
        let together = forward(&Packed::new(order.map(|row: usize| rows[row].as_slice())));
        let mut start = 0;
        for row in order {
            let length = alone[row].dim(0).unwrap();
            assert_close(&values(&together.narrow(0, start, length).unwrap()), &values(&alone[row]));
            start += length;
        }
    }
}

/// A checkpoint without one of `names` is an error with that name in it, and so is one of another shape.
pub(crate) fn assert_missing_tensors_are_named(fixture: &Fixture, names: &[&str]) {
    let all = safetensors::load_buffer(&fixture.file(), &Device::Cpu).unwrap();
    for name in names {
        for replacement in [None, Some(Tensor::zeros((3, 5), DType::F32, &Device::Cpu).unwrap())] {
            let mut tensors = all.clone();
            assert!(tensors.remove(*name).is_some(), "{} has no {name}", fixture.name);
            if let Some(other) = replacement {
                tensors.insert((*name).to_owned(), other);
            }
            let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let error = (fixture.build)(&fixture.config(), tensors).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

/// [`assert_missing_tensors_are_named`] of all tensors save those that are `spare`.
pub(crate) fn assert_every_tensor_is_asked_for(fixture: &Fixture, spare: impl Fn(&str) -> bool) {
    let all = safetensors::load_buffer(&fixture.file(), &Device::Cpu).unwrap();
    let names: Vec<&str> = all.keys().map(String::as_str).filter(|name| !spare(name)).collect();
    assert!(!names.is_empty());
    assert_missing_tensors_are_named(fixture, &names);
}
