use std::{cell::RefCell, collections::HashMap, ffi::OsString};

use super::*;

const PASSWORD: &str = "Test-Passw0rd!23";
const ADDRESS: &str = "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng";

/// A folder of wallets with the wallet `cold` and copies of the real files as its hotkeys, readable by their owner alone.
fn wallets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/wallets/throwaway"));
    let hotkeys = folder.path().join("cold/hotkeys");
    std::fs::create_dir_all(&hotkeys).unwrap();
    std::fs::copy(from.join("coldkeypub.txt"), folder.path().join("cold/coldkeypub.txt")).unwrap();
    for file in std::fs::read_dir(from.join("hotkeys")).unwrap().map(Result::unwrap) {
        let to = hotkeys.join(file.file_name());
        std::fs::copy(file.path(), &to).unwrap();
        allow(&to, 0o600);
    }
    folder
}

fn allow(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn wallet(folder: &Path, hotkey: &str) -> Wallet {
    let (name, hotkey) = (Some("cold".to_owned()), Some(hotkey.to_owned()));
    Wallet::locate(
        &WalletConfig { name, hotkey, path: folder.to_owned(), password_file: None, ask_password: true },
        None,
    )
    .unwrap()
}

fn nothing<'a>() -> Passwords<'a> {
    Passwords::new(None, |_| None, None)
}

fn in_environment<'a>(variables: &[(&str, &str)]) -> Passwords<'a> {
    let variables: HashMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    Passwords::new(None, move |name| variables.get(name).cloned(), None)
}

fn in_file<'a>(file: &Path) -> Passwords<'a> {
    Passwords::new(Some(file.to_owned()), |_| panic!("the file comes first"), None)
}

fn address(opened: Result<Opened, WalletError>) -> String {
    ss58::encode(&opened.unwrap_or_else(|error| panic!("{error}")).signer.hotkey())
}

fn told(opened: Result<Opened, WalletError>, words: &[&str]) {
    let error = opened.map(|opened| opened.format).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
    assert!(!error.contains(PASSWORD), "{error}");
}

#[test]
fn a_hotkey_without_a_password_opens_and_nobody_is_asked() {
    let folder = wallets();
    let mut never = Passwords::new(None, |_| panic!("looked for a password"), None);
    let opened = wallet(folder.path(), "plain").open(&mut never).unwrap();
    assert_eq!((opened.format, &*opened.warnings), (Format::Plain, &[][..]));
    assert_eq!(ss58::encode(&opened.signer.hotkey()), ADDRESS);
}

#[test]
fn the_password_comes_from_a_file_the_environment_or_a_person() {
    let folder = wallets();
    let wallet = wallet(folder.path(), "ansible");
    let file = folder.path().join("password");
    for ending in ["", "\n", "\r\n"] {
        std::fs::write(&file, format!("{PASSWORD}{ending}")).unwrap();
        assert_eq!(address(wallet.open(&mut in_file(&file))), ADDRESS);
    }
    assert_eq!(address(wallet.open(&mut in_environment(&[(OWN_VARIABLE, PASSWORD)]))), ADDRESS);

    let asked = RefCell::new(Vec::new());
    let answers = RefCell::new(vec![PASSWORD, "wrong", ""]);
    let prompt = |words: &str| {
        asked.borrow_mut().push(words.to_owned());
        Ok(Zeroizing::new(answers.borrow_mut().pop().unwrap().to_owned()))
    };
    assert_eq!(address(wallet.open(&mut Passwords::new(None, |_| None, Some(Box::new(prompt))))), ADDRESS);
    assert_eq!(asked.borrow().len(), 3);
    assert!(asked.borrow()[0].contains("cold/hotkeys/ansible"));
    let asked = RefCell::new(0);
    let prompt = |_: &str| {
        *asked.borrow_mut() += 1;
        Ok(Zeroizing::new("wrong".to_owned()))
    };
    let opened = wallet.open(&mut Passwords::new(None, |_| None, Some(Box::new(prompt))));
    told(opened, &["the terminal", "cold/hotkeys/ansible", "regen-hotkey"]);
    assert_eq!(*asked.borrow(), MAX_PROMPTS);
}

/// Name and value as `Keyfile.save_password_to_env` of bittensor-wallet 4.1.1 made them.
#[test]
fn the_password_in_the_sdks_variable_is_understood() {
    let path = Path::new("/tmp/one/x/w1/hotkeys/hk.a");
    assert_eq!(sdk_variable(path), "BT_PW__TMP_ONE_X_W1_HOTKEYS_HK_A");
    let kept = [("BT_PW__TMP_ONE_X_W1_HOTKEYS_HK_A", "FjEsJHoPPic+J289KmRtaw==")];
    let (password, from) = in_environment(&kept).take(path).unwrap();
    assert_eq!((password.as_str(), from.to_string().contains(kept[0].0)), (PASSWORD, true));
    let strange = in_environment(&[(kept[0].0, PASSWORD)]).take(path).unwrap_err().to_string();
    assert!(strange.contains(kept[0].0) && strange.contains(OWN_VARIABLE) && !strange.contains(PASSWORD), "{strange}");
}

#[test]
fn passwords_that_do_not_help_are_told_with_their_place() {
    let folder = wallets();
    let wallet = wallet(folder.path(), "ansible");
    told(wallet.open(&mut nothing()), &["wallet.password_file", OWN_VARIABLE, "BT_PW_", "terminal"]);
    let variable = &mut in_environment(&[(OWN_VARIABLE, "wrong")]);
    told(wallet.open(variable), &[OWN_VARIABLE, "does not open", "cold/hotkeys/ansible", "regen-hotkey"]);
    let file = folder.path().join("password");
    told(wallet.open(&mut in_file(&file)), &["wallet.password_file", "password could not be read"]);
    told(wallet.open(&mut in_file(folder.path())), &["is a folder"]);
    let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
    for (wrong, words) in [("", "0 lines"), ("\n", "0 lines"), ("one\ntwo\n", "2 lines"), (&long, "1025 bytes")] {
        std::fs::write(&file, wrong).unwrap();
        told(wallet.open(&mut in_file(&file)), &[words, "alone"]);
    }
    std::fs::write(&file, [0xff]).unwrap();
    told(wallet.open(&mut in_file(&file)), &["UTF-8"]);
    std::fs::write(&file, "wrong").unwrap();
    told(wallet.open(&mut in_file(&file)), &["wallet.password_file", "does not open"]);
    let failing = |_: &str| Err(io::Error::other("no tty"));
    told(wallet.open(&mut Passwords::new(None, |_| None, Some(Box::new(failing)))), &["no tty"]);
}

#[test]
fn what_is_missing_is_told_with_the_commands_that_make_it() {
    let folder = wallets();
    let place = folder.path().to_str().unwrap();
    let make =
        ["nothing is created", "btcli wallet new-hotkey --wallet cold --wallet-hotkey 7", "--wallet-path", place];
    let missing = wallet(folder.path(), "7").open(&mut nothing());
    let error = missing.as_ref().map(|_| ()).unwrap_err().to_string().to_lowercase();
    assert!(make.iter().all(|word| error.contains(&word.to_lowercase())), "{error}");
    assert!(!error.contains("new-coldkey"), "{error}");
    told(missing, &["no hotkey `7` (there are: ansible, ed25519, fernet, nacl, plain, python_ansible"]);
    let config = WalletConfig { name: Some("it's".into()), path: folder.path().to_owned(), ..WalletConfig::default() };
    let other = Wallet::locate(&config, None).unwrap();
    told(other.open(&mut nothing()), &["no wallet `it's` (there are: cold)", r"--wallet 'it'\''s'", "new-coldkey"]);
    let nowhere = WalletConfig { path: folder.path().join("nowhere"), ..WalletConfig::default() };
    told(Wallet::locate(&nowhere, None).unwrap().open(&mut nothing()), &["no folder of wallets", "nowhere"]);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["cold"], "nothing was created");
}

