//! What models take together: on the wire, on the disk, in memory.
//!
//! Memory is that of the weights, plus two allowances. *Working*: 256 KiB for each token that is computed at once (the logits
//! of a vocabulary of 50,000 in f32, and as much again for states), and a tenth of the largest model on the device. *Loading*:
//! the files of the largest model, which are read whole before their tensors are made, unless they are pickles.

use std::{collections::BTreeMap, fmt};

use openvalidators_hub::{Hub, Look, ModelState};
use openvalidators_inference::{DeviceName, Dtype, ModelSource, Placement};
use openvalidators_messages::inference::ModelName;
use openvalidators_runtime::SystemClock;

use super::{memory::Memory, used};
use crate::config::{Config, profiles::Profile};

/// For each token of a batch.
const WORKING_BYTES_PER_TOKEN: u64 = 256 << 10;
/// One part in so many of the largest model.
const WORKING_SHARE: u64 = 10;

/// Models that are loaded together.
#[derive(Clone, Debug)]
pub struct Stack {
    /// In the order of their loading.
    pub models: Vec<Member>,
    working_tokens: u64,
}

/// A model of a stack.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: ModelName,
    /// Where its weights go.
    pub memory: Memory,
    /// As which type.
    pub dtype: Dtype,
    /// What the headers of its files say, else what is known of it.
    pub parameters: Option<u64>,
    /// What is on the disk when it is here.
    pub file_bytes: Option<Amount>,
    /// Bytes of files that are in memory while it is loaded.
    held_bytes: u64,
}

/// Bytes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// As listed.
    Exactly(u64),
    /// As the number of parameters and the type they are stored in give it.
    About(u64),
}

/// Memory that a stack takes of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Weights.
    pub weights: u64,
    /// Batches in the making.
    pub working: u64,
    /// Files, while the models are loaded.
    pub loading: u64,
}

/// What is taken of each device, for people.
struct Placed<'a>(&'a BTreeMap<Memory, Need>);

/// Bytes, for people: in thousands of thousands, as disks are sold.
pub struct Bytes(pub u64);

// === impl Stack ===

impl Stack {
    /// Models of the catalogue. What is here is weighed by its files; of the rest it is said what is known.
    ///
    /// # Errors
    /// When a model is unknown, or its files cannot be read.
    pub fn of(config: &Config, hub: &Hub, names: &[ModelName]) -> anyhow::Result<Self> {
        let mut models = Vec::new();
        for name in names {
            let entry = hub.entry(&name.0)?;
            let (_, files) = hub.files(&name.0)?;
            let estimated = entry.parameters.zip(entry.stored).map(|(numbers, stored)| numbers * stored.bytes());
            let file_bytes = match files.iter().map(|file| file.bytes).sum() {
                0 => estimated.map(Amount::About),
                listed => Some(Amount::Exactly(listed)),
            };
            let here = matches!(hub.state(&name.0, Look::Sizes)?, ModelState::Present { .. });
            let source = ModelSource { name: name.clone(), directory: hub.folder(&name.0) };
            let known = Member::new(config, name, entry.parameters, file_bytes.map_or(0, Amount::bytes));
            // A file whose header cannot be read is told, or mended, by who verifies it.
            let member = if here { Member::weighed(config, &source).unwrap_or(known) } else { known };
            models.push(Member { file_bytes, ..member });
        }
        Ok(Self::new(config, models))
    }

    /// Models in folders.
    ///
    /// # Errors
    /// When their files cannot be read.
    pub fn of_sources(config: &Config, sources: &[ModelSource]) -> anyhow::Result<Self> {
        let models = sources.iter().map(|source| Member::weighed(config, source)).collect::<anyhow::Result<_>>()?;
        Ok(Self::new(config, models))
    }

    fn new(config: &Config, models: Vec<Member>) -> Self {
        let working_tokens = config.inference.batch_tokens.max(config.inference.max_sequence_tokens) as u64;
        Self { models, working_tokens }
    }

    /// What it takes of each device.
    #[must_use]
    pub fn needs(&self) -> BTreeMap<Memory, Need> {
        let mut needs = BTreeMap::new();
        for model in &self.models {
            let need: &mut Need = needs.entry(model.memory).or_default();
            need.weights += model.weights(model.dtype);
        }
        let working = |memory, models: &[Member]| {
            let largest =
                models.iter().filter(|model| model.memory == memory).map(|model| model.weights(model.dtype)).max();
            self.working_tokens * WORKING_BYTES_PER_TOKEN + largest.unwrap_or(0) / WORKING_SHARE
        };
        for (memory, need) in &mut needs {
            need.working = working(*memory, &self.models);
        }
        // Files pass through the processor's memory wherever their tensors go.
        if !self.models.is_empty() {
            needs.entry(Memory::Host).or_default().loading = self.loading();
        }
        needs
    }

    /// What it would take with all weights of one type on one device.
    #[must_use]
    pub fn need_as(&self, dtype: Dtype) -> Need {
        let weights = self.models.iter().map(|model| model.weights(dtype));
        let largest = weights.clone().max().unwrap_or(0);
        let working = self.working_tokens * WORKING_BYTES_PER_TOKEN + largest / WORKING_SHARE;
        Need { weights: weights.sum(), working, loading: self.loading() }
    }

