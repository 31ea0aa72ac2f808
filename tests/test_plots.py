"""A loss curve shows what is in the metrics, and is a picture on disk."""

from jaxllm import plots

RECORDS = [
    {"kind": "train", "step": 10, "loss": 4.0},
    {"kind": "train", "step": 20, "loss": 3.0},
    {"kind": "evaluation", "step": 20, "validation_loss": 3.5},
    {"kind": "train", "step": 30, "loss": 2.5},
]


def test_both_losses_are_drawn_over_their_steps():
    axes = plots.loss_curve(RECORDS, unigram_entropy=6.0).axes[0]
    training, validation, entropy = axes.lines
    assert training.get_xydata().tolist() == [[10, 4.0], [20, 3.0], [30, 2.5]]
    assert validation.get_xydata().tolist() == [[20, 3.5]]
    assert list(entropy.get_ydata()) == [6.0, 6.0]


def test_a_run_without_metrics_is_an_empty_picture():
    assert not plots.loss_curve([]).axes[0].lines


def test_the_picture_is_a_png_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "plots" / "loss.png"
    plots.loss_curve(RECORDS, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
