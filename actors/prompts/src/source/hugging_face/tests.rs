use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use openvalidators_hub::HubConfig;
use openvalidators_runtime::{Seed, SharedClock};
use prometheus::Registry;

use super::*;
use crate::{
    hygiene::HygieneConfig,
    source::{
        Source, SourcesMetrics,
        addresses::Addresses,
        config::AddressesConfig,
        shards::Shards,
        stream::{Stream, StreamParts},
        testing::{Double, Fault, FlyingClock, gzip, json_lines, parquet, texts, zstandard},
    },
};

const NAME: &str = "owner/web";
const COMMIT: &str = "0123456789012345678901234567890123456789";
const CONVERTED: &str = "refs/convert/parquet";
const LISTING: &str = "/api/datasets/owner/web/revision/refs%2Fconvert%2Fparquet";
const FIRST: &str = "/storage/0123456789012345678901234567890123456789/plain/train/0000.parquet";

/// A hub, its storage, and a state directory. The servers have a thread of their own.
struct Bench {
    _runtime: tokio::runtime::Runtime,
    hub: Double,
    storage: Double,
    root: tempfile::TempDir,
    config: HuggingFaceConfig,
}

fn config(more: &str) -> HuggingFaceConfig {
    toml::from_str(&format!("dataset = \"{NAME}\"\n{more}")).unwrap()
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (hub, storage) = runtime.block_on(async { (Double::start().await, Double::start().await) });
        let root = tempfile::tempdir().unwrap();
        let config = config(&format!("revision = \"{CONVERTED}\"\nconfig = \"plain\""));
        let bench = Self { _runtime: runtime, hub, storage, root, config };
        bench.serve(&[
            ("plain/train/0000.parquet", parquet("text", &texts(0..20))),
            ("plain/train/0001.parquet", parquet("text", &texts(20..40))),
            ("plain/test/0000.parquet", parquet("text", &texts(40..60))),
            ("other/train/0000.parquet", parquet("text", &texts(60..80))),
        ]);
        bench
    }

    fn serve(&self, files: &[(&str, Vec<u8>)]) {
        self.hub.serve_dataset(NAME, CONVERTED, COMMIT, files, &self.storage);
    }

    fn datasets(&self, token: Option<&str>) -> Arc<Datasets> {
        let hub = HubConfig {
            hugging_face_cache: Some(self.root.path().join("hub")),
            hugging_face_endpoint: Some(self.hub.url("")),
            attempts: 3.try_into().unwrap(),
            ..HubConfig::default()
        };
        let variable = |name: &str| match name {
            "HF_TOKEN" => token.map(str::to_owned),
            "PIP_CONFIG_FILE" => Some("/dev/null".to_owned()),
            "HOME" => Some(self.root.path().display().to_string()),
            _ => None,
        };
        Arc::new(Datasets::with(&hub, Arc::new(FlyingClock::default()), &variable).unwrap())
    }

    fn start(&self, shards: Box<dyn Shards>, buffer: usize) -> Stream {
        let clock: SharedClock = Arc::new(FlyingClock::default());
        let hygiene = HygieneConfig { min_bytes: 10, ..HygieneConfig::default() };
        let parts =
            StreamParts { buffer, hygiene, seed: Seed(7), clock, folder: Some(self.root.path().join("prompts")) };
        let metrics = SourcesMetrics::register(&Registry::new()).unwrap().of("web");
        Stream::start("web", shards, &parts, metrics).unwrap()
    }

    fn stream(&self, buffer: usize) -> Stream {
        self.start(Box::new(HuggingFace::new(&self.config, self.datasets(Some("hf_secret")))), buffer)
    }

    /// The reason why there is no text, once there is one that holds these words.
    fn trouble(&self, stream: &Stream, words: &str) -> String {
        wait_for(|| {
            let reason = stream.draw(&mut Seed(1).rng("draw", &[1])).err()?.reason;
            reason.contains(words).then_some(reason)
        })
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..4_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nothing within twenty seconds");
}

/// So many different texts. A small source is read again before all of it is drawn, and some of it then comes twice.
fn draw(stream: &Stream, count: usize) -> BTreeSet<String> {
    let mut rng = Seed(1).rng("draw", &[1]);
    let mut drawn = BTreeSet::new();
    for _ in 0..100 * count {
        drawn.insert(wait_for(|| stream.draw(&mut rng).ok()).text.to_string());
        if drawn.len() == count {
            return drawn;
        }
    }
    panic!("of {count} different texts only {drawn:?} came");
}

