//! A state as bytes: a JSON head with everything countable, then numbers as little-endian f32, exact and half the size of
//! decimal digits.
//!
//! ```text
//! length of the head, u64 little-endian │ head │ numbers × f32
//! ```

use openvalidators_messages::ledger::Snapshot;
use serde::{Serialize, de::DeserializeOwned};

/// A snapshot that cannot be used. No obstacle to a start: the steps are folded anew, as far back as the ledger goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another program wrote it.
    #[error("the snapshot has version {found}; this program reads version {wanted}")]
    OtherVersion {
        /// The version found.
        found: u16,
        /// The owner's version now.
        wanted: u16,
    },
    /// The bytes are not what they should be.
    #[error("the snapshot of {bytes} bytes is damaged: {reason}")]
    Damaged {
        /// Its size.
        bytes: usize,
        /// What was found.
        reason: String,
    },
}

/// The bytes of a state.
///
/// # Errors
/// When the head cannot be written as JSON.
pub fn encode<'a, H: Serialize>(
    head: &H,
    numbers: impl IntoIterator<Item = &'a f32>,
) -> Result<Vec<u8>, serde_json::Error> {
    let head = serde_json::to_vec(head)?;
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&head);
    bytes.extend(numbers.into_iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

/// The head of a snapshot, and its numbers in their order. Whether they are as many as the head tells of is the owner's to
/// say.
///
/// # Errors
/// When another version wrote it, or the bytes are damaged.
pub fn decode<H: DeserializeOwned>(snapshot: &Snapshot, version: u16) -> Result<(H, Vec<f32>), SnapshotError> {
    check_version(snapshot, version)?;
    let (length, rest) = snapshot.state.split_first_chunk().ok_or_else(|| damaged(snapshot, "it has no head"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| damaged(snapshot, error))?;
    let (head, numbers) = rest.split_at_checked(length).ok_or_else(|| damaged(snapshot, "its head is cut off"))?;
    let head = serde_json::from_slice(head).map_err(|error| damaged(snapshot, error))?;
    let (numbers, []) = numbers.as_chunks::<4>() else {
        return Err(damaged(snapshot, format!("{} bytes after its head are no whole numbers", numbers.len())));
    };
    Ok((head, numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
}

/// # Errors
/// When another version wrote it.
pub fn check_version(snapshot: &Snapshot, wanted: u16) -> Result<(), SnapshotError> {
    match snapshot.version {
        found if found == wanted => Ok(()),
        found => Err(SnapshotError::OtherVersion { found, wanted }),
    }
}

/// What is wrong with the bytes of a snapshot.
pub fn damaged(snapshot: &Snapshot, reason: impl ToString) -> SnapshotError {
    SnapshotError::Damaged { bytes: snapshot.state.len(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use openvalidators_messages::Sequence;
    use proptest::prelude::*;

    use super::*;

    const VERSION: u16 = 3;

    fn snapshot(state: Vec<u8>) -> Snapshot {
        Snapshot { sequence: Sequence(9), version: VERSION, state }
    }

    proptest! {
        #[test]
        fn head_and_numbers_come_back_bit_for_bit(head: (u64, String), bits: Vec<u32>) {
            let numbers: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
            let state = encode(&head, &numbers).unwrap();
            let (found, back) = decode::<(u64, String)>(&snapshot(state), VERSION).unwrap();
            prop_assert_eq!(found, head);
            prop_assert_eq!(back.into_iter().map(f32::to_bits).collect::<Vec<_>>(), bits);
        }

        /// Whatever a disk makes of the bytes: words, no panic, and no memory that a made-up length asks for.
        #[test]
        fn arbitrary_bytes_are_refused_or_read(state: Vec<u8>) {
            let _ = decode::<Vec<u64>>(&snapshot(state), VERSION);
        }
    }

    #[test]
    fn a_snapshot_that_is_of_no_use_says_why() {
        let state = encode(&[1, 2], &[0.5, 0.25]).unwrap();
        let length = state.len();
        for (cut, said) in [(7, "no head"), (12, "cut off"), (length - 1, "no whole numbers")] {
            let error = decode::<Vec<u64>>(&snapshot(state[..cut].to_vec()), VERSION).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the snapshot of {cut} bytes is damaged")), "{error}");
            assert!(error.contains(said), "{error}");
        }
        let error = decode::<Vec<u64>>(&snapshot(state), VERSION + 1).unwrap_err();
        assert_eq!(error.to_string(), "the snapshot has version 3; this program reads version 4");
    }
}
