//! Miners that run the real SDKs: 9 and 10 with their axons, 11 with its signed requests. `tests/peers.sh` installs them.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hyper::header::{HeaderMap, HeaderName};
use openvalidators_keys::{HotkeySigner, ss58};
use openvalidators_messages::{Hotkey, QueryOutcome};
use openvalidators_runtime::{DrivenClock, SharedClock, SystemClock};
use prometheus::{IntCounter, Registry};
use tokio::runtime::Handle;

use crate::{
    Dendrite, Metrics,
    axon::{Axon, AxonConfig},
    btauth::{HOTKEY, NONCE, SIGNATURE, VERSION, ending, headers},
    client::{HttpClient, METHOD, PATH},
    signing::Signing,
    synapse::insert,
    testing::{alice, bob, dendrite, local, query},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A miner in Python.
struct Miner {
    process: Child,
    address: SocketAddr,
    /// Kept open: Python dies of writing to a closed one.
    _said: Option<BufReader<ChildStdout>>,
}

/// The interpreter of an SDK's environment. `None`, with a printed reason, where it is not installed.
fn python(sdk: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    let python = folder.unwrap_or_default().join(sdk).join("bin/python");
    if !python.exists() {
        eprintln!("skipped: no {}; tests/peers.sh makes it", python.display());
        return None;
    }
    Some(python)
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor")).join(name)
}

impl Miner {
    /// Waits until it listens. `None` where its SDK is not installed.
    fn start(sdk: &str, script: &str, args: &[&str]) -> Option<Self> {
        let mut command = Command::new(python(sdk)?);
        command.arg(self::script(script)).args(args).stdout(Stdio::piped());
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut miner = Self { process: command.spawn().unwrap(), address: nowhere, _said: None };
        let mut said = BufReader::new(miner.process.stdout.take().unwrap());
        loop {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "{script} has ended");
            if let Ok(address) = line.trim().parse() {
                (miner.address, miner._said) = (address, Some(said));
                return Some(miner);
            }
        }
    }

    fn of_sdk_10() -> Option<Self> {
        Self::of_synapses("sdk10")
    }

    /// The axon of SDK 6 to 10.
    fn of_synapses(sdk: &str) -> Option<Self> {
        Self::start(sdk, "synapse_miner.py", &["//Bob", &ss58::encode(&charlie().hotkey())])
    }

    fn of_sdk_11() -> Option<Self> {
        Self::start("sdk11", "btauth_miner.py", &[&ss58::encode(&bob())])
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whom the miner of SDK 10 has on its blacklist.
fn charlie() -> Arc<HotkeySigner> {
    Arc::new(HotkeySigner::from_uri("//Charlie").unwrap())
}

/// Declared as 10 or as 11, in vain: the real axon marks what it refuses, so it is asked as it wants to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_axon_serves_a_fan_out() {
    let Some(miner) = Miner::of_sdk_10() else { return };
    for declared in [10_005_000, 11_003_000] {
        fan_out(&miner, declared).await;
    }
}

/// Eight queries at once, of awkward text, to a miner that declares this version.
async fn fan_out(miner: &Miner, declared: u32) {
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    let mut asked = query(&[miner.address; 8], PATIENCE);
    asked.miners.iter_mut().for_each(|miner| miner.axon.version = declared);
    for completion in dendrite.query(asked).await {
        assert_eq!((completion.outcome, completion.status_code), (QueryOutcome::Answered, 200), "{completion:?}");
        assert_eq!(completion.text, "echo: it's \"quoted\"\n\\ café 😀 \u{200b}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_axon_of_the_sdk_before_serves_a_fan_out() {
    let Some(miner) = Miner::of_synapses("sdk9") else { return };
    fan_out(&miner, 9_012_002).await;
}

/// What 256 queries cost us, beside the SDK's own dendrite on the same axon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, printed: run it alone"]
async fn what_a_query_costs_beside_the_real_dendrite() {
    const QUERIES: usize = 256;
    const ROUNDS: usize = 3;
    let Some(miner) = Miner::of_sdk_10() else { return };
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    let clock = SystemClock::shared();
    for round in 0..ROUNDS {
        let mut asked = query(&[miner.address; QUERIES], Duration::from_secs(600));
        asked.messages = Arc::new(["it's a prompt\n".repeat(150)]);
        let (cpu, begin) = (cpu_seconds(), clock.now());
        let completions = dendrite.query(asked).await;
        let (cpu, wall) = (cpu_seconds() - cpu, clock.now() - begin);
        let answered = completions.iter().filter(|one| one.outcome == QueryOutcome::Answered).count();
        println!("ours, round {round}: {:.0} us a query, {answered} answered, {wall:.1?}", cpu / QUERIES as f64 * 1e6);
    }
    let mut command = Command::new(python("sdk10").unwrap());
    let (ip, port) = (miner.address.ip().to_string(), miner.address.port().to_string());
    let counts = [QUERIES, ROUNDS].map(|count| count.to_string());
    command.arg(script("dendrite_cpu.py")).args(["//Alice", &ss58::encode(&bob()), &ip, &port]).args(counts);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let rounds = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(cpu, answered)| Some((cpu.parse::<f64>().ok()?, answered.parse::<usize>().ok()?)));
    let rounds: Vec<_> = rounds.collect();
    assert_eq!(rounds.len(), ROUNDS, "{said} {}", String::from_utf8_lossy(&output.stderr));
    for (round, (cpu, answered)) in rounds.into_iter().enumerate() {
        println!("the SDK's, round {round}: {:.0} us a query, {answered} answered", cpu / QUERIES as f64 * 1e6);
    }
}

/// Time on a core of every thread of this process, by the kernel's scheduler.
fn cpu_seconds() -> f64 {
    let of = |task: std::fs::DirEntry| -> u64 {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or_default()
    };
    std::fs::read_dir("/proc/self/task").unwrap().flatten().map(of).sum::<u64>() as f64 / 1e9
}

/// And it refuses the same from who is not verified, which the tests of the axon show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_dendrite_pings_a_validators_axon() {
    let Some(python) = python("sdk10") else { return };
    let axon = Axon::serve_pings(bob(), AxonConfig::default(), SystemClock::shared()).await.unwrap();
    let (ip, port) = (axon.address().ip().to_string(), axon.address().port().to_string());
    let mut command = Command::new(python);
    command.arg(script("synapse_dendrite.py")).args(["//Alice", &ss58::encode(&bob()), &ip, &port]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told: Vec<_> = said.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).collect();
    let [ping, other] = told[..] else { panic!("{said} {}", String::from_utf8_lossy(&output.stderr)) };
    assert_eq!(ping, "200 Success");
    assert!(other.starts_with("404 Synapse name 'Prompting' not found"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_axon_refuses_with_a_reason() {
    let Some(miner) = Miner::of_sdk_10() else { return };
    let ask = async |signer, receiver: Hotkey| {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let dendrite = Dendrite::new(signer, local(), SystemClock::shared(), metrics, Handle::current()).unwrap();
        let mut asked = query(&[miner.address], PATIENCE);
        asked.miners[0].hotkey = receiver;
        dendrite.query(asked).await.remove(0)
    };
    let blacklisted = ask(charlie(), bob()).await;
    assert_eq!((blacklisted.outcome, blacklisted.status_code), (QueryOutcome::Refused, 403));
    assert_eq!(blacklisted.status_message, "Forbidden. Key is blacklisted: no.");
    let elsewhere = ask(alice(), charlie().hotkey()).await;
    assert_eq!((elsewhere.outcome, elsewhere.status_code), (QueryOutcome::Refused, 401));
    assert!(elsewhere.status_message.contains("Signature mismatch"), "{elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_sdk_11_verifies_a_query() {
    let Some(miner) = Miner::of_sdk_11() else { return };
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
async fn the_real_sdk_11_refuses_what_was_tampered_with() {
    let Some(miner) = Miner::of_sdk_11() else { return };
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
    let now = SystemClock::shared().unix();
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
        ("too new", shifted(now + PATIENCE), body, 401, "StaleRequest"),
    ];
    for (what, headers, body, status, words) in cases {
        let received = client.exchange(miner.address, headers, body.to_owned()).await.unwrap();
        let ending = ending(&received);
        assert_eq!(ending.status_code, status, "{what}: {ending:?}");
        assert!(ending.status_message.contains(words), "{what}: {ending:?}");
    }
}
