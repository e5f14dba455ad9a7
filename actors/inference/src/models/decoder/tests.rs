//! What the tests of all decoders share: what the reference makes of language models, and the promises of [`CausalBody`].

use super::*;
use crate::{
    models::{
        CausalLm, Network,
        parity::{Fixture, assert_close, floats, golden, texts},
    },
    scoring::{self, ScoredRow},
};

/// Logits after the last of `ids`.
pub(crate) fn logits(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    let (states, _) = model.body.prefill(ids).unwrap();
    model.logits(&states.narrow(0, ids.len() - 1, 1).unwrap()).unwrap().squeeze(0).unwrap().to_vec1().unwrap()
}

/// The most probable tokens one after another, each computed after the keys and values of what precedes it.
pub(crate) fn continued(model: &CausalLm, ids: &[u32], tokens: usize) -> Vec<u32> {
    let (mut states, mut past) = model.body.prefill(ids).unwrap();
    let mut new = Vec::new();
    while new.len() < tokens {
        let last = states.narrow(0, states.dim(0).unwrap() - 1, 1).unwrap();
        let next = model.logits(&last).unwrap().squeeze(0).unwrap().argmax(0).unwrap().to_scalar().unwrap();
        new.push(next);
        (states, past) = model.body.extend(&Packed::new([&[next][..]]), &past).unwrap();
    }
    assert_eq!(past.tokens(), ids.len() + tokens);
    new
}

impl Fixture {
    pub(crate) fn causal_lm(&self) -> CausalLm {
        match self.network() {
            Network::CausalLm(model) => model,
            _ => panic!("{} is not a language model", self.name),
        }
    }

    /// `reward/dpo.py` with this model, for all prompts and completions: the rows of a prompt together, behind their
    /// shared prefix, and each by itself.
    pub(crate) fn assert_dpo_golden(&self, name: &str) {
        /// What the reference says of what it cannot judge.
        const FLOOR: f32 = -11.0;
        /// `model_max_length` of the tokenizers of both fixtures.
        const CUT: usize = 256;
        let model = self.causal_lm();
        let golden = golden(name);
        let (prompts, completions) = (texts("prompts"), texts("completions"));
        let (mut judged, mut floored, mut cut) = (0, 0, 0);
        for (matrix, penalty) in [("matrix", 1.2), ("matrix_without_penalty", 1.0)] {
            for (i, row) in golden[matrix].as_array().unwrap().iter().enumerate() {
                let prompt = &prompts[row["prompt"].as_u64().unwrap() as usize];
                let prompt_tokens = self.encode(prompt).len();
                let (mut rows, mut expected) = (Vec::new(), Vec::new());
                for (completion, reward) in completions.iter().zip(row["rewards"].as_array().unwrap()) {
                    let reward = reward["ok"].as_f64().unwrap() as f32;
                    if completion.trim().is_empty() || completion.chars().count() <= 5 || CUT <= prompt_tokens {
                        assert_eq!(reward, FLOOR, "{prompt:?} {completion:?}");
                        floored += 1;
                        continue;
                    }
                    let mut ids = self.encode(&format!("{prompt}{completion}"));
                    cut += usize::from(ids.len() > CUT);
                    ids.truncate(CUT);
                    rows.push(ScoredRow { ids, prompt_tokens });
                    expected.push(reward);
                }
                if rows.is_empty() {
                    continue;
                }
                let score = |rows: &[ScoredRow]| -> Vec<f32> {
                    let prefix = scoring::shared(&model, rows, scoring::common_tokens(rows)).unwrap();
                    let scores = scoring::score(&prefix, &model, &rows.iter().collect::<Vec<_>>(), penalty).unwrap();
                    scores.into_iter().map(|score| score.mean.unwrap_or(FLOOR)).collect()
                };
                assert_close(&score(&rows), &expected);
                if i == 0 {
                    let alone: Vec<f32> = rows.chunks(1).flat_map(score).collect();
                    assert_close(&alone, &expected);
                }
                judged += rows.len();
            }
        }
        assert!(judged >= 60 && floored >= 20 && cut >= 5, "{judged} judged, {floored} floored, {cut} cut");

        let example = &golden["logits_example"];
        let ids = self.encode(example["text"].as_str().unwrap());
        let (states, _) = model.body.prefill(&ids).unwrap();
        let first: Vec<f32> = model.logits(&states).unwrap().get(0).unwrap().to_vec1().unwrap();
        assert_close(&first, &floats(&example["first_row"]));
        assert_close(&logits(&model, &ids), &floats(&example["last_row_may_be_penalised_in_place"]));
    }
}

/// Every promise of [`CausalBody`] that does not depend on what a network computes.
pub(crate) fn assert_keeps_its_word(body: &dyn CausalBody, vocabulary: u32, context: usize) {
    let ids = |count: usize, seed: u32| -> Vec<u32> {
        (0..count as u32).map(|i| (i * 37 + seed * 11 + i * i) % vocabulary).collect()
    };
    let compare = |ours: &Tensor, expected: &Tensor| {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_close(&values(ours), &values(expected));
    };
    let states_of = |row: &[u32]| body.prefill(row).unwrap().0;
    assert_eq!(body.context_tokens(), context);

    // Each row by itself, after no past and after one, in any order, equals its part of a batch.
    let prefix = ids(45, 3);
    let after = [body.no_past().unwrap(), body.prefill(&prefix).unwrap().1];
    for past in &after {
        let prefix = &prefix[..past.tokens()];
        for lengths in [[1, 40, 0, 33, 7], [7, 33, 1, 0, 40]] {
            let rows: Vec<Vec<u32>> = lengths.iter().map(|&n| ids(n, n as u32)).collect();
            let together = body.forward(&Packed::new(rows.iter().map(Vec::as_slice)), past).unwrap();
            let mut start = 0;
            for row in rows.iter().filter(|row| !row.is_empty()) {
                let whole: Vec<u32> = prefix.iter().chain(row).copied().collect();
                let alone = states_of(&whole).narrow(0, prefix.len(), row.len()).unwrap();
                compare(&together.narrow(0, start, row.len()).unwrap(), &alone);
                start += row.len();
            }
        }
    }

    // A past that grew in steps is the past of all its tokens.
    let mut grown = body.no_past().unwrap();
    for part in prefix.chunks(17) {
        grown = body.extend(&Packed::new([part]), &grown).unwrap().1;
    }
    let row = ids(12, 5);
    let batch = Packed::new([row.as_slice()]);
    compare(&body.forward(&batch, &grown).unwrap(), &body.forward(&batch, &after[1]).unwrap());

    let long = ids(context + 1, 1);
    body.prefill(&long[..context]).unwrap();
    for (row, past) in [(&long[..], &after[0]), (&long[..context - 44], &after[1])] {
        let error = body.forward(&Packed::new([&[1][..], row]), past).unwrap_err().to_string();
        assert!(error.contains(&format!("{} tokens in a model of {context}", context + 1)), "{error}");
    }
}
