"""What the allocator keeps for the next step, and what it returns to the system."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's allocator"
)


def test_buffers_that_are_freed_and_taken_again_cost_no_new_pages():
    code = (
        "import ctypes, resource, sys\n"
        "from jaxllm import heap\n"
        "heap.keep_pages() if sys.argv[1] == 'keep' else None\n"
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


def test_what_is_free_below_something_in_use_is_given_back():
    code = (
        "import ctypes, re\n"
        "from jaxllm import heap\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "heap.keep_pages()\n"
        "buffer, in_use = libc.malloc(2**27), libc.malloc(2**12)\n"
        "ctypes.memset(buffer, 1, 2**27)\n"
        "libc.free(buffer)\n"
        "for again in range(2):\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(re.search(r'VmRSS:\\s+(\\d+)', status)[1])\n"
        "    heap.give_back()\n"
    )
    run = [sys.executable, "-c", code]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    kept, given_back = map(int, output.split())
    assert kept - given_back > 100_000  # KiB
