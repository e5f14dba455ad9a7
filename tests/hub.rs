//! A validator beside a hub that misbehaves and dies: doubles of the hub and of the storage it sends to, with the faults of real
//! servers, and a whole run that draws from both kinds of sources elsewhere.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use openvalidators_ledger::Reader;
use openvalidators_messages::Sequence;
use openvalidators_prompts::testing::{Double, Fault, json_lines, parquet_of, texts, zstandard};
use serde_json::Value;

use crate::program::{Program, get};

const NAME: &str = "owner/web";
const CONVERTED: &str = "refs/convert/parquet";
const COMMIT: &str = "0123456789012345678901234567890123456789";
const LISTING: &str = "/api/datasets/owner/web/revision/refs%2Fconvert%2Fparquet";
/// As the hub lays out what it converted in part.
const SHARDS: [&str; 2] = ["plain_text/partial-train/0000.parquet", "plain_text/partial-train/0001.parquet"];
/// On the list, every other of them packed. Each is read at once, so that few texts come after the server is gone.
const FILES: usize = 60;
const TEXTS_A_FILE: usize = 30;
const BUFFER: u64 = 20;
/// Much longer than anything here takes, on cores that have much else to do.
const PATIENCE: Duration = Duration::from_secs(300);
/// No step may take longer while the servers are away.
const LONGEST_STALL: Duration = Duration::from_secs(20);

/// As RedPajama's list has them.
fn file(number: usize) -> String {
    let kind = if number.is_multiple_of(2) { "jsonl" } else { "json.gz.dedup.classifier.jsonl.zst" };
    format!("/v1/common_crawl/{number}.{kind}")
}

fn lines(number: usize) -> Vec<u8> {
    let first = 6_000 + number * TEXTS_A_FILE;
    let lines = json_lines(&texts(first..first + TEXTS_A_FILE));
    if number.is_multiple_of(2) { lines } else { zstandard(&lines) }
}

/// The hub, and a storage on another host. They have threads of their own.
struct Servers {
    hub: Double,
    storage: Double,
    parquet: Vec<u8>,
    _runtime: tokio::runtime::Runtime,
}

