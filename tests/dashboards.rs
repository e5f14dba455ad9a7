//! Dashboards, rules and the files around them, against the real programs that read them and a validator that runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::program::{Program, get};

/// Longest wait for a real Prometheus to show something.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Exported and shown nowhere, each for a reason.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("openvalidators_gating_asked_most_about_ratio", "each topic's first is shown; this is for a look at one uid"),
    ("openvalidators_uid_info", "joins uid and hotkey by hand"),
    ("process_", "what is not shown of the process is there for comparisons by hand"),
];

/// Panels without data on a validator that is well, by what they ask for. A prefix is of metrics that exist only where
/// something is switched on.
const MAY_BE_EMPTY: &[(&str, &str)] = &[
    ("openvalidators_inference_remote_", "no model is computed elsewhere"),
    ("openvalidators_wandb_", "wandb is off"),
    ("openvalidators_rewards_shadow_", "no candidate runs"),
    ("openvalidators_rewards_judge_", "no miner judges"),
    ("ALERTS", "nothing fires"),
    ("openvalidators_actor_restarts_total", "no actor failed"),
    ("openvalidators_weights_waiting", "a filter for what is 1"),
];

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(path)
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(folder(path)).unwrap()
}

/// Every dashboard by its file name.
fn dashboards() -> BTreeMap<String, Value> {
    std::fs::read_dir(folder("grafana/dashboards"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), serde_json::from_str(&text).unwrap())
        })
        .collect()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The panels that show something.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row")
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Runs a real tool, if it is here, and says what it says when it objects.
fn check(program: &str, arguments: &[&str], within: &Path) {
    match Command::new(program).args(arguments).current_dir(within).output() {
        Err(error) => {
            println!("skipped: {program} is not here ({error}): Debian packages prometheus, prometheus-alertmanager")
        }
        Ok(found) => assert!(
            found.status.success(),
            "{program} {arguments:?}: {}{}",
            String::from_utf8_lossy(&found.stdout),
            String::from_utf8_lossy(&found.stderr)
        ),
    }
}

#[test]
fn the_real_tools_take_rules_and_configurations() {
    check("promtool", &["check", "config", "prometheus.yml"], &folder("prometheus"));
    check("promtool", &["test", "rules", "alerts_test.yml"], &folder("prometheus/tests"));
    check("amtool", &["check-config", "alertmanager.yml"], &folder("alertmanager"));
}

/// Each alert is tested, and explained where its link points to.
#[test]
fn every_alert_has_a_case_and_a_place_in_the_runbook() {
    let (rules, cases) = (read("prometheus/rules/alerts.yml"), read("prometheus/tests/alerts_test.yml"));
    let runbook = std::fs::read_to_string(folder("../docs/operations.md")).unwrap();
    let after = |text: &str, key: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix(key).map(|rest| rest.trim().to_owned())).collect()
    };
    let (alerts, links) = (after(&rules, "- alert:"), after(&rules, "runbook_url:"));
    assert!(alerts.len() > 20 && alerts.len() == links.len(), "{alerts:?}");
    for (alert, link) in alerts.iter().zip(links) {
        assert_eq!(link, format!("docs/operations.md#{}", alert.to_lowercase()));
        assert!(runbook.lines().any(|line| line == format!("### {alert}")), "docs/operations.md has no `### {alert}`");
        assert!(cases.contains(&format!("        alertname: {alert}\n")), "{alert} is not tested");
        assert!(
            cases.contains(&format!("alertname: {alert}, exp_alerts: []")),
            "{alert} may fire on a validator that is well"
        );
    }
    for (name, dashboard) in dashboards() {
        for link in panels(&dashboard).flat_map(|panel| list(&panel["links"])) {
            let anchor = text(&link["url"]).split_once('#').unwrap().1;
            let leads_somewhere =
                runbook.lines().any(|line| line.starts_with('#') && line.to_lowercase().ends_with(anchor));
            assert!(leads_somewhere, "{name}: the runbook has no #{anchor}");
        }
    }
}

