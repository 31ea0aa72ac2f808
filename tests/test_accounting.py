"""What a model costs, by arithmetic, is what it costs."""

import dataclasses
import math
import subprocess
import sys

import jax
import pytest
from parameters import quick

from jaxllm import accounting, devices
from jaxllm.cli import inspect
from jaxllm.config import GPTConfig, gpt2_config, gpt3_config
from jaxllm.errors import ConfigError
from jaxllm.models import gpt
from jaxllm.models.cache import init_cache

# figures.md of the notes: parameters with an untied and with a tied head, without and
# with biases of query, key and value, and the untied ones in MiB of float32.
PUBLISHED = {
    "124M": (163_009_536, 124_412_160, 163_037_184, 124_439_808, 621.83),
    "355M": (406_212_608, 354_749_440, 406_286_336, 354_823_168, 1549.58),
    "774M": (838_220_800, 773_891_840, 838_359_040, 774_030_080, 3197.56),
    "1558M": (1_637_792_000, 1_557_380_800, 1_638_022_400, 1_557_611_200, 6247.68),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_parameter_counts_come_out(size):
    counts = tuple(
        accounting.count(gpt2_config(size, tied_head=tied, qkv_bias=bias))
        for bias in (False, True)
        for tied in (False, True)
    )
    assert counts == PUBLISHED[size][:4]
    assert round(4 * counts[0] / 2**20, 2) == PUBLISHED[size][4]


def test_other_published_counts_come_out():
    book = gpt2_config("124M", qkv_bias=False)
    parts = accounting.count_by_part(book)
    assert parts["feed-forward"] == 12 * 4_722_432
    assert parts["attention"] == 12 * 2_360_064
    short = dataclasses.replace(book, context_length=256)
    assert accounting.count(short) == 123_822_336
    assert accounting.count(dataclasses.replace(short, tied_head=False)) == 162_419_712
    assert accounting.count(gpt3_config("175B")) == 174_604_259_328


@pytest.mark.parametrize(
    ("size", "flops"),
    [("124M", 5.1e11), ("355M", 1.4e12), ("774M", 3.2e12), ("1558M", 6.4e12)],
)
def test_published_forward_flops_come_out(size, flops):
    """Of the linear layers, for two sequences of 1,024 tokens."""
    linear = accounting.forward_flops(gpt2_config(size))["linear"]
    assert float(f"{2 * 1024 * linear:.1e}") == flops


def test_flops_of_gpt2_are_six_per_parameter_and_the_attention():
    # 124,439,808 parameters less 1,024 * 768 positions.
    expected = 6 * (124_439_808 - 786_432) + 12 * 12 * 768 * 1024
    assert accounting.training_flops(gpt2_config("124M")) == expected


def test_a_table_that_is_only_looked_up_is_no_arithmetic():
    tied = accounting.training_flops(gpt2_config("124M"))
    assert accounting.training_flops(gpt2_config("124M", tied_head=False)) == tied


def test_a_window_and_fewer_heads_of_keys_are_less_arithmetic():
    # Per layer: keys and values of 4 of 12 heads, and 64 tokens seen of 1,024.
    cfg = gpt2_config("124M", n_kv_heads=4, attention_window=64)
    whole, part = (accounting.forward_flops(c) for c in (gpt2_config("124M"), cfg))
    assert whole["linear"] - part["linear"] == 12 * 2 * 2 * 768 * (768 - 4 * 64)
    assert whole["attention"] == 16 * part["attention"]
    assert (
        accounting.training_flops(cfg)
        == 6 * (accounting.count(cfg) - 1024 * 768) + 12 * 12 * 768 * 64
    )


def test_gpt3_costs_what_its_paper_says():
    # Table D.1: 3.14e23 for 300 billion tokens, without the products of attention.
    cfg = gpt3_config("175B")
    attention = 12 * cfg.n_layers * cfg.emb_dim * cfg.context_length
    total = (accounting.training_flops(cfg) - attention) * 300e9
    assert total == pytest.approx(3.14e23, rel=0.01)


def test_the_published_cache_comes_out():
    cfg = GPTConfig(
        emb_dim=4096, n_heads=32, n_layers=32, context_length=32768, dtype="bfloat16"
    )
    assert round(accounting.cache_bytes(cfg) / 1e9, 2) == 17.18


CONFIGS = [
    GPTConfig(vocab_size=31, context_length=8, emb_dim=12, n_heads=3, n_layers=2),
    GPTConfig(
        vocab_size=31, context_length=8, emb_dim=12, n_heads=3, n_layers=5,
        tied_head=False, qkv_bias=False, positions="rotary", mlp_ratio=3,
    ),
    gpt3_config("1.3B", positions="alibi", n_kv_heads=4),
]  # fmt: skip


@pytest.mark.parametrize("cfg", CONFIGS)
def test_counts_are_those_of_the_model_itself(cfg):
    assert accounting.count(cfg) == gpt.count_params(cfg)
    cache = jax.eval_shape(lambda: init_cache(cfg, 3, 5))
    held = sum(4 * math.prod(leaf.shape) for leaf in cache.key + cache.value)
    assert accounting.cache_bytes(cfg, 3, 5) == held


@pytest.mark.parametrize(
    "changes",
    quick([{"mlp_ratio": 2, "n_layers": 6}, {"remat": "block"}, {"dtype": "bfloat16"}]),
)
def test_the_estimate_for_training_is_what_the_compiler_finds(changes):
    if "dtype" in changes and jax.__version_info__ < (0, 12):
        pytest.skip("on a CPU, XLA widens bfloat16 to float32")
    shape = {"context_length": 128, "emb_dim": 128, "n_heads": 4, "n_layers": 4}
    cfg = GPTConfig(vocab_size=512, **(shape | changes))
    estimate = sum(accounting.training_bytes(cfg, batch_size=8).values())
    assert estimate == pytest.approx(inspect.compiled_bytes(cfg, 8, 128), rel=0.15)


def test_the_estimate_for_generating_is_what_the_compiler_finds():
    cfg = GPTConfig(
        vocab_size=512, context_length=256, emb_dim=128, n_heads=8, n_layers=8
    )
    params = jax.eval_shape(lambda: gpt.init_params(jax.random.key(0), cfg))
    tokens = jax.ShapeDtypeStruct((8, 256), "int32")

    @jax.jit
    def read_prompts(params, tokens):
        return gpt.hidden_states(params, tokens, cfg, cache=init_cache(cfg, 8))

    memory = read_prompts.lower(params, tokens).compile().memory_analysis()
    found = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    )
    estimate = sum(accounting.generation_bytes(cfg, 8).values())
    assert estimate == pytest.approx(found, rel=0.15)