fn all(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    texts(numbers).into_iter().collect()
}

#[test]
fn a_converted_dataset_is_read_by_ranges_at_one_commit() {
    let bench = Bench::new();
    let stream = bench.stream(100);
    assert_eq!(draw(&stream, 40), all(0..40));
    let (hub, storage) = (bench.hub.seen(), bench.storage.seen());
    let size = parquet("text", &texts(0..20)).len();
    assert!(storage.iter().map(|seen| seen.sent).sum::<usize>() < size / 5, "the heavy column stays where it is");
    assert!(storage.iter().all(|seen| seen.range.is_some() && seen.authorization.is_none()), "the token is the hub's");
    assert!(hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(hub.iter().filter(|seen| seen.path == LISTING).count(), 1);
}

#[test]
fn faults_that_pass_cost_time_and_nothing_else() {
    let bench = Bench::new();
    for fault in
        [Fault::Refuse(429, "retry-after", "7"), Fault::Truncate(0), Fault::Refuse(503, "x-why", "busy"), Fault::Page]
    {
        bench.hub.fault(LISTING, fault.clone());
        bench.storage.fault(FIRST, fault);
    }
    // One more, in the middle of the texts.
    bench.storage.fault(FIRST, Fault::Slow(Duration::from_millis(20)));
    bench.storage.fault(FIRST, Fault::Truncate(5));
    let stream = bench.stream(100);
    assert_eq!(draw(&stream, 40), all(0..40));
}

#[test]
fn a_page_instead_of_json_is_told_and_tried_again() {
    let bench = Bench::new();
    (0..4).for_each(|_| bench.hub.fault(LISTING, Fault::Page));
    let stream = bench.stream(100);
    let reason = bench.trouble(&stream, "not the JSON of a hub");
    assert!(reason.contains("datasets/owner/web") && reason.contains("<html>log in"), "{reason}");
    assert_eq!(draw(&stream, 40), all(0..40));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_opened_again() {
    let bench = Bench::new();
    bench.serve(&[("plain/train/0000.parquet", parquet("text", &texts(0..20)))]);
    // The size, the tail and the footer are of the first; then it is another.
    (0..3).for_each(|_| bench.storage.fault(FIRST, Fault::Slow(Duration::from_millis(1))));
    bench.storage.fault(FIRST, Fault::Change(parquet("text", &texts(100..140))));
    let stream = bench.stream(100);
    assert_eq!(draw(&stream, 40), all(100..140));
    assert!(bench.storage.seen().len() > 4);
}

#[test]
fn a_private_dataset_asks_for_a_token() {
    let bench = Bench::new();
    for (status, code, words) in [
        (401, "RepoNotFound", "no token was given to read it: check the name `datasets/owner/web`, or set HF_TOKEN"),
        (403, "GatedRepo", "and set HF_TOKEN to a token of that account"),
    ] {
        (0..3).for_each(|_| bench.hub.fault(LISTING, Fault::Refuse(status, "x-error-code", code)));
        let stream = bench.start(Box::new(HuggingFace::new(&bench.config, bench.datasets(None))), 100);
        let reason = bench.trouble(&stream, words);
        assert!(reason.contains(&status.to_string()), "{reason}");
    }
}

#[test]
fn a_dataset_without_the_column_says_which_it_has() {
    let bench = Bench::new();
    bench.serve(&[("plain/train/0000.parquet", parquet("content", &texts(0..20)))]);
    let reason = bench.trouble(&bench.stream(100), "no column of texts `text`; it has heavy, content");
    assert!(reason.contains("holds no usable text") && reason.contains("0000.parquet"), "{reason}");
}

#[test]
fn empty_shards_and_unreadable_ones_leave_the_others() {
    let bench = Bench::new();
    bench.serve(&[
        ("plain/train/0000.parquet", parquet("text", &texts(0..20))),
        ("plain/train/0001.parquet", Vec::new()),
        ("plain/train/0002.parquet", parquet("text", &[])),
        ("plain/train/0003.parquet", b"<html>not Parquet</html>".to_vec()),
    ]);
    assert_eq!(draw(&bench.stream(100), 20), all(0..20));
}

/// A server that refuses every file for a while was once run through to the end, and the pass was over.
#[test]
fn files_that_are_refused_in_a_row_are_a_reason_to_pause() {
    let bench = Bench::new();
    let names: Vec<String> = (0..9).map(|number| format!("plain/train/000{number}.parquet")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), parquet("content", &texts(0..3)))).collect();
    bench.serve(&files);
    let reason = bench.trouble(&bench.stream(100), "files in a row are left out");
    assert!(reason.contains("no column of texts `text`; it has heavy, content"), "{reason}");
}

