//! Miners as judges of each other, in the game: the validator's own `network_reward_model` draws the judges, sends them the
//! scoring prompt, reads their grades and takes the median, within its budget; the miners of the game answer. Attackers
//! among them lie: 10 for each other, 0 for everybody else.
//!
//! This is no [`Strategy`](super::strategy::Strategy), for it says nothing to a prompt: it is beside what one says.

mod poor_work;

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context;
use async_trait::async_trait;
use openvalidators_messages::{
    Axon, Block, Column, Completion, ForwardId, Hyperparameters, Judgement, Metagraph, Netuid, Neuron, RawScores,
    StepId, dendrite::Query, gating::Routed, rewards::Score,
};
use openvalidators_rewards::{
    Inference, Network,
    admission::Admission,
    function::RewardFunction,
    network::{self, Asks, Judges},
    prompt::{BEST_GRADE, Templates},
    step::Step,
};
use openvalidators_runtime::{CallError, Seed};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{runtime::Handle, sync::watch};

use poor_work::PoorWork;

use super::{
    Match,
    play::{Attack, Board, Setting},
    play_all,
    pool::{Prompt, Said, Sheet, TIERS, answered},
    population::identity,
};
use crate::{
    config::Config,
    localnet::{Tier, answers::Author},
    topology::quoted,
};

/// How many judges a completion may have in the table.
const BENCHES: [usize; 4] = [1, 3, 5, 7];

/// Steps between two epochs of the chain: 360 blocks, at a step every six.
const EPOCH_STEPS: usize = 60;

/// When a grade is here.
const GRADE_SECONDS: f64 = 1.0;

/// What collusion brings where each completion has so many judges.
#[derive(Clone, Debug, Serialize)]
pub struct Collusion {
    /// Judges of a completion.
    pub judges: usize,
    /// For each share of attackers: their capture ratio, were these grades the only reward.
    pub captures: Vec<Captured>,
}

/// The capture ratio of attackers who do the work of poor miners.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Captured {
    /// When they judge honestly.
    pub honest: f64,
    /// When they collude, and the mean of the grades counts.
    pub mean: f64,
    /// When they collude, and the median does, as in the validator.
    pub median: f64,
}

/// What becomes of the grades of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As the validator has it.
    Median,
    /// For comparison.
    Mean,
}

/// How miners judge, in every game of a board.
#[derive(Clone)]
pub struct Judging {
    judges: Arc<Judges>,
    templates: Arc<Templates>,
    admission: Admission,
    inference: Inference,
    /// Of the thread that plays no game: judges are asked by way of futures.
    runtime: Handle,
    collude: bool,
    verdict: Verdict,
    /// What an honest miner says, by uid and digest of the prompt: the same in every game.
    said: Arc<Mutex<HashMap<(usize, u64), String>>>,
}

/// The judges of one game.
pub struct Jury {
    judging: Judging,
    miners: Miners,
    network: Network,
    metagraph: watch::Sender<Arc<Metagraph>>,
}

/// The miners of a game, as judges; clones are the same. Attackers hold the first uids.
#[derive(Clone)]
struct Miners {
    seed: Seed,
    attackers: usize,
    collude: bool,
    /// Scoring prompts about attackers' completions of this step: they tell each other.
    theirs: Arc<Mutex<HashSet<String>>>,
    said: Arc<Mutex<HashMap<(usize, u64), String>>>,
}

