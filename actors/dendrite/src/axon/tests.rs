//! Real requests over real connections.

use openvalidators_keys::{HotkeySigner, ss58};
use openvalidators_messages::QueryOutcome;
use openvalidators_runtime::{DrivenClock, SystemClock};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    synapse::{Prompting, TerminalInfo, signed_message},
    testing::{alice, bob, dendrite, local, query, serve, serve_with},
};

const SECOND: Duration = Duration::from_secs(1);

struct Replied {
    status: u16,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Replied {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn message(&self) -> &str {
        let words = self.body["message"].as_str().unwrap();
        assert_eq!(self.header("bt_header_axon_status_code"), Some(self.status.to_string().as_str()));
        assert_eq!(self.header("bt_header_axon_status_message"), Some(words));
        words
    }
}

/// Sends bytes and reads one reply.
async fn send(address: SocketAddr, request: &[u8]) -> Replied {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut whole = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        whole.extend_from_slice(&buffer[..read]);
        let Some(head) = whole.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8(whole[..head].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect::<Vec<_>>();
        let replied = Replied { status, headers, body: Value::Null };
        let length: usize = replied.header("content-length").unwrap().parse().unwrap();
        if whole.len() >= head + 4 + length || read == 0 {
            return Replied { body: serde_json::from_slice(&whole[head + 4..]).unwrap(), ..replied };
        }
    }
}

/// A request as our dendrite writes it, to be spoilt.
struct Draft {
    signer: HotkeySigner,
    nonce: u64,
    uuid: &'static str,
    receiver: Hotkey,
    version: Option<u64>,
    path: &'static str,
    body: Option<String>,
    without: &'static [&'static str],
    timeout: Duration,
}

impl Draft {
    fn new(nonce: Duration) -> Self {
        Self {
            signer: HotkeySigner::from_uri("//Alice").unwrap(),
            nonce: u64::try_from(nonce.as_nanos()).unwrap(),
            uuid: "u",
            receiver: bob(),
            version: Some(10_005_000),
            path: "Prompting",
            body: None,
            without: &[],
            timeout: SECOND * 12,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let texts = ["hi".to_owned()];
        let prompting = Prompting::new(&texts, &texts, self.timeout);
        let sender = ss58::encode(&self.signer.hotkey());
        let receiver = ss58::encode(&self.receiver);
        let message = signed_message(self.nonce, &sender, &receiver, self.uuid, prompting.body_hash());
        let dendrite = TerminalInfo {
            version: self.version,
            nonce: Some(self.nonce),
            uuid: Some(self.uuid.to_owned()),
            hotkey: Some(sender),
            signature: Some(format!("0x{}", hex::encode(self.signer.sign(message.as_bytes())))),
            ..TerminalInfo::default()
        };
        let axon = TerminalInfo { hotkey: Some(receiver), ..TerminalInfo::default() };
        let body = self.body.clone().unwrap_or_else(|| prompting.body(&dendrite, &axon));
        let mut text = format!("POST /{} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n", self.path, body.len());
        for (name, value) in &prompting.headers(&dendrite, &axon) {
            if !self.without.contains(&name.as_str()) {
                text += &format!("{name}: {}\r\n", value.to_str().unwrap());
            }
        }
        (text + "\r\n" + &body).into_bytes()
    }
}

struct Echo;

impl Forward for Echo {
    fn blacklist(&self, dendrite: &Hotkey) -> Option<String> {
        let charlie = HotkeySigner::from_uri("//Charlie").unwrap().hotkey();
        (*dendrite == charlie).then(|| "nope".to_owned())
    }

    fn forward(&self, request: AxonRequest) -> BoxFuture<'static, Reply> {
        let text = format!("echo: {}", request.messages.last().unwrap());
        Box::pin(std::future::ready(Reply::Completion(text)))
    }
}

const NOW: Duration = Duration::from_secs(1_795_000_000);

async fn echo(unix: Duration) -> (Axon, DrivenClock) {
    let clock = DrivenClock::new(unix);
    (Axon::serve(bob(), AxonConfig::default(), Arc::new(clock.clone()), Echo).await.unwrap(), clock)
}

fn fixture(version: &str, file: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read(format!("{root}/../../tests/fixtures/bittensor/http_v{version}/{file}")).unwrap()
}