#[test]
fn what_is_no_keyfile_is_told_with_its_path() {
    let folder = wallets();
    let hotkeys = folder.path().join("cold/hotkeys");
    std::fs::create_dir(hotkeys.join("folder")).unwrap();
    told(wallet(folder.path(), "folder").open(&mut nothing()), &["is a folder", "wallet.hotkey"]);
    std::fs::write(hotkeys.join("large"), vec![b'{'; keyfile::MAX_BYTES + 1]).unwrap();
    told(wallet(folder.path(), "large").open(&mut nothing()), &["larger than 65536 bytes", "hotkeys/large"]);
    let made = std::process::Command::new("mkfifo").arg(hotkeys.join("pipe")).status();
    if made.is_ok_and(|status| status.success()) {
        told(wallet(folder.path(), "pipe").open(&mut nothing()), &["a device or a pipe"]);
    }
    told(wallet(folder.path(), "plainpub.txt").open(&mut nothing()), &["no secret", "plainpub.txt"]);
    told(wallet(folder.path(), "ed25519").open(&mut nothing()), &["ed25519", "--crypto-type sr25519"]);
    // Root reads what it may not; there only the words can be tested.
    let denied = hotkeys.join("denied");
    std::fs::write(&denied, "{}").unwrap();
    allow(&denied, 0o000);
    if File::open(&denied).is_err() {
        told(wallet(folder.path(), "denied").open(&mut nothing()), &["permission denied", "chown", "hotkeys/denied"]);
    }
    let error = ReadError::Io(io::ErrorKind::PermissionDenied.into()).at(&denied).to_string();
    assert!(error.contains("permission denied") && error.contains("chown"), "{error}");
}

