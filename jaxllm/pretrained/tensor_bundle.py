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
from jaxllm.pretrained import crc32c, protobuf, tensors
from jaxllm.pretrained.tensors import FLOATS, StoredTensor

MAGIC = 0xDB4775248B80FB57  # the last eight bytes of every table
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # behind each block: how it is compressed, and its checksum

# Field numbers: of BundleHeaderProto, of BundleEntryProto, and of what an entry holds,
# TensorShapeProto and its Dim.
_NUM_SHARDS = 1
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CRC, _SLICES = 1, 2, 3, 4, 5, 6, 7
_DIM, _DIM_SIZE = 2, 1

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
        header = protobuf.read_message(entries.pop(b""))
        shards = header.get(_NUM_SHARDS, 1)
        table = {
            key.decode(): _entry(prefix, shards, key.decode(), value)
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
    prefix: pathlib.Path, shards: int, name: str, value: bytes
) -> tuple[StoredTensor, int]:
    """Read where a tensor lies, and its checksum."""
    entry = protobuf.read_message(value)
    dtype, size = entry.get(_DTYPE), entry.get(_SIZE, 0)
    if dtype not in _DTYPES or _SLICES in entry:
        raise CheckpointError(
            f"{prefix}.index: variable {name} must be a whole tensor of numbers, "
            f"got type {dtype}" + ", in slices" * (_SLICES in entry)
        )
    shape = protobuf.read_message(entry.get(_SHAPE, b""), repeated=_DIM)
    axes = [protobuf.read_message(axis) for axis in shape.get(_DIM, [])]
    shard = f".data-{entry.get(_SHARD, 0):05d}-of-{shards:05d}"
    stored = StoredTensor(
        name=name,
        path=prefix.with_name(prefix.name + shard),
        offset=entry.get(_OFFSET, 0),
        shape=tuple(axis.get(_DIM_SIZE, 0) for axis in axes),
        dtype=_DTYPES[dtype],
    )
    if stored.size != size:
        raise CheckpointError(
            f"{prefix}.index: variable {name} of shape {stored.shape} must take "
            f"{stored.size} bytes, got {size}"
        )
    return stored, entry[_CRC]


def _check_bytes(stored: StoredTensor, crc: int) -> None:
    if not stored.path.exists():
        raise CheckpointError(f"{stored.path}, which holds {stored.name}, is missing")
    end, found = stored.offset + stored.size, stored.path.stat().st_size
    if end > found:
        raise CheckpointError(
            f"{stored.path} is cut short: {stored.name} ends at byte {end}, "
            f"the file at {found}"
        )
    data = tensors.map_tensor(stored).reshape(-1).view(np.uint8)
    if crc32c.masked_crc32c(data) != crc:
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
    offset, position = protobuf.read_varint(data, position)
    size, position = protobuf.read_varint(data, position)
    return offset, size, position


def _block(table: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    trailer = table[end : end + TRAILER_BYTES]
    if len(trailer) < TRAILER_BYTES:
        raise ValueError(f"a block ends at byte {end} of {len(table)}")
    crc = int.from_bytes(trailer[1:], "little")
    if crc32c.masked_crc32c(table[offset : end + 1]) != crc:
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
        shared, position = protobuf.read_varint(block, position)
        unshared, position = protobuf.read_varint(block, position)
        size, position = protobuf.read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + size]
        position += size
