//! The forward: one conversation, read from top to bottom.
//!
//! A random stretch of a drawn text is summarised by miners (`augment`); then, four times, miners pose a question about
//! what was said (`followupK`) and others answer it (`answerK`). The best completion of each step, made harmless, enters
//! the prompts of the next ones. What the numbers of each step are about (`forward.py` of the reference):
//!
//! | step | prompt shows | completions are compared with |
//! |---|---|---|
//! | `augment` | the stretch of text | the prompt |
//! | `followupK` | the best summary and the exchanges so far, the newest that fit | the best summary |
//! | `answerK` | the same and the best question | the best question |
//!
//! Miners asked in earlier steps of a forward are asked again only when there are too few others.
//!
//! **A step without a usable best completion ends its forward early**, scored or not: there is nothing to build the next
//! prompt from, and the reference's way, taking completion 0 whatever it is, pastes a failed reply. Such a step is settled
//! all the same, as unscored if the models could not judge it. When it is the last step the forward is complete.

use std::{future::Future, sync::Arc, time::Duration};

use openvalidators_messages::{
    Asked, Completion, ForwardId, Metagraph, Origin, STEP_RECORD_VERSION, Scoring, StepId, StepName, StepOutcome,
    StepRecord, Uid,
    dendrite::Query,
    gating::{NobodyToAsk, Route, Routed, Routing},
    prompts::{Draw, SourceError},
    rewards::{Score, ScoreSheet, Unscored},
};
use rand::Rng;
use tracing::Instrument;

use crate::{
    desks::{NoAnswer, answer_within},
    lanes::Lanes,
    metrics::Part,
    script::Accepted,
    sentences,
    settle::{CRASH_ATTEMPTS, NotSettled, Settled},
};

/// Sentences of a drawn text that a forward is about (`forward.py`: 15 to 30).
const CONTEXT_SENTENCES: std::ops::RangeInclusive<usize> = 15..=30;
/// Sentences a summary is asked to have (`prompts.py`: 4 to 8).
const SUMMARY_SENTENCES: std::ops::RangeInclusive<u8> = 4..=8;
/// The roles of the `Prompting` synapse: one message, by the user.
const ROLE: &str = "user";
/// What the dendrite may take beyond the miners' own time, to sign and to sum up.
const QUERY_GRACE: Duration = Duration::from_secs(30);

/// What became of a forward.
#[derive(Clone, Debug)]
pub struct Report {
    /// Steps that are in the ledger with their outcome.
    pub settled: u8,
    /// Those among them with a usable best completion.
    pub with_best: u8,
    /// How it ended.
    pub end: ForwardEnd,
}

/// How a forward ended.
#[derive(Clone, Debug)]
pub enum ForwardEnd {
    /// Every step is settled.
    Complete,
    /// It could not go on.
    Early {
        /// The step it could not go beyond.
        step: StepName,
        /// Why.
        reason: EarlyReason,
    },
}

