use super::*;

const RULES: Rules = Rules { steps: 40, warm_up_steps: 8, half_life_blocks: 100 };
const EAST: [f32; 3] = [1.0, 0.1, 0.3];
const NORTH: [f32; 3] = [0.1, 1.0, 0.3];

fn hotkey(n: u8) -> Hotkey {
    Hotkey([n; 32])
}

/// One specialist for each of two kinds of prompts, and one who is fair at both.
fn reward(miner: u8, east: bool) -> f32 {
    match (miner, east) {
        (1, true) | (2, false) => 0.9,
        (1, false) | (2, true) => 0.2,
        _ => 0.5,
    }
}

fn learned(rules: Rules, steps: u64) -> Memory {
    let mut memory = Memory::new(3);
    for step in 0..steps {
        let east = step % 2 == 0;
        let rewards = (1..=3).map(|miner| (hotkey(miner), reward(miner, east))).collect();
        memory.remember(rules, Block(step), if east { &EAST } else { &NORTH }, rewards);
    }
    memory
}

fn means(memory: &mut Memory, prompt: &[f32]) -> Vec<f64> {
    let forecasts = memory.forecast(RULES, prompt, &[1, 2, 3].map(hotkey)).unwrap();
    forecasts.iter().map(|forecast| forecast.mean).collect()
}

#[test]
fn specialists_are_told_apart_by_the_prompt() {
    let mut memory = learned(RULES, 30);
    for (prompt, east) in [(EAST, true), (NORTH, false)] {
        for (miner, mean) in (1..).zip(means(&mut memory, &prompt)) {
            assert!((mean - f64::from(reward(miner, east))).abs() < 0.05, "miner {miner}: {mean}");
        }
    }
}

#[test]
fn a_stranger_promises_the_mean_with_the_largest_doubt() {
    let mut memory = learned(RULES, 30);
    let forecasts = memory.forecast(RULES, &EAST, &[hotkey(3), hotkey(9)]).unwrap();
    assert!(forecasts[1].doubt > 3.0 * forecasts[0].doubt, "{forecasts:?}");
    assert!((forecasts[1].mean - 0.5333).abs() < 0.01, "{forecasts:?}");
}

/// Against the textbook's formula, solved by Gauss's elimination over explicit matrices.
#[test]
fn mean_and_doubt_are_those_of_the_gaussian_process() {
    let mut memory = Memory::new(3);
    let rules = Rules { warm_up_steps: 3, ..RULES };
    let rows: [[f32; 3]; 4] = [[0.9, 0.2, 0.0], [0.1, 0.8, 0.4], [0.4, 0.1, 0.9], [0.7, 0.6, 0.1]];
    let rewards = [0.9_f32, 0.1, 0.4, 0.6];
    for ((row, reward), block) in rows.iter().zip(rewards).zip([0, 50, 70, 100]) {
        memory.remember(rules, Block(block), row, vec![(hotkey(1), reward)]);
    }
    let prompt = [0.8, 0.3, 0.2];
    let found = memory.forecast(rules, &prompt, &[hotkey(1)]).unwrap()[0];

    let centre: Vec<f64> = (0..3).map(|i| rows[..3].iter().map(|row| f64::from(row[i])).sum::<f64>() / 3.0).collect();
    let unit = |row: &[f32; 3]| -> Vec<f64> {
        let left: Vec<f64> = row.iter().zip(&centre).map(|(value, centre)| f64::from(*value) - centre).collect();
        let length = left.iter().map(|value| value * value).sum::<f64>().sqrt();
        left.iter().map(|value| value / length).collect()
    };
    let like = |a: &[f32; 3], b: &[f32; 3]| 1.0 + unit(a).iter().zip(unit(b)).map(|(a, b)| a * b).sum::<f64>();
    let ages = [100.0, 50.0, 30.0, 0.0];
    let matrix = |to: Vec<f64>| -> Vec<Vec<f64>> {
        (0..4)
            .map(|i| {
                let noise = |j| if i == j { 0.3 * f64::exp2(ages[i] / 100.0) } else { 0.0 };
                (0..4).map(|j| like(&rows[i], &rows[j]) + noise(j)).chain([to[i]]).collect()
            })
            .collect()
    };
    let known: Vec<f64> = rows.iter().map(|row| like(&prompt, row)).collect();
    let mean = rewards.iter().map(|reward| f64::from(*reward)).sum::<f64>() / 4.0;
    let variance = rewards.iter().map(|reward| (f64::from(*reward) - mean).powi(2)).sum::<f64>() / 4.0;
    let apart = gauss(matrix(rewards.iter().map(|reward| f64::from(*reward) - mean).collect()));
    let expected = mean + known.iter().zip(apart).map(|(k, a)| k * a).sum::<f64>();
    let explained = known.iter().zip(gauss(matrix(known.clone()))).map(|(k, a)| k * a).sum::<f64>();
    assert!((found.mean - expected).abs() < 1e-6, "{found:?}, not {expected}");
    assert!((found.doubt - (variance * (2.0 - explained)).sqrt()).abs() < 1e-6, "{found:?}");
}

