"""What the program sets for its whole process, and leaves to the user."""

from fresh_process import printed

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


def test_a_program_ends_before_the_next_one_takes_memory():
    code = (
        "import jax, jax.numpy as jnp\n"
        "from jaxllm.cli import runtime\n"
        "runtime.one_program_at_a_time()\n"
        "x = jax.jit(lambda x: x @ x)(jnp.ones((1500, 1500)))\n"
        "print(x.is_ready())\n"
    )
    assert printed(code) == "True\n"


def test_a_text_does_not_wait_for_what_only_training_needs():
    code = (
        "import sys\n"
        "from jaxllm.cli import answers, chat, generate, model\n"
        "print(*{'orbax', 'grain', 'optax'} & sys.modules.keys())\n"
    )
    assert not printed(code).strip()
