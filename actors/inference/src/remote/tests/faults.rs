//! Servers that fail, lie, are slow, and come back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{
    double::{Double, Reply, Seen},
    *,
};

/// A row of the right width for each text.
fn rows(seen: &Seen) -> serde_json::Value {
    let texts = seen.body["inputs"].as_array().unwrap();
    texts.iter().map(|text| json!([text.as_str().unwrap().len(), 1.0])).collect()
}

/// A server that introduces itself well and then answers as `answer` says.
async fn embedding(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Double {
    Double::serve(move |seen: &Seen| match seen.path.as_str() {
        "/info" => Reply::Json(bert_info()),
        _ if seen.is_probe() => Reply::Json(rows(seen)),
        _ => answer(seen),
    })
    .await
}

async fn healthy() -> Double {
    embedding(|seen| Reply::Json(rows(seen))).await
}

/// An address at which nobody listens.
async fn nobody() -> String {
    let gone = healthy().await.url.clone();
    tokio::task::yield_now().await;
    gone
}

#[tokio::test]
async fn a_server_that_is_down_is_left_alone_and_comes_back() {
    let (clock, shared) = driven();
    let (second, address) = (healthy().await, nobody().await);
    let mut setup = Setup { clock: shared, ..Setup::tei(&[&address, &second.url]) };
    setup.limits.retry_first_seconds = 5;
    let started = setup.start().await.unwrap();
    for _ in 0..3 {
        started.embed(&["a", "b"]).await.unwrap();
    }
    assert_eq!((started.outcomes(&address, "failed"), started.outcomes(&second.url, "answered")), (1, 3));
    assert!(!started.healthy(&address) && started.healthy(&second.url));
    // It rests five seconds, then ten.
    clock.advance(Duration::from_secs(5));
    started.embed(&["a"]).await.unwrap();
    clock.advance(Duration::from_secs(9));
    started.embed(&["a"]).await.unwrap();
    assert_eq!(started.outcomes(&address, "failed"), 2);

    let back = Double::serve_at(address.trim_start_matches("http://"), |seen: &Seen| {
        if seen.path == "/info" { Reply::Json(bert_info()) } else { Reply::Json(rows(seen)) }
    })
    .await;
    clock.advance(Duration::from_secs(1));
    started.embed(&["a"]).await.unwrap();
    assert_eq!((back.asked("/info").len(), back.asked("/embed").len()), (1, 1), "it introduces itself and is asked");
    assert!(started.healthy(&address));
}

#[tokio::test]
async fn a_server_that_comes_back_with_another_model_is_not_believed() {
    let (clock, shared) = driven();
    let other = Arc::new(AtomicBool::new(false));
    let changed = other.clone();
    let first = Double::serve(move |seen: &Seen| {
        let mut info = bert_info();
        match (seen.path.as_str(), changed.load(Ordering::SeqCst)) {
            ("/info", true) => {
                info["model_sha"] = json!("another");
                Reply::Json(info)
            }
            ("/info", false) => Reply::Json(info),
            (_, true) => Reply::Json(json!([[9.0, 9.0]])),
            (_, false) if seen.is_probe() => Reply::Json(rows(seen)),
            (_, false) => Reply::HangUp,
        }
    })
    .await;
    let setup = Setup { clock: shared, ..Setup::tei(&[&first.url]) };
    let started =
        Setup { limits: RemoteLimits { attempts: std::num::NonZeroU32::MIN, ..setup.limits.clone() }, ..setup };
    let started = started.start().await.unwrap();
    assert!(started.embed(&["a"]).await.unwrap_err().contains("/embed"));
    other.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(10));
    let error = started.embed(&["a"]).await.unwrap_err();
    assert!(error.contains("another") && error.contains("expected") && error.contains("abc123"), "{error}");
    assert_eq!(first.asked("/embed").len(), 1, "not asked while it is another");
}