/// Rows with the right-hand side behind them.
fn gauss(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for at in 0..n {
        let pivot = rows[at].clone();
        for (other, row) in rows.iter_mut().enumerate() {
            let share = if other == at { 0.0 } else { row[at] / pivot[at] };
            row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= share * pivot);
        }
    }
    (0..n).map(|at| rows[at][n] / rows[at][at]).collect()
}

#[test]
fn who_turns_bad_is_believed_to_be() {
    let mut memory = learned(RULES, 30);
    for step in 0..12 {
        memory.remember(RULES, Block(300 + step), &EAST, vec![(hotkey(1), 0.0), (hotkey(2), 0.2)]);
    }
    assert!(means(&mut memory, &EAST)[0] < 0.2);
}

#[test]
fn equal_rewards_promise_exactly_the_same() {
    let mut memory = Memory::new(3);
    for step in 0..20 {
        memory.remember(RULES, Block(step), &EAST, (0..=(step % 5) as u8).map(|n| (hotkey(n), 0.4)).collect());
    }
    let forecasts = memory.forecast(RULES, &NORTH, &[0, 1, 4, 99].map(hotkey)).unwrap();
    assert!(forecasts.iter().all(|forecast| forecast.mean == forecasts[0].mean && forecast.doubt == 0.0));
    assert_eq!(forecasts.iter().map(|forecast| forecast.observations).collect::<Vec<_>>(), [20, 16, 4, 0]);
}

#[test]
fn memory_is_bounded_and_what_is_forgotten_leaves_nothing() {
    let mut memory = learned(RULES, 300);
    assert_eq!(memory.len(), RULES.steps);
    assert!(memory.miners.values().all(|miner| miner.rewards.len() <= RULES.steps.min(OBSERVATIONS)));
    memory.forget(&hotkey(2));
    assert_eq!(memory.miners.len(), 2);
    (0..RULES.steps as u64).for_each(|n| memory.remember(RULES, Block(300 + n), &NORTH, vec![(hotkey(1), 0.3)]));
    assert_eq!(memory.miners.keys().collect::<Vec<_>>(), [&hotkey(1)]);
}

#[test]
fn nothing_is_promised_before_the_warm_up_or_for_what_is_no_embedding() {
    let mut memory = learned(RULES, 7);
    assert!(memory.forecast(RULES, &EAST, &[hotkey(1)]).is_none() && !memory.is_warm());
    let mut memory = learned(RULES, 8);
    assert!(memory.forecast(RULES, &EAST, &[hotkey(1)]).is_some() && memory.is_warm());
    for odd in [&[1.0][..], &[f32::NAN, 0.0, 0.0], &[]] {
        assert!(memory.forecast(RULES, odd, &[hotkey(1)]).is_none());
        memory.remember(RULES, Block(9), odd, vec![(hotkey(1), 1.0)]);
    }
    assert_eq!(memory.len(), 8);
    // The very centre points nowhere: every miner is judged by its standing.
    let centre = memory.centre().unwrap().to_vec();
    assert!(memory.forecast(RULES, &centre, &[hotkey(1)]).unwrap()[0].mean.is_finite());
}
