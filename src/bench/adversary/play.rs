//! One game: a population with a share of attackers, asked step after step, paid by the real fold of rewards, the real
//! moving averages and the real weight vector.

use std::{collections::BTreeMap, sync::Arc};

use openvalidators_messages::{
    Asked, Block, Column, Completion, Embeddings, ForwardId, RawScores, STEP_RECORD_VERSION, Scoring, Sequence, StepId,
    StepOutcome, StepRecord,
};
use openvalidators_rewards::{
    correlation::spearman,
    diversity::{self, Diversity},
    fold::{Rules, State},
};
use openvalidators_runtime::Seed;
use openvalidators_weights::{
    process::{Limits, emit, process},
    scores::{FoldRules, Scores},
};
use rand::{Rng, seq::SliceRandom};
use serde::Serialize;

use super::{
    judges::{Judging, Jury},
    pool::{Prompt, Said, Sheet, TIERS, answered, earlier, silent},
    population::{identity, is_brief, origin},
    strategy::{About, Haste, Moment, Presence, Strategy},
};
use crate::config::Config;

/// How the game is played.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Setting {
    /// Miners on the subnet.
    pub uids: usize,
    /// Miners asked in a step.
    pub asked: usize,
    /// Steps.
    pub steps: usize,
}

/// Seconds in which honest completions come.
const HONEST_SECONDS: std::ops::Range<f64> = 1.0..4.0;
/// Seconds in which those come that nobody thought about.
const FIRST_SECONDS: std::ops::Range<f64> = 0.2..0.8;
/// Seconds in which those come that waited for others.
const LATE_SECONDS: std::ops::Range<f64> = 4.2..6.0;
/// The deadline, for those that never answer.
const DEADLINE_SECONDS: f64 = 12.0;
/// Filters that leave less of a reward than this have zeroed it.
pub const ZEROED: f32 = 0.1;
/// The capture ratio at which attackers count as found out.
const FOUND_OUT: f64 = 0.5;

/// What everybody says and what it is worth raw.
pub struct Board<'a> {
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// What the models made of what is said to each.
    pub sheets: &'a [Sheet],
    /// The settings it was scored under.
    pub config: &'a Config,
    /// How miners judge each other, where that counts.
    pub judging: Option<Judging>,
    /// By prompt, what brief miners say ([`is_brief`]) where the others say more; empty where nobody is brief.
    pub brief: &'a [Option<Arc<str>>],
}

/// Every step of a game, and the weights at its end.
pub struct Recorded {
    /// The steps, in order.
    pub steps: Vec<(StepRecord, Arc<StepOutcome>)>,
    /// By uid, adding up to 1.
    pub weights: Vec<f64>,
}

/// Who attacks.
#[derive(Clone, Copy)]
pub struct Attack<'a> {
    /// How.
    pub strategy: &'a dyn Strategy,
    /// With which texts.
    pub said: &'a Said,
    /// Which part of the uids.
    pub share: f64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The attackers' share of the weights over their share of the uids: 1 is what an average miner gets. NaN without any.
    pub capture: f64,
    /// Spearman's rank correlation of honest miners' weights with their tiers.
    pub rank_correlation: f64,
    /// The share of honest completions that filters left nothing of.
    pub honest_zeroed: f64,
    /// The step from which on the capture ratio stays at or below a half; `None` when it never does.
    pub found_out_after: Option<usize>,
    /// Characters of an attacker's text over those of an honest one.
    pub length: f64,
}

/// The players and their accounts.
struct Game<'a> {
    board: &'a Board<'a>,
    attack: Attack<'a>,
    setting: Setting,
    attackers: usize,
    seed: Seed,
    rules: Rules,
    diversity: Diversity,
    jury: Option<Jury>,
    state: State,
    scores: Scores,
    honest_texts: u64,
    honest_zeroed: u64,
    last_above: Option<usize>,
}

/// One completion of a step.
struct Played {
    completion: Completion,
    /// Its place in the sheet, if it came.
    place: Option<usize>,
    /// Which prompt it is about, and in which round; `None` when it is about nothing.
    about: Option<(usize, i64)>,
}

