//! Elementwise mathematics that the compiler turns into the widest vectors the machine has: `pulp` picks the
//! instruction set when the program runs. libm's `expf` and `erff` take one value at a time, and a forward pass asks for
//! hundreds of millions of them.

use pulp::{Arch, Simd, WithSimd};

/// Values summed side by side, so that a sum is not one long chain of additions.
const LANES: usize = 16;

/// Replaces each value by `exp(value - max)` and returns their sum.
pub(crate) fn exp_minus_in_place(values: &mut [f32], max: f32) -> f32 {
    Arch::new().dispatch(ExpMinus { values, max })
}

/// `ln(sum(exp(values)))`, stable for any finite values; -inf entries count as nothing.
pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
    let max = max(values);
    max + Arch::new().dispatch(SumExpMinus { values, max }).ln()
}

/// The greatest value; -inf of none.
pub(crate) fn max(values: &[f32]) -> f32 {
    Arch::new().dispatch(Max { values })
}

/// `x · Φ(x)` with the exact Gaussian distribution function: what checkpoints call `gelu`, not the tanh approximation.
/// Hendrycks & Gimpel, <https://arxiv.org/abs/1606.08415>.
pub(crate) fn gelu_in_place(values: &mut [f32]) {
    Arch::new().dispatch(Gelu { values });
}

/// The approximation of [`gelu_in_place`] by a hyperbolic tangent, which checkpoints of the GPT family call `gelu_new`.
pub(crate) fn gelu_new_in_place(values: &mut [f32]) {
    Arch::new().dispatch(GeluNew { values });
}

/// `out = silu(gate) · up`: the gated half of a SwiGLU feed-forward. Shazeer, <https://arxiv.org/abs/2002.05202>.
pub(crate) fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
    Arch::new().dispatch(SwiGlu { out, gate, up });
}

// One struct for each loop, as a closure would not surely be compiled into the function that has the wide
// instructions: outside it a `mul_add` is a call.

struct ExpMinus<'a> {
    values: &'a mut [f32],
    max: f32,
}

impl WithSimd for ExpMinus<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let mut sums = [0.0_f32; LANES];
        let (chunks, tail) = self.values.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (value, sum) in chunk.iter_mut().zip(&mut sums) {
                *value = exp(*value - self.max);
                *sum += *value;
            }
        }
        for (value, sum) in tail.iter_mut().zip(&mut sums) {
            *value = exp(*value - self.max);
            *sum += *value;
        }
        sums.iter().sum()
    }
}

struct SumExpMinus<'a> {
    values: &'a [f32],
    max: f32,
}

impl WithSimd for SumExpMinus<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let mut sums = [0.0_f32; LANES];
        let (chunks, tail) = self.values.as_chunks::<LANES>();
        for chunk in chunks {
            for (value, sum) in chunk.iter().zip(&mut sums) {
                *sum += exp(*value - self.max);
            }
        }
        for (value, sum) in tail.iter().zip(&mut sums) {
            *sum += exp(*value - self.max);
        }
        sums.iter().sum()
    }
}

struct Max<'a> {
    values: &'a [f32],
}

impl WithSimd for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let mut greatest = [f32::NEG_INFINITY; LANES];
        let (chunks, tail) = self.values.as_chunks::<LANES>();
        for chunk in chunks {
            for (value, most) in chunk.iter().zip(&mut greatest) {
                *most = if *value > *most { *value } else { *most };
            }
        }
        for (value, most) in tail.iter().zip(&mut greatest) {
            *most = if *value > *most { *value } else { *most };
        }
        greatest.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

struct Gelu<'a> {
    values: &'a mut [f32],
}

impl WithSimd for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for value in self.values {
            *value = 0.5 * *value * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

struct GeluNew<'a> {
    values: &'a mut [f32],
}

impl WithSimd for GeluNew<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        // (1 + tanh(y)) / 2 is 1 / (1 + exp(-2y)).
        const SLOPE: f32 = 2.0 * 0.797_884_6; // 2 · sqrt(2 / π)
        for value in self.values {
            let x = *value;
            let y = SLOPE * (0.044_715 * x * x).mul_add(x, x);
            *value = x / (1.0 + exp(-y));
        }
    }
}

struct SwiGlu<'a> {
    out: &'a mut [f32],
    gate: &'a [f32],
    up: &'a [f32],
}

