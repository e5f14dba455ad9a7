//! The headers of a model's files: what tensors there are, without the tensors.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use candle_core::pickle::PthTensors;
use serde::Deserialize;

use super::{CONSTANTS, FILES, Kind, guarded, shards};
use crate::{catalogue::LoadError, models::reason};

/// No safetensors file has a longer header.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// What the headers of a folder's files say, without the tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Numbers in tensors that mean anything to a network.
    pub(crate) numbers: u64,
    /// Bytes of files that are in memory whole while the network is made of them.
    pub(crate) held_bytes: u64,
}

/// Reads the headers of what `directory` holds; none where it holds no file of tensors. Tensors whose names begin with one of
/// `ignored` do not count.
pub(crate) fn headers(directory: &Path, ignored: &[&str]) -> Result<Option<Headers>, LoadError> {
    let found = FILES.iter().map(|(name, kind)| (directory.join(name), *kind)).find(|(path, _)| path.is_file());
    let Some((path, kind)) = found else { return Ok(None) };
    let files = match kind {
        Kind::Safetensors | Kind::Pickle => vec![(path, kind)],
        Kind::Index(kind) => shards(&path, &mut Vec::new())?.iter().map(|name| (directory.join(name), *kind)).collect(),
    };
    let mut headers = Headers::default();
    for (path, kind) in files {
        let counts = |name: &str| {
            !CONSTANTS.iter().any(|ending| name.ends_with(ending))
                && !ignored.iter().any(|prefix| name.starts_with(prefix))
        };
        let unusable = |reason: String| LoadError::Unusable { path: path.clone(), reason };
        if let Kind::Pickle = kind {
            let tensors = guarded(|| PthTensors::new(&path, None)).map_err(|error| unusable(reason(&error)))?;
            let infos = tensors.tensor_infos().iter().filter(|(name, _)| counts(name));
            headers.numbers += infos.map(|(_, info)| info.layout.shape().elem_count() as u64).sum::<u64>();
        } else {
            let (tensors, bytes) = safetensors_header(&path).map_err(|error| unusable(error.to_string()))?;
            headers.numbers += tensors.iter().filter(|(name, _)| counts(name)).map(|(_, numbers)| numbers).sum::<u64>();
            headers.held_bytes += bytes;
        }
    }
    Ok(Some(headers))
}

/// The tensors of a safetensors file, by name, with how many numbers each has, and the size of the file. Source:
/// <https://huggingface.co/docs/safetensors/index#format>.
fn safetensors_header(path: &Path) -> io::Result<(BTreeMap<String, u64>, u64)> {
    #[derive(Deserialize)]
    struct Info {
        shape: Vec<u64>,
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > size.min(HEADER_LIMIT_BYTES) {
        return Err(io::Error::other(format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&header)?;
    header.remove("__metadata__");
    let numbers = |(name, info)| {
        let Info { shape } = serde_json::from_value(info)?;
        let numbers = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
        Ok((name, numbers.ok_or_else(|| io::Error::other("a shape of more numbers than there are"))?))
    };
    Ok((header.into_iter().map(numbers).collect::<io::Result<_>>()?, size))
}
