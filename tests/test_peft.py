"""Adapters in PEFT's files: the same change here and there, and nothing left out.

What needs PEFT itself, PyTorch and transformers, is left out where they are not.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, random_params

from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.finetuning import lora, peft
from jaxllm.models import gpt
from jaxllm.pretrained import safetensors_file, save

CFG = dataclasses.replace(CFG, n_layers=3, qkv_bias=True)
PARAMS = random_params(CFG)
TOKENS = np.arange(16, dtype=np.int32).reshape(2, 8)
PREFIX = "base_model.model.transformer.h"


def trained(rules=lora.BLOCKS_LINEAR, rank=2, alpha=3.0):
    """An adapter as training might leave it: no factor is zero."""
    adapter = lora.init_lora(jax.random.key(0), PARAMS, rules, rank, alpha)
    normal = np.random.default_rng(0).normal
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * normal(size=leaf.shape), leaf.dtype), adapter
    )


def assert_equal(got, want, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, want)


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


QUERY_ALONE = (("attention/query/kernel$", lora.ALL_LINEAR[0][1]), ("", None))


@pytest.mark.parametrize(
    "rules", [lora.BLOCKS_LINEAR, lora.QUERY_AND_VALUE, QUERY_ALONE]
)
def test_an_adapter_comes_back_as_it_was(tmp_path, rules):
    adapter = trained(rules)
    peft.save_adapters(adapter, CFG, tmp_path)
    back = peft.load_adapters(tmp_path, CFG)
    assert back.scale == pytest.approx(adapter.scale)
    assert_equal(back.adapters, adapter.adapters)
    merged = lora.merge_lora(PARAMS, back)
    assert_equal(merged, lora.merge_lora(PARAMS, adapter), atol=1e-5)


def test_pairs_of_different_ranks_come_back_as_they_were(tmp_path):
    wide, narrow = trained(rank=4, alpha=6.0), trained(rank=1, alpha=1.5)
    blocks = wide.adapters["blocks"]
    blocks["attention"]["key"] = narrow.adapters["blocks"]["attention"]["key"]
    blocks["mlp"] = narrow.adapters["blocks"]["mlp"]
    peft.save_adapters(wide, CFG, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (1, 1.5)
    assert config["rank_pattern"] == {"attn.c_attn": 9, "attn.c_proj": 4}
    assert config["alpha_pattern"] == {"attn.c_attn": 13.5, "attn.c_proj": 6.0}
    assert_equal(peft.load_adapters(tmp_path, CFG).adapters, wide.adapters)


def test_an_adapter_that_has_learnt_nothing_keeps_its_pairs(tmp_path):
    start = lora.init_lora(jax.random.key(0), PARAMS, lora.BLOCKS_LINEAR, rank=2)
    peft.save_adapters(start, CFG, tmp_path)
    back = peft.load_adapters(tmp_path, CFG)
    assert jax.tree.map(jnp.shape, back.adapters["blocks"]["attention"]["key"]) == {
        "kernel": {"a": (3, 16, 6), "b": (3, 6, 2, 8)}
    }
    assert_equal(lora.merge_lora(PARAMS, back), PARAMS, atol=0)


# Beside PEFT itself.


def their_model(folder):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    save.save_pretrained(PARAMS, CFG, None, folder)
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


def assert_same_logits(theirs, ours):
    import torch

    with torch.no_grad():
        want = theirs(torch.tensor(TOKENS).long()).logits.numpy()
    np.testing.assert_allclose(
        gpt.apply(lora.merge_lora(PARAMS, ours), TOKENS, CFG), want, atol=1e-4
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("rules", [lora.BLOCKS_LINEAR, lora.QUERY_AND_VALUE])
def test_peft_opens_an_adapter_and_has_the_same_logits(tmp_path, rules):
    model = their_model(tmp_path / "base")
    import peft as theirs

    adapter = trained(rules)
    peft.save_adapters(adapter, CFG, tmp_path / "adapter", base=f"{tmp_path}/base")
    with_adapter = theirs.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert_same_logits(with_adapter, adapter)
    assert_same_logits(with_adapter.merge_and_unload(), adapter)


THEIRS = {
    "the default": {},
    "every layer": {"target_modules": ["c_attn", "c_proj", "c_fc"]},
    "some layers": {"target_modules": ["c_attn"], "layers_to_transform": [0, 2]},
    "by the root": {"use_rslora": True},
    "patterns": {
        "target_modules": ["c_attn", "attn.c_proj", "mlp.c_proj"],
        "rank_pattern": {"h.1.attn.c_attn": 5, "mlp.c_proj": 1},
        # The first that fits counts; PEFT writes them down in alphabetical order.
        "alpha_pattern": {"c_attn": 11, "c_proj": 2, r"h\.0\.attn\.c_proj": 5},
    },
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("case", THEIRS)
def test_what_peft_saved_has_the_same_logits_here(tmp_path, case):
    model = their_model(tmp_path / "base")
    import peft as theirs
    import torch

    config = theirs.LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **THEIRS[case])
    model = theirs.get_peft_model(model, config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    adapter = peft.load_adapters(tmp_path / "adapter", CFG)
    assert_same_logits(model, adapter)
    peft.save_adapters(adapter, CFG, tmp_path / "again")
    assert_same_logits(model, peft.load_adapters(tmp_path / "again", CFG))


# What is refused, each in one line.


def refused(folder, cfg=CFG):
    with pytest.raises(CheckpointError) as caught:
        peft.load_adapters(folder, cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa"),
        ("peft_type", "IA3"),
        ("r", 0),
        ("lora_alpha", "many"),
        ("alpha_pattern", {"c_attn": None}),
        ("alpha_pattern", {"(": 2}),
        ("a_field_of_tomorrow", 1),
    ],
)
def test_a_config_of_more_than_pairs_is_refused_by_its_field(tmp_path, field, value):
    peft.save_adapters(trained(), CFG, tmp_path)
    edit(tmp_path, **{field: value})
    message = refused(tmp_path)
    assert next(iter(value)) if field == "alpha_pattern" else field in message


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("base_model.model.transformer.wte.lora_embedding_A", (2, 16), "no place"),
        ("base_model.model.lm_head.lora_A.weight", (2, 16), "no place"),
        (f"{PREFIX}.3.attn.c_attn.lora_A.weight", (2, 16), "GPT-2 of 3 layers"),
        (f"{PREFIX}.0.mlp.c_fc.lora_A.weight", (2, 15), "16 inputs"),
        (f"{PREFIX}.0.mlp.c_fc.lora_A.weight", (16,), "16 inputs"),
        (f"{PREFIX}.0.mlp.c_fc.lora_A.weight", (0, 16), "16 inputs"),
        (f"{PREFIX}.0.mlp.c_fc.lora_A.weight", (2, 16), "A and B of one rank"),
    ],
)
def test_a_tensor_without_a_place_is_refused_by_its_name(tmp_path, name, shape, words):
    peft.save_adapters(trained(), CFG, tmp_path)
    new = safetensors_file.NewTensor(
        shape, np.dtype("<f4"), lambda: np.zeros(shape, np.float32)
    )
    safetensors_file.write(tmp_path / "adapter_model.safetensors", {name: new})
    message = refused(tmp_path)
    assert words in message
    assert name.removeprefix(PREFIX).split(".lora")[0] in message


def test_a_file_that_is_missing_is_refused_by_its_name(tmp_path):
    assert "adapter_config.json" in refused(tmp_path)


def test_what_gpt2_has_no_module_for_is_not_saved(tmp_path):
    adapter = lora.Lora({"head": {"embedding": {"a": 0, "b": 0}}}, lora.ALL_LINEAR, 1.0)
    with pytest.raises(ConfigError, match="got head/embedding"):
        peft.save_adapters(adapter, CFG, tmp_path)
    with pytest.raises(ConfigError, match="got none"):
        peft.save_adapters(lora.Lora({}, lora.ALL_LINEAR, 1.0), CFG, tmp_path)
    rotary = dataclasses.replace(CFG, positions="rotary")
    with pytest.raises(ConfigError, match="rotary"):
        peft.save_adapters(trained(), rotary, tmp_path)
    narrow = dataclasses.replace(CFG, n_layers=2)
    with pytest.raises(ConfigError, match="must have shapes"):
        peft.save_adapters(trained(), narrow, tmp_path)
    assert not list(tmp_path.iterdir())
