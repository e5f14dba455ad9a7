//! Steps per hour of the local run with 1, 4 and 8 forwards at equal timeouts, the share of time the device idles, and
//! memory. `cargo bench --bench forwards -- [STEPS]`; the whole binary runs, once for each number of forwards.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stdout, reason = "a measurement from outside")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;

/// Steps of one lane: two forwards. Each run is as long as its lanes are many, so that every lane does whole forwards and
/// none only early, short-prompt steps.
const STEPS: u64 = 18;
const FORWARDS: [u64; 3] = [1, 4, 8];
const BUSY: &str = "openvalidators_inference_busy_seconds_total";

struct Figures {
    steps_per_hour: f64,
    idle: f64,
    resident_mib: f64,
    peak_mib: f64,
}

fn main() {
    let steps = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(STEPS);
    let cores = std::thread::available_parallelism().unwrap();
    println!("{steps} steps for each forward, 6 of 16 miners asked, timeouts of 4 s, {cores} cores");
    println!("| forwards | steps/hour | against 1 | device idle | resident | peak |");
    println!("|---|---|---|---|---|---|");
    let mut base = None;
    for forwards in FORWARDS {
        let figures = measure(forwards, steps * forwards);
        let base = *base.get_or_insert(figures.steps_per_hour);
        println!(
            "| {forwards} | {:.0} | {:.2}× | {:.0} % | {:.0} MiB | {:.0} MiB |",
            figures.steps_per_hour,
            figures.steps_per_hour / base,
            100.0 * figures.idle,
            figures.resident_mib,
            figures.peak_mib,
        );
    }
}

/// From the first settled step to the last, so that loading and registering do not count.
fn measure(forwards: u64, steps: u64) -> Figures {
    let state = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_openvalidators"))
        .args(["--log", "error", "run", "--json", "--set", "reporting.metrics.address=127.0.0.1:0"])
        .args(["--set", &format!("prompts.concurrent_forwards={forwards}"), "--state-dir"])
        .arg(state.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let note = next()["text"].as_str().unwrap().to_owned();
    let address = note.strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    let (mut first, mut settled) = (None, 0);
    while settled < steps {
        if next()["event"] == "step" {
            settled += 1;
            first.get_or_insert_with(|| (Instant::now(), metric(&address, BUSY)));
        }
    }
    let (since, busy_before) = first.unwrap();
    let seconds = since.elapsed().as_secs_f64();
    let busy = metric(&address, BUSY) - busy_before;
    let resident_mib = metric(&address, "process_resident_memory_bytes") / f64::from(1 << 20);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_mib = peak.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() / 1024.0;
    child.kill().unwrap();
    child.wait().unwrap();
    let steps_per_hour = (steps - 1) as f64 / seconds * 3600.0;
    Figures { steps_per_hour, idle: 1.0 - busy / seconds, resident_mib, peak_mib }
}

/// The sum of a metric over its labels.
fn metric(address: &str, name: &str) -> f64 {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let values = answer.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}
