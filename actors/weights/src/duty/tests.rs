use openvalidators_messages::Sequence;

use super::*;
use crate::fixtures::{EPOCH_INDEX, EPOCH_START, OWN, TEMPO, key, metagraph};

/// Half of the epoch has passed.
const MOMENT: u64 = EPOCH_START + TEMPO / 2;

fn intent(block: u64) -> WeightIntent {
    WeightIntent {
        block: Block(block),
        epoch_index: EPOCH_INDEX,
        after_step: Sequence(9),
        uids: vec![Uid(1), Uid(2)],
        hotkeys: vec![key(1), key(2)],
        weights: vec![65_535, 300],
        version_key: 0,
        salt: None,
        basis: None,
    }
}

fn attempt(block: u64, settlement: Settlement) -> Attempt {
    Attempt { id: Some(IntentId(1)), intent: intent(block), settlement, saved: true, revealed_at: None }
}

fn failed(block: u64) -> Attempt {
    attempt(block, Settlement::Failed { reason: "test".into() })
}

fn row() -> Vec<(Uid, u16)> {
    vec![(Uid(1), 65_535), (Uid(2), 300)]
}

// === Deciding ===

/// Decides for a metagraph at `block` after a change.
fn at(block: u64, attempts: &[Attempt], change: impl FnOnce(&mut Metagraph)) -> Decision {
    let mut metagraph = metagraph(4, block);
    change(&mut metagraph);
    decide(&metagraph, &OWN, attempts, &WeightsConfig::default())
}

#[test]
fn the_table_of_reasons() {
    assert_eq!(at(MOMENT, &[], |_| ()), Decision::Set);
    assert_eq!(at(MOMENT - 1, &[], |_| ()), Decision::Wait(Wait::TooEarly));
    assert_eq!(at(MOMENT + 500, &[], |_| ()), Decision::Set, "late is better than never");
    assert_eq!(at(MOMENT, &[], |m| m.neurons[0].hotkey = key(99)), Decision::Wait(Wait::NotRegistered));
    assert_eq!(at(MOMENT, &[], |m| m.hyperparameters.tempo = 0), Decision::Wait(Wait::NoEpochs));
    assert_eq!(at(MOMENT, &[], |m| m.neurons[0].validator_permit = false), Decision::Wait(Wait::NoPermit));
    assert_eq!(at(MOMENT, &[], |m| m.neurons[0].stake = 999.0), Decision::Wait(Wait::BelowStake));
    let owner = |m: &mut Metagraph| {
        m.neurons[0].stake = 0.0;
        m.neurons[0].validator_permit = false;
        m.owner_uid = Some(Uid(0));
    };
    assert_eq!(at(MOMENT, &[], owner), Decision::Set, "the chain exempts the subnet owner");
    let recently = |m: &mut Metagraph| m.neurons[0].last_update = Block(EPOCH_START - 1);
    assert_eq!(at(MOMENT, &[], recently), Decision::Set);
    let slow = |m: &mut Metagraph| {
        m.neurons[0].last_update = Block(EPOCH_START - 1);
        m.hyperparameters.weights_rate_limit = 300;
    };
    assert_eq!(at(EPOCH_START + 298, &[], slow), Decision::Wait(Wait::RateLimited));
    assert_eq!(at(EPOCH_START + 299, &[], slow), Decision::Set);
    let new = |m: &mut Metagraph| {
        m.neurons[0].last_update = Block(MOMENT - 10);
        m.neurons[0].registered_at = Block(MOMENT - 10);
    };
    assert_eq!(at(MOMENT + 89, &[], new), Decision::Wait(Wait::RateLimited), "a new uid waits a whole rate limit");
    assert_eq!(at(MOMENT + 90, &[], new), Decision::Set);
    let disabled = WeightsConfig { disable_set_weights: true, ..WeightsConfig::default() };
    assert_eq!(decide(&metagraph(4, MOMENT), &OWN, &[], &disabled), Decision::Wait(Wait::Disabled));
}