    /// The sum of all files, and whether it is a guess in parts.
    #[must_use]
    pub fn file_bytes(&self) -> Amount {
        self.models.iter().fold(Amount::Exactly(0), |sum, model| match (sum, model.file_bytes) {
            (Amount::Exactly(sum), Some(Amount::Exactly(more))) => Amount::Exactly(sum + more),
            (sum, more) => Amount::About(sum.bytes() + more.map_or(0, Amount::bytes)),
        })
    }

    /// What it takes, in words: as it is placed, and as it could be.
    #[must_use]
    pub fn summary(&self) -> String {
        let all = |dtype| Bytes(self.need_as(dtype).bytes());
        format!(
            "{} on the disk; {}; all as f32 {}, as f16 or bf16 {}",
            self.file_bytes(),
            Placed(&self.needs()),
            all(Dtype::F32),
            all(Dtype::Bf16)
        )
    }

    /// Whether it fits into what is free; where nothing is known of a device, it does.
    ///
    /// # Errors
    /// When it does not: what it takes, what there is, and which profile does fit.
    pub fn check_fits(&self, config: &Config, free_bytes: &dyn Fn(Memory) -> Option<u64>) -> anyhow::Result<()> {
        if !config.models.check_memory {
            return Ok(());
        }
        for (memory, need) in self.needs() {
            let Some(free) = free_bytes(memory).filter(|free| need.bytes() > *free) else { continue };
            let mut words =
                format!("the models take {} of {memory}, of which {} are free:", Bytes(need.bytes()), Bytes(free));
            for model in self.models.iter().filter(|model| model.memory == memory) {
                let weights = model.weights(model.dtype);
                words += &format!("\n  {} {} ({})", model.name, Bytes(weights), model.dtype);
            }
            let Need { working, loading, .. } = need;
            words += &format!("\n  {} to work in, {} while they are loaded", Bytes(working), Bytes(loading));
            anyhow::bail!("{words}\n{}", remedy(config, free_bytes));
        }
        Ok(())
    }

    fn loading(&self) -> u64 {
        self.models.iter().map(|model| model.held_bytes).max().unwrap_or(0)
    }
}

/// The largest profile that is known to fit.
fn remedy(config: &Config, free_bytes: &dyn Fn(Memory) -> Option<u64>) -> String {
    const ANYWAY: &str = "`models.check_memory = false` tries it all the same";
    let needs = |profile: Profile| {
        let config = Config { models: config.models.clone(), ..Config::of_profile(profile).ok()? };
        let hub = Hub::new(&config.models, SystemClock::shared()).ok()?;
        Some(Stack::of(&config, &hub, &used(&config)).ok()?.needs())
    };
    let fits = |needs: &BTreeMap<Memory, Need>| {
        needs.iter().all(|(memory, need)| free_bytes(*memory).is_some_and(|free| need.bytes() <= free))
    };
    let mut fitting = Profile::ALL.into_iter().filter_map(|profile| Some((profile, needs(profile).filter(&fits)?)));
    match (fitting.next(), needs(Profile::Cpu)) {
        (Some((profile, needs)), _) => format!("`--profile {profile}` fits; it takes {}. {ANYWAY}", Placed(&needs)),
        (None, Some(least)) => format!("no profile fits; the smallest, `cpu`, takes {}. {ANYWAY}", Placed(&least)),
        (None, None) => ANYWAY.to_owned(),
    }
}

// === impl Member ===

impl Member {
    fn new(config: &Config, name: &ModelName, parameters: Option<u64>, held_bytes: u64) -> Self {
        let (memory, dtype) = place(config, name);
        Self { name: name.clone(), memory, dtype, parameters, file_bytes: None, held_bytes }
    }

    fn weighed(config: &Config, source: &ModelSource) -> anyhow::Result<Self> {
        let weight = source.weigh()?;
        Ok(Self::new(config, &source.name, Some(weight.parameters), weight.held_bytes))
    }

    /// Bytes of its weights as this type; 0 where its size is not known.
    #[must_use]
    pub fn weights(&self, dtype: Dtype) -> u64 {
        self.parameters.unwrap_or(0) * bytes_of(dtype)
    }
}

/// Where a model goes and as what.
fn place(config: &Config, model: &ModelName) -> (Memory, Dtype) {
    let Placement { device, dtype } = config.inference.placement.get(model).copied().unwrap_or_default();
    let memory = match device.unwrap_or(config.inference.device) {
        DeviceName::Cpu(_) => Memory::Host,
        DeviceName::Cuda(number) => Memory::Gpu(number),
    };
    (memory, dtype.unwrap_or(config.inference.dtype))
}

/// Of one number.
fn bytes_of(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::Bf16 => 2,
    }
}

// === impl Amount, Need ===

impl Amount {
    /// How many.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Exactly(bytes) | Self::About(bytes) => bytes,
        }
    }
}

impl Need {
    /// All of it.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.weights + self.working + self.loading
    }
}

// === Display ===

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("this machine's memory"),
            Self::Gpu(number) => write!(f, "the memory of cuda:{number}"),
        }
    }
}

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (memory, need)) in self.0.iter().enumerate() {
            let before = if place == 0 { "" } else { " and " };
            write!(f, "{before}{} of {memory}", Bytes(need.bytes()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(bytes) => write!(f, "{}", Bytes(*bytes)),
            Self::About(bytes) => write!(f, "about {}", Bytes(*bytes)),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        if bytes < 1e9 { write!(f, "{:.1} MB", bytes / 1e6) } else { write!(f, "{:.1} GB", bytes / 1e9) }
    }
}

#[cfg(test)]
mod tests;
