use std::{collections::BTreeMap, fmt, sync::Arc};

use openvalidators_messages::{Column, RawScores, Reward, Scored, StepName};
use proptest::prelude::*;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::*;
use crate::testing::{step, unsettled};

/// A line that loguru wrote for the reference's event.
const FIXTURE: &str = include_str!("../../../../tests/fixtures/reporting/loguru_completions.log");

const ORIGIN: Origin = Origin {
    // The fixture's moment less its `elapsed`.
    started_at: Duration::from_micros(1_795_339_015_321_338 - 69_846),
    offset: UtcOffset::UTC,
    process_id: 13_743,
};

/// Keys in the order they are written.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn line(step: &StoredStep, log_rewards: bool) -> String {
    let mut line = Vec::new();
    write_line(&mut line, step, &ORIGIN, log_rewards).unwrap();
    String::from_utf8(line).unwrap()
}

fn extra(line: &str) -> Value {
    serde_json::from_str::<Value>(line).unwrap()["record"]["extra"].take()
}

/// The step whose event the fixture holds.
fn fixture_step() -> StoredStep {
    let mut stored = step(1);
    let mut record = (*stored.record).clone();
    let column = |name: &str, values: [f32; 2]| Column { name: name.into(), values: values.map(Some).to_vec() };
    record.name = StepName::Augment;
    record.started_at = 1_795_339_012.071_338;
    record.prompt = "Summarize é\n\"x\"".into();
    record.completions[0].text = "a".into();
    record.scoring =
        Scoring::Scored(RawScores { rewards: vec![column("dpo_reward_model", [0.25, -1.5])], ..RawScores::default() });
    stored.record = Arc::new(record);
    stored.outcome = Some(Arc::new(StepOutcome::Scored(Scored {
        normalised: vec![column("dpo_reward_model", [0.5, 0.0])],
        filters: vec![],
        rewards: vec![Reward::new(0.4).unwrap(), Reward::ZERO],
        best: Some(0),
        gating_loss: Some(0.125),
        shadows: vec![],
    })));
    stored
}

#[test]
fn a_line_is_what_loguru_writes_up_to_the_additions() {
    let ours = line(&fixture_step(), true);
    // The reference's NaN has no counterpart in a step.
    let theirs = FIXTURE.replace("NaN", "0.0");
    let shared = |line: &str, from: &str, to: &str| {
        let start = line.find(from).unwrap_or_else(|| panic!("{from} in {line}"));
        line[start..=start + line[start..].find(to).unwrap() + to.len() - 1].to_owned()
    };
    for (from, to) in
        [("{\"text\": ", "\"best\": \"a\""), ("\"level\": ", "}"), ("\"message\": ", ", "), ("\"time\": ", "}}}\n")]
    {
        assert_eq!(shared(&ours, from, to), shared(&theirs, from, to));
    }
}

#[test]
fn the_envelope_has_the_reference_keys_in_the_reference_order() {
    #[derive(Deserialize)]
    struct Envelope {
        record: Keys,
    }
    let ours: Envelope = serde_json::from_str(&line(&step(1), true)).unwrap();
    let theirs: Envelope = serde_json::from_str(&FIXTURE.replace("NaN", "null")).unwrap();
    assert_eq!(ours.record.0, theirs.record.0);
    assert!(serde_json::from_str::<Envelope>(FIXTURE).is_err(), "the reference's own line is not JSON");
}

#[test]
fn an_event_has_the_reference_keys_and_then_ours() {
    #[derive(Deserialize)]
    struct Envelope {
        record: Record,
    }
    #[derive(Deserialize)]
    struct Record {
        extra: Keys,
    }
    let keys = |log_rewards| serde_json::from_str::<Envelope>(&line(&step(1), log_rewards)).unwrap().record.extra.0;
    let columns =
        ["dpo_reward_model", "dpo_reward_model_normalized", "blacklist_filter", "blacklist_filter_normalized"];
    let rest = [
        "block",
        "step_length",
        "prompt",
        "uids",
        "completions",
        "completion_times",
        "rewards",
        "gating_loss",
        "best",
        "forward",
        "step",
        "sequence",
        "status_codes",
        "hotkeys",
        "unscored",
        "schema_version",
    ];
    assert_eq!(keys(true), [&["name"][..], &columns, &rest].concat());
    assert_eq!(keys(false), [&["name"][..], &rest].concat());
}

