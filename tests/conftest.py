"""What every test stands on: eight CPU devices, strict shapes, fresh random keys."""

import importlib.metadata
import itertools
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Tests compile far more than they compute: without LLVM's optimizations they take
    # half the time. What the compiler does at full strength is seen by the tests that
    # start processes of their own, and by the benchmarks.
    flags = "--xla_force_host_platform_device_count=8 "
    flags += "--xla_backend_optimization_level=0 "
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # These write their code in a third of the time; later jaxlibs lack the choice.
        flags += "--xla_cpu_use_fusion_emitters=false "
    os.environ["XLA_FLAGS"] = flags + os.environ.get("XLA_FLAGS", "")

# JAX writes what it has compiled where another worker may be reading.
if kept := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{kept}/{worker}"

import jax
import pytest

from jaxllm.cli import main

jax.config.update("jax_numpy_rank_promotion", "raise")

_seeds = itertools.count(1)


@pytest.fixture
def new_key():
    """A function that returns a random key that no other call has returned."""
    return lambda: jax.random.key(next(_seeds))


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real texts; its files are asked for with `real_file`."""
    default = pathlib.Path(__file__).parents[1] / "../shared/data"
    return pathlib.Path(os.environ.get("JAXLLM_DATA", default)).resolve()


@pytest.fixture(scope="session")
def real_file(data_dir):
    """A function from a file's name to its path; skips the test where it is absent."""

    def find(name: str) -> pathlib.Path:
        path = data_dir / name
        if not path.exists():
            pytest.skip(f"{name} is not in {data_dir}; set JAXLLM_DATA")
        return path

    return find


@pytest.fixture
def run(capsys):
    """A function that runs a command and returns its status and what it printed."""

    def command(*words):
        status = main.main([str(word) for word in words])
        output = capsys.readouterr()
        return status, output.out + output.err

    return command
