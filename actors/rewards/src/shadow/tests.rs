use std::sync::Arc;

use async_trait::async_trait;
use openvalidators_messages::{Sequence, StepOutcome, StepRecord};
use openvalidators_runtime::{Clock, DrivenClock};

use super::*;
use crate::{
    combination::Weights,
    config::Config,
    fold::{Rules, State},
    neighbours::neighbours,
    registry,
    samples::{answered, column, raw, record, score},
    score::Scorer,
};

const TEXTS: [&str; 3] = ["The first text.", "A second text here.", "And a third one, longer than both."];

/// What a candidate of a test does.
enum Does {
    Counts,
    Fails,
    Hangs,
}

struct Odd(Does);

#[async_trait(?Send)]
impl RewardFunction for Odd {
    fn name(&self) -> &'static str {
        "prompt_reward_model"
    }

    fn models(&self) -> Vec<ModelName> {
        vec![ModelName::new("not loaded")]
    }

    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        match self.0 {
            Does::Counts => Ok(step.texts.iter().map(|text| Some(text.len() as f32)).collect()),
            Does::Fails => Err(AskError::Judges("a test")),
            Does::Hangs => std::future::pending().await,
        }
    }
}

async fn said(does: Does) -> Said {
    let clock = Arc::new(DrivenClock::new(Duration::ZERO));
    let shadows =
        Shadows::new(vec![Candidate::Reward(Box::new(Odd(does)))], Duration::from_secs(2), 1.0, clock.clone());
    let neighbours = neighbours(|_| vec![1.0, 0.5], |_| Some(-1.0));
    let texts: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    let step = crate::samples::step("augment", "p", &texts, Config::default().admission(), &neighbours.inference);
    let asking = shadows.ask(&step);
    tokio::pin!(asking);
    for _ in 0..10 {
        tokio::select! {
            biased;
            said = &mut asking => return said,
            () = tokio::task::yield_now() => clock.advance(Duration::from_secs(1)),
        }
    }
    panic!("a candidate kept the step waiting until {:?}", clock.now());
}

#[actix::test]
async fn a_candidate_that_fails_or_hangs_says_nothing_and_why() {
    let found = said(Does::Counts).await;
    assert_eq!(found.rewards, [column("prompt_reward_model", vec![Some(15.0), Some(19.0), Some(34.0)])]);
    assert_eq!(found.shadows[0].failure, None);
    for (does, words) in [(Does::Fails, "a test"), (Does::Hangs, "no answer within 2 s")] {
        let found = said(does).await;
        assert!(found.rewards.is_empty());
        let failure = found.shadows[0].failure.clone().unwrap();
        assert!(failure.contains(words), "{failure}");
    }
}

/// Before, a shadow whose model failed left the step unscored for everybody.
#[actix::test]
async fn a_failing_shadow_leaves_the_step_as_it_is_without_it() {
    let plain = Config::default();
    let mut shadowed = plain.clone();
    // The model is not loaded, and nobody serves the network here.
    shadowed.shadows = ["network_reward_model", "nsfw_filter", "rank_normaliser"].map(str::to_owned).into();
    let sheet = async |config: &Config| {
        let neighbours = neighbours(crate::neighbours::any_row, |text| Some(-(text.len() as f32)));
        let clock = Arc::new(DrivenClock::new(Duration::ZERO));
        let scorer = Scorer::new(config, neighbours.inference.clone(), clock).unwrap();
        let texts: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
        let score = score("augment", "p", "p", &[], answered(&texts));
        let (admission, inference) = scorer.admission();
        scorer.score(&Step::new(&score, admission, inference)).await.unwrap()
    };
    let (without, with) = (sheet(&plain).await, sheet(&shadowed).await);
    assert_eq!((&without.raw.rewards, &without.raw.filters), (&with.raw.rewards, &with.raw.filters));
    assert_eq!(without.digests, with.digests);
    let noted: Vec<_> = with.raw.shadows.iter().map(|shadow| (&*shadow.name, shadow.failure.is_some())).collect();
    assert_eq!(noted, [("network_reward_model", true), ("nsfw_filter", true)]);
}

fn scored(outcome: &StepOutcome) -> &openvalidators_messages::Scored {
    outcome.scored().unwrap()
}

