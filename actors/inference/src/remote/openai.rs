//! vLLM: <https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html>, and who speaks as it does.
//!
//! Rows are tokenised here and sent as token ids, so windows, limits and what special tokens mean are this program's. What
//! comes back is tied to the ids: each log-probability carries the id it is of.
//!
//! Log-probabilities are those of the plain logits. The repetition penalty of openvalidators 1.2.0 changes the logits of
//! all earlier tokens at every position, which no such server tells; only a penalty of 1 can be asked here.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use openvalidators_messages::inference::Pooling;
use serde::{Deserialize, Serialize};

use super::{
    protocol::{Demand, Identity, Numbers, Protocol, Question, Sent, believed, the_one},
    server::{Fault, Server},
};

/// A log-probability above this is none.
const GREATEST_LOG_PROBABILITY: f32 = 1e-3;

/// Asks vLLM.
pub(super) struct OpenAi {
    /// What the operator says the model is called; else the only one.
    pub(super) served_name: Option<String>,
}

/// `GET /v1/models`: the part that matters.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

/// `GET /version`, which vLLM has.
#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    owned_by: Option<String>,
    root: Option<String>,
    max_model_len: Option<usize>,
}

#[derive(Serialize)]
struct CompletionBody<'a> {
    model: &'a str,
    prompt: Vec<&'a [u32]>,
    max_tokens: usize,
    temperature: f32,
    // A model's folder may hold other defaults, which a server takes.
    top_p: f32,
    repetition_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    add_special_tokens: bool,
    skip_special_tokens: bool,
    return_token_ids: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<usize>,
}

#[derive(Deserialize)]
struct Completions {
    choices: Vec<Completion>,
}

#[derive(Deserialize)]
struct Completion {
    index: usize,
    /// The new tokens.
    token_ids: Option<Vec<u32>>,
    /// For each token of the row, by id; none for the first.
    prompt_logprobs: Option<Vec<Option<HashMap<String, TokenLogProbability>>>>,
}

#[derive(Deserialize)]
struct TokenLogProbability {
    logprob: Option<f64>,
}

#[derive(Serialize)]
struct PoolingBody<'a> {
    model: &'a str,
    input: Vec<&'a [u32]>,
    /// No softmax, no sigmoid, no scaling to length 1.
    use_activation: bool,
}

#[derive(Deserialize)]
struct Data<T> {
    data: Vec<T>,
}

#[derive(Deserialize)]
struct Embedding {
    index: usize,
    embedding: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct Classification {
    index: usize,
    /// Logits, where no activation is used.
    probs: Vec<Option<f64>>,
}

#[async_trait]
impl Protocol for OpenAi {
    fn takes_ids(&self) -> bool {
        true
    }

    async fn introduce(&self, server: &Server) -> Result<Identity, Fault> {
        let Models { data } = server.get("v1/models").await?;
        let names = || data.iter().map(|model| format!("`{}`", model.id)).collect::<Vec<_>>().join(", ");
        let found = match &self.served_name {
            Some(name) => data.iter().find(|model| model.id == *name),
            None if data.len() == 1 => data.first(),
            None => None,
        };
        let Some(Model { id, owned_by, root, max_model_len }) = found else {
            let wanted = self.served_name.as_deref().unwrap_or("a single model, or one named by `served_name`");
            return Err(Fault::server(format!(" serves {}; wanted {wanted}", names())));
        };
        let Some(max_tokens) = *max_model_len else {
            return Err(Fault::server("/v1/models: it does not say how long rows may be (`max_model_len`)"));
        };
        let fact = |name: &str, value: &Option<String>| Some((name.to_owned(), value.clone()?));
        let version = server.get::<Version>("version").await.ok().map(|said| said.version);
        let model = Some(id.clone());
        let facts = [fact("engine", owned_by), fact("version", &version), fact("model", &model), fact("root", root)];
        Ok(Identity {
            served_name: id.clone(),
            max_tokens,
            max_rows: None,
            nature: None,
            labels: Vec::new(),
            width: None,
            facts: facts.into_iter().flatten().collect(),
        })
    }

    fn objection(&self, _: &Identity, demand: Demand) -> Option<String> {
        match demand {
            Demand::LogProb { repetition_penalty } if repetition_penalty != 1.0 => Some(format!(
                "a repetition penalty of {repetition_penalty} changes logits that no server tells; ask for 1, or leave the \
                 model on this machine"
            )),
            Demand::Embed(Pooling::LastToken) => Some(
                "states of last tokens were never compared with such a server's: leave the model on this machine"
                    .to_owned(),
            ),
            _ => None,
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
                let body = pooling(identity, rows, false);
                let Data { data } = server.post::<Data<Embedding>>("v1/embeddings", &body).await?;
                in_order(data.into_iter().map(|row| (row.index, believed(row.embedding))).collect())
            }
            Question::Logits => judged(server, &pooling(identity, rows, false)).await,
            Question::TokenLogProbabilities => {
                let body = completion(&identity.served_name, ids(rows), 1, Some(0));
                let Completions { choices } = server.post("v1/completions", &body).await?;
                let choices = choices.into_iter().map(|choice| (choice.index, choice.prompt_logprobs)).collect();
                let said = in_order(choices)?.into_iter().zip(&body.prompt);
                said.map(|(said, ids)| log_probabilities(said, ids)).collect()
            }
        }
    }

