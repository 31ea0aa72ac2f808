#!/usr/bin/env bash
# Lint, check types and run the tests in an environment of their own.
#
#   scripts/test.sh                      everything that takes seconds
#   scripts/test.sh --long               also what takes minutes
#   scripts/test.sh tests/test_cli.py    words after --long go to pytest
#   PYTHON=python3.12 scripts/test.sh    with another interpreter

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

which_tests=(-m "not long")
if [ "${1:-}" = --long ]; then
  which_tests=()
  shift
fi

environment test
ruff check .
ruff format --check .
pyright
# Two workers, each with a single-threaded XLA: more threads than cores only wait. A
# file stays with one worker, which makes its runs and models once.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_multi_thread_eigen=false"
# Most of the time is compilation: a second run finds what the first one compiled.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$VIRTUAL_ENV/compiled}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
# Before Bash 4.4 an empty list counts as unset.
python -m pytest -q -n 2 --dist loadscope ${which_tests[@]+"${which_tests[@]}"} "$@"
