//! A full subnet of which half misbehaves, on real sockets through the real dendrite: the step ends at its deadline, every
//! honest reply is there, and memory does not grow. Miners and dendrite are one process, so both are measured.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use openvalidators_dendrite::{Config, Dendrite, Metrics};
use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{
    Axon as Advertised, ForwardId, Hotkey, QueryOutcome, StepId, Uid, dendrite::Query, gating::Routed,
};
use openvalidators_runtime::SystemClock;
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// Miners in an ordinary run; `OPENVALIDATORS_SWARM=1024` asks for a full subnet.
const MINERS: usize = 128;
const DEADLINE: Duration = Duration::from_secs(4);
const STEPS: usize = 3;
/// The aim is 100 ms on a machine that has nothing else to do; here others run beside.
const MOST_LATE: Duration = Duration::from_secs(2);
const MOST_GROWTH_MIB: f64 = 64.0;

/// What a miner does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Answer,
    /// Reads, and never says a word.
    Hang,
    /// A byte a second.
    Drip,
    /// Closes with a reset.
    Reset,
    /// A body without end.
    Flood,
    /// Says that a little body is a large one, compressed.
    Compressed,
}

/// Of every twenty: six hang, two drip, one resets, one is a bomb of either kind.
fn way(uid: usize) -> Way {
    match uid % 20 {
        0..6 => Way::Hang,
        6..8 => Way::Drip,
        8 => Way::Reset,
        9 if uid % 40 == 9 => Way::Flood,
        9 => Way::Compressed,
        _ => Way::Answer,
    }
}

#[test]
fn half_a_subnet_misbehaves_and_costs_the_others_nothing() {
    let miners = std::env::var("OPENVALIDATORS_SWARM").map_or(MINERS, |miners| miners.parse().unwrap());
    rlimit::increase_nofile_limit(4 * miners as u64 + 512).unwrap();
    let runtime = Runtime::new().unwrap();
    let ports: Vec<(Way, u16)> = runtime.block_on(async {
        let mut ports = Vec::new();
        for way in [Way::Answer, Way::Hang, Way::Drip, Way::Reset, Way::Flood, Way::Compressed] {
            ports.push((way, serve(way).await));
        }
        ports
    });
    let routed: Vec<Routed> =
        (0..miners).map(|uid| routed(uid, ports.iter().find(|(served, _)| *served == way(uid)).unwrap().1)).collect();
    let honest = (0..miners).filter(|uid| way(*uid) == Way::Answer).count();

    let config = Config { allow_private_addresses: true, ..Config::default() };
    let signer = Arc::new(HotkeySigner::from_uri("//Alice").unwrap());
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let dendrite = Dendrite::new(signer, config, SystemClock::shared(), metrics, runtime.handle().clone()).unwrap();
    let before = resident_mib();
    for step in 0..STEPS {
        let started = Instant::now();
        let completions = runtime.block_on(dendrite.query(query(&routed)));
        let late = started.elapsed().saturating_sub(DEADLINE);
        assert_eq!(completions.len(), miners);
        let mut answered = 0;
        for (uid, completion) in completions.iter().enumerate() {
            let ended = completion.outcome;
            let fits = match way(uid) {
                Way::Answer => ended == QueryOutcome::Answered,
                Way::Hang | Way::Drip => ended == QueryOutcome::TimedOut,
                Way::Reset => ended == QueryOutcome::Unreachable,
                Way::Flood => ended == QueryOutcome::TooLarge,
                Way::Compressed => !completion.is_success(),
            };
            assert!(fits, "uid {uid} {:?}: {ended:?} {}", way(uid), completion.status_message);
            answered += usize::from(ended == QueryOutcome::Answered);
        }
        let grown = resident_mib() - before;
        println!(
            "{miners} miners, step {step}: {answered} of {honest} honest replies, ended {:.0} ms after the deadline, \
             {grown:.1} MiB more than before",
            late.as_secs_f64() * 1e3
        );
        assert!(late < MOST_LATE, "{late:?}");
        assert!(grown < MOST_GROWTH_MIB, "{grown} MiB");
    }
}

fn routed(uid: usize, port: u16) -> Routed {
    let ip = IpAddr::V4(Ipv4Addr::new(127, 2, (uid / 250) as u8, (uid % 250) as u8 + 1));
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

fn query(miners: &[Routed]) -> Query {
    Query {
        step: StepId { forward: ForwardId(0), index: 0 },
        miners: miners.to_vec(),
        roles: Arc::new(["user".to_owned()]),
        messages: Arc::new(["a prompt ".repeat(200)]),
        timeout: DEADLINE,
    }
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

/// A server of one way, at every loopback address.
async fn serve(way: Way) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream, way));
        }
    });
    port
}

/// Does as its kind, for each request of the connection.
async fn behave(mut stream: TcpStream, way: Way) {
    let text = "a".repeat(600);
    let body = format!(r#"{{"name":"Prompting","roles":["user"],"messages":["x"],"completion":"{text}"}}"#);
    let head = |more: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nbt_header_axon_status_code: 200\r\n{more}\r\n")
    };
    let mut buffer = vec![0; 16_384];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += read;
        // The last byte of the body closes its object.
        if !buffer[..filled].ends_with(b"\"completion\": \"\"}") {
            continue;
        }
        filled = 0;
        match way {
            Way::Answer => {
                let reply = format!("{}{body}", head(&format!("content-length: {}\r\n", body.len())));
                let _ = stream.write_all(reply.as_bytes()).await;
            }
            Way::Hang => {}
            Way::Drip => {
                let _ = stream.write_all(head("content-length: 9999\r\n").as_bytes()).await;
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if stream.write_all(b"a").await.is_err() {
                        return;
                    }
                }
            }
            Way::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
            Way::Flood => {
                let _ = stream.write_all(head("").as_bytes()).await;
                while stream.write_all(&[b'a'; 16_384]).await.is_ok() {}
                return;
            }
            Way::Compressed => {
                let reply =
                    format!("{}{body}", head(&format!("content-encoding: gzip\r\ncontent-length: {}\r\n", body.len())));
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        }
    }
}
