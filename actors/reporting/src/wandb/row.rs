//! What a row says: the columns of openvalidators 1.2.0 by its names (`openvalidators/event.py`), then ours.

use openvalidators_messages::{Metagraph, ledger::StoredStep, weights::ScoreTable};
use serde_json::{Map, Value, json};

use super::{config::Redact, record::Item};
use crate::event;

/// The reference's columns of a step. All of them are in every row, `null` where there is nothing, as there.
const STEP_COLUMNS: [&str; 30] = [
    "completions",
    "completion_times",
    "name",
    "block",
    "gating_loss",
    "uids",
    "prompt",
    "step_length",
    "best",
    "rewards",
    "dahoas_reward_model",
    "blacklist_filter",
    "nsfw_filter",
    "reciprocate_reward_model",
    "diversity_reward_model",
    "dpo_reward_model",
    "rlhf_reward_model",
    "prompt_reward_model",
    "relevance_filter",
    "task_validator_filter",
    "dahoas_reward_model_normalized",
    "nsfw_filter_normalized",
    "reciprocate_reward_model_normalized",
    "diversity_reward_model_normalized",
    "dpo_reward_model_normalized",
    "rlhf_reward_model_normalized",
    "prompt_reward_model_normalized",
    "relevance_filter_normalized",
    "task_validator_filter_normalized",
    "set_weights",
];
/// The place of the step in its forward. Called otherwise than in the event log: the reference's rows of scores have a `step`,
/// which counts forwards.
const FORWARD_STEP: &str = "forward_step";
/// By which a row is found again in the ledger.
const SEQUENCE: &str = "sequence";

/// What the operator lets out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// The columns of reward functions and filters.
    pub log_rewards: bool,
    /// Texts left out.
    pub redact: Redact,
}

/// A row of a step, without `_step`, `_timestamp` and `_runtime`.
///
/// # Errors
/// When the step cannot be written as JSON, which no step of a ledger is.
pub(super) fn of_step(step: &StoredStep, columns: Columns) -> Result<Vec<Item>, serde_json::Error> {
    let mut event = event::values(step, columns.log_rewards)?;
    if let Some(index) = event.remove("step") {
        event.insert(FORWARD_STEP.to_owned(), index);
    }
    if columns.redact != Redact::None {
        event.insert("prompt".to_owned(), Value::Null);
    }
    if columns.redact == Redact::Texts {
        for name in ["completions", "best"] {
            event.insert(name.to_owned(), Value::Null);
        }
    }
    let reference =
        STEP_COLUMNS.iter().map(|name| Item::new(*name, event.remove(*name).unwrap_or_default().to_string()));
    let mut row: Vec<Item> = reference.collect();
    row.extend(items(event));
    Ok(row)
}

/// A row of scores: the reference's at each checkpoint. Scores are in the order of the uids, 0 for a hotkey without one.
pub(super) fn of_scores(
    forward: u64,
    metagraph: &Metagraph,
    scores: &ScoreTable,
    block_seconds: Option<f64>,
) -> Vec<Item> {
    let score = |hotkey| scores.rows.iter().find(|row| row.hotkey == hotkey).map_or(0.0, |row| row.score);
    let weights: Vec<f64> = metagraph.neurons.iter().map(|neuron| score(neuron.hotkey)).collect();
    let hotkeys: Vec<_> = metagraph.neurons.iter().map(|neuron| neuron.hotkey).collect();
    let row = json!({
        "step": forward,
        "block": metagraph.block,
        "neuron_weights": weights,
        "neuron_hotkeys": hotkeys,
        "block_seconds": block_seconds,
    });
    let Value::Object(row) = row else { return Vec::new() };
    items(row).collect()
}

/// The place in the ledger of a row, if it is one of a step.
pub(super) fn sequence_of(row: &[Item]) -> Option<u64> {
    row.iter().find(|item| item.name() == SEQUENCE)?.value_json.parse().ok()
}

fn items(values: Map<String, Value>) -> impl Iterator<Item = Item> {
    values.into_iter().map(|(name, value)| Item::new(name, value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::step;

    fn row(redact: Redact, log_rewards: bool) -> Map<String, Value> {
        let items = of_step(&step(20), Columns { log_rewards, redact }).unwrap();
        let value = |item: &Item| serde_json::from_str(&item.value_json).unwrap();
        items.iter().map(|item| (item.key.clone(), value(item))).collect()
    }

    #[test]
    fn a_row_has_every_column_of_the_reference_and_the_forward() {
        let row = row(Redact::None, true);
        for name in STEP_COLUMNS {
            assert!(row.contains_key(name), "{name}");
        }
        assert_eq!(row["name"], "followup1");
        assert_eq!(row["block"], 1_234_567);
        assert_eq!(row["uids"], json!([3, 7]));
        assert_eq!(row["completions"], json!([" a vowel\n", ""]));
        assert_eq!(row["completion_times"], json!([0.5, 10.0]));
        assert_eq!(row["rewards"][0].as_f64().map(|reward| reward as f32), Some(0.4));
        assert_eq!(row["dpo_reward_model"], json!([-1.5, null]));
        assert_eq!(row["dpo_reward_model_normalized"], json!([0.5, 0.0]));
        assert_eq!(row["blacklist_filter"], json!([1.0, 0.0]));
        assert_eq!((&row["gating_loss"], &row["step_length"]), (&json!(0.125), &json!(3.25)));
        assert_eq!((&row["nsfw_filter"], &row["set_weights"]), (&Value::Null, &Value::Null));
        assert_eq!((&row["forward"], &row["forward_step"], &row["sequence"]), (&json!(2), &json!(2), &json!(20)));
        assert!(!row.contains_key("step"), "that is a column of the rows of scores");
    }

    #[test]
    fn what_is_redacted_is_in_no_row() {
        let without_prompts = row(Redact::Prompts, true);
        assert_eq!((&without_prompts["prompt"], &without_prompts["best"]), (&Value::Null, &json!("a vowel")));
        let without_texts = Value::Object(row(Redact::Texts, true)).to_string();
        assert!(!without_texts.contains("vowel") && !without_texts.contains("What is"), "{without_texts}");
        let without_rewards = row(Redact::None, false);
        assert_eq!(without_rewards["dpo_reward_model"], Value::Null);
        assert_ne!(without_rewards["rewards"], Value::Null);
    }
}
