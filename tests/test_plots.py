"""Pictures show the numbers that they are given; commands draw models and texts."""

import json
import pathlib

import numpy as np
import pytest

from jaxllm.plots import attention, counts, pieces, positions, scatter

GOLDEN = pathlib.Path(__file__).parent / "golden" / "huggingface"


def test_each_head_has_a_map_of_its_weights_with_the_tokens_on_both_axes():
    weights = np.random.default_rng(0).random((3, 2, 2))
    figure = attention.attention_maps(weights, ["a", "b"])
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["head 0", "head 1", "head 2"]
    for head, axes in enumerate(maps):
        np.testing.assert_array_equal(axes.images[0].get_array(), weights[head])
        assert axes.images[0].get_clim() == (0, 1)
    # Maps beside each other share the labels of the first.
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["a", "b"]


def test_dollars_in_names_are_no_formulas():
    name = r"$\no_such$"
    weights = np.full((2, 2, 2), 0.5)
    attention.attention_maps(weights, [name, "b"], title=name).draw_without_rendering()
    scatter.scatter(np.eye(2), [name, "b"], title=name).draw_without_rendering()


def test_positions_are_drawn_with_the_cosine_of_each_pair():
    table = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    left, right = positions.position_maps(table).axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), table)
    cosines = [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(right.images[0].get_array(), cosines)


def test_bars_of_lengths_count_every_text():
    lengths = np.array([1, 2, 2, 7, 300])
    axes = counts.length_histogram(lengths).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == len(lengths)


def test_parts_of_memory_follow_each_other():
    held = {"training": {"a": 2_000, "b": 1_000}, "generating": {"a": 2_000}}
    bars = counts.memory_bars(held).axes[0].patches
    spans = [(bar.get_x(), bar.get_width()) for bar in bars]
    assert spans == [(0, 0.002), (0, 0.002), (0.002, 0.001), (0.002, 0.0)]


@pytest.mark.parametrize("text", ["", "a b", "naïve 🍵\tx\n", "<b> & 'c'"])
def test_pieces_show_every_byte_and_break_no_page(text):
    tokens = [text.encode()[i : i + 1] for i in range(len(text.encode()))]
    shown = pieces.terminal_text(tokens, colour=False)
    assert shown.count("|") == max(0, len(tokens) - 1)
    assert shown.isprintable()
    assert pieces.terminal_text(tokens).count("\x1b[0m") == len(tokens)
    page = pieces.html_page(tokens, range(len(tokens)), title="<t>")
    assert page.count("<span") == page.count("</span>") == len(tokens)
    assert "<b>" not in page


def test_every_picture_of_a_model_is_drawn(run, tmp_path):
    for words in (
        ("attention", GOLDEN, "The cat sat", "--layer", 0),
        ("positions", GOLDEN),
        ("memory", "gpt2-124M", "--device", "h200"),
    ):
        path = tmp_path / f"{words[0]}.svg"
        assert run("plot", *words, "--out", path) == (0, f"{path}\n")
        assert path.read_bytes().startswith(b"<?xml")


def test_lengths_of_a_corpus_are_drawn(run, tmp_path):
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": "a b " * n}) + "\n" for n in (1, 9)))
    path = tmp_path / "lengths.png"
    status, _ = run("plot", "lengths", corpus, "--out", path)
    assert status == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("attention", GOLDEN, "a", "--layer", 7), "layer must be in [-2, 2), got 7"),
        (("attention", GOLDEN, "--text", "a"), "text is given without its name"),
        (("loss", "nowhere"), "there is no run in nowhere"),
        (("memory", "gpt2-124M", "--out", "a.bmp"), "must end in .png, .svg or .pdf"),
    ],
)
def test_a_mistake_is_one_line(run, words, message):
    status, said = run("plot", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1


def test_a_text_is_shown_in_its_pieces(run, tmp_path):
    status, said = run("tokenizer", "show", "gpt2", "Hello, tea")
    assert (status, said) == (0, "Hello|,|·tea\n3 tokens, 10 bytes\n")
    path = tmp_path / "pieces.html"
    assert run("tokenizer", "show", "gpt2", "Hello, tea", "--html", path)[0] == 0
    assert "id 15496" in path.read_text()
