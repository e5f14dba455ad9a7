//! A model that is on this machine too shows whether servers compute the same: other weights, another pooling or
//! probabilities for logits are found before the first step, not in its record.

use std::sync::Arc;

use openvalidators_messages::inference::{
    Classify, Composed, Embed, InferenceError, Input, LogProb, LogProbability, Logits, ModelName, Row,
};

use super::{model::RemoteModel, protocol::Demand};
use crate::engine::Engine;

/// How far numbers may be [`apart`]: more than f16 and bf16 make of them, less than another model does.
const TOLERANCE: f32 = 0.05;

const PROMPT: &str = "Question: What is the capital of Texas?\nAnswer:";

const SAMPLES: [&str; 3] = [
    " The capital of Texas is Austin.",
    " It rained all night, and in the morning the river stood in the street.",
    " 1, 2, 3: no idea!",
];

/// What both say, in numbers.
type Said = Result<Vec<f32>, InferenceError>;

/// Whether the servers of a model say what it says on this machine. Servers that do not answer say nothing.
///
/// # Errors
/// When they say something else, or the model here says nothing.
pub(super) async fn compare(
    model: &ModelName,
    demand: Demand,
    local: &dyn Engine,
    remote: &RemoteModel,
) -> Result<(), String> {
    let texts: Vec<Arc<str>> = SAMPLES.map(Arc::from).to_vec();
    let (here, there): (Said, Said) = match demand {
        Demand::Embed(pooling) => {
            let ask = Embed { model: model.clone(), texts, pooling };
            let here = local.embed(ask.clone()).await;
            (here.map(flat), remote.embed(ask).await.map(flat))
        }
        Demand::LogProb { repetition_penalty } => {
            let ask = LogProb { model: model.clone(), prompt: PROMPT.into(), completions: texts, repetition_penalty };
            let mean =
                |rows: Vec<Row<LogProbability>>| rows.into_iter().flatten().filter_map(|said| said.mean).collect();
            let here = local.log_prob(ask.clone()).await;
            (here.map(mean), remote.log_prob(ask).await.map(mean))
        }
        Demand::Classify { overflow, pairs } => {
            let text = |text: Arc<str>| Composed::from(text);
            let input = |sample| match pairs {
                true => Input::Pair(text(PROMPT.into()), text(sample)),
                false => Input::Text(text(sample)),
            };
            let ask = Classify { model: model.clone(), inputs: texts.into_iter().map(input).collect(), overflow };
            let logits = |rows: Vec<Row<Logits>>| flat(rows.into_iter().flatten().flatten().map(Ok));
            let here = local.classify(ask.clone()).await;
            (here.map(logits), remote.classify(ask).await.map(logits))
        }
        // Where two words are nearly as probable, any rounding says which is taken.
        Demand::Generate => return Ok(()),
    };
    let here = here.map_err(|error| format!("on this machine: {error}"))?;
    let there = match there {
        Ok(there) => there,
        Err(error) => {
            tracing::warn!(%model, %error, "servers could not be compared with the model on this machine");
            return Ok(());
        }
    };
    let apart = apart(&here, &there);
    tracing::info!(%model, asked = demand.asked(), apart, "servers and this machine compared");
    if here.len() == there.len() && apart <= TOLERANCE {
        return Ok(());
    }
    Err(format!(
        "the servers say other numbers than the model on this machine ({}, {} and {} of them, {apart} apart): are \
         weights, pooling and activation the same?",
        demand.asked(),
        there.len(),
        here.len(),
    ))
}

/// The length of the difference, as a part of the length of `here`; of 1, where that is shorter.
fn apart(here: &[f32], there: &[f32]) -> f32 {
    let length = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|number| number * number).sum::<f32>().sqrt();
    let difference = length(&mut here.iter().zip(there).map(|(here, there)| here - there));
    difference / length(&mut here.iter().copied()).max(1.0)
}

/// Rows one behind the other.
fn flat(rows: impl IntoIterator<Item = Row<Arc<[f32]>>>) -> Vec<f32> {
    rows.into_iter().flatten().flat_map(|row| row.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No number of a row of length 1 is far from any other: the row as a whole is.
    #[test]
    fn another_direction_is_far_and_a_rounding_is_near() {
        let row: Vec<f32> = (0..768).map(|n| if n % 3 == 0 { 0.036 } else { -0.036 }).collect();
        let rounded: Vec<f32> = row.iter().map(|number| number * 1.004).collect();
        let other: Vec<f32> = row.iter().rev().copied().collect();
        assert!(apart(&row, &rounded) < TOLERANCE && apart(&row, &other) > 1.0);
        assert!(apart(&[0.01], &[0.02]) < TOLERANCE && apart(&[4.0], &[4.5]) > TOLERANCE);
    }
}
