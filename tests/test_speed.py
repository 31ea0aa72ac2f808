"""Time is accounted for without a gap, and arithmetic as the papers count it."""

import time

import pytest

from jaxllm.config import gpt2_config, gpt3_config
from jaxllm.training import speed


def test_flops_of_gpt2_are_six_per_parameter_and_the_attention():
    # 124,439,808 parameters less 1,024 * 768 positions.
    expected = 6 * (124_439_808 - 786_432) + 12 * 12 * 768 * 1024
    assert speed.flops_per_token(gpt2_config("124M")) == expected


def test_a_table_that_is_only_looked_up_is_no_arithmetic():
    tied = speed.flops_per_token(gpt2_config("124M"))
    assert speed.flops_per_token(gpt2_config("124M", tied_head=False)) == tied


def test_gpt3_costs_what_its_paper_says():
    # Table D.1: 3.14e23 for 300 billion tokens, without the products of attention.
    cfg = gpt3_config("175B")
    attention = 12 * cfg.n_layers * cfg.emb_dim * cfg.context_length
    total = (speed.flops_per_token(cfg) - attention) * 300e9
    assert total == pytest.approx(3.14e23, rel=0.01)


def test_the_parts_of_a_lap_add_up_and_speed_leaves_out_what_is_no_training():
    lap = speed.start_lap()
    with speed.timed(lap, "evaluation"):
        time.sleep(0.05)
    with speed.timed(lap, "data"):
        time.sleep(0.01)
    lap["tokens"], lap["steps"] = 100, 2
    figures = speed.figures(lap, 4, gpt2_config())
    seconds = figures["seconds"]
    total = seconds.pop("total")
    assert sum(seconds.values()) == pytest.approx(total)
    training = seconds["step"] + seconds["data"]
    assert training < 0.05 < total
    assert figures["tokens_per_second"] == pytest.approx(100 / training)
    assert figures["seconds_left"] == pytest.approx(2 * training)


def test_time_counts_also_where_the_work_failed():
    lap = speed.start_lap()
    with pytest.raises(ZeroDivisionError), speed.timed(lap, "data"):
        1 / 0  # noqa: B018
    assert lap["data"] > 0
