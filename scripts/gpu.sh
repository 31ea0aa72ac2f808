#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: the tests that need one, then jaxllm beside its peers.
#
#   scripts/gpu.sh [FOLDER]     results as JSON, docs/benchmarks by default; ten minutes
#
# Uses the Python that is active, with jax[cuda12] or jax[cuda13] and jaxllm's extras
# test and bench; PYTHON chooses another.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-docs/benchmarks}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# Programs are compiled beside each other, so none takes the whole memory for itself.
XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_PLATFORMS=cuda \
  "$python" -m pytest -q -m gpu -n 4 -p no:benchmark tests/test_gpu.py
for suite in train generate; do
  "$python" scripts/benchmark.py "$suite" --device gpu --out "$out"
done
"$python" scripts/benchmark.py page