/// Why a forward could not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EarlyReason {
    /// No text to begin with.
    #[error(transparent)]
    NoContext(#[from] SourceError),
    /// No miner to ask.
    #[error(transparent)]
    NobodyToAsk(#[from] NobodyToAsk),
    /// A neighbour gave no answer, and the step could not be gathered without it.
    #[error("{part}: {error}")]
    NoAnswer {
        /// The part of the step.
        part: &'static str,
        /// What happened.
        error: NoAnswer,
    },
    /// The step is settled as unscored.
    #[error("the step could not be scored: {0}")]
    Unscored(String),
    /// The step is settled and scored, but no completion earned anything, or the best one holds nothing readable.
    #[error("no completion can be built upon")]
    NoBest,
    /// The step is gathered but could not be settled.
    #[error(transparent)]
    NotSettled(#[from] NotSettled),
    /// The program is stopping, or its step budget is spent.
    #[error("stopping")]
    Stopping,
}

/// A forward under way.
struct Forward<'a> {
    lanes: &'a Lanes,
    id: ForwardId,
    /// The step under way, and its index.
    name: StepName,
    index: u8,
    with_best: u8,
    /// Everybody asked so far.
    asked: Vec<Uid>,
    /// Questions and answers accepted so far, as their miners wrote them.
    used: Vec<String>,
    /// Where the text came from.
    source: String,
}

/// Runs one forward to its end. Nothing a neighbour does makes it fail: the report says what happened.
pub(crate) async fn forward(lanes: &Lanes, id: ForwardId) -> Report {
    let mut forward = Forward {
        lanes,
        id,
        name: StepName::Augment,
        index: 0,
        with_best: 0,
        asked: Vec::new(),
        used: Vec::new(),
        source: String::new(),
    };
    let end = match forward.converse().await {
        Ok(()) => ForwardEnd::Complete,
        Err(_) if forward.index == lanes.settings.steps_of_a_forward() => ForwardEnd::Complete,
        Err(reason) => ForwardEnd::Early { step: forward.name, reason },
    };
    Report { settled: forward.index, with_best: forward.with_best, end }
}

// === impl Forward ===

impl Forward<'_> {
    /// The conversation.
    async fn converse(&mut self) -> Result<(), EarlyReason> {
        let script = &self.lanes.settings.script;
        let prompt = self.opening().await?;
        let summary = self.step(StepName::Augment, &prompt, &prompt).await?;
        let mut conversation = script.begin(&summary);
        for round in 0..self.lanes.settings.followup_steps {
            let prompt = script.followup(&conversation, round);
            let question = self.step(StepName::Followup(round), &prompt, &summary.text).await?;
            let prompt = script.answer(&conversation, &question);
            let answer = self.step(StepName::Answer(round), &prompt, &question.text).await?;
            script.tell(&mut conversation, &question, &answer);
            self.used.extend([question.written, answer.written]);
        }
        Ok(())
    }

    /// One step: route → query → score → settle. Gives its best completion.
    async fn step(&mut self, name: StepName, prompt: &str, base_text: &str) -> Result<Accepted, EarlyReason> {
        self.name = name;
        let (sequence, result) = (tracing::field::Empty, tracing::field::Empty);
        let span =
            tracing::info_span!("step", otel.name = %name, forward = %self.id, index = self.index, sequence, result);
        self.within_step(prompt, base_text).instrument(span).await
    }

    async fn within_step(&mut self, prompt: &str, base_text: &str) -> Result<Accepted, EarlyReason> {
        let name = self.name;
        let lanes = self.lanes;
        let ticket = lanes.budget.take().await.ok_or(EarlyReason::Stopping)?;
        let record = tokio::select! {
            biased;
            () = lanes.shutdown.requested() => return Err(EarlyReason::Stopping),
            record = self.gather(prompt, base_text) => Arc::new(record?),
        };
        let settling = lanes.settler.settle(record.clone(), ticket);
        let settled = self.timed(Part::Settle, settling).await?;
        self.index += 1;
        lanes.metrics.count_step(name.kind(), settled.label());
        tracing::Span::current().record("sequence", settled.sequence.0).record("result", settled.label());
        tracing::debug!(step = %name, sequence = %settled.sequence, result = settled.label(), "step settled");
        let best = self.best(&record, &settled)?;
        self.with_best += 1;
        Ok(best)
    }

    /// Everything about a step that the ledger has to know. Changes nothing anywhere, so it may be given up.
    async fn gather(&mut self, prompt: &str, base_text: &str) -> Result<StepRecord, EarlyReason> {
        let lanes = self.lanes;
        let step = StepId { forward: self.id, index: self.index };
        let block = lanes.metagraph.borrow().block;
        let (started_at, since) = (lanes.clock.unix().as_secs_f64(), lanes.clock.now());

        let prompt: Arc<str> = prompt.into();
        let Routing { miners, embedding } = self.route(step, &prompt).await?;
        self.asked.extend(miners.iter().map(|miner| miner.uid));
        let asked = asked(&miners, &lanes.metagraph.borrow());
        let completions = self.query(step, &miners, &prompt).await?;
        let (scoring, digests) = match self.score(step, &prompt, base_text, completions.clone()).await {
            Ok(ScoreSheet { raw, digests }) => (Scoring::Scored(raw), digests),
            Err(Unscored { reason }) => (Scoring::Unscored { reason }, Default::default()),
        };
        Ok(StepRecord {
            version: STEP_RECORD_VERSION,
            step,
            name: self.name,
            block,
            started_at,
            length_seconds: lanes.clock.now().saturating_sub(since).as_secs_f64(),
            seed: lanes.seed.0,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            source: self.source.clone(),
            prompt: prompt.to_string(),
            embedding,
            base_text: base_text.to_owned(),
            asked,
            completions: completions.to_vec(),
            scoring,
            digests,
        })
    }

    /// Draws a text and asks for a summary of a stretch of it.
    async fn opening(&mut self) -> Result<String, EarlyReason> {
        let lanes = self.lanes;
        let draw = lanes.desks.draw.call_again(Draw { forward: self.id }, CRASH_ATTEMPTS);
        let context = self.timed(Part::Draw, answer_within(&*lanes.clock, lanes.settings.call_timeout, draw)).await;
        let context = context.map_err(no_answer(Part::Draw))??;
        self.source = context.source;
        let mut rng = lanes.seed.rng("prompt", &[self.id.0]);
        let stretch =
            sentences::cut(&context.text, rng.random_range(CONTEXT_SENTENCES), lanes.settings.context_limit_bytes);
        lanes.settings.script.augment(stretch, rng.random_range(SUMMARY_SENTENCES)).ok_or_else(|| {
            let reason = "the text holds nothing readable".to_owned();
            EarlyReason::NoContext(SourceError { source_name: self.source.clone(), reason })
        })
    }

    async fn route(&self, step: StepId, prompt: &Arc<str>) -> Result<Routing, EarlyReason> {
        let lanes = self.lanes;
        let count = lanes.settings.asking(self.name.kind()).count;
        let route = Route { step, prompt: prompt.clone(), count, exclude: self.asked.clone() };
        let call = lanes.desks.route.call_again(route, CRASH_ATTEMPTS);
        let routing = self.timed(Part::Route, answer_within(&*lanes.clock, lanes.settings.call_timeout, call)).await;
        Ok(routing.map_err(no_answer(Part::Route))??)
    }

    async fn query(&self, step: StepId, miners: &[Routed], prompt: &str) -> Result<Arc<[Completion]>, EarlyReason> {
        let lanes = self.lanes;
        let timeout = lanes.settings.asking(self.name.kind()).timeout;
        let (roles, messages) = (Arc::new([ROLE.to_owned()]), Arc::new([prompt.to_owned()]));
        let query = Query { step, miners: miners.to_vec(), roles, messages, timeout };
        // Not sent again after a crash: the miners were asked already.
        let call = lanes.desks.query.call(query);
        let completions = self.timed(Part::Query, answer_within(&*lanes.clock, timeout + QUERY_GRACE, call)).await;
        Ok(completions.map_err(no_answer(Part::Query))?.into())
    }

    /// Scoring that fails for whatever reason leaves a step unscored.
    async fn score(
        &self,
        step: StepId,
        prompt: &str,
        base_text: &str,
        completions: Arc<[Completion]>,
    ) -> Result<ScoreSheet, Unscored> {
        let lanes = self.lanes;
        let score = Score {
            step,
            name: self.name,
            prompt: prompt.into(),
            base_text: base_text.into(),
            used: self.used.as_slice().into(),
            completions,
        };
        let call = lanes.desks.score.call_again(score, CRASH_ATTEMPTS);
        let sheet = self.timed(Part::Score, answer_within(&*lanes.clock, lanes.settings.score_timeout, call)).await;
        sheet.unwrap_or_else(|error| Err(Unscored { reason: error.to_string() }))
    }

    /// The completion the forward goes on with.
    fn best(&self, record: &StepRecord, settled: &Settled) -> Result<Accepted, EarlyReason> {
        let scored = match &*settled.outcome {
            StepOutcome::Scored(scored) => scored,
            StepOutcome::Unscored { reason } => return Err(EarlyReason::Unscored(reason.clone())),
        };
        let best = scored.best.and_then(|best| record.completions.get(best)).filter(|best| best.is_success());
        best.and_then(|best| self.lanes.settings.script.accept(&best.text)).ok_or(EarlyReason::NoBest)
    }

    async fn timed<T>(&self, part: Part, work: impl Future<Output = T>) -> T {
        let since = self.lanes.clock.now();
        let done = work.instrument(tracing::info_span!("part", otel.name = part.label())).await;
        self.lanes.metrics.observe(part, self.lanes.clock.now().saturating_sub(since));
        done
    }
}

