"""Filters and draws against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.errors import ConfigError
from jaxllm.inference import sampling
from jaxllm.inference.sampling import Sampling

LOGITS = jnp.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])


def test_top_three_of_the_notes_example():
    kept = sampling.keep_top_k(LOGITS, 3)
    assert np.flatnonzero(np.isfinite(kept)).tolist() == [0, 3, 7]
    np.testing.assert_allclose(
        jax.nn.softmax(kept), [0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0], atol=5e-5
    )


def test_temperature_five_of_the_notes_example():
    hot = jax.nn.softmax(sampling.filtered(LOGITS, Sampling(temperature=5)))
    assert float(hot[6]) == pytest.approx(0.0430, abs=5e-5)


def test_top_k_holds_for_every_row_and_beyond_the_vocabulary(new_key):
    logits = jax.random.normal(new_key(), (5, 11))
    kept = np.isfinite(sampling.keep_top_k(logits, 3))
    assert kept.sum(axis=1).tolist() == [3] * 5
    for row, logit in zip(kept, logits, strict=True):
        assert set(np.flatnonzero(row)) == set(np.argsort(logit)[-3:].tolist())
    np.testing.assert_array_equal(sampling.keep_top_k(logits, 99), logits)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.75, 0.999, 1.0])
def test_top_p_keeps_the_fewest_tokens_that_reach_p(new_key, p):
    logits = 2 * jax.random.normal(new_key(), (7, 13))
    for logit, kept in zip(logits, sampling.keep_top_p(logits, p), strict=True):
        falling = np.sort(np.asarray(jax.nn.softmax(logit)))[::-1]
        fewest = 1 + int((np.cumsum(falling)[:-1] < p).sum())
        assert int(np.isfinite(kept).sum()) == fewest


def test_zero_temperature_takes_the_likeliest_whatever_the_key(new_key):
    logits = jax.random.normal(new_key(), (4, 9))
    keys = jax.random.split(new_key(), 4)
    greedy = sampling.sample(logits, Sampling(temperature=0), keys)
    assert greedy.dtype == jnp.int32
    np.testing.assert_array_equal(greedy, logits.argmax(-1))


@pytest.mark.parametrize(
    "how",
    [Sampling(), Sampling(temperature=2.0), Sampling(top_k=4), Sampling(top_p=0.9)],
)
def test_draws_follow_the_filtered_distribution(new_key, how):
    n = 20_000
    logits = LOGITS / 3
    rows = jnp.broadcast_to(logits, (n, 9))
    draws = sampling.sample(rows, how, jax.random.split(new_key(), n))
    counts = np.bincount(draws, minlength=9)
    expected = n * np.asarray(jax.nn.softmax(sampling.filtered(logits, how)))
    assert not counts[expected == 0].any()
    seen = expected > 0
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum()
    # 99.9 % of chi-square with 8 degrees of freedom; the keys are fixed.
    assert chi_square < 26.1


def test_a_row_is_drawn_by_its_own_key(new_key):
    logits, keys = jax.random.normal(new_key(), (6, 50)), jax.random.split(new_key(), 6)
    together = sampling.sample(logits, Sampling(), keys)
    alone = sampling.sample(logits[4:5], Sampling(), keys[4:5])
    assert together[4] == alone[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**wrong)


def test_gumbel_noise_can_stand_in_for_the_keys(new_key):
    logits, keys = jax.random.normal(new_key(), (6, 50)), jax.random.split(new_key(), 6)
    noise = jnp.stack([jax.random.gumbel(key, (50,)) for key in keys])
    for how in (Sampling(), Sampling(top_k=3, temperature=0.7)):
        np.testing.assert_array_equal(
            sampling.sample(logits, how, keys), sampling.sample(logits, how, noise)
        )
