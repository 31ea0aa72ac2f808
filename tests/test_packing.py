"""Packing: nothing lost, nothing seen that is not one's own, and the same loss."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import quick
from small_models import CFG, random_params

from jaxllm.data import instructions, packing
from jaxllm.data.instructions import Example
from jaxllm.errors import DataError
from jaxllm.models import gpt
from jaxllm.training import losses, steps
from jaxllm.types import Batch

next_token_loss = jax.jit(losses.next_token_loss, static_argnums=2)

LENGTHS = st.lists(st.integers(1, 8), max_size=40)


def examples(*lengths):
    """Examples of so many inputs; about half of their tokens are a response's."""
    draw = np.random.default_rng(0)
    return [
        Example(
            draw.integers(0, CFG.vocab_size, n + 1, np.int32), draw.random(n + 1) < 0.5
        )
        for n in lengths
    ]


def packed(items, width=8, **options):
    rows = packing.pack([len(item.ids) - 1 for item in items], width)
    batch = packing.collate_packed(
        [[items[i] for i in row] for row in rows], 0, width, **options
    )
    return rows, batch


@settings(deadline=None)
@given(lengths=LENGTHS, width=st.integers(8, 20))
def test_every_item_is_packed_once_and_no_row_is_too_long(lengths, width):
    rows = packing.pack(lengths, width)
    assert sorted(item for row in rows for item in row) == [*range(len(lengths))]
    assert all(sum(lengths[item] for item in row) <= width for row in rows)


@settings(deadline=None)
@given(lengths=LENGTHS, width=st.integers(8, 20))
def test_rows_are_nearly_as_few_as_can_be(lengths, width):
    fewest = -(-sum(lengths) // width)
    # Any two rows hold more than one row's width between them.
    assert len(packing.pack(lengths, width)) <= max(2 * fewest, fewest)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 99), min_size=1, max_size=60),
    batch_size=st.integers(1, 8),
)
def test_groups_hold_every_example_once_sorted_by_length(lengths, batch_size):
    order = np.random.default_rng(1).permutation(len(lengths))
    batches = packing.group_by_length(lengths, order, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == [*range(len(lengths))]
    assert sum(len(batch) != batch_size for batch in batches) <= 1
    spans = sorted(
        (min(taken), max(taken))
        for taken in ([lengths[i] for i in batch] for batch in batches)
    )
    # One pool: batches are stretches of the sorted lengths.
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("positions", quick(["alibi", "learned", "rotary"]))
@pytest.mark.parametrize("response_only", [False, True])
def test_packed_and_unpacked_give_the_same_loss_per_token(positions, response_only):
    cfg = dataclasses.replace(CFG, positions=positions)
    params = random_params(cfg)
    items = examples(8, 1, 5, 2, 3, 4, 1)
    _, together = packed(items, response_only=response_only)
    assert together.inputs.shape == (3, 8)
    alone = instructions.collate(items, 0, response_only=response_only)
    loss, metrics = next_token_loss(params, together, cfg)
    expected, counted = next_token_loss(params, alone, cfg)
    assert metrics["tokens"] == counted["tokens"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_packed_and_unpacked_give_the_same_gradient():
    params = random_params()
    items = examples(8, 1, 5, 2, 3, 4, 1)
    _, together = packed(items)

    @jax.jit
    def gradient(batch):
        return jax.grad(lambda p: losses.next_token_loss(p, batch, CFG)[0])(params)

    together, alone = gradient(together), gradient(instructions.collate(items, 0))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_neither_the_order_of_rows_nor_slices_of_them_change_a_step():
    _, batch = packed(examples(8, 1, 5, 2, 3, 4, 1), response_only=True)
    # Rows of different numbers of targets.
    assert len({*batch.mask.sum(1).tolist()}) > 1

    def step(batch, slices):
        return steps.summed_gradient(
            lambda p, rows, key: losses.next_token_sum(p, rows, CFG),
            random_params(),
            batch,
            None,
            slices,
        )

    order = np.array([2, 0, 1])
    compiled = jax.jit(step, static_argnums=1)
    whole = compiled(batch, 1)
    for other in (
        compiled(Batch(*(leaf[order] for leaf in batch)), 1),
        compiled(batch, 3),
    ):
        for a, b in zip(*map(jax.tree.leaves, (other, whole)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_padded_batch_of_instructions_is_its_rows_alone():
    params, items = random_params(), examples(8, 5)
    together = instructions.collate(items, 0, response_only=True)
    loss_sum = jax.jit(losses.next_token_sum, static_argnums=2)
    total, count = loss_sum(params, together, CFG)
    alone = [instructions.collate([one], 0, response_only=True) for one in items]
    sums = [loss_sum(params, batch, CFG) for batch in alone]
    np.testing.assert_allclose(total, sum(loss for loss, _ in sums), rtol=1e-5)
    assert count == sum(number for _, number in sums)


def test_an_example_sees_no_other_of_its_row():
    params = random_params()
    items = examples(3, 4)
    rows, batch = packed(items)
    assert rows == [[1, 0]]
    changed = batch.inputs.copy()
    changed[0, :4] = (changed[0, :4] + 1) % CFG.vocab_size
    logits_of = jax.jit(lambda t: gpt.apply(params, t, CFG, segments=batch.segments))
    before, after = (
        np.asarray(logits_of(tokens)) for tokens in (batch.inputs, changed)
    )
    np.testing.assert_array_equal(before[0, 4:7], after[0, 4:7])
    assert (before[0, :4] != after[0, :4]).all(-1).any()


def test_what_is_longer_than_a_row_is_an_error():
    with pytest.raises(DataError, match="must be 1 to 8 long, got 9"):
        packing.pack([3, 9], 8)
    with pytest.raises(DataError, match="must be at most 8 long, got 9"):
        packing.collate_packed([examples(5, 4)], 0, 8)
