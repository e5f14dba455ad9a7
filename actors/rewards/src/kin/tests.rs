use super::*;

/// Good answers of the test are alike: half of their words are those of a common source.
fn honest(step: usize, miner: usize) -> String {
    let common = (0..15).map(|place| format!("s{step}x{place}"));
    let own = (0..15).map(|place| format!("m{step}x{miner}x{place}"));
    common.chain(own).collect::<Vec<_>>().join(" ")
}

/// The text of a model behind many hotkeys: each exchanges one word in ten.
fn clone_of_one(step: usize, miner: usize) -> String {
    let word = |place: usize| match place % 10 == miner % 10 {
        true => format!("o{step}x{miner}x{place}"),
        false => format!("c{step}x{place}"),
    };
    (0..30).map(word).collect::<Vec<_>>().join(" ")
}

fn key(miner: usize) -> Hotkey {
    Hotkey([miner as u8; 32])
}

/// In a network of its own.
fn alone(miner: usize) -> Origin {
    Origin::new(Some(key(miner)), [10, 0, miner as u8, 1].into())
}

fn owned_by(owner: usize, miner: usize) -> Origin {
    Origin { coldkey: Some(key(owner)), ..alone(miner) }
}

/// What is left of each after so many steps, of texts and origins by miner, all asked each time, miner 0 first.
fn left(
    steps: usize,
    miners: usize,
    text: impl Fn(usize, usize) -> String,
    origin: impl Fn(usize) -> Origin,
) -> Vec<f32> {
    let mut kin = Kin::default();
    let origins: Vec<Origin> = (0..miners).map(origin).collect();
    let mut left = vec![];
    for number in 0..steps {
        let texts: Vec<String> = (0..miners).map(|miner| text(number, miner)).collect();
        let said = |(miner, text)| Said { hotkey: key(miner), text, arrived: 1.0 + miner as f64 };
        let said: Vec<Said<'_>> = texts.iter().map(String::as_str).enumerate().map(said).collect();
        left = kin.judge(&said, &origins);
    }
    left
}

#[test]
fn clones_of_one_owner_share_what_fewer_would_earn_and_nobody_else_loses() {
    let text = |step, miner| if miner < 4 { clone_of_one(step, miner) } else { honest(step, miner) };
    let left = left(20, 24, text, |miner| if miner < 4 { owned_by(99, miner) } else { alone(miner) });
    assert_eq!(left[..4], [0.5; 4], "four earn together what two would");
    assert_eq!(left[4..], [1.0; 20]);
}

#[test]
fn clones_that_nothing_joins_are_left_to_other_defences() {
    let text = |step, miner| if miner < 4 { clone_of_one(step, miner) } else { honest(step, miner) };
    assert_eq!(left(20, 24, text, alone), [1.0; 24]);
}

#[test]
fn neighbours_and_one_owners_different_models_lose_nothing() {
    let shared = |miner: usize| match miner {
        0..4 => owned_by(99, miner),
        4..12 => Origin::new(Some(key(miner)), [203, 0, 113, miner as u8].into()),
        _ => alone(miner),
    };
    assert_eq!(left(60, 30, honest, shared), [1.0; 30]);
}

/// Who rents an address beside a good miner and repeats it takes nothing from it.
#[test]
fn to_be_copied_by_a_neighbour_is_no_fault() {
    let beside = |miner: usize| Origin::new(Some(key(miner)), [203, 0, 113, miner as u8].into());
    let text = |step, miner| honest(step, if miner == 20 { 0 } else { miner });
    let origin = |miner| if miner == 0 || miner == 20 { beside(miner) } else { alone(miner) };
    assert_eq!(left(60, 21, text, origin)[0], 1.0);
}

#[test]
fn short_answers_are_alike_and_that_is_no_fault() {
    let left = left(60, 24, |_, _| "It was built in the year 1811.".to_owned(), |miner| owned_by(miner / 4, miner));
    assert_eq!(left, [1.0; 24]);
}

#[test]
fn where_all_are_alike_nobody_is_a_clone() {
    let left = left(60, 24, |step, _| honest(step, 0), |miner| owned_by(miner / 4, miner));
    assert_eq!(left, [1.0; 24]);
}

#[test]
fn where_nobody_is_a_stranger_nothing_is_believed() {
    assert_eq!(left(60, 24, clone_of_one, |miner| owned_by(99, miner)), [1.0; 24]);
}

#[test]
fn who_left_counts_no_more_and_what_comes_without_an_origin_is_not_remembered() {
    let mut kin = Kin::default();
    let said = |hotkey| Said { hotkey, text: "a text", arrived: 1.0 };
    kin.judge(&[said(key(1)), said(key(2))], &[alone(1), Origin::default()]);
    assert_eq!(kin.records.keys().collect::<Vec<_>>(), [&key(1)]);
    for _ in 0..FORGET_STEPS {
        kin.judge(&[said(key(3))], &[alone(3)]);
    }
    assert_eq!(kin.records.keys().collect::<Vec<_>>(), [&key(3)]);
}

#[test]
fn resemblance_is_the_share_of_common_words() {
    assert_eq!(resemblance(&[1, 2, 3], &[2, 3, 4]), 0.5);
    assert_eq!(resemblance(&[1, 2], &[1, 2]), 1.0);
    assert_eq!(resemblance(&[1], &[2]), 0.0);
    assert_eq!(resemblance(&[], &[]), 0.0);
}
