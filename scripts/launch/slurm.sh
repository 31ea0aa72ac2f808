#!/usr/bin/env bash
# Train on the nodes of a Slurm cluster: a process per GPU, found by JAX itself.
#
#   sbatch --nodes 4 scripts/launch/slurm.sh --config configs/gpt2_124m.yaml
#
# The arguments are those of `jaxllm train`. Requeued after a node was lost, or submitted
# again, the job goes on from the last checkpoint of its run directory.

#SBATCH --job-name jaxllm
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 8
#SBATCH --gpus-per-node 8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output jaxllm-%j.log
#SBATCH --time 24:00:00
# Two minutes before the time is up, every process is asked to stop, and saves.
#SBATCH --signal TERM@120

set -uo pipefail

# The nodes share this checkout, and the Python that .venv, or PYTHON, is.
python=${PYTHON:-.venv/bin/python}

srun --kill-on-bad-exit=1 --label "$python" scripts/train.py --restart "$@"
status=$?
# 130: asked to stop. 2: a mistake in the arguments. Anything else deserves another try.
case $status in
  0 | 2 | 130) exit $status ;;
esac
[ "${SLURM_RESTART_COUNT:-0}" -lt 10 ] && scontrol requeue "$SLURM_JOB_ID"
exit $status
