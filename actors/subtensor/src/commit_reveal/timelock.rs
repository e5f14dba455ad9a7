//! Encryption to a future round of drand's quicknet: what `bittensor-drand` writes and the pallet opens.
//!
//! The identity-based encryption of Boneh and Franklin (FullIdent, "Identity-Based Encryption from the Weil Pairing",
//! 2001) with a threshold BLS beacon in the place of its key server, as in "tlock: Practical Timelock Encryption from
//! Threshold BLS" (ePrint 2023/189). The identity is a round's message; the key that opens it is that round's signature,
//! which nobody has before its time:
//!
//! ```text
//! encrypt, key and σ random:  r = H3(σ ‖ key)     U = r·G2     V = σ ⊕ H2(e(Q, P)^r)     W = key ⊕ H4(σ)
//! decrypt, with signature S:  σ = V ⊕ H2(e(S, U))     key = W ⊕ H4(σ)     and U must be H3(σ ‖ key)·G2
//! ```
//!
//! Q is the round's message hashed to G1, P the beacon's key in G2, H2 and H4 are SHA-256, H3 is SHA-256 taken as a scalar.
//! `key` then encrypts the text with AES-256-GCM. `e(Q, P)^r` is computed as `e(r·Q, P)`, so that `r` is what blst calls a
//! secret key, `U` its public key and `r·Q` its signature: no curve arithmetic is written here, and none of it is unsafe.

use blst::{
    BLST_ERROR, blst_fp12, blst_p1_affine, blst_p2_affine,
    min_sig::{PublicKey, SecretKey, Signature},
};
use openvalidators_messages::{Hotkey, subtensor::SetWeights};
use rand::CryptoRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use super::{
    LengthsDiffer,
    container::{BadContainer, Container, MAX_CONTAINER_BYTES},
    payload::{Payload, PayloadShape, UnknownVersion},
};

/// The key of drand's quicknet, chain hash 52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971.
const QUICKNET_KEY: &str = concat!(
    "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451",
    "0d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a",
);
/// Of its signatures (RFC 9380).
const DOMAIN: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
/// The order of the groups, big-endian.
const ORDER: [u8; 32] = [
    0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53, 0xbd, 0xa4,
    0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
];
const COORDINATE_BYTES: usize = 48;

/// What `commit_timelocked_weights` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelockedCommit {
    /// The encrypted payload.
    pub container: Vec<u8>,
    /// The drand round that opens it.
    pub reveal_round: u64,
    /// The chain's `CommitRevealWeightsVersion` it was made for.
    pub version: u16,
}

/// The beacon's signature of one round: what opens everything encrypted to it. Always a true one.
#[derive(Clone, Copy, Debug)]
pub struct RoundSignature {
    round: u64,
    point: Signature,
}

/// Why weights could not be hidden.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEncrypted {
    /// The chain wants another version.
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    /// Not a vector.
    #[error(transparent)]
    Vector(#[from] LengthsDiffer),
    /// More than the chain takes.
    #[error(
        "encrypted, {plaintext} bytes of weights come to {container}, and the chain takes {MAX_CONTAINER_BYTES}: name fewer uids"
    )]
    TooLong {
        /// Before.
        plaintext: usize,
        /// After.
        container: usize,
    },
    /// A cryptographic library refused what it never should.
    #[error("the weights could not be encrypted: {0}")]
    Library(&'static str),
}

/// A signature that the beacon never made for this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not quicknet's signature of round {round} ({reason})")]
pub struct WrongSignature {
    /// The round it was said to be of.
    pub round: u64,
    /// blst's finding.
    pub reason: &'static str,
}

