#!/usr/bin/env bash
# Installs what `--features cuda` is built with into a folder of its own: no GPU, no driver, no root.
#
#   scripts/cuda-toolkit.sh FOLDER     # 1.2 GB on disk, 700 MB of it downloaded; needs python3, gcc and cargo
#   source FOLDER/env.sh               # then: cargo build --release --features cuda
#
# The compiler and the libraries are NVIDIA's wheels on PyPI, under NVIDIA's licence; nothing of them is part of the program.
# libcuda comes with a driver, which a machine that only builds does not have: the stub made here is for the linker and is
# never shipped. Every function of it says CUDA_ERROR_NO_DEVICE. docs/gpu.md says more.
set -euo pipefail

# One release, and not a newer one: a driver of the 580 series refuses kernels that a newer compiler made.
WHEELS=(
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
)
# The compute capability that kernels are made for: 90 is H100 and H200, 89 is L4 and RTX 40, 80 is A100.
CAPABILITY=${CUDA_COMPUTE_CAP:-90}

[ $# -eq 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
toolkit=$folder/site/nvidia/cu13

python3 -m pip install --quiet --no-deps --upgrade --target "$folder/site" "${WHEELS[@]}"

# Wheels hold libraries under their versioned names; linkers and cudarc look for the plain ones.
cd "$toolkit/lib"
for library in lib*.so.*; do ln -sfn "$library" "${library%%.so.*}.so"; done
ln -sfn lib ../lib64

# The functions of the driver that cudarc names.
manifest=$(cd "$repository" && cargo metadata --format-version 1 --locked --features cuda |
  python3 -c 'import json, sys; print(*(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
mkdir -p stubs
grep -ohE 'fn cu[A-Za-z0-9_]+' "$(dirname "$manifest")/src/driver/sys/mod.rs" | sort -u |
  sed 's/^fn \(.*\)/int \1(void) { return 100; }/' > stubs/cuda.c
gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o stubs/libcuda.so.1 stubs/cuda.c
ln -sfn libcuda.so.1 stubs/libcuda.so

cat > "$folder/env.sh" <<END
export CUDA_HOME=$toolkit CUDA_PATH=$toolkit NVCC=$toolkit/bin/nvcc CUDA_COMPUTE_CAP=$CAPABILITY
export PATH=$toolkit/bin:\$PATH
export LIBRARY_PATH=$toolkit/lib:$toolkit/lib/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}
END
echo "$("$toolkit/bin/nvcc" --version | sed -n 's/.*release \([^,]*\), \(V.*\)/CUDA \1 (\2)/p') in $toolkit; next: source $folder/env.sh"
