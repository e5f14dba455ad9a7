//! Keyfiles of Bittensor's wallets, in every format they have had.
//!
//! | a file that begins with | is | its key comes from the password by |
//! |---|---|---|
//! | `{` | the plain JSON | no password |
//! | `$NACL` | XSalsa20-Poly1305 over the JSON: what wallets write today | Argon2i, 512 MiB, 8 passes |
//! | `$ANSIBLE_VAULT` | AES-256-CTR and HMAC-SHA256 over it: what they wrote before | PBKDF2, 10,000 rounds |
//! | `gAAAAA` | Fernet, AES-128-CBC and HMAC-SHA256 over it: what they wrote first | PBKDF2, 10,000,000 rounds |
//!
//! Source: `bittensor_wallet/keyfile.py` of bittensor-wallet 1.0.0, the last that reads all four, and `keyfile.rs` of 4.1.1.

use std::fmt;

use openvalidators_messages::Hotkey;
use zeroize::Zeroizing;

use crate::ss58;

mod ansible;
mod fernet;
mod nacl;
mod plain;

pub(crate) use plain::{address_in, signer};

/// The largest keyfile that is read; real ones have at most 3 KiB.
pub const MAX_BYTES: usize = 64 * 1_024;

/// Bytes that are overwritten when they are dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// How a keyfile is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON that anybody who can read the file can use.
    Plain,
    /// Encrypted as bittensor-wallet does it today.
    Nacl,
    /// Encrypted with Ansible Vault, as long ago.
    Ansible,
    /// Encrypted with Fernet, as longer ago.
    Fernet,
}

/// A keyfile that gives no hotkey. Its words never repeat what is in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyfileError {
    /// The code of authenticity does not match.
    #[error("the password does not open it (or the file was changed since it was written)")]
    WrongPassword,
    /// No format of a wallet.
    #[error("it is {found}, not the keyfile of a Bittensor wallet: {remedy}")]
    NotAKeyfile {
        /// What it seems to be.
        found: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The format's own rules are broken.
    #[error("it is damaged: {0}. Restore it from a backup, or from its phrase with `btcli wallet regen-hotkey`")]
    Damaged(String),
    /// The format takes more memory than there is.
    #[error(
        "opening it takes {} MiB of memory for a moment, which the system did not give: allow them (MemoryMax of a \
         systemd service, limit of a container)",
        nacl::MEMORY_KIB / 1_024
    )]
    NoMemory,
    /// The public file, or one that was stripped.
    #[error("it holds a public key and no secret: name the hotkey's own file, not the one that ends in `pub.txt`")]
    PublicOnly,
    /// The other signature scheme.
    #[error(
        "it is an ed25519 key, and miners verify sr25519 signatures: make a hotkey with `btcli wallet new-hotkey \
         --crypto-type sr25519` and register that"
    )]
    Ed25519,
    /// The file contradicts itself.
    #[error(
        "its secret is that of {derived}, but it says {written}: the file was put together from two keys. Restore it \
         from a backup, or from its phrase with `btcli wallet regen-hotkey`"
    )]
    Mismatch {
        /// The address, or key, that is written in it.
        written: String,
        /// The address of its secret.
        derived: String,
    },
}

// === impl Format ===

impl Format {
    /// By the first bytes.
    ///
    /// # Errors
    /// When no wallet writes such a file.
    pub fn of(bytes: &[u8]) -> Result<Self, KeyfileError> {
        let bytes = bytes.trim_ascii_start();
        let not = |found, remedy| Err(KeyfileError::NotAKeyfile { found, remedy });
        if bytes.starts_with(b"$NACL") {
            Ok(Self::Nacl)
        } else if bytes.starts_with(b"$ANSIBLE_VAULT") {
            Ok(Self::Ansible)
        } else if bytes.starts_with(b"gAAAAA") {
            Ok(Self::Fernet)
        } else if bytes.starts_with(b"{") {
            Ok(Self::Plain)
        } else if bytes.is_empty() {
            not("an empty file", "restore it from a backup, or from its phrase with `btcli wallet regen-hotkey`")
        } else if looks_like_a_phrase(bytes) {
            not("plain words, maybe a phrase", "make the keyfile from the phrase with `btcli wallet regen-hotkey`")
        } else if bytes.starts_with(b"0x") {
            not("a bare hexadecimal key", "make the keyfile from the seed with `btcli wallet regen-hotkey`")
        } else {
            not("a file of another format", "check wallet.name, wallet.hotkey and wallet.path")
        }
    }

    /// Whether it takes a password.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        self != Self::Plain
    }

    /// The plain JSON. The password is not looked at where there is none to give.
    pub(crate) fn unlock(self, bytes: Secret, password: &[u8]) -> Result<Secret, KeyfileError> {
        match self {
            Self::Plain => Ok(bytes),
            Self::Nacl => nacl::open(&bytes, password),
            Self::Ansible => ansible::open(&bytes, password),
            Self::Fernet => fernet::open(&bytes, password),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "not encrypted",
            Self::Nacl => "encrypted (NaCl)",
            Self::Ansible => "encrypted (Ansible Vault, an old format)",
            Self::Fernet => "encrypted (Fernet, the oldest format)",
        })
    }
}

// === impl KeyfileError ===

impl KeyfileError {
    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    fn mismatch(written: impl Into<String>, derived: &Hotkey) -> Self {
        Self::Mismatch { written: written.into(), derived: ss58::encode(derived) }
    }
}

fn looks_like_a_phrase(bytes: &[u8]) -> bool {
    let is_word = |word: &[u8]| word.iter().all(u8::is_ascii_lowercase);
    let words = bytes.trim_ascii().split(u8::is_ascii_whitespace);
    bytes.trim_ascii().contains(&b' ') && words.into_iter().all(is_word)
}

#[cfg(test)]
mod tests;