fn asked(miners: &[Routed], metagraph: &Metagraph) -> Vec<Asked> {
    let asked = |miner: &Routed| {
        // The router may have read another block: a place that changed hands since tells nothing of its former holder.
        let neuron = metagraph.neuron(miner.uid).filter(|neuron| neuron.hotkey == miner.hotkey);
        let coldkey = neuron.and_then(|neuron| neuron.coldkey);
        let Routed { uid, hotkey, propensity, uniform_propensity, axon } = *miner;
        Asked { uid, hotkey, propensity, uniform_propensity, origin: Origin::new(coldkey, axon.address.ip()) }
    };
    miners.iter().map(asked).collect()
}

fn no_answer(part: Part) -> impl Fn(NoAnswer) -> EarlyReason {
    move |error| EarlyReason::NoAnswer { part: part.label(), error }
}

// === impl ForwardEnd ===

impl ForwardEnd {
    /// Every label a forward's end may have; `panicked` is counted where forwards are started.
    pub const LABELS: [&str; 9] = [
        "complete",
        "no_context",
        "nobody_to_ask",
        "no_answer",
        "unscored",
        "no_best",
        "not_settled",
        "stopping",
        "panicked",
    ];

    /// The metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        let Self::Early { reason, .. } = self else { return "complete" };
        match reason {
            EarlyReason::NoContext(_) => "no_context",
            EarlyReason::NobodyToAsk(_) => "nobody_to_ask",
            EarlyReason::NoAnswer { .. } => "no_answer",
            EarlyReason::Unscored(_) => "unscored",
            EarlyReason::NoBest => "no_best",
            EarlyReason::NotSettled(_) => "not_settled",
            EarlyReason::Stopping => "stopping",
        }
    }
}

#[cfg(test)]
mod tests;
