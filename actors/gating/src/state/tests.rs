use std::sync::Arc;

use openvalidators_messages::StepOutcome;

use super::*;
use crate::{
    config::Config,
    samples::{EAST, NORTH, history, miner, step},
    snapshot::{decode, encode},
};

fn rules() -> Rules {
    Config { forget_after_blocks: 1_000, warm_up_steps: 10, ..Config::default() }.rules()
}

fn fresh() -> State {
    State::new(&rules().encoder)
}

fn folded(rules: &Rules, state: &mut State, steps: u64) {
    for (number, (record, outcome)) in (1..).zip(history(steps)) {
        state.fold(rules, Sequence(number), &record, &outcome);
    }
}

/// Bytes tell states apart: they hold every bit of head, memory and coverage.
fn bytes(state: &State) -> Vec<u8> {
    encode(state).unwrap().state
}

#[test]
fn a_step_counts_once_and_in_order() {
    let mut state = fresh();
    folded(&rules(), &mut state, 12);
    let before = bytes(&state);
    let (record, outcome) = step(5, 5, Some(&EAST), &[(0, 1.0)]);
    assert_eq!(state.fold(&rules(), Sequence(12), &record, &outcome), Folded::Known);
    assert_eq!(bytes(&state), before);
    assert_eq!(state.coverage()[&miner(3).hotkey], Coverage { asked: 12, last_asked: Block(12) });
    assert_eq!((state.head().len(), state.memory().len()), (6, 12));
}

