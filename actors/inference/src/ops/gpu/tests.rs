//! The kernels beside candle's own operations on the processor. Each test wants a GPU and says when there is none.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Linear;

use crate::ops::{
    self, Attention, Bias, Disentangled, Heads, Pairing, Rotary, Target, Then, add, linear_then, log_probabilities,
    swiglu,
};

/// A dtype, and how far its answers may be from f32's, relative for numbers beyond 1.
const DTYPES: [(DType, f32); 3] = [(DType::F32, 2e-5), (DType::F16, 6e-3), (DType::BF16, 5e-2)];

fn gpu() -> Option<Device> {
    let gpu = super::open(0).ok();
    if gpu.is_none() {
        eprintln!("skipped: there is no GPU");
    }
    gpu
}

/// Random numbers that every dtype holds exactly as bf16 does, so that only what is computed differs.
fn random(shape: &[usize]) -> Tensor {
    let x = Tensor::randn(0_f32, 0.7, shape, &Device::Cpu).unwrap();
    x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

/// Asserts that `compute` says on the GPU in every dtype what it says on the processor in f32.
fn assert_same(inputs: &[Tensor], compute: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let Some(gpu) = gpu() else { return };
    let expected = compute(inputs).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (dtype, tolerated) in DTYPES {
        let moved: Vec<Tensor> = inputs.iter().map(|x| x.to_device(&gpu).unwrap().to_dtype(dtype).unwrap()).collect();
        let ours = compute(&moved).unwrap().to_dtype(DType::F32).unwrap();
        let ours = ours.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ours.len(), expected.len());
        for (place, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
            let apart = (ours - expected).abs() / expected.abs().max(1.0);
            assert!(apart <= tolerated, "{dtype:?} at {place}: {ours} instead of {expected}");
        }
    }
}

#[test]
fn what_follows_a_projection() {
    let inputs = [random(&[37, 24]), random(&[40, 24]), random(&[40]), random(&[37, 40])];
    for then in 0..4 {
        for with_bias in [false, true] {
            assert_same(&inputs, |t| {
                let layer = Linear::new(t[1].clone(), with_bias.then(|| t[2].clone()));
                let then = [Then::Nothing, Then::Gelu, Then::GeluNew, Then::Add(&t[3])][then];
                linear_then(&layer, &t[0], then)
            });
        }
    }
    assert_same(&[random(&[9, 32]), random(&[32])], |t| add(t[0].copy()?, &t[1]));
    assert_same(&[random(&[9, 48])], |t| swiglu(&t[0]));
    // Halves that are no whole packs are left to the portable form.
    assert_same(&[random(&[9, 40])], |t| swiglu(&t[0]));
}

#[test]
fn rotary_embedding() {
    let positions = [3_u32, 4, 5, 0, 15];
    for (pairing, rotated) in [(Pairing::Interleaved, 16), (Pairing::Halves, 16), (Pairing::Halves, 8)] {
        assert_same(&[random(&[5, 4 * 16])], |t| {
            Rotary::new(10_000.0, 16, rotated, pairing, 16, t[0].device())?.rotate(t[0].copy()?, 3, &positions)
        });
    }
}

#[test]
fn attention_over_rows_of_many_lengths() {
    let slopes = [0.5_f32, 0.25, 0.125, 0.0625];
    let table: Vec<f32> = (0..4 * 7).map(|i| (i as f32 * 0.7).sin()).collect();
    let biases = [Bias::None, Bias::Alibi { slopes: &slopes }, Bias::Table { values: &table, reach: 3 }];
    for (lengths, past) in [(&[5, 1, 70, 64, 33, 0, 3][..], 0), (&[13, 7, 40], 21), (&[150; 6], 601), (&[1], 1)] {
        for (key, bias) in [(4, biases[0]), (2, biases[0]), (4, biases[1]), (4, biases[2])] {
            for (causal, window) in [(true, None), (true, NonZeroUsize::new(9)), (false, None)] {
                let heads = Heads { query: 4, key, size: 16 };
                let tokens = lengths.iter().sum();
                assert_same(&[random(&[tokens, heads.qkv_width()]), random(&[past.max(1), heads.kv_width()])], |t| {
                    let past = t[1].narrow(0, 0, past)?;
                    let scale = heads.inverse_root();
                    Attention { heads, causal, scale, bias, window, lengths }.forward(&t[0], &past)
                });
            }
        }
    }
}

#[test]
fn disentangled_attention_over_rows_of_many_lengths() {
    let span = 16_i64;
    for lengths in [&[5, 1, 70, 64, 33, 0, 3][..], &[300, 290], &[1]] {
        let longest = *lengths.iter().max().unwrap() as i64;
        let places: Vec<u32> =
            (1 - longest..longest).map(|d| (span - d.div_euclid(2)).clamp(0, 2 * span - 1) as u32).collect();
        for (keys, queries) in [(true, true), (true, false), (false, true), (false, false)] {
            let heads = Heads { query: 3, key: 3, size: 16 };
            let tokens = lengths.iter().sum();
            let shape = [2 * span as usize, heads.query_width()];
            assert_same(&[random(&[tokens, heads.qkv_width()]), random(&shape), random(&shape)], |t| {
                let asked = |t: &Tensor, asked: bool| {
                    if asked { Ok(t.clone()) } else { ops::no_rows(heads.query_width(), t.dtype(), t.device()) }
                };
                let (keys, queries) = (asked(&t[1], keys)?, asked(&t[2], queries)?);
                Disentangled { heads, scale: 0.15, places: &places, lengths }.forward(&t[0], &keys, &queries)
            });
        }
    }
}

#[test]
fn log_probabilities_with_and_without_a_penalty() {
    let repeated: Vec<u32> = (0..90).map(|i| i * i % 997).collect();
    let target = |row: usize| Target { token: (row * 31 % 997) as u32, repeated: &repeated[..row * 9] };
    let targets: Vec<Target<'_>> = (0..10).map(target).collect();
    for penalty in [1.0, 1.2] {
        assert_same(&[random(&[10, 997])], |t| {
            let answers = log_probabilities(&t[0], &targets, penalty)?;
            Tensor::new(answers, &Device::Cpu)
        });
    }
}
