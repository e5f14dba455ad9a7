use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::*;
use crate::models::{
    Packed,
    decoder::tests::{assert_keeps_its_word, continued, logits},
    parity::{Fixture, assert_close, assert_missing_tensors_are_named, floats, golden, ids_of, texts},
};

const REWARD: Fixture = Fixture { name: "gptj_rm", build };
const BASE: Fixture = Fixture { name: "gptj_base", build };

/// Where the tokenizers of both fixtures cut.
const CUT: usize = 512;

/// What the head says of each row, all rows in one batch. The tokenizers of the parity set hand token types to the
/// network, all 0; only sequence classification is to mind them.
fn judged(network: &Network, rows: &[Vec<u32>]) -> Vec<f32> {
    let Network::CausalClassifier(model) = network else { panic!("a reward model") };
    let types = vec![0; CUT * 2];
    let batch = Packed::typed(rows.iter().map(|row| (row.as_slice(), &types[..row.len()])));
    let states = model.body.forward(&batch, &model.body.no_past().unwrap()).unwrap();
    let mut start = 0;
    let places: Vec<u32> = rows
        .iter()
        .map(|row| {
            let place = start + model.head.reads.place(row);
            start += row.len();
            place as u32
        })
        .collect();
    let states = states.index_select(&Tensor::new(places, &Device::Cpu).unwrap(), 0).unwrap();
    model.logits(&states).unwrap().squeeze(1).unwrap().to_vec1().unwrap()
}

fn expected(row: &Value) -> Vec<f32> {
    row["rewards"].as_array().unwrap().iter().map(|reward| reward["ok"].as_f64().unwrap() as f32).collect()
}

/// `reward/reciprocate.py` for all prompts and completions, truncation and special tokens in miners' text as there.
#[test]
fn rewards_equal_those_of_reciprocate() {
    let network = REWARD.network();
    let (prompts, completions) = (texts("prompts"), texts("completions"));
    let (mut cut, mut moved) = (0, 0);
    for row in golden("reciprocate_gptj")["matrix"].as_array().unwrap() {
        let prompt = &prompts[row["prompt"].as_u64().unwrap() as usize];
        let rows: Vec<Vec<u32>> = completions
            .iter()
            .map(|completion| {
                let mut ids =
                    REWARD.encode(&format!("<|prompter|>{prompt}</s><|assistant|>{completion}</s><|endoftext|>"));
                cut += usize::from(ids.len() > CUT);
                ids.truncate(CUT);
                moved += usize::from(ids.iter().filter(|&&id| id == 0).count() > 1);
                ids
            })
            .collect();
        assert_close(&judged(&network, &rows), &expected(row));
        let alone: Vec<f32> = rows.chunks(1).flat_map(|row| judged(&network, row)).collect();
        assert_close(&alone, &expected(row));
    }
    assert!(cut > 0 && moved > 0, "{cut} rows cut, {moved} with a padding token in the middle");
}

/// The checkpoint of Dahoas as `reward/dahoas.py` meant to use it: with its weights loaded and on whole strings.
#[test]
fn rewards_equal_what_dahoas_intended() {
    let tensors = VarBuilder::from_pth(BASE.folder().join("hf_ckpt.pt"), DType::F32, &Device::Cpu).unwrap();
    let network = build(&BASE.config(), tensors).unwrap();
    let (prompts, completions) = (texts("prompts"), texts("completions"));
    let encode = |text: String| BASE.encode(&format!("<|startoftext|>{text}<|endoftext|>"));
    let own: Vec<Vec<u32>> = completions.iter().map(|completion| encode(completion.clone())).collect();
    let own = judged(&network, &own);
    for row in golden("dahoas_gptj")["intended"].as_array().unwrap() {
        let prompt = &prompts[row["prompt"].as_u64().unwrap() as usize];
        let both: Vec<Vec<u32>> =
            completions.iter().map(|completion| encode(format!("{prompt}{completion}"))).collect();
        let rewards: Vec<f32> = judged(&network, &both).iter().zip(&own).map(|(both, own)| both - own).collect();
        assert_close(&rewards, &expected(row));
    }
}

#[test]
fn logits_and_continuations_equal_the_references() {
    let model = BASE.causal_lm();
    let golden = golden("inference/causal_golden");
    let mut with_logits = 0;
    for row in golden["gptj_base"].as_array().unwrap() {
        let (ids, new) = (ids_of(&row["ids"]), ids_of(&row["new"]));
        assert_eq!(continued(&model, &ids, new.len()), new);
        if !row["last_logits"].is_null() {
            assert_close(&logits(&model, &ids), &floats(&row["last_logits"]));
            with_logits += 1;
        }
    }
    assert_eq!(with_logits, 3);
}

#[test]
fn rows_are_independent_and_pasts_exact() {
    assert_keeps_its_word(&*BASE.causal_lm().body, 565, 1024);
}

#[test]
fn missing_tensors_are_named() {
    assert_missing_tensors_are_named(&BASE, &["lm_head.bias", "transformer.h.0.mlp.fc_in.weight"]);
    assert_missing_tensors_are_named(&REWARD, &["transformer.h.1.attn.q_proj.weight"]);
}

#[test]
fn a_head_of_another_width_is_refused_by_name() {
    let file = REWARD.folder().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    tensors.insert("score.weight".to_owned(), Tensor::zeros((1, 31), DType::F32, &Device::Cpu).unwrap());
    let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let error = build(&REWARD.config(), tensors).err().unwrap().to_string();
    assert!(error.contains("score.weight has shape [1, 31]"), "{error}");
}
