"""The name of an accelerator in; its memory, its speed, and what fits into it, out."""

import bisect
import re
from typing import NamedTuple

from jaxllm import accounting
from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError


class Device(NamedTuple):
    """What an accelerator has, by its data sheet."""

    memory: float  # bytes
    flops: float  # a second, in dense bfloat16 products; float16 on a T4


DEVICES = {
    "h200": Device(141e9, 989e12),
    "h100": Device(80e9, 989e12),
    "a100-80gb": Device(80e9, 312e12),
    "a100-40gb": Device(40e9, 312e12),
    "l4": Device(24e9, 121e12),
    "t4": Device(16e9, 65e12),
    "rtx4090": Device(24e9, 165e12),
    "v4": Device(32e9, 275e12),
    "v5e": Device(16e9, 197e12),
    "v5p": Device(95e9, 459e12),
    "v6e": Device(32e9, 918e12),
}

# Part of a device's memory that programs, libraries and fragmentation take.
_RESERVED = 0.08


def find(name: str) -> Device:
    """Look up an accelerator by its name.

    >>> find("T4").memory
    16000000000.0
    """
    if name.lower() not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    return DEVICES[name.lower()]


def parse_memory(text: str) -> float:
    """Read an amount of memory, in bytes.

    >>> parse_memory("24GB"), parse_memory("1.5 GiB")
    (24000000000.0, 1610612736.0)
    """
    pattern = r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?"
    match = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"memory must be like 24GB or 80GiB, got {text!r}")
    base = 1024 if match[3] else 1000
    return float(match[1]) * base ** ("KMGT".find(match[2].upper() or " ") + 1)


def fits(needed: float, memory: float) -> bool:
    """Tell whether something fits into a memory, with room for what is not counted.

    >>> fits(14e9, 16e9), fits(15e9, 16e9)
    (True, False)
    """
    return needed <= (1 - _RESERVED) * memory


def largest_batch(
    cfg: GPTConfig, memory: float, context: int | None = None, *, shards: int = 1
) -> int:
    """Find how many sequences a training step has room for; 0 if not for one.

    >>> from jaxllm.config import gpt2_config
    >>> cfg = gpt2_config("124M")
    >>> largest_batch(cfg, 80e9), largest_batch(cfg, 1e9)
    (81, 0)
    """

    def is_too_large(batch_size: int) -> bool:
        parts = accounting.training_bytes(cfg, batch_size, context, shards=shards)
        return not fits(sum(parts.values()), memory)

    # Not every part grows with the batch, so there is no slope to divide by.
    beyond = 1
    while not is_too_large(beyond):
        beyond *= 2
    return bisect.bisect_left(range(1, beyond), True, key=is_too_large)
