//! Colluding judges: attackers who are asked to grade give each other 10 and everybody else 0.
//!
//! This is no [`super::strategy::Strategy`]: such a miner says nothing to a prompt that a [`super::strategy::View`] could
//! show; it lies about what others said. So it is played by itself: completions of the pool are graded by miners of the
//! local network, as a validator asks them, and the real verdict is taken of what they say.

use openvalidators_rewards::{
    PromptTemplates,
    network::verdict::Verdict,
    prompt::{BEST_GRADE, Templates, grade},
};
use openvalidators_runtime::Seed;
use rand::{Rng, seq::index};
use serde::Serialize;

use super::pool::{Prompt, TIERS};
use crate::{
    localnet::{Tier, answers::Author},
    topology::quoted,
};

/// How many judges a completion may have.
const BENCHES: [usize; 4] = [1, 3, 5, 7];

/// Completions judged for each number.
const ROUNDS: usize = 300;

/// Miners in a step.
const MINERS: usize = 50;

/// What collusion brings where each completion has so many judges.
#[derive(Clone, Debug, Serialize)]
pub struct Collusion {
    /// Judges of a completion.
    pub judges: usize,
    /// For each share of attackers: what they earn over their share, were these grades the only reward.
    pub captures: Vec<Captured>,
}

/// What attackers earn over their share of the miners; they do the work of poor miners.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Captured {
    /// When they judge honestly.
    pub honest: f64,
    /// When they collude, and the mean of the grades counts.
    pub mean: f64,
    /// When they collude, and the median does, as in the validator.
    pub median: f64,
}

/// The grades of one completion.
struct Graded {
    by_attacker: bool,
    honest: Vec<u8>,
    lied: Vec<u8>,
}

/// Plays every number of judges at every share.
///
/// # Errors
/// When the built-in wording cannot be used.
pub fn play(prompts: &[Prompt], shares: &[f64], seed: Seed) -> anyhow::Result<Vec<Collusion>> {
    let templates = Templates::read(&PromptTemplates::default())?;
    let captures = |judges| shares.iter().map(|share| captured(prompts, &templates, judges, *share, seed)).collect();
    Ok(BENCHES.into_iter().map(|judges| Collusion { judges, captures: captures(judges) }).collect())
}

fn captured(prompts: &[Prompt], templates: &Templates, judges: usize, share: f64, seed: Seed) -> Captured {
    let attackers = ((share * MINERS as f64).round() as usize).max(1);
    let mut rng = seed.rng("adversary/judges", &[judges as u64, attackers as u64]);
    let rounds: Vec<Graded> = (0..ROUNDS)
        .map(|_| {
            let prompt = &prompts[rng.random_range(0..prompts.len())];
            let author = rng.random_range(0..MINERS);
            graded(prompt, templates, seed, author, attackers, &others(author, judges, &mut rng))
        })
        .collect();
    let value = |grades: &[u8]| Verdict::of(grades, judges).map_or(0.0, |verdict| f64::from(verdict.median));
    let mean = |grades: &[u8]| grades.iter().map(|grade| f64::from(*grade)).sum::<f64>() / judges as f64;
    let capture = |of: &dyn Fn(&Graded) -> f64| {
        let average = |values: Vec<f64>| values.iter().sum::<f64>() / (values.len() as f64).max(1.0);
        let theirs = average(rounds.iter().filter(|round| round.by_attacker).map(of).collect());
        theirs / average(rounds.iter().map(of).collect())
    };
    Captured {
        honest: capture(&|round| value(&round.honest)),
        mean: capture(&|round| mean(&round.lied)),
        median: capture(&|round| value(&round.lied)),
    }
}

/// So many miners other than the author.
fn others(author: usize, judges: usize, rng: &mut impl Rng) -> Vec<usize> {
    index::sample(rng, MINERS - 1, judges).into_iter().map(|place| place + usize::from(place >= author)).collect()
}

/// A completion graded by its judges, honestly and not. Attackers hold the first places.
fn graded(
    prompt: &Prompt,
    templates: &Templates,
    seed: Seed,
    author: usize,
    attackers: usize,
    judges: &[usize],
) -> Graded {
    let by_attacker = author < attackers;
    let tier = |miner: usize| if miner < attackers { TIERS.len() - 1 } else { miner % TIERS.len() };
    let written = &prompt.honest[tier(author)];
    let text = &written[author % written.len()];
    let asked = templates.of(prompt.name.kind()).text(&prompt.prompt, text, quoted);
    let says = |judge: &usize| {
        let tier: Tier = TIERS[tier(*judge)];
        let miner = Author { seed, index: u16::try_from(*judge).unwrap_or(u16::MAX), tier };
        grade(&miner.complete(&asked)).unwrap_or(0)
    };
    let honest: Vec<u8> = judges.iter().map(says).collect();
    let lie = |(judge, grade): (&usize, &u8)| match (*judge < attackers, by_attacker) {
        (false, _) => *grade,
        (true, true) => BEST_GRADE,
        (true, false) => 0,
    };
    let lied = judges.iter().zip(&honest).map(lie).collect();
    Graded { by_attacker, honest, lied }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::adversary::pool;

    /// One judge hands an attacker what it likes; the median of five resists a minority.
    #[test]
    fn more_judges_leave_colluders_less() {
        let prompts = pool::prompts(2, 12, Seed(4)).unwrap();
        let played = play(&prompts, &[0.15], Seed(4)).unwrap();
        let at = |judges| played.iter().find(|played| played.judges == judges).unwrap().captures[0];
        assert!(at(1).median > at(1).honest, "{played:?}");
        assert!(at(5).median < at(1).median && at(7).median < at(5).mean, "{played:?}");
        assert!(at(7).median < 1.0, "poor work stays poor work: {played:?}");
    }
}
