use openvalidators_messages::{
    gating::HeadTable,
    weights::{ScoreRow, ScoreTable},
};
use openvalidators_runtime::{SystemClock, testing::recording_mailbox};
use serde_json::Value;

use super::*;
use crate::{
    BuildInfo, EVENT_LOG_FILE,
    testing::{MemoryLedger, step, steps},
};

struct Bench {
    folder: tempfile::TempDir,
    ledger: MemoryLedger,
    metrics: ReportingMetrics,
    registry: Registry,
    config: ReportingConfig,
    wandb: Option<WandbParts>,
}

impl Bench {
    fn new(ledger: MemoryLedger) -> Self {
        let registry = Registry::new();
        let build = BuildInfo {
            version: "0.1.0".into(),
            spec_version: "1".into(),
            revision: "unknown".into(),
            rustc: "unknown".into(),
        };
        let metrics = ReportingMetrics::new(&registry, &build).unwrap();
        let config = ReportingConfig { poll_milliseconds: 1, ..ReportingConfig::default() };
        Self { folder: tempfile::tempdir().unwrap(), ledger, metrics, registry, config, wandb: None }
    }

    /// One life of the actor.
    fn start(&self) -> Addr<ReportingActor> {
        let scores = |_: &ReadScores| {
            let row = step(1).record.completions[0].hotkey;
            let row = ScoreRow { hotkey: row, score: 0.5, asked: 1, answered: 1, rewarded: 1, scored_at: 0.0 };
            ScoreTable { sequence: Sequence(1), rows: vec![row] }
        };
        let metagraph = crate::metrics::tests::metagraph(&[3]);
        ReportingActor::new(ReportingParts {
            config: self.config.clone(),
            folder: self.folder.path().to_owned(),
            ledger: self.ledger.reader(),
            scores: recording_mailbox(scores).0,
            head: recording_mailbox(|_: &ReadHead| HeadTable::default()).0,
            metagraph: watch::Sender::new(Arc::new(metagraph)).subscribe(),
            metrics: self.metrics.clone(),
            clock: SystemClock::shared(),
            pulse: Pulse::new(&SystemClock::shared()),
            started_at: Duration::ZERO,
            offset: UtcOffset::UTC,
            wandb: self.wandb.clone(),
        })
        .start()
    }

    /// Asks it to stop, as its supervisor does.
    #[allow(clippy::disallowed_methods, reason = "Stop is the supervisor's own message and needs no place")]
    async fn stop(&self, actor: Addr<ReportingActor>) {
        actor.send(Stop).await.unwrap();
    }

    async fn reported(&self, sequence: u64) {
        let clock = SystemClock::shared();
        for _ in 0..5_000 {
            if self.ledger.cursor(READER) >= sequence {
                return;
            }
            clock.sleep(Duration::from_millis(1)).await;
        }
        panic!("step {sequence} is not reported: {:?}", self.metrics.check());
    }

    fn logged(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.folder.path().join(EVENT_LOG_FILE)).unwrap_or_default();
        let sequence =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["record"]["extra"]["sequence"].as_u64();
        text.lines().map(|line| sequence(line).unwrap()).collect()
    }

    fn exported(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }
}

#[actix::test]
async fn what_happened_is_logged_counted_and_drained_at_the_end() {
    let bench = Bench::new(MemoryLedger::with(steps(1..=40)));
    let actor = bench.start();
    bench.reported(40).await;
    bench.ledger.push(step(41));
    bench.stop(actor).await;
    assert_eq!(bench.logged(), (1..=41).collect::<Vec<_>>());
    assert_eq!(bench.ledger.cursor(READER), 41);
    let exported = bench.exported();
    assert!(exported.contains("openvalidators_steps_total{name=\"followup\",result=\"scored\"} 41"), "{exported}");
    assert!(exported.contains("openvalidators_uid_score{uid=\"3\"} 0.5"), "{exported}");
    let bytes = std::fs::metadata(bench.folder.path().join(EVENT_LOG_FILE)).unwrap().len();
    assert!(exported.contains(&format!("openvalidators_event_log_bytes_total {bytes}")), "{exported}");
}

#[actix::test]
async fn a_crash_between_log_and_cursor_doubles_nothing() {
    let bench = Bench::new(MemoryLedger::with(steps(1..=3)));
    let actor = bench.start();
    bench.reported(3).await;
    bench.stop(actor).await;
    // As if the process had died before the cursor was saved.
    bench.ledger.cursors.borrow_mut().clear();
    bench.ledger.push(step(4));
    let actor = bench.start();
    bench.reported(4).await;
    bench.stop(actor).await;
    assert_eq!(bench.logged(), [1, 2, 3, 4]);
    assert!(bench.exported().contains("openvalidators_steps_total{name=\"followup\",result=\"scored\"} 4"));
}

