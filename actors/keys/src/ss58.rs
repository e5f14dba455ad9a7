//! SS58, Substrate's address format: base58 of prefix, public key and the first two bytes of
//! `blake2b-512("SS58PRE" ‖ prefix ‖ key)` (<https://docs.substrate.io/reference/address-formats/>).

use blake2::{Blake2b512, Digest};
use openvalidators_messages::Hotkey;

/// The prefix of Bittensor's addresses (the generic Substrate one).
pub const PREFIX: u8 = 42;

/// One prefix byte, 32 of key, two of checksum.
const DECODED_BYTES: usize = 35;

/// The longest base58 text of [`DECODED_BYTES`] bytes; a longer one is refused unread.
const MAX_TEXT_BYTES: usize = 48;

/// A text that is no Bittensor address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ss58Error {
    /// Far from an address.
    #[error("an SS58 address has at most {MAX_TEXT_BYTES} characters, found {found}: pass the address alone")]
    TooLong {
        /// Bytes of text.
        found: usize,
    },
    /// A character outside the alphabet.
    #[error("`{address}` is not base58: {reason}; check that the address was copied whole")]
    NotBase58 {
        /// As given.
        address: String,
        /// Which character, where.
        reason: String,
    },
    /// Not 35 bytes.
    #[error("`{address}` decodes to {found} bytes where an address has {DECODED_BYTES}: it was cut or extended")]
    WrongLength {
        /// As given.
        address: String,
        /// What it decodes to.
        found: usize,
    },
    /// An address of another network.
    #[error("`{address}` has the network prefix {found}, Bittensor's is {PREFIX}: use the address that btcli shows")]
    WrongPrefix {
        /// As given.
        address: String,
        /// Its first byte.
        found: u8,
    },
    /// A typing error.
    #[error("`{address}` ends in checksum {found} but its key calls for {expected}: a character is mistyped")]
    WrongChecksum {
        /// As given.
        address: String,
        /// Four hexadecimal digits.
        found: String,
        /// Four hexadecimal digits.
        expected: String,
    },
}

/// The address of a key, 47 or 48 characters.
#[must_use]
pub fn encode(hotkey: &Hotkey) -> String {
    let mut bytes = [PREFIX; DECODED_BYTES];
    bytes[1..33].copy_from_slice(&hotkey.0);
    let checksum = checksum(&bytes[..33]);
    bytes[33..].copy_from_slice(&checksum);
    bs58::encode(bytes).into_string()
}

/// The key behind an address.
///
/// # Errors
/// What was found instead, see [`Ss58Error`].
pub fn decode(address: &str) -> Result<Hotkey, Ss58Error> {
    if address.len() > MAX_TEXT_BYTES {
        return Err(Ss58Error::TooLong { found: address.len() });
    }
    let decoded = bs58::decode(address)
        .into_vec()
        .map_err(|error| Ss58Error::NotBase58 { address: address.to_owned(), reason: error.to_string() })?;
    let bytes: [u8; DECODED_BYTES] = decoded
        .try_into()
        .map_err(|other: Vec<u8>| Ss58Error::WrongLength { address: address.to_owned(), found: other.len() })?;
    if bytes[0] != PREFIX {
        return Err(Ss58Error::WrongPrefix { address: address.to_owned(), found: bytes[0] });
    }
    let expected = checksum(&bytes[..33]);
    if bytes[33..] != expected {
        return Err(Ss58Error::WrongChecksum {
            address: address.to_owned(),
            found: hex::encode(&bytes[33..]),
            expected: hex::encode(expected),
        });
    }
    let mut key = [0; 32];
    key.copy_from_slice(&bytes[1..33]);
    Ok(Hotkey(key))
}

fn checksum(prefix_and_key: &[u8]) -> [u8; 2] {
    let digest = Blake2b512::new().chain_update(b"SS58PRE").chain_update(prefix_and_key).finalize();
    [digest[0], digest[1]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    const ALICE_KEY: &str = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";

    #[test]
    fn alice_has_her_published_address() {
        let key: Hotkey = ALICE_KEY.parse().unwrap();
        assert_eq!(encode(&key), ALICE);
        assert_eq!(decode(ALICE), Ok(key));
    }

    #[test]
    fn errors_say_what_was_found() {
        let mistyped = decode("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ").unwrap_err();
        assert!(matches!(mistyped, Ss58Error::WrongChecksum { .. }), "{mistyped}");
        let polkadot = decode("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5").unwrap_err();
        assert!(matches!(polkadot, Ss58Error::WrongPrefix { found: 0, .. }), "{polkadot}");
        assert!(matches!(decode(""), Err(Ss58Error::WrongLength { found: 0, .. })));
        assert!(matches!(decode("0OIl"), Err(Ss58Error::NotBase58 { .. })));
        assert!(matches!(decode(&ALICE.repeat(2)), Err(Ss58Error::TooLong { found: 96 })));
    }

    proptest! {
        #[test]
        fn every_key_survives_the_round_trip(key: [u8; 32]) {
            prop_assert_eq!(decode(&encode(&Hotkey(key))), Ok(Hotkey(key)));
        }

        #[test]
        fn one_changed_character_is_noticed(key: [u8; 32], place in 0_usize..47, to in "[1-9A-HJ-NP-Za-km-z]") {
            let address = encode(&Hotkey(key));
            let mut other = address.clone();
            other.replace_range(place..=place, &to);
            // Two bytes of checksum: one change in 65,536 passes, and never to the same key.
            prop_assert!(other == address || decode(&other) != Ok(Hotkey(key)));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,60}") {
            let _ = decode(&text);
        }
    }
}
