//! The tensors of a model's folder, whatever files hold them: safetensors or PyTorch's pickles, one or several.
//!
//! Each tensor that a network asks for is noted, so that one nobody asked for can be told: a checkpoint with more layers
//! than its config says is not that network.

mod headers;
mod saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{
    DType, Device, Shape, Tensor,
    pickle::{PthTensors, TensorInfo},
    safetensors::BufferedSafetensors,
};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use openvalidators_runtime::panic_text;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub(crate) use headers::headers;
pub use saved::{Saved, SavedError, read_saved};

use crate::{catalogue::LoadError, models::reason};

/// Files that hold tensors, the first there is being read. `hf_ckpt.pt` is the reward model of Dahoas, which may lie beside
/// the language model it was made from.
const FILES: [(&str, Kind); 5] = [
    ("hf_ckpt.pt", Kind::Pickle),
    ("model.safetensors", Kind::Safetensors),
    ("model.safetensors.index.json", Kind::Index(&Kind::Safetensors)),
    ("pytorch_model.bin", Kind::Pickle),
    ("pytorch_model.bin.index.json", Kind::Index(&Kind::Pickle)),
];

/// Shards of a model are a few dozen.
const MOST_SHARDS: usize = 1_000;

/// Endings of tensors that no network needs: constants that old versions of transformers kept with the weights.
const CONSTANTS: [&str; 8] = [
    ".position_ids",
    ".attn.bias",
    ".attn.masked_bias",
    ".attn.attention.bias",
    ".attn.attention.masked_bias",
    ".rotary_emb.inv_freq",
    ".relative_pe.slopes",
    ".num_batches_tracked",
];

/// How a file holds tensors.
#[derive(Clone, Copy)]
enum Kind {
    Safetensors,
    Pickle,
    /// A map from names to files of a kind.
    Index(&'static Kind),
}

/// What an index says.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Tensors by name. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checkpoint(Arc<Inner>);

struct Inner {
    /// The file that is named where no tensor is to blame.
    path: PathBuf,
    files: Vec<Held>,
    /// Which of `files` holds a tensor.
    places: BTreeMap<String, usize>,
    taken: Mutex<BTreeSet<String>>,
}

/// An open file.
struct Held {
    path: PathBuf,
    bytes: u64,
    tensors: Format,
}

enum Format {
    Safetensors(BufferedSafetensors),
    Pickle(PthTensors),
}

// === impl Checkpoint ===

impl Checkpoint {
    /// Opens what `directory` holds; none where it holds no file of tensors. `digests` receives the sha256 of each file, by
    /// file name.
    pub(crate) fn open(directory: &Path, digests: &mut Vec<(String, String)>) -> Result<Option<Self>, LoadError> {
        let found = FILES.iter().map(|(name, kind)| (directory.join(name), *kind)).find(|(path, _)| path.is_file());
        let Some((path, kind)) = found else { return Ok(None) };
        let files = match kind {
            Kind::Safetensors | Kind::Pickle => vec![Held::open(&path, kind, digests)?],
            Kind::Index(kind) => {
                let shards = shards(&path, digests)?;
                shards.iter().map(|name| Held::open(&directory.join(name), *kind, digests)).collect::<Result<_, _>>()?
            }
        };
        let mut places = BTreeMap::new();
        for (place, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = places.insert(name.clone(), place) {
                    let other = files[other].path.display();
                    return Err(file.unusable(format!("tensor `{name}` is in {other} too")));
                }
            }
        }
        Ok(Some(Self(Arc::new(Inner { path, files, places, taken: Mutex::default() }))))
    }