#[test]
fn the_loss_falls_as_the_head_learns() {
    let (mut state, rules) =
        (fresh(), Rules { training: Training { learning_rate: 0.3, ..rules().training }, ..rules() });
    let losses: Vec<f32> = (1..)
        .zip(history(200))
        .map(|(number, (record, outcome))| match state.fold(&rules, Sequence(number), &record, &outcome) {
            Folded::Learned(loss) => loss,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(losses[190] < losses[0] / 2.0, "{} → {}", losses[0], losses[190]);
}

/// A snapshot in the middle and the steps after it make the same state as all steps, to the last bit.
#[test]
fn a_restart_learns_the_same() {
    for accumulate_gradients in [false, true] {
        let rules = Rules { training: Training { accumulate_gradients, ..rules().training }, ..rules() };
        for cut in [1, 9, 10, 30] {
            let (mut whole, mut resumed) = (fresh(), fresh());
            folded(&rules, &mut whole, 40);
            folded(&rules, &mut resumed, cut);
            let mut resumed = decode(&encode(&resumed).unwrap(), &rules).unwrap();
            folded(&rules, &mut resumed, 40);
            assert_eq!(bytes(&resumed), bytes(&whole), "cut at {cut}");
            let [ours, theirs] = [&mut resumed, &mut whole].map(|state| {
                state.memory_mut().forecast(rules.memory, &NORTH, &[miner(0).hotkey, miner(1).hotkey]).unwrap()
            });
            assert_eq!(ours, theirs);
        }
    }
}

#[test]
fn an_unscored_step_and_one_nobody_read_only_count_who_was_asked() {
    let mut state = fresh();
    folded(&rules(), &mut state, 12);
    let (head, memory) = (state.head().clone(), state.memory().len());
    let (record, _) = step(13, 13, Some(&EAST), &[(9, 1.0)]);
    let unscored = StepOutcome::Unscored { reason: "a test".to_owned() };
    assert_eq!(state.fold(&rules(), Sequence(13), &record, &unscored), Folded::Counted);
    let (record, outcome) = step(14, 14, None, &[(9, 1.0)]);
    assert_eq!(state.fold(&rules(), Sequence(14), &record, &outcome), Folded::Counted);
    let (mut record, outcome) = step(15, 15, Some(&EAST), &[(9, 1.0)]);
    Arc::make_mut(&mut record).embedding.as_mut().unwrap().encoder = "another".to_owned();
    assert_eq!(state.fold(&rules(), Sequence(15), &record, &outcome), Folded::Counted);
    assert_eq!((state.head(), state.memory().len()), (&head, memory));
    assert_eq!(state.coverage()[&miner(9).hotkey].asked, 3);
}

#[test]
fn what_is_no_number_is_refused_and_harms_nothing() {
    let mut state = fresh();
    folded(&rules(), &mut state, 12);
    let (head, memory) = (state.head().clone(), state.memory().len());
    let odd = [f32::NAN, 0.0, 0.0, 0.0];
    let (record, outcome) = step(13, 13, Some(&odd), &[(0, 1.0)]);
    let folded = state.fold(&rules(), Sequence(13), &record, &outcome);
    assert!(matches!(folded, Folded::Refused(NotTrained::Embedding { .. })), "{folded:?}");
    let (record, _) = step(14, 14, Some(&EAST), &[(0, 1.0), (1, 1.0)]);
    let (_, outcome) = step(14, 14, Some(&EAST), &[(0, 1.0)]);
    let folded = state.fold(&rules(), Sequence(14), &record, &outcome);
    assert!(matches!(folded, Folded::Refused(NotTrained::Rewards { asked: 2, rewards: 1 })), "{folded:?}");
    assert_eq!((state.head(), state.memory().len()), (&head, memory));
}

#[test]
fn a_hotkey_nobody_asks_any_more_is_forgotten() {
    let mut state = fresh();
    folded(&rules(), &mut state, 12);
    let (record, outcome) = step(13, 1_011, Some(&EAST), &[(0, 0.9)]);
    state.fold(&rules(), Sequence(13), &record, &outcome);
    assert_eq!((state.coverage().len(), state.head().len()), (6, 6), "a thousand blocks are allowed");
    let (record, outcome) = step(14, 1_013, Some(&EAST), &[(0, 0.9)]);
    state.fold(&rules(), Sequence(14), &record, &outcome);
    assert_eq!((state.coverage().len(), state.head().len()), (1, 1));
}

/// A checkpoint of another encoder, or of the same name and another width: who was asked, and when, is kept.
#[test]
fn another_encoder_learns_anew_and_coverage_stays() {
    let mut state = fresh();
    folded(&rules(), &mut state, 12);
    let other = Rules { encoder: "another/mean".to_owned(), ..rules() };
    let resumed = decode(&encode(&state).unwrap(), &other).unwrap();
    assert_eq!((resumed.sequence(), resumed.coverage().len()), (Sequence(12), 6));
    assert!(resumed.head().is_empty() && resumed.memory().is_empty());

    let (record, outcome) = step(13, 13, Some(&[1.0; 7]), &[(0, 0.9)]);
    assert!(matches!(state.fold(&rules(), Sequence(13), &record, &outcome), Folded::Learned(_)));
    assert_eq!((state.head().width(), state.head().len(), state.memory().len()), (7, 1, 1));
    assert_eq!(state.coverage().len(), 6);
}

#[test]
fn bytes_that_are_no_snapshot_are_refused_with_words() {
    let mut state = fresh();
    folded(&rules(), &mut state, 12);
    let snapshot = encode(&state).unwrap();
    let with = |state: Vec<u8>| openvalidators_messages::ledger::Snapshot { state, ..snapshot.clone() };
    let length = snapshot.state.len();
    for (cut, said) in [(0, "no head"), (30, "cut off"), (length - 1, "numbers"), (length - 4, "numbers")] {
        let error = decode(&with(snapshot.state[..cut].to_vec()), &rules()).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(said), "{error}");
    }
    let error = decode(&openvalidators_messages::ledger::Snapshot { version: 9, ..snapshot }, &rules()).unwrap_err();
    assert_eq!(error.to_string(), "the snapshot has version 9; this program reads version 1");
}

#[test]
fn a_head_to_begin_with_is_kept_by_the_first_step() {
    let mut head = Head::new(4);
    assert!(head.seat_with(Uid(9), miner(9).hotkey, vec![1.0, 0.0, 0.0, 0.0, 0.5]));
    let begun = State::with_head(&rules().encoder, head);
    let mut state = decode(&encode(&begun).unwrap(), &rules()).unwrap();
    folded(&rules(), &mut state, 3);
    assert_eq!(state.head().score(&miner(9).hotkey, &[1.0, 0.0, 0.0, 0.0]), Some(1.5), "nobody asked it");
    assert_eq!(state.head().len(), 7, "and six who were");
}