/// What Grafana's own dashboard linter asks for, and that panels lie side by side.
#[test]
fn dashboards_keep_the_linters_rules() {
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert!(uids.insert(text(&dashboard["uid"]).to_owned()) && text(&dashboard["uid"]).len() <= 40, "{name}: uid");
        assert!(
            dashboard["id"].is_null() && dashboard["editable"] == false && dashboard["schemaVersion"] == 39,
            "{name}"
        );
        let variables = list(&dashboard["templating"]["list"]);
        let variable = |wanted: &str| variables.iter().find(|variable| variable["name"] == wanted).unwrap();
        assert_eq!(
            (text(&variable("datasource")["type"]), text(&variable("datasource")["label"])),
            ("datasource", "Data source")
        );
        for selector in ["job", "instance"] {
            let variable = variable(selector);
            assert!(
                variable["multi"] == true && variable["includeAll"] == true && variable["allValue"] == ".+",
                "{name}: {selector}"
            );
            assert_eq!((variable["refresh"].as_u64(), text(&variable["label"])), (Some(2), selector), "{name}");
        }
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeMap::new());
        for panel in list(&dashboard["panels"]) {
            let title = text(&panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()) && !title.is_empty(), "{name}: {title}");
            let [x, y, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + width <= 24 && width > 0 && height > 0, "{name}: {title}");
            for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
                assert_eq!(taken.insert(cell, title), None, "{name}: {title} lies over another panel");
            }
        }
        for panel in panels(&dashboard) {
            let title = text(&panel["title"]);
            assert!(!text(&panel["description"]).is_empty(), "{name}: {title} is not described");
            assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{name}: {title} has no unit");
            assert_eq!(text(&panel["datasource"]["uid"]), "${datasource}", "{name}: {title}");
            assert!(!list(&panel["targets"]).is_empty(), "{name}: {title} asks nothing");
            let mut refs = BTreeSet::new();
            for target in list(&panel["targets"]) {
                let expr = text(&target["expr"]);
                assert!(refs.insert(text(&target["refId"]).to_owned()), "{name}: {title}");
                assert_eq!(text(&target["datasource"]["uid"]), "${datasource}", "{name}: {title}");
                assert!(expr.contains(r#"job=~"$job",instance=~"$instance""#), "{name}: {title}: {expr}");
                let mut ranges = expr.split("rate(").skip(1).map(|rest| rest.split('[').nth(1).unwrap_or_default());
                assert!(ranges.all(|range| range.starts_with("$__rate_interval]")), "{name}: {title}: {expr}");
                for counter in metrics_in(expr).iter().filter(|metric| metric.ends_with("_total")) {
                    let at = expr.find(counter.as_str()).unwrap();
                    let is_wrapped = ["rate(", "increase("].iter().any(|function| expr[..at].ends_with(function));
                    assert!(is_wrapped || title == "Records", "{name}: {title}: {counter} is a counter");
                }
            }
        }
    }
}

/// Grafana's own types take them, as TypeScript's compiler sees it.
#[test]
fn dashboards_are_of_grafanas_types() {
    let peers = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let peers = peers.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    let modules = peers.unwrap_or_default().join("grafana/node_modules");
    if !modules.join(".bin/tsc").exists() {
        return println!("skipped: no {}; tests/peers.sh makes it", modules.join(".bin/tsc").display());
    }
    let here = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&modules, here.path().join("node_modules")).unwrap();
    std::fs::copy(folder("../tests/tools/written.d.ts"), here.path().join("written.d.ts")).unwrap();
    let mut files = Vec::new();
    for (name, dashboard) in dashboards() {
        let begin = "import type { WrittenDashboard } from \"./written\";\nexport const dashboard: WrittenDashboard =";
        std::fs::write(here.path().join(format!("{name}.ts")), format!("{begin} {dashboard};\n")).unwrap();
        files.push(format!("{name}.ts"));
    }
    let options = "--noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler --target es2022";
    let arguments: Vec<&str> = options.split(' ').chain(files.iter().map(String::as_str)).collect();
    check(modules.join(".bin/tsc").to_str().unwrap(), &arguments, here.path());
}

/// What is checked in is what the source makes.
#[test]
fn dashboards_are_as_their_source_writes_them() {
    check("python3", &["make.py", "--check"], &folder("grafana"));
}