#[test]
fn one_epoch_gets_weights_once() {
    let set = |m: &mut Metagraph| m.neurons[0].last_update = Block(EPOCH_START);
    assert_eq!(at(MOMENT, &[], set), Decision::Wait(Wait::AlreadySet), "the chain knows, though our ledger was lost");
    let confirmed = attempt(EPOCH_START, Settlement::Confirmed { block: Block(EPOCH_START) });
    assert_eq!(at(MOMENT, std::slice::from_ref(&confirmed), |_| ()), Decision::Wait(Wait::AlreadySet));
    let committed = attempt(EPOCH_START, Settlement::Committed { block: Block(EPOCH_START), reveal_epoch: 11 });
    assert_eq!(at(MOMENT, std::slice::from_ref(&committed), |_| ()), Decision::Wait(Wait::AlreadySet));
    let next = |m: &mut Metagraph| {
        m.epoch_index += 1;
        m.last_epoch_block = Block(EPOCH_START + TEMPO);
    };
    assert_eq!(at(MOMENT + TEMPO, &[confirmed, committed], next), Decision::Set);
}

#[test]
fn nothing_is_submitted_while_the_fate_of_an_intent_is_unknown() {
    let open = attempt(MOMENT, Settlement::Open);
    assert_eq!(at(MOMENT + 1, &[open], |_| ()), Decision::Wait(Wait::Unsettled));
}

#[test]
fn an_intent_after_the_head_is_of_another_chain_or_of_a_node_ahead() {
    let now = metagraph(4, MOMENT);
    let ends =
        [Settlement::Open, Settlement::Confirmed { block: Block(MOMENT) }, Settlement::Failed { reason: "x".into() }];
    for settlement in ends {
        let is_foreign = |ahead: u64| is_of_another_chain(&attempt(MOMENT + ahead, settlement.clone()), &now);
        assert_eq!([0, HEAD_LAG_BLOCKS, HEAD_LAG_BLOCKS + 1, 100_000].map(is_foreign), [false, false, true, true]);
        let ahead = attempt(MOMENT + 1, settlement);
        assert_eq!(at(MOMENT, &[ahead], |_| ()), Decision::Wait(Wait::Unsettled));
    }
    let disowned = attempt(MOMENT + 100, Settlement::Failed { reason: OTHER_CHAIN.into() });
    assert!(!is_of_another_chain(&disowned, &now), "once is enough");
    let thrice = [disowned.clone(), disowned.clone(), disowned];
    assert_eq!(at(MOMENT, &thrice, |_| ()), Decision::Set, "nor is it an attempt of this epoch");
    assert_eq!(at(MOMENT + 101, &thrice, |_| ()), Decision::Set, "not even when the head has come there");
}

#[test]
fn a_refusal_is_tried_again_but_not_for_ever() {
    assert_eq!(at(MOMENT + 9, &[failed(MOMENT)], |_| ()), Decision::Wait(Wait::RetryLater));
    assert_eq!(at(MOMENT + 10, &[failed(MOMENT)], |_| ()), Decision::Set);
    let thrice = [failed(MOMENT + 20), failed(MOMENT + 10), failed(MOMENT)];
    assert_eq!(at(MOMENT + 99, &thrice, |_| ()), Decision::Wait(Wait::AttemptsSpent));
    let superseded = attempt(MOMENT, Settlement::Superseded);
    assert_eq!(at(MOMENT, &[superseded], |_| ()), Decision::Set, "one that never left does not count");
}

#[test]
fn missed_epochs_are_counted_from_the_chain() {
    let missed = |last_update: u64| {
        let mut metagraph = metagraph(4, MOMENT);
        metagraph.neurons[0].last_update = Block(last_update);
        epochs_missed(&metagraph, &OWN)
    };
    assert_eq!(missed(MOMENT), 0);
    assert_eq!(missed(EPOCH_START), 0);
    assert_eq!(missed(EPOCH_START - 1), 0, "the last epoch had them, this one is not over");
    assert_eq!(missed(EPOCH_START - TEMPO), 0);
    assert_eq!(missed(EPOCH_START - TEMPO - 1), 1);
    assert_eq!(missed(EPOCH_START - 5 * TEMPO - 1), 5);
    assert_eq!(epochs_missed(&metagraph(4, MOMENT), &key(99)), 0);
}

// === Settling ===

/// What becomes of an attempt made at the moment, seen `later` blocks after, when the chain holds `row`.
fn settled(settlement: Settlement, later: u64, row: &[(Uid, u16)], change: impl FnOnce(&mut Metagraph)) -> Settlement {
    let mut metagraph = metagraph(4, MOMENT + later);
    change(&mut metagraph);
    conclude(&attempt(MOMENT, settlement), row, &metagraph, &OWN, &WeightsConfig::default())
}

fn moved(metagraph: &mut Metagraph) {
    metagraph.neurons[0].last_update = Block(MOMENT + 2);
}

