//! The JSON inside every keyfile. Fields came and went with the versions, so the first secret that is there counts, and it
//! must belong to the public key that is written beside it.

use bip39::{Language, Mnemonic};
use openvalidators_messages::Hotkey;
use schnorrkel::SecretKey;
use serde::Deserialize;
use sha2::Sha512;
use zeroize::Zeroizing;

use super::KeyfileError;
use crate::{HotkeySigner, ss58};

/// `cryptoType` of the scheme that Bittensor's hotkeys use; older files, which knew no other, do not say it.
const SR25519: u8 = 1;

/// Rounds of BIP 39.
const PHRASE_ROUNDS: u32 = 2_048;

/// What of it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plain {
    secret_seed: Option<Zeroizing<String>>,
    private_key: Option<Zeroizing<String>>,
    secret_phrase: Option<Zeroizing<String>>,
    public_key: Option<String>,
    account_id: Option<String>,
    ss58_address: Option<String>,
    crypto_type: Option<u8>,
    /// Of polkadot-js alone.
    encoded: Option<serde::de::IgnoredAny>,
}

/// The signer of a plain keyfile.
pub(crate) fn signer(json: &[u8]) -> Result<HotkeySigner, KeyfileError> {
    let plain = parse(json)?;
    if plain.crypto_type.is_some_and(|scheme| scheme != SR25519) {
        return Err(KeyfileError::Ed25519);
    }
    let signer = if let Some(seed) = &plain.secret_seed {
        HotkeySigner::from_seed(&*digits("secretSeed", seed)?)
    } else if let Some(private_key) = &plain.private_key {
        of_private_key(&*digits("privateKey", private_key)?, &plain)?
    } else if let Some(phrase) = &plain.secret_phrase {
        HotkeySigner::from_seed(&*seed_of_phrase(phrase)?)
    } else {
        return Err(KeyfileError::PublicOnly);
    };
    plain.must_name(&signer.hotkey())?;
    Ok(signer)
}

/// The address that a public file says.
pub(crate) fn address_in(json: &[u8]) -> Result<Hotkey, KeyfileError> {
    let plain = parse(json)?;
    let address = plain.ss58_address.ok_or_else(|| KeyfileError::damaged("it names no address"))?;
    ss58::decode(&address).map_err(|error| KeyfileError::damaged(error.to_string()))
}

fn parse(json: &[u8]) -> Result<Plain, KeyfileError> {
    let plain: Plain = serde_json::from_slice(json).map_err(|error| {
        // The parser's own words may quote a value.
        let (line, column) = (error.line(), error.column());
        KeyfileError::damaged(format!("line {line}, column {column} is not what a keyfile has there"))
    })?;
    if plain.encoded.is_some() {
        return Err(KeyfileError::NotAKeyfile {
            found: "a keystore of polkadot-js",
            remedy: "make the keyfile from its phrase or seed with `btcli wallet regen-hotkey`",
        });
    }
    Ok(plain)
}

/// `0x` and two digits for each byte.
fn digits<const N: usize>(field: &str, text: &str) -> Result<Zeroizing<[u8; N]>, KeyfileError> {
    let mut bytes = Zeroizing::new([0; N]);
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode_to_slice(digits, bytes.as_mut_slice())
        .map_err(|_| KeyfileError::damaged(format!("{field} is not {} hexadecimal digits", 2 * N)))?;
    Ok(bytes)
}

/// An expanded key has two written forms, which bytes alone do not tell apart: Substrate's own and that of ed25519. The
/// public key beside it does.
fn of_private_key(bytes: &[u8; 64], plain: &Plain) -> Result<HotkeySigner, KeyfileError> {
    let forms = [SecretKey::from_bytes(bytes), SecretKey::from_ed25519_bytes(bytes)];
    let mut signers = forms.into_iter().flatten().map(HotkeySigner::from_secret).peekable();
    let first = signers.peek().map(HotkeySigner::hotkey);
    let first = first.ok_or_else(|| KeyfileError::damaged("privateKey is no sr25519 key"))?;
    signers.find(|signer| plain.must_name(&signer.hotkey()).is_ok()).ok_or_else(|| {
        plain.must_name(&first).err().unwrap_or_else(|| KeyfileError::damaged("privateKey is no sr25519 key"))
    })
}

/// Substrate's way from a phrase to a key: BIP 39 over the entropy, not over the words
/// (<https://github.com/paritytech/substrate-bip39>).
fn seed_of_phrase(phrase: &str) -> Result<Zeroizing<[u8; 32]>, KeyfileError> {
    let words = phrase.split_ascii_whitespace().collect::<Vec<_>>();
    let phrase = Zeroizing::new(words.join(" "));
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &phrase).map(Zeroizing::new);
    let mnemonic = mnemonic.map_err(|_| KeyfileError::damaged("secretPhrase is no phrase of English BIP 39 words"))?;
    let (entropy, length) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let mut seed = Zeroizing::new([0; 64]);
    pbkdf2::pbkdf2_hmac::<Sha512>(&entropy[..length], b"mnemonic", PHRASE_ROUNDS, seed.as_mut_slice());
    let mut mini = Zeroizing::new([0; 32]);
    mini.copy_from_slice(&seed[..32]);
    Ok(mini)
}

// === impl Plain ===

impl Plain {
    /// Whether everything that is written about the public key says this one.
    fn must_name(&self, hotkey: &Hotkey) -> Result<(), KeyfileError> {
        for written in [&self.public_key, &self.account_id].into_iter().flatten() {
            if written.strip_prefix("0x").unwrap_or(written).to_ascii_lowercase() != hex::encode(hotkey.0) {
                return Err(KeyfileError::mismatch(shortened(written), hotkey));
            }
        }
        match &self.ss58_address {
            Some(written) if ss58::decode(written).as_ref() != Ok(hotkey) => {
                Err(KeyfileError::mismatch(shortened(written), hotkey))
            }
            _ => Ok(()),
        }
    }
}

/// Public, but as long as the file likes.
fn shortened(written: &str) -> String {
    written.chars().filter(|c| !c.is_control()).take(66).collect()
}