/// What real SDKs sent, answered as real axons answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_requests_get_the_recorded_replies() {
    for version in ["7.4.0", "9.12.2", "10.5.0"] {
        let request = fixture(version, "request_0.http");
        let text = String::from_utf8(request.clone()).unwrap();
        let nonce = text.split("bt_header_dendrite_nonce: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let (axon, _) = echo(Duration::from_nanos(nonce.parse().unwrap()) + SECOND).await;
        let replied = send(axon.address(), &request).await;
        assert_eq!(replied.status, 200, "{version}: {}", replied.body);

        let recorded = String::from_utf8(fixture(version, "response_0.http")).unwrap();
        let (head, body) = recorded.split_once("\r\n\r\n").unwrap();
        let mut expected: Value = serde_json::from_str(body).unwrap();
        // How long it took is not the same.
        expected["axon"]["process_time"] = replied.body["axon"]["process_time"].clone();
        assert_eq!(replied.body, expected, "{version}");
        // Not sent: Python's footprints, empty values of the request's fields; and what differs from run to run.
        let others = ["date", "server", "content-length", "bt_header_axon_process_time", "header_size", "total_size"];
        for line in head.split("\r\n").skip(1) {
            let (name, value) = line.split_once(": ").unwrap();
            if !others.contains(&name) && !name.starts_with("bt_header_input_obj_") {
                assert_eq!(replied.header(name), Some(value), "{version}: {name}");
            }
        }
        // The same bytes again are a replay.
        let replay = send(axon.address(), &request).await;
        assert_eq!(replay.status, 401);
        assert_eq!(replay.message(), "Not Verified with error: Nonce is too old, a newer one was last processed");
    }
}

/// Statuses and words of `axon_v10.5.0_status_matrix.txt`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_those_of_the_sdk() {
    let (axon, clock) = echo(NOW).await;
    let sent = async |draft: Draft| send(axon.address(), &draft.bytes()).await;
    let refused = async |draft: Draft, status: u16, words: &str| {
        let replied = sent(draft).await;
        assert_eq!(replied.status, status, "{words}: {}", replied.body);
        assert!(replied.message().starts_with(words), "{words}: {}", replied.body);
    };
    let draft = || Draft::new(NOW);
    assert_eq!(sent(draft()).await.status, 200);
    refused(draft(), 401, "Not Verified with error: Nonce is too old, a newer one was last processed").await;
    let older = Draft { nonce: draft().nonce - 1, ..draft() };
    refused(older, 401, "Not Verified with error: Nonce is too old, a newer one was last processed").await;
    assert_eq!(sent(Draft { nonce: draft().nonce + 1, ..draft() }).await.status, 200);
    let stale = Draft { uuid: "v", ..Draft::new(NOW - SECOND * 30) };
    let words = "Not Verified with error: Nonce is too old: acceptable delta is 16.00 seconds but request was 30.00 seconds old";
    refused(stale, 401, words).await;
    assert_eq!(sent(Draft { uuid: "w", ..Draft::new(NOW - SECOND * 10) }).await.status, 200);
    // The SDK takes nonces an hour ahead; see `verify`.
    refused(Draft { uuid: "x", ..Draft::new(NOW + SECOND * 3_600) }, 401, "Not Verified with error: Nonce is").await;

    clock.advance(SECOND);
    let draft = || Draft { uuid: "y", ..Draft::new(NOW + SECOND) };
    let mismatch = "Not Verified with error: Signature mismatch with ";
    refused(Draft { receiver: Hotkey([9; 32]), ..draft() }, 401, mismatch).await;
    let mut spoilt = String::from_utf8(draft().bytes()).unwrap();
    let place = spoilt.find("bt_header_dendrite_signature: 0x").unwrap() + 40;
    let digit = if spoilt.as_bytes()[place] == b'0' { "1" } else { "0" };
    spoilt.replace_range(place..=place, digit);
    let replied = send(axon.address(), spoilt.as_bytes()).await;
    assert_eq!((replied.status, replied.message().starts_with(mismatch)), (401, true), "{}", replied.body);
    refused(Draft { without: &["computed_body_hash"], ..draft() }, 401, mismatch).await;
    let missing = [
        ("bt_header_dendrite_signature", "Missing Signature"),
        ("bt_header_dendrite_nonce", "Missing Nonce"),
        ("bt_header_dendrite_hotkey", "Missing Hotkey"),
        ("bt_header_dendrite_version", "A dendrite of version 7.2.0"),
    ];
    for (name, words) in missing {
        let words = format!("Not Verified with error: {words}");
        refused(Draft { without: Box::leak(Box::new([name])), ..draft() }, 401, &words).await;
    }
    refused(Draft { version: Some(724), ..draft() }, 401, "Not Verified with error: A dendrite of version").await;
    let charlie = HotkeySigner::from_uri("//Charlie").unwrap();
    refused(Draft { signer: charlie, ..draft() }, 403, "Forbidden. Key is blacklisted: nope.").await;
    let words = "Synapse name 'Nope' not found. Available synapses ['Synapse', 'Prompting']";
    refused(Draft { path: "Nope", ..draft() }, 404, words).await;
    refused(Draft { without: &["bt_header_input_obj_roles"], ..draft() }, 500, "Internal Server Error #").await;
    // None of these spent the nonce.
    assert_eq!(sent(Draft { without: &["bt_header_axon_hotkey", "name", "timeout"], ..draft() }).await.status, 200);

    let other_body = r#"{"roles": ["user"], "messages": ["something else"]}"#.to_owned();
    let next = |uuid| Draft { uuid, ..draft() };
    refused(Draft { body: Some(other_body), ..next("1") }, 500, "Internal Server Error #").await;
    refused(Draft { body: Some("{".to_owned()), ..next("2") }, 500, "Internal Server Error #").await;
    let minimal = r#"{"roles":["hi"],"messages":["hi"]}"#.to_owned();
    assert_eq!(sent(Draft { body: Some(minimal), ..next("3") }).await.status, 200);
    let large = " ".repeat(AxonConfig::default().max_body_bytes + 1);
    refused(Draft { body: Some(large), ..next("4") }, 413, "The body is larger than").await;
}