/// The files for containers name what is there, and Prometheus differs by the names alone.
#[test]
fn the_files_for_containers_fit_the_others() {
    let deploy = |file: &str| std::fs::read_to_string(folder("../deploy").join(file)).unwrap();
    let plain = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    let named = read("prometheus/prometheus.yml")
        .replace("localhost:9093", "alertmanager:9093")
        .replace("localhost:9616", "validator:9616");
    assert_eq!(plain(&named), plain(&deploy("prometheus.yml")));
    let compose = deploy("compose.yml");
    let mounts = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ../"))
        .map(|mount| mount.split(':').next().unwrap());
    let mounts: Vec<&str> = mounts.collect();
    assert!(mounts.len() >= 5, "{mounts:?}");
    for mount in mounts {
        assert!(folder("..").join(mount).exists(), "compose.yml mounts {mount}, which is not there");
    }
}

/// The names of metrics in an expression.
fn metrics_in(expr: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let names = expr.split(|letter| !is_part(letter));
    names
        .filter(|name| ["openvalidators_", "process_"].iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

fn asked_by_dashboards() -> BTreeSet<String> {
    let asked = |dashboard: &Value| {
        panels(dashboard)
            .flat_map(|panel| list(&panel["targets"]))
            .flat_map(|target| metrics_in(text(&target["expr"])))
            .collect::<Vec<_>>()
    };
    dashboards().values().flat_map(asked).collect()
}

/// The family a series belongs to: histograms are asked for by their parts.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

// === the running validator ===

/// A process that ends with the test.
pub struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn start(program: &str, folder: &Path, arguments: &[String]) -> Option<Peer> {
    let log = std::fs::File::create(folder.join(format!("{program}.log"))).unwrap();
    match Command::new(program).args(arguments).stdout(Stdio::null()).stderr(log).spawn() {
        Ok(child) => Some(Peer(child)),
        Err(error) => {
            println!("skipped: {program} is not here ({error}): Debian packages prometheus, prometheus-alertmanager");
            None
        }
    }
}

/// A real Prometheus with our rules, quick enough for a test.
pub struct Prometheus {
    address: String,
    _peer: Peer,
}

impl Prometheus {
    /// Scrapes the target every second and evaluates our rules, their time passing `hurry` times as fast.
    pub fn start(folder: &Path, target: &str, alertmanager: Option<&str>, hurry: u64) -> Option<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        for file in ["alerts.yml", "recording.yml"] {
            std::fs::write(folder.join(file), hurried(&read(&format!("prometheus/rules/{file}")), hurry)).unwrap();
        }
        let alerting = alertmanager
            .map(|address| format!("alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{address}']}}]}}]}}\n"))
            .unwrap_or_default();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yml, recording.yml]\n{alerting}\
             scrape_configs:\n- job_name: openvalidators\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let arguments = [
            format!("--config.file={}", folder.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        Some(Self { _peer: start("prometheus", folder, &arguments)?, address })
    }

    pub fn query(&self, expr: &str) -> Result<Value, String> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        if TcpStream::connect(&self.address).is_err() {
            return Err("not there yet".into());
        }
        let (status, body) = get(&self.address, &format!("/api/v1/query?query={encoded}"));
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        if status == 200 { Ok(answer["data"]["result"].clone()) } else { Err(body) }
    }

    /// Asks until there is an answer with something in it.
    pub fn until(&self, expr: &str) -> Value {
        let since = Instant::now();
        loop {
            match self.query(expr) {
                Ok(found) if !list(&found).is_empty() => return found,
                found => assert!(since.elapsed() < PATIENCE, "{expr} stays without data: {found:?}"),
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// The rules as they are, but for time: each range, offset, wait and interval, and the one age in seconds that a test lives
/// to see, divided by `hurry`.
fn hurried(rules: &str, hurry: u64) -> String {
    let scaled = |text: &str| -> Option<String> {
        let unit = ["s", "m", "h", "d"].iter().position(|unit| text.ends_with(unit))?;
        let seconds = text[..text.len() - 1].parse::<u64>().ok()? * [1, 60, 3_600, 86_400][unit];
        Some(format!("{}s", (seconds / hurry).max(1)))
    };
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut made = String::new();
    for line in rules.lines() {
        let line = line.replace("block_age_seconds > 120", &format!("block_age_seconds > {}", 120 / hurry));
        let mut rest = &*line;
        while let Some(at) = rest.find(is_part) {
            let end = rest[at..].find(|letter| !is_part(letter)).map_or(rest.len(), |length| at + length);
            made += &rest[..at];
            made += &scaled(&rest[at..end]).unwrap_or_else(|| rest[at..end].to_owned());
            rest = &rest[end..];
        }
        made += rest;
        made.push('\n');
    }
    made
}

#[test]
fn hurried_rules_differ_by_their_times_alone() {
    let made = hurried("  interval: 30s\n  for: 5m\n  expr: avg_over_time(a:ratio10m[6h] offset 15m) > 0.1", 30);
    assert_eq!(made, "  interval: 1s\n  for: 10s\n  expr: avg_over_time(a:ratio10m[720s] offset 30s) > 0.1\n");
    for file in ["alerts", "recording"] {
        let rules = read(&format!("prometheus/rules/{file}.yml"));
        assert_eq!(hurried(&rules, 30).lines().count(), rules.lines().count());
    }
}

/// What Grafana makes of its own words.
fn as_grafana_asks(expr: &str) -> String {
    let words =
        [("$__rate_interval", "135s"), ("$__interval", "15s"), ("$__range", "1h"), ("$job", ".+"), ("$instance", ".+")];
    words.iter().fold(expr.to_owned(), |expr, (word, value)| expr.replace(word, value))
}

/// Every metric that is asked for is there, every one that is there is asked for, and every panel shows something.
#[test]
fn panels_show_a_running_validator() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let quick = ["chain.local.block_seconds=0.5", "reporting.metrics.per_uid_seconds=1"];
    let mut program =
        Program::start(state.path(), &quick.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>());
    let address = program.metrics_address();
    let prometheus = Prometheus::start(folder.path(), &address, None, 1);
    program.note("weights set on chain");
    (0..2).for_each(|_| drop(program.until("step")));

    let (_, metrics) = get(&address, "/metrics");
    let exported: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let asked = asked_by_dashboards();
    let in_rules: BTreeSet<String> = ["recording", "alerts"]
        .iter()
        .flat_map(|file| metrics_in(&read(&format!("prometheus/rules/{file}.yml"))))
        .collect();
    let may_be_off =
        |name: &str| MAY_BE_EMPTY.iter().any(|(prefix, _)| prefix.ends_with('_') && name.starts_with(prefix));
    for name in asked.iter().chain(&in_rules).filter(|name| !name.contains(':') && !may_be_off(name)) {
        assert!(exported.contains(name.as_str()) || exported.contains(family(name)), "nobody exports {name}");
    }
    let families: BTreeSet<&str> = asked.iter().flat_map(|name| [name.as_str(), family(name)]).collect();
    for name in exported {
        let is_excused = NOT_SHOWN.iter().any(|(prefix, _)| name.starts_with(prefix));
        assert!(is_excused || families.contains(name), "{name} is on no dashboard, and not in NOT_SHOWN");
    }

    let Some(prometheus) = prometheus else { return };
    prometheus.until(r#"rate(openvalidators_steps_total{result="scored"}[1m]) > 0"#);
    prometheus.until("openvalidators_uid_weight");
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for expr in list(&panel["targets"]).iter().map(|target| text(&target["expr"])) {
                let found =
                    prometheus.query(&as_grafana_asks(expr)).unwrap_or_else(|error| panic!("{name}: {expr}: {error}"));
                let may_be_empty = MAY_BE_EMPTY.iter().any(|(part, _)| expr.contains(part));
                assert!(may_be_empty || !list(&found).is_empty(), "{name}: {} shows nothing: {expr}", panel["title"]);
            }
        }
    }
    let firing = prometheus.query(r#"ALERTS{alertstate="firing",alertname!="DiskFilling"}"#).unwrap();
    assert!(list(&firing).is_empty(), "a validator that is well: {firing}");
}
