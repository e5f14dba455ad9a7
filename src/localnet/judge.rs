//! An honest miner as a judge: a validator may show it a task and what another miner made of it, and ask for a grade from 0
//! to 10. Its grade is what it can see: whether the words stand together as they do in the text the task is about. That is
//! what lesser miners harm ([`super::grade`]).

use std::collections::HashSet;

use rand::Rng;

use crate::localnet::{kinds::Tier, text};

/// Ends a prompt that asks for a grade.
const ASKS_FOR_GRADE: &str = "<Score>";
/// A completion of more than this share of the task's words gives the task back.
const ECHO_SHARE: f64 = 0.8;
/// The best grade.
const BEST: f64 = 10.0;

/// What is to be graded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case<'a> {
    /// What was asked of the other miner.
    pub task: &'a str,
    /// What it completed.
    pub completion: String,
}

/// The last case of a prompt that asks for a grade; `None` of any other prompt.
#[must_use]
pub fn read(prompt: &str) -> Option<Case<'_>> {
    let prompt = prompt.trim_end().strip_suffix(ASKS_FOR_GRADE)?;
    let (task, rest) = prompt.rsplit_once("<Task>\n")?.1.split_once("\n</Task>")?;
    let (_, rest) = rest.split_once(">\n")?;
    let (completion, _) = rest.rsplit_once("\n</")?;
    let unquoted = |line: &str| line.strip_prefix("> ").unwrap_or(line).to_owned();
    Some(Case { task, completion: completion.lines().map(unquoted).collect::<Vec<_>>().join("\n") })
}

/// The grade that a miner of this tier gives: a good one what it sees, others more or less.
#[must_use]
pub fn grade(tier: Tier, case: &Case<'_>, rng: &mut impl Rng) -> String {
    let off: i8 = match tier {
        Tier::Good => 0,
        Tier::Fair => rng.random_range(-1..=1),
        Tier::Poor => rng.random_range(-3..=3),
    };
    let grade = (BEST * merit(case)).round() + f64::from(off);
    format!("{}", grade.clamp(0.0, BEST))
}

/// The share of the completion's neighbouring words that are neighbours in the task too; 0 for the task given back.
fn merit(Case { task, completion }: &Case<'_>) -> f64 {
    let (task, completion) = (words(task), words(completion));
    if completion.len() < 2 || completion.len() as f64 > ECHO_SHARE * task.len() as f64 {
        return 0.0;
    }
    let known: HashSet<&[String]> = task.windows(2).collect();
    let kept = completion.windows(2).filter(|pair| known.contains(pair)).count();
    kept as f64 / (completion.len() - 1) as f64
}

fn words(text: &str) -> Vec<String> {
    text::words(text).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use openvalidators_prompts::{Embedded, quote};
    use openvalidators_runtime::Seed;

    use super::*;
    use crate::localnet::answers::Author;

    /// The validator's own scoring prompt around a completion.
    fn asked(task: &str, completion: &str) -> String {
        let template = include_str!("../../actors/rewards/templates/augment.txt").trim_end();
        let quoted = quote::fence(&quote::clean(completion, 8_000));
        template.replace("{prompt}", task).replace("{completion}", &quoted)
    }

    #[test]
    fn the_last_case_of_a_scoring_prompt_is_read_and_no_other_prompt_is_one() {
        let prompt = asked("A text.\nSummarise it.", "One line.\n\nAnother.");
        let case = read(&prompt).unwrap();
        assert_eq!(case, Case { task: "A text.\nSummarise it.", completion: "One line.\n\nAnother.".to_owned() });
        assert_eq!(read("A text.\n\nSummarise the text in 2 sentences."), None);
        assert_eq!(read("<Score>"), None);
    }

    /// Good judges rank the tiers; what is no work at all gets next to nothing from everybody.
    #[test]
    fn grades_follow_the_quality_of_what_is_graded() {
        let seed = Seed(5);
        let author = |tier, index| Author { seed, index, tier };
        let mut sums = [0.0; 3];
        for passage in Embedded::new().passages().iter().take(12) {
            let task = format!("{}\n\nSummarise the text in five sentences.", passage.text);
            let given = |completion: &str| -> f64 {
                author(Tier::Good, 9).complete(&asked(&task, completion)).parse().unwrap()
            };
            for (sum, tier) in sums.iter_mut().zip([Tier::Good, Tier::Fair, Tier::Poor]) {
                *sum += given(&author(tier, 1).complete(&task)) / 12.0;
            }
            for worthless in [&task, "That is an excellent question.", "important excellent insightful relevant"] {
                let grade = given(worthless);
                assert!(grade <= 2.0, "{grade} for {worthless}");
            }
        }
        let [good, fair, poor] = sums;
        assert!(good > 7.0 && good > fair + 1.0 && fair > poor + 1.0, "{sums:?}");
    }

    #[test]
    fn a_lesser_miner_is_a_lesser_judge() {
        let task = format!("{}\n\nSummarise the text in five sentences.", Embedded::new().passages()[0].text);
        let seed = Seed(5);
        let completion = Author { seed, index: 1, tier: Tier::Fair }.complete(&task);
        let spread = |tier| {
            let grades = (0..40).map(|index| Author { seed, index, tier }.complete(&asked(&task, &completion)));
            grades.map(|grade| grade.parse::<u8>().unwrap()).collect::<HashSet<_>>().len()
        };
        assert_eq!(spread(Tier::Good), 1);
        assert!(spread(Tier::Fair) > 1 && spread(Tier::Poor) > spread(Tier::Fair));
    }
}
