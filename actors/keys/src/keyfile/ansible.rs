//! Ansible Vault 1.1 and 1.2 (<https://docs.ansible.com/ansible/latest/vault_guide/vault_using_encrypted_content.html>):
//! a header line, then the hexadecimal form of three hexadecimal lines: salt, code of authenticity, content.

use aes::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{KeyfileError, Secret};

const ROUNDS: u32 = 10_000;
const BLOCK_BYTES: usize = 16;

/// Both keys and the first counter.
type Keys = Zeroizing<[u8; 80]>;

pub(super) fn open(file: &[u8], password: &[u8]) -> Result<Secret, KeyfileError> {
    open_with(file, |salt| keys(password, salt))
}

/// With keys that are asked for, by the salt, when the file has the form of one.
pub(super) fn open_with(file: &[u8], keys: impl FnOnce(&[u8]) -> Keys) -> Result<Secret, KeyfileError> {
    let damaged = |what: &str| KeyfileError::damaged(what);
    let text = std::str::from_utf8(file).map_err(|_| damaged("an Ansible Vault is text"))?;
    let (header, body) = text.trim_start().split_once('\n').ok_or_else(|| damaged("it ends after its first line"))?;
    let mut header = header.trim_end().split(';').skip(1);
    let (version, cipher) = (header.next().unwrap_or_default(), header.next().unwrap_or_default());
    if !matches!(version, "1.1" | "1.2") || cipher != "AES256" {
        return Err(damaged("it is an Ansible Vault of another kind than 1.1 or 1.2 with AES256"));
    }
    let digits: String = body.split_ascii_whitespace().collect();
    let lines = hex::decode(digits).map_err(|_| damaged("a line is not hexadecimal"))?;
    let mut lines = lines.split(|byte| *byte == b'\n').map(hex::decode);
    let (Some(Ok(salt)), Some(Ok(code)), Some(Ok(content)), None) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(damaged("it does not hold salt, code and content"));
    };

    let keys = keys(&salt);
    let (key, rest) = keys.split_at(32);
    let (code_key, counter) = rest.split_at(32);
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(code_key).map_err(|_| damaged("no key"))?;
    mac.update(&content);
    mac.verify_slice(&code).map_err(|_| KeyfileError::WrongPassword)?;
    let mut content = Zeroizing::new(content);
    let mut stream = ctr::Ctr128BE::<aes::Aes256>::new_from_slices(key, counter).map_err(|_| damaged("no key"))?;
    stream.apply_keystream(&mut content);
    // Vaults pad as block ciphers do (PKCS #7), though a stream needs none.
    let padding = content.last().map_or(0, |last| usize::from(*last));
    if !(1..=BLOCK_BYTES).contains(&padding) || padding > content.len() {
        return Err(damaged("its padding is wrong"));
    }
    let length = content.len() - padding;
    content.truncate(length);
    Ok(content)
}

pub(super) fn keys(password: &[u8], salt: &[u8]) -> Keys {
    let mut keys = Keys::new([0; 80]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, ROUNDS, keys.as_mut_slice());
    keys
}
