"""Two file formats become one table of tensors, and damage is seen before use."""

import json
import pathlib

import ml_dtypes
import numpy as np
import openai_form
import pytest

from jaxllm.errors import CheckpointError
from jaxllm.pretrained import crc32c, safetensors_file, tensor_bundle, tensors

safetensors_numpy = pytest.importorskip("safetensors.numpy")


def write_arrays(path, arrays):
    safetensors_file.write(
        path, {name: (a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    )


def read_arrays(table):
    return {name: tensors.map_tensor(stored) for name, stored in table.items()}


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0).standard_normal
    return {
        "wte.weight": draw((7, 4)).astype(np.float32),
        "h.0.attn.c_attn.weight": draw((4, 12)).astype(np.float16),
        "h.0.attn.c_attn.bias": draw(12).astype(ml_dtypes.bfloat16),
        "h.0.attn.masked_bias": np.array(-1e4, np.float32),
        "h.0.attn.bias": np.tri(3, dtype=bool)[None, None],
        "nothing": np.empty((0, 4), np.float32),
    }


# --- checksums


def bitwise_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1000, 4097])
def test_checksum_equals_the_one_made_bit_by_bit(size, monkeypatch):
    monkeypatch.setattr(crc32c, "_CHUNK", 1000)
    data = np.random.default_rng(size).bytes(size)
    assert crc32c.crc32c(data) == bitwise_crc32c(data)


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_of_the_standard_come_out(data, crc):
    """RFC 3720, section B.4."""
    assert crc32c.crc32c(data) == crc


# --- safetensors


def test_the_reference_reads_what_we_write(tmp_path, arrays):
    del arrays["h.0.attn.c_attn.bias"]  # its NumPy side does not know bfloat16
    write_arrays(tmp_path / "model.safetensors", arrays)
    theirs = safetensors_numpy.load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert theirs[name].dtype == array.dtype
        np.testing.assert_array_equal(theirs[name], array)


def test_we_read_what_the_reference_writes(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(arrays, path, metadata={"format": "pt"})
    ours = read_arrays(safetensors_file.read_table(path))
    assert ours.keys() == arrays.keys()
    for name, array in arrays.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array)


def test_tensors_that_are_written_start_on_eight_bytes(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    write_arrays(path, arrays)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_safetensors_file_cut_short_is_an_error(tmp_path, arrays, keep):
    path = tmp_path / "model.safetensors"
    write_arrays(path, arrays)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut short|bytes long"):
        safetensors_file.read_table(path)


def test_a_safetensors_file_that_is_too_long_is_an_error(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    write_arrays(path, arrays)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="bytes long"):
        safetensors_file.read_table(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [7, 5]}, r"tensor a of shape \(7, 5\) must take bytes \d+ to"),
        ({"data_offsets": [4, 116]}, "must take bytes"),
        ({"data_offsets": [-4, 108]}, "numbers >= 0"),
        ({"data_offsets": "no"}, "needs dtype, shape and data_offsets"),
        ({"shape": [7.0, 4]}, "needs dtype, shape and data_offsets"),
        ({"shape": None}, "needs dtype, shape and data_offsets"),
        ({"dtype": "F8_E4M3"}, "must be one of F16"),
    ],
)
def test_a_header_that_lies_is_an_error(tmp_path, change, message):
    entry = {"dtype": "F32", "shape": [7, 4], "data_offsets": [0, 112]} | change
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(112))
    with pytest.raises(CheckpointError, match=message):
        safetensors_file.read_table(path)


@pytest.mark.parametrize("header", [b"{", b"[]", b"{\xff}", b'{"a": 1}'])
def test_a_header_that_is_no_table_is_an_error(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError):
        safetensors_file.read_table(path)


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def test_parts_are_joined_by_their_index(tmp_path, arrays):
    (first, a), (second, b) = list(arrays.items())[:2]
    write_arrays(tmp_path / "model-00001-of-00002.safetensors", {first: a})
    write_arrays(tmp_path / "model-00002-of-00002.safetensors", {second: b})
    write_index(
        tmp_path,
        {
            first: "model-00001-of-00002.safetensors",
            second: "model-00002-of-00002.safetensors",
        },
    )
    ours = read_arrays(safetensors_file.read_folder(tmp_path))
    np.testing.assert_array_equal(ours[first], a)
    np.testing.assert_array_equal(ours[second], b)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path, arrays):
    write_arrays(tmp_path / "other.safetensors", arrays)
    folder = tmp_path / "model"
    folder.mkdir()
    write_index(folder, {"wte.weight": "../other.safetensors"})
    with pytest.raises(CheckpointError, match="not beside it"):
        safetensors_file.read_folder(folder)


