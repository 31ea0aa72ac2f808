"""Laws of the model: what must hold for every GPT, whatever its shape and values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import quick

from jaxllm.config import GPTConfig, gpt2_config, gpt3_config
from jaxllm.errors import ConfigError, DataError
from jaxllm.models import gpt
from jaxllm.models.cache import init_cache

# Compiled once per shape: a loop over layers that runs eagerly compiles at every call.
hidden_states = jax.jit(gpt.hidden_states, static_argnums=2)
apply = jax.jit(gpt.apply, static_argnums=2)
trace = jax.jit(gpt.trace, static_argnums=2)

TINY = GPTConfig(
    vocab_size=11, context_length=9, emb_dim=12, n_heads=3, n_layers=3, drop_rate=0.5
)
VARIANTS = {
    "learned": TINY,
    "alibi": dataclasses.replace(TINY, positions="alibi"),
    "grouped": dataclasses.replace(TINY, positions="rotary", n_kv_heads=1),
    "sinusoidal": dataclasses.replace(TINY, positions="sinusoidal"),
    "rotary": dataclasses.replace(TINY, positions="rotary"),
    "untied": dataclasses.replace(TINY, tied_head=False, init="pytorch"),
    "no_bias": dataclasses.replace(TINY, qkv_bias=False, activation="gelu_erf"),
}


@pytest.fixture(params=quick(VARIANTS, count=3))
def cfg(request):
    return VARIANTS[request.param]


def some_tokens(cfg, B, T, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, cfg.vocab_size, (B, T)), jnp.int32)


def some_params(cfg, new_key):
    # Scaled up, so that attention is far from uniform and positions matter.
    return jax.tree.map(lambda p: p * 5, gpt.init_params(new_key(), cfg))


@pytest.mark.parametrize(("B", "T"), [(1, 1), (3, 9)])
def test_logits_are_float32_scores_for_every_position_and_token(cfg, new_key, B, T):
    with jax.numpy_dtype_promotion("strict"):
        logits = apply(gpt.init_params(new_key(), cfg), some_tokens(cfg, B, T), cfg)
    assert logits.shape == (B, T, cfg.vocab_size)
    assert logits.dtype == jnp.float32


def test_future_tokens_do_not_change_past_logits(cfg, new_key):
    params = some_params(cfg, new_key)
    tokens = some_tokens(cfg, 3, 9)
    changed = tokens.at[:, 5:].set((tokens[:, 5:] + 1) % cfg.vocab_size)
    before, after = apply(params, tokens, cfg), apply(params, changed, cfg)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_gradient_reaches_every_past_position_and_no_future_one(cfg, new_key):
    params = some_params(cfg, new_key)
    table = params["token_embedding"]["embedding"]
    tokens = jnp.arange(9, dtype=jnp.int32)[None]

    def one_state(rows):
        changed = params | {"token_embedding": {"embedding": rows}}
        return hidden_states(changed, tokens, cfg)[0][0, 4, 0]

    reached = jnp.abs(jax.grad(one_state)(table)).sum(axis=1) > 0
    np.testing.assert_array_equal(reached, np.arange(cfg.vocab_size) <= 4)


def test_order_of_the_past_matters_through_positions(cfg, new_key):
    params = some_params(cfg, new_key)
    one = apply(params, jnp.array([[1, 2, 3]]), cfg)
    other = apply(params, jnp.array([[2, 1, 3]]), cfg)
    assert not np.allclose(one[:, -1], other[:, -1])


def test_rows_of_a_batch_do_not_see_each_other(cfg, new_key):
    params, tokens = some_params(cfg, new_key), some_tokens(cfg, 3, 9)
    together = apply(params, tokens, cfg)
    alone = jnp.concatenate([apply(params, row[None], cfg) for row in tokens])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunks", quick([[4, 1, 4], [9], [1] * 9]))
def test_reading_in_chunks_with_a_cache_equals_reading_at_once(cfg, new_key, chunks):
    params, tokens = some_params(cfg, new_key), some_tokens(cfg, 3, 9)
    whole, _ = hidden_states(params, tokens, cfg)
    cache, parts, start = init_cache(cfg, 3, 12), [], 0
    for size in chunks:
        part, cache = hidden_states(
            params, tokens[:, start : start + size], cfg, cache=cache
        )
        parts.append(part)
        start += size
    np.testing.assert_allclose(
        whole, jnp.concatenate(parts, axis=1), rtol=1e-4, atol=1e-4
    )
    assert cache.length.tolist() == [9, 9, 9]


def test_a_padded_row_continues_as_if_it_were_alone(cfg, new_key):
    params, tokens = some_params(cfg, new_key), some_tokens(cfg, 3, 9)
    lengths = [2, 4, 3]
    _, cache = hidden_states(params, tokens[:, :4], cfg, cache=init_cache(cfg, 3, 12))
    cache = cache._replace(length=jnp.array(lengths))
    after, _ = hidden_states(params, tokens[:, 4:5], cfg, cache=cache)
    alone = np.array(tokens)
    alone[range(3), lengths] = tokens[:, 4]  # What follows changes nothing before it.
    expected = np.asarray(hidden_states(params, alone, cfg)[0])[range(3), lengths]
    np.testing.assert_allclose(after[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_compiled_equals_eager(cfg, new_key):
    params, tokens = some_params(cfg, new_key), some_tokens(cfg, 3, 9)
    eager = gpt.apply(params, tokens, cfg)
    compiled = apply(params, tokens, cfg)
    np.testing.assert_allclose(eager, compiled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change", quick([{"remat": "block"}, {"unroll": 2}, {"unroll": 3}])
)
def test_unrolling_and_rematerialising_change_no_loss_and_no_gradient(new_key, change):
    params, tokens, key = some_params(TINY, new_key), some_tokens(TINY, 3, 9), new_key()

    def grads(cfg):
        spread = lambda p: gpt.apply(p, tokens, cfg, key=key).std()  # noqa: E731
        return jax.jit(jax.grad(spread))(params)

    plain, changed = grads(TINY), grads(dataclasses.replace(TINY, **change))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(changed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_to_float32(new_key):
    cfg = dataclasses.replace(TINY, dtype="bfloat16")
    params, tokens = gpt.init_params(new_key(), TINY), some_tokens(TINY, 3, 9)
    half, full = apply(params, tokens, cfg), apply(params, tokens, TINY)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, atol=2e-2)


def test_dropout_needs_a_key_and_follows_it(new_key):
    params, tokens = some_params(TINY, new_key), some_tokens(TINY, 3, 9)
    key = new_key()
    without = apply(params, tokens, TINY)
    first, again = (apply(params, tokens, TINY, key=key) for _ in range(2))
    other = apply(params, tokens, TINY, key=new_key())
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(without, first)
    assert not np.allclose(first, other)


def masks(cfg, B, T, keep):
    L, N, D = cfg.n_layers, cfg.n_heads, cfg.emb_dim
    full = {
        "embedding": (B, T, D),
        "blocks": {
            "weights": (L, B, N, T, T),
            "attention": (L, B, T, D),
            "mlp": (L, B, T, D),
        },
    }
    return jax.tree.map(
        lambda shape: jnp.full(shape, keep),
        full,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def test_masks_can_stand_in_for_the_key(new_key):
    params, tokens = some_params(TINY, new_key), some_tokens(TINY, 3, 9)
    nothing = apply(params, tokens, TINY, key=masks(TINY, 3, 9, False))
    np.testing.assert_array_equal(nothing, jnp.zeros_like(nothing))  # norm of 0 is 0
    # Masks that keep all still scale by 1 / (1 - rate), so only rate 0 is a no-op.
    off = dataclasses.replace(TINY, drop_rate=0.0)
    kept = apply(params, tokens, off, key=masks(TINY, 3, 9, True))
    np.testing.assert_array_equal(kept, apply(params, tokens, off))


def test_every_layer_draws_its_own_dropout(new_key):
    cfg = dataclasses.replace(TINY, n_layers=2)
    params, tokens = some_params(cfg, new_key), some_tokens(cfg, 1, 9)
    key = new_key()
    drawn = apply(params, tokens, cfg, key=key)
    swapped = params | {"blocks": jax.tree.map(lambda p: p[::-1], params["blocks"])}
    assert not np.allclose(drawn, apply(swapped, tokens, cfg, key=key))


def test_trace_keeps_what_the_model_computed(cfg, new_key):
    params, tokens = some_params(cfg, new_key), some_tokens(cfg, 2, 5)
    seen = trace(params, tokens, cfg)
    plain = dataclasses.replace(cfg, attention="plain")  # the others keep no weights
    np.testing.assert_array_equal(seen["logits"], apply(params, tokens, plain))
    weights = seen["blocks"]["weights"]
    assert weights.shape == seen["blocks"]["scores"].shape == (3, 2, 3, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), np.ones((3, 2, 3, 5)), rtol=1e-6)
    assert not np.triu(weights, 1).any()
    assert seen["residual_norm"].shape == (4, 2, 5)
    np.testing.assert_allclose(
        seen["residual_norm"][-1],
        np.linalg.norm(seen["blocks"]["after_mlp"][-1], axis=-1),
        rtol=1e-6,
    )


def test_gpt2_initialisation_has_its_standard_deviations(new_key):
    cfg = gpt2_config("124M", n_layers=2, vocab_size=1000, emb_dim=192)
    params = gpt.init_params(new_key(), cfg)
    block = params["blocks"]
    for path, value, stddev in (
        ("embedding", params["token_embedding"]["embedding"], 0.02),
        ("query", block["attention"]["query"]["kernel"], 0.02),
        ("out", block["attention"]["out"]["kernel"], 0.01),
        ("up", block["mlp"]["up"]["kernel"], 0.02),
        ("down", block["mlp"]["down"]["kernel"], 0.01),
    ):
        assert float(value.std()) == pytest.approx(stddev, rel=0.02), path
    assert not block["mlp"]["up"]["bias"].any()
    assert not np.array_equal(*block["mlp"]["up"]["kernel"])  # layers differ


def test_pytorch_initialisation_has_its_ranges(new_key):
    cfg = gpt2_config("124M", n_layers=1, vocab_size=1000, init="pytorch")
    params = gpt.init_params(new_key(), cfg)
    assert float(params["token_embedding"]["embedding"].std()) == pytest.approx(1, 0.01)
    down = params["blocks"]["mlp"]["down"]
    limit = 1 / np.sqrt(4 * 768)
    for leaf in (down["kernel"], down["bias"]):
        assert limit * 0.98 < float(jnp.abs(leaf).max()) <= limit


@pytest.mark.parametrize("init", quick(["gpt2", "pytorch"]))
def test_an_untrained_model_with_its_own_head_finds_all_tokens_about_alike(
    new_key, init
):
    cfg = gpt2_config("124M", n_layers=1, vocab_size=1000, init=init, tied_head=False)
    params = gpt.init_params(new_key(), cfg)
    head = params["head"]["embedding"]
    assert float(head.std()) == pytest.approx(
        0.02 if init == "gpt2" else 1 / np.sqrt(3 * 768), rel=0.02
    )
    logits = apply(params, some_tokens(cfg, 1, 9), cfg)
    # In nats: entropy near that of a fair choice among 1,000.
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1)
    assert float(entropy.min()) > np.log(1000) - 0.3


UNTIED = {"tied_head": False, "qkv_bias": False}


@pytest.mark.parametrize(
    ("cfg", "count"),
    [
        (gpt2_config("124M", **UNTIED), 163_009_536),
        (gpt2_config("124M", qkv_bias=False), 124_412_160),
        (gpt2_config("124M", tied_head=False), 163_037_184),
        (gpt2_config("124M"), 124_439_808),
        (gpt2_config("124M", **UNTIED, context_length=256), 162_419_712),
        (gpt2_config("355M", **UNTIED), 406_212_608),
        (gpt2_config("355M"), 354_823_168),
        (gpt2_config("774M", **UNTIED), 838_220_800),
        (gpt2_config("774M"), 774_030_080),
        (gpt2_config("1558M", **UNTIED), 1_637_792_000),
        (gpt2_config("1558M"), 1_557_611_200),
        (gpt3_config("175B"), 174_604_259_328),
    ],
)
def test_published_shapes_have_their_published_size(cfg, count):
    assert gpt.count_params(cfg) == count


@pytest.mark.parametrize(
    "size", ["125M", "350M", "760M", "1.3B", "2.7B", "6.7B", "13B", "175B"]
)
def test_gpt3_presets_have_about_the_size_of_their_name(size):
    named = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
    assert gpt.count_params(gpt3_config(size)) == pytest.approx(named, rel=0.06)


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"124M, 355M, 774M, 1558M; got '117M'"):
        gpt2_config("117M")


@pytest.mark.parametrize("bad", [-1, 11])
def test_token_ids_outside_the_vocabulary_are_named(bad):
    with pytest.raises(DataError, match=rf"in \[0, 11\), got {bad}"):
        gpt.check_tokens(np.array([[0, bad]]), TINY)


def test_sequences_longer_than_the_context_are_refused():
    gpt.check_tokens(np.zeros((1, 9), int), TINY)
    with pytest.raises(DataError, match=r"at most 9 .*got 10"):
        gpt.check_tokens(np.zeros((1, 10), int), TINY)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_more_tokens_than_positions_are_refused_and_not_clamped(kind):
    cfg = dataclasses.replace(TINY, positions=kind)
    params = gpt.init_params(jax.random.key(0), cfg)
    for read in (apply, trace):
        with pytest.raises(DataError, match=r"at most 9 tokens .* got 10"):
            read(params, jnp.zeros((1, 10), jnp.int32), cfg)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_a_cache_that_is_longer_than_the_context_gives_no_more_positions(kind):
    cfg = dataclasses.replace(TINY, positions=kind)
    past = init_cache(cfg, 2, 96)._replace(length=jnp.array([3, 8]))
    with pytest.raises(DataError, match=r"at most 9 tokens .* got 10"):
        gpt.hidden_states({}, jnp.zeros((2, 2), jnp.int32), cfg, cache=past)


def test_reading_no_token_is_refused():
    with pytest.raises(DataError, match="at least one token, got none"):
        gpt.apply({}, jnp.zeros((1, 0), jnp.int32), TINY)


def test_parameters_prepared_for_decoding_are_not_traced():
    with pytest.raises(ConfigError, match="parameters as trained, got prepared"):
        gpt.trace({"block_0": {}}, jnp.zeros((1, 2), jnp.int32), TINY)


def test_a_cache_takes_no_key_and_no_more_tokens_than_it_has_slots():
    params = gpt.init_params(jax.random.key(0), TINY)
    tokens = jnp.zeros((1, 6), jnp.int32)
    with pytest.raises(DataError, match="4 slots has no room for 6 tokens"):
        hidden_states(params, tokens, TINY, cache=init_cache(TINY, 1, 4))
    key = jax.random.key(0)
    with pytest.raises(ConfigError, match="knows no dropout"):
        hidden_states(params, tokens, TINY, cache=init_cache(TINY, 1), key=key)
    with pytest.raises(ConfigError, match="prepared for decoding know no dropout"):
        hidden_states(gpt.blocks_apart(params), tokens, TINY, key=key)
