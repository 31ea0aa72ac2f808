"""What rows ask for: what has a meaning, and the arrays that come of it."""

import pytest

from jaxllm.errors import ConfigError
from jaxllm.inference import settings
from jaxllm.inference.settings import Sampling


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"typical_p": 1.1}, r"typical_p must be in \(0, 1\], got 1.1"),
        ({"min_p": -0.1}, r"min_p must be in \[0, 1\], got -0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0, got 0.0"),
        ({"presence_penalty": float("nan")}, "presence_penalty must be finite"),
        ({"bias": {3: float("inf")}}, "below inf, got inf for token 3"),
        ({"min_new_tokens": -1}, "min_new_tokens must be >= 0, got -1"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ban": [9]}, r"ban must name tokens in \[0, 9\), got 9"),
        ({"bias": {-1: 1.0}}, r"bias must name tokens in \[0, 9\), got -1"),
        ({"force": [12]}, r"force must name tokens in \[0, 9\), got 12"),
        ({"ban": range(9)}, "must leave a token to draw"),
        ({"ban": range(8), "min_new_tokens": 1}, "must leave a token to draw"),
    ],
)
def test_settings_that_no_row_can_follow_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        settings.make_settings([Sampling(), Sampling(**wrong)], 2, 9, stop_tokens=[8])


def test_what_nobody_asks_for_is_not_there():
    off = settings.make_settings(
        Sampling(
            temperature=0, top_k=5, top_p=1.0, min_p=0.5, typical_p=0.5, bias={1: 0.0}
        ),
        3,
        9,
        stop_tokens=[1],
    )
    assert off == settings.Settings(*[None] * 12)


def test_a_number_beyond_32_bits_is_as_good_as_the_largest():
    rows = [Sampling(top_k=10**30, min_new_tokens=10**30), Sampling(top_k=3)]
    asked = settings.make_settings(rows, 2, 9, stop_tokens=[1])
    assert asked.top_k.tolist() == [2**31 - 1, 3]
    assert asked.min_new_tokens.tolist() == [2**31 - 1, 0]
