"""Parameters and GPT-2's tensors are the same numbers in two arrangements."""

import pathlib
import re
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxllm import paths
from jaxllm.config import GPTConfig, MeshConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.errors import CheckpointError
from jaxllm.models import gpt
from jaxllm.pretrained import names, safetensors_file, weights

CFG = GPTConfig(vocab_size=19, context_length=8, emb_dim=6, n_heads=2, n_layers=3)


def shapes_of(cfg):
    return jax.eval_shape(lambda key: gpt.init_params(key, cfg), jax.random.key(0))


def draw_tensors(cfg, dtype=np.float32):
    """GPT-2's tensors of random numbers, by name."""
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(home.tensor_shape(cfg)).astype(dtype)
        for home in names.homes(cfg)
        for name in home.tensor_names(cfg)
    }


def write_tensors(path, arrays):
    safetensors_file.write(
        path, {name: (a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    )
    return safetensors_file.read_table(path)


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_has_every_parameter_with_its_shape(tied):
    cfg = GPTConfig(
        vocab_size=19, context_length=8, emb_dim=6, n_heads=2, n_layers=3,
        mlp_ratio=2, tied_head=tied,
    )  # fmt: skip
    leaves = jax.tree_util.tree_leaves_with_path(shapes_of(cfg))
    ours = {paths.path_of(keys): leaf.shape for keys, leaf in leaves}
    assert {home.path: home.shape(cfg) for home in names.homes(cfg)} == ours


def test_a_view_is_no_copy_and_covers_its_tensor_once():
    for name in {home.name for home in names.homes(CFG)}:
        homes = [home for home in names.homes(CFG) if home.name == name]
        tensor = np.zeros(homes[0].tensor_shape(CFG))
        for home in homes:
            view = names.view_as_ours(tensor, home, CFG)
            assert np.shares_memory(view, tensor)
            view += 1
        assert (tensor == 1).all()


def test_heads_are_cut_out_of_the_fused_projection_in_order(tmp_path):
    arrays = draw_tensors(CFG)
    fused = np.arange(3 * 6, dtype=np.float32)
    arrays["h.1.attn.c_attn.bias"] = fused
    params = weights.read_params(write_tensors(tmp_path / "m", arrays), CFG)
    attention = params["blocks"]["attention"]
    assert attention["query"]["bias"][1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert attention["key"]["bias"][1].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert attention["value"]["bias"][1].tolist() == [[12, 13, 14], [15, 16, 17]]


@pytest.mark.parametrize("tied", [True, False])
def test_writing_what_was_read_gives_the_same_bytes(tmp_path, tied):
    cfg = GPTConfig(
        vocab_size=19, context_length=8, emb_dim=6, n_heads=2, n_layers=3,
        tied_head=tied,
    )  # fmt: skip
    params = weights.read_params(write_tensors(tmp_path / "a", draw_tensors(cfg)), cfg)
    weights.write_params(params, cfg, tmp_path / "b")
    table = {
        name.removeprefix("transformer."): stored
        for name, stored in safetensors_file.read_table(tmp_path / "b").items()
    }
    again = weights.read_params(table, cfg)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    weights.write_params(again, cfg, tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_exactly(tmp_path, dtype):
    arrays = draw_tensors(CFG, dtype)
    params = weights.read_params(write_tensors(tmp_path / "m", arrays), CFG)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    np.testing.assert_array_equal(
        params["blocks"]["mlp"]["up"]["kernel"][2],
        arrays["h.2.mlp.c_fc.weight"].astype(np.float32),
    )
    weights.write_params(params, CFG, tmp_path / "again", np.dtype(dtype).name)
    stored = safetensors_file.read_table(tmp_path / "again")
    assert {entry.dtype for entry in stored.values()} == {np.dtype(dtype)}


def test_a_mesh_gets_the_same_numbers_part_by_part(tmp_path):
    cfg = GPTConfig(vocab_size=20, context_length=8, emb_dim=8, n_heads=2, n_layers=3)
    table = write_tensors(tmp_path / "m", draw_tensors(cfg))
    alone = weights.read_params(table, cfg)
    mesh = meshes.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    split = weights.read_params(table, cfg, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, alone, split)
    kernel = split["blocks"]["attention"]["out"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 1, 4, 4)


def test_buffers_of_older_files_are_passed_over(tmp_path):
    arrays = draw_tensors(CFG)
    arrays["h.0.attn.bias"] = np.tri(8, dtype=bool)[None, None]
    arrays["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    weights.read_params(write_tensors(tmp_path / "m", arrays), CFG)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("h.2.ln_1.bias", None, "tensor h.2.ln_1.bias of shape (6,) is missing"),
        (
            "h.1.attn.c_attn.weight",
            np.zeros((6, 12), np.float32),
            "m: tensor h.1.attn.c_attn.weight must have shape (6, 18) and type "
            "float16, bfloat16, float32; got (6, 12) and float32",
        ),
        (
            "wpe.weight",
            np.zeros((8, 6), np.int32),
            "m: tensor wpe.weight must have shape (8, 6) and type "
            "float16, bfloat16, float32; got (8, 6) and int32",
        ),
        (
            "h.3.ln_1.bias",
            np.zeros(6, np.float32),
            "m: tensor h.3.ln_1.bias of shape (6,) has no place in a GPT-2 of 3 layers",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, name, array, message):
    arrays = draw_tensors(CFG) | {name: array}
    if array is None:
        del arrays[name]
    table = write_tensors(tmp_path / "m", arrays)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        weights.read_params(table, CFG)


def test_parameters_that_are_not_the_config_s_are_not_written(tmp_path):
    table = write_tensors(tmp_path / "m", draw_tensors(CFG))
    params = weights.read_params(table, CFG)
    params["final_norm"]["scale"] = params["final_norm"]["scale"][:5]
    with pytest.raises(
        CheckpointError, match=r"final_norm/scale must have shape \(6,\)"
    ):
        weights.write_params(params, CFG, tmp_path / "out")
    del params["final_norm"]["scale"]
    with pytest.raises(CheckpointError, match="got None"):
        weights.write_params(params, CFG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# A model of 183 MiB whose largest parameter is 64 MiB, so that one copy too many shows.
MEASURED = GPTConfig(
    vocab_size=32768, context_length=64, emb_dim=512, n_heads=8, n_layers=10
)

MEASURE = """
import pathlib, sys, threading, time
import jax, psutil
from jaxllm.config import GPTConfig
from jaxllm.pretrained import safetensors_file, weights
cfg = GPTConfig(
    vocab_size=32768, context_length=64, emb_dim=512, n_heads=8, n_layers=10
)
jax.numpy.zeros(8).block_until_ready()
process, peak, done = psutil.Process(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.0005)
watcher = threading.Thread(target=watch)
before = process.memory_info().rss
watcher.start()
table = safetensors_file.read_table(sys.argv[1])
params = weights.read_params(table, cfg)
done = True
watcher.join()
print(peak - before)
"""


def test_reading_needs_little_memory_beside_the_parameters(tmp_path):
    path = tmp_path / "m.safetensors"
    arrays = {
        name: np.full(home.tensor_shape(MEASURED), 0.5, np.float32)
        for home in names.homes(MEASURED)
        for name in home.tensor_names(MEASURED)
    }
    write_tensors(path, arrays)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    largest = 4 * MEASURED.vocab_size * MEASURED.emb_dim
    held = int(run.stdout)
    # On a CPU the parameters lie in host memory, as many bytes as the mapped file has.
    assert held < path.stat().st_size + 1.3 * largest
