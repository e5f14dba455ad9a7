//! One router for all forwards: reads a prompt, chooses miners by what is learned, and learns.
//!
//! State is behind a lock, and taken on worker threads alone: a choice takes milliseconds when many are remembered.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use openvalidators_messages::{
    Block, Hotkey, Metagraph, Neuron, PromptEmbedding,
    gating::{Apply, NobodyToAsk, Route, Routed, Routing},
    inference::Embed,
};
use openvalidators_runtime::{on_worker, within};
use parking_lot::Mutex;

use crate::{
    actor::Surroundings,
    config::{Config, RoutingKind},
    learned::{self, Ask, Choice, waited},
    metrics::{Metrics, Seen},
    policy::evenness,
    state::{Folded, Rules, State},
    uniform,
};

/// Prompts whose embedding is kept: a choice that is asked for again need not wait for it again.
const PROMPTS_KEPT: usize = 64;

/// Chooses and learns; shared by the actor and the work under way.
pub(crate) struct Router {
    config: Config,
    rules: Rules,
    around: Surroundings,
    metrics: Metrics,
    learned: Mutex<Learned>,
    read: Mutex<VecDeque<ReadPrompt>>,
}

/// A prompt and its embedding.
type ReadPrompt = (Arc<str>, Arc<[f32]>);

struct Learned {
    state: State,
    /// The block of the latest choice of each hotkey whose step is not folded yet.
    pending: BTreeMap<Hotkey, Block>,
}

// === impl Router ===

impl Router {
    pub(crate) fn new(state: State, config: Config, around: Surroundings, metrics: Metrics) -> Self {
        let learned = Mutex::new(Learned { state, pending: BTreeMap::new() });
        Self { rules: config.rules(), config, around, metrics, learned, read: Mutex::default() }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn with_state<T>(&self, use_it: impl FnOnce(&State) -> T) -> T {
        use_it(&self.learned.lock().state)
    }

    /// Chooses miners for a step.
    pub(crate) async fn route(self: Arc<Self>, route: Route) -> Result<Routing, NobodyToAsk> {
        let metagraph = Arc::clone(&self.around.metagraph.borrow());
        let exclusion = |neuron: &Neuron| uniform::exclusion(neuron, &self.around.own_hotkey, &self.config);
        self.metrics.note_excluded(metagraph.neurons.iter().filter_map(exclusion));
        if uniform::available(&metagraph, &self.around.own_hotkey, &self.config).next().is_none() {
            self.metrics.note_nobody();
            return Err(NobodyToAsk { neurons: metagraph.neurons.len(), block: metagraph.block.0 });
        }
        let row = match self.config.routing {
            RoutingKind::Blind => None,
            RoutingKind::Learned | RoutingKind::Uniform => self.read(&route.prompt).await,
        };
        let embedding = row.map(|row| PromptEmbedding { encoder: self.rules.encoder.clone(), row });
        let read = embedding.clone();
        let miners = on_worker(move || self.choose(&metagraph, &route, read.as_ref())).await;
        Ok(Routing { miners, embedding })
    }

    /// The prompt's embedding, if the model gives one in time.
    async fn read(&self, prompt: &Arc<str>) -> Option<Arc<[f32]>> {
        let kept = self.read.lock().iter().find(|(text, _)| text == prompt).map(|(_, row)| row.clone());
        if kept.is_some() {
            return kept;
        }
        let Config { model, pooling, embed_timeout_seconds, .. } = &self.config;
        let embed = Embed { model: model.clone(), texts: vec![prompt.clone()], pooling: *pooling };
        let limit = Duration::from_secs_f64(*embed_timeout_seconds);
        let reason = match within(&*self.around.clock, limit, self.around.embed.call(embed)).await {
            Ok(Ok(Ok(mut rows))) => match rows.pop() {
                Some(Ok(row)) if row.iter().all(|value| value.is_finite()) => {
                    let mut read = self.read.lock();
                    read.truncate(PROMPTS_KEPT - 1);
                    read.push_front((prompt.clone(), row.clone()));
                    return Some(row);
                }
                Some(Ok(_)) => "the embedding holds what is no number".to_owned(),
                Some(Err(error)) => error.to_string(),
                None => "no row came back".to_owned(),
            },
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%model, reason, "a prompt could not be read; its step is routed uniformly and teaches routing nothing");
        self.metrics.note_unread();
        None
    }

    fn choose(&self, metagraph: &Metagraph, route: &Route, read: Option<&PromptEmbedding>) -> Vec<Routed> {
        let available: Vec<&Neuron> = uniform::available(metagraph, &self.around.own_hotkey, &self.config).collect();
        let bound = match self.config.longest_wait_blocks {
            0 => metagraph.hyperparameters.tempo,
            blocks => blocks,
        };
        let mut rng = self.around.seed.rng("route", &[route.step.forward.0, route.step.index.into()]);
        let Learned { state, pending } = &mut *self.learned.lock();
        let waits = available.iter().map(|neuron| waited(state, neuron, metagraph.block, pending));
        let (longest, in_time) =
            waits.fold((0, 0), |(longest, in_time), wait| (longest.max(wait), in_time + usize::from(wait < bound)));
        let choice = Choice {
            memory: self.rules.memory,
            exploration: self.config.exploration,
            optimism: self.config.optimism,
            longest_wait_blocks: bound,
        };
        let learned = read.filter(|_| self.config.routing == RoutingKind::Learned).and_then(|read| {
            let ask = Ask {
                block: metagraph.block,
                embedding: &read.row,
                count: route.count,
                exclude: &route.exclude,
                pending,
            };
            learned::route(state, choice, ask, &available, &mut rng)
        });
        let is_learned = learned.is_some();
        let (miners, odds) = learned.unwrap_or_else(|| {
            (uniform::draw(available.iter().copied(), route.count, &route.exclude, &mut rng), Vec::new())
        });
        let block = metagraph.block;
        pending.extend(miners.iter().map(|miner| (miner.hotkey, block)));
        let seen = Seen {
            available: available.len(),
            longest_wait_blocks: longest,
            coverage: in_time as f64 / available.len().max(1) as f64,
            evenness: evenness(&odds),
            learned: is_learned,
        };
        self.metrics.note(seen, route.count, &route.exclude, &miners);
        miners
    }

    /// Learns from settled steps, in order; the head's loss on the last of them, if it learned from that.
    pub(crate) fn fold(&self, steps: &[Apply]) -> Option<f32> {
        let Learned { state, pending } = &mut *self.learned.lock();
        let mut loss = None;
        for Apply { sequence, record, outcome } in steps {
            let folded = state.fold(&self.rules, *sequence, record, outcome);
            if let Folded::Refused(error) = folded {
                tracing::error!(step = %sequence, %error, "the gating head did not learn from a step");
            }
            self.metrics.note_fold(record, folded);
            loss = if let Folded::Learned(loss) = folded { Some(loss) } else { None };
            let is_folded = |hotkey: &Hotkey, block: Block| {
                state.coverage().get(hotkey).is_some_and(|coverage| coverage.last_asked >= block)
            };
            // A step that never settles leaves its choices here until others of the same hotkeys are folded.
            pending.retain(|hotkey, block| !is_folded(hotkey, *block));
        }
        self.metrics.show(state);
        loss
    }
}
