//! One model that servers elsewhere compute: texts are prepared here as the model on this machine would have them, answers
//! are believed where they can be.

use std::{path::Path, sync::Arc};

use openvalidators_messages::inference::{
    Classify, Composed, Embed, Generate, Generated, InferenceError, Input, LogProb, LogProbability, Logits, ModelName,
    Overflow, Row, RowFailed,
};
use openvalidators_runtime::{SharedClock, within};
use serde::Deserialize;

use super::{
    config::{RemoteConfig, RemoteKind},
    metrics::RemoteMetrics,
    openai::OpenAi,
    protocol::{Demand, Identity, Numbers, Protocol, Question, Sent},
    replicas::{Parts, Replicas},
    server::{Fault, Server},
    tei::{Tei, defused},
};
use crate::{
    batching::Distinct,
    config::Config,
    embedding::pooled,
    engine::{Kind, Served},
    scoring::{ScoredRow, mean},
    tokenizer::{Rules, TextTokenizer, Tokens},
};

/// No embedding and no head is wider.
const MOST_NUMBERS: usize = 1 << 16;

/// Networks that read a row from left to right. Which token their reward heads read, this program takes from the reference
/// ([`Reads`](crate::models::Reads)); servers read the last.
const CAUSAL: [&str; 7] = ["btlm", "gpt2", "gpt_neo", "gptj", "jais", "llama", "mistral"];

/// What a server is asked about before it is believed.
pub(super) const PROBE: &str = "The capital of Texas is Austin.";

/// A model, and the servers that compute it.
pub(super) struct RemoteModel {
    replicas: Replicas,
    protocol: Arc<dyn Protocol>,
    served: Arc<Served>,
    kind: Kind,
    pub(super) falls_back: bool,
}

/// What the servers of a model must be to be believed.
pub(super) struct Fit {
    protocol: Arc<dyn Protocol>,
    served: Arc<Served>,
    demands: Vec<Demand>,
    causal: bool,
}

/// The part of `config.json` that says how long rows may be.
#[derive(Default, Deserialize)]
struct Stated {
    model_type: Option<String>,
    max_position_embeddings: Option<usize>,
    /// What GPT-2 and its kin call them.
    n_positions: Option<usize>,
    pad_token_id: Option<usize>,
}

// === impl RemoteModel ===

impl RemoteModel {
    /// Asks every server what it is. `folder` has the model's tokenizer.
    ///
    /// # Errors
    /// When a server answers that cannot serve what will be asked, or none answers and the model is not here.
    pub(super) async fn start(
        name: &ModelName,
        config: &RemoteConfig,
        demands: Vec<Demand>,
        folder: &Path,
        (settings, metrics, clock): (&Config, RemoteMetrics, SharedClock),
    ) -> Result<Self, String> {
        let kind = kind_of(&demands)?;
        let protocol: Arc<dyn Protocol> = match config.kind {
            RemoteKind::Tei => Arc::new(Tei { served_name: config.served_name.clone() }),
            RemoteKind::Openai => Arc::new(OpenAi { served_name: config.served_name.clone() }),
        };
        let servers = Server::all(config, |name| std::env::var(name).ok())?;
        let (served, causal) = served(name, kind, folder, settings)?;
        let fit = Fit { protocol: protocol.clone(), served: served.clone(), demands, causal };
        let limit = config.limits.attempt();
        let introductions = servers.iter().map(|server| within(&*clock, limit, protocol.introduce(server)));
        let mut expected: Option<Identity> = None;
        let (mut silent, mut introduced) = (Vec::new(), vec![None; servers.len()]);
        for (place, (server, said)) in servers.iter().zip(futures::future::join_all(introductions).await).enumerate() {
            let address = server.address();
            match said {
                Ok(Ok(identity)) => {
                    let checked = within(&*clock, limit, fit.check(server, identity)).await;
                    let checked = checked.map_err(|late| late.to_string()).and_then(|checked| checked);
                    let identity = checked.map_err(|reason| format!("{address}: {reason}"))?;
                    tracing::info!(model = %name, server = address, %identity, "a server computes this model");
                    match &expected {
                        Some(first) if *first != identity => {
                            return Err(format!("{address} is [{identity}], while the first is [{first}]"));
                        }
                        _ => expected = Some(identity.clone()),
                    }
                    introduced[place] = Some(Arc::new(identity));
                }
                Ok(Err(Fault::Server { reason, .. } | Fault::Rows(reason))) => {
                    silent.push(format!("{address}{reason}"))
                }
                Err(late) => silent.push(format!("{address}: {late}")),
            }
        }
        let silent = silent.join("; ");
        if expected.is_none() && !config.fall_back_to_local {
            return Err(format!("no server answers: {silent}"));
        }
        if !silent.is_empty() {
            tracing::warn!(model = %name, silent, "servers do not answer yet");
        }
        let replicas = Replicas::new(Parts {
            model: name.clone(),
            protocol: protocol.clone(),
            servers,
            limits: config.limits.clone(),
            patient: !config.fall_back_to_local,
            fit,
            introduced,
            metrics,
            clock,
        });
        Ok(Self { replicas, protocol, served, kind, falls_back: config.fall_back_to_local })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What the servers say of themselves, for records.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let servers = self.replicas.addresses().map(|address| ("server".to_owned(), address.to_owned()));
        let said = self.replicas.identity().map(|identity| identity.facts.clone()).unwrap_or_default();
        servers.chain(said).collect()
    }