#[test]
fn an_open_intent_is_settled_by_what_the_chain_holds() {
    assert_eq!(settled(Settlement::Open, 3, &row(), moved), Settlement::Confirmed { block: Block(MOMENT + 2) });
    assert_eq!(settled(Settlement::Open, 3, &[], |_| ()), Settlement::Open, "it may still come");
    assert_eq!(settled(Settlement::Open, 64, &row(), |_| ()), Settlement::Open, "the same vector of an earlier epoch");
    assert!(matches!(settled(Settlement::Open, 65, &[], |_| ()), Settlement::Failed { .. }), "it cannot come any more");
    let other = [(Uid(1), 65_535)];
    let Settlement::Failed { reason } = settled(Settlement::Open, 3, &other, moved) else { panic!("other weights") };
    assert!(reason.contains("set at block 3782"), "{reason}");
    let gone = |m: &mut Metagraph| m.neurons[0].hotkey = key(99);
    assert!(matches!(settled(Settlement::Open, 3, &row(), gone), Settlement::Failed { .. }));
    let anew = |m: &mut Metagraph| {
        moved(m);
        m.neurons[0].registered_at = Block(MOMENT + 2);
    };
    assert_eq!(settled(Settlement::Open, 3, &row(), anew), Settlement::Open, "a registration is no setting of weights");
}

#[test]
fn a_commit_is_proved_only_by_the_row_after_its_reveal() {
    let reveal = |m: &mut Metagraph| {
        moved(m);
        m.hyperparameters.commit_reveal = true;
        m.hyperparameters.reveal_period_epochs = 2;
    };
    let committed = Settlement::Committed { block: Block(MOMENT + 2), reveal_epoch: EPOCH_INDEX + 2 };
    assert_eq!(settled(Settlement::Open, 3, &[], reveal), committed, "found on the chain after a restart");
    let late = |m: &mut Metagraph| {
        reveal(m);
        m.epoch_index += 1;
        m.last_epoch_block = Block(EPOCH_START + TEMPO);
    };
    assert_eq!(settled(Settlement::Open, TEMPO, &[], late), committed, "its epoch is that of its block");

    let due = |epochs: u64| {
        is_due(
            &attempt(MOMENT, committed.clone()),
            &Metagraph { epoch_index: EPOCH_INDEX + epochs, ..metagraph(4, MOMENT) },
        )
    };
    assert!(!due(1) && due(2) && due(3));
    let in_epoch = |epochs: u64| move |m: &mut Metagraph| m.epoch_index += epochs;
    assert_eq!(settled(committed.clone(), 720, &[], in_epoch(2)), committed, "the beacon may be late");
    let confirmed = Settlement::Confirmed { block: Block(MOMENT + 720) };
    assert_eq!(settled(committed.clone(), 720, &row(), in_epoch(2)), confirmed);
    assert!(matches!(settled(committed, 1_080, &[], in_epoch(3)), Settlement::Failed { .. }));
}

#[test]
fn a_hash_is_revealed_in_its_epoch_alone_and_not_at_every_block() {
    let committed = Settlement::Committed { block: Block(MOMENT), reveal_epoch: EPOCH_INDEX + 1 };
    let ours = |settlement: &Settlement, salt: bool, revealed_at: Option<u64>| {
        let mut attempt = attempt(MOMENT, settlement.clone());
        attempt.intent.salt = salt.then(|| vec![1; 8]);
        attempt.revealed_at = revealed_at.map(Block);
        attempt
    };
    let now = |epochs: u64, attempt: Attempt| {
        let metagraph = Metagraph { epoch_index: EPOCH_INDEX + epochs, ..metagraph(4, MOMENT + TEMPO) };
        is_to_be_revealed(&attempt, &[], &[], &metagraph, &WeightsConfig::default())
    };
    assert!(!now(0, ours(&committed, true, None)), "RevealTooEarly");
    assert!(now(1, ours(&committed, true, None)));
    assert!(!now(2, ours(&committed, true, None)), "ExpiredWeightCommit");
    assert!(!now(1, ours(&committed, false, None)), "timelocked, or there is nothing to reveal it with");
    assert!(!now(1, ours(&committed, true, Some(MOMENT + TEMPO - 9))), "a moment ago");
    assert!(now(1, ours(&committed, true, Some(MOMENT + TEMPO - 10))));
    assert!(!now(1, ours(&Settlement::Confirmed { block: Block(1) }, true, None)));

    let shown = |revealed_at, older: &[Attempt]| {
        let metagraph = Metagraph { epoch_index: EPOCH_INDEX + 1, ..metagraph(4, MOMENT + TEMPO) };
        is_to_be_revealed(&ours(&committed, true, revealed_at), older, &row(), &metagraph, &WeightsConfig::default())
    };
    let same = [attempt(MOMENT - TEMPO, Settlement::Confirmed { block: Block(1) })];
    assert!(!shown(None, &[]), "an earlier life revealed it");
    assert!(shown(None, &same), "the row is of weights that were the same");
    assert!(!shown(Some(MOMENT), &same), "it was revealed, and the chain holds it");
}

