#!/usr/bin/env bash
# Train a small GPT on the Python standard library's source, and read what it writes.
# About three minutes of training on two CPU cores, after the installation.
#
#   scripts/quickstart.sh [--any.nested.key VALUE ...]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

environment
jaxllm train --config configs/quickstart.yaml "$@"
