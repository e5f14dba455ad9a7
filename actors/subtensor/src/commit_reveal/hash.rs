//! Commit a hash, reveal later: `commit_weights` and `reveal_weights`, with their mechanism variants.

use blake2::{Blake2b, Digest, digest::consts::U32};
use openvalidators_messages::{Hotkey, Netuid, Uid, subtensor::RevealWeights};
use parity_scale_codec::Encode;
use serde::{Deserialize, Serialize};

use super::{LengthsDiffer, aligned};

/// `GLOBAL_MAX_SUBNET_COUNT` of the pallet: the distance between two mechanisms of a subnet in its storage.
const MECHANISM_STRIDE: u16 = 4096;

/// Whom weights are set for: one mechanism of one subnet. Every subnet has mechanism 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mechanism {
    /// The subnet.
    pub netuid: Netuid,
    /// The chain's `mecid`: 0 to 15.
    pub index: u8,
}

/// What `reveal_weights` says, and what is hashed before. Vector and salt are **written down before the commit**: without
/// them it can never be revealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashReveal {
    /// Who commits and reveals.
    pub hotkey: Hotkey,
    /// Where.
    pub mechanism: Mechanism,
    /// Places.
    pub uids: Vec<Uid>,
    /// Aligned with `uids`.
    pub weights: Vec<u16>,
    /// Keeps others from guessing the weights until the hash fits.
    pub salt: Vec<u16>,
    /// At least the subnet's `weights_version_key`.
    pub version_key: u64,
}

// === impl Mechanism ===

impl Mechanism {
    /// The key under which the chain keeps this mechanism's weights, commits and last updates
    /// (`get_mechanism_storage_index`). For mechanism 0 it is the netuid.
    #[must_use]
    pub fn storage_index(self) -> u16 {
        u16::from(self.index).saturating_mul(MECHANISM_STRIDE).saturating_add(self.netuid.0)
    }
}

// === impl HashReveal ===

impl HashReveal {
    /// What this hotkey commits and reveals of a vector.
    ///
    /// # Errors
    /// When the vector's halves differ in length.
    pub fn new(hotkey: Hotkey, mechanism: Mechanism, said: RevealWeights) -> Result<Self, LengthsDiffer> {
        let RevealWeights { uids, weights, version_key, salt } = said;
        aligned(&uids, &weights)?;
        Ok(Self { hotkey, mechanism, uids, weights, salt, version_key })
    }

    /// What `commit_weights` says: BLAKE2b-256 over the SCALE encoding of hotkey, storage index, uids, weights, salt and
    /// version key (`get_commit_hash` of the pallet, `generate_weight_hash` of the SDK).
    #[must_use]
    pub fn commit_hash(&self) -> [u8; 32] {
        let uids: Vec<u16> = self.uids.iter().map(|uid| uid.0).collect();
        let committed =
            (self.hotkey.0, self.mechanism.storage_index(), uids, &self.weights, &self.salt, self.version_key);
        Blake2b::<U32>::digest(committed.encode()).into()
    }
}

#[cfg(test)]
mod tests;
