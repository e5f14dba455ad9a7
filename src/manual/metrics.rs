//! `docs/metrics.md` out of the sources that make metrics, held to a registry with all of them.
//!
//! A registry does not tell of families without a series yet, so names, labels and help are read where they are written; what
//! a registry does tell must agree with that.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use openvalidators_reporting as reporting;
use openvalidators_runtime::SystemClock;
use prometheus::{IntGauge, Registry};
use regex::Regex;

use crate::{config::Config, topology::Doors};

/// A family.
struct Family {
    help: String,
    labels: Vec<String>,
}

/// Every family of the program itself, in a registry.
fn registry() -> Registry {
    let registry = Registry::new();
    let clock = SystemClock::shared();
    Doors::new(&Config::default(), &registry).unwrap();
    openvalidators_subtensor::Metrics::new(&registry, &clock).unwrap();
    let inference = openvalidators_inference::Metrics::new(&registry).unwrap();
    inference.busy_seconds.with_label_values(&["device", "model"]);
    for by_model in [
        &inference.batches,
        &inference.tokens,
        &inference.deduplicated,
        &inference.failures,
        &inference.not_finite,
        &inference.abandoned,
    ] {
        by_model.with_label_values(&["model"]);
    }
    inference.out_of_memory.with_label_values(&["device"]);
    inference.budget.with_label_values(&["device"]);
    inference.queue_depth.with_label_values(&["device"]);
    openvalidators_inference::RemoteMetrics::new(&registry).unwrap();
    openvalidators_rewards::Metrics::new(&registry).unwrap();
    openvalidators_weights::Metrics::new(&registry).unwrap();
    openvalidators_gating::Metrics::new(&registry).unwrap();
    openvalidators_dendrite::Metrics::new(&registry).unwrap();
    openvalidators_prompts::Metrics::register(&registry).unwrap();
    let _ = openvalidators_prompts::SourcesMetrics::register(&registry).unwrap().of("source");
    openvalidators_ledger::Metrics::new(&registry).unwrap();
    reporting::wandb::WandbMetrics::new(&registry).unwrap();
    registry.register(Box::new(reporting::DiskSpace::new(Path::new(".")).unwrap())).unwrap();
    let text = || "text".to_owned();
    let build = reporting::BuildInfo { version: text(), spec_version: text(), revision: text(), rustc: text() };
    reporting::ReportingMetrics::new(&registry, &build).unwrap();
    registry
}

/// The sources that make metrics, below the root of the workspace.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting = vec![root.join("src"), root.join("actors")];
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !matches!(name.as_str(), "tests" | "target" | "manual" | "benches") {
                waiting.push(path);
            } else if name.ends_with(".rs") && !name.contains("tests") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What the sources say: a name, its help, and the labels behind it. A file has at most one prefix, which it adds itself.
fn families() -> BTreeMap<String, Family> {
    let made = r#"[(,]\s*"([a-z][a-z0-9_]+)"\)?,\s*"([A-Z0-9`][^"]*)"(?:[),\s]*&\[((?:"[a-z_]+"(?:, )?)+)\])?"#;
    let (made, continued) = (Regex::new(made).unwrap(), Regex::new(r"\\\n\s*").unwrap());
    let prefix = Regex::new(r#"format!\("(openvalidators_[a-z_]*)\{name\}"\)"#).unwrap();
    let label = Regex::new(r#""([a-z_]+)""#).unwrap();
    let mut families = BTreeMap::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("prometheus") && !text.contains("Registrar") {
            continue;
        }
        let prefix = prefix.captures(&text).map_or(String::new(), |found| found[1].to_owned());
        let prefix =
            if prefix.is_empty() && text.contains("Registrar") { "openvalidators_".to_owned() } else { prefix };
        for found in made.captures_iter(&text) {
            let name = if found[1].starts_with("openvalidators_") {
                found[1].to_owned()
            } else {
                format!("{prefix}{}", &found[1])
            };
            if !name.starts_with("openvalidators_") {
                continue;
            }
            let labels = found.get(3).map_or("", |labels| labels.as_str());
            let labels = label.captures_iter(labels).map(|found| found[1].to_owned()).collect();
            families.insert(name, Family { help: continued.replace_all(&found[2], "").into_owned(), labels });
        }
    }
    families
}

/// The page.
pub fn page() -> String {
    let registry = registry();
    let mut families = families();
    // Those of the process are every Prometheus client's.
    for gathered in registry.gather().iter().filter(|family| family.name().starts_with("openvalidators_")) {
        let name = gathered.name();
        let written = families.get_mut(name).unwrap_or_else(|| panic!("{name} is not found in the sources"));
        assert_eq!(written.help, gathered.help(), "{name}");
        let series = &gathered.get_metric()[0];
        written.labels = series.get_label().iter().map(|label| label.name().to_owned()).collect();
    }
    let mut page = HEAD.to_owned();
    for (name, Family { help, mut labels }) in families {
        labels.extend(LABELS.iter().filter(|(of, _)| *of == name).map(|(_, label)| (*label).to_owned()));
        labels.sort();
        // A name that the registry would take again is no metric of the program.
        let probe = IntGauge::new(name.as_str(), "another text").unwrap();
        if registry.register(Box::new(probe)).is_ok() && !BESIDE.contains(&name.as_str()) {
            panic!("{name} is written in the sources, and no registry has it: add it to `registry`, or to BESIDE");
        }
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        page += &format!("| `{name}` | {labels} | {} |\n", help.replace('|', "\\|"));
    }
    page
}

/// Labels that neither stand beside the help nor show before the first step.
const LABELS: [(&str, &str); 4] = [
    ("openvalidators_rewards_normaliser_mean", "reward"),
    ("openvalidators_rewards_normaliser_deviation", "reward"),
    ("openvalidators_rewards_shadow_seconds", "shadow"),
    ("openvalidators_rewards_shadow_failures_total", "shadow"),
];

/// Families that only a running program has.
const BESIDE: [&str; 1] = ["openvalidators_log_events_total"];

const HEAD: &str = "\
# Metrics

Every family that a validator serves at `/metrics`, made from the code (`src/manual/metrics.rs`): never change it here. Beside them are
those of the process that every Prometheus client has (`process_…`). `_total` counts since the start; `_seconds` without it is a
histogram or an age. A family with labels appears with its first series. Dashboards and alerts over them are in `dashboards/`, what to
do about an alert in `docs/operations.md`.

| name | labels | what it is |
|---|---|---|
";
