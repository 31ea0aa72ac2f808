"""Schedules give the published figures; decay and clipping act where they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.config import GPTConfig, OptimizerConfig
from jaxllm.errors import ConfigError
from jaxllm.training import optimizers

# The schedule of the book's appendix D.
APPENDIX_D = OptimizerConfig(
    initial_learning_rate=1e-5,
    learning_rate=1e-3,
    min_learning_rate=1e-5,
    warmup_steps=27,
)


def params_like_a_block():
    return {
        "token_embedding": {"embedding": jnp.ones((5, 2))},
        "blocks": {
            "attention_norm": {"scale": jnp.ones((3, 2)), "bias": jnp.ones((3, 2))},
            "mlp": {"up": {"kernel": jnp.ones((3, 2, 4)), "bias": jnp.ones((3, 4))}},
        },
    }


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-5),
        (1, 4.6667e-5),
        (26, 9.6333e-4),
        (27, 1e-3),
        (81, 5.05e-4),
        (134, 1.02094e-5),
        (135, 1e-5),
    ],
)
def test_warmup_and_cosine_give_the_rates_of_appendix_d(step, rate):
    schedule = optimizers.learning_rate_schedule(APPENDIX_D, total_steps=135)
    # The book's rates are known to five digits.
    np.testing.assert_allclose(schedule(step), rate, rtol=2e-5)


def test_cosine_equals_that_of_optax():
    ours = optimizers.learning_rate_schedule(APPENDIX_D, total_steps=135)
    theirs = optax.warmup_cosine_decay_schedule(1e-5, 1e-3, 27, 135, 1e-5)
    steps = jnp.arange(160)
    np.testing.assert_allclose(
        jax.vmap(ours)(steps), jax.vmap(theirs)(steps), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        ("wsd", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4]),
    ],
)
def test_each_schedule_has_its_shape(name, rates):
    cfg = OptimizerConfig(
        schedule=name,
        learning_rate=1.0,
        min_learning_rate=0.2,
        warmup_steps=2,
        decay_fraction=0.4,
    )
    schedule = optimizers.learning_rate_schedule(cfg, total_steps=10)
    np.testing.assert_allclose([schedule(step) for step in range(10)], rates, rtol=1e-6)


def test_a_run_shorter_than_its_warmup_ends_within_it():
    cfg = OptimizerConfig(warmup_steps=100, learning_rate=1.0)
    schedule = optimizers.learning_rate_schedule(cfg, total_steps=10)
    np.testing.assert_allclose([schedule(0), schedule(9)], [0.0, 0.09], rtol=1e-6)


def test_decay_shrinks_matrices_and_embeddings_and_spares_the_rest():
    cfg = OptimizerConfig(warmup_steps=0, schedule="constant", learning_rate=0.1)
    optimizer = optimizers.make_optimizer(cfg, total_steps=10)
    params = params_like_a_block()
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(nothing, optimizer.init(params), params)
    decayed = {
        "/".join(key.key for key in keys): float(update.ravel()[0])
        for keys, update in jax.tree_util.tree_leaves_with_path(updates)
    }
    assert decayed == pytest.approx(
        {
            "token_embedding/embedding": -0.01,
            "blocks/attention_norm/scale": 0.0,
            "blocks/attention_norm/bias": 0.0,
            "blocks/mlp/up/kernel": -0.01,
            "blocks/mlp/up/bias": 0.0,
        }
    )


def test_every_parameter_decays_where_asked():
    mask = optimizers.decay_mask(params_like_a_block(), OptimizerConfig(decay="all"))
    assert all(jax.tree.leaves(mask))


def test_a_parameter_without_a_rule_is_refused_by_name():
    with pytest.raises(ConfigError, match="blocks/gate/temperature"):
        optimizers.decay_mask(
            {"blocks": {"gate": {"temperature": 0}}}, OptimizerConfig()
        )


def test_every_parameter_of_a_gpt_has_a_decay_rule(new_key):
    from jaxllm.models import gpt

    cfg = GPTConfig(vocab_size=7, emb_dim=8, n_heads=2, n_layers=3, tied_head=False)
    shapes = jax.eval_shape(lambda key: gpt.init_params(key, cfg), new_key())
    mask = optimizers.decay_mask(shapes, OptimizerConfig())
    decaying = sum(jax.tree.leaves(mask))
    # Three embeddings; query, key, value, out, up and down.
    assert decaying == 3 + 6


@pytest.mark.parametrize(("clip", "expected"), [(None, 5.0), (1.0, 1.0), (10.0, 5.0)])
def test_clipping_bounds_the_norm_of_the_whole_gradient(clip, expected):
    cfg = OptimizerConfig(
        grad_clip=clip, warmup_steps=0, weight_decay=0.0, beta1=0.0, beta2=0.0, eps=1e6
    )
    # With eps far above the gradient, Adam's step is the gradient over eps.
    optimizer = optimizers.make_optimizer(cfg, total_steps=10)
    params = {"a": {"bias": jnp.zeros(1)}, "b": {"kernel": jnp.zeros(1)}}
    gradient = {"a": {"bias": jnp.array([3.0])}, "b": {"kernel": jnp.array([4.0])}}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    norm = optax.global_norm(updates) * 1e6 / cfg.learning_rate
    np.testing.assert_allclose(norm, expected, rtol=1e-4)


def test_adamw_takes_the_steps_that_loops_of_arithmetic_take():
    cfg = OptimizerConfig(
        learning_rate=0.1, warmup_steps=0, schedule="constant", grad_clip=None
    )
    optimizer = optimizers.make_optimizer(cfg, total_steps=5)
    params = {"w": {"kernel": jnp.array([0.5])}}
    state = optimizer.init(params)
    weight, mean, square = 0.5, 0.0, 0.0
    for step, gradient in enumerate([0.3, -0.2, 0.9], start=1):
        updates, state = optimizer.update(
            {"w": {"kernel": jnp.array([gradient])}}, state, params
        )
        params = optax.apply_updates(params, updates)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        rms = (square / (1 - 0.95**step)) ** 0.5
        weight -= 0.1 * (mean / (1 - 0.9**step) / (rms + 1e-8) + 0.1 * weight)
    np.testing.assert_allclose(params["w"]["kernel"], [weight], rtol=1e-5)


def test_muon_turns_each_matrix_of_a_block_and_leaves_the_rest_to_adamw(new_key):
    from jaxllm.models import gpt

    cfg = GPTConfig(vocab_size=7, emb_dim=8, n_heads=2, n_layers=3, tied_head=False)
    shapes = jax.eval_shape(lambda key: gpt.init_params(key, cfg), new_key())
    draw = np.random.default_rng(0).normal
    params, gradient = (
        jax.tree.map(lambda leaf: jnp.asarray(draw(size=leaf.shape), leaf.dtype), tree)
        for tree in (shapes, shapes)
    )
    updates = {}
    for name in ("adamw", "muon"):
        # No decay, so that an update shows nothing but its rule.
        settings = {"weight_decay": 0.0, "warmup_steps": 0, "learning_rate": 1.0}
        optimizer = optimizers.make_optimizer(
            OptimizerConfig(name=name, **settings), total_steps=10
        )
        first = jax.jit(lambda g, p, o=optimizer: o.update(g, o.init(p), p)[0])
        updates[name] = first(gradient, params)

    turned = updates["muon"]["blocks"]
    width = cfg.emb_dim
    for matrices in (
        turned["attention"]["query"]["kernel"].reshape(3, width, width),
        turned["attention"]["out"]["kernel"].reshape(3, width, width),
        turned["mlp"]["up"]["kernel"],
        turned["mlp"]["down"]["kernel"],
    ):
        # Five Newton-Schulz steps bring every singular value near 1, not to it; the
        # scale makes the root mean square of the entries about 0.2.
        scale = 0.2 * np.sqrt(max(matrices.shape[1:]))
        singular = np.linalg.svd(matrices / scale, compute_uv=False)
        assert singular.min() > 0.3
        assert singular.max() < 1.3
    adamw = updates["adamw"]
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    for path in ("token_embedding", "head", "final_norm"):
        jax.tree.map(same, updates["muon"][path], adamw[path])
    same(turned["mlp"]["up"]["bias"], adamw["blocks"]["mlp"]["up"]["bias"])


def test_a_rate_does_not_decay_upwards():
    with pytest.raises(ConfigError, match=r"must be <= learning_rate, .* got 0.0001"):
        OptimizerConfig(learning_rate=5e-5)
    OptimizerConfig(learning_rate=5e-5, schedule="constant")
