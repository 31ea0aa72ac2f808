"""What the program sets for its whole process, and leaves to the user."""

import platform
import subprocess
import sys

import pytest

from jaxllm.cli import runtime


def test_compiled_programs_are_kept_in_the_cache_unless_the_user_says_where(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("JAXLLM_CACHE", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    environment = dict(runtime.os.environ)
    monkeypatch.setattr(runtime.os, "environ", environment)
    runtime.start()
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "compiled")
    environment["JAX_COMPILATION_CACHE_DIR"] = "/elsewhere"
    runtime.start()
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_buffers_that_are_freed_and_taken_again_cost_no_new_pages():
    code = (
        "import ctypes, resource, sys\n"
        "from jaxllm.cli import runtime\n"
        "runtime.keep_pages() if sys.argv[1] == 'keep' else None\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "for i in range(20):\n"
        "    buffer = libc.malloc(2**26)\n"
        "    ctypes.memset(buffer, 1, 2**26)\n"
        "    libc.free(buffer)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    plain, kept = (
        int(subprocess.check_output([sys.executable, "-c", code, word]))
        for word in ("plain", "keep")
    )
    assert kept < plain / 5


def test_a_text_does_not_wait_for_what_only_training_needs():
    code = (
        "import sys\n"
        "from jaxllm.cli import answers, chat, generate, model\n"
        "print(*{'orbax', 'grain', 'optax'} & sys.modules.keys())\n"
    )
    assert not subprocess.check_output([sys.executable, "-c", code]).strip()


def test_a_program_ends_before_the_next_one_takes_memory():
    code = (
        "import jax, jax.numpy as jnp\n"
        "from jaxllm.cli import runtime\n"
        "runtime.one_program_at_a_time()\n"
        "x = jax.jit(lambda x: x @ x)(jnp.ones((1500, 1500)))\n"
        "print(x.is_ready())\n"
    )
    run = [sys.executable, "-c", code]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert output == "True\n"