def test_an_index_and_its_files_must_agree(tmp_path, arrays):
    write_arrays(tmp_path / "a.safetensors", arrays)
    write_index(tmp_path, {"wpe.weight": "a.safetensors"})
    with pytest.raises(CheckpointError, match="looks for tensor wpe"):
        safetensors_file.read_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        safetensors_file.read_folder(tmp_path)


# --- TensorFlow's checkpoints


@pytest.fixture
def variables():
    draw = np.random.default_rng(1).standard_normal
    kernels = {
        f"model/h{layer}/attn/c_attn/w": draw((1, 4, 12)).astype(np.float32)
        for layer in range(20)
    }
    return kernels | {
        "model/wte": draw((7, 4)).astype(np.float32),
        "model/half": draw(3).astype(np.float16),
        "model/brain": draw((2, 2)).astype(ml_dtypes.bfloat16),
        "global_step": np.array(7, np.int64),
    }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("block_bytes", [1, 300, 100_000])
def test_a_checkpoint_is_read_to_the_bit(tmp_path, variables, shards, block_bytes):
    prefix = tmp_path / "model.ckpt"
    openai_form.write_bundle(prefix, variables, shards=shards, block_bytes=block_bytes)
    found = read_arrays(tensor_bundle.read_table(prefix))
    assert found.keys() == variables.keys()
    for name, variable in variables.items():
        assert found[name].dtype == variable.dtype
        np.testing.assert_array_equal(found[name], variable)


def test_no_changed_byte_changes_what_is_read(tmp_path, variables):
    prefix = tmp_path / "model.ckpt"
    small = {name: variables[name] for name in ("model/wte", "global_step")}
    openai_form.write_bundle(prefix, small, block_bytes=30)
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 0x10
            file.write_bytes(changed)
            try:
                found = read_arrays(tensor_bundle.read_table(prefix))
            except CheckpointError:
                continue
            # What is not seen is not used: padding, and the empty meta-index.
            assert file.suffix == ".index"
            assert found.keys() == small.keys()
            np.testing.assert_array_equal(found["model/wte"], small["model/wte"])
        file.write_bytes(whole)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_checkpoint_cut_short_is_an_error(tmp_path, variables, suffix):
    prefix = tmp_path / "model.ckpt"
    openai_form.write_bundle(prefix, variables)
    file = pathlib.Path(f"{prefix}{suffix}")
    whole = file.read_bytes()
    for keep in (0, 1, 47, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:keep])
        with pytest.raises(CheckpointError):
            tensor_bundle.read_table(prefix)
    file.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        tensor_bundle.read_table(prefix)


def test_a_compressed_block_is_an_error(tmp_path, variables):
    prefix = tmp_path / "model.ckpt"
    openai_form.write_bundle(prefix, variables, block_bytes=100_000)
    index = pathlib.Path(f"{prefix}.index")
    table = bytearray(index.read_bytes())
    offset, _, _ = tensor_bundle._block_handle(bytes(table[-48:]), 0)
    end = offset - 5  # the data block's, in front of the empty meta-index
    table[end] = 1
    table[end + 1 : end + 5] = crc32c.masked_crc32c(bytes(table[: end + 1])).to_bytes(
        4, "little"
    )
    index.write_bytes(table)
    with pytest.raises(CheckpointError, match="compressed"):
        tensor_bundle.read_table(prefix)


def test_tensorflow_reads_what_the_tests_write_and_writes_what_we_read(
    tmp_path, variables
):
    tf = pytest.importorskip("tensorflow")
    del variables["model/brain"]
    openai_form.write_bundle(tmp_path / "ours", variables, shards=2)
    reader = tf.train.load_checkpoint(str(tmp_path / "ours"))
    for name, variable in variables.items():
        np.testing.assert_array_equal(reader.get_tensor(name), variable)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(variable) for variable in variables.values()],
    )
    found = read_arrays(tensor_bundle.read_table(tmp_path / "theirs"))
    for name, variable in variables.items():
        np.testing.assert_array_equal(found[name], variable)
