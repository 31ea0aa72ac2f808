"""A state comes back as it was, wherever it goes; a damaged one never does."""

import errno
import os
import re
import shutil
import types

import jax
import numpy as np
import pytest
from parameters import quick
from small_models import random_params

from jaxllm.config import MeshConfig, OptimizerConfig
from jaxllm.data import disk
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding
from jaxllm.errors import CheckpointError, MisfitError
from jaxllm.training import checkpoints, optimizers
from jaxllm.training.state import TrainState, train_state_of

OPTIMIZER = optimizers.make_optimizer(OptimizerConfig(), total_steps=10)
FACTS = {"data": {"next_batch": 7}, "tokenizer": "abc"}


def state_at(step: int) -> TrainState:
    state = train_state_of(random_params(seed=step), OPTIMIZER, jax.random.key(step))
    moments = jax.tree.map(lambda leaf: leaf + step, state.opt_state)
    return state._replace(step=jax.numpy.int32(step), opt_state=moments)


def assert_same(a: TrainState, b: TrainState):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    a, b = (s._replace(key=jax.random.key_data(s.key)) for s in (a, b))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def shapes_on(mesh, state):
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        state,
        sharding.tree_shardings(state, mesh),
    )


@pytest.fixture
def three(tmp_path):
    """A folder with checkpoints of the steps 1, 2 and 10."""
    for step in (1, 2, 10):
        checkpoints.save(tmp_path, state_at(step), FACTS).result()
    return tmp_path


def test_a_state_comes_back_bit_for_bit_with_its_facts(tmp_path):
    state = state_at(3)
    path = checkpoints.save(tmp_path / "made" / "here", state, FACTS).result()
    assert_same(checkpoints.restore(path.parent, 3, state), state)
    facts = checkpoints.read_facts(path.parent, 3)
    assert {name: facts[name] for name in FACTS} == FACTS


def test_parameters_can_be_read_alone_from_shapes_alone(tmp_path):
    state = state_at(3)
    checkpoints.save(tmp_path, state, FACTS).result()
    shutil.rmtree(tmp_path / "3" / "training")
    like = jax.eval_shape(lambda: state.params)
    params = checkpoints.restore_params(tmp_path, 3, like)
    assert_same(state._replace(params=params), state)


MESHES = [
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=1, fsdp=8),
    MeshConfig(data=8),
    MeshConfig(data=1, tensor=8),
    MeshConfig(data=2, sequence=4),
]


@pytest.mark.parametrize("before", quick(MESHES, count=2))
@pytest.mark.parametrize("after", quick(MESHES, count=2))
def test_a_checkpoint_from_any_mesh_opens_on_any_other(before, after, tmp_path):
    state = state_at(3)
    here, there = meshes.make_mesh(before), meshes.make_mesh(after)
    placed = jax.device_put(state, sharding.tree_shardings(state, here))
    checkpoints.save(tmp_path, placed, FACTS).result()
    like = shapes_on(there, state)
    restored = checkpoints.restore(tmp_path, 3, like)
    assert_same(restored, state)
    kernel = restored.params["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.sharding == like.params["blocks"]["mlp"]["up"]["kernel"].sharding


def test_what_is_saved_is_the_state_at_the_call_though_its_buffers_are_donated(
    tmp_path,
):
    state, expected = state_at(3), state_at(3)
    spoil = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0
    )
    saving = checkpoints.save(tmp_path, state, FACTS)
    jax.block_until_ready(spoil((state.params, state.opt_state)))
    saving.result()
    assert_same(checkpoints.restore(tmp_path, 3, expected), expected)


def test_steps_are_counted_as_numbers(three):
    assert checkpoints.steps(three) == [1, 2, 10]
    assert checkpoints.latest_step(three) == 10
    assert checkpoints.latest_step(three / "nowhere") is None


def test_a_step_is_saved_again_in_the_place_of_the_first(three):
    state = state_at(5)._replace(step=jax.numpy.int32(2))
    checkpoints.save(three, state, FACTS).result()
    assert_same(checkpoints.restore(three, 2, state), state)


