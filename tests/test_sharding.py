"""Paths decide where parameters live, and moments live with their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxllm.config import GPTConfig, MeshConfig, OptimizerConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding
from jaxllm.errors import ConfigError
from jaxllm.types import Batch

TWO_BY_TWO_BY_TWO = MeshConfig(data=2, fsdp=2, tensor=2)


def test_every_parameter_of_a_gpt_has_a_place_with_as_many_axes(new_key):
    from jaxllm.models import gpt

    cfg = GPTConfig(vocab_size=16, emb_dim=8, n_heads=2, n_layers=3, tied_head=False)
    shapes = jax.eval_shape(lambda key: gpt.init_params(key, cfg), new_key())
    mesh = meshes.make_mesh(TWO_BY_TWO_BY_TWO)
    places = sharding.tree_shardings(shapes, mesh)
    attention = places["blocks"]["attention"]
    assert attention["query"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert attention["out"]["kernel"].spec == P(None, "tensor", None, "fsdp")
    for place, leaf in zip(
        jax.tree.leaves(places), jax.tree.leaves(shapes), strict=True
    ):
        assert len(place.spec) <= len(leaf.shape)
        place.shard_shape(leaf.shape)  # raises where an axis does not divide


def test_every_array_of_a_training_state_with_muon_has_a_place(new_key):
    from jaxllm.training import optimizers
    from jaxllm.training.state import init_train_state

    cfg = GPTConfig(vocab_size=16, emb_dim=8, n_heads=2, n_layers=3)
    optimizer = optimizers.make_optimizer(OptimizerConfig(name="muon"), total_steps=5)
    shapes = jax.eval_shape(
        lambda key: init_train_state(key, cfg, optimizer), new_key()
    )
    mesh = meshes.make_mesh(TWO_BY_TWO_BY_TWO)
    places = sharding.tree_shardings(shapes, mesh)
    for place, leaf in zip(
        jax.tree.leaves(places), jax.tree.leaves(shapes), strict=True
    ):
        place.shard_shape(leaf.shape)


def test_moments_live_with_their_parameters():
    from jaxllm.training import optimizers

    params = {"blocks": {"mlp": {"up": {"kernel": jnp.ones((3, 4, 8))}}}}
    optimizer = optimizers.make_optimizer(OptimizerConfig(), total_steps=5)
    state = jax.eval_shape(optimizer.init, params)
    mesh = meshes.make_mesh(TWO_BY_TWO_BY_TWO)
    specs = {
        jax.tree_util.keystr(keys, simple=True, separator="/"): place.spec
        for keys, place in jax.tree_util.tree_leaves_with_path(
            sharding.tree_shardings(state, mesh)
        )
    }
    split = [path for path, spec in specs.items() if spec == P(None, "fsdp", "tensor")]
    assert [path.split("/")[-5] for path in split] == ["mu", "nu"]
    assert all(spec == P() for path, spec in specs.items() if path not in split)


def test_an_axis_that_does_not_divide_is_left_out():
    sizes = {"data": 1, "fsdp": 2, "tensor": 8}
    assert sharding.fit(P("tensor", "fsdp"), (65, 128), sizes) == P(None, "fsdp")
    assert sharding.fit(P(None, "tensor"), (4, 4), sizes) == P(None, None)


def test_rows_of_a_batch_are_shared_by_data_and_fsdp():
    mesh = meshes.make_mesh(TWO_BY_TWO_BY_TWO)
    rows = np.arange(8 * 3, dtype=np.int32).reshape(8, 3)
    batch = sharding.place_batch(Batch(rows, rows + 1), mesh)
    assert batch.mask is None
    assert batch.inputs.sharding.shard_shape((8, 3)) == (2, 3)
    np.testing.assert_array_equal(batch.targets, rows + 1)


def test_tokens_of_a_row_are_shared_by_sequence():
    mesh = meshes.make_mesh(MeshConfig(data=2, sequence=4))
    rows = np.arange(2 * 8, dtype=np.int32).reshape(2, 8)
    labels = np.arange(2, dtype=np.int32)  # a batch may have arrays without tokens
    placed, placed_labels = sharding.place_batch((rows, labels), mesh)
    assert placed.sharding.shard_shape((2, 8)) == (1, 2)
    assert placed_labels.sharding.shard_shape((2,)) == (1,)
    np.testing.assert_array_equal(placed, rows)
    np.testing.assert_array_equal(placed_labels, labels)


@pytest.mark.parametrize(
    ("rows", "shares"),
    [
        (8, [(0, 2, 1), (1, 2, 1)]),
        (2, [(0, 2, 1), (1, 2, 1)]),
        (1, [(0, 1, 2), (0, 1, 2)]),
    ],
)
def test_processes_that_split_a_model_between_them_give_the_same_rows(rows, shares):
    owners = (np.arange(8) // 4).reshape(rows, -1)
    assert [sharding.share_of(process, owners) for process in (0, 1)] == shares


def test_rows_that_no_process_holds_evenly_are_refused():
    with pytest.raises(ConfigError, match=r"x fsdp = 3 .* process 1 .* \[1, 2\]"):
        sharding.share_of(1, np.array([[0, 0], [0, 1], [1, 1]]))


def test_a_batch_that_can_not_be_shared_out_is_refused():
    mesh = meshes.make_mesh(TWO_BY_TWO_BY_TWO)
    sharding.check_batch_size("batch_size", 12, mesh)
    sharding.check_batch_size("batch_size", 16, mesh, accumulation_steps=2)
    with pytest.raises(ConfigError, match=r"multiple of 8 .* got 12"):
        sharding.check_batch_size("batch_size", 12, mesh, accumulation_steps=2)
