"""Filters and draws against their definitions."""

import warnings

import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from jaxllm.errors import ConfigError
from jaxllm.inference import filters, penalties, sampling
from jaxllm.inference.settings import Sampling

LOGITS = jnp.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])


def test_top_three_of_the_notes_example():
    kept = filters.keep_top_k(LOGITS, 3)
    assert np.flatnonzero(np.isfinite(kept)).tolist() == [0, 3, 7]
    np.testing.assert_allclose(
        jax.nn.softmax(kept), [0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0], atol=5e-5
    )


def test_temperature_five_of_the_notes_example():
    hot = jax.nn.softmax(sampling.filtered(LOGITS, Sampling(temperature=5)))
    assert float(hot[6]) == pytest.approx(0.0430, abs=5e-5)


def test_top_k_holds_for_every_row_and_beyond_the_vocabulary(new_key):
    logits = jax.random.normal(new_key(), (5, 11))
    kept = np.isfinite(filters.keep_top_k(logits, 3))
    assert kept.sum(axis=1).tolist() == [3] * 5
    for row, logit in zip(kept, logits, strict=True):
        assert set(np.flatnonzero(row)) == set(np.argsort(logit)[-3:].tolist())
    np.testing.assert_array_equal(filters.keep_top_k(logits, 99), logits)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.75, 0.999, 1.0])
def test_top_p_keeps_the_fewest_tokens_that_reach_p(new_key, p):
    logits = 2 * jax.random.normal(new_key(), (7, 13))
    for logit, kept in zip(logits, filters.keep_top_p(logits, p), strict=True):
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
    [
        Sampling(),
        Sampling(temperature=2.0),
        Sampling(top_k=4),
        Sampling(top_p=0.9),
        Sampling(min_p=0.3),
        Sampling(typical_p=0.5),
        Sampling(temperature=1.5, top_k=6, top_p=0.95, min_p=0.05, typical_p=0.9),
    ],
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


def test_gumbel_noise_can_stand_in_for_the_keys(new_key):
    logits, keys = jax.random.normal(new_key(), (6, 50)), jax.random.split(new_key(), 6)
    noise = jnp.stack([jax.random.gumbel(key, (50,)) for key in keys])
    for how in (Sampling(), Sampling(top_k=3, temperature=0.7)):
        np.testing.assert_array_equal(
            sampling.sample(logits, how, keys), sampling.sample(logits, how, noise)
        )


# Each filter by its definition in NumPy: sort, and walk from the best token down.


def walked(scores, probabilities, p):
    """The tokens of the largest scores, up to the one with which they sum to p."""
    order = np.argsort(-scores, kind="stable")
    n = 1 + int((np.cumsum(probabilities[order])[:-1] < p).sum())
    return set(order[:n].tolist())


def kept(logits):
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


rows_of_logits = hypothesis.extra.numpy.arrays(
    np.float32,
    (3, 12),
    elements=st.floats(-8, 8, width=32, allow_subnormal=False),
    unique=True,
)
# Not a sum of probabilities that rounding could tip over.
fractions = st.floats(0.011, 0.989)
several = given(logits=rows_of_logits, ps=st.tuples(*[fractions] * 3))
few = tried(max_examples=20, deadline=None)


@few
@several
def test_top_p_and_typical_walk_down_each_row_as_far_as_its_own_p(logits, ps):
    p = np.array(ps, np.float32)
    nucleus, typical = filters.keep_top_p(logits, p), filters.keep_typical(logits, p)
    for i, row in enumerate(logits.astype(np.float64)):
        probabilities = np.exp(row - np.logaddexp.reduce(row))
        surprise = -np.log(probabilities)
        entropy = (probabilities * surprise).sum()
        unusual = np.abs(surprise - entropy)
        near = np.abs(np.cumsum(np.sort(probabilities)[::-1]) - ps[i]).min()
        if near > 1e-5:
            assert kept(nucleus[i]) == walked(row, probabilities, ps[i])
        order = np.argsort(unusual)
        gaps = np.diff(unusual[order]).min()
        near = np.abs(np.cumsum(probabilities[order]) - ps[i]).min()
        if min(near, gaps) > 1e-5:
            assert kept(typical[i]) == walked(-unusual, probabilities, ps[i])


@few
@several
def test_min_p_is_a_share_of_the_largest_probability(logits, ps):
    p = np.array(ps, np.float32)
    ours = filters.keep_min_p(logits, p)
    for i, row in enumerate(logits):
        share = np.exp(row - row.max())
        if np.abs(share - p[i]).min() > 1e-5:
            assert kept(ours[i]) == set(np.flatnonzero(share >= p[i]).tolist())


