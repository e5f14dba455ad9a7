//! The candidates of `rewards.shadows`, each played as if it were in force.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::{Context, ensure};
use openvalidators_rewards::{
    Inference, network,
    score::Scorer,
    shadow::benchmark::{Attacked, Benchmark, VERSION},
};
use openvalidators_runtime::{Seed, SharedClock};

use super::{
    Match,
    judges::Judging,
    play::{Attack, Board, Outcome, Setting},
    play_all,
    pool::{Prompt, Said},
    score_all,
};
use crate::config::Config;

/// How to read the table.
const LEGEND: &str = "\
Each candidate of `rewards.shadows` in the place of what it would replace, and what is in force. *Worst*: the strategy that \
captures most. *Rank* and *zeroed* are of the subnet without attackers. As a candidate, `network_reward_model` is asked of \
miners of whom the attackers collude.";

/// What a game needs but the rules.
pub struct Pool<'a> {
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// What the strategies say.
    pub said: &'a [Said],
    /// Models.
    pub inference: &'a Inference,
    /// How it is played.
    pub setting: Setting,
    /// Dice.
    pub seed: Seed,
    /// Time.
    pub clock: &'a SharedClock,
}

/// Plays every candidate against `attacks` and against nobody: the first of them. `in_force` is how the same ended with what
/// is in force. `None` where there is no candidate.
///
/// # Errors
/// When a model does not answer.
pub async fn measure(
    ours: &Config,
    pool: &Pool<'_>,
    attacks: &[Attack<'_>],
    in_force: &[Outcome],
) -> anyhow::Result<Option<Benchmark>> {
    let Some(share) = attacks.last().map(|attack| attack.share).filter(|_| !ours.rewards.shadows.is_empty()) else {
        return Ok(None);
    };
    let mut candidates = BTreeMap::new();
    for name in &ours.rewards.shadows {
        let promoted = Config { rewards: ours.rewards.promoting(name), ..ours.clone() };
        // Judges are asked in the game; all else is scored beforehand, as ever.
        let judged = name == network::NAME;
        let scored = if judged { ours } else { &promoted };
        let scorer = Scorer::new(&scored.rewards, pool.inference.clone(), pool.clock.clone())?;
        let sheets = score_all(pool.prompts, pool.said, &scorer).await?;
        let judging = judged.then(|| Judging::new(&promoted, pool.inference.clone())).transpose()?;
        let board = Board { prompts: pool.prompts, sheets: &sheets, config: &promoted, judging, brief: &[] };
        let matches: Vec<Match<'_>> = attacks.iter().map(|attack| Match { board: &board, attack: *attack }).collect();
        let outcomes = play_all(&matches, pool.setting, pool.seed);
        candidates.insert(name.clone(), attacked(attacks, &outcomes));
    }
    let settings = ours.rewards.digest();
    Ok(Some(Benchmark { version: VERSION, settings, share, in_force: attacked(attacks, in_force), candidates }))
}

/// Nobody first, then one outcome for each strategy.
fn attacked(attacks: &[Attack<'_>], outcomes: &[Outcome]) -> Attacked {
    let captures = attacks.iter().zip(outcomes).skip(1);
    let capture = captures.map(|(attack, outcome)| (attack.strategy.name().to_owned(), outcome.capture)).collect();
    let (rank_correlation, honest_zeroed) =
        outcomes.first().map_or((0.0, 0.0), |nobody| (nobody.rank_correlation, nobody.honest_zeroed));
    Attacked { capture, rank_correlation, honest_zeroed }
}

/// Writes the file of `rewards.shadow_benchmark`.
///
/// # Errors
/// When there is nothing to write, or it cannot be written.
pub fn write(benchmark: Option<&Benchmark>, file: &Path) -> anyhow::Result<()> {
    let benchmark = benchmark.with_context(|| format!("--candidates {}: there are none", file.display()))?;
    let text = serde_json::to_string_pretty(benchmark)? + "\n";
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Whether there is anything to write.
///
/// # Errors
/// When no candidate is named.
pub fn check(ours: &Config, file: Option<&Path>) -> anyhow::Result<()> {
    ensure!(
        file.is_none() || !ours.rewards.shadows.is_empty(),
        "--candidates is given and rewards.shadows names none: name them, e.g. --set 'rewards.shadows=[\"rank_normaliser\"]'"
    );
    Ok(())
}

/// The section of the page, from its heading on; nothing where no candidate was played.
#[must_use]
pub fn section(benchmark: Option<&Benchmark>) -> String {
    let Some(Benchmark { share, in_force, candidates, .. }) = benchmark else { return String::new() };
    let mut text = format!(
        "## Candidates\n\n| in force | worst capture at {:.0} % | by | rank | zeroed |\n|---|---|---|---|---|\n",
        100.0 * share
    );
    let all = candidates.iter().map(|(name, attacked)| (format!("`{name}`"), attacked));
    for (name, attacked) in [("*as configured*".to_owned(), in_force)].into_iter().chain(all) {
        let Attacked { rank_correlation, honest_zeroed, .. } = attacked;
        let (strategy, worst) = attacked.worst().unwrap_or(("–", 0.0));
        let zeroed = 100.0 * honest_zeroed;
        let _ = writeln!(text, "| {name} | {worst:.2} | {strategy} | {rank_correlation:.2} | {zeroed:.1} % |");
    }
    text + "\n" + LEGEND + "\n\n"
}