    /// As [`Engine::embed`](crate::Engine::embed).
    pub(super) async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        let Embed { texts, pooling, .. } = request;
        self.check(Demand::Embed(pooling))?;
        let ids = self.protocol.takes_ids();
        let rows = self.served.tokenise(move |served| {
            let sent = |text: &Arc<str>| {
                let windows = served.embedded_rows(text, pooling)?;
                if ids {
                    return Ok(windows.into_iter().map(|window| Sent::Ids(window.to_vec())).collect());
                }
                Ok(vec![Sent::Text(defused(&text.clone().into(), &served.tokenizer))])
            };
            Ok(texts.iter().map(sent).collect())
        });
        let found = self.numbers(Question::Embedding, rows.await?).await?;
        Ok(found.into_iter().map(|windows| Ok(pooled(&windows?, pooling))).collect())
    }

    /// As [`Engine::classify`](crate::Engine::classify).
    pub(super) async fn classify(&self, request: Classify) -> Result<Vec<Row<Logits>>, InferenceError> {
        let Classify { inputs, overflow, .. } = request;
        let pairs = inputs.iter().any(|input| matches!(input, Input::Pair(..)));
        self.check(Demand::Classify { overflow, pairs })?;
        let ids = self.protocol.takes_ids();
        let rows = self.served.tokenise(move |served| {
            let sent = |input: &Input| {
                let windows = served.row(|tokenizer| tokenizer.windows(input, overflow))?;
                if ids {
                    return Ok(windows.into_iter().map(|Tokens { ids, .. }| Sent::Ids(ids)).collect());
                }
                let text = |text: &Composed| defused(text, &served.tokenizer);
                Ok(vec![match input {
                    Input::Pair(first, second) if !second.is_empty() => Sent::Pair(text(first), text(second)),
                    Input::Text(only) | Input::Pair(only, _) => Sent::Text(text(only)),
                }])
            };
            Ok(inputs.iter().map(sent).collect())
        });
        self.numbers(Question::Logits, rows.await?).await
    }

    /// As [`Engine::log_prob`](crate::Engine::log_prob).
    pub(super) async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError> {
        let LogProb { prompt, completions, repetition_penalty, .. } = request;
        self.check(Demand::LogProb { repetition_penalty })?;
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        let scored = self.served.tokenise(move |served| served.scored_rows(&prompt, &completions)).await?;
        // A completion without a token of its own needs no server.
        let sent = |row: ScoredRow| if row.targets().is_empty() { Vec::new() } else { vec![Sent::Ids(row.ids)] };
        let rows = scored.iter().cloned().map(|row| row.map(sent)).collect();
        let found = self.numbers(Question::TokenLogProbabilities, rows).await?;
        let told = |(row, numbers): (Row<ScoredRow>, Row<Logits>)| {
            let (targets, numbers) = (row?.targets(), numbers?);
            // There is none of the first token.
            Ok(mean(numbers.first().and_then(|all| all.get(targets.start - 1..)).unwrap_or_default()))
        };
        Ok(scored.into_iter().zip(found).map(told).collect())
    }

    /// As [`Engine::generate`](crate::Engine::generate).
    pub(super) async fn generate(&self, request: Generate) -> Result<Vec<Row<Generated>>, InferenceError> {
        let Generate { prompts, max_new_tokens, .. } = request;
        self.check(Demand::Generate)?;
        let continued = move |served: &Served| {
            Ok(prompts.iter().map(|prompt| served.continued_row(prompt, max_new_tokens)).collect::<Vec<_>>())
        };
        let asked = self.served.tokenise(continued).await?;
        let rows = asked.iter().cloned().map(|row| row.map(|ids| vec![Sent::Ids(ids)])).collect();
        let protocol = self.protocol.clone();
        let exchange = move |server: Server, identity: Arc<Identity>, rows: Vec<Sent>| {
            let protocol = protocol.clone();
            async move { protocol.continuations(&server, &identity, max_new_tokens, &rows).await }
        };
        let found = self.rows(rows, exchange).await?;
        let told = move |served: &Served| {
            let told = |(prompt, new): (Row<Vec<u32>>, Row<Vec<Vec<u32>>>)| {
                served.generated(prompt?, new?.into_iter().next().unwrap_or_default())
            };
            Ok(asked.into_iter().zip(found).map(told).collect())
        };
        self.served.tokenise(told).await
    }

    /// Whether this can be served, whatever the texts: at the start as many demands were checked as were known.
    fn check(&self, demand: Demand) -> Result<(), InferenceError> {
        let wrong = |reason| InferenceError::WrongModel { model: self.name().clone(), asked: demand.asked(), reason };
        if demand.kind() != self.kind {
            return Err(wrong(format!("it is {}", self.kind)));
        }
        match self.replicas.objection(demand) {
            Some(reason) => Err(wrong(format!("{reason} (`inference.remote.{}`)", self.name()))),
            None => Ok(()),
        }
    }

    /// The numbers of each row's windows.
    async fn numbers(&self, question: Question, rows: Vec<Row<Vec<Sent>>>) -> Result<Vec<Row<Logits>>, InferenceError> {
        let protocol = self.protocol.clone();
        let exchange = move |server: Server, identity: Arc<Identity>, rows: Vec<Sent>| {
            let protocol = protocol.clone();
            async move {
                let numbers = protocol.numbers(&server, &identity, question, &rows).await?;
                of_one_width(&numbers, identity.width)?;
                Ok(numbers)
            }
        };
        self.rows(rows, exchange).await
    }

    /// One answer for each window of each row; windows that are the same are sent once.
    async fn rows<T, Asking>(
        &self,
        rows: Vec<Row<Vec<Sent>>>,
        exchange: impl Fn(Server, Arc<Identity>, Vec<Sent>) -> Asking + Sync,
    ) -> Result<Vec<Row<Vec<T>>>, InferenceError>
    where
        T: Clone + Send,
        Asking: Future<Output = Result<Vec<Option<T>>, Fault>> + Send,
    {
        let distinct = Distinct::of(rows.iter().flatten().flatten().cloned().map(Arc::new));
        let found = match distinct.items.is_empty() {
            true => Vec::new(),
            false => self.replicas.rows(&distinct.items, exchange).await.map_err(|reason| self.failed(reason))?,
        };
        let mut places = distinct.places.iter();
        let mut told = Vec::with_capacity(rows.len());
        for row in rows {
            told.push(match row {
                Ok(windows) => places.by_ref().take(windows.len()).map(|&place| found[place].clone()).collect(),
                Err(failed) => Err(failed),
            });
        }
        match told.first() {
            Some(Err(RowFailed { reason })) if told.iter().all(Result::is_err) => Err(self.failed(reason.to_string())),
            _ => Ok(told),
        }
    }

    fn failed(&self, reason: String) -> InferenceError {
        InferenceError::Device { model: self.name().clone(), reason }
    }

    fn name(&self) -> &ModelName {
        &self.replicas.model
    }
}

