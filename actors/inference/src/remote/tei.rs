//! text-embeddings-inference: <https://huggingface.github.io/text-embeddings-inference>.
//!
//! Texts are tokenised there: token ids would be turned back into text and tokenised anew. So a text is sent only where
//! both tokenise alike: the same limit, a single window; special tokens that a miner spells are pulled apart
//! ([`defused`]). `/predict` serves pairs as well, with the numbers of `/rerank`, which is not asked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use openvalidators_messages::inference::{Composed, Overflow, Part, Pooling};
use serde::{Deserialize, Serialize};

use super::{
    protocol::{Demand, Identity, Numbers, Protocol, Question, Sent, believed},
    server::{Fault, Server},
};
use crate::tokenizer::TextTokenizer;

/// Asks text-embeddings-inference.
pub(super) struct Tei {
    /// What the operator says the model must be called.
    pub(super) served_name: Option<String>,
}

/// `GET /info`: the part that matters.
#[derive(Deserialize)]
struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_dtype: Option<String>,
    model_type: ModelType,
    max_input_length: usize,
    max_client_batch_size: usize,
    version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelType {
    Embedding {
        pooling: String,
    },
    Classifier {
        id2label: BTreeMap<String, String>,
    },
    /// A classifier of a single label.
    Reranker {
        id2label: BTreeMap<String, String>,
    },
}

#[derive(Serialize)]
struct EmbedBody<'a> {
    inputs: Vec<&'a str>,
    normalize: bool,
    truncate: bool,
}

#[derive(Serialize)]
struct PredictBody<'a> {
    /// Each a text, or two.
    inputs: Vec<Vec<&'a str>>,
    raw_scores: bool,
    truncate: bool,
}

#[derive(Deserialize)]
struct Prediction {
    score: Option<f64>,
    label: String,
}

#[async_trait]
impl Protocol for Tei {
    fn takes_ids(&self) -> bool {
        false
    }

    async fn introduce(&self, server: &Server) -> Result<Identity, Fault> {
        let Info { model_id, model_sha, model_dtype, model_type, max_input_length, max_client_batch_size, version } =
            server.get("info").await?;
        if self.served_name.as_ref().is_some_and(|wanted| *wanted != model_id) {
            let wanted = self.served_name.as_deref().unwrap_or_default();
            return Err(Fault::server(format!(" serves `{model_id}`, not `{wanted}` (`served_name`)")));
        }
        let (nature, labels) = match model_type {
            ModelType::Embedding { pooling } => (format!("embedding, pooling {pooling}"), Vec::new()),
            ModelType::Classifier { id2label } | ModelType::Reranker { id2label } => {
                let place = |(id, label): (String, String)| Some((id.parse::<usize>().ok()?, label));
                let mut labels: Vec<_> = id2label.into_iter().filter_map(place).collect();
                labels.sort();
                ("classifier".to_owned(), labels.into_iter().map(|(_, label)| label).collect())
            }
        };
        let fact = |name: &str, value: Option<String>| value.map(|value| (name.to_owned(), value));
        let facts = [
            Some(("engine".to_owned(), "text-embeddings-inference".to_owned())),
            fact("version", version),
            fact("model", Some(model_id.clone())),
            fact("model sha", model_sha),
            fact("dtype", model_dtype),
            fact("type", Some(nature.clone())),
        ];
        Ok(Identity {
            served_name: model_id,
            max_tokens: max_input_length,
            max_rows: Some(max_client_batch_size),
            nature: Some(nature),
            labels,
            width: None,
            facts: facts.into_iter().flatten().collect(),
        })
    }

