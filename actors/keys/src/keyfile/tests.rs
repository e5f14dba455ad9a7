//! Files of the real bittensor-wallet, and what can be wrong with them.

use openvalidators_runtime::testing::spoil;

use super::*;
use crate::HotkeySigner;

const PASSWORD: &[u8] = b"Test-Passw0rd!23";
const ADDRESS: &str = "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng";

fn fixture(name: &str) -> Secret {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/wallets/throwaway/hotkeys/");
    Zeroizing::new(std::fs::read(folder.to_owned() + name).unwrap())
}

fn open(bytes: Secret, password: &[u8]) -> Result<HotkeySigner, KeyfileError> {
    let format = Format::of(&bytes)?;
    signer(&format.unlock(bytes, password)?)
}

/// The plain file with a change.
fn plain(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> Secret {
    let mut value: serde_json::Map<_, _> = serde_json::from_slice(&fixture("plain")).unwrap();
    change(&mut value);
    Zeroizing::new(serde_json::to_vec(&value).unwrap())
}

#[test]
fn every_format_of_the_real_wallet_opens() {
    let files = [
        ("plain", Format::Plain),
        ("python_plain", Format::Plain),
        ("nacl", Format::Nacl),
        ("ansible", Format::Ansible),
        ("python_ansible", Format::Ansible),
        ("fernet", Format::Fernet),
    ];
    for (name, format) in files {
        assert_eq!(Format::of(&fixture(name)), Ok(format), "{name}");
        let signer = open(fixture(name), PASSWORD).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(ss58::encode(&signer.hotkey()), ADDRESS, "{name}");
    }
}

#[test]
fn a_wrong_password_opens_nothing() {
    for (name, wrong) in [("nacl", &b"Test-Passw0rd!24"[..]), ("ansible", b""), ("fernet", b"")] {
        assert_eq!(open(fixture(name), wrong).unwrap_err(), KeyfileError::WrongPassword, "{name}");
    }
}

/// One digit, changed: the code of authenticity notices.
#[test]
fn a_changed_file_does_not_open() {
    let mut bytes = fixture("ansible");
    let place = bytes.len() - 5;
    bytes[place] = if bytes[place] == b'3' { b'4' } else { b'3' };
    let error = open(bytes, PASSWORD).unwrap_err();
    assert!(matches!(error, KeyfileError::WrongPassword | KeyfileError::Damaged(_)), "{error}");
}

/// Wherever a file is cut, it is an error and no panic. Cheap: the cuts are refused before a key is made, but for a few.
#[test]
fn a_cut_file_is_damaged() {
    for (name, lengths) in [("nacl", &[5, 6, 29, 45][..]), ("ansible", &[14, 20, 23, 200]), ("fernet", &[6, 40, 72])] {
        for &length in lengths {
            let mut bytes = fixture(name);
            bytes.truncate(length);
            let error = open(bytes, PASSWORD).unwrap_err();
            assert!(matches!(error, KeyfileError::Damaged(_)), "{name} cut to {length}: {error}");
        }
    }
    let other = b"$ANSIBLE_VAULT;1.0;AES\n00".to_vec();
    assert!(matches!(open(Zeroizing::new(other), PASSWORD), Err(KeyfileError::Damaged(_))));
}

#[test]
fn any_one_of_the_secrets_is_enough() {
    let secrets = ["secretSeed", "privateKey", "secretPhrase"];
    for kept in secrets {
        let bytes = plain(|file| file.retain(|name, _| name == kept || !secrets.contains(&name.as_str())));
        assert_eq!(ss58::encode(&signer(&bytes).unwrap().hotkey()), ADDRESS, "{kept}");
        let alone = plain(|file| file.retain(|name, _| name == kept));
        assert_eq!(ss58::encode(&signer(&alone).unwrap().hotkey()), ADDRESS, "{kept} alone");
    }
    // Python wrote `null` for what it did not know.
    let nulls = plain(|file| {
        file["secretSeed"] = serde_json::Value::Null;
        file["secretPhrase"] = serde_json::Value::Null;
    });
    assert_eq!(ss58::encode(&signer(&nulls).unwrap().hotkey()), ADDRESS);
}

/// A private key in the written form of ed25519: the scalar times the cofactor.
#[test]
fn a_private_key_may_be_written_as_ed25519_does() {
    let bytes = plain(|file| {
        let written = file["privateKey"].as_str().unwrap()[2..].to_owned();
        let secret = schnorrkel::SecretKey::from_bytes(&hex::decode(written).unwrap()).unwrap();
        file["privateKey"] = hex::encode(secret.to_ed25519_bytes()).into();
        file.remove("secretSeed");
        file.remove("secretPhrase");
    });
    assert_eq!(ss58::encode(&signer(&bytes).unwrap().hotkey()), ADDRESS);
}

#[test]
fn what_the_file_says_must_be_true() {
    let other = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    let address = plain(|file| file["ss58Address"] = other.into());
    let told = signer(&address).unwrap_err().to_string();
    assert!(told.contains(other) && told.contains(ADDRESS) && told.contains("regen-hotkey"), "{told}");
    for field in ["publicKey", "accountId"] {
        let bytes = plain(|file| file[field] = format!("0x{}", "11".repeat(32)).into());
        assert!(matches!(signer(&bytes), Err(KeyfileError::Mismatch { .. })), "{field}");
    }
    let private = plain(|file| {
        file["publicKey"] = format!("0x{}", "11".repeat(32)).into();
        file.remove("secretSeed");
    });
    assert!(matches!(signer(&private), Err(KeyfileError::Mismatch { .. })));
}

#[test]
fn what_is_no_hotkey_is_told_apart() {
    let of = |text: &[u8]| open(Zeroizing::new(text.to_vec()), b"").unwrap_err().to_string();
    for (text, told) in [
        (&b""[..], "an empty file"),
        (b"  \n", "an empty file"),
        (b"letter advice cage absurd", "regen-hotkey"),
        (b"0x00ff", "a bare hexadecimal key"),
        (b"\x7fELF", "another format"),
        (b"{", "line 1, column 1"),
        (b"{}", "no secret"),
        (br#"{"encoded":"xyz","encoding":{}}"#, "polkadot-js"),
        (br#"{"secretSeed":"0x12"}"#, "secretSeed is not 64 hexadecimal digits"),
        (br#"{"secretPhrase":"one two"}"#, "secretPhrase is no phrase"),
    ] {
        let found = of(text);
        assert!(found.contains(told), "{}: {found}", String::from_utf8_lossy(text));
    }
    assert_eq!(open(fixture("plainpub.txt"), b"").unwrap_err(), KeyfileError::PublicOnly);
    assert_eq!(open(fixture("ed25519"), b"").unwrap_err(), KeyfileError::Ed25519);
    assert_eq!(address_in(&fixture("plainpub.txt")).map(|key| ss58::encode(&key)), Ok(ADDRESS.to_owned()));
}

/// Parsers like to quote what they found; here that may be a seed.
#[test]
fn no_error_repeats_a_secret() {
    let secret = "3ce8b706e4a1ba7c4e81ee4b8b86a865";
    for text in [
        format!(r#"{{"secretSeed":"0x{secret}"}}"#),
        format!(r#"{{"secretSeed":["{secret}"]}}"#),
        format!(r#"{{"secretSeed":"0x{secret}"#),
        format!(r#"{{"privateKey":"{secret}"}}"#),
        format!(r#"{{"secretPhrase":"{secret}"}}"#),
        format!(r#"{{"cryptoType":"{secret}"}}"#),
        format!("0x{secret}"),
        secret.to_owned(),
    ] {
        let error = open(Zeroizing::new(text.clone().into_bytes()), secret.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{text} gave {error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = signer(&bytes);
        let _ = ansible::open(&bytes, b"x");
        let _ = ansible::open(&[b"$ANSIBLE_VAULT;1.1;AES256\n".as_slice(), hex::encode(&bytes).as_bytes()].concat(), b"x");
    }
}

/// As the plain ones are in the outside tests. The keys are made once from the password, as deriving them takes a second; with them
/// what is left whole still opens, so the rest is refused for what is wrong with it.
#[test]
fn spoilt_encrypted_files_are_refused() {
    let names = ["nacl", "ansible", "python_ansible", "fernet"];
    let corpus: Vec<Vec<u8>> = names.iter().map(|name| fixture(name).to_vec()).collect();
    let (of_nacl, of_fernet) = (nacl::key(PASSWORD).unwrap(), fernet::keys(PASSWORD));
    let salts = std::cell::RefCell::new(std::collections::BTreeMap::new());
    let of_ansible = |salt: &[u8]| -> Zeroizing<[u8; 80]> {
        let mut salts = salts.borrow_mut();
        // Salts that were spoilt share one key: it opens nothing, as theirs would.
        let salt = if salts.len() < names.len() { salt } else { b"spoilt" };
        salts.entry(salt.to_vec()).or_insert_with(|| ansible::keys(PASSWORD, salt)).clone()
    };
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/fuzz/encrypted_keyfiles");
    let mut opened = 0;
    spoil("encrypted keyfiles", &corpus, std::path::Path::new(kept), |bytes| {
        let plain = Format::of(bytes).and_then(|format| match format {
            Format::Plain => Ok(Zeroizing::new(bytes.to_vec())),
            Format::Nacl => nacl::open_with(bytes, || Ok(of_nacl.clone())),
            Format::Ansible => ansible::open_with(bytes, of_ansible),
            Format::Fernet => fernet::open_with(bytes, || of_fernet.clone()),
        });
        match plain.and_then(|plain| signer(&plain)) {
            Ok(signer) => {
                assert_eq!(ss58::encode(&signer.hotkey()), ADDRESS);
                opened += 1;
                String::new()
            }
            Err(error) => error.to_string(),
        }
    });
    assert!(opened >= names.len(), "{opened}");
}