fn step_with_shadows() -> StepRecord {
    let mut scores = raw(&[Some(-1.0), Some(-2.0), Some(-3.0), Some(-4.0)], None);
    scores.rewards.push(column("prompt_reward_model", vec![Some(0.9), Some(0.7), None, Some(0.2)]));
    let shadow = |name: &str, factors: Vec<Option<f32>>, failure: Option<&str>| Shadow {
        name: name.to_owned(),
        seconds: 1.5,
        factors,
        failure: failure.map(str::to_owned),
    };
    scores.filters[0].values = vec![Some(1.0), Some(1.0), Some(0.5), Some(0.0)];
    scores.shadows = vec![
        shadow("prompt_reward_model", vec![], None),
        shadow("firewall_filter", vec![Some(0.0), Some(1.0), Some(1.0), Some(1.0)], None),
        shadow("rlhf_reward_model", vec![], Some("out of memory")),
    ];
    record(&[true; 4], scores)
}

#[test]
fn candidates_stand_beside_what_they_would_replace() {
    let mut config = Config::default();
    config.shadows.insert("rank_normaliser".to_owned());
    let outcome = State::default().fold(&Rules::new(&config), Sequence(1), &step_with_shadows());
    let standing = |at: usize| {
        let ShadowStanding { name, correlation, blocked, .. } = &scored(&outcome).shadows[at];
        (&**name, *correlation, *blocked)
    };
    assert_eq!(standing(0), ("prompt_reward_model", Some(1.0), None));
    let (name, correlation, blocked) = standing(1);
    assert!(name == "firewall_filter" && correlation.unwrap() < 0.0 && blocked == Some(0.25), "{correlation:?}");
    assert_eq!(standing(2), ("rlhf_reward_model", None, None));
    assert_eq!(standing(3), ("rank_normaliser", Some(1.0), None));
}

/// Whatever is shadowed: rewards, filters, best, and what the fold of everything else remembers.
#[test]
fn a_shadow_changes_no_reward() {
    let config = Config::default();
    let mut shadowed = config.clone();
    shadowed.shadows = registry::candidate_names().map(str::to_owned).collect();
    let with = step_with_shadows();
    let mut without = with.clone();
    if let openvalidators_messages::Scoring::Scored(raw) = &mut without.scoring {
        raw.rewards.truncate(1);
        raw.shadows.clear();
    }
    let (mut one, mut other) = (State::default(), State::default());
    for sequence in 1..4 {
        let one = one.fold(&Rules::new(&config), Sequence(sequence), &without);
        let other = other.fold(&Rules::new(&shadowed), Sequence(sequence), &with);
        let (one, other) = (scored(&one), scored(&other));
        assert_eq!((&one.rewards, &one.filters, one.best), (&other.rewards, &other.filters, other.best));
        assert_eq!(one.normalised[0], other.normalised[0]);
    }
    other.normalisers.forget("prompt_reward_model");
    assert_eq!((one.normalisers, one.history), (other.normalisers, other.history));
}

/// A second opinion that sees a part: the lesser counts there, and nowhere else.
#[test]
fn a_second_reward_bounds_those_it_saw() {
    let mut config = Config::default();
    config.defences.robust_normaliser = false;
    config.shadows.insert("prompt_reward_model".to_owned());
    let fold = |config: &Config| {
        let mut record = step_with_shadows();
        if let openvalidators_messages::Scoring::Scored(raw) = &mut record.scoring {
            raw.rewards[0].values = vec![Some(-1.0), Some(-1.1), Some(-1.2), Some(-9.0)];
            raw.rewards[1].values = vec![Some(0.1), None, Some(0.2), Some(0.9)];
            raw.filters[0].values = vec![Some(1.0), Some(1.0), Some(0.5), Some(1.0)];
        }
        let outcome = State::default().fold(&Rules::new(config), Sequence(1), &record);
        let [sum, second] = [0, 1].map(|at| scored(&outcome).normalised[at].values.clone());
        (scored(&outcome).rewards.iter().map(|reward| reward.get()).collect::<Vec<_>>(), sum, second)
    };
    let (free, ..) = fold(&config);
    config.bounded_by = Some("prompt_reward_model".to_owned());
    let (bounded, sum, second) = fold(&config);
    assert_eq!(bounded[0], second[0].unwrap());
    assert!(bounded[0] < free[0]);
    assert_eq!(bounded[1], free[1], "the second model did not see it");
    assert_eq!(bounded[2], 0.5 * second[2].unwrap(), "and filters count as ever");
    assert_eq!(bounded[3], sum[3].unwrap(), "the first said less");
}