/// Plays every number of judges at every share, with nothing but their grades in force. All completions are judged and the
/// budget holds for that, so that the table is about judges and not about luck.
///
/// # Errors
/// When the wording cannot be used; outside of a running program.
pub fn play(
    (prompts, sheets): (&[Prompt], &[Sheet]),
    ours: &Config,
    inference: &Inference,
    shares: &[f64],
    setting: Setting,
    seed: Seed,
) -> anyhow::Result<Vec<Collusion>> {
    let said: Said = PoorWork::said(prompts);
    let honest = Judging::new(ours, inference.clone())?;
    let ways = [(false, Verdict::Median), (true, Verdict::Mean), (true, Verdict::Median)];
    let configs = BENCHES.map(|judges| alone_in_force(ours, judges, setting));
    let mut boards = Vec::new();
    for (config, (collude, verdict)) in configs.iter().flat_map(|config| ways.map(|way| (config, way))) {
        let judging = Judging { said: Arc::clone(&honest.said), ..Judging::new(config, inference.clone())? };
        let judging = Some(Judging { collude, verdict, ..judging });
        boards.push(Board { prompts, sheets, config, judging, brief: &[] });
    }
    let attack = |share: &f64| Attack { strategy: &PoorWork, said: &said, share: *share };
    let matches: Vec<Match<'_>> = boards
        .iter()
        .flat_map(|board| shares.iter().map(move |share| Match { board, attack: attack(share) }))
        .collect();
    let captures: Vec<f64> = play_all(&matches, setting, seed).iter().map(|outcome| outcome.capture).collect();
    let at = |place: usize, way: usize, share: usize| captures[(place * ways.len() + way) * shares.len() + share];
    let captured =
        |place, share| Captured { honest: at(place, 0, share), mean: at(place, 1, share), median: at(place, 2, share) };
    let collusion = |(place, judges)| Collusion {
        judges,
        captures: (0..shares.len()).map(|share| captured(place, share)).collect(),
    };
    Ok(BENCHES.into_iter().enumerate().map(collusion).collect())
}

fn alone_in_force(ours: &Config, judges: usize, setting: Setting) -> Config {
    let mut config = ours.clone();
    config.rewards.weights = [(network::NAME.to_owned(), 1.0)].into();
    config.rewards.network.judges = judges;
    config.rewards.network.completions_per_step = setting.asked;
    config.rewards.network.queries_per_epoch = (judges * setting.asked * EPOCH_STEPS) as u64;
    config
}

// === impl Judging ===

impl Judging {
    /// As these settings ask miners, with attackers that collude.
    ///
    /// # Errors
    /// When the wording cannot be used; outside of a running program.
    pub fn new(config: &Config, inference: Inference) -> anyhow::Result<Self> {
        let rewards = &config.rewards;
        Ok(Self {
            judges: Arc::new(Judges::new(&rewards.network, &rewards.prompt, true)?),
            templates: Arc::new(Templates::read(&rewards.prompt.templates)?),
            admission: rewards.admission(),
            inference,
            runtime: Handle::try_current().context("asking the miners of the benchmark to judge")?,
            collude: true,
            verdict: Verdict::Median,
            said: Arc::default(),
        })
    }

    /// The judges of a game.
    #[must_use]
    pub fn jury(&self, setting: Setting, attackers: usize, seed: Seed) -> Jury {
        let (collude, said) = (self.collude, Arc::clone(&self.said));
        let miners = Miners { seed, attackers, collude, theirs: Arc::default(), said };
        let (metagraph, serving) = watch::channel(Arc::new(metagraph(setting.uids)));
        let network = Network::new(miners.clone(), serving, seed, quoted);
        Jury { judging: self.clone(), miners, network, metagraph }
    }
}

// === impl Jury ===

