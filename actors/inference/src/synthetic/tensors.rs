//! Weights out of nothing: a block of random numbers, laid end to end.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
    sync::Arc,
};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::catalogue::LoadError;

/// The file that stands for tensors.
pub(super) const FILE: &str = "random.json";

/// Numbers made; every tensor is cut out of their endless repetition. A prime, so that no two rows of a matrix are equal.
const BLOCK: usize = 65_537;

/// Makes every tensor that is asked for. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RandomTensors {
    made: Arc<Made>,
    /// What was asked for, where someone wants to know.
    asked: Option<Arc<Mutex<HashMap<String, Tensor>>>>,
}

struct Made {
    seed: u64,
    /// Shapes of the tensors it says it has.
    tensors: BTreeMap<String, Vec<usize>>,
    /// Evenly distributed, mean 0, variance 1.
    block: Tensor,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seed: u64,
    tensors: BTreeMap<String, Vec<usize>>,
}

// === impl RandomTensors ===

impl RandomTensors {
    /// Reads [`FILE`] of a folder, if there is one, and adds its sha256 to `digests`.
    pub(crate) fn open(
        folder: &Path,
        digests: &mut Vec<(String, String)>,
    ) -> std::result::Result<Option<Self>, LoadError> {
        let path = folder.join(FILE);
        let unusable = |reason: String| LoadError::Unusable { path: path.clone(), reason };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(error.to_string())),
        };
        let File { seed, tensors } = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        digests.push((FILE.to_owned(), hex::encode(Sha256::digest(&bytes))));
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let reach = 3_f32.sqrt();
        let block: Vec<f32> = (0..BLOCK).map(|_| random.random_range(-reach..reach)).collect();
        let block = Tensor::new(block, &Device::Cpu).map_err(|error| unusable(error.to_string()))?;
        Ok(Some(Self { made: Arc::new(Made { seed, tensors, block }), asked: None }))
    }

    /// The same, and [`Self::asked`] can tell what was asked for.
    pub(crate) fn keeping_asked(self) -> Self {
        Self { asked: Some(Arc::default()), ..self }
    }

    /// The tensors, for a network to take.
    pub(crate) fn tensors(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// What was asked for.
    pub(crate) fn asked(&self) -> HashMap<String, Tensor> {
        self.asked.as_ref().map_or_else(HashMap::new, |asked| asked.lock().clone())
    }

    /// Numbers that keep the states of a network about as large as they are: those of a matrix vary by the root of its
    /// width; those of a norm lie around 1, and biases near 0.
    fn tensor(&self, shape: &Shape, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Made { seed, block, .. } = &*self.made;
        let (mean, spread) = match shape.dims() {
            [.., width] if shape.rank() > 1 => (0.0, 1.0 / (*width as f64).sqrt()),
            _ if name.ends_with("weight") => (1.0, 0.02),
            _ => (0.0, 0.02),
        };
        let block = ((block * spread)? + mean)?.to_device(device)?.to_dtype(dtype)?;
        let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
        let mut start = digest.iter().fold(0, |start, &byte| (start * 256 + usize::from(byte)) % BLOCK);
        let mut rest = shape.elem_count();
        let mut pieces = Vec::with_capacity(rest / BLOCK + 2);
        while rest > 0 {
            let piece = rest.min(BLOCK - start);
            pieces.push(block.narrow(0, start, piece)?);
            (start, rest) = (0, rest - piece);
        }
        let tensor = Tensor::cat(&pieces, 0)?.reshape(shape)?;
        if let Some(asked) = &self.asked {
            asked.lock().insert(name.to_owned(), tensor.clone());
        }
        Ok(tensor)
    }
}

impl SimpleBackend for RandomTensors {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.made.tensors.get(name) {
            Some(stated) if stated != shape.dims() => {
                candle_core::bail!(
                    "tensor `{name}` in {FILE} has shape {stated:?}; config.json says {:?}",
                    shape.dims()
                )
            }
            _ => self.tensor(&shape, name, dtype, device),
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.made.tensors.get(name) {
            Some(shape) => self.tensor(&Shape::from(shape.as_slice()), name, dtype, device),
            None => candle_core::bail!("there is no tensor `{name}` in {FILE}"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.made.tensors.contains_key(name)
    }
}