#[test]
fn values_are_the_steps() {
    let event = extra(&line(&step(10), true));
    assert_eq!(event["name"], "followup1");
    assert_eq!(event["dpo_reward_model"], serde_json::json!([-1.5, null]));
    assert_eq!(event["blacklist_filter_normalized"], serde_json::json!([1.0, 0.0]));
    assert_eq!(event["uids"], serde_json::json!([3, 7]));
    assert_eq!(event["status_codes"], serde_json::json!([200, 408]));
    assert_eq!(event["best"], "a vowel", "stripped, as the reference does");
    assert_eq!(event["rewards"][0], f64::from(0.4_f32), "widened, as the reference does");
    assert_eq!((&event["forward"], &event["step"], &event["sequence"]), (&1.into(), &1.into(), &10.into()));
    assert_eq!(event["unscored"], Value::Null);
}

#[test]
fn a_step_that_counts_for_nobody_says_why() {
    let event = extra(&line(&unsettled(1), true));
    assert_eq!((&event["rewards"], &event["best"]), (&Value::Null, &Value::Null));
    assert_eq!(event["dpo_reward_model_normalized"], Value::Null);
    assert_eq!(event["unscored"], "the fold left no outcome");

    let mut failed = step(1);
    let reason = "the model server was gone".to_owned();
    Arc::make_mut(&mut failed.record).scoring = Scoring::Unscored { reason: reason.clone() };
    failed.outcome = Some(Arc::new(StepOutcome::Unscored { reason: reason.clone() }));
    let event = extra(&line(&failed, true));
    assert_eq!(event["unscored"], reason);
    assert_eq!(event.get("dpo_reward_model"), None);
}

#[test]
fn elapsed_reads_as_a_python_timedelta() {
    for (micros, repr) in [
        (0, "0:00:00"),
        (69_846, "0:00:00.069846"),
        (3_661_000_001, "1:01:01.000001"),
        (86_400_000_000, "1 day, 0:00:00"),
        (200_000_000_000, "2 days, 7:33:20"),
    ] {
        assert_eq!(python_timedelta(Duration::from_micros(micros)), repr);
    }
}

#[test]
fn a_step_without_a_possible_time_is_an_error() {
    let mut broken = step(1);
    Arc::make_mut(&mut broken.record).started_at = 1e300;
    let error = write_line(&mut Vec::new(), &broken, &ORIGIN, true).unwrap_err().to_string();
    assert!(error.contains("step 0.1"), "{error}");
}

#[test]
fn what_could_deceive_a_terminal_is_escaped_and_parses_to_the_same_text() {
    let deceiving = ('\u{7f}'..='\u{9f}')
        .chain(['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'])
        .chain('\u{202a}'..='\u{202e}')
        .chain('\u{2066}'..='\u{2069}');
    let text: String = deceiving.clone().flat_map(|char| [char, 'é', char, char]).collect();
    let mut stored = step(1);
    let record = Arc::make_mut(&mut stored.record);
    (record.prompt, record.completions[0].text) = (format!("x\u{9b}31m\n{text}"), text.clone());
    let line = line(&stored, true);
    for char in deceiving {
        assert!(!line.contains(char), "{char:?}");
        assert!(line.contains(&format!("\\u{:04x}", u32::from(char))), "{char:?}");
    }
    assert!(line.contains(r"x\u009b31m\n\u007fé\u007f"), "{line}");
    assert_eq!(extra(&line)["prompt"], format!("x\u{9b}31m\n{text}"));
    assert_eq!(extra(&line)["completions"][0], text);
}

proptest! {
    /// Whatever miners and sources send, a line is one line, strict JSON, and says what they sent.
    #[test]
    fn a_line_is_strict_json_whatever_is_in_it(
        prompt in any::<String>(),
        text in any::<String>(),
        raw in any::<f32>(),
        elapsed in any::<f64>(),
        sequence in 1..1_u64 << 52,
        length in 0.0..1e6,
    ) {
        let mut stored = step(sequence % 1_000);
        stored.sequence.0 = sequence;
        let record = Arc::make_mut(&mut stored.record);
        record.prompt = prompt.clone();
        record.length_seconds = length;
        record.completions[0].text = text.clone();
        record.completions[0].elapsed_seconds = elapsed;
        record.digests = BTreeMap::new();
        if let Scoring::Scored(scores) = &mut record.scoring {
            scores.rewards[0].values[0] = Some(raw);
        }
        let line = line(&stored, true);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(line.ends_with('\n'));
        let event = extra(&line);
        prop_assert_eq!(&event["prompt"], &prompt);
        prop_assert_eq!(&event["completions"][0], &text);
        prop_assert_eq!(event["completion_times"][0].as_f64(), Some(elapsed).filter(|seconds| seconds.is_finite()));
        prop_assert_eq!(read_mark(line.as_bytes()), Some(mark_of(&stored).unwrap()));
    }
}
