"""Preferences: log 2 at the start, the right direction, and rows that stand alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, logits_of, random_batch, random_params

from jaxllm.data.instructions import Example
from jaxllm.finetuning import preference
from jaxllm.finetuning.preference import PairScores
from jaxllm.training import losses, steps

score_rows = jax.jit(preference.score_rows, static_argnums=2)
score_pairs = jax.jit(preference.score_pairs, static_argnums=2)
pair_sums = jax.jit(preference.pair_sums, static_argnums=2)
preference_loss = jax.jit(preference.preference_loss)


@functools.partial(jax.jit, static_argnames="slices")
def pair_gradient(params, batch, slices=1):
    """The sum of losses, the number of pairs, and the gradient of the sum."""
    return steps.summed_gradient(
        lambda p, rows, key: preference.preference_sum(p, rows, CFG),
        params,
        batch,
        None,
        slices,
    )


def scores(*values):
    return PairScores(*(jnp.array(value, jnp.float32) for value in values))


@pytest.fixture(scope="module")
def batch():
    """Three rows of which 8, 3 and 0 targets count."""
    whole = random_batch(3)
    return whole._replace(mask=np.arange(8) < np.array([[8], [3], [0]]))


def test_the_loss_starts_at_log_2_without_a_margin():
    same = scores([-3.0, -90.0, 0.0], [-1.0, -2.0, -800.0])
    for beta in (0.1, 5.0):
        loss, metrics = preference_loss(same, same, beta=beta)
        np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
        assert metrics["margin"] == 0
        assert metrics["accuracy"] == 0


def test_the_loss_is_that_of_the_paper():
    policy, reference = (
        scores([-1.0, -4.0], [-3.0, -2.0]),
        scores([-2.0, -4.0], [-3, -4]),
    )
    loss, metrics = preference_loss(policy, reference, beta=0.5)
    margins = np.array([1.0, -2.0])
    np.testing.assert_allclose(loss, np.log1p(np.exp(-0.5 * margins)).mean(), rtol=1e-6)
    assert metrics["margin"] == -0.5
    assert metrics["accuracy"] == 0.5


def test_a_step_down_makes_the_chosen_answer_likelier():
    same = scores([-3.0], [-1.0])
    gradient = jax.jit(jax.grad(lambda p: preference_loss(p, same)[0]))(same)
    np.testing.assert_allclose(gradient.chosen, [-0.05], rtol=1e-6)
    np.testing.assert_allclose(gradient.rejected, [0.05], rtol=1e-6)


def test_no_pairs_have_loss_zero():
    loss, metrics = preference_loss(scores([], []), scores([], []))
    assert loss == metrics["margin"] == metrics["accuracy"] == 0


def test_a_huge_margin_gives_a_finite_loss():
    far, same = scores([-1e6], [0.0]), scores([0.0], [0.0])
    loss, _ = preference_loss(far, same)
    np.testing.assert_allclose(loss, 1e5, rtol=1e-6)


def test_rows_are_scored_alone_and_sum_to_the_loss_of_the_batch(batch):
    params = random_params()
    rows = score_rows(params, batch, CFG)
    assert rows.dtype == jnp.float32
    assert rows.shape == (3,)
    assert rows[2] == 0
    total, _ = jax.jit(losses.next_token_sum, static_argnums=2)(params, batch, CFG)
    np.testing.assert_allclose(-rows.sum(), total, rtol=1e-5)
    alone = jax.tree.map(lambda leaf: leaf[1:2, :3], batch)
    np.testing.assert_allclose(rows[1], score_rows(params, alone, CFG)[0], rtol=1e-5)


def test_a_batch_without_a_mask_counts_every_target(batch):
    params = random_params()
    every = batch._replace(mask=np.ones((3, 8), bool))
    np.testing.assert_allclose(
        score_rows(params, batch._replace(mask=None), CFG),
        score_rows(params, every, CFG),
        rtol=1e-6,
    )


# Pairs.


def example(ids, prompt_length):
    return Example(np.array(ids, np.int32), np.arange(len(ids)) >= prompt_length)


PAIRS = [
    (example([1, 2, 3, 4, 0], 2), example([1, 2, 5, 0], 2)),
    (example([6, 7, 0], 1), example([6, 9, 8, 7, 3, 0], 1)),
]


@pytest.fixture(scope="module")
def reference():
    """What the frozen model finds of the answers, one pair at a time."""
    rows = [preference.collate_pairs([pair], 0, width=5) for pair in PAIRS]
    return np.concatenate(
        [np.stack(score_pairs(random_params(), row, CFG), axis=1) for row in rows]
    )


def test_a_pair_is_scored_by_the_targets_of_its_answers():
    params = random_params()
    batch = preference.collate_pairs(PAIRS, 0)
    assert batch.mask.sum(-1).tolist() == [[3, 2], [2, 5]]
    scores = score_pairs(params, batch, CFG)
    for b, pair in enumerate(PAIRS):
        for one, score in zip(
            pair, (scores.chosen[b], scores.rejected[b]), strict=True
        ):
            logits = logits_of(params, one.ids[:-1])
            logits = np.asarray(logits)
            chosen = logits[np.arange(len(logits)), one.ids[1:]]
            likelihood = chosen - np.log(np.exp(logits).sum(1))
            expected = likelihood[one.is_response[1:]].sum()
            np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_a_model_that_is_its_own_reference_starts_at_log_2(reference):
    batch = preference.collate_pairs(PAIRS, 0, reference=reference)
    total, count, _ = pair_gradient(random_params(), batch)
    assert count == 2
    np.testing.assert_allclose(total / count, np.log(2), rtol=1e-6)


def test_a_row_without_a_pair_counts_nowhere(reference):
    params = random_params(seed=1)
    batch = preference.collate_pairs(PAIRS, 0, reference=reference)
    filled = np.concatenate([reference, np.full((1, 2), 7, np.float32)])
    more = preference.collate_pairs([*PAIRS, None], 0, reference=filled, width=8)
    sums, expected = (pair_sums(params, b, CFG) for b in (more, batch))
    assert sums["pairs"] == 2
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)


def test_a_step_on_pairs_prefers_the_chosen_answers(reference):
    batch = preference.collate_pairs(PAIRS, 0, reference=reference)
    params = random_params()
    _, _, gradient = pair_gradient(params, batch)
    params, gradient = jax.device_get((params, gradient))
    after = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
    sums = pair_sums(after, batch, CFG)
    assert sums["accuracy"] == 2
    assert sums["margin"] > 0
    assert sums["loss"] < 2 * np.log(2)


def test_accumulated_steps_on_pairs_are_the_whole_batchs(reference):
    batch = preference.collate_pairs(PAIRS, 0, reference=reference)
    params = random_params(seed=1)
    steps_of = [pair_gradient(params, batch, slices=slices) for slices in (1, 2)]
    for a, b in zip(*map(jax.tree.leaves, steps_of), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
