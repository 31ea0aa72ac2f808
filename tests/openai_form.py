"""GPT-2 as OpenAI published it, written without TensorFlow, for the tests to read.

The index has what TensorFlow's own has: sorted keys that share prefixes, restart
points, several blocks, a checksum for each block and each tensor, an empty meta-index,
a footer. TensorFlow 2.21 reads what this writes.
"""

import json
import pathlib

import ml_dtypes
import numpy as np

from jaxllm.pretrained import crc32c, tensor_bundle

DTYPE_NUMBERS = {
    np.dtype("f4"): 1,
    np.dtype("i4"): 3,
    np.dtype("i8"): 9,
    np.dtype(ml_dtypes.bfloat16): 14,
    np.dtype("f2"): 19,
}
RESTART_INTERVAL = 16


def varint(value: int) -> bytes:
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + value.to_bytes(4, "little")


def block(records: list[tuple[bytes, bytes]]) -> bytes:
    data, restarts, previous = b"", [], b""
    for i, (key, value) in enumerate(records):
        shared = 0
        if i % RESTART_INTERVAL == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(previous)) and (
                key[shared] == previous[shared]
            ):
                shared += 1
        rest = key[shared:]
        data += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        previous = key
    restarts = restarts or [0]
    for number in (*restarts, len(restarts)):
        data += number.to_bytes(4, "little")
    return data


def sorted_table(records: list[tuple[bytes, bytes]], block_bytes: int) -> bytes:
    """Write a table whose data blocks are cut once they pass block_bytes."""
    table, index, pending, size = b"", [], [], 0

    def append(content: bytes) -> bytes:
        nonlocal table
        handle = varint(len(table)) + varint(len(content))
        content += b"\0"  # not compressed
        table += content + crc32c.masked_crc32c(content).to_bytes(4, "little")
        return handle

    for key, value in sorted(records):
        pending.append((key, value))
        size += len(key) + len(value)
        if size >= block_bytes:
            index.append((key, append(block(pending))))
            pending, size = [], 0
    if pending:
        index.append((pending[-1][0], append(block(pending))))
    footer = append(block([])) + append(block(index))
    footer += b"\0" * (tensor_bundle.FOOTER_BYTES - 8 - len(footer))
    return table + footer + tensor_bundle.MAGIC.to_bytes(8, "little")


def write_bundle(
    prefix: pathlib.Path,
    tensors: dict[str, np.ndarray],
    *,
    shards: int = 1,
    block_bytes: int = 512,
) -> None:
    """Write a TensorFlow checkpoint, the tensors dealt out over the shards in turn."""
    data = [b""] * shards
    # BundleHeaderProto: num_shards, and version.producer.
    records = [(b"", field(1, shards) + field(3, field(1, 1)))]
    for i, (name, tensor) in enumerate(sorted(tensors.items())):
        raw, shard = tensor.tobytes(), i % shards
        axes = b"".join(field(2, field(1, size) or b"") for size in tensor.shape)
        records.append(
            (
                name.encode(),
                field(1, DTYPE_NUMBERS[tensor.dtype])
                + field(2, axes)
                + field(3, shard)
                + field(4, len(data[shard]))
                + field(5, len(raw))
                + fixed32(6, crc32c.masked_crc32c(raw)),
            )
        )
        data[shard] += raw
    prefix.with_name(prefix.name + ".index").write_bytes(
        sorted_table(records, block_bytes)
    )
    for shard, content in enumerate(data):
        name = f"{prefix.name}.data-{shard:05d}-of-{shards:05d}"
        prefix.with_name(name).write_bytes(content)


def openai_tensors(
    huggingface: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Rename GPT2LMHeadModel's tensors as OpenAI's code calls them."""
    renamed = {}
    for name, tensor in huggingface.items():
        parts = name.removeprefix("transformer.").split(".")
        if parts[0] == "lm_head" or parts[-2:] == ["attn", "bias"]:
            continue
        if parts[0] == "h":
            parts[:2] = [f"h{parts[1]}"]
        kernel = tensor.ndim == 2 and parts[0] not in ("wte", "wpe")
        last = "w" if kernel else "g" if parts[-1] == "weight" else "b"
        parts[-1:] = [] if parts[0] in ("wte", "wpe") else [last]
        renamed["/".join(["model", *parts])] = tensor[None] if kernel else tensor
    return renamed


def write_openai_folder(
    folder: pathlib.Path,
    hparams: dict[str, int],
    huggingface: dict[str, np.ndarray],
    *,
    shards: int = 1,
) -> None:
    """Write hparams.json, checkpoint and model.ckpt.*, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\n'
        'all_model_checkpoint_paths: "model.ckpt"\n'
    )
    write_bundle(folder / "model.ckpt", openai_tensors(huggingface), shards=shards)