// === impl Fit ===

impl Fit {
    /// Whether a server gives the numbers that this program would compute, as far as it says, and answers at all; with how
    /// wide its rows are.
    pub(super) async fn check(&self, server: &Server, mut identity: Identity) -> Result<Identity, String> {
        if let Some(reason) = self.demands.iter().find_map(|demand| self.objection(&identity, *demand)) {
            return Err(format!("{reason}; it is [{identity}]"));
        }
        for demand in &self.demands {
            let row = self.row()?;
            let probed = match demand.question() {
                Some(question) => {
                    let said = self.protocol.probe(server, &identity, question, row).await;
                    said.map(|row| (question != Question::TokenLogProbabilities).then_some(row.len()))
                }
                None => self.protocol.continuations(server, &identity, 1, &[row]).await.map(|_| None),
            };
            identity.width = probed.map_err(|(Fault::Server { reason, .. } | Fault::Rows(reason))| reason)?;
        }
        match identity.width {
            Some(width) if width == 0 || width > MOST_NUMBERS => Err(format!("rows of {width} numbers")),
            _ => Ok(identity),
        }
    }

    /// A row to ask a server about before it is believed.
    fn row(&self) -> Result<Sent, String> {
        if !self.protocol.takes_ids() {
            return Ok(Sent::Text(PROBE.into()));
        }
        let tokenizer = &self.served.tokenizer;
        tokenizer.encode(&Composed::from(Arc::from(PROBE)), tokenizer.max_tokens()).map(Sent::Ids)
    }

