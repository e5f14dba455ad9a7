use std::fmt;

use openvalidators_messages::Hotkey;
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, PublicKey, SecretKey, Signature, context::SigningContext};

use crate::uri::{self, UriError};

/// Length of an sr25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The context every Substrate signature is bound to.
const SIGNING_CONTEXT: &[u8] = b"substrate";

/// Signs for one hotkey with sr25519 (Schnorr over Ristretto, schnorrkel). Shared as an `Arc`; signing takes no lock.
pub struct HotkeySigner {
    /// Overwritten on drop by schnorrkel.
    keypair: Keypair,
    /// The transcript up to the message, hashed once for all signatures.
    context: SigningContext,
}

/// Whether `signature` is `hotkey`'s own for `message`. A key that is no curve point has signed nothing.
#[must_use]
pub fn verify(hotkey: &Hotkey, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    let (Ok(key), Ok(signature)) = (PublicKey::from_bytes(&hotkey.0), Signature::from_bytes(signature)) else {
        return false;
    };
    key.verify_simple(SIGNING_CONTEXT, message, &signature).is_ok()
}

// === impl HotkeySigner ===

impl HotkeySigner {
    /// From a 32-byte mini secret: `secretSeed` of a keyfile, without its `0x`.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        // schnorrkel refuses a wrong length only, and the type has the right one.
        let keypair = match MiniSecretKey::from_bytes(seed) {
            Ok(mini) => mini.expand_to_keypair(ExpansionMode::Ed25519),
            Err(_) => unreachable!("a mini secret key is any 32 bytes"),
        };
        Self::from_keypair(keypair)
    }

    /// From a secret URI: `//Alice` for development, `0x` and 64 digits for a seed, either followed by junctions.
    ///
    /// # Errors
    /// When the text is no such URI; the error does not repeat it.
    pub fn from_uri(uri: &str) -> Result<Self, UriError> {
        uri::secret_key(uri).map(|secret| Self::from_keypair(secret.to_keypair()))
    }

    /// From a secret that is expanded already.
    pub(crate) fn from_secret(secret: SecretKey) -> Self {
        Self::from_keypair(secret.into())
    }

    /// The public key.
    #[must_use]
    pub fn hotkey(&self) -> Hotkey {
        Hotkey(self.keypair.public.to_bytes())
    }

    /// Signs; two signatures of one message differ (fresh randomness goes into each).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.keypair.sign(self.context.bytes(message)).to_bytes()
    }

    fn from_keypair(keypair: Keypair) -> Self {
        Self { keypair, context: SigningContext::new(SIGNING_CONTEXT) }
    }
}

impl fmt::Debug for HotkeySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotkeySigner").field("hotkey", &self.hotkey()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ss58;

    /// Messages signed by the SDKs of Bittensor 6, 7, 9 and 10 with `//Alice`.
    const SIGNATURES: &str = include_str!("../../../tests/fixtures/bittensor/signatures.json");

    #[test]
    fn signatures_of_the_python_sdks_verify() {
        let alice = HotkeySigner::from_uri("//Alice").unwrap();
        let vectors: Vec<serde_json::Value> = serde_json::from_str(SIGNATURES).unwrap();
        assert_eq!(vectors.len(), 5);
        for vector in vectors {
            let message = vector["message"].as_str().unwrap().as_bytes();
            let mut signature = [0; SIGNATURE_BYTES];
            hex::decode_to_slice(&vector["signature"].as_str().unwrap()[2..], &mut signature).unwrap();
            assert!(verify(&alice.hotkey(), message, &signature), "{vector}");
            signature[3] ^= 1;
            assert!(!verify(&alice.hotkey(), message, &signature), "a changed signature passed: {vector}");
        }
    }

    #[test]
    fn our_signatures_verify_for_us_and_this_message_alone() {
        let (alice, bob) = (HotkeySigner::from_uri("//Alice").unwrap(), HotkeySigner::from_uri("//Bob").unwrap());
        let signature = alice.sign(b"hello bittensor");
        assert!(verify(&alice.hotkey(), b"hello bittensor", &signature));
        assert!(!verify(&alice.hotkey(), b"hello bittensor!", &signature));
        assert!(!verify(&bob.hotkey(), b"hello bittensor", &signature));
        assert!(!verify(&Hotkey([0xff; 32]), b"hello bittensor", &signature));
        assert!(!verify(&alice.hotkey(), b"hello bittensor", &[0; SIGNATURE_BYTES]));
    }

    /// The hot wallet of the public test phrase "letter advice cage absurd …", as btcli 10 wrote it.
    #[test]
    fn a_wallet_seed_gives_the_wallet_address() {
        let mut seed = [0; 32];
        hex::decode_to_slice("3ce8b706e4a1ba7c4e81ee4b8b86a865e075e0b01ef9493c8472b5704fc39e46", &mut seed).unwrap();
        let signer = HotkeySigner::from_seed(&seed);
        assert_eq!(ss58::encode(&signer.hotkey()), "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng");
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let seed = [7; 32];
        let text = format!("{:?}", HotkeySigner::from_seed(&seed));
        assert!(text.contains(&HotkeySigner::from_seed(&seed).hotkey().to_string()), "{text}");
        assert!(!text.contains("07070707") && !text.contains("7, 7"), "{text}");
    }
}