/// Plays.
///
/// # Panics
/// Never; weights that cannot be weights count as none.
#[must_use]
pub fn play(board: &Board<'_>, attack: Attack<'_>, setting: Setting, seed: Seed) -> Outcome {
    let mut game = Game::new(board, attack, setting, seed);
    for step in 0..setting.steps {
        game.step(step);
    }
    game.outcome()
}

// === impl Recorded ===

impl Recorded {
    /// Plays, and keeps everything.
    #[must_use]
    pub fn play(board: &Board<'_>, attack: Attack<'_>, setting: Setting, seed: Seed) -> Self {
        let mut game = Game::new(board, attack, setting, seed);
        let steps = (0..setting.steps).map(|step| game.step(step)).collect();
        Self { steps, weights: game.weights() }
    }
}

// === impl Game ===

impl<'a> Game<'a> {
    fn new(board: &'a Board<'a>, attack: Attack<'a>, setting: Setting, seed: Seed) -> Self {
        let attackers = (setting.uids as f64 * attack.share).round() as usize;
        Self {
            board,
            attack,
            setting,
            attackers,
            jury: board.judging.as_ref().map(|judging| judging.jury(setting, attackers, seed)),
            seed,
            rules: Rules::new(&board.config.rewards),
            diversity: {
                let rewards = &board.config.rewards;
                Diversity::new(&rewards.diversity, rewards.compat, rewards.defences)
            },
            state: State::default(),
            scores: Scores::default(),
            honest_texts: 0,
            honest_zeroed: 0,
            last_above: None,
        }
    }

    /// Plays a step.
    fn step(&mut self, step: usize) -> (StepRecord, Arc<StepOutcome>) {
        let prompt = step % self.board.prompts.len();
        let played = self.played(step, prompt);
        let mut raw = self.raw(prompt, &played);
        let completions: Vec<Completion> = played.into_iter().map(|played| played.completion).collect();
        if let Some(jury) = &self.jury {
            jury.judge(step, &self.board.prompts[prompt], &completions, &mut raw);
        }
        let record = record(step, &self.board.prompts[prompt], completions, raw, |place| self.is_attacker(place));
        let sequence = Sequence(step as u64 + 1);
        let outcome = self.state.fold(&self.rules, sequence, &record);
        self.scores.fold(sequence, &record, &outcome, FoldRules::from(&self.board.config.weights));
        self.count_zeroed(&record, &outcome);
        if self.attackers > 0 && self.capture(&self.weights()) > FOUND_OUT {
            self.last_above = Some(step);
        }
        (record, outcome)
    }

    /// Who is asked, and what they say.
    fn played(&self, step: usize, prompt: usize) -> Vec<Played> {
        let mut rng = self.seed.rng("adversary/step", &[step as u64]);
        let moment = Moment { step, steps: self.setting.steps };
        let mut present: Vec<(usize, Option<Presence>)> = (0..self.setting.uids)
            .map(|uid| (uid, self.is_attacker(uid).then(|| self.attack.strategy.part(moment, rng.random()))))
            .filter(|(_, part)| *part != Some(Presence::Away))
            .collect();
        present.shuffle(&mut rng);
        present.truncate(self.setting.asked);
        let round = (step / self.board.prompts.len()) as i64;
        let honest = &self.board.prompts[prompt].honest;
        // No two honest miners of a step have one author.
        let mut authors = [0; TIERS.len()];
        let mut author = |tier: usize| {
            authors[tier] += 1;
            &honest[tier][(authors[tier] - 1) % honest[tier].len()]
        };
        let mut attackers = 0;
        let mut played = Vec::with_capacity(present.len());
        for (uid, part) in present {
            let here = Some((prompt, round));
            let (text, about, seconds) = match part {
                None => {
                    let brief = self.board.brief.get(prompt).and_then(Option::as_ref).filter(|_| is_brief(uid));
                    (Some(brief.unwrap_or_else(|| author(self.tier(uid)))), here, HONEST_SECONDS)
                }
                Some(Presence::Works) => (Some(author(0)), here, HONEST_SECONDS),
                Some(Presence::Hangs | Presence::Away) => (None, here, HONEST_SECONDS),
                Some(Presence::Answers) => {
                    let variants = &self.attack.said[prompt];
                    attackers += 1;
                    (variants[(attackers - 1) % variants.len()].as_ref(), self.about(prompt, round), self.seconds())
                }
            };
            let Some(text) = text else {
                played.push(Played { completion: silent(uid, DEADLINE_SECONDS), place: None, about });
                continue;
            };
            let completion = answered(uid, text, rng.random_range(seconds));
            played.push(Played { completion, place: self.board.sheets[prompt].places.get(text).copied(), about });
        }
        played
    }

