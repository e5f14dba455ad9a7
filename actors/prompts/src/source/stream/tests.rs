use std::{collections::BTreeSet, path::Path};

use prometheus::Registry;
use tempfile::TempDir;

use super::*;
use crate::source::{
    SourcesMetrics,
    directory::Directory,
    testing::{FlyingClock, json_lines, texts},
};

fn start(
    texts: &Path,
    folder: Option<&Path>,
    buffer: usize,
    change: impl FnOnce(&mut HygieneConfig),
) -> (Stream, Registry) {
    let registry = Registry::new();
    let metrics = SourcesMetrics::register(&registry).unwrap().of("mine");
    let mut hygiene = HygieneConfig { min_bytes: 10, ..HygieneConfig::default() };
    change(&mut hygiene);
    let clock: SharedClock = Arc::new(FlyingClock::default());
    let parts = StreamParts { buffer, hygiene, seed: Seed(7), clock, folder: folder.map(Path::to_owned) };
    let shards = Box::new(Directory::open("mine", texts, "text").unwrap());
    (Stream::start("mine", shards, &parts, metrics).unwrap(), registry)
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

/// Waits for something a thread does.
pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..2_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("nothing within ten seconds");
}

fn draw(stream: &Stream, count: usize) -> Vec<String> {
    let mut rng = Seed(1).rng("draw", &[1]);
    (0..count).map(|_| wait_for(|| stream.draw(&mut rng).ok()).text.to_string()).collect()
}

fn metric(registry: &Registry, name: &str, reason: Option<&str>) -> f64 {
    let families = registry.gather();
    let family =
        families.iter().find(|family| family.name() == format!("openvalidators_prompt_source_{name}")).unwrap();
    let wanted = |metric: &&prometheus::proto::Metric| {
        reason.is_none_or(|reason| metric.get_label().iter().any(|label| label.value() == reason))
    };
    let metric = family.get_metric().iter().find(wanted).unwrap();
    metric.get_gauge().get_value() + metric.get_counter().get_value()
}

#[test]
fn the_buffer_is_kept_full_and_shuffles() {
    let texts_folder = folder(&[("a.jsonl", json_lines(&texts(0..200)))]);
    let (stream, registry) = start(texts_folder.path(), None, 50, |_| {});
    wait_for(|| (metric(&registry, "texts", None) == 50.0).then_some(()));
    let first = draw(&stream, 100);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 100, "each comes once");
    assert_ne!(first[..20], texts(0..20), "not in the order of the file");
    wait_for(|| (metric(&registry, "texts", None) == 50.0).then_some(()));
    let context = stream.draw(&mut Seed(1).rng("draw", &[2])).unwrap();
    assert!(context.source.starts_with("mine:a.jsonl:"), "{}", context.source);
}

#[test]
fn a_small_source_begins_again_and_does_not_fill_the_buffer_with_itself() {
    let texts_folder = folder(&[("a.jsonl", json_lines(&texts(0..4)))]);
    let (stream, _) = start(texts_folder.path(), None, 50, |_| {});
    let drawn = draw(&stream, 40);
    assert!(texts(0..4).iter().all(|text| drawn.iter().filter(|drawn| *drawn == text).count() >= 8), "{drawn:?}");
    assert!(stream.shared.state.lock().texts.len() <= 8);
}

#[test]
fn a_restart_reads_on() {
    let (texts_folder, state) = (folder(&[("a.jsonl", json_lines(&texts(0..300)))]), tempfile::tempdir().unwrap());
    let mut found = BTreeSet::new();
    for _ in 0..3 {
        let (stream, _) = start(texts_folder.path(), Some(state.path()), 10, |_| {});
        for text in draw(&stream, 60) {
            assert!(found.insert(text.clone()), "{text} was read before the restart");
        }
        stream.close();
    }
    assert_eq!(found.len(), 180);
}

#[test]
fn what_is_left_out_is_counted_by_its_reason() {
    let mut lines = json_lines(&texts(0..3));
    lines.extend(json_lines(&[texts(0..1)[0].to_uppercase(), "short".to_owned(), texts(3..4)[0].clone()]));
    let texts_folder = folder(&[("a.jsonl", lines)]);
    let (stream, registry) = start(texts_folder.path(), None, 50, |_| {});
    draw(&stream, 4);
    for (reason, count) in [("repeated", 1.0), ("short", 1.0), ("language", 0.0), ("unreadable", 0.0)] {
        assert!(metric(&registry, "left_out_total", Some(reason)) >= count, "{reason}");
    }
}

#[test]
fn a_source_without_a_usable_text_says_so_and_recovers() {
    let texts_folder = folder(&[("a.jsonl", json_lines(&texts(0..3)))]);
    let (stream, registry) = start(texts_folder.path(), None, 50, |hygiene| hygiene.min_bytes = 300);
    wait_for(|| stream.is_settled().then_some(()));
    let error = stream.draw(&mut Seed(1).rng("draw", &[1])).unwrap_err().to_string();
    assert!(error.contains("it holds no usable text") && error.contains("left out as short"), "{error}");
    assert_eq!(metric(&registry, "up", None), 0.0);
    let long = texts(0..30).concat();
    std::fs::write(texts_folder.path().join("b.txt"), &long).unwrap();
    assert_eq!(draw(&stream, 1), [long]);
    assert_eq!(metric(&registry, "up", None), 1.0);
}

#[test]
fn a_file_that_goes_bad_leaves_the_others() {
    let texts_folder = folder(&[("a.jsonl", json_lines(&texts(0..3))), ("b.parquet", b"nonsense".to_vec())]);
    std::fs::rename(texts_folder.path().join("b.parquet"), texts_folder.path().join(".b")).unwrap();
    let registry = {
        let (stream, registry) = start(texts_folder.path(), None, 2, |_| {});
        std::fs::rename(texts_folder.path().join(".b"), texts_folder.path().join("b.parquet")).unwrap();
        assert_eq!(draw(&stream, 20).len(), 20);
        registry
    };
    assert!(metric(&registry, "failures_total", None) >= 1.0);
}
