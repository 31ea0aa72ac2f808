"""A run ends with the same bits, however it is killed, and however its steps are sent.

In processes of their own, whose compiler is that of a run.
"""

import itertools
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxllm.training import runs

SCRIPT = pathlib.Path(__file__).parent / "small_runs.py"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(SCRIPT.parents[1]),
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


def start(folder: pathlib.Path, *options: str) -> subprocess.Popen:
    words = [sys.executable, str(SCRIPT), str(folder), *options]
    if runs.is_run(folder / "run"):
        words.append("--resume")
    return subprocess.Popen(
        words,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: pathlib.Path, *options: str) -> str:
    process = start(folder, *options)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def kill_after(folder: pathlib.Path, event: str, count: int, delay: float) -> bool:
    """Kill a run some time after it has told of an event so many times.

    Returns whether it was killed, and had not finished before.
    """
    process = start(folder)
    for line in itertools.chain(['"event": "launch"'], process.stdout):
        count -= f'"event": "{event}"' in line
        if count <= 0:
            threading.Timer(delay, process.kill).start()
            break
    process.communicate()
    return process.returncode == -signal.SIGKILL


def bits(folder: pathlib.Path):
    """Everything that a run ends with, but for times."""
    import jax

    from jaxllm.training import checkpoints

    params, _, tokenizer = runs.load_run(folder / "run")
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
    facts = checkpoints.read_facts(folder / "run" / "checkpoints", 60)
    lines = [
        (r["kind"], r["step"], r.get("loss"), r.get("validation_loss"))
        for r in runs.read_metrics(folder / "run")
    ]
    return leaves, facts["data"], tokenizer.hash, lines


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(folder)
    return folder


def kill_again_and_again(folder, kills, seed, undisturbed):
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        # A save takes some hundredths of a second: many of the kills fall into one.
        event, count, delay = moments.choice(
            [
                ("launch", 1, moments.uniform(0, 3)),
                ("train", moments.randint(1, 12), moments.uniform(0, 0.1)),
                ("checkpoint", moments.randint(1, 3), moments.uniform(0, 0.05)),
            ]
        )
        killed += kill_after(folder, event, count, delay)
    assert killed >= kills // 2
    finish(folder)
    assert bits(folder) == bits(undisturbed)


def test_several_steps_in_a_dispatch_give_the_same_bits(undisturbed):
    folder = undisturbed.parent / "dispatches"
    finish(folder, "--steps-per-dispatch", "3")  # 3, 1, 3, 1, ... to be on time
    assert bits(folder) == bits(undisturbed)


def test_a_run_that_is_killed_several_times_ends_with_the_same_bits(undisturbed):
    kill_again_and_again(undisturbed.parent / "killed", 3, 0, undisturbed)


# In a process of its own: Orbax leaves what it could not write to the garbage
# collector, which would come to it in some other test.
def test_a_run_that_finds_no_room_says_so_and_goes_on_later(undisturbed):
    folder = undisturbed.parent / "no room"
    process = start(folder, "--no-room-from", "12")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert re.search(r"CheckpointError: .*/(8|12)\b.*: File too large", errors)
    finish(folder)
    assert bits(folder) == bits(undisturbed)


@pytest.mark.long
def test_a_run_that_is_killed_twenty_times_ends_with_the_same_bits(undisturbed):
    kill_again_and_again(undisturbed.parent / "killed twenty times", 20, 1, undisturbed)