    fn about(&self, prompt: usize, round: i64) -> Option<(usize, i64)> {
        match self.attack.strategy.about() {
            About::Prompt => Some((prompt, round)),
            About::Nothing => None,
            About::EarlierPrompt => {
                let before = earlier(prompt, self.board.prompts.len());
                Some((before, if before < prompt { round } else { round - 1 }))
            }
        }
    }

    fn seconds(&self) -> std::ops::Range<f64> {
        match self.attack.strategy.haste() {
            Haste::First => FIRST_SECONDS,
            Haste::Usual => HONEST_SECONDS,
            Haste::AfterOthers => LATE_SECONDS,
        }
    }

    /// The raw scores of a step, put together from the sheet of its prompt.
    fn raw(&self, prompt: usize, played: &[Played]) -> RawScores {
        let sheet = &self.board.sheets[prompt];
        let pick = |column: &Column| Column {
            name: column.name.clone(),
            values: played.iter().map(|played| column.values[played.place?]).collect(),
        };
        let rewards = sheet.raw.rewards.iter().map(pick).collect();
        let mut filters: Vec<Column> = sheet.raw.filters.iter().map(pick).collect();
        let Some(embedded) = &sheet.raw.embeddings else {
            return RawScores { rewards, filters, ..RawScores::default() };
        };
        let row = |played: &Played| {
            let row = *sheet.rows.get(&played.place?)?;
            Some(embedded.rows[row * embedded.width..][..embedded.width].to_vec())
        };
        // Of those that were admitted: a refused text has no factor.
        let admitted: Vec<usize> = (0..played.len()).filter(|at| admitted(&filters, *at)).collect();
        let rows: Vec<Option<Vec<f32>>> = admitted.iter().map(|at| row(&played[*at])).collect();
        let silent: Vec<bool> = admitted.iter().map(|at| played[*at].completion.text.trim().is_empty()).collect();
        let arrived: Vec<f64> = admitted.iter().map(|at| played[*at].completion.elapsed_seconds).collect();
        let factors = self.diversity.factors(&rows, &silent, &arrived);
        if let Some(column) = filters.iter_mut().find(|column| column.name == diversity::NAME) {
            admitted.iter().zip(factors).for_each(|(at, factor)| column.values[*at] = factor);
        }
        let mut kept =
            Embeddings { model: embedded.model.clone(), width: embedded.width, completions: vec![], rows: vec![] };
        let mut rotations = BTreeMap::new();
        for (at, row) in admitted.iter().zip(rows) {
            if let Some(row) = row {
                kept.completions.push(*at);
                match played[*at].about {
                    None => kept.rows.extend(row),
                    Some(about) => {
                        let turn = rotations.entry(about).or_insert_with(|| self.rotation(about, embedded.width));
                        kept.rows.extend(turn.iter().map(|(from, sign)| sign * row[*from]));
                    }
                }
            }
        }
        RawScores { rewards, filters, embeddings: Some(kept), ..RawScores::default() }
    }

    /// How the rows of texts about this are turned before the history sees them: for each number where it comes from, and
    /// its sign. A prompt that comes again stands for one about something else: all rows about it are turned by one
    /// rotation, which keeps every distance within the step and none to other rounds.
    fn rotation(&self, (prompt, round): (usize, i64), width: usize) -> Vec<(usize, f32)> {
        let mut rng = self.seed.rng("adversary/turn", &[prompt as u64, round.rem_euclid(1 << 32) as u64]);
        let mut order: Vec<usize> = (0..width).collect();
        order.shuffle(&mut rng);
        order.into_iter().map(|from| (from, if rng.random() { 1.0 } else { -1.0 })).collect()
    }