#[actix::test]
async fn a_log_of_an_earlier_ledger_hides_nothing() {
    let bench = Bench::new(MemoryLedger::with(steps(1..=3)));
    let mut earlier = step(2);
    Arc::make_mut(&mut earlier.record).started_at -= 86_400.0;
    let origin = Origin { started_at: Duration::ZERO, offset: UtcOffset::UTC, process_id: 1 };
    let mut log = EventLog::new(bench.folder.path().to_owned(), bench.config.events_retention_size, true, origin);
    log.append(&[earlier]).unwrap();
    drop(log);
    let actor = bench.start();
    bench.reported(3).await;
    bench.stop(actor).await;
    assert_eq!(bench.logged(), [2, 1, 2, 3]);
}

#[actix::test]
async fn a_ledger_that_fails_turns_ready_red_until_it_is_back() {
    let bench = Bench::new(MemoryLedger::with(steps(1..=1)));
    *bench.ledger.failing.borrow_mut() = 1;
    let actor = bench.start();
    let clock = SystemClock::shared();
    while bench.metrics.check().is_ok() {
        clock.sleep(Duration::from_millis(1)).await;
    }
    assert!(bench.metrics.check().unwrap_err().contains("database is locked"));
    bench.reported(1).await;
    bench.stop(actor).await;
    assert_eq!(bench.metrics.check(), Ok(()));
    assert_eq!(bench.logged(), [1]);
}

#[actix::test]
async fn the_switches_switch_off() {
    let mut bench = Bench::new(MemoryLedger::with(steps(1..=2)));
    bench.config.dont_save_events = true;
    bench.config.metrics.per_uid = false;
    let actor = bench.start();
    bench.reported(2).await;
    bench.stop(actor).await;
    assert!(std::fs::read_dir(bench.folder.path()).unwrap().next().is_none(), "no file at all");
    let exported = bench.exported();
    assert!(exported.contains("openvalidators_steps_total{name=\"followup\",result=\"scored\"} 2"), "{exported}");
    assert!(!exported.contains("uid_score"), "{exported}");

    bench.config.dont_save_events = false;
    bench.config.disable_log_rewards = true;
    bench.ledger.push(step(3));
    let actor = bench.start();
    bench.reported(3).await;
    bench.stop(actor).await;
    assert_eq!(bench.logged(), [3], "what was not to be saved stays unsaved");
    let text = std::fs::read_to_string(bench.folder.path().join(EVENT_LOG_FILE)).unwrap();
    assert!(!text.contains("reward_model") && text.contains("\"rewards\": [0.4"), "{text}");
}

/// Two lives, the second from a cursor that was not saved in time: each step is one row, in the run of its life.
#[actix::test]
async fn wandb_has_every_step_once_and_the_scores_of_each_life() {
    use crate::wandb::{Mode, RunAbout, Setup, WandbConfig, WandbMetrics};

    let mut bench = Bench::new(MemoryLedger::with(steps(1..=12)));
    let config = WandbConfig { mode: Mode::Offline, hardware_seconds: 0, ..WandbConfig::default() };
    let setup = Setup::of(&config, bench.folder.path()).unwrap().unwrap();
    assert!(setup.note().contains("offline-run-"), "{}", setup.note());
    let metrics = WandbMetrics::new(&bench.registry).unwrap();
    bench.wandb = Some(WandbParts { setup, about: Arc::new(RunAbout::default()), metrics });
    let actor = bench.start();
    bench.reported(12).await;
    bench.stop(actor).await;
    assert_eq!(bench.ledger.cursor("wandb"), 12);
    bench.ledger.cursors.borrow_mut().insert("wandb", Sequence(5));
    bench.ledger.push(step(13));
    let actor = bench.start();
    bench.reported(13).await;
    bench.stop(actor).await;

    let runs = crate::wandb::rows_of(&bench.folder.path().join("wandb"));
    let sequences = |rows: &[Value]| rows.iter().filter_map(|row| row["sequence"].as_u64()).collect::<Vec<_>>();
    assert_eq!(
        runs.iter().map(|(rows, exit)| (sequences(rows), *exit)).collect::<Vec<_>>(),
        [((1..=12).collect(), Some(0)), (vec![13], Some(0))]
    );
    for (rows, _) in &runs {
        let scores: Vec<_> = rows.iter().filter(|row| !row["neuron_weights"].is_null()).collect();
        assert_eq!(scores.len(), 1, "one row of scores at the start");
        assert!(scores[0]["neuron_weights"].as_array().unwrap().contains(&Value::from(0.5)), "{}", scores[0]);
    }
    assert!(bench.exported().contains("openvalidators_wandb_rows_total 15"), "{}", bench.exported());
}
