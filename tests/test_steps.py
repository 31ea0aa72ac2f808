"""One step is the same step however it is cut, compiled, or shared by devices."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from parameters import quick
from small_models import CFG, random_batch, random_params

from jaxllm.config import MeshConfig, OptimizerConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding
from jaxllm.errors import ConfigError
from jaxllm.training import optimizers, steps
from jaxllm.training.state import train_state_of

RAGGED = np.arange(8)[None] < np.array([[8], [1], [3], [0], [5], [8], [2], [7]])
OPTIMIZER = optimizers.make_optimizer(OptimizerConfig(warmup_steps=0), total_steps=10)


def initial_state(cfg=CFG, optimizer=OPTIMIZER, seed=0):
    return train_state_of(random_params(cfg), optimizer, jax.random.key(seed))


def compiled_step(cfg=CFG, optimizer=OPTIMIZER, **options):
    return jax.jit(
        functools.partial(steps.train_step, cfg=cfg, optimizer=optimizer, **options)
    )


def assert_states_close(a, b, rtol, atol):
    assert int(a.step) == int(b.step)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def whole_batch():
    """The state and metrics after one step of SGD on a ragged batch in one piece.

    SGD, because Adam's first step is the sign of the gradient: it would hide a wrong
    scale, and it blows up the rounding of gradients near zero.
    """
    batch = random_batch(8)._replace(mask=RAGGED)
    sgd = optax.sgd(1.0)
    return batch, sgd, compiled_step(optimizer=sgd)(initial_state(optimizer=sgd), batch)


@pytest.mark.parametrize("slices", quick([8, 2]))
def test_accumulated_equals_full_batch_when_rows_have_different_targets(
    slices, whole_batch
):
    batch, sgd, (full_state, full) = whole_batch
    step = compiled_step(optimizer=sgd, accumulation_steps=slices)
    state, metrics = step(initial_state(optimizer=sgd), batch)
    np.testing.assert_allclose(metrics["loss"], full["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], full["grad_norm"], rtol=1e-5)
    assert int(metrics["tokens"]) == int(full["tokens"]) == RAGGED.sum()
    assert_states_close(state, full_state, rtol=1e-4, atol=1e-6)


def test_jit_equals_eager(whole_batch):
    batch, sgd, (full_state, full) = whole_batch
    state, metrics = steps.train_step(initial_state(optimizer=sgd), batch, CFG, sgd)
    np.testing.assert_allclose(metrics["loss"], full["loss"], rtol=1e-6)
    assert_states_close(state, full_state, rtol=1e-5, atol=1e-6)


@functools.cache
def three_steps_alone(drop_rate):
    """A model, its optimizer, three batches, and where one device takes them."""
    cfg = dataclasses.replace(CFG, n_heads=8, drop_rate=drop_rate)
    batches = [random_batch(8, seed=i)._replace(mask=RAGGED) for i in range(3)]
    # A small rate: Adam's first steps are all but signs, and a sign can turn where
    # sums of another order round to the other side of zero.
    rate = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, eps=1e-4)
    optimizer = optimizers.make_optimizer(rate, total_steps=10)
    state = initial_state(cfg, optimizer)
    step = compiled_step(cfg, optimizer)
    for batch in batches:
        state, metrics = step(state, batch)
    return cfg, optimizer, batches, state, metrics


@pytest.mark.parametrize(
    ("mesh_cfg", "drop_rate"),
    quick(
        [
            (MeshConfig(data=2, fsdp=2, tensor=2), 0.2),
            (MeshConfig(data=1, sequence=8), 0.2),
            (MeshConfig(data=8), 0.2),
            (MeshConfig(data=1, fsdp=8), 0.2),
            (MeshConfig(data=2, fsdp=2, tensor=2), 0.0),
            (MeshConfig(data=1, tensor=8), 0.2),
            (MeshConfig(data=1, fsdp=2, sequence=2, tensor=2), 0.2),
        ],
        count=2,
    ),
)
def test_every_mesh_of_eight_devices_takes_the_steps_of_one(mesh_cfg, drop_rate):
    cfg, optimizer, batches, alone, expected = three_steps_alone(drop_rate)
    mesh = meshes.make_mesh(mesh_cfg)
    state = initial_state(cfg, optimizer)
    shardings = sharding.tree_shardings(state, mesh)
    shared = jax.device_put(state, shardings)
    step = jax.jit(
        functools.partial(steps.train_step, cfg=cfg, optimizer=optimizer),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    with jax.set_mesh(mesh):
        for batch in batches:
            shared, metrics = step(shared, sharding.place_batch(batch, mesh))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-4)
    assert_states_close(shared, alone, rtol=1e-4, atol=1e-6)


def test_a_step_descends():
    batch = random_batch(4)
    step = compiled_step()
    state = initial_state()
    history = []
    for _ in range(5):
        state, metrics = step(state, batch)
        history.append(float(metrics["loss"]))
    assert history == sorted(history, reverse=True)
    assert int(state.step) == 5


def test_dropout_follows_from_the_state_and_changes_with_the_step():
    cfg = dataclasses.replace(CFG, drop_rate=0.5)
    frozen = optax.set_to_zero()
    step = compiled_step(cfg, frozen)
    state = initial_state(cfg, frozen)
    batch = random_batch(2)
    after, first = step(state, batch)
    _, again = step(state, batch)
    _, second = step(after, batch)
    _, other_run = step(initial_state(cfg, frozen, seed=1), batch)
    assert first["loss"] == again["loss"]
    assert first["loss"] != second["loss"]
    assert first["loss"] != other_run["loss"]


def test_slices_draw_different_dropout():
    cfg = dataclasses.replace(CFG, drop_rate=0.5)
    row = random_batch(1)
    twice = jax.tree.map(lambda rows: np.concatenate([rows, rows]), row)
    sgd = optax.sgd(0.0)
    _, one = compiled_step(cfg, sgd)(initial_state(cfg, sgd), row)
    _, two = compiled_step(cfg, sgd, accumulation_steps=2)(
        initial_state(cfg, sgd), twice
    )
    assert not np.isclose(one["loss"], two["loss"], rtol=1e-4)


def test_masks_that_keep_everything_scale_like_dropout():
    B, T, L, D = 2, 8, CFG.n_layers, CFG.emb_dim
    cfg = dataclasses.replace(CFG, drop_rate=0.5)
    ones = {
        "embedding": np.ones((B, T, D), bool),
        "blocks": {
            "weights": np.ones((L, B, CFG.n_heads, T, T), bool),
            "attention": np.ones((L, B, T, D), bool),
            "mlp": np.ones((L, B, T, D), bool),
        },
    }
    _, metrics = compiled_step(cfg)(initial_state(cfg), random_batch(B), key=ones)
    assert np.isfinite(metrics["loss"])
    with pytest.raises(ConfigError, match="accumulation_steps = 1, got 2"):
        steps.train_step(
            initial_state(cfg),
            random_batch(B),
            cfg,
            OPTIMIZER,
            accumulation_steps=2,
            key=ones,
        )


def test_slices_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ConfigError, match="divide the 3 rows of a batch, got 2"):
        steps.slice_rows(random_batch(3), 2)


def test_a_batch_without_targets_moves_nothing_but_decay():
    batch = random_batch(2)._replace(mask=np.zeros((2, 8), bool))
    cfg = OptimizerConfig(warmup_steps=0, weight_decay=0.0)
    optimizer = optimizers.make_optimizer(cfg, total_steps=10)
    state = initial_state(optimizer=optimizer)
    after, metrics = compiled_step(optimizer=optimizer)(state, batch)
    assert float(metrics["loss"]) == float(metrics["grad_norm"]) == 0
    assert_states_close(after, state._replace(step=1), rtol=0, atol=0)