impl WithSimd for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = *gate / (1.0 + exp(-*gate)) * *up;
        }
    }
}

/// `e^x` to about one unit in the last place for x in [-87, 88]; outside it saturates.
///
/// Range reduction by ln 2 in two parts and the degree-5 polynomial of Cephes `expf`
/// (<https://www.netlib.org/cephes/>).
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to the nearest integer, which then stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    let power_of_two = f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * power_of_two
}

/// The error function to a few units in the last place: the rational approximation on [-4, 4] that Eigen uses
/// (`generic_fast_erf_float`, <https://eigen.tuxfamily.org>).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let x2 = x * x;
    let p = -2.726_142_4e-10_f32;
    let p = p.mul_add(x2, 2.770_681_6e-8);
    let p = p.mul_add(x2, -2.101_024e-6);
    let p = p.mul_add(x2, -5.692_506_4e-5);
    let p = p.mul_add(x2, -7.349_906_4e-4);
    let p = p.mul_add(x2, -2.954_6e-3);
    let p = p.mul_add(x2, -1.609_603_3e-2);
    let q = -1.456_607_2e-5_f32;
    let q = q.mul_add(x2, -2.133_740_6e-4);
    let q = q.mul_add(x2, -1.682_827e-3);
    let q = q.mul_add(x2, -7.373_329e-3);
    let q = q.mul_add(x2, -1.426_473_9e-2);
    x * p / q
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn sweep(low: f32, high: f32) -> Vec<f32> {
        (0..200_003).map(|i| low + (high - low) * i as f32 / 200_002.0).collect()
    }

    #[test]
    fn exp_agrees_with_libm() {
        for x in sweep(-87.0, 87.99) {
            let expected = x.exp();
            assert!((exp(x) - expected).abs() <= 3e-7 * expected, "exp({x}) = {} not {expected}", exp(x));
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn gelu_is_the_exact_one() {
        let values = sweep(-9.0, 9.0);
        let expected = Tensor::new(values.as_slice(), &Device::Cpu).unwrap().gelu_erf().unwrap();
        let mut ours = values.clone();
        gelu_in_place(&mut ours);
        for ((x, ours), expected) in values.iter().zip(&ours).zip(expected.to_vec1::<f32>().unwrap()) {
            assert!((ours - expected).abs() < 2e-6, "gelu({x}) = {ours} not {expected}");
        }
    }

    #[test]
    fn gelu_new_is_candles() {
        let values = sweep(-9.0, 9.0);
        let expected = Tensor::new(values.as_slice(), &Device::Cpu).unwrap().gelu().unwrap();
        let mut ours = values.clone();
        gelu_new_in_place(&mut ours);
        for ((x, ours), expected) in values.iter().zip(&ours).zip(expected.to_vec1::<f32>().unwrap()) {
            assert!((ours - expected).abs() < 2e-6, "gelu_new({x}) = {ours} not {expected}");
        }
    }

    #[test]
    fn swiglu_agrees_with_its_definition() {
        let gate = sweep(-100.0, 100.0);
        let up = sweep(3.0, -2.0);
        let mut out = vec![0.0; gate.len()];
        swiglu(&mut out, &gate, &up);
        for ((out, gate), up) in out.iter().zip(&gate).zip(&up) {
            let expected = gate / (1.0 + (-gate).exp()) * up;
            assert!((out - expected).abs() <= 1e-6 + 1e-6 * expected.abs(), "{gate} {up}: {out} not {expected}");
        }
    }

    #[test]
    fn log_sum_exp_agrees_with_double_precision() {
        for length in [1, 2, 15, 16, 17, 49_152] {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7_919) % 1_000) as f32 / 25.0 - 30.0).collect();
            let expected = values.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            assert!((f64::from(log_sum_exp(&values)) - expected).abs() < 2e-6, "{length}");
        }
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 3.0]), 3.0);
    }

    #[test]
    fn softmax_sums_to_its_parts() {
        let mut values = vec![1.0, 2.0, 3.0, -50.0];
        let greatest = max(&values);
        let sum = exp_minus_in_place(&mut values, greatest);
        assert_eq!(greatest, 3.0);
        assert!((sum - values.iter().sum::<f32>()).abs() < 1e-6);
        assert!((values[0] - (-2.0_f32).exp()).abs() < 1e-7);
    }
}
