#!/usr/bin/env bash
# Train on the hosts of a Cloud TPU slice: the same line on each of them.
#
#   scripts/launch/cloud_tpu.sh NAME ZONE --config configs/gpt2_124m.yaml \
#       --run_dir /mnt/shared/runs/gpt2_124m
#
# NAME is that of a TPU VM, or slice, that is there. All of its hosts need the file
# system of the run directory; the last commit is copied to each. Called again, it goes
# on from the last checkpoint. PROJECT is gcloud's own unless it is set.

set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/../.."
if [ -n "$(git status --porcelain)" ]; then
  echo "error: the hosts get the last commit; commit, stash or ignore first what" \
    "\`git status\` shows" >&2
  exit 2
fi

to=(--zone "$zone" --worker all ${PROJECT:+--project "$PROJECT"})
tpu=(gcloud compute tpus tpu-vm)

git archive --prefix jaxllm/ --output /tmp/jaxllm.tar HEAD
"${tpu[@]}" scp "${to[@]}" /tmp/jaxllm.tar "$name":/tmp/jaxllm.tar
"${tpu[@]}" ssh "$name" "${to[@]}" --command \
  "tar xf /tmp/jaxllm.tar && cd jaxllm && . scripts/environment.sh && environment tpu"

# Which host is which, and how many there are, the slice itself tells JAX.
printf -v words '%q ' --process.detect true --restart "$@"
"${tpu[@]}" ssh "$name" "${to[@]}" --command \
  "cd jaxllm && .venv/bin/python -u scripts/train.py $words"
