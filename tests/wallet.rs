//! Wallets from outside: what an operator is told, and that the hotkey named is the one that validates.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::program::{Program, binary, stderr};

pub const ADDRESS: &str = "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng";

/// A folder of wallets with a copy of the fixture's hotkeys, for their owner alone.
pub fn wallets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let hotkeys = folder.path().join("cold/hotkeys");
    std::fs::create_dir_all(&hotkeys).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bittensor/wallets/throwaway/hotkeys");
    for name in ["plain", "ansible"] {
        std::fs::copy(from.join(name), hotkeys.join(name)).unwrap();
        std::fs::set_permissions(hotkeys.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

/// Without a terminal, and with no password in the environment.
fn check(folder: &Path, hotkey: &str, more: &[&str]) -> Output {
    let mut command = binary();
    command.args(["wallet", "check", "--wallet.name", "cold", "--wallet.hotkey", hotkey, "--wallet.path"]).arg(folder);
    command.args(more).stdin(Stdio::null()).env_remove("OPENVALIDATORS_WALLET_PASSWORD").output().unwrap()
}

fn password_file(folder: &Path, password: &str) -> (PathBuf, String) {
    let file = folder.join("password");
    std::fs::write(&file, password).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let setting = format!("wallet.password_file={}", file.display());
    (file, setting)
}

#[test]
fn a_check_tells_people_and_programs() {
    let folder = wallets();
    let good = check(folder.path(), "plain", &[]);
    let text = String::from_utf8_lossy(&good.stdout);
    assert!(good.status.success() && text.contains(ADDRESS) && text.contains("must be registered"), "{text}");

    let (_, setting) = password_file(folder.path(), "Test-Passw0rd!23\n");
    let locked = check(folder.path(), "ansible", &["--json", "--set", &setting]);
    let value: Value = serde_json::from_slice(&locked.stdout).unwrap();
    assert_eq!((&value["usable"], &value["address"]), (&true.into(), &ADDRESS.into()), "{value}");

    let (_, setting) = password_file(folder.path(), "another");
    let wrong = check(folder.path(), "ansible", &["--json", "--set", &setting]);
    assert_eq!(wrong.status.code(), Some(1), "{}", stderr(&wrong));
    let value: Value = serde_json::from_slice(&wrong.stdout).unwrap();
    let told = value["findings"].as_array().unwrap().iter().find(|finding| finding["state"] == "wrong").unwrap();
    assert!(told["says"].as_str().unwrap().contains("does not open the hotkey"), "{value}");

    let asked = check(folder.path(), "ansible", &[]);
    let text = String::from_utf8_lossy(&asked.stdout);
    assert!(asked.status.code() == Some(1) && text.contains("password_file"), "nobody can be asked: {text}");
}

#[test]
fn a_validator_does_not_start_without_the_hotkey_it_was_given() {
    let (folder, state) = (wallets(), tempfile::tempdir().unwrap());
    let mut command = binary();
    command.args(["run", "--wallet.name", "cold", "--wallet.hotkey", "7", "--wallet.path"]).arg(folder.path());
    let output = command.arg("--state-dir").arg(state.path().join("state")).output().unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    for word in ["no hotkey `7` (there are: ansible, plain)", "btcli wallet new-hotkey", "Nothing is created"] {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
    assert!(!folder.path().join("cold/hotkeys/7").exists() && !state.path().join("state").exists());
}

/// On the local network too, once a wallet is named: the state directory then belongs to its hotkey.
#[test]
fn the_hotkey_named_is_the_one_that_validates() {
    let (folder, state) = (wallets(), tempfile::tempdir().unwrap());
    let path = folder.path().to_str().unwrap();
    let wallet = ["--wallet.name", "cold", "--wallet.hotkey", "plain", "--wallet.path", path];
    let (_, status) = Program::start(state.path(), &[&wallet[..], &["--steps", "1"]].concat()).finish();
    assert!(status.success());
    let mut command = binary();
    command.args(["run", "--steps", "1", "--set", "reporting.metrics.off=true", "--state-dir"]).arg(state.path());
    let other = command.output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{}", stderr(&other));
    assert!(stderr(&other).contains("hotkey"), "{}", stderr(&other));
}
