//! What comes from outside, recorded and then spoilt: whatever the bytes, an answer or an error, no panic, and no more memory than
//! the input's own size and some.
//!
//! Seeded: a failure names the round, and the same round fails again. `OPENVALIDATORS_FUZZ_SECONDS` asks for more than the few
//! hundred rounds of an ordinary run.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use openvalidators::{
    cli::Settings,
    config::{Config, DEFAULT_TOML},
};
use openvalidators_dendrite::response::{Ending, MAX_STATUS_MESSAGE_CHARS, Received};
use openvalidators_keys::{Wallet, WalletConfig, wallet::Passwords};
use openvalidators_runtime::Seed;
use openvalidators_tables::{EventLog, Source};
use rand::{Rng, RngCore, seq::IndexedRandom};

const ROUNDS: u64 = 300;
/// More than this, over what there was before, no round may take.
const MOST_GROWTH_MIB: f64 = 128.0;

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Runs `see` on spoilt inputs.
fn spoil(what: &str, corpus: &[Vec<u8>], mut see: impl FnMut(&[u8])) {
    assert!(!corpus.is_empty() && corpus.iter().all(|input| !input.is_empty()), "{what} has a corpus");
    let seconds = std::env::var("OPENVALIDATORS_FUZZ_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    let (since, before) = (Instant::now(), peak_mib());
    let mut round = 0;
    while seconds.map_or(round < ROUNDS, |seconds| since.elapsed() < Duration::from_secs(seconds)) {
        let input = spoilt(corpus, round);
        // A panic's message has no round: this has.
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| see(&input)));
        assert!(watched.is_ok(), "{what}: round {round} panicked on {:?}", String::from_utf8_lossy(&input));
        round += 1;
    }
    let grown = peak_mib() - before;
    println!("{what}: {round} rounds in {:.0} s, {grown:.0} MiB at most", since.elapsed().as_secs_f64());
    assert!(grown < MOST_GROWTH_MIB, "{what} took {grown} MiB");
}

/// One of the inputs with up to eight wounds: bits, bytes, lengths, pieces left out, doubled, or from another input.
fn spoilt(corpus: &[Vec<u8>], round: u64) -> Vec<u8> {
    const INTERESTING: [&[u8]; 12] = [
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\xf0\x9f",
        b"{",
        b"[[[[[[[[",
        b"\"",
        b"1e999",
        b"-0",
        b"NaN",
        b"\\ud800",
        b"\r\n\r\n",
    ];
    let mut random = Seed(9).rng("fuzz", &[round]);
    let mut bytes = corpus.choose(&mut random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(0..=8) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..64)).min(bytes.len());
        match random.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                (0..random.random_range(1..200)).for_each(|_| drop(bytes.splice(at..at, piece.iter().copied())));
            }
            5 => {
                let other = corpus.choose(&mut random).map_or(&[][..], Vec::as_slice);
                let from = random.random_range(0..=other.len());
                drop(bytes.splice(at..end, other[from..(from + 64).min(other.len())].iter().copied()));
            }
            _ => drop(bytes.splice(at..at, INTERESTING[random.random_range(0..INTERESTING.len())].iter().copied())),
        }
    }
    bytes
}

/// The most this process ever had.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

#[test]
fn spoilt_replies_of_miners() {
    let recorded = ["http_v6.12.4", "http_v7.4.0", "http_v9.12.2", "http_v10.5.0"];
    let corpus: Vec<Vec<u8>> = recorded
        .iter()
        .map(|version| std::fs::read(fixtures("bittensor").join(version).join("response_0.http")).unwrap())
        .collect();
    spoil("replies", &corpus, |bytes| {
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
    });
}

#[test]
fn spoilt_event_logs() {
    let log = std::fs::read(fixtures("reporting/loguru_completions.log")).unwrap();
    let corpus: Vec<Vec<u8>> =
        log.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).chain([log.clone()]).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    spoil("event logs", &corpus, |bytes| {
        std::fs::write(file.path(), bytes).unwrap();
        let mut log = EventLog::open(file.path()).unwrap();
        while let Ok(Some(_)) = log.next() {}
    });
}

#[test]
fn spoilt_configurations() {
    let corpus = vec![DEFAULT_TOML.as_bytes().to_vec(), b"[ledger]\nretention_steps = 5000\n".to_vec()];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    spoil("configurations", &corpus, |bytes| {
        std::fs::write(&file, bytes).unwrap();
        let settings = Settings { config: Some(file.clone()), ..Settings::default() };
        if let Err(error) = Config::load(&settings, &clap::ArgMatches::default(), None) {
            assert!(!error.to_string().is_empty());
        }
    });
}

#[test]
fn spoilt_keyfiles() {
    let folder = fixtures("bittensor/wallets/throwaway/hotkeys");
    // The encrypted ones cost a second of key derivation each: only their heads are spoilt often enough.
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
    spoil("keyfiles", &corpus, |bytes| {
        std::fs::write(hotkeys.join("h"), bytes).unwrap();
        if let Err(error) = wallet.open(&mut Passwords::new(None, |_| None, None)) {
            assert!(!error.to_string().is_empty());
        }
    });
}