/// The same completions for the same step, about as many as the share says, and never none.
#[actix::test]
async fn a_share_of_the_texts_is_drawn_from_the_step() {
    let neighbours = neighbours(|_| vec![1.0, 0.5], |_| Some(-1.0));
    let texts: Vec<String> = (0..40).map(|at| format!("Text {at}.")).collect();
    let mut score = score("augment", "p", "p", &[], answered(&texts));
    let mut drawn = |forward: u64, share: f64| {
        score.step.forward = openvalidators_messages::ForwardId(forward);
        let step = Step::new(&score, Config::default().admission(), neighbours.inference.clone()).sample(share);
        assert_eq!(step.scatter(&vec![Some(1.0); step.texts.len()]).len(), 40);
        assert!(step.places.iter().zip(&step.texts).all(|(place, text)| **text == texts[*place]));
        step.places.clone()
    };
    assert_eq!(drawn(1, 0.25).len(), 10);
    assert_eq!(drawn(1, 0.25), drawn(1, 0.25));
    assert_ne!(drawn(1, 0.25), drawn(2, 0.25));
    assert_eq!(drawn(1, 0.001).len(), 1);
}

/// Before, each step was the first that a candidate saw. What it remembers survives a restart and is the same when steps are
/// played again; its cost is measured where a clock is.
#[test]
fn a_candidate_for_the_normaliser_remembers_as_one_in_force_does() {
    let shadowed = Config { shadows: ["running_normaliser".to_owned()].into(), ..Config::default() };
    let mut running = Config::default();
    running.defences.robust_normaliser = false;
    let steps: Vec<StepRecord> = (0..6_u8)
        .map(|at| {
            let spread = [-1.0, -2.0, -3.0, -4.0].map(|score| Some(score * f32::from(at + 1)));
            record(&[true; 4], raw(&spread, None))
        })
        .collect();
    let (mut shadow, mut in_force) = (State::default(), State::default());
    let (rules, clock) = (Rules::new(&shadowed), DrivenClock::new(Duration::ZERO));
    for (at, step) in (1..).zip(&steps) {
        let outcome = shadow.fold_timed(&rules, Sequence(at), step, Some(&clock));
        let standing = &scored(&outcome).shadows[0];
        assert_eq!((&*standing.name, standing.seconds), ("running_normaliser", Some(0.0)));
        in_force.fold(&Rules::new(&running), Sequence(at), step);
        let kept = crate::snapshot::encode(&shadow).unwrap();
        shadow = crate::snapshot::decode(&kept, &rules).unwrap();
    }
    assert_eq!(shadow.shadow_normalisers["running_normaliser"].running, in_force.normalisers.running);
    assert_eq!(in_force.normalisers.running["dpo_reward_model"].count, 24);
    let mut again = State::default();
    (1..).zip(&steps).for_each(|(at, step)| _ = again.fold(&rules, Sequence(at), step));
    let kept = [&again, &shadow].map(|state| crate::snapshot::encode(state).unwrap());
    assert_eq!(kept[0], kept[1], "measured or not, replay keeps the same state");

    // Promoted, it goes on with what it knows; left out, it is forgotten.
    let promoted = Config { normaliser: Some("running_normaliser".to_owned()), ..Config::default() };
    let outcome = shadow.fold(&Rules::new(&promoted), Sequence(7), &steps[0]);
    let expected = in_force.fold(&Rules::new(&running), Sequence(7), &steps[0]);
    assert_eq!(scored(&outcome).normalised, scored(&expected).normalised);
    assert!(shadow.shadow_normalisers.is_empty());
    again.fold(&Rules::new(&Config::default()), Sequence(7), &steps[0]);
    assert!(again.shadow_normalisers.is_empty());
}

/// Promotion: the same record under a configuration that gives the candidate the share.
#[test]
fn what_was_recorded_as_a_shadow_counts_once_it_has_a_share() {
    let ranked = Config { normaliser: Some("rank_normaliser".to_owned()), ..Config::default() };
    let outcome = State::default().fold(&Rules::new(&ranked), Sequence(1), &step_with_shadows());
    assert_eq!(scored(&outcome).normalised[0].values[0], Some(1.0), "the highest of its step");

    let weights = Weights::from([("prompt_reward_model".to_owned(), 1.0)]);
    let promoted = Config { weights, ..Config::default() };
    let outcome = State::default().fold(&Rules::new(&promoted), Sequence(1), &step_with_shadows());
    let rewards: Vec<f32> = scored(&outcome).rewards.iter().map(|reward| reward.get()).collect();
    assert!(rewards[0] > rewards[1] && rewards[1] > 0.0, "{rewards:?}");
    assert_eq!(rewards[2..], [0.0, 0.0], "no number of the candidate, and a filter");
}
