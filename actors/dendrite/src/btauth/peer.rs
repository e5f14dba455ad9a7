//! The real SDK 11 verifies what we sign, and refuses what was tampered with. `tests/peers.sh` installs it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hyper::header::HeaderMap;
use openvalidators_keys::ss58;
use openvalidators_messages::QueryOutcome;
use openvalidators_runtime::{DrivenClock, SharedClock, SystemClock};
use prometheus::IntCounter;

use super::*;
use crate::{
    client::{HttpClient, METHOD, PATH},
    testing::{alice, bob, dendrite, local, query},
};

/// A miner in Python that verifies with `bittensor.http_auth`.
struct Miner {
    process: Child,
    address: SocketAddr,
}

impl Miner {
    fn start() -> Option<Self> {
        let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
        let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
        let python = folder.unwrap_or_default().join("sdk11/bin/python");
        if !python.exists() {
            eprintln!("skipped: no {}; tests/peers.sh makes it", python.display());
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/btauth_miner.py");
        let mut process =
            Command::new(python).arg(script).arg(ss58::encode(&bob())).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap_or_else(|_| panic!("the miner said `{line}`"));
        Some(Self { process, address })
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_sdk_verifies_a_query() {
    let Some(miner) = Miner::start() else { return };
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    // It declares nothing: the first query goes out as a Synapse, which the miner refuses.
    for _ in 0..2 {
        for completion in dendrite.query(query(&[miner.address; 5], Duration::from_secs(60))).await {
            assert_eq!((completion.outcome, completion.status_code), (QueryOutcome::Answered, 200), "{completion:?}");
            assert_eq!(completion.text, "echo: it's \"quoted\"\n\\ café 😀 \u{200b}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_sdk_refuses_what_was_tampered_with() {
    let Some(miner) = Miner::start() else { return };
    let client = HttpClient::new(&local(), IntCounter::new("received", "bytes").unwrap());
    let receiver = ss58::encode(&bob());
    let body = r#"{"roles":["user"],"messages":["hi"]}"#;
    let at = |clock: SharedClock| headers(&Signing::new(alice(), clock), &receiver, METHOD.as_str(), PATH, body);
    let signed = || at(SystemClock::shared());
    let changed = |name: HeaderName, value: &str| {
        let mut headers = signed();
        insert(&mut headers, name, value);
        headers
    };
    let now = openvalidators_runtime::Clock::unix(&*SystemClock::shared());
    let shifted = |unix: Duration| at(Arc::new(DrivenClock::new(unix)));
    let signing = Signing::new(alice(), SystemClock::shared());
    let good = signed();
    let cases: Vec<(&str, HeaderMap, &str, u16, &str)> = vec![
        ("as signed", good.clone(), body, 200, ""),
        ("sent twice", good, body, 401, "ReplayedRequest"),
        ("another body", signed(), r#"{"roles":["user"],"messages":["ho"]}"#, 401, "BadSignature"),
        ("another path", headers(&signing, &receiver, "POST", "/Other", body), body, 401, "BadSignature"),
        ("another method", headers(&signing, &receiver, "PUT", PATH, body), body, 401, "BadSignature"),
        ("another sender", changed(HOTKEY, &receiver), body, 401, "BadSignature"),
        ("another receiver", headers(&signing, signing.address(), "POST", PATH, body), body, 401, "WrongReceiver"),
        ("another nonce", changed(NONCE, &(now.as_nanos() + 1).to_string()), body, 401, "BadSignature"),
        ("another version", changed(VERSION, "2"), body, 401, "MalformedAuth"),
        ("half a signature", changed(SIGNATURE, "0x00"), body, 401, "MalformedAuth"),
        ("too old", shifted(now - Duration::from_secs(11)), body, 401, "StaleRequest"),
        ("too new", shifted(now + Duration::from_secs(60)), body, 401, "StaleRequest"),
    ];
    for (what, headers, body, status, words) in cases {
        let received = client.exchange(miner.address, headers, body.to_owned()).await.unwrap();
        let ending = ending(&received);
        assert_eq!(ending.status_code, status, "{what}: {ending:?}");
        assert!(ending.status_message.contains(words), "{what}: {ending:?}");
    }
}
