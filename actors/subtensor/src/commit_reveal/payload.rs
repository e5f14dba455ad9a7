//! What a timelocked commit hides.

use openvalidators_messages::{Hotkey, Uid, subtensor::SetWeights};
use parity_scale_codec::{DecodeAll, Encode};

use super::{LengthsDiffer, aligned};

/// The two layouts of a payload. Which one a chain reads, its `CommitRevealWeightsVersion` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadShape {
    /// Version 4: with the hotkey, so that nobody can commit a copy of another's container (`WeightsTlockPayload`).
    WithHotkey,
    /// Version 3, until July 2025 (`LegacyWeightsTlockPayload`).
    WithoutHotkey,
}

/// A `CommitRevealWeightsVersion` this program cannot write for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the chain wants timelocked commits of version {found}, this program makes versions 3 and 4: a newer version of it is needed"
)]
pub struct UnknownVersion {
    /// What the chain asks for.
    pub found: u16,
}

/// The weights inside a timelocked commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Who commits; read back only from [`PayloadShape::WithHotkey`].
    pub hotkey: Option<Hotkey>,
    /// Places.
    pub uids: Vec<Uid>,
    /// Aligned with `uids`.
    pub weights: Vec<u16>,
    /// At least the subnet's `weights_version_key`.
    pub version_key: u64,
}

/// Bytes that are no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// Not the SCALE encoding of the shape.
    #[error("the payload of a timelocked commit is no SCALE encoding of it: {0}")]
    Encoding(String),
    /// The hotkey is none.
    #[error("the hotkey in a timelocked commit must have 32 bytes, found {0}")]
    Hotkey(usize),
    /// Not a vector.
    #[error("the payload of a timelocked commit cannot be used: {0}")]
    Lengths(#[from] LengthsDiffer),
}

// === impl PayloadShape ===

impl PayloadShape {
    /// The layout for a chain's `CommitRevealWeightsVersion`.
    ///
    /// # Errors
    /// For a version this program does not know.
    pub fn for_version(version: u16) -> Result<Self, UnknownVersion> {
        match version {
            3 => Ok(Self::WithoutHotkey),
            4 => Ok(Self::WithHotkey),
            found => Err(UnknownVersion { found }),
        }
    }
}

// === impl Payload ===

impl Payload {
    /// The payload for a vector.
    ///
    /// # Errors
    /// When the vector's halves differ in length.
    pub fn new(hotkey: Hotkey, vector: &SetWeights, shape: PayloadShape) -> Result<Self, LengthsDiffer> {
        aligned(&vector.uids, &vector.weights)?;
        let hotkey = (shape == PayloadShape::WithHotkey).then_some(hotkey);
        let SetWeights { uids, weights, version_key, .. } = vector.clone();
        Ok(Self { hotkey, uids, weights, version_key })
    }

    /// SCALE: `Vec<u8>` hotkey where there is one, `Vec<u16>` uids, `Vec<u16>` weights, `u64` version key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let uids: Vec<u16> = self.uids.iter().map(|uid| uid.0).collect();
        let vector = (uids, &self.weights, self.version_key);
        match self.hotkey {
            Some(hotkey) => (hotkey.0.as_slice(), vector).encode(),
            None => vector.encode(),
        }
    }

    /// Reads a payload; the bytes may be anything.
    ///
    /// # Errors
    /// When they are no payload of this shape, or more than one.
    pub fn decode(bytes: &[u8], shape: PayloadShape) -> Result<Self, BadPayload> {
        type Vector = (Vec<u16>, Vec<u16>, u64);
        let bad = |error: parity_scale_codec::Error| BadPayload::Encoding(error.to_string());
        let (hotkey, (uids, weights, version_key)) = match shape {
            PayloadShape::WithHotkey => {
                let (hotkey, vector) = <(Vec<u8>, Vector)>::decode_all(&mut &*bytes).map_err(bad)?;
                let hotkey = hotkey.try_into().map_err(|hotkey: Vec<u8>| BadPayload::Hotkey(hotkey.len()))?;
                (Some(Hotkey(hotkey)), vector)
            }
            PayloadShape::WithoutHotkey => (None, Vector::decode_all(&mut &*bytes).map_err(bad)?),
        };
        if uids.len() != weights.len() {
            return Err(LengthsDiffer { uids: uids.len(), weights: weights.len() }.into());
        }
        Ok(Self { hotkey, uids: uids.into_iter().map(Uid).collect(), weights, version_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(hotkey: Option<Hotkey>) -> Payload {
        Payload { hotkey, uids: vec![Uid(1), Uid(258)], weights: vec![65_535, 3], version_key: 10_005_000 }
    }

    #[test]
    fn bytes_are_those_of_the_pallets_structs() {
        let vector = "08 01000201 08 ffff0300 08aa980000000000".replace(' ', "");
        let legacy = payload(None);
        assert_eq!(hex::encode(legacy.encode()), vector);
        let signed = payload(Some(Hotkey([7; 32])));
        assert_eq!(hex::encode(signed.encode()), format!("80{}{vector}", "07".repeat(32)));
        assert_eq!(Payload::decode(&legacy.encode(), PayloadShape::WithoutHotkey), Ok(legacy));
        assert_eq!(Payload::decode(&signed.encode(), PayloadShape::WithHotkey), Ok(signed));
    }

    #[test]
    fn the_chain_says_which_shape() {
        assert_eq!(PayloadShape::for_version(4), Ok(PayloadShape::WithHotkey));
        assert_eq!(PayloadShape::for_version(3), Ok(PayloadShape::WithoutHotkey));
        assert_eq!(
            PayloadShape::for_version(5).unwrap_err().to_string(),
            "the chain wants timelocked commits of version 5, this program makes versions 3 and 4: a newer version of it is needed"
        );
    }

    #[test]
    fn what_is_no_payload_is_refused() {
        let good = payload(Some(Hotkey([7; 32]))).encode();
        let decode = |bytes: &[u8]| Payload::decode(bytes, PayloadShape::WithHotkey).unwrap_err();
        assert!(matches!(decode(&good[..good.len() - 1]), BadPayload::Encoding(_)));
        assert!(matches!(decode(&[&good[..], &[0]].concat()), BadPayload::Encoding(_)));
        assert_eq!(decode(&(vec![7_u8; 31], (vec![1_u16], vec![2_u16], 0_u64)).encode()), BadPayload::Hotkey(31));
        let uneven = (vec![7_u8; 32], (vec![1_u16, 2], vec![2_u16], 0_u64)).encode();
        assert_eq!(decode(&uneven), BadPayload::Lengths(LengthsDiffer { uids: 2, weights: 1 }));
        // A length of a thousand million and nothing behind it.
        assert!(matches!(decode(&[0xfe, 0xff, 0xff, 0xff]), BadPayload::Encoding(_)));
    }
}