#[test]
fn a_key_that_others_may_read_is_a_warning() {
    let folder = wallets();
    let plain = wallet(folder.path(), "plain");
    for (mode, who) in [(0o644, "every user"), (0o640, "its group"), (0o602, "every user")] {
        allow(&plain.hotkey_file(), mode);
        let opened = plain.open(&mut nothing()).unwrap();
        assert_eq!(opened.warnings.len(), 1);
        let said = opened.warnings[0].to_string();
        assert!(said.contains(who) && said.contains("chmod 600") && said.contains("hotkeys/plain"), "{said}");
    }
    allow(&plain.hotkey_file(), 0o400);
    assert_eq!(plain.open(&mut nothing()).unwrap().warnings, []);
    let file = folder.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    allow(&file, 0o644);
    let opened = wallet(folder.path(), "ansible").open(&mut in_file(&file)).unwrap();
    assert_eq!(opened.warnings, [Warning::Exposed { path: file, mode: 0o644 }]);
}

#[test]
fn a_public_file_of_another_key_is_a_warning() {
    let folder = wallets();
    let public = folder.path().join("cold/hotkeys/plainpub.txt");
    std::fs::copy(folder.path().join("cold/coldkeypub.txt"), public).unwrap();
    let opened = wallet(folder.path(), "plain").open(&mut nothing()).unwrap();
    let said = opened.warnings[0].to_string();
    assert!(said.contains("5EHgWw2Af1pnoc7f1A8bfmM97W3DAYW8xr82RfhLL9oAabAe"), "{said}");
}

#[test]
fn settings_name_the_place() {
    let home = Path::new("/home/somebody");
    let of = |config: WalletConfig| Wallet::locate(&config, Some(home)).map(|wallet| wallet.hotkey_file());
    let default = of(WalletConfig::default()).unwrap();
    assert_eq!(default, Path::new("/home/somebody/.bittensor/wallets/default/hotkeys/default"));
    let slash = WalletConfig { path: "~/.bittensor/wallets/".into(), ..WalletConfig::default() };
    assert_eq!(sdk_variable(&of(slash).unwrap()), sdk_variable(&default));
    assert!(!WalletConfig::default().is_named());
    for name in ["", "..", "a/b", "../../etc"] {
        let config = WalletConfig { hotkey: Some(name.into()), ..WalletConfig::default() };
        assert!(config.is_named());
        let error = of(config).unwrap_err().to_string();
        assert!(error.contains("wallet.hotkey") && error.contains("wallet.path"), "{error}");
    }
    let homeless = Wallet::locate(&WalletConfig::default(), None).unwrap_err().to_string();
    assert!(homeless.contains("wallet.path") && homeless.contains("HOME"), "{homeless}");
}

#[test]
fn a_check_says_what_is_right_and_what_is_wrong() {
    let folder = wallets();
    let plain = check(&wallet(folder.path(), "plain"), &mut nothing());
    assert!(plain.is_usable() && plain.findings.iter().all(|finding| finding.state != State::Wrong), "{plain:?}");
    let text = serde_json::to_string(&plain.findings).unwrap();
    assert!(text.contains(ADDRESS) && text.contains("not encrypted") && text.contains("5EHgWw2A"), "{text}");
    let seed = "3ce8b706e4a1ba7c4e81ee4b8b86a865";
    assert!(!text.contains(seed) && !text.contains("letter advice"), "{text}");

    std::fs::write(folder.path().join("cold/coldkey"), "never read").unwrap();
    let locked = check(&wallet(folder.path(), "ansible"), &mut nothing());
    let wrong: Vec<_> = locked.findings.iter().filter(|finding| finding.state == State::Wrong).collect();
    assert!(!locked.is_usable() && wrong.len() == 1 && wrong[0].says.contains("password_file"), "{locked:?}");
    assert!(locked.findings.iter().any(|finding| finding.part == "coldkey" && finding.state == State::Note));

    let nowhere = WalletConfig { path: folder.path().join("nowhere"), ..WalletConfig::default() };
    let missing = check(&Wallet::locate(&nowhere, None).unwrap(), &mut nothing());
    assert!(!missing.is_usable() && missing.findings.iter().any(|finding| finding.says.contains("btcli")));
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let folder = wallets();
    let opened = wallet(folder.path(), "plain").open(&mut nothing()).unwrap();
    let text = format!("{opened:?}");
    assert!(!text.contains("3ce8b706") && !text.contains("02eb985c") && !text.contains("60, 232, 183"), "{text}");
}