    /// Why a server of this identity cannot serve `demand`.
    pub(super) fn objection(&self, identity: &Identity, demand: Demand) -> Option<String> {
        self.protocol
            .objection(identity, demand)
            .or_else(|| self.length_objection(identity, demand))
            .or_else(|| self.head_objection(demand))
    }

    /// Where rows are tokenised here, a server must take the longest; else it must cut where this program cuts.
    fn length_objection(&self, identity: &Identity, demand: Demand) -> Option<String> {
        let (cut, whole) = (self.served.tokenizer.max_tokens(), self.served.tokenizer.ceiling_tokens());
        let wanted = match demand {
            Demand::Embed(_) => cut,
            Demand::Classify { overflow: Overflow::Whole, .. } | Demand::Generate => whole,
            Demand::Classify { .. } => cut,
            // The server writes a token behind the row.
            Demand::LogProb { .. } => whole.saturating_add(1),
        };
        let takes = identity.max_tokens;
        if takes == wanted || (self.protocol.takes_ids() && takes > wanted) {
            return None;
        }
        Some(format!(
            "it takes rows of {takes} tokens, wanted {wanted}, for {}: change the server's limit, or \
             `inference.max_sequence_tokens`",
            demand.asked()
        ))
    }

    fn head_objection(&self, demand: Demand) -> Option<String> {
        let Demand::Classify { pairs, .. } = demand else { return None };
        if self.causal {
            let reason = "the head of a causal network reads another token here than on a server";
            return Some(format!("{reason}; leave the model on this machine"));
        }
        let two = Input::Pair(Composed::from(Arc::from("a")), Composed::from(Arc::from("b")));
        let typed = pairs && self.protocol.takes_ids() && {
            let windows = self.served.tokenizer.windows(&two, Overflow::Whole).unwrap_or_default();
            windows.iter().any(|window| window.types.iter().any(|&kind| kind != 0))
        };
        typed.then(|| "token ids are sent without types, which this model tells two texts apart by".to_owned())
    }
}

/// What a model is that is asked all this.
fn kind_of(demands: &[Demand]) -> Result<Kind, String> {
    let mut kinds = demands.iter().map(|demand| demand.kind());
    let Some(kind) = kinds.next() else { return Err("no reward and no filter asks for it".into()) };
    match kinds.find(|other| *other != kind) {
        Some(other) => Err(format!("it would have to be both {kind} and {other}")),
        None => Ok(kind),
    }
}

/// The tokenizer in `folder`, with the limits the model would have on this machine; and whether it is a causal network.
fn served(name: &ModelName, kind: Kind, folder: &Path, settings: &Config) -> Result<(Arc<Served>, bool), String> {
    let path = folder.join("config.json");
    let stated: Stated = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?,
        Err(error) => {
            let wanted = "name a folder with the model's config.json, tokenizer.json and tokenizer_config.json";
            return Err(format!("cannot read {}: {error}; {wanted} (`folder`)", path.display()));
        }
    };
    let rules = Rules {
        ceiling_tokens: stated.most_tokens().min(settings.max_sequence_tokens),
        interpret_special_tokens: settings.interpret_special_tokens,
    };
    let tokenizer = TextTokenizer::from_folder(folder, rules).map_err(|error| error.to_string())?;
    let served = Served::elsewhere(name.clone(), kind, tokenizer);
    let causal = stated.model_type.is_some_and(|known| CAUSAL.contains(&known.as_str()));
    Ok((Arc::new(served), causal))
}

impl Stated {
    /// The longest row the network takes, special tokens included.
    fn most_tokens(&self) -> usize {
        let positions = self.max_position_embeddings.or(self.n_positions).unwrap_or(usize::MAX);
        match self.model_type.as_deref() {
            // Positions are relative.
            Some("deberta-v2") => usize::MAX,
            // They count from behind the row of padding.
            Some("roberta" | "mpnet" | "xlm-roberta" | "camembert") => {
                positions.saturating_sub(self.pad_token_id.unwrap_or(1).saturating_add(1))
            }
            _ => positions,
        }
    }
}

/// Whether the rows that can be believed are as wide as they were when the server introduced itself.
fn of_one_width(rows: &[Numbers], width: Option<usize>) -> Result<(), Fault> {
    let found = rows.iter().flatten().map(|row| row.len()).find(|found| width.is_some_and(|width| *found != width));
    match (found, width) {
        (Some(found), Some(width)) => Err(Fault::server(format!(": a row of {found} numbers, after one of {width}"))),
        _ => Ok(()),
    }
}
