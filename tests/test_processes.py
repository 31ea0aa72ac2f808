"""Real processes on this machine train together, and fall and rise together."""

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import small_run

from jaxllm import config_files
from jaxllm.config import MeshConfig
from jaxllm.training import checkpoints, runs

# Four to eight starts of JAX, on as many ports.
pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 24

# What XLA writes to standard output, whether or not a process is to be silent.
XLA_LINES = re.compile(
    r"(\[Gloo\] Rank 1 is connected to 1 peer ranks\. "
    r"Expected number of connected peer ranks is : 1\n)*"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


TRAIN = (str(ROOT / "scripts" / "train.py"),)


def start(
    folder, count, *words, program=TRAIN, devices=1, mesh=None
) -> list[subprocess.Popen]:
    """Start the processes of a job that trains, or goes on training, in a folder."""
    run_dir = folder / "run"
    if not runs.is_run(run_dir):
        plan = {"steps": STEPS, "log_every": 1, "eval_every": 12, "sample_tokens": 5}
        cfg = small_run(folder, checkpoint_every=8, **plan)
        (folder / "run.yaml").write_text(config_files.to_yaml(cfg))
    words = ("--config", str(folder / "run.yaml"), "--restart", *words)
    words += ("--run_dir", str(run_dir))
    if mesh:
        sizes = dataclasses.asdict(mesh).items()
        words += tuple(w for n, size in sizes for w in (f"--mesh.{n}", str(size)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
    }
    command = [sys.executable, *program, *words]
    jobs = []
    for number in range(count):
        with (
            open(folder / f"out {number}", "w") as out,
            open(folder / f"errors {number}", "w") as errors,
        ):
            own = environment | {"JAX_PROCESS_ID": str(number)}
            jobs.append(subprocess.Popen(command, env=own, stdout=out, stderr=errors))
    return jobs


def finish(folder, count, *, heartbeat_timeout=200, **options) -> None:
    words = ("--process.heartbeat_timeout", str(heartbeat_timeout))
    jobs = start(folder, count, *words, **options)
    for number, job in enumerate(jobs):
        assert job.wait(200) == 0, (folder / f"errors {number}").read_text()


def kill_one(folder, count, victim, **options) -> None:
    """Kill one process in the middle; the others must end, and say why."""
    jobs = start(folder, count, **options)
    while not any(r["step"] > 9 for r in runs.read_metrics(folder / "run")):
        assert all(job.poll() is None for job in jobs), "it ended before it was killed"
        time.sleep(0.02)
    jobs[victim].kill()
    killed = time.monotonic()
    for number, job in enumerate(jobs):
        status = job.wait(60 - (time.monotonic() - killed))
        said = (folder / f"errors {number}").read_text()
        if number == victim:
            assert status == -signal.SIGKILL
        else:
            assert status != 0
            assert "lost another process of the job" in said or "died" in said
    assert len(runs.read_metrics(folder / "run")) < STEPS


def results(folder):
    """The parameters at the end, and what was written of every step."""
    import jax

    params, _, _ = runs.load_run(folder / "run")
    records = [
        [r["kind"], r["step"], r.get("loss", r.get("validation_loss"))]
        for r in runs.read_metrics(folder / "run")
    ]
    assert checkpoints.latest_step(folder / "run" / "checkpoints") == STEPS
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)], records


def assert_same(folder, other) -> None:
    params, records = results(folder)
    others, other_records = results(other)
    assert records == other_records
    for a, b in zip(params, others, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(folder, other) -> None:
    """Equal but for the order in which processes add up: float error, which Adam grows.

    Its steps are all but signs of gradients, and one near zero can turn.
    """
    params, records = results(folder)
    others, other_records = results(other)
    for a, b in zip(records, other_records, strict=True):
        assert a[:2] == b[:2]
        np.testing.assert_allclose(a[2], b[2], rtol=1e-4)
    for a, b in zip(params, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


@pytest.fixture(scope="module")
def two(home):
    """Two processes, undisturbed."""
    finish(home / "two", 2)
    return home / "two"


def test_two_processes_do_what_one_does(two, home):
    finish(home / "one", 1, devices=2)
    assert_close(two, home / "one")
    assert (two / "out 0").read_text().count("validation loss") == 1
    assert XLA_LINES.fullmatch((two / "out 1").read_text())


def test_a_killed_process_ends_the_other_and_the_job_goes_on_to_the_same_bits(
    two, home
):
    kill_one(home / "killed", 2, victim=1)
    finish(home / "killed", 2)
    assert_same(home / "killed", two)


# The first process takes long over the text, and over the hashes of a checkpoint.
SLOW = """
import sys, time
import jax
from jaxllm.cli import main
from jaxllm.data import disk, token_store

def slowly(function, is_slow, seconds):
    def call(*args, **options):
        if jax.process_index() == 0 and is_slow(*args):
            time.sleep(seconds)
        return function(*args, **options)
    return call

token_store.prepare = slowly(token_store.prepare, lambda *_: True, 40)
last = ("24", "_CHECKPOINT_METADATA")
disk.file_sha256 = slowly(disk.file_sha256, lambda path: path.parts[-2:] == last, 40)
sys.exit(main.main(["train", *sys.argv[1:]]))
"""


def test_processes_wait_for_the_first_as_long_as_it_takes(two, home):
    finish(home / "slow", 2, program=("-c", SLOW), heartbeat_timeout=20)
    assert_same(home / "slow", two)


@pytest.mark.parametrize("victim", [0, 1, 3])
def test_a_job_goes_on_with_another_number_of_processes(victim, two, home):
    folder = home / f"four {victim}"
    kill_one(folder, 4, victim)
    for count, devices in ((4, 1), (2, 1), (1, 1), (2, 2)):
        again = home / f"again {victim} {count} {devices}"
        shutil.copytree(folder, again)
        finish(again, count, devices=devices)
        assert_close(again, two)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=1, fsdp=4),
        MeshConfig(data=2, fsdp=2),
        MeshConfig(data=1, fsdp=2, tensor=2),
        MeshConfig(data=1, sequence=4),
    ],
)
def test_four_processes_split_a_model_a_batch_or_a_sequence(mesh, two, home):
    folder = home / "-".join(map(str, dataclasses.astuple(mesh)))
    finish(folder, 4, mesh=mesh)
    assert_close(folder, two)
    other = MeshConfig(data=1, fsdp=2)
    kill_one(folder.with_name(folder.name + " killed"), 4, 2, mesh=mesh)
    finish(folder.with_name(folder.name + " killed"), 2, mesh=other)
    assert_close(folder.with_name(folder.name + " killed"), two)
