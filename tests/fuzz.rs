//! What comes from outside, recorded and then spoilt ([`spoil`]): replies of miners, event logs, configurations, keyfiles. The chain's
//! metadata and values, and encrypted keyfiles, are spoilt in their crates.

use std::path::{Path, PathBuf};

use openvalidators::{
    cli::Settings,
    config::{Config, DEFAULT_TOML},
};
use openvalidators_dendrite::response::{Ending, MAX_STATUS_MESSAGE_CHARS, Received};
use openvalidators_keys::{Wallet, WalletConfig, wallet::Passwords};
use openvalidators_runtime::testing::spoil;
use openvalidators_tables::{EventLog, Source};

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

#[test]
fn spoilt_replies_of_miners() {
    let recorded = ["http_v6.12.4", "http_v7.4.0", "http_v9.12.2", "http_v10.5.0"];
    let corpus: Vec<Vec<u8>> = recorded
        .iter()
        .map(|version| std::fs::read(fixtures("bittensor").join(version).join("response_0.http")).unwrap())
        .collect();
    spoil("replies", &corpus, &fixtures("fuzz/replies"), |bytes| {
        // As the transport hands it on: a head of lines, and the body.
        let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..head_end]);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse::<u16>().ok());
        let mut headers = hyper::HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let name = hyper::header::HeaderName::from_bytes(name.trim().as_bytes());
            if let (Ok(name), Ok(value)) = (name, hyper::header::HeaderValue::from_bytes(value.trim().as_bytes())) {
                headers.append(name, value);
            }
        }
        let status = status.and_then(|code| hyper::StatusCode::from_u16(code).ok()).unwrap_or(hyper::StatusCode::OK);
        let body = bytes::Bytes::copy_from_slice(&bytes[head_end..]);
        let ending = Ending::from(Received { status, headers, body });
        assert!(ending.status_message.chars().count() <= MAX_STATUS_MESSAGE_CHARS);
        assert!(ending.text.len() <= bytes.len());
        format!("{:?} {}", ending.outcome, ending.status_message)
    });
}

#[test]
fn spoilt_event_logs() {
    let log = std::fs::read(fixtures("reporting/loguru_completions.log")).unwrap();
    let corpus: Vec<Vec<u8>> =
        log.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).chain([log.clone()]).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    spoil("event logs", &corpus, &fixtures("fuzz/event_logs"), |bytes| {
        std::fs::write(file.path(), bytes).unwrap();
        let mut log = EventLog::open(file.path()).unwrap();
        loop {
            match log.next() {
                Ok(Some(_)) => {}
                Ok(None) => return String::new(),
                Err(error) => return error.to_string().replace(&file.path().display().to_string(), ""),
            }
        }
    });
}

#[test]
fn spoilt_configurations() {
    let corpus = vec![DEFAULT_TOML.as_bytes().to_vec(), b"[ledger]\nretention_steps = 5000\n".to_vec()];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    spoil("configurations", &corpus, &fixtures("fuzz/configurations"), |bytes| {
        std::fs::write(&file, bytes).unwrap();
        let settings = Settings { config: Some(file.clone()), ..Settings::default() };
        match Config::load(&settings, &clap::ArgMatches::default(), None) {
            Ok(_) => String::new(),
            Err(error) => error.to_string().replace(&file.display().to_string(), ""),
        }
    });
}

#[test]
fn spoilt_keyfiles() {
    let folder = fixtures("bittensor/wallets/throwaway/hotkeys");
    // Those that are encrypted are spoilt where their keys can be given: `openvalidators-keys`.
    let names = ["plain", "python_plain", "ed25519", "plainpub.txt"];
    let corpus: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect();
    let wallets = tempfile::tempdir().unwrap();
    let hotkeys = wallets.path().join("w/hotkeys");
    std::fs::create_dir_all(&hotkeys).unwrap();
    let config = WalletConfig {
        name: Some("w".into()),
        hotkey: Some("h".into()),
        path: wallets.path().to_owned(),
        ..WalletConfig::default()
    };
    let wallet = Wallet::locate(&config, None).unwrap();
    spoil("keyfiles", &corpus, &fixtures("fuzz/keyfiles"), |bytes| {
        std::fs::write(hotkeys.join("h"), bytes).unwrap();
        match wallet.open(&mut Passwords::new(None, |_| None, None)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string().replace(&hotkeys.display().to_string(), ""),
        }
    });
}
