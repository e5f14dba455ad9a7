//! Events as openvalidators writes them, whatever file holds them: the long rows of 1.1 and later (one for each step), and
//! the wide ones before (one for each followup with its answer).
//!
//! The field names are those of `openvalidators/event.py` of 1.2.0; the wide ones those which `analysis/plotting.py` and
//! `scripts/data_formatter.py` of 1.2.0 still ask for.

use std::iter;

use serde_json::{Map, Value};

use crate::{COLUMN_NAMES, Column, MICROS_PER_SECOND, Shadow, Skip, StepRow, text_digest};

/// Events that are no steps: what wandb has of checkpoints.
const CHECKPOINT_KEY: &str = "neuron_weights";

/// The steps of an event: one of a long row, up to two of a wide one.
///
/// `timestamp` is in seconds since 1970; `number` is the row's place in its file, by which the two steps of a wide row
/// share a forward.
///
/// # Errors
/// A [`Skip`] that says what is missing or does not fit; its place is left for the caller to fill.
pub fn read(event: &Map<String, Value>, run: &str, timestamp: f64, number: u64) -> Result<Vec<StepRow>, Skip> {
    if !timestamp.is_finite() || timestamp.abs() > 1e11 {
        return Err(skip("no time", format!("found {timestamp}")));
    }
    let start = StepRow {
        run: run.to_owned(),
        timestamp: (timestamp * MICROS_PER_SECOND).round() as i64,
        block: number_at(event, "block").map(|block| block as i64),
        step_length: number_at(event, "step_length"),
        ..StepRow::default()
    };
    if event.contains_key("followup_completions") || event.contains_key("answer_completions") {
        return wide(event, &start, number);
    }
    if event.contains_key(CHECKPOINT_KEY) && !event.contains_key("completions") {
        return Err(skip("a checkpoint, not a step", String::new()));
    }
    long(event, start).map(|row| vec![row])
}

fn long(event: &Map<String, Value>, start: StepRow) -> Result<StepRow, Skip> {
    let text = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut row = StepRow {
        forward: integer_at(event, "forward"),
        topic: text("topic"),
        name: text("name").ok_or_else(|| skip("an event without a name", keys(event)))?,
        prompt: text("prompt").ok_or_else(|| skip("an event without a prompt", keys(event)))?,
        uids: integers(event, "uids")?,
        hotkeys: texts(event, "hotkeys")?,
        completions: texts(event, "completions")?,
        completion_times: numbers(event, "completion_times")?,
        status_codes: integers(event, "status_codes")?,
        propensities: numbers(event, "propensities")?,
        rewards: numbers(event, "rewards")?,
        best: text("best").filter(|best| !best.is_empty()),
        unscored: text("unscored"),
        ..start
    };
    // A context without a forward would tear a conversation apart; merging finds the right one.
    row.context = text("context").unwrap_or_default();
    for name in COLUMN_NAMES {
        let raw = numbers(event, name)?;
        let normalized = numbers(event, &format!("{name}_normalized"))?;
        if !raw.is_empty() || !normalized.is_empty() {
            row.columns.push(Column { name, raw, normalized });
        }
    }
    row.shadows = shadows(event)?;
    check(&row)?;
    Ok(row)
}

/// What our event logs say of candidates, or our tables, in which each number is a list by itself.
fn shadows(event: &Map<String, Value>) -> Result<Vec<Shadow>, Skip> {
    let names = texts(event, "shadow_names")?;
    if !names.is_empty() {
        let numbers = |key| -> Result<_, Skip> { Ok(numbers(event, key)?.into_iter().chain(iter::repeat(None))) };
        let (correlations, blocked) = (numbers("shadow_correlations")?, numbers("shadow_blocked")?);
        let (seconds, failed) = (numbers("shadow_seconds")?, numbers("shadow_failed")?);
        let all = names.into_iter().zip(correlations).zip(blocked).zip(seconds).zip(failed);
        let shadow = |((((name, correlation), blocked), seconds), failed): ((((_, _), _), _), Option<f64>)| Shadow {
            name,
            correlation,
            blocked,
            seconds,
            failed: failed == Some(1.0),
        };
        return Ok(all.map(shadow).collect());
    }
    let shadow = |shadow: &Value| {
        let shadow = shadow.as_object()?;
        Some(Shadow {
            name: shadow.get("name")?.as_str()?.to_owned(),
            correlation: number_at(shadow, "correlation"),
            blocked: number_at(shadow, "blocked"),
            seconds: number_at(shadow, "seconds"),
            failed: shadow.get("failure").is_some_and(|failure| !failure.is_null()),
        })
    };
    Ok(list(event, "shadows")?.iter().filter_map(shadow).collect())
}

fn wide(event: &Map<String, Value>, start: &StepRow, number: u64) -> Result<Vec<StepRow>, Skip> {
    let text = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut rows = Vec::new();
    for (kind, prompt, best) in
        [("followup", "base_prompt", "best_followup"), ("answer", "answer_prompt", "best_answer")]
    {
        let Some(prompt) = text(prompt) else { continue };
        let row = StepRow {
            forward: i64::try_from(number).ok(),
            context: text_digest(text("base_prompt").as_deref().unwrap_or(&prompt)),
            name: format!("{kind}0"),
            prompt,
            uids: integers(event, &format!("{kind}_uids"))?,
            completions: texts(event, &format!("{kind}_completions"))?,
            completion_times: numbers(event, &format!("{kind}_times"))?,
            rewards: numbers(event, &format!("{kind}_rewards"))?,
            best: text(best).filter(|best| !best.is_empty()),
            ..start.clone()
        };
        check(&row)?;
        rows.push(row);
    }
    if rows.is_empty() { Err(skip("an event without a prompt", keys(event))) } else { Ok(rows) }
}

