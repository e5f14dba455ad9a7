//! One way to route, from its first step to the last tempo.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use openvalidators_gating::{Config, state::State};
use openvalidators_messages::{
    Asked, Completion, ForwardId, Hotkey, PromptEmbedding, QueryOutcome, RawScores, Reward, STEP_RECORD_VERSION,
    Scored, Scoring, Sequence, StepId, StepName, StepOutcome, StepRecord, gating::Routed,
};
use openvalidators_weights::scores::{FoldRules, Rest, Scores};
use rand::Rng;

use crate::{
    policies::{Kind, Router, Situation},
    world::{ALL_ROUNDERS, NEWCOMER, NEWCOMER_AT, SPECIALISTS, STEPS, STEPS_A_TEMPO, TOPICS, TURNED, TURNED_AT, World},
};

/// A newcomer counts as found when it was sought out in most of the latest steps of its field, this many; a miner that turned
/// bad as dropped when it was not.
const LATEST: usize = 5;
/// Scores are compared as they were on average from this step on: each by itself is a moving average and moves.
const SETTLED_AT: usize = 4 * STEPS_A_TEMPO;
const FOLD: FoldRules = FoldRules { alpha: 0.05, max_importance: 10.0, forget_after_blocks: 50_400, rest: Rest::NEVER };

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Mean over the steps of the best reward of those asked, and of all rewards of those asked.
    pub best: f64,
    pub mean: f64,
    /// The best worth of those asked about passages that nobody was asked about before, when all is learned.
    pub best_unseen: f64,
    /// What the oracle's best earned more, summed up, at the end of each tempo.
    pub regret: Vec<f64>,
    /// Blocks.
    pub longest_wait: u64,
    /// Tempos until the newcomer is found, and until the one who turned bad is dropped.
    pub newcomer: Option<f64>,
    pub turned: Option<f64>,
    /// Mean score of the specialists over that of the all-rounders, and the same were every reward to count alike.
    pub twins: f64,
    pub twins_naive: f64,
}

pub fn run(world: &World<'_>, kind: Kind, config: &Config) -> Figures {
    let rules = config.rules();
    let (mut state, mut router) = (State::new(&rules.encoder), Router::new(kind, config.clone()));
    let mut oracle = Router::new(Kind::Oracle, config.clone());
    let (mut scores, mut naive) = (Scores::default(), Scores::default());
    let (mut best, mut mean, mut lost, mut regret) = (0.0, 0.0, 0.0, Vec::new());
    let (mut last_asked, mut longest_wait): (BTreeMap<Hotkey, u64>, u64) = (BTreeMap::new(), 0);
    let mut newcomer = Streak::new(NEWCOMER_AT);
    let mut turned = Streak::new(TURNED_AT);
    let (mut twins, mut twins_naive) = ([0.0; 2], [0.0; 2]);
    for step in 0..STEPS {
        let prompt = world.prompt(step);
        let (topic, metagraph) = (prompt.topic, World::metagraph(step));
        let mut rng = world.seed.rng("route", &[step as u64]);
        let told = match kind {
            Kind::Shuffled => &world.prompts[rng.random_range(0..world.prompts.len())].embedding,
            _ => &prompt.embedding,
        };
        let at = Situation { step, topic, embedding: told, metagraph: &metagraph };
        let routed = router.route(&mut state, &at, &mut rng);
        let reward = |routed: &Routed| world.reward(step, routed.uid.0.into(), topic);
        let rewards: Vec<f64> = routed.iter().map(reward).collect();
        let most = |rewards: &[f64]| rewards.iter().copied().fold(0.0, f64::max);
        let ideal: Vec<f64> = oracle.route(&mut State::default(), &at, &mut rng).iter().map(reward).collect();
        best += most(&rewards);
        mean += rewards.iter().sum::<f64>() / rewards.len() as f64;
        lost += most(&ideal) - most(&rewards);
        if (step + 1) % STEPS_A_TEMPO == 0 {
            regret.push(lost);
        }

        let block = World::block(step).0;
        for neuron in &metagraph.neurons {
            let since = last_asked.entry(neuron.hotkey).or_insert(neuron.registered_at.0);
            if routed.iter().any(|routed| routed.hotkey == neuron.hotkey) {
                longest_wait = longest_wait.max(block - *since);
                *since = block;
            } else {
                longest_wait = longest_wait.max(block - *since);
            }
        }
        if step >= NEWCOMER_AT && topic == TOPICS - 1 {
            newcomer.note(step, Router::seeks(&routed, NEWCOMER));
        }
        if step >= TURNED_AT && topic == TURNED % TOPICS {
            turned.note(step, !Router::seeks(&routed, TURNED));
        }

        let earned: Vec<_> = routed.iter().map(|routed| routed.hotkey).zip(rewards.iter().copied()).collect();
        router.learn(World::block(step), &earned);
        let embedding = PromptEmbedding { encoder: rules.encoder.clone(), row: told.clone() };
        let (record, outcome) = settled(step, &routed, &rewards, embedding);
        let sequence = Sequence(step as u64 + 1);
        state.fold(&rules, sequence, &record, &outcome);
        scores.fold(sequence, &record, &outcome, FOLD);
        let mut alike = StepRecord::clone(&record);
        alike.asked.iter_mut().for_each(|asked| asked.uniform_propensity = None);
        naive.fold(sequence, &alike, &outcome, FOLD);
        if step >= SETTLED_AT {
            add_twins(&mut twins, &scores);
            add_twins(&mut twins_naive, &naive);
        }
    }
    let unseen: Vec<_> = world.prompts.iter().filter(|prompt| !prompt.seen).collect();
    let last = STEPS - 1;
    let metagraph = World::metagraph(last);
    let best_unseen = unseen.iter().enumerate().map(|(place, prompt)| {
        let mut rng = world.seed.rng("unseen", &[place as u64]);
        let told = match kind {
            Kind::Shuffled => &world.prompts[rng.random_range(0..world.prompts.len())].embedding,
            _ => &prompt.embedding,
        };
        let at = Situation { step: last, topic: prompt.topic, embedding: told, metagraph: &metagraph };
        let routed = router.route(&mut state, &at, &mut rng);
        routed.iter().map(|routed| World::worth(last, routed.uid.0.into(), prompt.topic)).fold(0.0, f64::max)
    });
    let best_unseen = best_unseen.sum::<f64>() / unseen.len() as f64;
    Figures {
        best: best / STEPS as f64,
        mean: mean / STEPS as f64,
        best_unseen,
        regret,
        longest_wait,
        newcomer: newcomer.tempos(),
        turned: turned.tempos(),
        twins: twins[0] / twins[1],
        twins_naive: twins_naive[0] / twins_naive[1],
    }
}

