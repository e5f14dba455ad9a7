//! `$NACL`, a nonce of 24 bytes, and libsodium's `crypto_secretbox` (tag first) over the JSON.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use crypto_secretbox::{KeyInit, Nonce, Tag, XSalsa20Poly1305, aead::AeadInPlace};
use zeroize::Zeroizing;

use super::{KeyfileError, Secret};

/// libsodium's `MEMLIMIT_SENSITIVE`, in KiB.
pub(super) const MEMORY_KIB: u32 = 512 * 1_024;

/// libsodium's `OPSLIMIT_SENSITIVE` for Argon2i.
const PASSES: u32 = 8;

/// The same for every wallet there is.
const SALT: [u8; 16] = [0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1];

const MARK: &[u8] = b"$NACL";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

pub(super) fn open(file: &[u8], password: &[u8]) -> Result<Secret, KeyfileError> {
    open_with(file, || key(password))
}

/// With a key that is asked for when the file has the form of one.
pub(super) fn open_with(
    file: &[u8],
    key: impl FnOnce() -> Result<Zeroizing<[u8; 32]>, KeyfileError>,
) -> Result<Secret, KeyfileError> {
    let sealed = file.trim_ascii_start().strip_prefix(MARK).unwrap_or_default();
    let (Some((nonce, rest)), true) = (sealed.split_at_checked(NONCE_BYTES), sealed.len() > NONCE_BYTES + TAG_BYTES)
    else {
        return Err(KeyfileError::damaged("it ends before its content begins"));
    };
    let (tag, content) = rest.split_at(TAG_BYTES);
    let mut content = Zeroizing::new(content.to_vec());
    let key = key()?;
    XSalsa20Poly1305::new(key.as_slice().into())
        .decrypt_in_place_detached(Nonce::from_slice(nonce), b"", &mut content, Tag::from_slice(tag))
        .map_err(|_| KeyfileError::WrongPassword)?;
    Ok(content)
}

pub(super) fn key(password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyfileError> {
    let impossible = |error: argon2::Error| KeyfileError::damaged(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32)).map_err(impossible)?;
    let mut memory: Zeroizing<Vec<Block>> = Zeroizing::default();
    memory.try_reserve_exact(params.block_count()).map_err(|_| KeyfileError::NoMemory)?;
    memory.resize(params.block_count(), Block::new());
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
        .hash_password_into_with_memory(password, &SALT, key.as_mut_slice(), memory.as_mut_slice())
        .map_err(impossible)?;
    Ok(key)
}
