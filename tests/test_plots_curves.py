"""Curves show what is in the metrics; a picture is the same bytes each time."""

import pytest

from jaxllm.errors import DataError
from jaxllm.plots import curves, figure

RECORDS = [
    {"kind": "train", "step": 10, "loss": 4.0},
    {"kind": "train", "step": 20, "loss": 3.0},
    {"kind": "evaluation", "step": 20, "validation_loss": 3.5},
    {"kind": "train", "step": 30, "loss": 2.5},
]


def test_both_losses_are_drawn_over_their_steps():
    known = {"kind": "evaluation", "step": 30, "unigram_entropy": 6.0}
    axes = curves.loss_curve([*RECORDS, known]).axes[0]
    training, validation, entropy = axes.lines
    assert training.get_xydata().tolist() == [[10, 4.0], [20, 3.0], [30, 2.5]]
    assert validation.get_xydata().tolist() == [[20, 3.5]]
    assert list(entropy.get_ydata()) == [6.0, 6.0]


@pytest.mark.parametrize("unit", ["token", "text", "pair"])
def test_the_axis_says_what_losses_are_a_mean_over(unit):
    speed = {f"{unit}s_per_second": 7.0, "flops_per_second": 1e9}
    axes = curves.loss_curve([RECORDS[0] | speed]).axes[0]
    assert axes.get_ylabel() == f"loss (nats per {unit})"


def test_losses_of_batches_stand_behind_those_of_evaluations():
    records = [*RECORDS, {"kind": "evaluation", "step": 20, "training_loss": 3.25}]
    batches, training, validation = curves.loss_curve(records).axes[0].lines
    assert batches.get_label() == "training batches"
    assert training.get_xydata().tolist() == [[20, 3.25]]
    assert validation.get_xydata().tolist() == [[20, 3.5]]


def test_accuracy_is_drawn_up_to_the_best_that_can_be():
    records = [{"kind": "evaluation", "step": 9, "validation_accuracy": 0.9}]
    axes = curves.accuracy_curve(records).axes[0]
    assert axes.get_ylim()[1] == 1
    assert axes.get_xlim()[0] == 0


def test_a_run_without_metrics_is_an_empty_picture():
    assert not curves.loss_curve([]).axes[0].lines


@pytest.mark.parametrize(
    "curve", [curves.loss_curve, curves.accuracy_curve, curves.learning_rate_curve]
)
def test_metrics_without_steps_are_no_curve(curve):
    records = [{"kind": "train", "chunk": 1, "words": 9, "loss": 4.0}]
    with pytest.raises(DataError, match="got records of kind, chunk, words, loss"):
        curve(records)
    assert curve(records + RECORDS).axes


def test_the_learning_rate_and_the_gradient_have_an_axis_each():
    records = [
        {"kind": "train", "step": step, "learning_rate": step / 10, "grad_norm": 3.0}
        for step in (1, 2)
    ]
    rate, norm = curves.learning_rate_curve(records).axes
    assert rate.lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.2]]
    assert norm.lines[0].get_xydata().tolist() == [[1, 3.0], [2, 3.0]]


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_picture_is_written_as_its_name_says_and_always_the_same(
    tmp_path, ending, start
):
    paths = [tmp_path / folder / f"loss.{ending}" for folder in ("one", "two")]
    for path in paths:
        figure.save(curves.loss_curve(RECORDS), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start)
    assert first == second
