//! The bytes of a timelocked commit: arkworks' compressed serialisation of `TLECiphertext<TinyBLS381>`
//! (ideal-lab5/timelock at `5416406`, which the pallet and `bittensor-drand` use; `timelock` 0.0.1 on crates.io).
//!
//! ```text
//! U                   96  a point of G2, compressed
//! 32 | V              8 + 32
//! 32 | W              8 + 32
//! length of the body  8
//!   n + 16 | ciphertext with its tag   8 + n + 16
//!   12 | nonce                         8 + 12
//! 8 | "AES_GCM_"      8 + 8
//! ```
//!
//! All lengths are u64, little-endian. A reader that believed them could be made to reserve any amount of memory; here each
//! is compared with what is there before anything is copied.

/// `MAX_CRV3_COMMIT_SIZE_BYTES` of the pallet: room for 1,177 uids.
pub const MAX_CONTAINER_BYTES: usize = 5000;

const POINT_BYTES: usize = 96;
const BLOCK_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const SUITE: &[u8; 8] = b"AES_GCM_";

/// A timelocked commit, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub u: [u8; POINT_BYTES],
    pub v: [u8; BLOCK_BYTES],
    pub w: [u8; BLOCK_BYTES],
    pub ciphertext: Vec<u8>,
    pub nonce: [u8; NONCE_BYTES],
}

/// Bytes that are no timelocked commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadContainer {
    /// More than the chain takes.
    #[error("a timelocked commit has at most {MAX_CONTAINER_BYTES} bytes, found {0}")]
    TooLong(usize),
    /// The bytes end in the middle.
    #[error("the timelocked commit ends within its {part}: {wanted} bytes are wanted, {found} are left")]
    Cut {
        /// Where.
        part: &'static str,
        /// So many should follow.
        wanted: u64,
        /// So many do.
        found: usize,
    },
    /// A part of fixed length has another one.
    #[error("the {part} of a timelocked commit has {wanted} bytes, this one says {found}")]
    Length {
        /// Which.
        part: &'static str,
        /// Its length.
        wanted: usize,
        /// What stands there.
        found: u64,
    },
    /// Another cipher.
    #[error("the timelocked commit is encrypted by {0:?}, only AES_GCM_ is known")]
    Suite([u8; 8]),
    /// Something follows.
    #[error("{0} bytes follow the {1} of the timelocked commit")]
    Trailing(usize, &'static str),
}

// === impl Container ===

impl Container {
    pub fn write(&self) -> Vec<u8> {
        let body = [prefixed(&self.ciphertext), prefixed(&self.nonce)].concat();
        [self.u.to_vec(), prefixed(&self.v), prefixed(&self.w), prefixed(&body), prefixed(SUITE)].concat()
    }

    pub fn read(bytes: &[u8]) -> Result<Self, BadContainer> {
        if bytes.len() > MAX_CONTAINER_BYTES {
            return Err(BadContainer::TooLong(bytes.len()));
        }
        let mut rest = bytes;
        let u = take(&mut rest, POINT_BYTES as u64, "point U")?;
        let v = exactly(&mut rest, "block V")?;
        let w = exactly(&mut rest, "block W")?;
        let mut body = take_prefixed(&mut rest, "body")?;
        let suite = exactly(&mut rest, "cipher suite")?;
        end(rest, "cipher suite")?;
        if suite != *SUITE {
            return Err(BadContainer::Suite(suite));
        }
        let ciphertext = take_prefixed(&mut body, "ciphertext")?.to_vec();
        let nonce = exactly(&mut body, "nonce")?;
        end(body, "nonce")?;
        Ok(Self { u: array(u, "point U")?, v, w, ciphertext, nonce })
    }
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn take<'a>(rest: &mut &'a [u8], count: u64, part: &'static str) -> Result<&'a [u8], BadContainer> {
    let cut = BadContainer::Cut { part, wanted: count, found: rest.len() };
    let (taken, left) = usize::try_from(count).ok().and_then(|count| rest.split_at_checked(count)).ok_or(cut)?;
    *rest = left;
    Ok(taken)
}

fn take_prefixed<'a>(rest: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], BadContainer> {
    let length = u64::from_le_bytes(array(take(rest, 8, part)?, part)?);
    take(rest, length, part)
}

/// A length-prefixed part that always has `N` bytes.
fn exactly<const N: usize>(rest: &mut &[u8], part: &'static str) -> Result<[u8; N], BadContainer> {
    let taken = take_prefixed(rest, part)?;
    array(taken, part)
}

fn array<const N: usize>(bytes: &[u8], part: &'static str) -> Result<[u8; N], BadContainer> {
    bytes.try_into().map_err(|_| BadContainer::Length { part, wanted: N, found: bytes.len() as u64 })
}

fn end(rest: &[u8], part: &'static str) -> Result<(), BadContainer> {
    if rest.is_empty() { Ok(()) } else { Err(BadContainer::Trailing(rest.len(), part)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container() -> Container {
        Container { u: [1; 96], v: [2; 32], w: [3; 32], ciphertext: vec![4; 30], nonce: [5; 12] }
    }

    #[test]
    fn lengths_are_those_of_the_pallet() {
        let bytes = container().write();
        // `get_encrypted_commit_v2` makes 295 bytes for two uids: a payload of 33 + 5 + 5 + 8 bytes and a tag of 16.
        let two_uids = Container { ciphertext: vec![0; 51 + 16], ..container() };
        assert_eq!(two_uids.write().len(), 295);
        assert_eq!(Container::read(&bytes), Ok(container()));
    }

    #[test]
    fn each_way_of_being_wrong_is_named() {
        let good = container().write();
        let change = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            Container::read(&bytes).unwrap_err()
        };
        assert_eq!(change(96, 31), BadContainer::Length { part: "block V", wanted: 32, found: 31 });
        // 2^63 bytes are claimed: compared, not reserved.
        let wanted = (1 << 63) + 32;
        assert_eq!(change(103, 0x80), BadContainer::Cut { part: "block V", wanted, found: good.len() - 104 });
        assert_eq!(change(good.len() - 1, b'?'), BadContainer::Suite(*b"AES_GCM?"));
        // One byte less of ciphertext: the nonce's length is read one byte early.
        assert_eq!(change(184, 29), BadContainer::Cut { part: "nonce", wanted: 0x0c04, found: 13 });
        let long = [&good[..], b"x"].concat();
        assert_eq!(Container::read(&long), Err(BadContainer::Trailing(1, "cipher suite")));
        assert_eq!(Container::read(&[0; 5001]), Err(BadContainer::TooLong(5001)));
        assert_eq!(Container::read(&[]), Err(BadContainer::Cut { part: "point U", wanted: 96, found: 0 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Container::read(&bytes);
        }

        /// What is read is what was written: no two byte strings are the same container.
        #[test]
        fn a_changed_or_cut_container_is_refused_or_another(at in 0usize..280, to in any::<u8>(), cut in 0usize..280) {
            let good = container().write();
            let mut bytes = good.clone();
            let length = bytes.len();
            bytes[at % length] = to;
            if let Ok(read) = Container::read(&bytes) {
                prop_assert_eq!(read.write(), bytes);
            }
            prop_assert!(Container::read(&good[..cut % length]).is_err());
        }
    }
}