#[test]
fn a_restart_reads_on_at_the_same_commit() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    let mut first = draw(&stream, 20);
    stream.close();
    // The branch moves; the commit that was begun with stays.
    let (moved, other) = ("f".repeat(40), [("plain/train/0000.parquet", parquet("text", &texts(200..220)))]);
    bench.hub.serve_dataset(NAME, CONVERTED, &moved, &other, &bench.storage);
    // One text was in the buffer, and one on its way, when the first stream ended.
    let second = draw(&bench.stream(1), 16);
    assert!(first.is_disjoint(&second), "{second:?}");
    first.extend(second);
    assert!(first.is_subset(&all(0..40)) && first.len() == 36);
}

/// It is told once in a life; what is pinned is not asked about.
#[test]
fn a_branch_that_has_moved_on_is_told() {
    let bench = Bench::new();
    let source = HuggingFace::new(&bench.config, bench.datasets(None));
    assert_eq!((source.list(None).unwrap().newer, source.list(Some(COMMIT)).unwrap().newer), (None, None));
    let (moved, other) = ("f".repeat(40), [("plain/train/0000.parquet", parquet("text", &texts(200..220)))]);
    bench.hub.serve_dataset(NAME, CONVERTED, &moved, &other, &bench.storage);
    let source = HuggingFace::new(&bench.config, bench.datasets(None));
    let listing = source.list(Some(COMMIT)).unwrap();
    assert_eq!((listing.version.as_str(), listing.newer), (COMMIT, Some(moved)));
    assert_eq!(source.list(Some(COMMIT)).unwrap().newer, None);

    let pinned = config(&format!("revision = \"{COMMIT}\"\nconfig = \"plain\""));
    let asked = bench.hub.seen().len();
    let listing = HuggingFace::new(&pinned, bench.datasets(None)).list(Some(COMMIT)).unwrap();
    assert_eq!((listing.newer, bench.hub.seen().len()), (None, asked + 1));
}

#[test]
fn a_commit_that_is_gone_is_left_for_the_one_there_is() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    draw(&stream, 5);
    stream.close();
    let (moved, other) = ("f".repeat(40), [("plain/train/0000.parquet", parquet("text", &texts(200..220)))]);
    bench.hub.serve_dataset(NAME, CONVERTED, &moved, &other, &bench.storage);
    let gone = format!("/api/datasets/{NAME}/revision/{COMMIT}");
    bench.hub.fault(&gone, Fault::Refuse(404, "x-error-code", "RevisionNotFound"));
    assert_eq!(draw(&bench.stream(100), 20), all(200..220));
}

#[test]
fn a_slow_server_stalls_nobody() {
    let bench = Bench::new();
    bench.hub.fault(LISTING, Fault::Slow(Duration::from_millis(1_500)));
    let stream = bench.stream(100);
    #[allow(clippy::disallowed_methods, reason = "the time a caller really waits")]
    let since = Instant::now();
    let reason = stream.draw(&mut Seed(1).rng("draw", &[1])).unwrap_err().reason;
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    assert_eq!(reason, "nothing is read yet");
    assert_eq!(draw(&stream, 40), all(0..40));
}

#[test]
fn what_the_hubs_tools_have_fetched_is_read_from_their_cache() {
    let bench = Bench::new();
    let snapshot = bench.root.path().join("hub/datasets--owner--web/snapshots").join(COMMIT).join("plain/train");
    std::fs::create_dir_all(&snapshot).unwrap();
    for (name, numbers) in [("0000.parquet", 0..20), ("0001.parquet", 20..40)] {
        std::fs::write(snapshot.join(name), parquet("text", &texts(numbers))).unwrap();
    }
    assert_eq!(draw(&bench.stream(100), 40), all(0..40));
    assert!(bench.storage.seen().is_empty());
}