    /// The file that is named where no tensor is to blame.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The tensors, as `dtype` on `device`, for a network to take.
    pub(crate) fn tensors(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// Whether the network took every tensor that means anything to it: all but constants, and those whose names begin with
    /// one of `ignored`.
    pub(crate) fn check_taken(&self, ignored: &[&str]) -> Result<(), LoadError> {
        let Inner { files, places, taken, .. } = &*self.0;
        let taken = taken.lock();
        let is_known = |name: &str| {
            taken.contains(name)
                || CONSTANTS.iter().any(|ending| name.ends_with(ending))
                || ignored.iter().any(|prefix| name.starts_with(prefix))
        };
        let surplus: Vec<(&String, &usize)> = places.iter().filter(|(name, _)| !is_known(name)).collect();
        let Some((_, place)) = surplus.first() else { return Ok(()) };
        let names: Vec<&str> = surplus.iter().map(|(name, _)| name.as_str()).collect();
        Err(files[**place].unusable(of_another_network("config.json", &names)))
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<(Tensor, &Held)> {
        let Inner { path, files, places, taken } = &*self.0;
        let Some(file) = places.get(name).map(|&place| &files[place]) else {
            candle_core::bail!("there is no tensor `{name}` in {}", path.display());
        };
        taken.lock().insert(name.to_owned());
        let named =
            |said: String| candle_core::Error::Msg(format!("tensor `{name}` in {}: {said}", file.path.display()));
        let tensor = file.load(name).map_err(|error| named(reason(&error)))?;
        if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            return Err(named(format!("its type is {}, not one of f16, bf16, f32, f64", tensor.dtype().as_str())));
        }
        Ok((tensor.to_device(device)?.to_dtype(dtype)?, file))
    }
}

impl SimpleBackend for Checkpoint {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let (tensor, file) = self.load(name, dtype, device)?;
        if *tensor.shape() != shape {
            candle_core::bail!(
                "tensor `{name}` in {} has shape {:?}; config.json says {:?}",
                file.path.display(),
                tensor.dims(),
                shape.dims()
            );
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        Ok(self.load(name, dtype, device)?.0)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.places.contains_key(name)
    }
}

// === impl Held ===

impl Held {
    fn open(path: &Path, kind: Kind, digests: &mut Vec<(String, String)>) -> Result<Self, LoadError> {
        let unusable = |reason: String| LoadError::Unusable { path: path.to_owned(), reason };
        let (tensors, bytes) = match kind {
            Kind::Safetensors => {
                let bytes = fs::read(path).map_err(|error| unusable(error.to_string()))?;
                digests.push((file_name(path), hex::encode(Sha256::digest(&bytes))));
                let length = bytes.len() as u64;
                let tensors = BufferedSafetensors::new(bytes).map_err(|error| unusable(reason(&error)))?;
                (Format::Safetensors(tensors), length)
            }
            Kind::Pickle => {
                let mut hasher = Sha256::new();
                let length = File::open(path)
                    .and_then(|mut file| io::copy(&mut file, &mut hasher))
                    .map_err(|error| unusable(error.to_string()))?;
                digests.push((file_name(path), hex::encode(hasher.finalize())));
                let tensors = guarded(|| PthTensors::new(path, None)).map_err(|error| unusable(reason(&error)))?;
                (Format::Pickle(tensors), length)
            }
            Kind::Index(_) => return Err(unusable("an index names files of tensors, not indices".into())),
        };
        Ok(Self { path: path.to_owned(), bytes, tensors })
    }

    fn names(&self) -> Vec<String> {
        match &self.tensors {
            Format::Safetensors(file) => file.tensors().into_iter().map(|(name, _)| name).collect(),
            Format::Pickle(file) => file.tensor_infos().keys().cloned().collect(),
        }
    }

    fn load(&self, name: &str) -> candle_core::Result<Tensor> {
        match &self.tensors {
            Format::Safetensors(file) => file.load(name, &Device::Cpu),
            Format::Pickle(file) => {
                if let Some(info) = file.tensor_infos().get(name) {
                    self.check_size(info)?;
                }
                let Some(tensor) = guarded(|| file.get(name))? else { candle_core::bail!("it is gone") };
                Ok(tensor)
            }
        }
    }

    /// A pickle says what size its tensors are before any of their bytes; memory is not given on its word.
    fn check_size(&self, info: &TensorInfo) -> candle_core::Result<()> {
        let mut sizes = info.layout.dims().iter().copied().chain([info.dtype.size_in_bytes()]);
        let bytes = sizes.try_fold(1_usize, usize::checked_mul);
        let end = bytes.and_then(|bytes| bytes.checked_add(info.layout.start_offset()));
        if end.is_none_or(|end| end as u64 > self.bytes) {
            candle_core::bail!("a shape of {:?} is more than the file holds", info.layout.dims());
        }
        Ok(())
    }

    fn unusable(&self, reason: String) -> LoadError {
        LoadError::Unusable { path: self.path.clone(), reason }
    }
}

/// What is wrong with a file that holds tensors of these names, which the network that `described` it has not.
pub(crate) fn of_another_network(described: &str, surplus: &[&str]) -> String {
    const NAMED: usize = 5;
    let names: Vec<String> = surplus.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = match surplus.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{described} describes a network that has no tensor {}{more}; the checkpoint is of another network",
        names.join(", ")
    )
}

/// candle's readers take some of what a file says on trust, and panic where it is wrong.
pub(crate) fn guarded<T>(read: impl FnOnce() -> candle_core::Result<T>) -> candle_core::Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|panic| Err(candle_core::Error::Msg(format!("reading it panicked: {}", panic_text(&*panic)))))
}

/// The files that an index names, which are beside it.
fn shards(index: &Path, digests: &mut Vec<(String, String)>) -> Result<BTreeSet<String>, LoadError> {
    let unusable = |reason: String| LoadError::Unusable { path: index.to_owned(), reason };
    let bytes = fs::read(index).map_err(|error| unusable(error.to_string()))?;
    digests.push((file_name(index), hex::encode(Sha256::digest(&bytes))));
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    if shards.is_empty() || shards.len() > MOST_SHARDS {
        return Err(unusable(format!("it names {} files; a model has 1 to {MOST_SHARDS}", shards.len())));
    }
    match shards.iter().find(|name| Path::new(name).file_name().is_none_or(|plain| plain != name.as_str())) {
        Some(name) => Err(unusable(format!("it names `{name}`, which is no plain file name"))),
        None => Ok(shards),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
