//! The most that a device does in a matrix product, which is what a network's share is counted from.

use candle_core::{DType, Device, Result, Tensor};
use openvalidators_runtime::Clock;

use crate::{config::Config, models::reason};

/// Shapes tried, `m × k × n`: those of a base-size network on a processor, larger ones on a GPU.
const PROCESSOR: [[usize; 3]; 3] = [[2048, 768, 768], [2048, 768, 3072], [2048, 3072, 768]];
const GPU: [[usize; 3]; 2] = [[8192, 4096, 16384], [8192, 8192, 8192]];

/// How often each is computed.
const TIMES: usize = 5;

/// Operations a second, multiplications and additions counted apart, of the fastest of some bare products on the device, in
/// the numbers and with the threads of `config`.
///
/// # Errors
/// In words, when the device fails.
pub fn peak_flops(config: &Config, clock: &dyn Clock) -> std::result::Result<f64, String> {
    let device = config.device.open().map_err(|error| error.to_string())?;
    let threads = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build().map_err(|e| e.to_string())?;
    threads.install(|| fastest(config.dtype.candle(), &device, clock)).map_err(|error| reason(&error))
}

fn fastest(dtype: DType, device: &Device, clock: &dyn Clock) -> Result<f64> {
    let shapes: &[[usize; 3]] = if device.is_cpu() { &PROCESSOR } else { &GPU };
    let mut best = 0_f64;
    for &[m, k, n] in shapes {
        // Random: a GPU multiplies equal numbers faster, as they cost it less power.
        let random = |rows: usize, columns: usize| Tensor::randn(0_f32, 1.0, (rows, columns), device)?.to_dtype(dtype);
        let left = random(m, k)?;
        // As most of the networks' weights lie: output by output.
        let right = random(n, k)?.t()?;
        left.matmul(&right)?;
        device.synchronize()?;
        for _ in 0..TIMES {
            let started = clock.now();
            left.matmul(&right)?;
            device.synchronize()?;
            let seconds = (clock.now() - started).as_secs_f64();
            best = best.max(2.0 * (m * k * n) as f64 / seconds.max(f64::MIN_POSITIVE));
        }
    }
    Ok(best)
}