def test_only_the_steps_to_keep_are_kept_and_leftovers_go_but_not_other_folders(three):
    for name in ("11.orbax-checkpoint-tmp", "my_backup", "best-500", "1.bak"):
        (three / name).mkdir()
    checkpoints.keep_only(three, {2, 10})
    assert checkpoints.steps(three) == [2, 10]
    assert sorted(os.listdir(three)) == ["1.bak", "10", "2", "best-500", "my_backup"]


def test_a_save_that_was_killed_counts_as_nothing(three):
    (three / "10" / "sha256.json").unlink()
    assert checkpoints.latest_step(three) == 2
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 10 .* 1, 2"):
        checkpoints.restore(three, 10, state_at(10))


def test_no_file_can_be_cut_changed_or_lost_unnoticed(tmp_path):
    state = state_at(3)
    good = checkpoints.save(tmp_path / "good", state, FACTS).result()
    files = [path for path in good.rglob("*") if path.is_file()]
    assert len(files) > 10
    for file in files:
        content = bytearray(file.read_bytes())
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 16
        for damaged in (content[: len(content) // 2], changed, None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            try:
                # A part that nobody reads may go missing; else it must be noticed.
                assert_same(checkpoints.restore(tmp_path / "good", 3, state), state)
                assert "/" not in str(file.relative_to(good))
            except CheckpointError:
                pass
        file.write_bytes(content)
    assert_same(checkpoints.restore(tmp_path / "good", 3, state), state)


def test_a_damaged_checkpoint_falls_back_to_the_last_good_one_and_says_so(three):
    largest = max((three / "10").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, 10)
    told = []
    state = checkpoints.restore_latest(three, state_at(0), told.append)
    assert_same(state, state_at(2))
    assert [str(error).split(": ")[0] for error in told] == [f"{three}/10 is damaged"]


def test_no_checkpoint_at_all_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="can be read: there is none"):
        checkpoints.restore_latest(tmp_path, state_at(0), print)
    with pytest.raises(CheckpointError, match=r"step 5 in .*; there are: none"):
        checkpoints.read_facts(tmp_path, 5)


def test_a_checkpoint_of_another_model_does_not_fit(three):
    like = state_at(1)
    like.params["final_norm"]["bias"] = jax.numpy.zeros(3)
    with pytest.raises(MisfitError, match=r"final_norm/bias has shape \(16,\)"):
        checkpoints.restore(three, 1, like)
    told = []
    with pytest.raises(MisfitError, match=r"/10/params does not fit this run"):
        checkpoints.restore_latest(three, like, told.append)
    assert told == []  # None is damaged.


@pytest.mark.parametrize("folder", ["a file", "/sys/no permission"])
def test_a_folder_that_can_not_be_written_is_one_line(folder, tmp_path):
    (tmp_path / "a file").write_text("")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(tmp_path / folder, state_at(1), FACTS)
    assert re.fullmatch(
        r"cannot write checkpoint .*/1: (File exists|Not a directory|Permission denied"
        r"|Operation not permitted|Read-only file system)",
        str(caught.value),
    )


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(three, monkeypatch):
    usage = types.SimpleNamespace(total=2**40, used=2**40 - 100, free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match=r"No space left .* 0.0 MB are free$"):
        checkpoints.save(three, state_at(11), FACTS)
    assert_same(checkpoints.restore_latest(three, state_at(0), print), state_at(10))


def test_a_write_that_the_disk_refuses_midway_leaves_the_last_checkpoint(
    three, monkeypatch
):
    def refuse(path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(disk, "atomic_writer", refuse)
    with pytest.raises(CheckpointError, match=r"/11: Disk quota exceeded$"):
        checkpoints.save(three, state_at(11), FACTS).result()
    assert_same(checkpoints.restore_latest(three, state_at(0), print), state_at(10))