impl Jury {
    /// Has the miners of a step judge each other: a column of raw scores, and the grades it came from.
    pub fn judge(&self, step: usize, prompt: &Prompt, completions: &[Completion], raw: &mut RawScores) {
        let Judging { judges, templates, admission, inference, runtime, verdict, .. } = &self.judging;
        let epoch = (step / EPOCH_STEPS) as u64;
        self.metagraph.send_if_modified(|metagraph| {
            let is_next = metagraph.epoch_index != epoch;
            Arc::make_mut(metagraph).epoch_index = epoch;
            is_next
        });
        let score = Score {
            step: StepId { forward: ForwardId(step as u64), index: 0 },
            name: prompt.name,
            prompt: Arc::clone(&prompt.prompt),
            base_text: Arc::clone(&prompt.base_text),
            used: Arc::new([]),
            completions: completions.into(),
        };
        let step = Step::new(&score, *admission, inference.clone()).asking(Some(self.network.clone()));
        let by_attackers = (0..step.texts.len()).filter(|at| {
            let uid = usize::from(completions[step.places[*at]].uid.0);
            uid < self.miners.attackers
        });
        let asked = |at: usize| templates.of(step.kind).text(&step.prompt, &step.texts[at], quoted);
        *self.miners.theirs.lock() = by_attackers.map(asked).collect();
        let values = runtime.block_on(judges.score(&step)).unwrap_or_else(|error| {
            tracing::warn!(%error, "nobody is judged in this step of the benchmark");
            Vec::new()
        });
        raw.judgements = step.take_judgements();
        raw.rewards.retain(|column| column.name != network::NAME);
        let mut values = step.scatter(&values);
        if *verdict == Verdict::Mean {
            means(&raw.judgements, &mut values);
        }
        raw.rewards.push(Column { name: network::NAME.to_owned(), values });
    }
}

/// Puts the mean of its grades in the place of their median, silence counting 0.
fn means(judgements: &[Judgement], values: &mut [Option<f32>]) {
    let mut sums: HashMap<usize, (f32, f32)> = HashMap::new();
    for Judgement { completion, grade, .. } in judgements {
        let (sum, asked) = sums.entry(*completion).or_default();
        *sum += f32::from(grade.unwrap_or(0));
        *asked += 1.0;
    }
    for (completion, (sum, asked)) in sums {
        values[completion] = Some(sum / asked / f32::from(BEST_GRADE));
    }
}

// === impl Miners ===

impl Miners {
    fn grade(&self, uid: usize, message: &str) -> String {
        if self.collude && uid < self.attackers {
            let grade = if self.theirs.lock().contains(message) { BEST_GRADE } else { 0 };
            return grade.to_string();
        }
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        // An attacker is a poor miner, whose uid would say otherwise.
        let place = if uid < self.attackers { TIERS.len() - 1 } else { uid % TIERS.len() };
        let key = (uid * TIERS.len() + place, hasher.finish());
        if let Some(said) = self.said.lock().get(&key) {
            return said.clone();
        }
        let tier: Tier = TIERS[place];
        let index = u16::try_from(uid).unwrap_or(u16::MAX);
        let said = Author { seed: self.seed, index, tier }.complete(message);
        self.said.lock().insert(key, said.clone());
        said
    }
}

#[async_trait(?Send)]
impl Asks for Miners {
    async fn ask(&self, query: Query) -> Result<Vec<Completion>, CallError> {
        let message = query.messages.first().map_or("", String::as_str);
        let says = |judge: &Routed| {
            let uid = usize::from(judge.uid.0);
            answered(uid, &self.grade(uid, message), GRADE_SECONDS)
        };
        Ok(query.miners.iter().map(says).collect())
    }
}

/// A subnet on which every uid of the game serves.
fn metagraph(uids: usize) -> Metagraph {
    let axon = Axon { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), protocol: 4, version: 1 };
    let neuron = |place: usize| {
        let (uid, hotkey) = identity(place);
        Neuron::newcomer(uid, hotkey, Some(axon))
    };
    Metagraph {
        netuid: Netuid(1),
        block: Block(0),
        last_epoch_block: Block(0),
        epoch_index: 0,
        hyperparameters: Hyperparameters {
            tempo: 360,
            min_allowed_weights: 0,
            max_weight_limit: 1.0,
            weights_rate_limit: 0,
            weights_version_key: 0,
            commit_reveal: false,
            commit_by_hash: false,
            reveal_period_epochs: 1,
            activity_cutoff: 5_000,
            stake_threshold: 0.0,
        },
        owner_uid: None,
        neurons: (0..uids).map(neuron).collect(),
    }
}

#[cfg(test)]
mod tests;