/// What is wrong with the answer, and what is said about it.
#[tokio::test]
async fn an_absurd_answer_is_a_fault_of_the_server_and_the_next_one_answers() {
    let elsewhere = Arc::new(healthy().await);
    let to_elsewhere: &'static str = Box::leak(format!("location: {}/embed\r\n", elsewhere.url).into_boxed_str());
    type Answer = fn(&Seen) -> Reply;
    let cases: [(&str, Answer, &str); 13] = [
        ("truncated", |_| Reply::Raw("HTTP/1.1 200 X\r\ncontent-length: 900\r\n\r\n[[1.0,"), "/embed"),
        ("endless", |_| Reply::Endless, "passes 5000 bytes"),
        (
            "announced too long",
            |_| Reply::Raw("HTTP/1.1 200 X\r\ncontent-length: 9000000\r\n\r\n"),
            "passes 5000 bytes",
        ),
        ("HTML", |_| Reply::Raw("HTTP/1.1 200 X\r\nconnection: close\r\n\r\n<html>"), "<html>"),
        ("not HTTP", |_| Reply::Raw("SSH-2.0-OpenSSH\r\n\r\n"), "/embed"),
        (
            "NaN",
            |_| Reply::Raw("HTTP/1.1 200 X\r\nconnection: close\r\n\r\n[[NaN, 1.0], [1.0, 1.0]]"),
            "not the answer",
        ),
        ("too many rows", |_| Reply::Json(json!([[1, 1], [1, 1], [1, 1]])), "3 answers for 2 rows"),
        ("no rows", |_| Reply::Json(json!([])), "0 answers for 2 rows"),
        ("uneven rows", |_| Reply::Json(json!([[1, 1], [1]])), "a row of 1 numbers, after one of 2"),
        ("empty rows", |_| Reply::Json(json!([[], []])), "a row of 0 numbers, after one of 2"),
        ("all null", |_| Reply::Json(json!([[null, 1], [1, null]])), "can be believed"),
        ("too great", |_| Reply::Json(json!([[1e300, 1], [1, -1e9]])), "can be believed"),
        ("forbidden", |_| Reply::Status(401, "", "bad key".into()), "401 Unauthorized: bad key"),
    ];
    let redirects = embedding(move |_| Reply::Status(307, to_elsewhere, String::new())).await;
    let mut bad = vec![("redirect", redirects, "307")];
    for (name, answer, said) in cases {
        bad.push((name, embedding(answer).await, said));
    }
    for (name, bad, said) in bad {
        let good = healthy().await;
        let limits = RemoteLimits { max_body_bytes: 5_000, ..RemoteLimits::default() };
        let both = Setup { limits: limits.clone(), ..Setup::tei(&[&bad.url, &good.url]) }.start().await.unwrap();
        let found = both.embed(&["a", "bb"]).await.unwrap();
        assert_eq!((found.len(), both.outcomes(&bad.url, "failed")), (2, 1), "{name}");
        assert!(!both.healthy(&bad.url), "{name}");
        let limits = RemoteLimits { attempts: std::num::NonZeroU32::MIN, ..limits };
        let alone = Setup { limits, ..Setup::tei(&[&bad.url]) }.start().await.unwrap();
        let error = alone.embed(&["a", "bb"]).await.unwrap_err();
        assert!(error.contains(said) && error.contains(bad.address()), "{name}: {error}");
    }
    assert!(elsewhere.seen().is_empty(), "no redirect is followed");
}

