"""What the allocator keeps for the next step, and what it returns to the system."""

import platform

import pytest
from fresh_process import printed

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's allocator"
)

ALLOCATOR = (
    "import ctypes, re, resource, sys\n"
    "from jaxllm import heap\n"
    "libc = ctypes.CDLL(None)\n"
    "libc.malloc.restype = ctypes.c_void_p\n"
    "libc.free.argtypes = [ctypes.c_void_p]\n"
)


def test_buffers_that_are_freed_and_taken_again_cost_no_new_pages():
    code = ALLOCATOR + (
        "heap.keep_pages() if sys.argv[1] == 'keep' else None\n"
        "for i in range(20):\n"
        "    buffer = libc.malloc(2**26)\n"
        "    ctypes.memset(buffer, 1, 2**26)\n"
        "    libc.free(buffer)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    plain, kept = (int(printed(code, word)) for word in ("plain", "keep"))
    assert kept < plain / 5


def test_what_is_free_below_something_in_use_is_given_back():
    code = ALLOCATOR + (
        "heap.keep_pages()\n"
        "buffer, in_use = libc.malloc(2**27), libc.malloc(2**12)\n"
        "ctypes.memset(buffer, 1, 2**27)\n"
        "libc.free(buffer)\n"
        "for again in range(2):\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(re.search(r'VmRSS:\\s+(\\d+)', status)[1])\n"
        "    heap.give_back()\n"
    )
    kept, given_back = map(int, printed(code).split())
    assert kept - given_back > 100_000  # KiB
