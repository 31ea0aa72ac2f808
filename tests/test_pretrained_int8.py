"""A folder in int8: the model as rounded, a quarter as large, and for nobody else."""

import json
import pathlib
import warnings

import jax
import numpy as np
import pytest
from small_models import random_params

from jaxllm.cli import main
from jaxllm.config import GPTConfig
from jaxllm.errors import CheckpointError
from jaxllm.inference import weights
from jaxllm.pretrained import int8, load, safetensors_file, save

CFG = GPTConfig(vocab_size=40, context_length=16, emb_dim=24, n_heads=2, n_layers=2)
UNTIED = GPTConfig(
    vocab_size=40,
    context_length=16,
    emb_dim=24,
    n_heads=2,
    n_layers=2,
    tied_head=False,
)
GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.mark.parametrize("cfg", [CFG, UNTIED], ids=["tied", "untied"])
def test_what_is_read_is_what_decoding_in_int8_rounds_to(tmp_path, cfg):
    params = random_params(cfg)
    save.save_pretrained(params, cfg, None, tmp_path, dtype="int8")
    read, same_cfg, _ = load.load_pretrained(tmp_path)
    assert same_cfg == cfg
    rounded = weights.rounded_params(params, "int8")
    head = "head" if "head" in read else "token_embedding"
    np.testing.assert_allclose(
        read[head]["embedding"], rounded["head"]["embedding"], rtol=1e-6
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        read["blocks"],
        rounded["blocks"],
    )
    for name in ("position_embedding", "final_norm"):
        jax.tree.map(np.testing.assert_array_equal, read[name], params[name])


def test_packing_what_is_read_gives_the_stored_numbers(tmp_path):
    params = random_params(CFG)
    save.save_pretrained(params, CFG, None, tmp_path, dtype="int8")
    read, _, _ = load.load_pretrained(tmp_path)
    before, after = (
        weights.decoding_params(each, CFG, "int8") for each in (params, read)
    )
    for block in ("block_0", "block_1"):
        one, other = before[block]["mlp"]["up"], after[block]["mlp"]["up"]
        np.testing.assert_array_equal(one["kernel"].values, other["kernel"].values)
    np.testing.assert_array_equal(
        before["head"]["embedding"].values, after["head"]["embedding"].values
    )


def test_one_form_replaces_the_other(tmp_path):
    params = random_params(CFG)
    for dtype, stored in (("int8", "int8"), ("float32", None), ("int8", "int8")):
        save.save_pretrained(params, CFG, None, tmp_path, dtype=dtype)
        assert load.stored_weights(tmp_path) == stored
        assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("shape", [None, (24, 1, 1), (1, 25), (96,)])
def test_scales_that_are_missing_or_do_not_fit_are_an_error(tmp_path, shape):
    save.save_pretrained(random_params(CFG), CFG, None, tmp_path, dtype="int8")
    table = safetensors_file.read_table(tmp_path / int8.FILE)
    name = "transformer.h.1.mlp.c_fc.weight"
    scale = table.pop(int8.scale_name(name))
    if shape is not None:
        table[int8.scale_name(name)] = scale._replace(shape=shape)
    with pytest.raises(CheckpointError, match=r"c_fc.weight .* needs float32 scales"):
        int8.with_scales(table)


def test_transformers_refuses_the_folder(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    save.save_pretrained(random_params(CFG), CFG, None, tmp_path, dtype="int8")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        transformers.GPT2LMHeadModel.from_pretrained(tmp_path)


def test_converting_measures_what_rounding_costs_and_the_folder_can_be_asked(
    tmp_path, capsys
):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat, and the dog lay on the rug. " * 8)

    def run(*words):
        status = main.main([str(word) for word in words])
        output = capsys.readouterr()
        return status, output.out + output.err

    small, whole = tmp_path / "small", tmp_path / "whole"
    convert = ("convert", GOLDEN / "openai", small, "--dtype", "int8")
    status, said = run(*convert, "--text", text)
    assert status == 0
    assert "perplexity" in said
    assert "in int8" in said
    assert "before" in said
    assert "not measured: it needs --text FILE" in run(*convert)[1]
    run("convert", GOLDEN / "openai", whole, "--to", "huggingface")
    sizes = [
        sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in (small, whole)
    ]
    assert sizes[0] < 0.5 * sizes[1]  # so narrow a model is half scales and norms
    config = json.loads((small / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "jaxllm"
    words = ("--prompt", "The cat", "--max_new_tokens", 4, "--temperature", 0)
    status, said = run("generate", small, *words)
    assert status == 0
    assert said.startswith("The cat")
    assert run("generate", small, *words, "--weights", "int8")[1] == said
    status, said = run(*convert, "--to", "run")
    assert status == 2
    assert "a run keeps float32, got dtype int8" in said