/// Adds the mean score of the specialists that stayed as they were, and that of the all-rounders.
fn add_twins(sums: &mut [f64; 2], scores: &Scores) {
    let table: BTreeMap<Hotkey, f64> = scores.table().rows.iter().map(|row| (row.hotkey, row.score)).collect();
    let mean = |miners: &mut dyn Iterator<Item = usize>| {
        let found: Vec<f64> = miners.filter_map(|miner| table.get(&World::hotkey(0, miner)).copied()).collect();
        found.iter().sum::<f64>() / found.len().max(1) as f64
    };
    sums[0] += mean(&mut SPECIALISTS.filter(|miner| *miner != TURNED));
    sums[1] += mean(&mut ALL_ROUNDERS.clone());
}

/// Waits for something to hold in most of the latest steps.
struct Streak {
    since: usize,
    latest: VecDeque<bool>,
    reached: Option<usize>,
}

impl Streak {
    fn new(since: usize) -> Self {
        Self { since, latest: VecDeque::new(), reached: None }
    }

    fn note(&mut self, step: usize, holds: bool) {
        self.latest.push_back(holds);
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
        let most = 2 * self.latest.iter().filter(|holds| **holds).count() > LATEST;
        if self.latest.len() == LATEST && most {
            self.reached.get_or_insert(step);
        }
    }

    fn tempos(&self) -> Option<f64> {
        self.reached.map(|step| (step - self.since) as f64 / STEPS_A_TEMPO as f64)
    }
}

fn settled(
    step: usize,
    routed: &[Routed],
    rewards: &[f64],
    embedding: PromptEmbedding,
) -> (Arc<StepRecord>, Arc<StepOutcome>) {
    let completion = |routed: &Routed| Completion {
        uid: routed.uid,
        hotkey: routed.hotkey,
        text: String::new(),
        outcome: QueryOutcome::Answered,
        status_code: 200,
        status_message: String::new(),
        elapsed_seconds: 1.0,
    };
    let asked = |routed: &Routed| Asked {
        uid: routed.uid,
        hotkey: routed.hotkey,
        propensity: routed.propensity,
        uniform_propensity: routed.uniform_propensity,
        origin: Default::default(),
    };
    let record = StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(step as u64), index: 0 },
        name: StepName::Augment,
        block: World::block(step),
        started_at: 0.0,
        length_seconds: 0.0,
        seed: 0,
        code_version: String::new(),
        source: String::new(),
        prompt: String::new(),
        embedding: Some(embedding),
        base_text: String::new(),
        asked: routed.iter().map(asked).collect(),
        completions: routed.iter().map(completion).collect(),
        scoring: Scoring::Scored(RawScores::default()),
        digests: BTreeMap::new(),
    };
    let rewards = rewards.iter().map(|reward| Reward::new(*reward as f32).unwrap()).collect();
    let outcome = StepOutcome::Scored(Scored {
        normalised: vec![],
        filters: vec![],
        rewards,
        best: None,
        gating_loss: None,
        shadows: vec![],
    });
    (Arc::new(record), Arc::new(outcome))
}
