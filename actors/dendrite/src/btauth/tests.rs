use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::StatusCode;
use openvalidators_keys::{HotkeySigner, SIGNATURE_BYTES, ss58, verify};
use openvalidators_messages::QueryOutcome::{self, *};
use openvalidators_runtime::SystemClock;
use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;
use crate::{
    Choice, Config,
    axon::{AxonRequest, Reply},
    client::{METHOD, PATH},
    testing::{alice, bob, dendrite, local, query, read_request, serve},
};

const SECOND: Duration = Duration::from_secs(1);

/// A request that `http_auth.sign` of bittensor 11 made and `http_auth.verify` took.
const RECORDED: &str = include_str!("../../../../tests/fixtures/bittensor/btauth1.json");

fn signature_of(headers: &HeaderMap) -> [u8; SIGNATURE_BYTES] {
    let mut signature = [0; SIGNATURE_BYTES];
    hex::decode_to_slice(&headers[SIGNATURE].to_str().unwrap()[2..], &mut signature).unwrap();
    signature
}

#[test]
fn the_payload_is_the_sdks_to_the_byte() {
    let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let header = |name: &str| text(&recorded["headers"][name]);
    let nonce = header("X-Bittensor-Nonce").parse().unwrap();
    let (sender, receiver) = (header("X-Bittensor-Hotkey"), header("X-Bittensor-Receiver"));
    let body = text(&recorded["body"]);
    let ours = payload("POST", "/Prompting", body.as_bytes(), nonce, &sender, &receiver);
    assert_eq!(ours, text(&recorded["payload"]));
    let mut signature = [0; SIGNATURE_BYTES];
    hex::decode_to_slice(&header("X-Bittensor-Signature")[2..], &mut signature).unwrap();
    assert!(verify(&alice().hotkey(), ours.as_bytes(), &signature));
    let changed = payload("POST", "/Prompting", b"{}", nonce, &sender, &receiver);
    assert!(!verify(&alice().hotkey(), changed.as_bytes(), &signature));
}

#[test]
fn headers_are_the_sdks_and_good_for_one_sending() {
    let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
    let signing = Signing::new(alice(), SystemClock::shared());
    let receiver = ss58::encode(&bob());
    let make = || headers(&signing, &receiver, METHOD.as_str(), PATH, "{}");
    let (first, second) = (make(), make());
    for name in recorded["headers"].as_object().unwrap().keys() {
        assert!(first.contains_key(name.to_lowercase()), "{name}");
    }
    assert_eq!(first.len(), recorded["headers"].as_object().unwrap().len() + 1, "and the content type");
    let nonce = |headers: &HeaderMap| headers[NONCE].to_str().unwrap().parse::<u64>().unwrap();
    assert!(nonce(&second) > nonce(&first));
    let signed = payload("POST", "/Prompting", b"{}", nonce(&first), signing.address(), &receiver);
    assert!(verify(&alice().hotkey(), signed.as_bytes(), &signature_of(&first)));
}

#[test]
fn the_body_holds_the_synapses_fields_and_the_timeout() {
    let prompting = Prompting::new(&["user".into()], &["it's \"quoted\"\n😀".into()], SECOND * 12);
    let body: serde_json::Value = serde_json::from_str(&body(&prompting)).unwrap();
    let expected = serde_json::json!({
        "roles": ["user"], "messages": ["it's \"quoted\"\n😀"], "completion": "", "timeout": 12.0,
    });
    assert_eq!(body, expected);
}

fn received(status: u16, body: &[u8]) -> Received {
    let status = StatusCode::from_u16(status).unwrap();
    Received { status, headers: HeaderMap::new(), body: Bytes::copy_from_slice(body) }
}

