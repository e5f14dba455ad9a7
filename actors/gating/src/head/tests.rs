use std::{fs, path::PathBuf};

use serde_json::Value;

use super::*;

const REFERENCE: Training = Training { learning_rate: 0.01, momentum: 0.9, accumulate_gradients: true };
const CLEARED: Training = Training { accumulate_gradients: false, ..REFERENCE };
const ENCODERS: [&str; 2] = ["gptneo", "distilroberta"];
const UIDS: u16 = 64;
const TOLERANCE: f32 = 1e-5;

fn fixture(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn golden(path: &str, encoder: &str) -> Value {
    serde_json::from_slice::<Value>(&fixture(path)).unwrap()[encoder].clone()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn hotkey(uid: u16) -> Hotkey {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&uid.to_le_bytes());
    Hotkey(bytes)
}

/// Weights, `[uids, width]`, and biases of a checkpoint of the reference: two tensors of f32 behind a head of JSON.
fn layer(name: &str) -> (Vec<Vec<f32>>, Vec<f32>) {
    let bytes = fixture(&format!("parity/golden/gating_{name}.safetensors"));
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (head, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let head: Value = serde_json::from_slice(head).unwrap();
    let tensor = |name: &str| -> Vec<f32> {
        let at: Vec<usize> = serde_json::from_value(head[name]["data_offsets"].clone()).unwrap();
        let (values, _) = data[at[0]..at[1]].as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (weights, biases) = (tensor("weight"), tensor("bias"));
    (weights.chunks(weights.len() / biases.len()).map(<[f32]>::to_vec).collect(), biases)
}

fn head_from(weights: &[Vec<f32>], biases: &[f32]) -> Head {
    let rows = (0..).zip(weights).zip(biases).map(|((uid, weights), bias): ((u16, _), _)| {
        let parameters: Vec<f32> = weights.iter().copied().chain([*bias]).collect();
        let row = Row { uid: Uid(uid), velocity: vec![0.0; parameters.len()], gradient: Vec::new(), parameters };
        (hotkey(uid), row)
    });
    Head::from_rows(weights[0].len(), rows.collect())
}

#[track_caller]
fn assert_close(what: &str, ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (at, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!((ours - expected).abs() <= TOLERANCE, "{what} [{at}]: {ours} is not {expected}");
    }
}

fn parameters(head: &Head) -> (Vec<Vec<f32>>, Vec<f32>) {
    head.rows.values().map(|row| (row.parameters[..head.width].to_vec(), row.parameters[head.width])).unzip()
}

/// Ten steps of the recorded training, `check`ed before and after each.
fn train(encoder: &str, rules: Training, mut check: impl FnMut(usize, &Value, f32, &Head)) -> Head {
    let (weights, biases) = layer(&format!("{encoder}_init"));
    let mut head = head_from(&weights, &biases);
    let steps = golden("parity/golden/gating.json", encoder);
    let states = golden("gating/gating_golden.json", encoder)["states"].clone();
    for (at, step) in steps.as_array().unwrap().iter().enumerate() {
        let (state, uids) = (floats(&states[at]), step["uids"].as_array().unwrap());
        if rules.accumulate_gradients {
            let scores: Vec<f32> = (0..UIDS).map(|uid| head.score(&hotkey(uid), &state).unwrap()).collect();
            assert_close(&format!("{encoder}, scores of step {at}"), &scores, &floats(&step["scores"]));
        }
        let asked: Vec<_> =
            uids.iter().map(|uid| uid.as_u64().unwrap() as u16).map(|uid| (Uid(uid), hotkey(uid))).collect();
        let loss = head.train(rules, &state, &asked, &floats(&step["rewards"])).unwrap();
        check(at, step, loss, &head);
    }
    head
}

#[test]
fn training_equals_the_references_for_both_encoders() {
    for encoder in ENCODERS {
        let head = train(encoder, REFERENCE, |at, step, loss, head| {
            assert!((f64::from(loss) - step["loss"].as_f64().unwrap()).abs() < 1e-7, "{encoder} {at}: {loss}");
            // The recorded `bias` of every step is that of the end, after the resync: the scores of the next step judge ours.
            let (weights, _) = parameters(head);
            let sum: f64 = weights.iter().flatten().map(|weight| f64::from(weight.abs())).sum();
            assert!((sum - step["weight_abs_sum"].as_f64().unwrap()).abs() < 1e-3, "{encoder} {at}: {sum}");
        });
        let ((weights, biases), (expected, expected_biases)) = (parameters(&head), layer(&format!("{encoder}_final")));
        assert_close("final weights", &weights.concat(), &expected.concat());
        assert_close("final biases", &biases, &expected_biases);
    }
}

#[test]
fn with_gradients_cleared_training_equals_torch_for_both_encoders() {
    for encoder in ENCODERS {
        let expected = golden("gating/gating_golden.json", encoder);
        let losses = floats(&expected["losses"]);
        let head =
            train(encoder, CLEARED, |at, _, loss, _| assert!((loss - losses[at]).abs() < 1e-7, "{encoder} {at}"));
        let (weights, biases) = parameters(&head);
        let wanted: Vec<Vec<f32>> = serde_json::from_value(expected["weight"].clone()).unwrap();
        assert_close("weights", &weights.concat(), &wanted.concat());
        assert_close("biases", &biases, &floats(&expected["bias"]));
        let accumulated = parameters(&train(encoder, REFERENCE, |_, _, _, _| {}));
        assert!(
            accumulated.1.iter().zip(&biases).any(|(a, b)| (a - b).abs() > 10.0 * TOLERANCE),
            "the two forms differ"
        );
    }
}

/// `utils.py:resync_linear_layer` on the recorded change: the hotkey at uid 1 replaced, uid 10 new.
#[test]
fn a_replaced_hotkey_begins_anew_and_nobody_else_changes() {
    let expected = golden("parity/golden/gating.json", "gptneo_resync");
    let (weights, biases) = layer("gptneo_final");
    let mut head = head_from(&weights, &biases);
    head.rows.values_mut().for_each(|row| row.velocity.fill(0.5));
    let before = head.clone();
    let newcomer = |uid: u16| Hotkey([uid as u8 + 100; 32]);
    for uid in 0..=10 {
        let replaced = expected["changed_rows"].as_array().unwrap().contains(&uid.into());
        head.seat(Uid(uid), if replaced { newcomer(uid) } else { hotkey(uid) });
    }
    let bound = expected["bound"].as_f64().unwrap() as f32;
    for uid in [1, 10] {
        assert!(!head.rows.contains_key(&hotkey(uid)), "the row of who was replaced is gone");
        let row = &head.rows[&newcomer(uid)];
        assert!(row.velocity.iter().all(|velocity| *velocity == 0.0) && row.parameters[head.width] == 0.0);
        let (weights, most) = (&row.parameters[..head.width], bound * 1.000_001);
        assert!(weights.iter().all(|weight| weight.abs() <= most) && weights.iter().any(|w| w.abs() > 0.7 * bound));
        head.rows.remove(&newcomer(uid));
    }
    let others: BTreeMap<_, _> =
        before.rows.into_iter().filter(|(key, _)| ![hotkey(1), hotkey(10)].contains(key)).collect();
    assert_eq!(head.rows, others);
}

#[test]
fn the_layer_grows_and_shrinks_and_a_hotkey_may_move() {
    let mut head = Head::new(3);
    (0..4_096).for_each(|uid| head.seat(Uid(uid), hotkey(uid)));
    assert_eq!(head.len(), 4_096);
    let row = head.rows[&hotkey(7)].parameters.clone();
    head.seat(Uid(5_000), hotkey(7));
    assert_eq!((head.len(), &head.rows[&hotkey(7)].parameters), (4_096, &row), "it moved and kept what it had");
    head.seat(Uid(7), Hotkey([9; 32]));
    assert_eq!(head.len(), 4_097, "its former place can be taken without harm to it");
    (0..4_096).for_each(|uid| head.unseat(&hotkey(uid)));
    assert_eq!((head.len(), head.seats.len()), (1, 1));
    let [one, two] = [hotkey(1), hotkey(2)].map(|key| Row::fresh(Uid(0), &key, 8).parameters);
    assert_ne!(one, two);
}

#[test]
fn a_row_learned_elsewhere_goes_on_from_there() {
    let mut head = Head::new(2);
    assert!(head.seat_with(Uid(3), hotkey(3), vec![0.5, -0.25, 0.125]));
    assert_eq!(head.score(&hotkey(3), &[2.0, 4.0]), Some(0.125));
    assert!(!head.seat_with(Uid(4), hotkey(4), vec![0.5, 0.5]), "no bias");
    assert!(!head.seat_with(Uid(4), hotkey(4), vec![0.5, f32::NAN, 0.0]));
    assert_eq!((head.len(), head.score(&hotkey(4), &[2.0, 4.0])), (1, None));
}

#[test]
fn what_is_no_number_teaches_nothing_and_a_row_that_ran_away_begins_anew() {
    let asked: Vec<_> = (0..3).map(|uid| (Uid(uid), hotkey(uid))).collect();
    let mut head = Head::new(2);
    head.train(CLEARED, &[0.5, 0.5], &asked, &[1.0, 0.0, 0.5]).unwrap();
    let before = head.clone();
    for embedding in [&[f32::NAN, 0.0][..], &[f32::INFINITY, 0.0], &[1.0], &[]] {
        let error = head.train(CLEARED, embedding, &asked, &[0.0; 3]).unwrap_err();
        assert!(error.to_string().contains("the head takes 2 finite ones"), "{error}");
    }
    assert_eq!(head.train(CLEARED, &[1.0, 0.0], &asked, &[0.0; 2]), Err(NotTrained::Rewards { asked: 3, rewards: 2 }));
    assert_eq!(head.train(CLEARED, &[1.0, 0.0], &[], &[]), Err(NotTrained::Rewards { asked: 0, rewards: 0 }));
    assert_eq!(head, before);

    head.rows.get_mut(&hotkey(1)).unwrap().parameters[0] = f32::MAX;
    assert_eq!(head.train(CLEARED, &[1e30, 0.0], &asked, &[0.0; 3]), Err(NotTrained::Loss));
    assert_eq!(head.rows[&hotkey(1)], Row::fresh(Uid(1), &hotkey(1), 2));
    assert_eq!(head.rows[&hotkey(0)], before.rows[&hotkey(0)]);
    assert!(head.train(CLEARED, &[1.0, 0.0], &asked, &[0.0; 3]).unwrap().is_finite());
}

/// Equal rewards are no reason to prefer anybody: the head is pulled towards equal scores.
#[test]
fn equal_rewards_teach_equal_scores() {
    let asked: Vec<_> = (0..5).map(|uid| (Uid(uid), hotkey(uid))).collect();
    let (mut head, rules) = (Head::new(4), Training { learning_rate: 1.0, ..CLEARED });
    let embedding = [0.5; 4];
    let losses: Vec<f32> = (0..400).map(|_| head.train(rules, &embedding, &asked, &[0.3; 5]).unwrap()).collect();
    assert!(losses[399] < 1e-6 && losses[399] < losses[0] / 100.0, "{} → {}", losses[0], losses[399]);
}
