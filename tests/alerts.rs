//! Faults that wake somebody: injected into a running validator, seen by a real Prometheus, told by a real Alertmanager.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::mpsc::{Receiver, sync_channel},
    time::Instant,
};

use openvalidators_subtensor::remote::testing::Member;
use serde_json::Value;

use crate::{
    dashboards::{PATIENCE, Peer, Prometheus, free_port, list, read, start, text},
    live::{Network, ours},
    program::{LocalnetProcess, Program},
};

/// By which times of the rules are divided: ten minutes are twenty seconds, and nobody waits for a test as for a person.
const HURRY: u64 = 30;

/// Takes what Alertmanager sends, until the test ends.
fn webhook() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (hear, heard) = sync_channel(1_000);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut request, mut part) = (Vec::new(), [0; 4_096]);
            let body = loop {
                let read = stream.read(&mut part).unwrap_or(0);
                request.extend_from_slice(&part[..read]);
                let told = String::from_utf8_lossy(&request).into_owned();
                if let Some((head, body)) = told.split_once("\r\n\r\n") {
                    let length = head
                        .lines()
                        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
                    if read == 0 || body.len() >= length.unwrap().parse().unwrap() {
                        break body.to_owned();
                    }
                }
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = hear.send(serde_json::from_str(&body).unwrap());
        }
    });
    (address, heard)
}

/// Whoever is to be woken: a real Alertmanager that tells a webhook.
struct Night {
    alertmanager: String,
    alerts: Receiver<Value>,
    _peer: Peer,
}

impl Night {
    /// `None` where there is no Alertmanager.
    fn start(folder: &Path) -> Option<Self> {
        let (hook, alerts) = webhook();
        let alertmanager = format!("127.0.0.1:{}", free_port());
        // As shipped, but for the addresses and the waits.
        let config = read("alertmanager/alertmanager.yml")
            .replace("localhost:9099", &hook)
            .replace("group_wait: 10s", "group_wait: 0s")
            .replace("group_interval: 5m", "group_interval: 1s");
        std::fs::write(folder.join("alertmanager.yml"), config).unwrap();
        let arguments = [
            format!("--config.file={}", folder.join("alertmanager.yml").display()),
            format!("--storage.path={}", folder.join("notices").display()),
            format!("--web.listen-address={alertmanager}"),
            "--cluster.listen-address=".to_owned(),
        ];
        Some(Self { _peer: start("prometheus-alertmanager", folder, &arguments)?, alertmanager, alerts })
    }

    /// Waits for an alert of this name.
    fn heard(&self, name: &str) -> Value {
        self.all_of(&[name]).remove(0)
    }

    /// Waits until each of these has come, in whatever order. What it was first is kept: in a hurry, where a window is shorter
    /// than a step, it may be over before the next comes.
    fn all_of(&self, names: &[&str]) -> Vec<Value> {
        let (since, mut found) = (Instant::now(), vec![Value::Null; names.len()]);
        while let Some(left) = PATIENCE.checked_sub(since.elapsed()) {
            let Ok(message) = self.alerts.recv_timeout(left) else { break };
            for alert in list(&message["alerts"]) {
                if let Some(place) = names.iter().position(|name| alert["labels"]["alertname"] == *name)
                    && found[place].is_null()
                {
                    found[place] = alert.clone();
                }
            }
            if !found.contains(&Value::Null) {
                return found;
            }
        }
        panic!("of {names:?} the webhook heard {found:?}");
    }
}

/// A chain that stops makes no blocks, and a validator that is killed is down: both reach whoever is to be woken.
#[test]
fn alerts_reach_a_webhook_through_a_real_alertmanager() {
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let Some(night) = Night::start(folder.path()) else { return };

    let localnet = LocalnetProcess::start(chain.path(), "127.0.0.1:0", &["chain.local.block_seconds=0.5"]);
    let mut program = Program::start(state.path(), &["--chain", &localnet.address]);
    let address = program.metrics_address();
    let Some(prometheus) = Prometheus::start(folder.path(), &address, Some(&night.alertmanager), HURRY) else { return };
    program.until("step");
    prometheus.until("up == 1");

    // Chain and miners vanish together.
    localnet.kill();
    let alert = night.heard("ChainLag");
    assert_eq!((text(&alert["status"]), text(&alert["labels"]["severity"])), ("firing", "critical"));
    assert_eq!(text(&alert["annotations"]["runbook_url"]), "docs/operations.md#chainlag");
    assert!(text(&alert["annotations"]["summary"]).contains("has seen no block for"), "{alert}");

    program.kill();
    let alert = night.heard("ValidatorDown");
    assert_eq!(text(&alert["labels"]["instance"]), address);
}

/// The permit goes, so that weights stop, and the miners go: a person learns of both.
#[test]
fn weights_that_stop_and_miners_that_vanish_reach_a_webhook() {
    let folder = tempfile::tempdir().unwrap();
    let Some(night) = Night::start(folder.path()) else { return };
    let mut network = Network::start(Some(Member::validator(ours(), 10_000)));
    let mut program = network.validate();
    let address = program.metrics_address();
    let Some(prometheus) = Prometheus::start(folder.path(), &address, Some(&night.alertmanager), HURRY) else { return };
    network.until("weights were set", |subnet| subnet.weights_of(&ours()).is_some());
    prometheus.until("openvalidators:completions_answered:ratio10m > 0.5");
    let firing = prometheus.query(r#"ALERTS{alertstate="firing",alertname=~"WeightsNotSet|MinersVanished"}"#).unwrap();
    assert!(list(&firing).is_empty(), "all is well: {firing}");

    network.node.subnet(|subnet| subnet.members[0].permit = false);
    network.lose_miners();
    let alerts = night.all_of(&["WeightsNotSet", "MinersVanished"]);
    for (alert, words) in alerts.iter().zip(["has set no weights for", "of the miners that"]) {
        let labels = (text(&alert["labels"]["severity"]), text(&alert["labels"]["instance"]));
        assert_eq!((text(&alert["status"]), labels), ("firing", ("critical", &*address)), "{alert}");
        assert!(text(&alert["annotations"]["summary"]).contains(words), "{alert}");
    }
    assert!(program.is_running(), "it goes on");
}
