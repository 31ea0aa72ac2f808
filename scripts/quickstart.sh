#!/usr/bin/env bash
# Train a small GPT on the Python standard library's source, and read what it writes.
# About three minutes of training on two CPU cores, after the installation. Started
# again, it goes on with the run; delete runs/quickstart to begin anew.
#
#   scripts/quickstart.sh [--any.nested.key VALUE ...]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

environment
if [ -e runs/quickstart/config.yaml ]; then
  jaxllm train --resume runs/quickstart "$@"
else
  jaxllm train --config configs/quickstart.yaml "$@"
fi
