"""Time is accounted for without a gap, and arithmetic as the papers count it."""

import time

import pytest

from jaxllm.training import speed


def test_the_parts_of_a_lap_add_up_and_speed_leaves_out_what_is_no_training():
    lap = speed.start_lap()
    with speed.timed(lap, "evaluation"):
        time.sleep(0.05)
    with speed.timed(lap, "data"):
        time.sleep(0.01)
    lap["targets"], lap["steps"] = 100, 2
    figures = speed.figures(lap, 4, flops_per_token=10)
    seconds = figures["seconds"]
    total = seconds.pop("total")
    assert sum(seconds.values()) == pytest.approx(total)
    training = seconds["step"] + seconds["data"]
    assert training < 0.05 < total
    assert figures["tokens_per_second"] == pytest.approx(100 / training)
    assert figures["flops_per_second"] == pytest.approx(1000 / training)
    assert figures["seconds_left"] == pytest.approx(2 * training)


def test_time_counts_also_where_the_work_failed():
    lap = speed.start_lap()
    with pytest.raises(ZeroDivisionError), speed.timed(lap, "data"):
        1 / 0  # noqa: B018
    assert lap["data"] > 0
