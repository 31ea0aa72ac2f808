"""The machine it runs on, in words that a table can carry."""

import datetime
import os
import pathlib
import platform
import re
import shutil
import subprocess
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]


def describe(device: str) -> dict[str, Any]:
    """Tell the hardware, the versions of Python and the code, and the date."""
    hardware = {
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_gb": round(_memory() / 1e9, 1),
    }
    if device == "gpu":
        hardware["gpu"] = _output("nvidia-smi", "--query-gpu=name", "--format=csv")
        hardware["gpu"] = hardware["gpu"].removeprefix("name\n") or "none"
    return {
        "hardware": hardware,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "revision": _output("git", "rev-parse", "--short", "HEAD"),
    }


def cores() -> int:
    """Count the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Read the processor's name, with the width of its vectors."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    wide = " (AVX-512)" if " avx512f " in text else ""
    return (name[1].strip() if name else platform.machine()) + wide


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    return done.stdout.strip()