#[tokio::test]
async fn a_slow_server_loses_its_turn_and_the_deadline_ends_all() {
    let (clock, shared) = driven();
    let (slow, good) = (embedding(|_| Reply::Hang).await, healthy().await);
    let limits = RemoteLimits { deadline_seconds: 30, attempt_seconds: 8, ..RemoteLimits::default() };
    let setup = Setup { clock: shared.clone(), limits: limits.clone(), ..Setup::tei(&[&slow.url, &good.url]) };
    let both = Arc::new(setup.start().await.unwrap());
    let asking = both.clone();
    assert!(while_time_flies(&clock, async move { asking.embed(&["a"]).await }).await.is_ok());
    assert_eq!(both.outcomes(&slow.url, "late"), 1);

    let alone = Setup { clock: shared, limits, ..Setup::tei(&[&slow.url]) }.start().await.unwrap();
    let started = openvalidators_runtime::Clock::now(&clock);
    let error = while_time_flies(&clock, async move { alone.embed(&["a"]).await }).await.unwrap_err();
    let took = openvalidators_runtime::Clock::now(&clock) - started;
    assert!(error.contains("no answer within 30 s"), "{error}");
    assert!((30..33).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn a_server_that_says_what_it_is_and_no_more_does_not_hold_up_the_start() {
    let (clock, shared) = driven();
    let info = |seen: &Seen| if seen.path == "/info" { Reply::Json(bert_info()) } else { Reply::Hang };
    let server = Double::serve(info).await;
    let setup = Setup { clock: shared, ..Setup::tei(&[&server.url]) };
    let error = while_time_flies(&clock, async move { setup.error().await }).await;
    assert!(error.contains("no answer within 50 s"), "{error}");
}

#[tokio::test]
async fn a_busy_server_is_left_alone_as_long_as_it_asks_for() {
    for status in [429, 503] {
        let (clock, shared) = driven();
        let busy = Arc::new(AtomicBool::new(true));
        let is_busy = busy.clone();
        let server = embedding(move |seen| match is_busy.load(Ordering::SeqCst) {
            true => Reply::Status(status, "retry-after: 7\r\n", "busy".into()),
            false => Reply::Json(rows(seen)),
        })
        .await;
        let started = Arc::new(Setup { clock: shared, ..Setup::tei(&[&server.url]) }.start().await.unwrap());
        let asking = started.clone();
        let work = tokio::spawn(async move { asking.embed(&["a"]).await });
        while started.outcomes(&server.url, "failed") == 0 {
            SystemClock::shared().sleep(Duration::from_millis(2)).await;
        }
        busy.store(false, Ordering::SeqCst);
        // Nobody else has the model: the request waits for it, within its deadline.
        for (seconds, asked) in [(6, 1), (1, 2)] {
            while clock.sleepers() < 2 {
                SystemClock::shared().sleep(Duration::from_millis(2)).await;
            }
            clock.advance(Duration::from_secs(seconds));
            if asked == 2 {
                break;
            }
            SystemClock::shared().sleep(Duration::from_millis(20)).await;
            assert_eq!(server.asked("/embed").len(), asked);
        }
        assert!(work.await.unwrap().is_ok(), "{status}");
        assert_eq!(server.asked("/embed").len(), 2);
    }
}

/// One miner's text must not take the servers away from the others.
#[tokio::test]
async fn a_row_that_servers_break_on_fails_alone() {
    for status in [400, 413, 422, 424, 500] {
        let answer = move |seen: &Seen| match seen.body["inputs"].as_array().unwrap().contains(&json!("poison")) {
            true => Reply::Status(status, "", "cannot".into()),
            false => Reply::Json(rows(seen)),
        };
        let (one, two) = (embedding(answer).await, embedding(answer).await);
        let started = Setup::tei(&[&one.url, &two.url]).start().await.unwrap();
        let texts = ["a", "b", "poison", "c", "d", "e", "f"];
        let found = started.embed(&texts).await.unwrap();
        let failed: Vec<_> = texts.iter().zip(&found).filter(|(_, row)| row.is_err()).map(|(text, _)| *text).collect();
        assert_eq!(failed, ["poison"], "{status}");
        assert!(found[2].as_ref().unwrap_err().to_string().contains("cannot"));
        assert!(started.healthy(&one.url) && started.healthy(&two.url), "{status}");
    }
    // A number that is none costs its own row as well.
    let answer = |seen: &Seen| {
        let texts = seen.body["inputs"].as_array().unwrap().iter();
        Reply::Json(texts.map(|text| json!([if text == "poison" { json!(null) } else { json!(1.0) }, 1.0])).collect())
    };
    let server = embedding(answer).await;
    let started = Setup::tei(&[&server.url]).start().await.unwrap();
    let found = started.embed(&["a", "poison"]).await.unwrap();
    assert!(found[0].is_ok() && found[1].is_err() && started.healthy(&server.url));
}

#[tokio::test]
async fn a_server_that_refuses_what_another_serves_is_at_fault() {
    let (broken, good) = (embedding(|_| Reply::Status(500, "", "broken".into())).await, healthy().await);
    let started = Setup::tei(&[&broken.url, &good.url]).start().await.unwrap();
    assert!(started.embed(&["a", "b"]).await.unwrap().iter().all(Result::is_ok));
    assert!(!started.healthy(&broken.url) && started.healthy(&good.url));
    let alone = Setup::tei(&[&broken.url]).start().await.unwrap();
    assert!(alone.embed(&["a", "b"]).await.unwrap_err().contains("broken"));
    assert!(!alone.healthy(&broken.url), "it refused everything");
}

#[tokio::test]
async fn the_model_on_this_machine_answers_when_no_server_does() {
    let answers = Arc::new(AtomicBool::new(false));
    let now = answers.clone();
    let server = embedding(move |seen| match now.load(Ordering::SeqCst) {
        true => Reply::Json(rows(seen)),
        false => Reply::HangUp,
    })
    .await;
    let (clock, shared) = driven();
    let setup = |urls: &[&str]| Setup { local: true, fall_back: true, clock: shared.clone(), ..Setup::tei(urls) };
    let started = setup(&[&server.url]).start().await.unwrap();
    let expected = started.local.embed(embed(&["a", "b"])).await.unwrap();
    assert_eq!(started.embed(&["a", "b"]).await.unwrap(), expected);
    assert_eq!(started.metrics.fallbacks.with_label_values(&[MODEL]).get(), 1);
    answers.store(true, Ordering::SeqCst);
    assert_eq!(started.embed(&["a", "b"]).await.unwrap(), expected, "at once, while the server is left alone");
    clock.advance(Duration::from_secs(1));
    assert_ne!(started.embed(&["a", "b"]).await.unwrap(), expected, "it is back");
    assert_eq!(started.metrics.fallbacks.with_label_values(&[MODEL]).get(), 2);
    let digests = started.engine.models().await.remove(0).digests;
    assert!(digests.iter().any(|(name, _)| name == "falls back to model.safetensors"), "{digests:?}");

    // One that is down from the start is no reason not to start.
    let down = setup(&[&nobody().await]).start().await.unwrap();
    assert_eq!(down.embed(&["a", "b"]).await.unwrap(), expected);
    let error = Setup::tei(&[&nobody().await]).error().await;
    assert!(error.contains("no server answers"), "{error}");
}

/// It would be found in the record of a step otherwise, or nowhere.
#[tokio::test]
async fn servers_that_say_other_numbers_than_this_machine_are_refused() {
    let server = healthy().await;
    let error = Setup { local: true, fall_back: true, ..Setup::tei(&[&server.url]) }.error().await;
    assert!(error.contains("other numbers than the model on this machine"), "{error}");
}

#[tokio::test]
async fn requests_go_where_the_fewest_are_and_no_server_has_more_than_it_may() {
    let answered = Arc::new(AtomicUsize::new(0));
    let slowly = |seen: &Seen| Reply::Late(Duration::from_millis(20), rows(seen));
    let count = answered.clone();
    let one = embedding(move |seen| {
        count.fetch_add(1, Ordering::SeqCst);
        slowly(seen)
    })
    .await;
    let two = embedding(slowly).await;
    let limits = RemoteLimits { rows_per_request: 1, requests_in_flight: 2, ..RemoteLimits::default() };
    let started = Setup { limits, ..Setup::tei(&[&one.url, &two.url]) }.start().await.unwrap();
    let texts: Vec<String> = (0..20).map(|n| format!("text {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert!(started.embed(&texts).await.unwrap().iter().all(Result::is_ok));
    assert_eq!((one.most_at_once(), two.most_at_once()), (2, 2));
    let of_one = answered.load(Ordering::SeqCst);
    assert!((6..=14).contains(&of_one), "{of_one} of 20");
}

#[tokio::test]
async fn the_key_is_sent_and_never_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-very-secret\n").unwrap();
    let server = embedding(|_| Reply::Status(401, "", "no".into())).await;
    let setup = Setup { api_key_file: Some(file), ..Setup::tei(&[&server.url]) };
    let limits = RemoteLimits { attempts: std::num::NonZeroU32::MIN, ..RemoteLimits::default() };
    let started = Setup { limits, ..setup }.start().await.unwrap();
    let error = started.embed(&["a"]).await.unwrap_err();
    let sent: Vec<_> = server.seen().into_iter().filter_map(|seen| seen.authorization).collect();
    assert_eq!(sent, vec!["Bearer sk-very-secret"; 3]);
    let facts = format!("{:?}", started.engine.models().await);
    assert!(!error.contains("secret") && !facts.contains("secret"), "{error} {facts}");
}
