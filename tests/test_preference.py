"""Preferences: log 2 at the start, the right direction, and rows that stand alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, random_batch, random_params

from jaxllm.finetuning import preference
from jaxllm.finetuning.preference import PairScores
from jaxllm.training import losses


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
        loss, metrics = preference.preference_loss(same, same, beta=beta)
        np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
        assert metrics["margin"] == 0
        assert metrics["accuracy"] == 0


def test_the_loss_is_that_of_the_paper():
    policy, reference = (
        scores([-1.0, -4.0], [-3.0, -2.0]),
        scores([-2.0, -4.0], [-3, -4]),
    )
    loss, metrics = preference.preference_loss(policy, reference, beta=0.5)
    margins = np.array([1.0, -2.0])
    np.testing.assert_allclose(loss, np.log1p(np.exp(-0.5 * margins)).mean(), rtol=1e-6)
    assert metrics["margin"] == -0.5
    assert metrics["accuracy"] == 0.5


def test_a_step_down_makes_the_chosen_answer_likelier():
    same = scores([-3.0], [-1.0])
    gradient = jax.grad(lambda p: preference.preference_loss(p, same)[0])(same)
    np.testing.assert_allclose(gradient.chosen, [-0.05], rtol=1e-6)
    np.testing.assert_allclose(gradient.rejected, [0.05], rtol=1e-6)


def test_a_huge_margin_gives_a_finite_loss():
    far, same = scores([-1e6], [0.0]), scores([0.0], [0.0])
    loss, _ = preference.preference_loss(far, same)
    np.testing.assert_allclose(loss, 1e5, rtol=1e-6)


def test_rows_are_scored_alone_and_sum_to_the_loss_of_the_batch(batch):
    params = random_params()
    rows = jax.jit(preference.score_rows, static_argnums=2)(params, batch, CFG)
    assert rows.dtype == jnp.float32
    assert rows.shape == (3,)
    assert rows[2] == 0
    total, _ = losses.next_token_sum(params, batch, CFG)
    np.testing.assert_allclose(-rows.sum(), total, rtol=1e-5)
    alone = jax.tree.map(lambda leaf: leaf[1:2, :3], batch)
    np.testing.assert_allclose(
        rows[1], preference.score_rows(params, alone, CFG)[0], rtol=1e-5
    )


def test_a_batch_without_a_mask_counts_every_target(batch):
    params = random_params()
    every = batch._replace(mask=np.ones((3, 8), bool))
    np.testing.assert_allclose(
        preference.score_rows(params, batch._replace(mask=None), CFG),
        preference.score_rows(params, every, CFG),
        rtol=1e-6,
    )