    fn objection(&self, identity: &Identity, demand: Demand) -> Option<String> {
        let nature = identity.nature.as_deref().unwrap_or_default();
        let windows = "it cuts long texts and has no windows".to_owned();
        match demand {
            Demand::LogProb { .. } | Demand::Generate => {
                Some("text-embeddings-inference serves encoders and classifiers".to_owned())
            }
            Demand::Embed(_) if nature != "embedding, pooling mean" => {
                Some(format!("it is a model of type `{nature}`, wanted `embedding, pooling mean` (`--pooling mean`)"))
            }
            Demand::Classify { .. } if nature != "classifier" => {
                Some(format!("it is a model of type `{nature}`, wanted a classifier"))
            }
            Demand::Classify { .. } if identity.labels.is_empty() => Some("it names no label".to_owned()),
            Demand::Embed(Pooling::MeanOfWindows) => Some(windows),
            Demand::Embed(Pooling::LastToken) => Some("it was asked to pool by the mean".to_owned()),
            Demand::Classify { overflow: Overflow::Windows | Overflow::BareWindows, .. } => Some(windows),
            Demand::Embed(Pooling::Mean | Pooling::MeanNormalised) => None,
            Demand::Classify { overflow: Overflow::Cut | Overflow::Whole, .. } => None,
        }
    }

    async fn numbers(
        &self,
        server: &Server,
        identity: &Identity,
        question: Question,
        rows: &[Sent],
    ) -> Result<Vec<Numbers>, Fault> {
        match question {
            Question::Embedding => {
                let inputs = rows.iter().flat_map(Sent::texts).collect();
                let body = EmbedBody { inputs, normalize: false, truncate: true };
                let answers: Vec<Vec<Option<f64>>> = server.post("embed", &body).await?;
                Ok(answers.into_iter().map(believed).collect())
            }
            Question::Logits => {
                let inputs = rows.iter().map(Sent::texts).collect();
                let body = PredictBody { inputs, raw_scores: true, truncate: true };
                let answers: Vec<Vec<Prediction>> = server.post("predict", &body).await?;
                answers.into_iter().map(|answer| in_order(answer, &identity.labels)).collect()
            }
            Question::TokenLogProbabilities => Err(Fault::server(": no log-probabilities")),
        }
    }

    async fn continuations(
        &self,
        _: &Server,
        _: &Identity,
        _: usize,
        _: &[Sent],
    ) -> Result<Vec<Option<Vec<u32>>>, Fault> {
        Err(Fault::server(": no generation"))
    }
}

/// Predictions come greatest first; these are the logits in the order of the labels.
fn in_order(predictions: Vec<Prediction>, labels: &[String]) -> Result<Numbers, Fault> {
    let wrong = || Fault::server(format!("/predict: other labels than {}", labels.join(", ")));
    let mut scores: BTreeMap<String, Option<f64>> =
        predictions.iter().map(|prediction| (prediction.label.clone(), prediction.score)).collect();
    let ordered: Option<Vec<_>> = labels.iter().map(|label| scores.remove(label)).collect();
    match ordered {
        Some(ordered) if predictions.len() == labels.len() => Ok(believed(ordered)),
        _ => Err(wrong()),
    }
}

/// `text` as it is sent: a special token that others spell gets a space behind its first letter, since the server would
/// read it as a token. Where the tokenizer parts such letters anyhow (BERT's does), nothing is changed by that.
pub(super) fn defused(text: &Composed, tokenizer: &TextTokenizer) -> String {
    let (mut whole, mut ours) = (String::new(), Vec::new());
    for part in &text.0 {
        let start = whole.len();
        let (Part::Ours(spelled) | Part::Theirs(spelled)) = part;
        whole.push_str(spelled);
        if matches!(part, Part::Ours(_)) || tokenizer.interprets() {
            ours.push(start..whole.len());
        }
    }
    let special = tokenizer.special_in(&whole, 0..whole.len());
    for (at, _) in special.into_iter().rev() {
        if !ours.iter().any(|part| part.start <= at.start && at.end <= part.end) {
            let first = whole[at.start..].chars().next().map_or(0, char::len_utf8);
            whole.insert(at.start + first, ' ');
        }
    }
    whole
}