impl Servers {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (hub, storage) = runtime.block_on(async { (Double::start().await, Double::start().await) });
        let part = |number: usize| texts(number * 3_000..(number + 1) * 3_000);
        let parquet = parquet_of("text", &part(0), 25, 100);
        let files = [(SHARDS[0], parquet.clone()), (SHARDS[1], parquet_of("text", &part(1), 25, 100))];
        hub.serve_dataset(NAME, CONVERTED, COMMIT, &files, &storage);
        (0..FILES).for_each(|number| storage.serve(&file(number), lines(number)));
        storage.serve("/urls.txt", (0..FILES).map(|number| storage.url(&file(number)) + "\n").collect::<String>());
        Self { hub, storage, parquet, _runtime: runtime }
    }

    /// What real servers do on a bad day: the first requests of each path end so.
    fn misbehave(&self) {
        let busy = || Fault::Refuse(429, "retry-after", "1");
        for fault in [busy(), Fault::Page] {
            self.hub.fault(LISTING, fault.clone());
            self.storage.fault("/urls.txt", fault);
        }
        let stored = SHARDS.map(|shard| format!("/storage/{COMMIT}/{shard}"));
        for path in stored.iter().cloned().chain([file(0), file(1)]) {
            for fault in [busy(), Fault::Slow(Duration::from_millis(700)), Fault::Truncate(0)] {
                self.storage.fault(&path, fault);
            }
        }
        // Another ETag in the middle of the file, though of the same content.
        (0..3).for_each(|_| self.storage.fault(&stored[0], Fault::Slow(Duration::ZERO)));
        self.storage.fault(&stored[0], Fault::Change(self.parquet.clone()));
        (2..FILES).for_each(|number| self.storage.fault(&file(number), Fault::Slow(Duration::ZERO)));
        (2..FILES).for_each(|number| self.storage.fault(&file(number), Fault::Change(lines(number))));
    }

    fn die(&self, dead: bool) {
        self.hub.die(dead);
        self.storage.die(dead);
    }

    /// Nothing is computed and nobody is asked: the sources are what a forward could wait for.
    fn validate(&self, state: &Path, log: &Path) -> Program {
        let list = self.storage.url("/urls.txt");
        let settings = [
            format!(
                "prompts.sources.web={{ kind = \"hugging_face\", dataset = {NAME:?}, revision = {CONVERTED:?}, config = \"plain_text\" }}"
            ),
            format!("prompts.sources.list={{ kind = \"addresses\", list = {list:?} }}"),
            "prompts.sources.embedded.weight=0.0".to_owned(),
            format!("prompts.shuffle_buffer={BUFFER}"),
            "prompts.hygiene.min_bytes=10".to_owned(),
            "models.attempts=2".to_owned(),
        ];
        let mocks =
            ["--mock", "--neuron.mock_reward_models", "--neuron.mock_gating_model", "--neuron.mock_dendrite_pool"];
        // Three steps a forward.
        let mocks = mocks.into_iter().chain(["--neuron.num_followup_steps", "1"]);
        let arguments: Vec<&str> =
            mocks.chain(settings.iter().flat_map(|setting| ["--set", setting.as_str()])).collect();
        let cache = state.join("hub");
        let variables =
            [("HF_ENDPOINT", self.hub.url("")), ("HF_TOKEN", "hf_secret".to_owned()), ("HF_HUB_CACHE", text(&cache))];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        Program::start_among(state, &arguments, &variables, log)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What a source's metric says.
fn metric(address: &str, name: &str, source: &str) -> f64 {
    let (_, page) = get(address, "/metrics");
    let series = format!("openvalidators_prompt_source_{name}{{source=\"{source}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)).map_or(f64::NAN, |value| value.parse().unwrap())
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where the texts of the steps after this one are from: the records of each file of each source.
fn read(state: &Path, after: u64) -> BTreeMap<String, Vec<u64>> {
    let mut read: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let reader = Reader::open(state).unwrap();
    let mut next = after;
    loop {
        let steps = reader.read_steps(Sequence(next), 500).unwrap();
        let Some(last) = steps.last() else { return read };
        next = last.sequence.0;
        for step in steps {
            let (file, record) = step.record.source.rsplit_once(':').unwrap();
            read.entry(file.to_owned()).or_default().push(record.parse().unwrap_or_default());
        }
    }
}

fn latest(state: &Path) -> u64 {
    Reader::open(state).unwrap().latest().unwrap().0
}

fn mark(state: &Path, source: &str) -> u64 {
    let json = std::fs::read(state.join(format!("prompts/{source}.json"))).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()["mark"]["record"].as_u64().unwrap()
}

#[test]
fn a_hub_that_misbehaves_and_dies_stalls_no_forward_and_is_read_on() {
    let (servers, here) = (Servers::start(), tempfile::tempdir().unwrap());
    let (state, log) = (here.path().join("state"), here.path().join("log"));
    servers.misbehave();
    let mut program = servers.validate(&state, &log);
    let address = program.metrics_address();
    for source in ["web", "list"] {
        until(&format!("{source} gives texts after its faults"), || metric(&address, "draws_total", source) >= 20.0);
        assert!(metric(&address, "failures_total", source) >= 1.0, "{source} had its faults");
    }

    servers.die(true);
    for source in ["web", "list"] {
        until(&format!("{source} is empty and said to be down"), || {
            metric(&address, "texts", source) == 0.0 && metric(&address, "up", source) == 0.0
        });
    }
    // What the alert PromptSourceMissed counts rises, steps go on, and the embedded passages stand in.
    let (misses, before) = (metric(&address, "misses_total", "web"), metric(&address, "draws_total", "embedded"));
    let (mut moved, mut sequence) = (Instant::now(), latest(&state));
    until("steps go on without the servers", || {
        let now = latest(&state);
        if now > sequence {
            (moved, sequence) = (Instant::now(), now);
        }
        assert!(moved.elapsed() < LONGEST_STALL, "no step for {:?}", moved.elapsed());
        metric(&address, "draws_total", "embedded") >= before + 10.0
    });
    assert!(metric(&address, "misses_total", "web") > misses);
    assert_eq!(get(&address, "/health").0, 200, "no restart would help");
    program.terminate();
    assert!(program.finish().1.success());
    let first = read(&state, 0);
    let end = latest(&state);
    let last_words = read(&state, end - 10);
    assert!(last_words.keys().all(|file| file.starts_with("embedded")), "{last_words:?}");
    let marks = ["web", "list"].map(|source| (source, mark(&state, source)));

    // Meanwhile the hub has converted the dataset anew; what was begun is read on, and that is told.
    servers.die(false);
    let moved = "f".repeat(40);
    servers.hub.serve_dataset(NAME, CONVERTED, &moved, &[(SHARDS[0], servers.parquet.clone())], &servers.storage);
    let mut program = servers.validate(&state, &log);
    let address = program.metrics_address();
    for source in ["web", "list"] {
        until(&format!("{source} is read on"), || metric(&address, "draws_total", source) >= 20.0);
    }
    program.terminate();
    assert!(program.finish().1.success());
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("the source has a newer version") && told.contains(&moved), "{told}");

    let second = read(&state, end);
    for (source, mark) in marks {
        let of = |life: &BTreeMap<String, Vec<u64>>| -> BTreeMap<String, Vec<u64>> {
            life.iter()
                .filter(|(file, _)| file.starts_with(&format!("{source}:")))
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect()
        };
        let (first, second) = (of(&first), of(&second));
        assert!(!first.is_empty() && !second.is_empty(), "{first:?} {second:?}");
        for (file, records) in &second {
            let Some(most) = first.get(file).and_then(|before| before.iter().max()) else { continue };
            let least = records.iter().min().unwrap();
            assert!(mark > *most && *least >= mark, "{file}: {most} was read, {mark} is next, {least} came");
        }
        // A place within a file is read on from; else the next file is.
        let goes_on = second.keys().any(|file| first.contains_key(file));
        assert!(goes_on || mark == 0, "{source}: {mark} of the file under way, and {second:?}");
    }
    let (hub, storage) = (servers.hub.seen(), servers.storage.seen());
    assert!(hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(storage.iter().all(|seen| seen.authorization.is_none()), "the token is the hub's alone");
    assert!(storage.iter().all(|seen| seen.range.is_some() || seen.path == "/urls.txt"), "by ranges");
    assert!(hub.iter().any(|seen| seen.path.ends_with(&format!("revision/{COMMIT}"))), "the commit of before");
}
