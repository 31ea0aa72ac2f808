"""The figures of the notes, and the table, the page and the command that show them."""

import pathlib

import numpy as np
import pytest
import small_models

from jaxllm.cli import verify as verify_command
from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError
from jaxllm.inference import generate
from jaxllm.models import gpt
from jaxllm.notes import book, draws, figure, figures, page, pretraining, stream, verify

ALL = [row for chapter in figures.CHAPTERS for row in chapter.figures]
LEFT_OUT = [row for chapter in figures.CHAPTERS for row in chapter.left_out]

# What is in a figure's call where it reads a file.
FILES = {
    "verdict": "the-verdict.txt",
    "pretraining": "the-verdict.txt",
    "book.spam_messages": "SMSSpamCollection.tsv",
    "book.instruction_records": "instruction-data.json",
    "book.example_file": "instruction-data.json",
}

TINY = GPTConfig(
    vocab_size=11,
    context_length=6,
    emb_dim=8,
    n_heads=2,
    n_layers=3,
    drop_rate=0.2,
    qkv_bias=False,
    tied_head=False,
    init="pytorch",
)


@pytest.fixture(scope="module")
def names(data_dir):
    """What the figures' lines stand on; the big models are let go at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLLM_DATA", str(data_dir))
        yield verify.namespace()
    book.forget()
    pretraining.forget()


# Half a minute each, or more: `verify` shows them in any case.
SLOW = ("losses-step-0", "initial-training-loss")


def marked(row):
    is_long = row.long or row.name in SLOW
    return pytest.param(row, id=row.name, marks=[pytest.mark.long] * is_long)


@pytest.mark.parametrize("row", map(marked, ALL))
def test_figure_holds(row, names, real_file):
    for name, file in FILES.items():
        if name in row.call:
            real_file(file)
    if row.weights and book.find_published(row.weights) is None:
        pytest.skip(f"GPT-2 {row.weights} is not in the folder $JAXLLM_WEIGHTS")
    value = figure.compute(row, names)
    assert figure.agrees(row, value), figure.show(row, value)


# The table.


def test_names_are_different_and_can_be_typed():
    every = [row.name for row in ALL + LEFT_OUT]
    assert len(set(every)) == len(every)
    assert all(name == name.lower() and " " not in name for name in every)


def test_figures_are_chosen_by_chapter_name_and_length():
    quick = [row for _, rows in verify.select() for row in rows]
    assert quick == [row for row in ALL if not row.long]
    assert [row for _, rows in verify.select(long=True) for row in rows] == ALL
    [(chapter, rows)] = verify.select(chapter=3)
    assert (chapter.number, len(rows)) == (3, len(chapter.figures))
    [(_, rows)] = verify.select(name="losses-step-8*")
    assert [row.name for row in rows] == ["losses-step-80", "losses-step-85"]


@pytest.mark.parametrize("choice", [{"chapter": 99}, {"name": "no-such-figure"}])
def test_a_wrong_choice_is_an_error(choice):
    with pytest.raises(ConfigError, match=r"99|no-such-figure"):
        verify.select(**choice)


@pytest.mark.parametrize(
    ("printed", "value", "holds"),
    [
        ("0.3374", 0.33735, True),
        ("0.3374", 0.33754, True),  # one unit of the last digit
        ("0.3374", 0.33756, False),
        ("7.4541e-05", 7.45416e-05, True),
        ("7.4541e-05", 7.4543e-05, False),
        ("48725.82", 48725.835, True),
        ("3", 3, True),
        ("3", 4, False),
        ("[1.0 2.0]", [1.0], False),
        ("1.0", float("nan"), False),
    ],
)
def test_decimals_hold_to_a_unit_of_their_last_digit(printed, value, holds):
    assert figure.Printed(printed).agrees(value) is holds


def test_what_cannot_be_checked_and_what_fails_do_not_hold():
    rows = [
        figure.Figure("right", "E", "", "1 + 1", 2),
        figure.Figure("wrong", "E", "", "1 + 1", 3),
        figure.Figure("broken", "E", "", "1 / 0", 3),
        figure.Figure("no-text", "E", "", "absent()", 3),
    ]
    space = verify.namespace() | {"absent": lambda: next(book.corpora.documents("/no"))}
    results = list(verify.check(rows, space))
    assert [result.verdict for result in results] == [
        "holds",
        "differs",
        "differs",
        "not checked",
    ]
    assert "ZeroDivisionError" in results[2].got


# The page and the command.


def test_the_page_is_not_stale():
    path = pathlib.Path(__file__).parents[1] / "docs" / "notes.md"
    assert path.read_text(encoding="utf-8") == page.notes_page(), (
        "run python scripts/write_notes_page.py"
    )


def test_the_command_prints_what_was_expected_and_got(capsys, monkeypatch):
    monkeypatch.setenv(
        "COLUMNS", "120"
    )  # a narrow terminal shows the first digits only
    assert verify_command.main(["--figure", "context-of-one-query"]) == 0
    out = capsys.readouterr().out
    assert out.count("0.4419 0.6515 0.5683") == 2
    assert "1 hold, 0 differ" in out


def test_the_command_fails_where_a_text_is_missing(capsys, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("JAXLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("JAXLLM_DATA", "")
    book.verdict.cache_clear()
    arguments = ["--figure", "verdict-characters", "--data", str(tmp_path)]
    assert verify_command.main(arguments) == 1
    assert "1 not checked" in capsys.readouterr().out


def test_a_file_of_the_book_is_found_in_a_home_and_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXLLM_DATA", "~/data")
    monkeypatch.setenv("JAXLLM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"a\.json must lie in .* not in .*data or .*"):
        book.example_file("a.json")
    for folder in ("cache", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.json").touch()
        assert book.example_file("a.json") == tmp_path / folder / "a.json"


# The draws.


def test_drawn_parameters_have_the_tree_of_the_model():
    import jax

    for changes in ({}, {"tied_head": True}, {"qkv_bias": True}):
        cfg = GPTConfig(**(vars(TINY) | changes))
        drawn = draws.gpt_parameters(stream.seed(1), cfg)
        initial = jax.eval_shape(
            lambda cfg=cfg: gpt.init_params(jax.random.key(0), cfg)
        )
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), initial)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn) == shapes


def test_drawn_masks_go_into_the_model():
    params = draws.gpt_parameters(stream.seed(1), TINY)
    keep = draws.dropout_masks(stream.seed(2), TINY, 2, 5)
    tokens = np.arange(10, dtype=np.int32).reshape(2, 5)
    dropped = small_models.apply(params, tokens, TINY, key=keep)
    assert dropped.shape == (2, 5, 11)
    assert not np.allclose(dropped, small_models.apply(params, tokens, TINY))


def test_a_choice_with_drawn_noise_is_the_choice_of_multinomial():
    params = draws.gpt_parameters(stream.seed(1), TINY)
    tokens, source = [3], stream.seed(2)
    for _ in range(5):
        logits = np.asarray(small_models.logits_of(params, tokens, TINY)[-1])
        shares = np.exp(logits) / np.exp(logits).sum()
        tokens.append(int(source.multinomial(shares)))
    noise = stream.seed(2).gumbel((5, 1, TINY.vocab_size))
    chosen = generate.generate(params, [3], TINY, max_new_tokens=5, key=noise)
    assert list(chosen) == tokens


def test_untrained_gives_the_same_stream_each_time():
    _, first = book.untrained(TINY)
    _, second = book.untrained(TINY)
    assert first.words(1) == second.words(1)
