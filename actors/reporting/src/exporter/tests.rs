use std::sync::atomic::{AtomicBool, Ordering};

use openvalidators_runtime::{Clock, SystemClock, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    BuildInfo, ReportingMetrics,
    metrics::tests::{metagraph, scores_of},
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_three_endpoints_answer() {
    let registry = Registry::new();
    let build = BuildInfo {
        version: "0.1.0".into(),
        spec_version: "1020".into(),
        revision: "unknown".into(),
        rustc: "unknown".into(),
    };
    ReportingMetrics::new(&registry, &build).unwrap();
    let synced = Arc::new(AtomicBool::new(false));
    let seen = synced.clone();
    let health = Health::new()
        .live("ledger", || Ok(()))
        .ready("chain", move || if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("no metagraph yet".into()) });
    let exporter = Exporter::bind(LOOPBACK).await.unwrap();
    let address = exporter.address();
    let serving = tokio::spawn(exporter.serve(registry, Arc::new(health), SystemClock::shared()));

    let metrics = get(address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains(
        "openvalidators_build_info{revision=\"unknown\",rustc=\"unknown\",spec_version=\"1020\",version=\"0.1.0\"} 1"
    ));
    assert!(metrics.contains("\nprocess_resident_memory_bytes "));

    let health = get(address, "/health").await;
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with(r#"{"ok":true,"parts":{"ledger":"ok"}}"#),
        "{health}"
    );
    let ready = get(address, "/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.ends_with(r#"{"ok":false,"parts":{"chain":"no metagraph yet","ledger":"ok"}}"#), "{ready}");
    synced.store(true, Ordering::Relaxed);
    assert!(get(address, "/ready").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// Whoever opens connections and asks nothing costs a bounded number of them, and gets in nobody's way for long.
#[tokio::test]
async fn connections_beyond_the_cap_wait_until_one_ends() {
    let exporter = Exporter::bind(LOOPBACK).await.unwrap();
    let address = exporter.address();
    let _serving = tokio::spawn(exporter.serve(Registry::new(), Arc::default(), SystemClock::shared()));
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let clock = SystemClock::new();
    let asking = tokio::spawn(get(address, "/health"));
    clock.sleep(Duration::from_millis(100)).await;
    assert!(!asking.is_finished(), "the cap is reached");
    drop(silent.pop());
    let answer = within(&clock, Duration::from_secs(10), asking).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_taken_port_is_told_with_the_remedy() {
    let first = Exporter::bind(LOOPBACK).await.unwrap();
    let second = Exporter::bind(first.address()).await;
    let error = second.err().unwrap().to_string();
    for expected in [&first.address().to_string(), "in use", "reporting.metrics.address", "reporting.metrics.off"] {
        assert!(error.contains(expected), "{error}");
    }
}

/// What this thread has computed so far, whatever else the machine does meanwhile.
fn computed() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

/// A subnet of 1,024 uids with every gauge is scraped in less than 50 ms of a core, sockets, client and this profile included.
#[tokio::test]
async fn a_scrape_of_1024_uids_is_quick() {
    let registry = Registry::new();
    let build = BuildInfo { version: "0".into(), spec_version: "0".into(), revision: "0".into(), rustc: "0".into() };
    let metrics = ReportingMetrics::new(&registry, &build).unwrap();
    let uids: Vec<u16> = (0..1024).collect();
    metrics.show_uids(&metagraph(&uids), &scores_of(&uids));
    // The share of our weights comes from `actors/weights`.
    let weights = prometheus::GaugeVec::new(prometheus::Opts::new("uid_weight", "share"), &["uid"]).unwrap();
    registry.register(Box::new(weights.clone())).unwrap();
    uids.iter().for_each(|uid| weights.with_label_values(&[&uid.to_string()]).set(0.001));

    let exporter = Exporter::bind(LOOPBACK).await.unwrap();
    let address = exporter.address();
    let _serving = tokio::spawn(exporter.serve(registry, Arc::default(), SystemClock::shared()));
    let (mut quickest, mut series) = (Duration::MAX, 0);
    for _ in 0..20 {
        let since = computed();
        series = get(address, "/metrics").await.lines().filter(|line| line.contains("uid=")).count();
        quickest = quickest.min(computed() - since);
    }
    assert_eq!(series, 5 * 1024);
    println!("{series} series of uids in {quickest:?}");
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
}
