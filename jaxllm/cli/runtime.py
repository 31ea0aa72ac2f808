"""The process made ready for JAX: called by a command before it imports JAX's users.

These are settings of the whole process, so they belong to the program, not the library.
"""

import logging
import os

from jaxllm import heap
from jaxllm.data import disk


def start() -> None:
    """Keep memory, keep compiled programs, and keep libraries from chatting."""
    heap.keep_pages()
    # orbax tells of every file through absl; what is wrong reaches us as an exception.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Read by JAX when it is imported, here and in processes that this one starts. Small
    # programs are kept, too: there are many, and it takes 50 ms to compile one, 10 to
    # read it.
    compiled = disk.cache_folder() / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def one_program_at_a_time() -> None:
    """Have a CPU run a program before it takes the next one.

    XLA gives each its memory as it is sent, so that a step and the one that waits
    behind it hold twice what one needs: 568 MB more for 10.7M parameters on batches of
    8 x 256. It is no slower: a CPU has no host to wait for but itself.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
