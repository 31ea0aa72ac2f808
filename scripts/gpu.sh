#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: the tests that need one, then jaxllm beside its peers.
#
#   scripts/gpu.sh [FOLDER]     results as JSON, docs/benchmarks by default; a quarter of an hour
#
# Uses the Python that is active, with jax[cuda12] or jax[cuda13] and jaxllm's extras
# test and bench; PYTHON chooses another.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-docs/benchmarks}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# Programs are compiled beside each other: none takes the whole memory for itself, and
# none measures which of the GPU's kernels are the fastest, which would take minutes.
XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_FLAGS=--xla_gpu_autotune_level=0 JAX_PLATFORMS=cuda \
  "$python" -m pytest -q -m gpu -n 4 -p no:benchmark tests/test_gpu.py
for suite in train generate; do
  "$python" scripts/benchmark.py "$suite" --device gpu --out "$out"
done
"$python" scripts/benchmark.py page