#[test]
fn held_weights_are_sent_again_before_the_chain_counts_us_as_inactive() {
    let config = WeightsConfig::default();
    let confirmed = [failed(MOMENT + 1), attempt(MOMENT, Settlement::Confirmed { block: Block(MOMENT) })];
    let at = |tempos: u64, change: &dyn Fn(&mut Metagraph), config: &WeightsConfig| {
        let mut metagraph = metagraph(4, MOMENT + tempos * TEMPO);
        metagraph.neurons[0].last_update = Block(MOMENT);
        change(&mut metagraph);
        held(&metagraph, &OWN, &confirmed, config)
    };
    assert_eq!(at(9, &|_| (), &config), None, "there is time");
    let same = vec![(Uid(1), key(1), 65_535), (Uid(2), key(2), 300)];
    assert_eq!(at(10, &|_| (), &config), Some(same));
    let left = at(10, &|metagraph| metagraph.neurons[1].hotkey = key(99), &config);
    assert_eq!(left, Some(vec![(Uid(2), key(2), 65_535)]), "as the chain would store what is left");
    let gone = |metagraph: &mut Metagraph| metagraph.neurons.truncate(1);
    assert_eq!(at(10, &gone, &config), None);
    assert_eq!(at(10, &|metagraph| metagraph.hyperparameters.min_allowed_weights = 3, &config), None);
    let never = WeightsConfig { resend_held_after_tempos: 0.0, ..WeightsConfig::default() };
    assert_eq!(at(99, &|_| (), &never), None);
    // The chain has the last word: here it would count us as inactive after 1,000 blocks, 2.8 tempos.
    let strict = |metagraph: &mut Metagraph| metagraph.hyperparameters.activity_cutoff = 1_000;
    assert_eq!(at(0, &strict, &config), None);
    assert!(at(1, &strict, &config).is_some(), "one more moment may fail before");
    let shorter = |metagraph: &mut Metagraph| metagraph.hyperparameters.activity_cutoff = 100;
    assert!(at(0, &shorter, &config).is_some(), "in every epoch, where a tempo is longer");
    let burns = WeightsConfig { when_empty: WhenEmpty::Owner, ..WeightsConfig::default() };
    assert_eq!(at(10, &|_| (), &burns), None);
    assert_eq!(held(&metagraph(4, MOMENT + 10 * TEMPO), &OWN, &[failed(MOMENT)], &config), None, "nothing was set");
}

#[test]
fn ends_are_final() {
    for end in
        [Settlement::Confirmed { block: Block(1) }, Settlement::Failed { reason: "x".into() }, Settlement::Superseded]
    {
        assert!(!is_due(&attempt(MOMENT, end.clone()), &metagraph(4, MOMENT)));
        assert_eq!(settled(end.clone(), 999, &row(), moved), end);
    }
}

#[test]
fn a_row_is_ours_even_if_the_chain_cleared_a_replaced_uid() {
    let now = metagraph(4, MOMENT);
    let mut replaced = now.clone();
    replaced.neurons[2].hotkey = key(99);
    let intent = intent(MOMENT);
    assert!(holds(&row(), &intent, &now) && is_current(&intent, &now));
    assert!(!is_current(&intent, &replaced));
    assert!(!holds(&row()[..1], &intent, &now), "an entry is missing");
    assert!(holds(&row()[..1], &intent, &replaced), "it was cleared with its holder");
    assert!(!holds(&[(Uid(1), 65_535), (Uid(2), 301)], &intent, &now));
    assert!(!holds(&[(Uid(1), 65_535), (Uid(2), 300), (Uid(3), 1)], &intent, &now), "an entry too many");
    let shrunk = metagraph(2, MOMENT);
    assert!(!is_current(&intent, &shrunk) && holds(&row()[..1], &intent, &shrunk));
}