    fn count_zeroed(&mut self, record: &StepRecord, outcome: &StepOutcome) {
        let Some(scored) = outcome.scored() else { return };
        for (at, completion) in record.completions.iter().enumerate() {
            if self.is_attacker(usize::from(completion.uid.0)) {
                continue;
            }
            let left: f32 = scored.filters.iter().map(|filter| filter.values[at].unwrap_or(0.0)).product();
            self.honest_texts += 1;
            self.honest_zeroed += u64::from(left < ZEROED);
        }
    }

    /// Attackers hold the first uids: what a uid is called means nothing to anyone.
    fn is_attacker(&self, uid: usize) -> bool {
        uid < self.attackers
    }

    /// Honest miners are of each tier in turn.
    fn tier(&self, uid: usize) -> usize {
        uid % TIERS.len()
    }

    /// The share of each uid in the vector that would go to the chain.
    fn weights(&self) -> Vec<f64> {
        let mut raw = vec![0.0_f32; self.setting.uids];
        for row in self.scores.table().rows {
            let uid = usize::from(u16::from_be_bytes([row.hotkey.0[0], row.hotkey.0[1]]));
            raw[uid] = row.score as f32;
        }
        let sum: f32 = raw.iter().sum();
        if sum <= 0.0 {
            return vec![0.0; self.setting.uids];
        }
        raw.iter_mut().for_each(|score| *score /= sum);
        let limits = Limits { neurons: self.setting.uids, min_allowed: 0, max_share: 1.0, exclude_quantile: 0.0 };
        let emitted = process(&raw, &limits).and_then(|shares| emit(&shares)).unwrap_or_default();
        let total: f64 = emitted.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mut weights = vec![0.0; self.setting.uids];
        for (uid, weight) in emitted {
            weights[usize::from(uid.0)] = f64::from(weight) / total;
        }
        weights
    }

    fn capture(&self, weights: &[f64]) -> f64 {
        let captured: f64 = weights[..self.attackers].iter().sum();
        captured / (self.attackers as f64 / self.setting.uids as f64)
    }

    fn outcome(&self) -> Outcome {
        let weights = self.weights();
        let honest = &weights[self.attackers..];
        let tiers: Vec<f64> = (self.attackers..self.setting.uids).map(|uid| -(self.tier(uid) as f64)).collect();
        let mean = |texts: &mut dyn Iterator<Item = &Arc<str>>| {
            let (sum, count) = texts.fold((0, 0), |(sum, count), text| (sum + text.chars().count(), count + 1));
            sum as f64 / f64::from(count.max(1))
        };
        let theirs = mean(&mut self.attack.said.iter().flatten().flatten());
        let ours = mean(&mut self.board.prompts.iter().flat_map(|prompt| prompt.honest.iter().flatten()));
        let found_out_after = self.last_above.map_or(0, |step| step + 1);
        Outcome {
            capture: self.capture(&weights),
            rank_correlation: spearman(&some(honest), &some(&tiers)).map_or(0.0, f64::from),
            honest_zeroed: self.honest_zeroed as f64 / (self.honest_texts as f64).max(1.0),
            found_out_after: (found_out_after < self.setting.steps).then_some(found_out_after),
            length: theirs / ours,
        }
    }
}

/// Whether the completion has any factor at all: it came, and was not refused for its length.
fn admitted(filters: &[Column], at: usize) -> bool {
    filters.iter().any(|column| column.values[at].is_some())
}

/// A step of the benchmark as the ledger has it.
pub(super) fn record(
    step: usize,
    prompt: &Prompt,
    completions: Vec<Completion>,
    raw: RawScores,
    is_attacker: impl Fn(usize) -> bool,
) -> StepRecord {
    let asked = |completion: &Completion| {
        let place = usize::from(completion.uid.0);
        let (uid, hotkey) = identity(place);
        let origin = origin(place, is_attacker(place));
        Asked { uid, hotkey, propensity: 1.0, uniform_propensity: None, origin }
    };
    StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(step as u64), index: 0 },
        name: prompt.name,
        block: Block(step as u64),
        started_at: 0.0,
        length_seconds: 0.0,
        seed: 0,
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: String::new(),
        prompt: prompt.prompt.to_string(),
        embedding: None,
        base_text: prompt.base_text.to_string(),
        asked: completions.iter().map(asked).collect(),
        completions,
        scoring: Scoring::Scored(raw),
        digests: BTreeMap::new(),
    }
}

fn some(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

#[cfg(test)]
mod tests;
