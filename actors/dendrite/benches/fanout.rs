//! What a fan-out costs: `cargo bench -p openvalidators-dendrite`.
//!
//! Miners run in a child process of this same program, each with an address of its own (127.1.x.y), so that the CPU time
//! counted here is the dendrite's alone (user and system time of all threads, from the kernel's scheduler statistics;
//! Linux only). Wall times include the child's work on the same cores. It needs about 2,200 file descriptors
//! (`ulimit -n`).
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program to be read on a terminal"
)]

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use openvalidators_dendrite::{
    Config, Dendrite, Metrics,
    axon::{Axon, AxonConfig, AxonRequest, Reply},
};
use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{
    Axon as Advertised, ForwardId, Hotkey, QueryOutcome, StepId, Uid, dendrite::Query, gating::Routed,
};
use openvalidators_runtime::{SharedClock, SystemClock};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

const MINERS: usize = 1_024;
const ROUNDS: usize = 20;
/// Of the prompt: a step with its history. The request is about 3 kB.
const PROMPT_BYTES: usize = 2_000;
const COMPLETION_BYTES: usize = 600;

fn main() {
    // cargo passes `--bench` to the parent.
    if std::env::args().any(|argument| argument == "--serve-miners") {
        return serve_miners();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("--serve-miners")
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap().parse().unwrap());
    let ports = Ports {
        plain: lines.next().unwrap(),
        verifying: lines.next().unwrap(),
        hanging: lines.next().unwrap(),
        dripping: lines.next().unwrap(),
        endless: lines.next().unwrap(),
    };
    measure(&ports);
    drop(child.stdin.take());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// One port for each way to behave; every address of 127.0.0.0/8 reaches it.
struct Ports {
    plain: u16,
    verifying: u16,
    hanging: u16,
    dripping: u16,
    endless: u16,
}

fn measure(ports: &Ports) {
    let runtime = Runtime::new().unwrap();
    let clock = SystemClock::shared();
    println!("| round | n | CPU per request | wall | answered |\n|---|---|---|---|---|");
    for (what, port, n) in [
        ("plain miners", ports.plain, MINERS),
        ("plain miners", ports.plain, 50),
        ("axons that verify", ports.verifying, 50),
    ] {
        let mut miners: Vec<_> = (0..n).map(|uid| routed(uid, port)).collect();
        if port == ports.verifying {
            miners.iter_mut().for_each(|miner| miner.hotkey = bob());
        }
        let dendrite = dendrite(&runtime, &clock);
        let rounds = if n == MINERS { ROUNDS } else { ROUNDS * 20 };
        let cold = round(&runtime, &dendrite, &clock, &miners, Duration::from_secs(30));
        let mut warm: Vec<_> =
            (0..rounds).map(|_| round(&runtime, &dendrite, &clock, &miners, Duration::from_secs(30))).collect();
        let answered = warm.iter().map(|round| round.answered).sum::<usize>();
        warm.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
        let mid = &warm[rounds / 2];
        row(&format!("{what}, cold"), n, &cold);
        println!(
            "| {what}, warm, median of {rounds} | {n} | {:.1} µs | {:.1} ms | {answered} of {} |",
            mid.cpu / n as f64 * 1e6,
            mid.wall * 1e3,
            n * rounds
        );
    }

    println!("\n{MINERS} miners, 30 % hang, 10 % drip 1 B/s, deadline 3 s:");
    let deadline = Duration::from_secs(3);
    let miners: Vec<_> = (0..MINERS)
        .map(|uid| match uid % 10 {
            0..3 => routed(uid, ports.hanging),
            3 => routed(uid, ports.dripping),
            _ => routed(uid, ports.plain),
        })
        .collect();
    let honest = miners.iter().filter(|miner| miner.axon.address.port() == ports.plain).count();
    let dendrite = dendrite(&runtime, &clock);
    for _ in 0..3 {
        let round = round(&runtime, &dendrite, &clock, &miners, deadline);
        println!(
            "  {} of {honest} honest miners served, step ended {:.1} ms after the deadline, CPU {:.0} ms",
            round.answered,
            (round.wall - deadline.as_secs_f64()) * 1e3,
            round.cpu * 1e3
        );
    }

    let before = resident_mib();
    let endless: Vec<_> = (0..50).map(|uid| routed(uid, ports.endless)).collect();
    let round = round(&runtime, &dendrite, &clock, &endless, deadline);
    println!(
        "\n50 endless bodies at once: resident {before:.1} -> {:.1} MiB, all cut off after {:.0} ms",
        resident_mib(),
        round.wall * 1e3
    );
    println!("\nsigning alone: {:.1} µs", sign_alone());
}

struct Round {
    cpu: f64,
    wall: f64,
    answered: usize,
}

fn row(what: &str, n: usize, round: &Round) {
    println!(
        "| {what} | {n} | {:.1} µs | {:.1} ms | {} |",
        round.cpu / n as f64 * 1e6,
        round.wall * 1e3,
        round.answered
    );
}

fn dendrite(runtime: &Runtime, clock: &SharedClock) -> Dendrite {
    let signer = Arc::new(HotkeySigner::from_uri("//Alice").unwrap());
    let config = Config { allow_private_addresses: true, ..Config::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    Dendrite::new(signer, config, clock.clone(), metrics, runtime.handle().clone()).unwrap()
}

fn routed(uid: usize, port: u16) -> Routed {
    let ip = IpAddr::V4(Ipv4Addr::new(127, 1, (uid / 250) as u8, (uid % 250) as u8 + 1));
    // Lanes are kept by hotkey, so each miner has its own; only those that verify mind which.
    let mut hotkey = [0; 32];
    hotkey[..8].copy_from_slice(&uid.to_le_bytes());
    Routed {
        uid: Uid(uid as u16),
        hotkey: Hotkey(hotkey),
        axon: Advertised { address: SocketAddr::new(ip, port), protocol: 4, version: 0 },
        propensity: 1.0,
        uniform_propensity: None,
    }
}

fn bob() -> Hotkey {
    HotkeySigner::from_uri("//Bob").unwrap().hotkey()
}

fn round(runtime: &Runtime, dendrite: &Dendrite, clock: &SharedClock, miners: &[Routed], timeout: Duration) -> Round {
    let query = Query {
        step: StepId { forward: ForwardId(0), index: 0 },
        miners: miners.to_vec(),
        roles: Arc::new(["user".to_owned()]),
        messages: Arc::new(["it's a prompt\n".repeat(PROMPT_BYTES / 14)]),
        timeout,
    };
    let (cpu, started) = (cpu_seconds(), clock.now());
    let completions = runtime.block_on(dendrite.query(query));
    let wall = (clock.now() - started).as_secs_f64();
    let answered = completions.iter().filter(|c| c.outcome == QueryOutcome::Answered).count();
    Round { cpu: cpu_seconds() - cpu, wall, answered }
}

fn sign_alone() -> f64 {
    let signer = HotkeySigner::from_uri("//Alice").unwrap();
    let message = [b'a'; 250];
    let before = cpu_seconds();
    for _ in 0..10_000 {
        std::hint::black_box(signer.sign(std::hint::black_box(&message)));
    }
    (cpu_seconds() - before) / 10_000.0 * 1e6
}

/// Time on a core of every thread, in seconds, with a resolution of nanoseconds.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let ns = |task: std::fs::DirEntry| -> u64 {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
    };
    tasks.flatten().map(ns).sum::<u64>() as f64 / 1e9
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

// === The miners ===

#[tokio::main]
async fn serve_miners() {
    let text = "a".repeat(COMPLETION_BYTES);
    let body = format!(r#"{{"name":"Prompting","roles":["user"],"messages":["x"],"completion":"{text}"}}"#);
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nbt_header_axon_status_code: 200\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    println!("{}", raw(reply.clone(), Way::Answer).await);
    let config = AxonConfig { listen: "0.0.0.0:0".parse().unwrap(), max_connections: 4_096, ..AxonConfig::default() };
    let forward = move |_: AxonRequest| std::future::ready(Reply::Completion(text.clone()));
    let axon = Axon::serve(bob(), config, SystemClock::shared(), forward).await.unwrap();
    println!("{}", axon.address().port());
    println!("{}", raw(String::new(), Way::Hang).await);
    println!("{}", raw("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n".into(), Way::Drip).await);
    println!("{}", raw("HTTP/1.1 200 OK\r\n\r\n".into(), Way::Flood).await);
    // Ends with the parent, whose end of stdin closes.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
}

#[derive(Clone, Copy)]
enum Way {
    Answer,
    Hang,
    Drip,
    Flood,
}

/// As cheap as a server can be, so that the dendrite is what is measured.
async fn raw(reply: String, way: Way) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let reply: Arc<str> = reply.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let reply = reply.clone();
            tokio::spawn(async move {
                let clock = SystemClock::shared();
                let mut buffer = vec![0; 16_384];
                let mut filled = 0;
                while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
                    filled += read;
                    // The body's last byte closes its object, and no other chunk ends so.
                    if !buffer[..filled].ends_with(b"\"completion\": \"\"}") {
                        continue;
                    }
                    filled = 0;
                    let _ = stream.write_all(reply.as_bytes()).await;
                    match way {
                        Way::Answer | Way::Hang => {}
                        Way::Drip => loop {
                            clock.sleep(Duration::from_secs(1)).await;
                            if stream.write_all(b"a").await.is_err() {
                                return;
                            }
                        },
                        Way::Flood => while stream.write_all(&[b'a'; 16_384]).await.is_ok() {},
                    }
                }
            });
        }
    });
    port
}
