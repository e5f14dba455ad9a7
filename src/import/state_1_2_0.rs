//! The state directory of openvalidators 1.2.0, as its `utils.py:save_state` writes it, read and checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, bail, ensure};
use openvalidators_inference::{Saved, read_saved};
use openvalidators_keys::ss58;
use openvalidators_messages::Hotkey;

/// Moving averages and hotkeys.
const MODEL: &str = "model.torch";
/// What the diversity filter remembers.
const DIVERSITY: &str = "diversity_model.pth";
/// How the name of a file with a gating head ends, after that of its encoder.
const HEAD_ENDING: &str = "_gating_linear_layer.pth";

/// What 1.2.0 had learned.
pub(super) struct State {
    /// By uid; none where the same hotkey had a lower uid, too.
    pub hotkeys: Vec<Option<Hotkey>>,
    /// By uid.
    averages: Vec<f64>,
    /// By the name of their encoder, `/` written as `_`.
    pub heads: BTreeMap<String, SavedHead>,
    /// Unit rows, oldest first; none where the filter was off, or has seen nothing.
    pub history: Option<Matrix>,
}

/// A linear layer, a row for each uid.
pub(super) struct SavedHead {
    pub weights: Matrix,
    pub biases: Vec<f32>,
}

/// Rows of `width` numbers, one after the other.
pub(super) struct Matrix {
    pub width: usize,
    pub values: Vec<f32>,
}

// === impl State ===

impl State {
    /// Reads the directory. Head and history may be missing, hotkeys and averages may not.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join(MODEL);
        ensure!(
            file.is_file(),
            "there is no {MODEL} in {}: name the folder that openvalidators 1.2.0 kept it in, by default \
             ~/.bittensor/miners/WALLET/HOTKEY/netuid1/core_prompting_validator",
            directory.display()
        );
        let (hotkeys, averages) = read_model(&file)?;
        let mut heads = BTreeMap::new();
        for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(encoder) = name.strip_suffix(HEAD_ENDING) {
                heads.insert(encoder.to_owned(), read_head(&directory.join(&name))?);
            }
        }
        let file = directory.join(DIVERSITY);
        let history = if file.is_file() { read_history(&file)? } else { None };
        Ok(Self { hotkeys, averages, heads, history })
    }

    /// The moving average of each hotkey, where it is a number and not negative.
    pub fn scores(&self) -> impl Iterator<Item = (Hotkey, f64)> {
        let usable = |average: f64| average.is_finite() && average >= 0.0;
        self.hotkeys
            .iter()
            .zip(&self.averages)
            .filter_map(move |(hotkey, average)| Some(((*hotkey)?, *average)).filter(|_| usable(*average)))
    }

    /// Whose score is not taken, in words to follow on others.
    pub fn left_out(&self) -> String {
        let left_out = self.hotkeys.len() - self.scores().count();
        if left_out == 0 { String::new() } else { format!("; {left_out} are no number, negative, or written twice") }
    }
}

fn read_model(file: &Path) -> anyhow::Result<(Vec<Option<Hotkey>>, Vec<f64>)> {
    let mut found = read_saved(file)?;
    let (Some(Saved::Texts(hotkeys)), Some(Saved::Numbers(averages))) =
        (found.remove("neuron_hotkeys"), found.remove("neuron_weights"))
    else {
        bail!(
            "{} holds no lists `neuron_hotkeys` and `neuron_weights`, which openvalidators 1.2.0 keeps in it",
            file.display()
        );
    };
    ensure!(
        hotkeys.len() == averages.len(),
        "{} has {} hotkeys and {} averages; 1.2.0 keeps one for each uid",
        file.display(),
        hotkeys.len(),
        averages.len()
    );
    let mut seen = BTreeSet::new();
    let hotkeys = hotkeys.iter().enumerate().map(|(uid, address)| {
        let hotkey = ss58::decode(address).with_context(|| format!("{}: the hotkey of uid {uid}", file.display()))?;
        Ok(Some(hotkey).filter(|hotkey| seen.insert(*hotkey)))
    });
    Ok((hotkeys.collect::<anyhow::Result<_>>()?, averages))
}

fn read_head(file: &Path) -> anyhow::Result<SavedHead> {
    let mut found = read_saved(file)?;
    let (Some(weights), Some(Saved::Tensor { shape, values: biases })) =
        (found.remove("weight").and_then(Matrix::of), found.remove("bias"))
    else {
        bail!("{} holds no `weight` and `bias` of a linear layer", file.display());
    };
    let rows = weights.rows().len();
    ensure!(shape == [rows], "{} has {rows} rows of weights and a bias of shape {shape:?}", file.display());
    Ok(SavedHead { weights, biases })
}

fn read_history(file: &Path) -> anyhow::Result<Option<Matrix>> {
    match read_saved(file)?.remove("historic_embeddings") {
        Some(Saved::Tensor { values, .. }) if values.is_empty() => Ok(None),
        Some(tensor) => {
            let history = Matrix::of(tensor);
            history.map(Some).with_context(|| format!("{}: `historic_embeddings` are no rows", file.display()))
        }
        None => bail!("{} holds no `historic_embeddings`", file.display()),
    }
}

// === impl Matrix ===

impl Matrix {
    fn of(saved: Saved) -> Option<Self> {
        match saved {
            Saved::Tensor { shape, values } if shape.len() == 2 && shape[1] > 0 => {
                Some(Self { width: shape[1], values })
            }
            _ => None,
        }
    }

    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width)
    }
}
