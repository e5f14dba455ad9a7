//! Compiles our kernels for NVIDIA GPUs where the feature `cuda` asks for them.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "src/ops/gpu/kernels.cu";

/// The oldest GPUs that compute in bf16. The driver compiles what this makes for the GPU it finds.
const ARCHITECTURE: &str = "-arch=compute_80";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=NVCC");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let folder = env::var_os("OUT_DIR").map(PathBuf::from).ok_or("cargo names no OUT_DIR")?;
    let compiler = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let made = Command::new(&compiler)
        .args(["-ptx", "-O3", "-std=c++17", ARCHITECTURE, SOURCE, "-o"])
        .arg(folder.join("kernels.ptx"))
        .status()
        .map_err(|error| {
            format!("starting {}: {error}; docs/gpu.md says what the feature `cuda` needs", compiler.display())
        })?;
    if made.success() { Ok(()) } else { Err(format!("{} could not compile {SOURCE}: {made}", compiler.display())) }
}