    /// A server that does not know `use_activation` would answer probabilities where logits are wanted.
    async fn probe(
        &self,
        server: &Server,
        identity: &Identity,
        question: Question,
        row: Sent,
    ) -> Result<Arc<[f32]>, Fault> {
        let rows = [row];
        let plain = the_one(self.numbers(server, identity, question, &rows).await?)?;
        if question == Question::Logits && the_one(judged(server, &pooling(identity, &rows, true)).await?)? == plain {
            return Err(Fault::server("/classify: it has no logits, only probabilities: it ignores `use_activation`"));
        }
        Ok(plain)
    }

    async fn continuations(
        &self,
        server: &Server,
        identity: &Identity,
        most: usize,
        rows: &[Sent],
    ) -> Result<Vec<Option<Vec<u32>>>, Fault> {
        let body = completion(&identity.served_name, ids(rows), most, None);
        let Completions { choices } = server.post("v1/completions", &body).await?;
        let tokens = |choice: Completion| match choice.token_ids {
            Some(ids) if ids.len() <= most => Ok((choice.index, Some(ids))),
            Some(ids) => Err(Fault::server(format!("/v1/completions: {} tokens, {most} were asked for", ids.len()))),
            None => Err(Fault::server("/v1/completions: no `token_ids`; vLLM has them from 0.10.2 on")),
        };
        in_order(choices.into_iter().map(tokens).collect::<Result<_, _>>()?)
    }
}

fn pooling<'a>(identity: &'a Identity, rows: &'a [Sent], use_activation: bool) -> PoolingBody<'a> {
    PoolingBody { model: &identity.served_name, input: ids(rows), use_activation }
}

async fn judged(server: &Server, body: &PoolingBody<'_>) -> Result<Vec<Numbers>, Fault> {
    let Data { data } = server.post::<Data<Classification>>("classify", body).await?;
    in_order(data.into_iter().map(|row| (row.index, believed(row.probs))).collect())
}

fn completion<'a>(
    model: &'a str,
    prompt: Vec<&'a [u32]>,
    new: usize,
    prompt_logprobs: Option<usize>,
) -> CompletionBody<'a> {
    CompletionBody {
        model,
        prompt,
        max_tokens: new,
        temperature: 0.0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        add_special_tokens: false,
        skip_special_tokens: false,
        return_token_ids: true,
        prompt_logprobs,
    }
}

fn ids(rows: &[Sent]) -> Vec<&[u32]> {
    rows.iter().map(Sent::ids).collect()
}

/// Answers say which row they are of; each row must have one.
fn in_order<T>(mut answers: Vec<(usize, T)>) -> Result<Vec<T>, Fault> {
    answers.sort_by_key(|(index, _)| *index);
    if answers.iter().enumerate().any(|(place, (index, _))| place != *index) {
        return Err(Fault::server(": answers of rows that were not asked for, or two of one"));
    }
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// What is said of each of `ids` but the first.
fn log_probabilities(
    said: Option<Vec<Option<HashMap<String, TokenLogProbability>>>>,
    ids: &[u32],
) -> Result<Numbers, Fault> {
    let Some(said) = said else { return Err(Fault::server("/v1/completions: no `prompt_logprobs`")) };
    if said.len() != ids.len() {
        return Err(Fault::server(format!(
            "/v1/completions: {} `prompt_logprobs` of {} tokens",
            said.len(),
            ids.len()
        )));
    }
    let mut numbers = Vec::with_capacity(ids.len());
    for (said, id) in said.iter().zip(ids).skip(1) {
        let Some(said) = said.as_ref().and_then(|said| said.get(&id.to_string())) else {
            return Err(Fault::server(format!("/v1/completions: no log-probability of token {id}, which was sent")));
        };
        numbers.push(said.logprob);
    }
    let numbers: Numbers = believed(numbers);
    if let Some(positive) = numbers.iter().flat_map(|numbers| numbers.iter()).find(|&&n| n > GREATEST_LOG_PROBABILITY) {
        return Err(Fault::server(format!(
            "/v1/completions: {positive} is no log-probability; is it started with `--logprobs-mode`?"
        )));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(said: serde_json::Value, ids: &[u32]) -> Result<Numbers, String> {
        log_probabilities(serde_json::from_value(said).unwrap(), ids).map_err(|fault| format!("{fault:?}"))
    }

    #[test]
    fn a_log_probability_is_of_the_token_that_was_sent() {
        let said = json!([null, {"7": {"logprob": -1.5, "rank": 9}, "3": {"logprob": -0.1, "rank": 1}}, {"8": {"logprob": 0.0}}]);
        assert_eq!(told(said.clone(), &[5, 7, 8]).unwrap().unwrap().to_vec(), [-1.5, 0.0]);
        assert!(told(said.clone(), &[5, 7, 9]).unwrap_err().contains("token 9"));
        assert!(told(said, &[5, 7]).unwrap_err().contains("3 `prompt_logprobs` of 2 tokens"));
        assert!(told(json!(null), &[5]).unwrap_err().contains("no `prompt_logprobs`"));
        assert_eq!(
            told(json!([null, {"7": {"logprob": null}}]), &[5, 7]),
            Ok(None),
            "no number, and no fault of the rest"
        );
        let logits = told(json!([null, {"7": {"logprob": 3.5}}]), &[5, 7]).unwrap_err();
        assert!(logits.contains("3.5 is no log-probability") && logits.contains("--logprobs-mode"), "{logits}");
    }

    #[test]
    fn answers_are_put_in_the_order_of_the_rows() {
        assert_eq!(in_order(vec![(1, 'b'), (0, 'a')]), Ok(vec!['a', 'b']));
        assert!(in_order(vec![(0, 'a'), (0, 'b')]).is_err() && in_order(vec![(1, 'b')]).is_err());
    }
}
