//! Against real servers on the loopback interface, good and bad.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use openvalidators_messages::{QueryOutcome, QueryOutcome::*};
use openvalidators_runtime::{DrivenClock, SystemClock};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    axon::{AxonRequest, Reply},
    testing::{alice, bob, dendrite, local, query, raw_server, sends, serve},
};

const SECOND: Duration = Duration::from_secs(1);

fn replying(reply: fn() -> Reply) -> impl Fn(AxonRequest) -> std::future::Ready<Reply> {
    move |_| std::future::ready(reply())
}

fn raw(status: u16, header: (&'static str, &str), body: &'static [u8]) -> Reply {
    let response = hyper::Response::builder().status(status).header(header.0, header.1);
    Reply::Raw(response.body(Bytes::from_static(body)).unwrap())
}

/// Writes `piece` again and again until nobody reads any more.
async fn write_for_ever(mut stream: TcpStream, start: &'static str, piece: Vec<u8>, pause: Duration) {
    let clock = SystemClock::new();
    let _ = stream.write_all(start.as_bytes()).await;
    while stream.write_all(&piece).await.is_ok() {
        if !pause.is_zero() {
            openvalidators_runtime::Clock::sleep(&clock, pause).await;
        }
    }
}

async fn ask(addresses: &[SocketAddr], timeout: Duration) -> Vec<Completion> {
    let (dendrite, metrics) = dendrite(local(), SystemClock::shared());
    let completions = dendrite.query(query(addresses, timeout)).await;
    assert_eq!(completions.len(), addresses.len());
    for (place, completion) in completions.iter().enumerate() {
        assert_eq!((usize::from(completion.uid.0), completion.hotkey), (place, bob()));
    }
    let counted: u64 = QueryOutcome::ALL.iter().map(|o| metrics.queries.with_label_values(&[o.label()]).get()).sum();
    assert_eq!(counted, addresses.len() as u64);
    completions
}

/// Every kind of bad miner at once, and good ones among them, within one deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_miner_ends_as_it_should_and_harms_nobody() {
    let honest = serve(replying(|| Reply::Completion("yes".into()))).await;
    let mut axons = Vec::new();
    let mut cases: Vec<(&str, SocketAddr, QueryOutcome, u16)> = vec![("honest", honest.address(), Answered, 200)];
    type Served = (&'static str, fn() -> Reply, QueryOutcome, u16);
    let served: [Served; 14] = [
        ("hangs", || Reply::Never, TimedOut, 408),
        ("hangs up", || Reply::HangUp, Unreachable, 503),
        ("endless body", || Reply::Endless, TooLarge, 422),
        ("401", || Reply::Status { code: 401, message: "Not Verified".into() }, Refused, 401),
        ("403", || Reply::Status { code: 403, message: "Forbidden".into() }, Refused, 403),
        ("500", || Reply::Status { code: 500, message: "Internal".into() }, Failed, 500),
        ("503", || Reply::Status { code: 503, message: "Busy".into() }, Failed, 503),
        (
            "not UTF-8",
            || raw(200, ("a", "b"), b"{\"roles\":[],\"messages\":[],\"completion\":\"\xc3\"}"),
            BadEncoding,
            422,
        ),
        ("compressed", || raw(200, ("content-encoding", "gzip"), b"\x1f\x8b"), BadEncoding, 422),
        ("wrong JSON", || raw(200, ("a", "b"), b"{\"completion\":[1]}"), BadBody, 422),
        ("NaN", || raw(200, ("a", "b"), b"{\"roles\":[],\"messages\":[],\"completion\":NaN}"), BadBody, 422),
        ("a web page", || raw(200, ("content-type", "text/html"), b"<html>completion</html>"), BadBody, 422),
        // A bomb that does not say that it is one: nothing is unpacked that was not asked for packed.
        ("gzip unannounced", || raw(200, ("a", "b"), b"\x1f\x8b\x08\0\0\0\0\0\0\xff"), BadEncoding, 422),
        ("empty body", || raw(200, ("a", "b"), b""), BadBody, 422),
    ];
    for (what, reply, outcome, status) in served {
        let axon = serve(replying(reply)).await;
        cases.push((what, axon.address(), outcome, status));
        axons.push(axon);
    }
    let drip =
        |start| raw_server(move |stream| write_for_ever(stream, start, b"a".to_vec(), Duration::from_millis(50)));
    cases.push(("drips its head", drip("HTTP/1.1 200 OK\r\nx: ").await, TimedOut, 408));
    cases.push(("drips its body", drip("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n").await, TimedOut, 408));
    let bomb = raw_server(|stream| {
        write_for_ever(stream, "HTTP/1.1 200 OK\r\n", b"x-bomb: 0123456789\r\n".repeat(100), Duration::ZERO)
    });
    cases.push(("endless headers", bomb.await, BadProtocol, 500));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(1_000));
    cases.push(("a thousand headers", sends(many).await, BadProtocol, 500));
    let one_long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    cases.push(("one long header", sends(one_long).await, BadProtocol, 500));
    cases.push(("another protocol", sends("SSH-2.0-OpenSSH_9.9\r\n\r\n").await, BadProtocol, 500));
    cases.push(("binary", sends([0xff; 64]).await, BadProtocol, 500));
    let huge = "HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n";
    cases.push(("10 GB announced", sends(huge).await, TooLarge, 422));
    let lies = "HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n";
    cases.push(("two lengths", sends(lies).await, BadProtocol, 500));
    let bad_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n";
    cases.push(("a chunk that is none", sends(bad_chunk).await, BadProtocol, 500));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let for_ever = |start: &'static str, piece: &'static str| {
        raw_server(move |stream| write_for_ever(stream, start, piece.repeat(100).into_bytes(), Duration::ZERO))
    };
    let string = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3fffffff\r\n{\"completion\":\"";
    cases.push(("a JSON string of 1 GB", for_ever(string, "aaaaaaaaaa").await, TooLarge, 422));
    let trailers = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    cases.push(("endless trailers", for_ever(trailers, "x: 0123456789\r\n").await, BadProtocol, 500));
    let extension = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;";
    cases.push(("an endless chunk extension", for_ever(extension, "aaaaaaaaaa").await, BadProtocol, 500));
    cases.push(("never more than 100", for_ever("", "HTTP/1.1 100 Continue\r\n\r\n").await, TimedOut, 408));
    cases.push(("no chunk at all", sends(format!("{chunked}0\r\n\r\n")).await, BadBody, 422));
    cases.push(("closes early", sends("").await, Unreachable, 503));
    cases.push(("closes in its head", sends("HTTP/1.1 200 OK\r\nx").await, Unreachable, 503));
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"roles\":";
    cases.push(("closes in its body", sends(short).await, Unreachable, 400));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    cases.push(("refuses the connection", closed, Unreachable, 503));
    cases.push(("port 0", "127.0.0.1:0".parse().unwrap(), BadAddress, 503));
    cases.push(("honest", honest.address(), Answered, 200));

    let addresses: Vec<_> = cases.iter().map(|case| case.1).collect();
    let clock = SystemClock::shared();
    let started = clock.now();
    let completions = ask(&addresses, SECOND).await;
    let elapsed = clock.now() - started;
    let mut wrong = Vec::new();
    for ((what, _, outcome, status), completion) in cases.iter().zip(&completions) {
        let text = if *outcome == Answered { "yes" } else { "" };
        let found = (completion.outcome, completion.status_code, completion.text.as_str());
        if found != (*outcome, *status, text) || completion.status_message.is_empty() {
            wrong.push(format!("{what}: {completion:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Generous: the machine that runs tests may be busy. The benchmark measures it.
    assert!((SECOND..SECOND * 2).contains(&elapsed), "ended after {elapsed:?}");
}

/// Characters, not bytes: a script of three bytes a character has as much to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_longer_than_what_is_scored_is_not_kept() {
    let fits = serve(replying(|| Reply::Completion("語".repeat(8_000)))).await;
    let longer = serve(replying(|| Reply::Completion("語".repeat(8_001)))).await;
    let completions = ask(&[fits.address(), longer.address()], SECOND * 20).await;
    assert_eq!((completions[0].outcome, completions[0].text.chars().count()), (Answered, 8_000));
    assert_eq!((completions[1].outcome, completions[1].status_code, &*completions[1].text), (TooLarge, 422, ""));
    let words = &completions[1].status_message;
    assert!(words.contains("the completion has 8001 characters, more than 8000"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed() {
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = visits.clone();
    let target = raw_server(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready(())
    });
    let location = format!("http://{}/Prompting", target.await);
    for status in [301, 302, 307, 308] {
        let location = location.clone();
        let axon = serve(move |_: AxonRequest| std::future::ready(raw(status, ("location", &location), b""))).await;
        let completions = ask(&[axon.address()], SECOND).await;
        assert_eq!((completions[0].outcome, completions[0].status_code), (Redirected, status));
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

/// The deadline is the clock's, and the query ends exactly then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_ends_what_hangs() {
    let hangs = raw_server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let clock = DrivenClock::new(SECOND);
    let (dendrite, metrics) = dendrite(local(), Arc::new(clock.clone()));
    let asked = query(&[hangs, hangs], SECOND * 12);
    let asking = tokio::spawn(async move { dendrite.query(asked).await });
    while metrics.in_flight.get() < 2 || clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(SECOND * 11);
    tokio::task::yield_now().await;
    assert!(!asking.is_finished());
    clock.advance(SECOND);
    for completion in asking.await.unwrap() {
        assert_eq!((completion.outcome, completion.elapsed_seconds), (TimedOut, 12.0));
        assert_eq!(completion.status_message, "Request timeout after 12.0 seconds");
    }
    while metrics.in_flight.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_given_up_ends_what_is_in_flight() {
    let axon = serve(replying(|| Reply::Never)).await;
    let (dendrite, metrics) = dendrite(local(), SystemClock::shared());
    let asked = query(&[axon.address()], SECOND * 600);
    let asking = tokio::spawn(async move { dendrite.query(asked).await });
    while metrics.in_flight.get() == 0 {
        tokio::task::yield_now().await;
    }
    asking.abort();
    while metrics.in_flight.get() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Each concurrent request has a lane of its own, or this axon, which checks nonces, would refuse some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_steps_ask_one_axon_at_once() {
    let axon = serve(|request: AxonRequest| async move { Reply::Completion(request.messages.concat()) }).await;
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    for _ in 0..3 {
        let asking = (0..20).map(|_| dendrite.query(query(&[axon.address(); 5], SECOND * 20)));
        for completions in futures::future::join_all(asking).await {
            for completion in completions {
                assert_eq!((completion.outcome, completion.status_code), (Answered, 200), "{completion:?}");
                assert_eq!(completion.text, "it's \"quoted\"\n\\ café 😀 \u{200b}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_uuid_is_renewed_once() {
    for (refusals, outcome, requests) in [(1, Answered, 2), (9, Refused, 2)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let axon = serve(move |_: AxonRequest| {
            let message = "Not Verified with error: Nonce is too old, a newer one was last processed".to_owned();
            let refuse = counter.fetch_add(1, Ordering::SeqCst) < refusals;
            std::future::ready(if refuse {
                Reply::Status { code: 401, message }
            } else {
                Reply::Completion("ok".into())
            })
        });
        let completions = ask(&[axon.await.address()], SECOND * 20).await;
        assert_eq!((completions[0].outcome, asked.load(Ordering::SeqCst)), (outcome, requests));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let address = raw_server(move |mut stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = r#"{"roles":[],"messages":[],"completion":"x"}"#;
            let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            while stream.write_all(reply.as_bytes()).await.is_ok() {
                if crate::testing::read_request(&mut stream).await.is_empty() {
                    break;
                }
            }
        }
    });
    let address = address.await;
    let (dendrite, _) = dendrite(local(), SystemClock::shared());
    for _ in 0..5 {
        assert_eq!(dendrite.query(query(&[address], SECOND * 20)).await[0].outcome, Answered);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_not_queried_unless_allowed() {
    let axon = serve(replying(|| Reply::Completion("secret".into()))).await;
    let (strict, _) = dendrite(Config::default(), SystemClock::shared());
    let completions = strict.query(query(&[axon.address()], SECOND)).await;
    assert_eq!((completions[0].outcome, completions[0].text.as_str()), (BadAddress, ""));
    let (selfish, _) = dendrite(Config { own_addresses: vec![axon.address()], ..local() }, SystemClock::shared());
    let completions = selfish.query(query(&[axon.address()], SECOND)).await;
    assert_eq!(completions[0].outcome, BadAddress);
    assert!(completions[0].status_message.contains("our own address"));
}

/// On its own: printing a backtrace takes longer than a deadline of a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_axon_survives_a_panic_of_its_forward_function() {
    let axon = serve(replying(|| panic!("a forward function fails"))).await;
    for completion in ask(&[axon.address(); 2], SECOND * 60).await {
        assert_eq!((completion.outcome, completion.status_code), (Failed, 500));
        assert!(completion.status_message.starts_with("Internal Server Error #"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_ask_is_no_wait() {
    assert!(ask(&[], SECOND * 600).await.is_empty());
}

#[test]
fn a_setting_that_cannot_be_obeyed_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { max_headers: 0, ..local() };
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let made = Dendrite::new(alice(), config, SystemClock::shared(), metrics, runtime.handle().clone());
    assert!(matches!(made, Err(ConfigError::TooSmall { key: "max_headers", .. })));
}

#[tokio::test]
async fn mocked_completions_ask_nobody_and_differ() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = Config { transport: Choice::Mock, ..local() };
    let (dendrite, metrics) = dendrite(config, SystemClock::shared());
    let mut asked = query(&[address, address], SECOND);
    let prompt: Vec<String> = (0..64).map(|number| format!("word{number}")).collect();
    asked.messages = Arc::new([prompt.join(" ")]);
    let first = dendrite.query(asked.clone()).await;
    assert!(first[0].text.starts_with("word0 ") && first[1].text.starts_with("word16 "), "{first:?}");
    assert!(first.iter().all(|completion| completion.outcome == Answered));
    assert_eq!(dendrite.query(asked).await, first, "always the same");
    assert_eq!(metrics.sent_bytes.get(), 0);
    let nobody =
        openvalidators_runtime::within(&*SystemClock::shared(), Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "no connection was made");
    assert_eq!(crate::mock::completion(&query(&[address], SECOND).miners[0], "").text, "");
}
