//! Each kind of bad miner on a network with two good ones: it ends as its kind must, earns less than they do, and costs them
//! nothing.

use std::path::Path;

use openvalidators_ledger::Reader;
use openvalidators_messages::{
    Completion,
    QueryOutcome::{self, Answered, BadBody, BadProtocol, Failed, Refused, TimedOut, TooLarge},
    Sequence,
};
use serde_json::Value;

use crate::program::{CONSTANT_REWARD, Program, get, side_by_side};

/// What decides over a kind.
#[derive(Clone, Copy, PartialEq)]
enum Decided {
    /// How its queries end: all judges of texts are off, and whoever answers gets the same.
    ByOutcome,
    /// What it says: everything is scored as by default.
    ByContent,
}
use Decided::{ByContent, ByOutcome};

/// A kind of miner, what decides over it, and the ways its queries may end.
type Case = (&'static str, Decided, &'static [(QueryOutcome, u16)]);

/// Those that need models are not side by side.
const CASES: [Case; 10] = [
    ("lazy", ByContent, &[(Answered, 200)]),
    ("slow", ByOutcome, &[(TimedOut, 408), (Answered, 200)]),
    ("echo", ByContent, &[(Answered, 200)]),
    ("hanging", ByOutcome, &[(TimedOut, 408)]),
    ("copycat", ByContent, &[(Answered, 200)]),
    ("garbage", ByOutcome, &[(BadProtocol, 500)]),
    ("keyword_spammer", ByContent, &[(Answered, 200)]),
    ("oversized", ByOutcome, &[(TooLarge, 422)]),
    ("wrong_json", ByOutcome, &[(BadBody, 422)]),
    ("refusing", ByOutcome, &[(Refused, 403), (Failed, 503)]),
];

/// Settled steps, one whole forward, before weights are waited for. Every step asks all three miners.
const STEPS: usize = 3;
/// Networks at once: most of them wait most of the time.
const AT_ONCE: usize = 4;
/// What one reply may cost to read, with room for what the system reads ahead (`dendrite.max_body_bytes` is half of it).
const MOST_BYTES_READ: f64 = 524_288.0;

const SETTINGS: [&str; 11] = [
    // Time enough for two loaded cores to answer.
    "prompts.augment_timeout_seconds=2.0",
    "prompts.followup_timeout_seconds=2.0",
    "prompts.answer_timeout_seconds=2.0",
    // Scoring costs what is read: short texts, short conversations.
    "prompts.context_limit_bytes=600",
    "prompts.num_followup_steps=1",
    "inference.threads=1",
    // An epoch takes a second.
    "chain.local.block_seconds=0.05",
    // Two who answer are enough to set weights.
    "weights.min_scored=2",
    "localnet.miners.good=2",
    "localnet.miners.fair=0",
    "localnet.miners.poor=0",
];

#[test]
fn each_kind_of_bad_miner_ends_as_it_must_and_harms_nobody() {
    let told = side_by_side(&CASES, AT_ONCE, check);
    told.iter().for_each(|line| println!("{line}"));
}

/// Validates a network of two good miners and one of this kind until our row of weights is on the chain.
fn check(&(kind, decided, outcomes): &Case) -> String {
    let state = tempfile::tempdir().unwrap();
    let mix = CASES.map(|(other, ..)| format!("localnet.miners.{other}={}", u8::from(other == kind)));
    let judges = if decided == ByOutcome { &CONSTANT_REWARD[..] } else { &[] };
    let settings = SETTINGS.iter().chain(judges).copied().chain(mix.iter().map(String::as_str));
    let arguments: Vec<&str> = settings.flat_map(|setting| ["--set", setting]).collect();
    let mut program = Program::start_unhurried(state.path(), &arguments);
    let address = program.metrics_address();
    (0..STEPS).for_each(|_| drop(program.until("step")));
    program.note("weights set on chain");
    let (_, metrics) = get(&address, "/metrics");
    program.terminate();
    let (lines, status) = program.finish();
    assert!(status.success(), "{kind}: {status}");

    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let miners = summary["miners"].as_array().unwrap();
    assert_eq!(miners.len(), 3, "{kind}: {summary}");
    let (bad, good): (Vec<&Value>, Vec<&Value>) = miners.iter().partition(|miner| miner["kind"] == kind);
    let completions = completions(state.path());
    let ends = |miner: &Value| -> Vec<(QueryOutcome, u16)> {
        let of = completions.iter().filter(|completion| miner["uid"] == completion.uid.0);
        of.map(|completion| (completion.outcome, completion.status_code)).collect()
    };

    // How its queries ended, one by one, and in the metrics an operator watches.
    let ended = ends(bad[0]);
    assert!(ended.len() >= STEPS, "{kind}: {ended:?}");
    assert!(ended.iter().all(|end| outcomes.contains(end)), "{kind}: {ended:?}");
    let answered = ended.iter().filter(|end| end.0 == Answered).count();
    assert!(decided == ByContent || answered * 2 < ended.len(), "{kind} answers as an exception: {ended:?}");
    for outcome in QueryOutcome::ALL {
        let counted =
            value(&metrics, &format!("openvalidators_dendrite_queries_total{{outcome=\"{}\"}}", outcome.label()));
        let due = outcome == Answered || ended[..STEPS].iter().any(|end| end.0 == outcome);
        let possible = outcome == Answered || outcomes.iter().any(|end| end.0 == outcome);
        assert!(if counted > 0.0 { possible } else { !due }, "{kind}: {counted} of {}", outcome.label());
    }
    let read = value(&metrics, "openvalidators_dendrite_received_bytes_total");
    assert!(read < completions.len() as f64 * MOST_BYTES_READ, "{kind}: {read} bytes of {} replies", completions.len());

    // The good ones answered every time, and each is paid more.
    let weight = |miner: &Value| miner["weight"].as_u64().unwrap();
    for good in good {
        assert!(ends(good).iter().all(|end| *end == (Answered, 200)), "{kind}: {good}");
        assert!(weight(good) > weight(bad[0]), "{kind}: {summary}");
    }
    if !outcomes.iter().any(|(outcome, _)| *outcome == Answered) {
        assert_eq!((&bad[0]["score"], weight(bad[0])), (&Value::from(0.0), 0), "{kind}: {summary}");
    }
    format!("{kind:16} {:3} steps, weights {:?}", ended.len(), miners.iter().map(weight).collect::<Vec<_>>())
}

/// A line of `/metrics`.
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is missing: {metrics}")).parse().unwrap()
}

/// Every completion of every settled step.
fn completions(state: &Path) -> Vec<Completion> {
    let steps = Reader::open(state).unwrap().read_steps(Sequence(0), 1_000).unwrap();
    steps.iter().flat_map(|step| step.record.completions.iter().cloned()).collect()
}
