//! Hotkeys that the real bittensor-wallet makes now, in every format it has. `tests/peers.sh` installs it.

use std::{path::PathBuf, process::Command};

use super::*;

/// Not the phrase of the fixtures.
const PHRASE: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const PASSWORD: &str = "pässword: \"with\" $everything 😀";

/// The Python of a peer, or the words why it is not asked.
fn python(peer: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    let python = folder.unwrap_or_default().join(peer).join("bin/python");
    if python.exists() { Ok(python) } else { Err(format!("skipped: no {}; tests/peers.sh makes it", python.display())) }
}

fn make(peer: &str, formats: &[(&str, Format)]) {
    let python = match python(peer) {
        Ok(python) => python,
        Err(why) => return eprintln!("{why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/wallets/make.py");
    let made = Command::new(python).arg(script).arg(folder.path()).args([PHRASE, PASSWORD]).output().unwrap();
    let said = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(made.status.success(), "{said}{}", String::from_utf8_lossy(&made.stderr));
    let address = said.rsplit(' ').next().unwrap();
    for &(hotkey, format) in formats {
        let config = WalletConfig {
            name: Some("throwaway".into()),
            hotkey: Some(hotkey.into()),
            path: folder.path().to_owned(),
            password_file: None,
            ask_password: true,
        };
        let mut passwords = Passwords::new(None, |name| (name == OWN_VARIABLE).then(|| PASSWORD.into()), None);
        let opened = Wallet::locate(&config, None).unwrap().open(&mut passwords);
        let opened = opened.unwrap_or_else(|error| panic!("{hotkey}: {error}"));
        assert_eq!((ss58::encode(&opened.signer.hotkey()).as_str(), opened.format), (address, format), "{hotkey}");
        assert_eq!(opened.warnings, [], "{hotkey}");
    }
}

#[test]
fn what_the_wallet_of_today_makes_opens() {
    make("sdk10", &[("plain", Format::Plain), ("nacl", Format::Nacl), ("ansible", Format::Ansible)]);
}

#[test]
fn what_the_wallet_of_2024_makes_opens() {
    let formats = [
        ("python_plain", Format::Plain),
        ("python_nacl", Format::Nacl),
        ("python_ansible", Format::Ansible),
        ("fernet", Format::Fernet),
    ];
    make("wallet1", &formats);
}
