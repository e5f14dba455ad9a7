use openvalidators_messages::Reward;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    config::Defences,
    diversity::batch_factors,
    parity::{golden, numbers, rows},
    samples::{column, embeddings, raw, record},
    snapshot::{SNAPSHOT_VERSION, decode, encode},
};

fn rules() -> Rules {
    Rules::new(&Config::default())
}

/// Without the defences that openvalidators 1.2.0 did not have.
fn undefended() -> Rules {
    Rules::new(&Config { defences: Defences::NONE, ..Config::default() })
}

fn fold_all(state: &mut State, records: &[StepRecord]) -> Vec<Arc<StepOutcome>> {
    fold_by(&rules(), state, records)
}

fn fold_by(rules: &Rules, state: &mut State, records: &[StepRecord]) -> Vec<Arc<StepOutcome>> {
    records.iter().map(|record| state.fold(rules, state.sequence.next(), record)).collect()
}

fn rewards_of(outcome: &StepOutcome) -> Vec<f32> {
    outcome.scored().unwrap().rewards.iter().map(|reward| reward.get()).collect()
}

fn close(ours: &[Option<f32>], theirs: &[Option<f32>], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let (ours, theirs) = (ours.unwrap_or(0.0), theirs.unwrap_or(0.0));
        assert!((ours - theirs).abs() <= tolerance, "{what}, completion {index}: {ours} is not {theirs}");
    }
}

// === parity with openvalidators 1.2.0 ===