#[test]
fn replies_are_read_with_care() {
    let deep = format!("{{\"completion\":\"x\",\"more\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(u16, &[u8], QueryOutcome, &str); 13] = [
        (200, br#"{"completion":"yes"}"#, Answered, "Success"),
        (200, br#"{"completion":"yes","roles":1}"#, Answered, "Success"),
        (200, deep.as_bytes(), Answered, "Success"),
        (200, br#"{"completion":null}"#, BadBody, "Failed to parse"),
        (200, br#"{}"#, BadBody, "missing field `completion`"),
        (200, b"yes", BadBody, "Failed to parse"),
        (200, b"{\"completion\":\"\xff\"}", BadEncoding, "not UTF-8"),
        (401, br#"{"detail":"nonce is older than the 10s freshness window"}"#, Refused, "older than the 10s"),
        (403, br#"{"message":"no stake"}"#, Refused, "no stake"),
        (404, b"<html>", Refused, "Not Found"),
        (422, br#"{"detail":[{"loc":[]}]}"#, Refused, "Unprocessable"),
        (307, b"", Redirected, "Temporary Redirect"),
        (500, br#"{"error":"x"}"#, Failed, "x"),
    ];
    for (status, body, outcome, words) in cases {
        let ending = ending(&received(status, body));
        let start: String = String::from_utf8_lossy(body).chars().take(60).collect();
        assert_eq!(ending.outcome, outcome, "{status} {start}: {ending:?}");
        assert!(ending.status_message.contains(words), "{status} {start}: {ending:?}");
        assert_eq!(ending.text.is_empty(), outcome != Answered, "{status} {start}");
    }
}

proptest! {
    #[test]
    fn any_reply_has_an_ending(status in 100_u16..1_000, body in prop::collection::vec(any::<u8>(), 0..400)) {
        let ending = ending(&received(status, &body));
        prop_assert!(ending.status_message.chars().count() <= crate::response::MAX_STATUS_MESSAGE_CHARS);
        prop_assert!(ending.outcome == Answered || ending.text.is_empty());
    }
}

/// A miner of bittensor 11 as Bob: verifies what `http_auth.verify` does, and answers with the first message.
async fn btauth_miner(asked: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                loop {
                    let request = read_request(&mut stream).await;
                    let Some((head, body)) = request.split_once("\r\n\r\n") else { return };
                    asked.fetch_add(1, Ordering::SeqCst);
                    let (status, reply) = judge(head, body);
                    let length = reply.len();
                    let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{reply}");
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

fn judge(head: &str, body: &str) -> (u16, String) {
    let mut lines = head.split("\r\n");
    let mut target = lines.next().unwrap().split(' ');
    let (method, path) = (target.next().unwrap(), target.next().unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    if headers.get(VERSION).is_none() {
        return (401, r#"{"detail":"missing X-Bittensor-Version"}"#.to_owned());
    }
    let text = |name| headers[name].to_str().unwrap();
    let sender = ss58::decode(text(HOTKEY)).unwrap();
    let nonce = text(NONCE).parse().unwrap();
    let signed = payload(method, path, body.as_bytes(), nonce, text(HOTKEY), &ss58::encode(&bob()));
    if text(RECEIVER) != ss58::encode(&bob()) || !verify(&sender, signed.as_bytes(), &signature_of(&headers)) {
        return (401, r#"{"detail":"signature does not verify"}"#.to_owned());
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    (200, serde_json::json!({ "completion": body["messages"][0] }).to_string())
}

/// Whatever a miner declares, it is asked on the wire it speaks; the second time at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miner_that_declares_the_wrong_version_is_asked_on_the_other_wire() {
    let at_btauth = Arc::new(AtomicUsize::new(0));
    let new = btauth_miner(at_btauth.clone()).await;
    let at_axon = Arc::new(AtomicUsize::new(0));
    let counter = at_axon.clone();
    let old = serve(move |request: AxonRequest| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Reply::Completion(request.messages.concat()))
    })
    .await;
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    for (address, asked, declared, requests) in
        [(new, &at_btauth, 10_005_000, 2), (new, &at_btauth, 11_003_000, 1), (old.address(), &at_axon, 11_003_000, 1)]
    {
        for again in [false, true] {
            let before = asked.load(Ordering::SeqCst);
            let mut asking = query(&[address], SECOND * 20);
            asking.miners[0].axon.version = declared;
            let completions = dendrite.query(asking).await;
            assert_eq!(completions[0].outcome, Answered, "{completions:?}");
            assert_eq!(completions[0].text, "it's \"quoted\"\n\\ café 😀 \u{200b}");
            let expected = if again { 1 } else { requests };
            assert_eq!(asked.load(Ordering::SeqCst) - before, expected, "{declared} again: {again}");
        }
        // One hotkey plays all these miners: forget what it spoke.
        let mut asking = query(&[new], SECOND * 20);
        asking.miners[0].axon.version = 11_000_000;
        dendrite.query(asking).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wire_that_the_operator_names_is_the_only_one() {
    let asked = Arc::new(AtomicUsize::new(0));
    let new = btauth_miner(asked.clone()).await;
    let (synapse, _) = dendrite(Config { transport: Choice::Synapse, ..local() }, SystemClock::shared());
    let completions = synapse.query(query(&[new], SECOND * 20)).await;
    assert_eq!((completions[0].outcome, completions[0].status_code), (Refused, 401));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let (btauth, _) = dendrite(Config { transport: Choice::Btauth, ..local() }, SystemClock::shared());
    assert_eq!(btauth.query(query(&[new], SECOND * 20)).await[0].outcome, Answered);
    let old = serve(|_: AxonRequest| std::future::ready(Reply::Completion("yes".into()))).await;
    let completions = btauth.query(query(&[old.address()], SECOND * 20)).await;
    assert_ne!(completions[0].outcome, Answered);
}

/// Somebody else's key would be refused: what the miner of these tests checks, it does check.
#[test]
fn the_miner_of_these_tests_refuses_what_it_should() {
    let mallory = Signing::new(Arc::new(HotkeySigner::from_uri("//Mallory").unwrap()), SystemClock::shared());
    let made = headers(&mallory, &ss58::encode(&bob()), "POST", "/Prompting", "{}");
    let head = |headers: &HeaderMap| {
        let lines = headers.iter().map(|(name, value)| format!("\r\n{name}: {}", value.to_str().unwrap()));
        format!("POST /Prompting HTTP/1.1{}", lines.collect::<String>())
    };
    assert_eq!(judge(&head(&made), "{}").0, 200);
    assert_eq!(judge(&head(&made), "{ }").0, 401);
    let mut stolen = made.clone();
    insert(&mut stolen, HOTKEY, &ss58::encode(&alice().hotkey()));
    assert_eq!(judge(&head(&stolen), "{}").0, 401);
}
