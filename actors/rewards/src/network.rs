//! Miners as judges of each other: the scoring prompt of [`crate::prompt`] goes to some of the miners that completed the
//! step, never to a completion's author, and the median of their grades is the score. The experiment that openvalidators
//! began with its prompt-scored reward: outsource the reward mechanism to the network.
//!
//! It judges a sample of the completions, within a budget of queries; every grade is recorded with its judge
//! ([`openvalidators_messages::Judgement`]). As a shadow it has no number for the others. In force it gives those the
//! median of the judged, and everybody the middle grade where nobody was judged: what was not judged makes no difference.

pub mod asking;
pub mod bias;
pub mod past;
pub mod verdict;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use openvalidators_messages::{Completion, Judgement, dendrite::Query, gating::Routed, inference::ModelName};
use rand::seq::{IndexedRandom, index};

pub use asking::{Asks, Network};
use bias::Bench;
pub use past::Past;

use crate::{
    config::{NetworkConfig, PromptConfig},
    function::{RewardFunction, Values},
    prompt::{BEST_GRADE, TemplateError, Templates, grade},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "network_reward_model";

/// The role of the one message of the `Prompting` synapse.
const ROLE: &str = "user";

/// A longer answer is no grade, whatever numbers stand in it: an echo of the prompt holds many.
const ANSWER_LIMIT_CHARACTERS: usize = 200;

/// What everybody gets while nobody is judged.
const MIDDLE: f32 = 0.5;

/// The reward: a tenth of the median grade.
pub struct Judges {
    config: NetworkConfig,
    templates: Templates,
    in_force: bool,
}

/// One completion before its judges.
struct Case {
    text: usize,
    judges: Vec<Routed>,
}

// === impl Judges ===

impl Judges {
    /// As configured, with the wording of the prompt-scored reward.
    ///
    /// # Errors
    /// When a file that replaces a template cannot be used.
    pub fn new(config: &NetworkConfig, prompt: &PromptConfig, in_force: bool) -> Result<Self, TemplateError> {
        Ok(Self { config: config.clone(), templates: Templates::read(&prompt.templates)?, in_force })
    }

    /// Which completions are judged and by whom: drawn from the step, so that the same step draws the same.
    fn cases(&self, step: &Step, network: &Network) -> Vec<Case> {
        let path = [step.id.forward.0, u64::from(step.id.index)];
        let mut rng = network.seed().rng("rewards/judges", &path);
        let serving = network.serving(&step.authors);
        let count = self.config.completions_per_step.min(step.texts.len());
        let mut cases = Vec::with_capacity(count);
        for text in index::sample(&mut rng, step.texts.len(), count) {
            let author = step.authors[text];
            let others: Vec<Routed> = serving.iter().filter(|miner| miner.hotkey != author).copied().collect();
            let judges: Vec<Routed> = others.choose_multiple(&mut rng, self.config.judges).copied().collect();
            if judges.len() == self.config.judges {
                cases.push(Case { text, judges });
            }
        }
        cases
    }

    async fn hear(&self, step: &Step, network: &Network, case: &Case) -> Vec<Judgement> {
        let template = self.templates.of(step.kind);
        let message = template.text(&step.prompt, &step.texts[case.text], |text| network.quote(text));
        let query = Query {
            step: step.id,
            miners: case.judges.clone(),
            roles: Arc::new([ROLE.to_owned()]),
            messages: Arc::new([message]),
            timeout: Duration::from_secs_f64(self.config.timeout_seconds),
        };
        let answers = network.ask(query).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "judges could not be asked");
            Vec::new()
        });
        let completion = step.places[case.text];
        let judgement = |(place, judge): (usize, &Routed)| {
            let grade = answers.get(place).filter(|answer| answer.hotkey == judge.hotkey).and_then(graded);
            Judgement { completion, judge: judge.hotkey, grade }
        };
        case.judges.iter().enumerate().map(judgement).collect()
    }
}

/// The grade in an answer, if it came and is one.
fn graded(answer: &Completion) -> Option<u8> {
    let text = answer.text.trim();
    let short = text.chars().nth(ANSWER_LIMIT_CHARACTERS).is_none();
    if answer.is_success() && short { grade(text) } else { None }
}

#[async_trait(?Send)]
impl RewardFunction for Judges {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        Vec::new()
    }

    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        let Some(network) = step.network() else {
            return Err(AskError::Judges("miners can be asked by a validator that runs, and by nothing else"));
        };
        let mut cases = self.cases(step, network);
        let anybody = !cases.is_empty();
        cases.retain(|case| network.spend(case.judges.len() as u64, self.config.queries_per_epoch));
        let judgements = join_all(cases.iter().map(|case| self.hear(step, network, case))).await.concat();
        let mut values: Values = vec![None; step.texts.len()];
        let benches = Bench::of(&judgements);
        for case in &cases {
            let bench = benches.iter().find(|bench| bench.completion == step.places[case.text]);
            let verdict = bench.and_then(Bench::verdict);
            values[case.text] = verdict.map(|verdict| verdict.median / f32::from(BEST_GRADE));
        }
        step.note_judgements(judgements);
        if self.in_force {
            let neutral = median(&values).unwrap_or(MIDDLE);
            return Ok(values.into_iter().map(|value| value.or(Some(neutral))).collect());
        }
        match (anybody, cases.is_empty()) {
            (false, _) => Err(AskError::Judges("the step has too few miners that could judge")),
            (true, true) => {
                Err(AskError::Judges("the queries of this epoch are spent (rewards.network.queries_per_epoch)"))
            }
            _ => Ok(values),
        }
    }
}

fn median(values: &[Option<f32>]) -> Option<f32> {
    let mut there: Vec<f32> = values.iter().flatten().copied().collect();
    there.sort_by(f32::total_cmp);
    there.get(there.len() / 2).copied()
}

#[cfg(test)]
pub(crate) mod tests;