@few
@given(logits=rows_of_logits)
def test_a_filter_that_asks_for_everything_changes_nothing(logits):
    for same in (
        filters.keep_top_k(logits, 12),
        filters.keep_top_p(logits, 1.0),
        filters.keep_typical(logits, 1.0),
        filters.keep_min_p(logits, 0.0),
        filters.divide_by_temperature(logits, 1.0),
    ):
        np.testing.assert_array_equal(same, logits)


def test_a_filter_keeps_what_was_ruled_out_before_ruled_out():
    logits = jnp.array([[2.0, -jnp.inf, 1.0, 0.0, -jnp.inf]])
    for how in (
        Sampling(top_k=4),
        Sampling(top_p=1.0),
        Sampling(top_p=0.999),
        Sampling(typical_p=0.999),
        Sampling(min_p=0.0),
    ):
        assert kept(sampling.filtered(logits, how)[0]) == {0, 2, 3}


def test_ties_at_the_threshold_stay_whatever_the_sign_of_zero():
    logits = jnp.array([0.0, -0.0, -1.0, 0.0])
    assert kept(filters.keep_top_k(logits, 1)) == {0, 1, 3}


def test_filters_are_applied_in_the_order_of_the_fields(new_key):
    logits = 2 * jax.random.normal(new_key(), (4, 50))
    expected = logits / 1.7
    expected = filters.keep_top_k(expected, 20)
    expected = filters.keep_top_p(expected, 0.9)
    expected = filters.keep_min_p(expected, 0.1)
    expected = filters.keep_typical(expected, 0.8)
    how = Sampling(temperature=1.7, top_k=20, top_p=0.9, min_p=0.1, typical_p=0.8)
    np.testing.assert_array_equal(sampling.filtered(logits, how), expected)


# Rows of one batch, each with settings of its own.

MANY = [
    Sampling(temperature=0, top_k=3),
    Sampling(top_k=2, repetition_penalty=1.5),
    Sampling(temperature=0.7, top_p=0.6, presence_penalty=1.0),
    Sampling(min_p=0.2, frequency_penalty=0.5, bias={3: 2.0, 4: -np.inf}),
    Sampling(temperature=2.0, typical_p=0.5, ban=[0, 1], min_new_tokens=3),
    Sampling(force=[7, 8]),
]


jitted_draw = jax.jit(sampling.draw)


def draw(how, logits, rows, keys, drawn=1):
    V = logits.shape[1]
    settings = sampling.make_settings(how, len(rows), V, stop_tokens=[2, 5])
    prompts = [len(row) - drawn for row in rows]
    history = sampling.make_history(settings, rows, prompts, V, drawn)
    return jitted_draw(logits, settings, history, keys)


def test_a_row_is_drawn_as_if_it_were_alone(new_key):
    for _ in range(3):
        logits = 2 * jax.random.normal(new_key(), (6, 20))
        keys = jax.random.split(new_key(), 6)
        rows = [np.array([i, 3, 9, 3]) for i in range(6)]
        together, _ = draw(MANY, logits, rows, keys)
        for i, how in enumerate(MANY):
            at = slice(i, i + 1)
            alone, _ = draw(how, logits[at], rows[at], keys[at])
            assert together[i] == alone[0], how


def test_other_numbers_compile_nothing(new_key):
    logits, keys = jnp.zeros((2, 9)), jax.random.split(new_key(), 2)
    sizes = []
    for k, p in ((2, 0.5), (7, 0.9)):
        how = [Sampling(top_k=k), Sampling(top_p=p)]
        draw(how, logits, [np.array([1])] * 2, keys, drawn=0)
        sizes.append(jitted_draw._cache_size())
    assert sizes[0] == sizes[1]


