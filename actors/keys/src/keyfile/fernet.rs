//! Fernet (<https://github.com/fernet/spec/blob/master/Spec.md>): base64 of version, time, initial vector, content, code.

use aes::cipher::{BlockDecryptMut, KeyIvInit, block_padding::Pkcs7};
use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{KeyfileError, Secret};

/// The same for every wallet there is.
const SALT: &[u8] = b"Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins";
const ROUNDS: u32 = 10_000_000;

const VERSION: u8 = 0x80;
const HEAD_BYTES: usize = 1 + 8;
const VECTOR_BYTES: usize = 16;
const CODE_BYTES: usize = 32;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn open(file: &[u8], password: &[u8]) -> Result<Secret, KeyfileError> {
    open_with(file, || keys(password))
}

/// With keys that are asked for when the file has the form of one.
pub(super) fn open_with(file: &[u8], keys: impl FnOnce() -> Zeroizing<[u8; 32]>) -> Result<Secret, KeyfileError> {
    let damaged = |what: &str| KeyfileError::damaged(what);
    let token = BASE64.decode(file.trim_ascii()).map_err(|_| damaged("it is not base64"))?;
    if token.len() < HEAD_BYTES + VECTOR_BYTES + CODE_BYTES || token[0] != VERSION {
        return Err(damaged("it is no Fernet token"));
    }
    let (signed, code) = token.split_at(token.len() - CODE_BYTES);
    let (vector, content) = signed[HEAD_BYTES..].split_at(VECTOR_BYTES);

    let keys = keys();
    let (code_key, key) = keys.split_at(16);
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(code_key).map_err(|_| damaged("no key"))?;
    mac.update(signed);
    mac.verify_slice(code).map_err(|_| KeyfileError::WrongPassword)?;
    let mut content = Zeroizing::new(content.to_vec());
    let length = cbc::Decryptor::<aes::Aes128>::new_from_slices(key, vector)
        .map_err(|_| damaged("no key"))?
        .decrypt_padded_mut::<Pkcs7>(&mut content)
        .map_err(|_| damaged("its padding is wrong"))?
        .len();
    content.truncate(length);
    Ok(content)
}

pub(super) fn keys(password: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut keys = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, SALT, ROUNDS, keys.as_mut_slice());
    keys
}
