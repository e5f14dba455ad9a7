//! Substrate's secret URIs: `[0xSEED]` and then junctions, `//hard` or `/soft`. Without a seed the well-known
//! development phrase is meant, so `//Alice` is the key every development chain endows
//! (<https://docs.substrate.io/reference/command-line-tools/subkey/>, "hard and soft key derivation").

use blake2::{Blake2b, Digest, digest::consts::U32};
use schnorrkel::{
    ExpansionMode, MiniSecretKey, SecretKey,
    derive::{ChainCode, Derivation},
};
use zeroize::Zeroizing;

/// The mini secret of "bottom drive obey lake curtain smoke basket hold race lonely fit walk": public, worth nothing.
const DEVELOPMENT_SEED: [u8; 32] = [
    0xfa, 0xc7, 0x95, 0x9d, 0xbf, 0xe7, 0x2f, 0x05, 0x2e, 0x5a, 0x0c, 0x3c, 0x8d, 0x65, 0x30, 0xf2, 0x02, 0xb0, 0x2f,
    0xd8, 0xf9, 0xf5, 0xca, 0x35, 0x80, 0xec, 0x8d, 0xeb, 0x77, 0x97, 0x47, 0x9e,
];

/// A junction's chain code has 32 bytes; a longer name is hashed.
const JUNCTION_BYTES: usize = 32;

/// Junctions a URI may have.
const MAX_JUNCTIONS: usize = 16;

/// Bytes a junction's name may have; also keeps its SCALE length prefix at no more than two bytes.
const MAX_NAME_BYTES: usize = 255;

/// A text that is no secret URI. It never repeats the text: that may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The part before the junctions.
    #[error(
        "the secret URI starts with neither `//`, `/` nor `0x` and 64 hexadecimal digits ({found} bytes found): mnemonic phrases are not taken here"
    )]
    BadSeed {
        /// Bytes before the first junction.
        found: usize,
    },
    /// `///` introduces a password, which only phrases have.
    #[error("the secret URI holds an empty junction or a `///` password, which belongs to mnemonic phrases")]
    EmptyJunction,
    /// Beyond the limits.
    #[error("the secret URI has more than {MAX_JUNCTIONS} junctions, or a name of more than {MAX_NAME_BYTES} bytes")]
    TooLong,
}

/// Walks the junctions of `uri`.
pub(crate) fn secret_key(uri: &str) -> Result<SecretKey, UriError> {
    let path_start = uri.find('/').unwrap_or(uri.len());
    let (seed, mut path) = uri.split_at(path_start);
    let mut secret = seed_of(seed, path)?.expand(ExpansionMode::Ed25519);
    let mut junctions = 0;
    while let Some(rest) = path.strip_prefix('/') {
        let (hard, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
        let (name, next) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        junctions += 1;
        if name.is_empty() {
            return Err(UriError::EmptyJunction);
        }
        if junctions > MAX_JUNCTIONS || name.len() > MAX_NAME_BYTES {
            return Err(UriError::TooLong);
        }
        let code = Some(ChainCode(chain_code(name)));
        secret = if hard {
            secret.hard_derive_mini_secret_key(code, b"").0.expand(ExpansionMode::Ed25519)
        } else {
            secret.derived_key_simple(ChainCode(chain_code(name)), b"").0
        };
        path = next;
    }
    Ok(secret)
}

fn seed_of(seed: &str, path: &str) -> Result<MiniSecretKey, UriError> {
    let bad = UriError::BadSeed { found: seed.len() };
    if seed.is_empty() && !path.is_empty() {
        return MiniSecretKey::from_bytes(&DEVELOPMENT_SEED).map_err(|_| bad);
    }
    let mut bytes = Zeroizing::new([0; 32]);
    let digits = seed.strip_prefix("0x").ok_or(bad)?;
    hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| bad)?;
    MiniSecretKey::from_bytes(bytes.as_slice()).map_err(|_| bad)
}

/// A number counts as u64 in little-endian order, any other name as its SCALE encoding; zeros fill the rest.
fn chain_code(name: &str) -> [u8; JUNCTION_BYTES] {
    let mut code = [0; JUNCTION_BYTES];
    if let Ok(number) = name.parse::<u64>() {
        code[..8].copy_from_slice(&number.to_le_bytes());
        return code;
    }
    let mut encoded = scale_length(name.len());
    encoded.extend_from_slice(name.as_bytes());
    if encoded.len() > JUNCTION_BYTES {
        code.copy_from_slice(&Blake2b::<U32>::digest(&encoded));
    } else {
        code[..encoded.len()].copy_from_slice(&encoded);
    }
    code
}

/// SCALE's compact integer, for lengths up to [`MAX_NAME_BYTES`].
fn scale_length(length: usize) -> Vec<u8> {
    let tagged = (length as u16) << 2;
    if length < 64 { vec![tagged as u8] } else { (tagged | 1).to_le_bytes().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HotkeySigner, ss58};

    fn address(uri: &str) -> String {
        ss58::encode(&HotkeySigner::from_uri(uri).unwrap().hotkey())
    }

    /// Known answers: `subkey inspect`, as printed in Substrate's own documentation and tests.
    #[test]
    fn development_accounts_have_their_published_addresses() {
        assert_eq!(address("//Alice"), "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY");
        assert_eq!(address("//Bob"), "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty");
        assert_eq!(address("//Charlie"), "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y");
        assert_eq!(address("//Alice//stash"), "5GNJqTPyNqANBkUVMN1LPPrxXnFouWXoe2wNSmmEoLctxiZY");
    }

    #[test]
    fn a_seed_may_stand_in_front() {
        let seed = format!("0x{}", hex::encode(DEVELOPMENT_SEED));
        assert_eq!(address(&format!("{seed}//Alice")), address("//Alice"));
        assert_eq!(address(&seed), "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV");
    }

    #[test]
    fn junctions_matter() {
        assert_ne!(address("/Alice"), address("//Alice"));
        assert_ne!(address("//1"), address("//01x"));
        let long = "//".to_owned() + &"long".repeat(30);
        assert_ne!(address(&long), address("//long"));
    }

    #[test]
    fn what_is_no_uri_is_told_without_repeating_it() {
        let error = |uri: &str| HotkeySigner::from_uri(uri).unwrap_err();
        assert_eq!(error(""), UriError::BadSeed { found: 0 });
        assert_eq!(error("0xff//Alice"), UriError::BadSeed { found: 4 });
        assert_eq!(error("//Alice///password"), UriError::EmptyJunction);
        assert_eq!(error("//"), UriError::EmptyJunction);
        assert_eq!(error(&"//a".repeat(17)), UriError::TooLong);
        assert!(!error("top secret phrase//Alice").to_string().contains("secret phrase"));
    }
}
