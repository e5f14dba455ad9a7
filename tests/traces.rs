//! OpenTelemetry: a collector gets each forward with its steps and their parts; one that is away costs nothing.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use crate::program::{CONSTANT_REWARD, Program};

const STEPS: usize = 3;

/// A collector: every span it was sent, in OTLP's JSON, by its id.
fn collector() -> (String, Arc<Mutex<BTreeMap<String, Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::new(Mutex::new(BTreeMap::new()));
    let kept = spans.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = BufReader::new(connection.unwrap());
            let mut head = Vec::new();
            for line in connection.by_ref().lines() {
                match line {
                    Ok(line) if line.is_empty() => break,
                    Ok(line) => head.push(line.to_lowercase()),
                    Err(_) => break,
                }
            }
            let Some(length) = head.iter().find_map(|line| line.strip_prefix("content-length: ")) else { continue };
            let mut body = vec![0; length.parse().unwrap()];
            connection.read_exact(&mut body).unwrap();
            assert!(head[0].starts_with("post /v1/traces "), "{head:?}");
            let sent: Value = serde_json::from_slice(&body).unwrap();
            for resource in sent["resourceSpans"].as_array().unwrap() {
                assert!(resource["resource"].to_string().contains("openvalidators"), "{resource}");
                let scopes = resource["scopeSpans"].as_array().unwrap().iter();
                for span in scopes.flat_map(|scope| scope["spans"].as_array().unwrap()) {
                    kept.lock().unwrap().insert(span["spanId"].as_str().unwrap().to_owned(), span.clone());
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            connection.get_mut().write_all(answer).unwrap();
        }
    });
    (address, spans)
}

/// Runs some steps with these variables, to an orderly end.
fn run(variables: &[(&str, &str)]) {
    let state = tempfile::tempdir().unwrap();
    let steps = STEPS.to_string();
    let settings = CONSTANT_REWARD.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["--steps", &steps].into_iter().chain(settings).collect();
    let log = state.path().join("log");
    let (_, status) = Program::start_among(state.path(), &arguments, variables, &log).finish();
    assert!(status.success(), "{status}: {}", std::fs::read_to_string(log).unwrap());
}

#[test]
fn a_collector_gets_forwards_steps_and_their_parts() {
    let (address, spans) = collector();
    run(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &address), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
    let spans = spans.lock().unwrap();
    let name = |span: &Value| span["name"].as_str().unwrap().to_owned();
    let above = |span: &Value| spans.get(span["parentSpanId"].as_str().unwrap_or_default());
    let named = |wanted: &str| spans.values().filter(|span| name(span) == wanted).collect::<Vec<_>>();
    let augment = named("augment");
    assert_eq!(augment.len(), 1, "{spans:?}");
    assert_eq!(above(augment[0]).map(name), Some("forward".to_owned()));
    let attributes = augment[0]["attributes"].to_string();
    assert!(attributes.contains("sequence") && attributes.contains("result"), "{attributes}");
    for (part, at_least) in [("route", STEPS), ("query", STEPS), ("score", STEPS), ("settle", STEPS), ("draw", 1)] {
        let found = named(part);
        assert!(found.len() >= at_least, "{part}: {spans:?}");
        for span in found {
            let above = above(span).map(name).unwrap();
            let step = ["augment", "followup0", "answer0"].contains(&above.as_str());
            assert!(step || part == "draw" && above == "forward" || above.contains("followup"), "{part} in {above}");
            let time = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
            assert!(time("endTimeUnixNano") >= time("startTimeUnixNano"));
        }
    }
    let text = format!("{spans:?}");
    assert!(!text.contains("Summar"), "no prompt is in a trace");
}

/// The port is free: nobody answers.
#[test]
fn a_collector_that_is_away_costs_nothing() {
    let address = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    run(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &address)]);
}
