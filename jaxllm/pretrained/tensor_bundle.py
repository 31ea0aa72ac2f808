"""TensorFlow's checkpoints, read without TensorFlow: files in, a table of tensors out.

A checkpoint is an index, `PREFIX.index`, and shards of raw bytes,
`PREFIX.data-00000-of-00001`. The index is a sorted table in LevelDB's format
(github.com/google/leveldb, doc/table_format.md) whose values are small protocol
buffers (tensorflow/core/protobuf/tensor_bundle.proto). Every block and every tensor
carries a CRC-32C, and all are checked before anything is used.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from jaxllm.errors import CheckpointError
from jaxllm.pretrained import crc32c, tensors
from jaxllm.pretrained.tensors import FLOATS, StoredTensor

MAGIC = 0xDB4775248B80FB57  # the last eight bytes of every table
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # behind each block: how it is compressed, and its checksum

# Numbers of tensorflow/core/framework/types.proto.
_DTYPES = {
    1: FLOATS["float32"],
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    14: FLOATS["bfloat16"],
    19: FLOATS["float16"],
}


def read_table(prefix: pathlib.Path) -> dict[str, StoredTensor]:
    """List the tensors of a TensorFlow checkpoint, with every checksum checked.

    Args:
        prefix: the path of its files up to ".index".

    Raises:
        CheckpointError: a file is missing, cut short, or not what was written.
    """
    index = prefix.with_name(prefix.name + ".index")
    if not index.exists():
        raise CheckpointError(f"{index} is missing")
    try:
        entries = dict(_records(index.read_bytes()))
        shards = _read_message(entries.pop(b"")).get(1, 1)
        table = {
            key.decode(): _entry(prefix, shards, key.decode(), _read_message(value))
            for key, value in entries.items()
        }
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index} is damaged or no index of a TensorFlow checkpoint: {error}"
        ) from error
    for stored, crc in table.values():
        _check_bytes(stored, crc)
    return {name: stored for name, (stored, _) in table.items()}


def _entry(
    prefix: pathlib.Path, shards: int, name: str, entry: dict
) -> tuple[StoredTensor, int]:
    """Turn a BundleEntryProto into where the tensor lies, and its checksum."""
    if entry.get(1) not in _DTYPES or 7 in entry:
        raise CheckpointError(
            f"{prefix}.index: variable {name} must be a whole tensor of numbers; "
            f"got type {entry.get(1)}" + ", in slices" * (7 in entry)
        )
    axes = _read_message(entry.get(2, b""), repeated=2).get(2, [])
    stored = StoredTensor(
        name=name,
        path=prefix.with_name(
            f"{prefix.name}.data-{entry.get(3, 0):05d}-of-{shards:05d}"
        ),
        offset=entry.get(4, 0),
        shape=tuple(_read_message(axis).get(1, 0) for axis in axes),
        dtype=_DTYPES[entry[1]],
    )
    if stored.size != entry.get(5, 0):
        raise CheckpointError(
            f"{prefix}.index: variable {name} of shape {stored.shape} must take "
            f"{stored.size} bytes, got {entry.get(5, 0)}"
        )
    return stored, entry[6]


def _check_bytes(stored: StoredTensor, crc: int) -> None:
    if not stored.path.exists():
        raise CheckpointError(f"{stored.path}, which holds {stored.name}, is missing")
    end, found = stored.offset + stored.size, stored.path.stat().st_size
    if end > found:
        raise CheckpointError(
            f"{stored.path} is cut short: {stored.name} ends at byte {end}, "
            f"the file at {found}"
        )
    if (
        crc32c.masked_crc32c(tensors.map_tensor(stored).reshape(-1).view(np.uint8))
        != crc
    ):
        raise CheckpointError(
            f"{stored.path}: the bytes of {stored.name} do not have the checksum "
            "that was written with them"
        )


def _records(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a sorted table, block by block."""
    footer = table[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("its last eight bytes are not a table's")
    _, _, position = _block_handle(footer, 0)  # of an index to filters, not used
    offset, size, _ = _block_handle(footer, position)
    for _, handle in _block_records(_block(table, offset, size)):
        offset, size, _ = _block_handle(handle, 0)
        yield from _block_records(_block(table, offset, size))


def _block_handle(data: bytes, position: int) -> tuple[int, int, int]:
    offset, position = _read_varint(data, position)
    size, position = _read_varint(data, position)
    return offset, size, position


def _block(table: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    trailer = table[end : end + TRAILER_BYTES]
    if len(trailer) < TRAILER_BYTES:
        raise ValueError(f"a block ends at byte {end} of {len(table)}")
    if crc32c.masked_crc32c(table[offset : end + 1]) != int.from_bytes(
        trailer[1:], "little"
    ):
        raise ValueError(f"the block at byte {offset} does not have its checksum")
    if trailer[0] != 0:
        # TensorFlow writes checkpoints uncompressed.
        raise ValueError(f"the block at byte {offset} is compressed")
    return table[offset:end]


def _block_records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's records; a key gives only what differs from the one before."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    key, position = b"", 0
    while position < end:
        shared, position = _read_varint(block, position)
        unshared, position = _read_varint(block, position)
        size, position = _read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + size]
        position += size


def _read_message(data: bytes, *, repeated: int | None = None) -> dict:
    """Read a protocol buffer: the number of each field to its value.

    Args:
        repeated: the field whose values are gathered in a list.

    >>> _read_message(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69]))
    {1: 150, 2: b'hi'}
    """
    fields: dict = {}
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _read_varint(data, position)
        elif kind == 2:
            size, position = _read_varint(data, position)
            value, position = data[position : position + size], position + size
        elif kind in (1, 5):
            size = {1: 8, 5: 4}[kind]
            value = int.from_bytes(data[position : position + size], "little")
            position += size
        else:
            raise ValueError(f"a protocol buffer has no wire type {kind}")
        if number == repeated:
            fields.setdefault(number, []).append(value)
        else:
            fields[number] = value
    if position != len(data):
        raise ValueError("a protocol buffer ends in the middle of a field")
    return fields


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; return it and where it ends.

    >>> _read_varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
