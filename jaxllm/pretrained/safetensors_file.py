"""safetensors files, in without reading them and out one tensor at a time.

The format (github.com/huggingface/safetensors, "Format"): eight bytes with the length
of the header, a JSON header that gives every tensor's type, shape and span of bytes,
then the bytes. Reading it here gives a memory map for each tensor, bfloat16 included,
and writing it here never holds more than one of them.
"""

import json
import math
import operator
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data import disk
from jaxllm.errors import CheckpointError
from jaxllm.pretrained.tensors import FLOATS, StoredTensor

_LENGTH_BYTES = 8
# The limit that the reference implementation sets, against made-up headers.
_MAX_HEADER_BYTES = 100_000_000
_DTYPES = {
    "F16": FLOATS["float16"],
    "BF16": FLOATS["bfloat16"],
    "F32": FLOATS["float32"],
    "F64": np.dtype("<f8"),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def read_table(path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file, after checking it against its size.

    The spans must follow each other without a hole from the header to the last byte of
    the file, and each must be as long as its type and shape say.

    Raises:
        CheckpointError: the file is cut short, too long, or not of this format.
    """
    path = pathlib.Path(path)
    start, header = _read_header(path)
    header.pop("__metadata__", None)
    entries = [_entry(path, start, name, entry) for name, entry in header.items()]
    position = start
    for stored, end in sorted(entries, key=lambda entry: (entry[0].offset, entry[1])):
        if stored.offset != position or end - position != stored.size:
            raise CheckpointError(
                f"{path}: tensor {stored.name} of shape {stored.shape} must take bytes "
                f"{position} to {position + stored.size}, got {stored.offset} to {end}"
            )
        position = end
    found = path.stat().st_size
    if found != position:
        raise CheckpointError(
            f"{path} must be {position} bytes long, as its header says, got {found}"
        )
    return {stored.name: stored for stored, _ in entries}


def _read_header(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors' bytes begin, and the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is cut short or is no safetensors file: it has {size} bytes, "
                f"and the first eight announce a header of {length}"
            )
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(f"{path}: the header is not JSON, {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header must be a JSON object")
    return _LENGTH_BYTES + length, header


def _entry(
    path: pathlib.Path, start: int, name: str, entry: Any
) -> tuple[StoredTensor, int]:
    """Return where a tensor lies, and the byte of the file at which it ends."""
    try:
        code, shape, (begin, end) = (
            entry[key] for key in ("dtype", "shape", "data_offsets")
        )
        numbers = [operator.index(number) for number in (*shape, begin, end)]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: tensor {name} needs dtype, shape and data_offsets, got {entry}"
        ) from error
    if min(numbers) < 0:
        raise CheckpointError(f"{path}: tensor {name} needs numbers >= 0, got {entry}")
    if code not in _DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name} must be one of {', '.join(_DTYPES)}, got {code}"
        )
    stored = StoredTensor(name, path, start + begin, tuple(shape), _DTYPES[code])
    return stored, start + end


def read_folder(folder: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """List the tensors of model.safetensors, or of all files that an index names.

    Raises:
        CheckpointError: as `read_table`; or the index and the files disagree.
    """
    folder = pathlib.Path(folder)
    whole, index = (folder / f"model.safetensors{end}" for end in ("", ".index.json"))
    if whole.exists():
        return read_table(whole)
    weight_map = disk.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} must hold a weight_map, from tensors to files")
    table = {}
    for file in sorted({str(file) for file in weight_map.values()}):
        # A name with a path in it could point anywhere on the disk.
        if pathlib.PurePath(file).name != file or not (folder / file).exists():
            raise CheckpointError(f"{index} names {file!r}, which is not beside it")
        table |= read_table(folder / file)
    for name, file in weight_map.items():
        if name not in table or table[name].path.name != file:
            raise CheckpointError(f"{index} looks for tensor {name} in {file}")
    return table


class NewTensor(NamedTuple):
    """A tensor to be written: what it will be, and the function that makes it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


def write(path: str | os.PathLike[str], tensors: dict[str, NewTensor]) -> None:
    """Write tensors to a safetensors file, making each only when its turn comes.

    The file appears under its name when it is whole, and not before.

    Raises:
        CheckpointError: a number is beyond what its type holds.
    """
    # transformers opens a file only if it says which framework's layout it has.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (shape, dtype, _) in tensors.items():
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the tensors then start aligned
    with disk.atomic_writer(path) as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for name, (_, dtype, make) in tensors.items():
            array = _cast(name, make(), dtype)
            # As bytes, since bfloat16 has no buffer of its own.
            file.write(array.reshape(-1).view(np.uint8).data)


def _cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(array, dtype)
    except FloatingPointError:
        raise CheckpointError(
            f"tensor {name} must be within {np.finfo(dtype).max} to fit {dtype}, got "
            f"{np.nanmax(np.abs(array))}; bfloat16 reaches as far as float32"
        ) from None