#[test]
fn shards_of_lines_come_plain_and_packed() {
    let bench = Bench::new();
    bench.serve(&[
        ("data/train-0.jsonl", json_lines(&texts(0..10))),
        ("data/train-1.jsonl.gz", gzip(&json_lines(&texts(10..20)))),
        ("data/train-2.json.zst", zstandard(&json_lines(&texts(20..30)))),
        ("data/validation-0.jsonl", json_lines(&texts(30..40))),
        ("README.md", b"# words".to_vec()),
    ]);
    let config = config(&format!("revision = \"{CONVERTED}\""));
    let stream = bench.start(Box::new(HuggingFace::new(&config, bench.datasets(None))), 100);
    assert_eq!(draw(&stream, 30), all(0..30));
}

#[test]
fn a_list_of_addresses_on_another_host_is_read_like_a_dataset() {
    let bench = Bench::new();
    bench.storage.serve("/v1/arxiv/0.jsonl", json_lines(&texts(0..10)));
    bench.storage.serve("/v1/c4/0.jsonl.zst", zstandard(&json_lines(&texts(10..20))));
    bench.storage.serve("/v1/github/0.jsonl", json_lines(&texts(20..30)));
    let list = ["/v1/arxiv/0.jsonl", "/v1/c4/0.jsonl.zst", "/v1/github/0.jsonl"].map(|path| bench.storage.url(path));
    bench.storage.serve("/urls.txt", list.join("\n"));
    let config = AddressesConfig {
        weight: 1.0,
        list: bench.storage.url("/urls.txt"),
        sha256: None,
        only: vec!["/arxiv/".to_owned(), "/c4/".to_owned()],
        column: "text".to_owned(),
    };
    let stream = bench.start(Box::new(Addresses::new(&config, bench.datasets(Some("hf_secret")))), 100);
    assert_eq!(draw(&stream, 20), all(0..20));
    assert!(bench.storage.seen().iter().all(|seen| seen.authorization.is_none()));

    let pinned = AddressesConfig { sha256: Some("0".repeat(64)), ..config.clone() };
    let stream = bench.start(Box::new(Addresses::new(&pinned, bench.datasets(None))), 100);
    bench.trouble(&stream, "it has changed; look at it");
    let none = AddressesConfig { only: vec!["/book/".to_owned()], ..config };
    let stream = bench.start(Box::new(Addresses::new(&none, bench.datasets(None))), 100);
    bench.trouble(&stream, "names no file of texts that is wanted (3 in all)");
}

#[test]
fn files_are_chosen_by_configuration_and_split() {
    let datasets = Bench::new().datasets(None);
    let chosen = |more: &str, files: &[&str]| {
        let source = HuggingFace::new(&config(more), datasets.clone());
        source.wanted(files.iter().map(|file| (*file).to_owned()).collect()).map_err(|error| error.reason)
    };
    let owned = |files: &[&str]| Ok(files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>());
    let c4 = ["README.md", "en/c4-train.00000.json.gz", "en/c4-validation.00000.json.gz", "de/c4-train.0.json.gz"];
    assert_eq!(chosen("config = \"en\"", &c4), owned(&c4[1..2]));
    assert_eq!(chosen("config = \"en\"\nsplit = \"validation\"", &c4), owned(&c4[2..3]));
    assert_eq!(chosen("files = \"en/\"", &c4), owned(&c4[1..3]));
    let partial = ["default/partial-train/0000.parquet", "default/test/0000.parquet"];
    assert_eq!(chosen("revision = \"refs/convert/parquet\"", &partial), owned(&partial[..1]));
    let plain = ["a.jsonl", "b.jsonl", "b_test.jsonl"];
    assert_eq!(chosen("", &plain), owned(&plain[..2]), "files that name no split are for training");
    let several = ["one/train/0.parquet", "two/train/0.parquet"];
    let refused = chosen("revision = \"refs/convert/parquet\"", &several).unwrap_err();
    assert!(refused.contains("several configurations") && refused.ends_with("it has one, two"), "{refused}");
    assert!(chosen("config = \"fr\"", &c4).unwrap_err().contains("no files of a configuration `fr`; it has de, en"));
    assert!(chosen("split = \"test\"", &c4[..2]).unwrap_err().contains("no files of a split `test`"));
    assert!(chosen("", &["web.py", "README.md"]).unwrap_err().contains("refs/convert/parquet"));
}