def test_shards_split_what_is_as_large_as_the_parameters():
    cfg = gpt2_config("124M")
    whole, part = (accounting.training_bytes(cfg, 2, shards=n) for n in (1, 4))
    for name in ("parameters", "gradients", "optimizer state"):
        assert part[name] == whole[name] / 4
    assert part["activations"] == whole["activations"]


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("context", [None, 64])
def test_the_largest_batch_fits_and_one_more_does_not(remat, context):
    cfg = gpt2_config("355M", remat=remat)
    memory = devices.find("a100-40gb").memory
    batch = devices.largest_batch(cfg, memory, context)
    assert batch > 0
    for size, expected in ((batch, True), (batch + 1, False)):
        needed = sum(accounting.training_bytes(cfg, size, context).values())
        assert devices.fits(needed, memory) is expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1..2GB", "24 pounds"])
def test_a_memory_that_is_no_amount_is_an_error(text):
    with pytest.raises(ConfigError, match="memory must be like 24GB"):
        devices.parse_memory(text)


def test_a_device_that_is_not_known_is_an_error():
    with pytest.raises(ConfigError, match=r"h200, .* got 'h300'"):
        devices.find("h300")


def test_looking_at_gpt3_takes_no_jax_and_no_time():
    code = (
        "import sys, time; start = time.monotonic(); "
        "from jaxllm.cli import main; "
        "main.main(['inspect', 'gpt3-175B', '--device', 'h200']); "
        "assert 'jax' not in sys.modules; assert time.monotonic() - start < 5"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "174,604,259,328" in run.stdout
    assert "does not fit" in run.stdout