/// A request of the base class, as the SDK's dendrite sends it for `dendrite(axon)`.
fn ping(draft: &Draft) -> Vec<u8> {
    let (sender, receiver) = (ss58::encode(&draft.signer.hotkey()), ss58::encode(&draft.receiver));
    // SHA3-256 of nothing.
    let hash = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";
    let signed = draft.signer.sign(signed_message(draft.nonce, &sender, &receiver, draft.uuid, hash).as_bytes());
    let body = draft.body.clone().unwrap_or_else(|| r#"{"name": "Synapse", "timeout": 12.0}"#.to_owned());
    format!(
        "POST /{} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\nname: Synapse\r\ntimeout: 12.0\r\n\
         bt_header_dendrite_version: 10005000\r\nbt_header_dendrite_nonce: {}\r\nbt_header_dendrite_uuid: {}\r\n\
         bt_header_dendrite_hotkey: {sender}\r\nbt_header_dendrite_signature: 0x{}\r\ncomputed_body_hash: {hash}\r\n\r\n{body}",
        draft.path,
        body.len(),
        draft.nonce,
        draft.uuid,
        hex::encode(signed),
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_and_by_a_validators_axon_nothing_else() {
    let clock = Arc::new(DrivenClock::new(NOW));
    let validator = Axon::serve_pings(bob(), AxonConfig::default(), clock).await.unwrap();
    let (miner, _) = echo(NOW).await;
    let draft = |uuid| Draft { uuid, path: "Synapse", ..Draft::new(NOW) };
    for axon in [&validator, &miner] {
        let replied = send(axon.address(), &ping(&draft("a"))).await;
        assert_eq!((replied.status, replied.body["name"].as_str()), (200, Some("Synapse")), "{}", replied.body);
        assert_eq!(replied.header("name"), Some("Synapse"));
        assert_eq!(replied.header("bt_header_axon_status_message"), Some("Success"));
        let replayed = send(axon.address(), &ping(&draft("a"))).await;
        assert_eq!((replayed.status, replayed.header("name")), (401, Some("Synapse")), "{}", replayed.body);
        let elsewhere = send(axon.address(), &ping(&Draft { receiver: Hotkey([9; 32]), ..draft("b") })).await;
        assert!(elsewhere.status == 401 && elsewhere.message().contains("Signature mismatch"));
        let broken = send(axon.address(), &ping(&Draft { body: Some("{".to_owned()), ..draft("c") })).await;
        assert_eq!(broken.status, 500);
    }
    for path in ["Prompting", "Nope", "", "Synapse2"] {
        let refused = send(validator.address(), &Draft { path, ..Draft::new(NOW) }.bytes()).await;
        let words = format!("Synapse name '{path}' not found. Available synapses ['Synapse']");
        assert_eq!((refused.status, refused.message()), (404, words.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_lets_requests_in_hand_finish() {
    let (started, mut waiting) = tokio::sync::mpsc::channel(1);
    let gate = Arc::new(tokio::sync::Notify::new());
    let opens = gate.clone();
    let axon = serve(move |_: AxonRequest| {
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            started.send(()).await.unwrap();
            gate.notified().await;
            Reply::Completion("late".into())
        }
    })
    .await;
    let address = axon.address();
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    let asked = query(&[address], SECOND * 20);
    let asker = dendrite.clone();
    let asking = tokio::spawn(async move { asker.query(asked).await });
    waiting.recv().await.unwrap();
    let closing = tokio::spawn(axon.close());
    // Newcomers are turned away, the one in hand is served.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    opens.notify_one();
    assert_eq!(asking.await.unwrap()[0].text, "late");
    closing.await.unwrap();
    assert_eq!(dendrite.query(query(&[address], SECOND)).await[0].outcome, QueryOutcome::Unreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_request_does_not_keep_an_axon_open() {
    let config = AxonConfig { close_timeout_seconds: 0.1, ..AxonConfig::default() };
    let axon = serve_with(config, |_: AxonRequest| async { Reply::Never }).await;
    let (dendrite, metrics) = dendrite(local(), SystemClock::shared());
    let asked = query(&[axon.address()], SECOND * 20);
    let asking = tokio::spawn(async move { dendrite.query(asked).await });
    while metrics.sent_bytes.get() == 0 {
        tokio::task::yield_now().await;
    }
    axon.close().await;
    assert_eq!(asking.await.unwrap()[0].outcome, QueryOutcome::Unreachable);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = serve(|_: AxonRequest| async { Reply::Never }).await;
    let config = AxonConfig { listen: taken.address(), ..AxonConfig::default() };
    let error = Axon::serve(alice().hotkey(), config, SystemClock::shared(), Echo).await.unwrap_err();
    assert!(error.to_string().contains(&taken.address().to_string()), "{error}");
}