@few
@given(
    logits=hypothesis.extra.numpy.arrays(
        np.float32, (2, 6), elements=st.floats(-5, 5, width=32)
    ),
    texts=st.tuples(*[st.lists(st.integers(0, 5), min_size=3, max_size=12)] * 2),
    new=st.integers(0, 3),
    repetition=st.floats(0.5, 2, width=32),
    presence=st.floats(-2, 2, width=32),
    frequency=st.floats(-2, 2, width=32),
)
def test_penalties_count_the_tokens_so_far(
    logits, texts, new, repetition, presence, frequency
):
    how = Sampling(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    rows = [np.array(text) for text in texts]
    settings = sampling.make_settings(how, 2, 6)
    prompts = [len(row) - new for row in rows]
    # The last tokens are drawn one by one, the others were there.
    history = sampling.make_history(
        settings, [row[:n] for row, n in zip(rows, prompts, strict=True)], prompts, 6, 0
    )
    for i in range(new):
        history = penalties.extend_history(
            history,
            jnp.array([row[n + i] for row, n in zip(rows, prompts, strict=True)]),
        )
    ours = sampling.adjusted(jnp.asarray(logits), settings, history)
    for b, text in enumerate(texts):
        for v in range(6):
            logit = float(logits[b, v])
            if v in text:
                logit = logit / repetition if logit > 0 else logit * repetition
            count = text[prompts[b] :].count(v)
            logit -= presence * (count > 0) + frequency * count
            assert float(ours[b, v]) == pytest.approx(logit, abs=1e-5)


def test_a_ban_is_a_bias_without_bottom(new_key):
    logits, keys = jnp.zeros((200, 5)), jax.random.split(new_key(), 200)
    banned = sampling.sample(logits, Sampling(ban=[1, 3]), keys)
    biased = sampling.sample(logits, Sampling(bias={1: -np.inf, 3: -np.inf}), keys)
    np.testing.assert_array_equal(banned, biased)
    assert set(banned.tolist()) == {0, 2, 4}


def test_stop_tokens_wait_for_min_new_tokens():
    logits = jnp.array([[0.0, 1.0, 2.0]])
    how, row = Sampling(temperature=0, min_new_tokens=2), [np.array([0, 0, 0])]
    for drawn, token in ((0, 1), (1, 1), (2, 2)):
        settings = sampling.make_settings(how, 1, 3, stop_tokens=[2])
        history = sampling.make_history(settings, row, [3 - drawn], 3, drawn)
        assert int(sampling.draw(logits, settings, history, None)[0][0]) == token


def test_forced_tokens_come_first_even_where_banned():
    how, logits = Sampling(temperature=0, force=[4, 2], ban=[4]), jnp.eye(6)[:1]
    for drawn, token in ((0, 4), (1, 2), (2, 0), (9, 0)):
        tokens, _ = draw(how, logits, [np.zeros(drawn + 1, int)], None, drawn=drawn)
        assert int(tokens[0]) == token


def test_log_probabilities_are_those_of_the_model(new_key):
    logits = jax.random.normal(new_key(), (4, 30))
    tokens = jnp.array([3, 0, 29, 7])
    ours = sampling.log_probabilities(logits, tokens, 5)
    log_p = jax.nn.log_softmax(logits)
    np.testing.assert_array_equal(ours.chosen, log_p[jnp.arange(4), tokens])
    values, places = jax.lax.top_k(log_p, 5)
    np.testing.assert_array_equal(ours.top, values)
    np.testing.assert_array_equal(ours.top_tokens, places)
    assert sampling.log_probabilities(logits, tokens, 0).top.shape == (4, 0)


def test_the_filters_and_penalties_are_those_of_transformers(new_key):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processes = pytest.importorskip("transformers.generation.logits_process")
    logits = 3 * jax.random.normal(new_key(), (5, 400))
    theirs_in = torch.tensor(np.asarray(logits))
    text = np.random.default_rng(0).integers(0, 400, (5, 60))
    settings = sampling.make_settings(Sampling(repetition_penalty=1.3), 5, 400)
    history = sampling.make_history(settings, list(text), [60] * 5, 400, 0)
    pairs = [
        (filters.keep_top_k(logits, 17), processes.TopKLogitsWarper(17)),
        (filters.keep_top_p(logits, 0.83), processes.TopPLogitsWarper(0.83)),
        (filters.keep_min_p(logits, 0.07), processes.MinPLogitsWarper(0.07)),
        (filters.keep_typical(logits, 0.6), processes.TypicalLogitsWarper(0.6)),
        (
            filters.divide_by_temperature(logits, 0.7),
            processes.TemperatureLogitsWarper(0.7),
        ),
        (
            sampling.adjusted(logits, settings, history),
            processes.RepetitionPenaltyLogitsProcessor(1.3),
        ),
    ]
    for ours, theirs in pairs:
        expected = theirs(torch.tensor(text), theirs_in.clone()).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_sample_takes_one_key_or_says_that_it_needs_one(new_key):
    logits = jnp.zeros((4, 9))
    assert sampling.sample(logits, Sampling(), new_key()).shape == (4,)
    with pytest.raises(ConfigError, match="give a key"):
        sampling.sample(logits, Sampling())
    with pytest.raises(ConfigError, match=r"must be \(4, 9\), got \(4, 1\)"):
        sampling.sample(logits, Sampling(), jnp.zeros((4, 1)))


def test_a_key_of_the_old_form_is_a_key_and_no_noise():
    for V in (2, 9):  # its two numbers are as many as the tokens
        logits = jnp.zeros((1, V))
        for seed in range(4):
            old, new = (
                sampling.sample(logits, Sampling(), make(seed))
                for make in (jax.random.PRNGKey, jax.random.key)
            )
            assert old == new


def test_a_row_whose_logits_are_no_numbers_gives_no_token():
    logits = jnp.array([[0.0, 1.0], [0.0, np.nan], [-np.inf, -np.inf], [0.0, -np.inf]])
    for how in (Sampling(temperature=0), Sampling(temperature=0, ban=[1])):
        tokens = sampling.sample(logits, how)
        assert (tokens >= 0).tolist() == [True, False, False, True]
