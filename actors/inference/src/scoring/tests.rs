use proptest::prelude::*;

use super::*;
use crate::models::llama_gguf::tests::tiny;

fn score_together(model: &CausalLm, rows: &[ScoredRow], penalty: f32) -> Vec<LogProbability> {
    let prefix = shared(model, rows, common_tokens(rows)).unwrap();
    score(&prefix, model, &rows.iter().collect::<Vec<_>>(), penalty).unwrap()
}

/// The reference's order of work: one row at a time, all positions, all logits, the penalty position by position.
fn by_the_book(model: &CausalLm, row: &ScoredRow, penalty: f64) -> f64 {
    let (states, _) = model.body.prefill(&row.ids).unwrap();
    let logits: Vec<Vec<f32>> = model.logits(&states).unwrap().to_vec2().unwrap();
    let (start, length) = (row.prompt_tokens, row.ids.len());
    let mut logits: Vec<Vec<f64>> =
        logits[..length - 1].iter().map(|row| row.iter().copied().map(f64::from).collect()).collect();
    for (i, logits) in logits.iter_mut().enumerate().skip(start + 1) {
        for (id, logit) in logits.iter_mut().enumerate() {
            let count = row.ids[start..i].iter().filter(|&&earlier| earlier as usize == id).count() as i32;
            *logit = if *logit < 0.0 { *logit * penalty.powi(count) } else { *logit / penalty.powi(count) };
        }
    }
    let judged = start.max(1)..length;
    let tokens = judged.len() as f64;
    judged
        .map(|t| logits[t - 1][row.ids[t] as usize] - logits[t - 1].iter().map(|x| x.exp()).sum::<f64>().ln())
        .sum::<f64>()
        / tokens
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    // Few different ids, so that tokens repeat and rows share more than their prompt.
    prop::collection::vec(prop_oneof![0_u32..4, 100_u32..250], 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn shared_equals_unshared_equals_the_reference(
        prompt in ids(), completions in prop::collection::vec(ids(), 1..6), penalty in prop_oneof![Just(1.0_f32), Just(1.2)],
        merged in 0_usize..2,
    ) {
        let model = tiny();
        // A merge across the boundary makes the prompt alone longer than its part of the row.
        let prompt_tokens = prompt.len() + merged;
        let rows: Vec<ScoredRow> = completions
            .iter()
            .map(|completion| ScoredRow { ids: prompt.iter().chain(completion).copied().collect(), prompt_tokens })
            .collect();
        let shared = score_together(&model, &rows, penalty);
        for (row, shared) in rows.iter().zip(shared) {
            let alone = score_together(&model, std::slice::from_ref(row), penalty)[0];
            prop_assert_eq!(shared.tokens, row.targets().len());
            prop_assert_eq!(shared.tokens, alone.tokens);
            prop_assert_eq!(shared.mean.is_some(), shared.tokens > 0);
            if let (Some(shared), Some(alone)) = (shared.mean, alone.mean) {
                prop_assert!((shared - alone).abs() < 1e-4, "shared {} alone {}", shared, alone);
                let book = by_the_book(&model, row, penalty.into());
                prop_assert!((f64::from(shared) - book).abs() < 2e-5 + 1e-5 * book.abs(), "ours {} book {}", shared, book);
            }
        }
    }
}

#[test]
fn a_completion_that_is_a_prefix_of_the_others_is_scored_from_the_shared_part() {
    let model = tiny();
    let row = |ids: &[u32]| ScoredRow { ids: ids.to_vec(), prompt_tokens: 2 };
    let rows = [row(&[5, 6, 7, 8]), row(&[5, 6, 7, 8, 9]), row(&[5, 6, 7, 8, 3, 3])];
    let prefix = shared(&model, &rows, common_tokens(&rows)).unwrap();
    assert_eq!(prefix.tokens(), 4);
    for (row, shared) in rows.iter().zip(score_together(&model, &rows, 1.2)) {
        let book = by_the_book(&model, row, 1.2);
        assert!((f64::from(shared.mean.unwrap()) - book).abs() < 1e-4);
    }
}

#[test]
fn a_repetition_without_end_has_no_mean() {
    let model = tiny();
    // 1.2^500 is beyond f32; only a negative logit overflows, so one of many tokens will do it.
    let rows: Vec<ScoredRow> = (2..40)
        .map(|token| {
            let mut ids = vec![1_u32];
            ids.extend(std::iter::repeat_n(token, 150));
            ScoredRow { ids, prompt_tokens: 1 }
        })
        .collect();
    let scores = score_together(&model, &rows, 30.0);
    assert!(scores.iter().any(|score| score.mean.is_none()), "no logit overflowed");
    assert!(scores.iter().all(|score| score.tokens == 150));
}