/// Why a container did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecrypted {
    /// It is none.
    #[error(transparent)]
    Container(#[from] BadContainer),
    /// U is no point of the group.
    #[error("the timelocked commit holds no point of the curve's group ({0})")]
    Point(&'static str),
    /// The key does not belong to it: another round, or changed bytes.
    #[error("the timelocked commit does not open with the signature of round {round}: made for another, or damaged")]
    Key {
        /// The round that was tried.
        round: u64,
    },
    /// The key fits and the text was changed.
    #[error("the text of the timelocked commit was changed after it was encrypted")]
    Text,
}

// === impl TimelockedCommit ===

impl TimelockedCommit {
    /// Hides a vector until the given round. `rng` must be secret, see [the module](super).
    ///
    /// # Errors
    /// When the chain wants a version this program does not know, the vector is none, or too long for one commit.
    pub fn new(
        hotkey: Hotkey,
        vector: &SetWeights,
        version: u16,
        reveal_round: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, NotEncrypted> {
        let payload = Payload::new(hotkey, vector, PayloadShape::for_version(version)?)?;
        Ok(Self { container: encrypt(&payload.encode(), reveal_round, rng)?, reveal_round, version })
    }
}

// === impl RoundSignature ===

impl RoundSignature {
    /// Checks a signature against the beacon's key.
    ///
    /// # Errors
    /// When it is not the signature of that round.
    pub fn verify(round: u64, signature: &[u8]) -> Result<Self, WrongSignature> {
        let wrong = |error| WrongSignature { round, reason: name(error) };
        let point = Signature::sig_validate(signature, true).map_err(wrong)?;
        let key = quicknet().map_err(wrong)?;
        match point.verify(false, &message(round), DOMAIN, &[], &key, false) {
            BLST_ERROR::BLST_SUCCESS => Ok(Self { round, point }),
            error => Err(wrong(error)),
        }
    }
}

/// Encrypts a text so that it opens with the signature of the given round.
///
/// Key, σ and nonce are hashes of 32 drawn bytes, the round and the text: a generator that is set back and draws the same
/// again repeats a container, and never has two texts under one key and nonce.
///
/// # Errors
/// When the text is too long for one commit.
pub fn encrypt(plaintext: &[u8], round: u64, rng: &mut impl CryptoRng) -> Result<Vec<u8>, NotEncrypted> {
    let mut drawn = [0; 32];
    rng.fill_bytes(&mut drawn);
    let secret = |purpose: &[u8]| hash(&[&drawn, &round.to_be_bytes(), purpose, plaintext]);
    let (key, sigma, nonce) = (secret(b"key"), secret(b"sigma"), secret(b"nonce"));

    let library = |error| NotEncrypted::Library(name(error));
    let r = scalar(&sigma, &key).map_err(library)?;
    let masked = r.sign(&message(round), DOMAIN, &[]);
    let v = xor(&sigma, &pairing(quicknet().map_err(library)?, masked));
    let w = xor(&key, &hash(&[&sigma]));

    let nonce = std::array::from_fn(|i| nonce[i]);
    let mut ciphertext = plaintext.to_vec();
    cipher(&key)
        .and_then(|cipher| {
            cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut ciphertext)
        })
        .map_err(|_| NotEncrypted::Library("AES-256-GCM"))?;
    let container = Container { u: r.sk_to_pk().compress(), v, w, ciphertext, nonce }.write();
    if container.len() > MAX_CONTAINER_BYTES {
        return Err(NotEncrypted::TooLong { plaintext: plaintext.len(), container: container.len() });
    }
    Ok(container)
}

/// Opens a container; its bytes may be anything. For an operator who wants to see what was committed: the chain opens
/// commits itself.
///
/// # Errors
/// When the bytes are no container, were changed, or were encrypted to another round.
pub fn decrypt(container: &[u8], signature: &RoundSignature) -> Result<Vec<u8>, NotDecrypted> {
    let Container { u, v, w, mut ciphertext, nonce } = Container::read(container)?;
    let point = PublicKey::key_validate(&u).map_err(|error| NotDecrypted::Point(name(error)))?;
    let sigma = xor(&v, &pairing(point, signature.point));
    let key = xor(&w, &hash(&[&sigma]));
    let wrong_key = NotDecrypted::Key { round: signature.round };
    // Without this, who changes V or W learns from what happens next.
    match scalar(&sigma, &key) {
        Ok(r) if r.sk_to_pk().compress() == u => {}
        _ => return Err(wrong_key),
    }
    let cipher = cipher(&key).map_err(|_| wrong_key)?;
    let text = cipher
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut ciphertext)
        .map_err(|_| NotDecrypted::Text)?;
    Ok(text.to_vec())
}

fn quicknet() -> Result<PublicKey, BLST_ERROR> {
    let mut key = [0; 2 * COORDINATE_BYTES];
    hex::decode_to_slice(QUICKNET_KEY, &mut key).map_err(|_| BLST_ERROR::BLST_BAD_ENCODING)?;
    PublicKey::key_validate(&key)
}

/// What the beacon signs in a round, and so the identity encrypted to.
fn message(round: u64) -> [u8; 32] {
    hash(&[&round.to_be_bytes()])
}

/// H2 of a pairing: SHA-256 over the twelve coordinates of the result as arkworks writes them, each little-endian, the six
/// of c0 before those of c1. blst writes them big-endian, and c0 and c1 by turns in pairs.
fn pairing(of_g2: PublicKey, of_g1: Signature) -> [u8; 32] {
    let (q, p): (blst_p2_affine, blst_p1_affine) = (of_g2.into(), of_g1.into());
    let mut coordinates = blst_fp12::miller_loop(&q, &p).final_exp().to_bendian();
    coordinates.chunks_mut(COORDINATE_BYTES).for_each(<[u8]>::reverse);
    let pairs = || coordinates.chunks(2 * COORDINATE_BYTES);
    let mut hash = Sha256::new();
    pairs().step_by(2).chain(pairs().skip(1).step_by(2)).for_each(|pair| hash.update(pair));
    hash.finalize().into()
}

/// H3: a hash as a scalar, big-endian, modulo the order of the groups; 0, which never happens, is an error.
fn scalar(sigma: &[u8; 32], key: &[u8; 32]) -> Result<SecretKey, BLST_ERROR> {
    let mut value = hash(&[sigma, key]);
    while value >= ORDER {
        let mut borrow = false;
        for (digit, order) in value.iter_mut().zip(ORDER).rev() {
            let (less, under) = digit.overflowing_sub(order);
            let (less, under_again) = less.overflowing_sub(borrow.into());
            (*digit, borrow) = (less, under || under_again);
        }
    }
    SecretKey::from_bytes(&value)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, ring::error::Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn xor(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| left[i] ^ right[i])
}

fn name(error: BLST_ERROR) -> &'static str {
    match error {
        BLST_ERROR::BLST_SUCCESS => "no error",
        BLST_ERROR::BLST_BAD_ENCODING => "bad encoding",
        BLST_ERROR::BLST_POINT_NOT_ON_CURVE => "not on the curve",
        BLST_ERROR::BLST_POINT_NOT_IN_GROUP => "not in the group",
        BLST_ERROR::BLST_AGGR_TYPE_MISMATCH => "type mismatch",
        BLST_ERROR::BLST_VERIFY_FAIL => "it does not verify",
        BLST_ERROR::BLST_PK_IS_INFINITY => "the point at infinity",
        BLST_ERROR::BLST_BAD_SCALAR => "bad scalar",
    }
}

#[cfg(test)]
mod tests;
