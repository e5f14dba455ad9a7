use openvalidators_messages::{Reward, Scored};

use super::*;

fn record() -> StepRecord {
    let hotkey = Hotkey([1; 32]);
    let completion = serde_json::json!({
        "uid": 5, "hotkey": hotkey, "text": "", "outcome": "answered", "status_code": 200, "status_message": "",
        "elapsed_seconds": 1.0,
    });
    serde_json::from_value(serde_json::json!({
        "version": 1, "step": {"forward": 0, "index": 0}, "name": "augment", "block": 1, "started_at": 0.0,
        "length_seconds": 0.0, "seed": 0, "code_version": "", "source": "", "prompt": "", "base_text": "",
        "asked": [], "completions": [completion], "scoring": {"unscored": {"reason": ""}}, "digests": {},
    }))
    .unwrap()
}

fn column(name: &str, value: f32) -> Column {
    Column { name: name.into(), values: vec![Some(value)] }
}

/// One bit in any number of an outcome is found, and named.
#[test]
fn the_smallest_difference_is_found_and_named() {
    let told = Scored {
        normalised: vec![column("dpo", 0.5)],
        filters: vec![column("diversity", 1.0)],
        rewards: vec![Reward::new(0.5).unwrap()],
        best: Some(0),
        gating_loss: Some(0.25),
        shadows: vec![],
    };
    let next = |value: f32| f32::from_bits(value.to_bits() + 1);
    let changed = |change: fn(&mut Scored, fn(f32) -> f32)| {
        let mut made = told.clone();
        change(&mut made, |value| f32::from_bits(value.to_bits() + 1));
        outcome_difference(&record(), &StepOutcome::Scored(told.clone()), &StepOutcome::Scored(made))
    };
    assert_eq!(changed(|_, _| ()), None);
    let said = format!("normalised reward `dpo` of uid 5: told 0.5, made again {}", next(0.5));
    assert_eq!(changed(|made, next| made.normalised[0] = column("dpo", next(0.5))), Some(said));
    let said = format!("mask `diversity` of uid 5: told 1, made again {}", next(1.0));
    assert_eq!(changed(|made, next| made.filters[0] = column("diversity", next(1.0))), Some(said));
    let said = format!("final reward of uid 5: told 0.5, made again {}", next(0.5));
    assert_eq!(changed(|made, next| made.rewards[0] = Reward::new(next(0.5)).unwrap()), Some(said));
    assert_eq!(changed(|made, _| made.gating_loss = None), None, "what gating said of the step is not made again");
    assert_eq!(changed(|made, _| made.best = None).unwrap(), "best: told Some(0), made again None");
    assert_eq!(changed(|made, _| made.filters.clear()).unwrap(), "other columns of masks than told");
    let unscored = StepOutcome::Unscored { reason: "no model".into() };
    let said = outcome_difference(&record(), &StepOutcome::Scored(told), &unscored).unwrap();
    assert_eq!(said, "told was scored, made again unscored (no model)");
}

/// Of a step whose texts are gone the phrases cannot be counted again: it is said, where numbers differed without a word.
#[test]
fn steps_without_texts_are_refused_where_the_folds_read_texts() {
    let folder = tempfile::tempdir().unwrap();
    let identity = openvalidators_ledger::Identity {
        network: "local".into(),
        netuid: openvalidators_messages::Netuid(1),
        hotkey: Hotkey([9; 32]),
    };
    let mut store = openvalidators_ledger::Store::open(folder.path(), &identity, 0).unwrap();
    let mut config = Config::default();
    config.rewards.defences.overused_phrases = false;
    config.rewards.defences.followers = false;
    config.rewards.defences.kin = false;
    let rules = rewards::fold::Rules::new(&config.rewards);
    let mut state = rewards::fold::State::default();
    for number in 1..=3_u32 {
        let mut step = StepRecord { started_at: f64::from(number), prompt: "a prompt".into(), ..record() };
        step.step.forward = openvalidators_messages::ForwardId(number.into());
        let sequence = store.append(&step).unwrap();
        store.store_outcome(sequence, &StepOutcome::Unscored { reason: String::new() }).unwrap();
        state.fold(&rules, sequence, &step);
    }
    // A candidate that is none any more.
    state.shadow_normalisers.insert("rank_normaliser".into(), Default::default());
    store.save_snapshot(rewards::OWNER, &rewards::snapshot::encode(&state).unwrap()).unwrap();
    assert_eq!(store.forget_texts(2.5).unwrap(), 2);
    drop(store);

    let reader = Reader::open(folder.path()).unwrap();
    let all = Steps { first: Sequence(1), last: Sequence(3) };
    let replayed = replay(&reader, &config, all).unwrap();
    assert_eq!((replayed.steps, replayed.states, replayed.difference), (3, 1, None));
    let reading: [fn(&mut Config); 2] =
        [|config| config.rewards.defences.followers = true, |config| config.rewards.defences.kin = true];
    for read in reading {
        let mut config = config.clone();
        read(&mut config);
        let error = format!("{:#}", replay(&reader, &config, all).unwrap_err());
        assert!(error.contains("step 1 has no texts any more") && error.contains("3 is the first"), "{error}");
    }
}