#[test]
fn ten_recorded_steps_come_to_the_same_rewards() {
    let recorded = golden("pipeline");
    let weights = [("dpo_reward_model", 0.3), ("rlhf_reward_model", 0.4), ("reciprocate_reward_model", 0.3)];
    let filters =
        ["blacklist_filter", "task_validator_filter", "relevance_filter", "diversity_reward_model", "nsfw_filter"];
    let rules = Rules { weights: weights.map(|(name, weight)| (name.to_owned(), weight)).into(), ..undefended() };
    let mut state = State::default();
    let steps = recorded["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 10);
    for (index, step) in steps.iter().enumerate() {
        let event = &step["event"];
        let answered: Vec<bool> = step["ok"].as_array().unwrap().iter().map(|ok| ok.as_bool().unwrap()).collect();
        let columns = |names: &[&str]| names.iter().map(|name| column(name, numbers(&event[*name]))).collect();
        let raw = RawScores {
            rewards: columns(&weights.map(|(name, _)| name)),
            filters: columns(&filters),
            ..RawScores::default()
        };
        let outcome = state.fold(&rules, state.sequence.next(), &record(&answered, raw));
        let scored = outcome.scored().unwrap();
        for normalised in &scored.normalised {
            let theirs = numbers(&event[format!("{}_normalized", normalised.name)]);
            close(&normalised.values, &theirs, 1e-4, &format!("step {index}, {}", normalised.name));
        }
        let rewards: Vec<_> = scored.rewards.iter().map(|reward| Some(reward.get())).collect();
        close(&rewards, &numbers(&event["rewards"]), 1e-4, &format!("step {index}, rewards"));
        assert_eq!(best_text(event, scored.best), event["best"].as_str().filter(|_| scored.best.is_some()));
        assert_eq!(scored.best.is_none(), numbers(&event["rewards"]).iter().flatten().all(|&reward| reward == 0.0));
    }
    assert_eq!(state.latest.unwrap().scored().unwrap().best, None, "the last recorded step earned nobody anything");
}

fn best_text(event: &Value, best: Option<usize>) -> Option<&str> {
    best.map(|best| event["completions"][best].as_str().unwrap().trim())
}

#[test]
fn recorded_history_comes_to_the_same_factors() {
    let mut config = Config { defences: Defences::NONE, ..Config::default() };
    config.compat.diversity_reference = true;
    let rules = Rules::new(&config);
    let mut state = State::default();
    let rows = rows("diversity_history");
    let recorded = golden("diversity_mpnet");
    for (index, (step, rows)) in recorded["history"].as_array().unwrap().iter().zip(rows.chunks(40)).enumerate() {
        let outcome = state.fold(&rules, state.sequence.next(), &diversity_step(rows));
        let factors = &outcome.scored().unwrap().filters[0].values;
        close(factors, &numbers(&step["rewards"]), 2e-3, &format!("step {index}"));
        assert_eq!(state.history.len() as u64, step["history_len"].as_u64().unwrap());
    }
    assert_eq!(state.sequence, Sequence(20));
}

/// A step of one model's embeddings, with the factors they have among themselves.
fn diversity_step(rows: &[Vec<f32>]) -> StepRecord {
    let heard: Vec<_> = rows.iter().cloned().map(Some).collect();
    let embeddings =
        Embeddings { model: "mpnet".into(), width: 48, completions: (0..rows.len()).collect(), rows: rows.concat() };
    let raw = RawScores {
        rewards: vec![column("dpo_reward_model", vec![Some(1.0); rows.len()])],
        filters: vec![column("diversity_reward_model", batch_factors(&heard, &vec![0.0; rows.len()], 2, 0.1))],
        embeddings: Some(embeddings),
        ..RawScores::default()
    };
    record(&vec![true; rows.len()], raw)
}

// === the history by default ===

#[test]
fn what_was_said_twice_before_earns_nothing_from_the_start() {
    let mut state = State::default();
    let say = |rows: &[[f32; 2]]| {
        let places: Vec<usize> = (0..rows.len()).collect();
        record(&vec![true; rows.len()], raw(&vec![Some(-2.0); rows.len()], Some(embeddings(&places, rows))))
    };
    let (here, there) = ([1.0, 0.0], [0.0, 1.0]);
    let steps = [say(&[here]), say(&[here]), say(&[here, there]), say(&[there])];
    let outcomes = fold_all(&mut state, &steps);
    let factors = |step: usize| outcomes[step].scored().unwrap().filters[0].values.clone();
    assert_eq!(factors(0), [Some(1.0)]);
    assert_eq!(factors(1), [Some(1.0)], "its only likeness is one row: the second nearest counts");
    assert!(factors(2)[0].unwrap() < 1e-9 && factors(2)[1].unwrap() > 0.99, "{:?}", factors(2));
    assert!(factors(3)[0].unwrap() > 0.99);
    assert!(outcomes[2].scored().unwrap().rewards[0] < Reward::new(1e-6).unwrap());
}

#[test]
fn another_model_starts_its_column_anew_and_no_other() {
    let mut state = State::default();
    let with = |dpo: &str, encoder: &str| {
        let mut record = record(&[true, true], raw(&[Some(-3.0), Some(-2.0)], Some(embeddings(&[0], &[[1.0, 0.0]]))));
        record.digests.insert("dpo_reward_model/lm/file".into(), dpo.into());
        record.digests.insert("diversity_reward_model/encoder/file".into(), encoder.into());
        record
    };
    let counts = |state: &State| (state.normalisers.running["dpo_reward_model"].count, state.history.len());
    fold_by(&undefended(), &mut state, &[with("a", "x"), with("a", "x")]);
    assert_eq!(counts(&state), (4, 2));
    fold_by(&undefended(), &mut state, &[record(&[false], raw(&[None], None))]);
    assert_eq!(counts(&state), (4, 2), "a step that asked no model says nothing about models");
    fold_by(&undefended(), &mut state, &[with("b", "x")]);
    assert_eq!(counts(&state), (2, 3));
    fold_by(&undefended(), &mut state, &[with("b", "y")]);
    assert_eq!(counts(&state), (4, 1));
    assert_eq!(state.digests.len(), 2);
    let mut robust = State::default();
    fold_all(&mut robust, &[with("a", "x"), with("b", "x")]);
    let mut fresh = State::default();
    fold_all(&mut fresh, &[with("b", "x")]);
    assert_eq!(robust.normalisers.robust, fresh.normalisers.robust);
}

// === defences ===

/// Three of ten say `ok`: their −11 reached everybody else through the running variance.
#[test]
fn what_filters_block_moves_nobody_elses_reward() {
    let step = |squeezers: usize| {
        let dpo: Vec<_> =
            (0..7).map(|place| -3.0 + 0.2 * place as f32).chain(vec![-11.0; squeezers]).map(Some).collect();
        let mut raw = raw(&dpo, None);
        raw.filters[0].values[7..].fill(Some(0.0));
        record(&vec![true; dpo.len()], raw)
    };
    let apart = |rules: &Rules, squeezers: usize| {
        let outcomes = fold_by(rules, &mut State::default(), &vec![step(squeezers); 20]);
        let rewards = rewards_of(outcomes.last().unwrap());
        rewards[6] - rewards[0]
    };
    assert_eq!(apart(&rules(), 3), apart(&rules(), 0));
    assert!(apart(&undefended(), 3) < 0.3 * apart(&undefended(), 0));
}

/// One hotkey gives what another gave before, twenty steps long; only the fold knows of the past.
#[test]
fn who_copies_by_habit_and_who_has_one_frame_for_all_is_blocked_by_the_fold_alone() {
    let frame = "In conclusion this is one of the most important things in the whole wide world and it should be kept in \
                 mind by everybody who wants to understand what was said here.";
    let step = |number: usize| {
        let fresh = |miner: usize| (0..25).map(|at| format!("w{number}x{miner}x{at}")).collect::<Vec<_>>().join(" ");
        let mut texts: Vec<String> = (0..60).map(fresh).collect();
        texts[58] = texts[0].to_uppercase();
        texts[59] = format!("So much is new today. {frame}");
        let mut raw = raw(&vec![Some(-2.0); 60], None);
        raw.filters.push(column("blacklist_filter", vec![Some(1.0); 60]));
        let mut record = record(&[true; 60], raw);
        for (at, (completion, text)) in record.completions.iter_mut().zip(texts).enumerate() {
            completion.hotkey = openvalidators_messages::Hotkey([at as u8; 32]);
            completion.elapsed_seconds = 1.0 + at as f64;
            completion.text = text;
        }
        record
    };
    let records: Vec<StepRecord> = (0..20).map(step).collect();
    let last = |rules: &Rules| rewards_of(fold_by(rules, &mut State::default(), &records).last().unwrap());
    let (defended, undefended) = (last(&rules()), last(&undefended()));
    assert_eq!(defended[58..], [0.0, 0.0]);
    assert!(defended[..58].iter().chain(&undefended).all(|reward| *reward > 0.3), "{defended:?} {undefended:?}");
    let applied = last(&rules().without_memory());
    assert!(applied.iter().all(|reward| *reward > 0.3), "filters that were applied are not applied again");
}

/// Six hotkeys of one owner say nearly the same, twenty steps long. What the fold goes by is in the record, so a replay of what
/// the ledger kept comes to the same, also from a snapshot.
#[test]
fn clones_earn_less_with_each_and_a_replay_knows_it() {
    let step = |number: usize| {
        let text = |miner: usize| {
            let of = |place: usize| if miner < 6 && place != miner { 0 } else { miner };
            (0..25).map(|place| format!("w{number}x{}x{place}", of(place))).collect::<Vec<_>>().join(" ")
        };
        let mut record = record(&[true; 20], raw(&[Some(-2.0); 20], None));
        for (at, (completion, asked)) in record.completions.iter_mut().zip(&mut record.asked).enumerate() {
            completion.hotkey = openvalidators_messages::Hotkey([at as u8; 32]);
            completion.elapsed_seconds = 1.0 + at as f64;
            completion.text = text(at);
            let owner = openvalidators_messages::Hotkey([if at < 6 { 99 } else { 100 + at as u8 }; 32]);
            asked.origin = openvalidators_messages::Origin::new(Some(owner), [10, 0, at as u8, 1].into());
        }
        record
    };
    let mut rules = undefended();
    rules.kin = true;
    let records: Vec<StepRecord> = (0..20).map(step).collect();
    let mut state = State::default();
    let outcomes = fold_by(&rules, &mut state, &records);
    let (first, last) = (rewards_of(&outcomes[0]), rewards_of(&outcomes[19]));
    assert_eq!(first[..6], first[6..12], "of whom little is known, nothing is believed");
    for clone in &last[..6] {
        assert!((clone / last[6] - (1.0_f32 / 6.0).sqrt()).abs() < 1e-6, "{last:?}");
    }
    assert_eq!(rewards_of(fold_by(&undefended(), &mut State::default(), &records).last().unwrap())[0], last[6]);

    let kept: Vec<StepRecord> =
        records.iter().map(|record| serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap()).collect();
    assert_eq!(fold_by(&rules, &mut State::default(), &kept), outcomes);
    let mut half = State::default();
    fold_by(&rules, &mut half, &kept[..10]);
    let mut half = crate::snapshot::decode(&crate::snapshot::encode(&half).unwrap(), &rules).unwrap();
    for (number, record) in (11..).zip(&kept[10..]) {
        half.fold(&rules, Sequence(number), record);
    }
    assert_eq!(half, state);
}

// === records that cannot be folded ===

#[test]
fn an_unscored_step_counts_for_nobody_and_moves_only_the_sequence() {
    let mut state = State::default();
    fold_all(&mut state, &[record(&[true, true], raw(&[Some(-3.0), Some(-2.0)], None))]);
    let before = state.clone();
    let mut unscored = record(&[true], raw(&[None], None));
    unscored.scoring = Scoring::Unscored { reason: "out of memory".into() };
    let mut newer = record(&[true], raw(&[Some(1.0)], None));
    newer.version = STEP_RECORD_VERSION + 1;
    let mut nan = embeddings(&[0], &[[1.0, 0.0]]);
    nan.rows[0] = f32::NAN;
    let damaged = [
        (unscored, "out of memory"),
        (newer, "version 2"),
        (record(&[true], raw(&[Some(1.0), Some(1.0)], None)), "2 values for 1 completions"),
        (record(&[true], RawScores::default()), "no column `dpo_reward_model`"),
        (record(&[true], raw(&[Some(1.0)], Some(embeddings(&[3], &[[1.0, 0.0]])))), "damaged"),
        (record(&[true], raw(&[Some(1.0)], Some(embeddings(&[0], &[[1.0, 0.0]; 2])))), "damaged"),
        (record(&[true], raw(&[Some(1.0)], Some(nan))), "damaged"),
    ];
    for (record, reason) in &damaged {
        match &*fold_all(&mut state, std::slice::from_ref(record))[0] {
            StepOutcome::Unscored { reason: found } => assert!(found.contains(reason), "{found}"),
            scored => panic!("{reason}: {scored:?}"),
        }
    }
    assert_eq!(state.sequence, Sequence(1 + damaged.len() as u64));
    state.sequence = before.sequence;
    state.latest = before.latest.clone();
    assert_eq!(state, before);
}

// === properties ===

#[test]
fn zero_one_two_and_more_successes_are_all_fine() {
    for successes in 0..6 {
        let answered: Vec<bool> = (0..6).map(|index| index < successes).collect();
        let dpo: Vec<_> = (0..6).map(|index| (index < successes).then_some(-(index as f32))).collect();
        let rewards = rewards_of(&fold_all(&mut State::default(), &[record(&answered, raw(&dpo, None))])[0]);
        assert!(rewards[..successes].iter().all(|&reward| reward > 0.0), "{successes}: {rewards:?}");
        assert!(rewards[successes..].iter().all(|&reward| reward == 0.0), "{successes}: {rewards:?}");
    }
}

#[test]
fn one_nan_costs_its_sender_and_nobody_else() {
    let mut state = State::default();
    let poisoned = record(&[true; 3], raw(&[Some(f32::NAN), Some(-2.0), Some(-3.0)], None));
    let outcomes = fold_all(&mut state, &[poisoned, record(&[true; 2], raw(&[Some(-2.0), Some(-3.0)], None))]);
    assert_eq!(rewards_of(&outcomes[0])[0], 0.0);
    assert!(rewards_of(&outcomes[0])[1] > rewards_of(&outcomes[0])[2]);
    assert!(rewards_of(&outcomes[1])[0] > rewards_of(&outcomes[1])[1]);
}

#[test]
fn a_failed_completion_earns_nothing_even_with_a_score() {
    let outcome = fold_all(&mut State::default(), &[record(&[true, false], raw(&[Some(-2.0), Some(-1.0)], None))]);
    assert_eq!(rewards_of(&outcome[0])[1], 0.0);
    assert_eq!(outcome[0].scored().unwrap().best, Some(0));
}

fn any_record() -> impl Strategy<Value = StepRecord> {
    let completion = (any::<bool>(), prop::option::of(prop::num::f32::ANY), 0u8..8, any::<bool>());
    prop::collection::vec(completion, 0..6).prop_map(|completions| {
        let answered: Vec<bool> = completions.iter().map(|completion| completion.0).collect();
        let dpo: Vec<_> = completions.iter().map(|completion| completion.1.filter(|_| completion.0)).collect();
        let spoken: Vec<usize> = (0..completions.len()).filter(|&place| completions[place].3).collect();
        let angle = |place: usize| f32::from(completions[place].2) * 0.2;
        let rows: Vec<_> = spoken.iter().map(|&place| [angle(place).cos(), angle(place).sin()]).collect();
        record(&answered, raw(&dpo, (!spoken.is_empty()).then(|| embeddings(&spoken, &rows))))
    })
}

proptest! {
    #[test]
    fn rewards_are_finite_shares_whatever_the_scores(records in prop::collection::vec(any_record(), 1..8)) {
        for (outcome, record) in fold_all(&mut State::default(), &records).iter().zip(&records) {
            let rewards = rewards_of(outcome);
            prop_assert_eq!(rewards.len(), record.completions.len());
            prop_assert!(rewards.iter().all(|reward| (0.0..=1.0).contains(reward)));
            let best = outcome.scored().unwrap().best;
            prop_assert_eq!(best.is_some(), rewards.iter().any(|&reward| reward > 0.0));
            prop_assert!(best.is_none_or(|best| record.completions[best].is_success()));
        }
    }

    #[test]
    fn a_snapshot_anywhere_changes_nothing(records in prop::collection::vec(any_record(), 1..8), cut in 0usize..8) {
        let cut = cut.min(records.len());
        let mut whole = State::default();
        let outcomes = fold_all(&mut whole, &records);
        let mut state = State::default();
        let mut resumed_outcomes = fold_all(&mut state, &records[..cut]);
        let mut resumed = decode(&encode(&state).unwrap(), &rules()).unwrap();
        prop_assert_eq!(&resumed, &state);
        resumed_outcomes.extend(fold_all(&mut resumed, &records[cut..]));
        prop_assert_eq!(resumed, whole);
        prop_assert_eq!(resumed_outcomes, outcomes);
    }
}

#[test]
fn a_snapshot_of_another_version_or_damaged_is_refused() {
    let mut state = State::default();
    fold_all(&mut state, &[record(&[true], raw(&[Some(-2.0)], Some(embeddings(&[0], &[[1.0, 0.0]]))))]);
    let snapshot = encode(&state).unwrap();
    let refused = |change: fn(&mut openvalidators_messages::ledger::Snapshot)| {
        let mut snapshot = snapshot.clone();
        change(&mut snapshot);
        decode(&snapshot, &rules()).unwrap_err().to_string()
    };
    assert!(refused(|snapshot| snapshot.version = SNAPSHOT_VERSION + 1).contains("version 4"));
    assert!(refused(|snapshot| snapshot.state.clear()).contains("no head"));
    assert!(refused(|snapshot| snapshot.state[0] = 0xff).contains("head"));
    assert!(refused(|snapshot| _ = snapshot.state.pop()).contains("no whole numbers"));
    assert!(refused(|snapshot| snapshot.state.truncate(snapshot.state.len() - 4)).contains("1 rows of 2"));
}

#[test]
fn a_smaller_history_keeps_the_youngest() {
    let mut config = Config::default();
    config.diversity.history_rows = 2;
    let mut state = State::default();
    let rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]];
    fold_all(&mut state, &[record(&[true; 3], raw(&[Some(-2.0); 3], Some(embeddings(&[0, 1, 2], &rows))))]);
    let resumed = decode(&encode(&state).unwrap(), &Rules::new(&config)).unwrap();
    assert_eq!(resumed.history.runs().concat(), rows[1..].concat());
}