/// Every list that is there is as long as the others.
fn check(row: &StepRow) -> Result<(), Skip> {
    let asked = row.uids.len();
    let lists = [
        ("completions", row.completions.len(), false),
        ("hotkeys", row.hotkeys.len(), true),
        ("completion_times", row.completion_times.len(), true),
        ("status_codes", row.status_codes.len(), true),
        ("propensities", row.propensities.len(), true),
        ("rewards", row.rewards.len(), true),
    ];
    let columns = row
        .columns
        .iter()
        .flat_map(|column| [(column.name, column.raw.len(), true), (column.name, column.normalized.len(), true)]);
    match lists.into_iter().chain(columns).find(|&(_, length, optional)| length != asked && !(optional && length == 0))
    {
        Some((name, length, _)) => {
            Err(skip("lists of different lengths", format!("{asked} uids, {length} values of `{name}`")))
        }
        None => Ok(()),
    }
}

// === Values, tolerantly: wandb and pandas turn what JSON lacks into text ===

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        // "NaN" and "Infinity", as wandb hands them out, are no numbers; "0.5" is one.
        Value::String(text) => text.parse().ok(),
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

fn number_at(event: &Map<String, Value>, key: &str) -> Option<f64> {
    event.get(key).and_then(number)
}

fn integer_at(event: &Map<String, Value>, key: &str) -> Option<i64> {
    number_at(event, key).map(|number| number as i64)
}

fn list<'a>(event: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], Skip> {
    match event.get(key) {
        Some(Value::Array(values)) => Ok(values),
        None | Some(Value::Null) => Ok(&[]),
        // What pandas makes of a value that a row does not have, and wandb of a list of one.
        Some(Value::String(text)) if text.is_empty() || text.eq_ignore_ascii_case("nan") => Ok(&[]),
        Some(other) => Err(skip("a list was due", format!("`{key}` is {}", kind_of(other)))),
    }
}

fn numbers(event: &Map<String, Value>, key: &str) -> Result<Vec<Option<f64>>, Skip> {
    Ok(list(event, key)?.iter().map(number).collect())
}

fn integers(event: &Map<String, Value>, key: &str) -> Result<Vec<i64>, Skip> {
    let values = list(event, key)?.iter();
    values.map(|value| number(value).map(|number| number as i64).ok_or_else(|| not_all(key, "numbers"))).collect()
}

fn texts(event: &Map<String, Value>, key: &str) -> Result<Vec<String>, Skip> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        _ => Err(not_all(key, "texts")),
    };
    list(event, key)?.iter().map(text).collect()
}

fn not_all(key: &str, what: &str) -> Skip {
    skip("a list of something else", format!("not all of `{key}` are {what}"))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn keys(event: &Map<String, Value>) -> String {
    let keys: Vec<_> = event.keys().take(5).map(String::as_str).collect();
    format!("found {} keys: {}", event.len(), keys.join(" "))
}

fn skip(reason: &'static str, place: String) -> Skip {
    Skip { reason, place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_long_row_is_a_step() {
        let event = event(
            r#"{"name": "followup1", "prompt": "p", "uids": [3, 7], "completions": ["a", ""], "rewards": [0.5, null],
                "block": 12.0, "best": "a", "dpo_reward_model": [0.25, "NaN"], "set_weights": null}"#,
        );
        let rows = read(&event, "r", 1.5, 0).unwrap();
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.kind(), row.round(), row.timestamp, row.block), ("followup", Some(1), 1_500_000, Some(12)));
        assert_eq!(row.rewards, [Some(0.5), None]);
        let dpo = Column { name: "dpo_reward_model", raw: vec![Some(0.25), None], normalized: vec![] };
        assert_eq!(row.columns, [dpo]);
    }

    #[test]
    fn a_wide_row_is_a_followup_and_its_answer() {
        let rows = read(
            &event(
                r#"{"base_prompt": "b", "best_followup": "q", "followup_uids": [1], "followup_completions": ["q"],
                "followup_rewards": [1], "answer_prompt": "b q", "best_answer": "a", "answer_uids": [2],
                "answer_completions": ["a"], "answer_rewards": [0.5], "all_completions": ["q", "a"]}"#,
            ),
            "r",
            0.0,
            9,
        )
        .unwrap();
        let [followup, answer] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((followup.name.as_str(), answer.name.as_str()), ("followup0", "answer0"));
        assert_eq!((followup.forward, &followup.context), (Some(9), &answer.context));
        assert_eq!((answer.prompt.as_str(), answer.best.as_deref()), ("b q", Some("a")));
    }

    #[test]
    fn what_is_no_step_is_skipped_with_a_reason() {
        for (json, expected) in [
            (r#"{"neuron_weights": [1, 2]}"#, "a checkpoint, not a step"),
            (r#"{"prompt": "p"}"#, "an event without a name"),
            (r#"{"name": "augment"}"#, "an event without a prompt"),
            (r#"{"name": "augment", "prompt": "p", "uids": [1], "completions": []}"#, "lists of different lengths"),
            (r#"{"name": "augment", "prompt": "p", "uids": 1}"#, "a list was due"),
            (r#"{"name": "augment", "prompt": "p", "uids": ["x"]}"#, "a list of something else"),
        ] {
            assert_eq!(read(&event(json), "r", 0.0, 0).unwrap_err().reason, expected, "{json}");
        }
        assert_eq!(read(&event("{}"), "r", f64::NAN, 0).unwrap_err().reason, "no time");
    }
}
