"""`jaxllm vectors`: from a text to answers and a picture, mistakes in one line."""

import functools
import pathlib

import numpy as np
import pytest

from jaxllm.cli import vectors
from jaxllm.plots import figure, scatter
from jaxllm.vectors import files

GOLDEN = pathlib.Path(__file__).parent / "golden"
TEXT = "the king rules the land. the queen rules the sea. a man and a woman see.\n"


@pytest.fixture
def run(run):
    """A function that runs `jaxllm vectors` and returns its status and what it said."""
    return functools.partial(run, "vectors")


@pytest.fixture
def some_vectors(tmp_path):
    """A file of four words in three dimensions."""
    rows = [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [-1, -1, -1]]
    words = ["king", "man", "woman", "queen", "land"]
    files.write(files.Embeddings(words, np.float32(rows)), tmp_path / "v.txt")
    return tmp_path / "v.txt"


def test_a_text_becomes_vectors_that_can_be_asked(run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 30)
    words = ["--corpus", tmp_path / "text.txt", "--run_dir", tmp_path / "run"]
    words += ["--emb_dim", 8, "--epochs", 1, "--batch_size", 64, "--chunk_size", 512]
    status, said = run("train", *words)
    assert status == 0, said
    assert "11 different words" in said
    status, said = run("similar", "king", "--top_n", 3, "--vectors", tmp_path / "run")
    assert status == 0
    assert len(said.splitlines()) == 3
    status, said = run("train", *words)
    assert status == 2
    assert "without a run" in said
    status, said = run("train", "--resume", tmp_path / "run")
    assert status == 0


def test_questions_have_their_answers(run, some_vectors):
    where = ("--vectors", some_vectors)
    _, said = run("analogy", "man", "king", "woman", "--top_n", 1, *where)
    assert said.split()[1] == "queen"
    _, said = run("doesnt_match", "king", "queen", "land", *where)
    assert said == "land\n"
    _, said = run("similar", "king", "woman", "--negative", "man", "--top_n", 1, *where)
    assert said.split()[1] == "queen"


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_words_become_a_picture(run, some_vectors, tmp_path, ending, method):
    out = tmp_path / f"words.{ending}"
    words = ("--vectors", some_vectors, "--method", method, "--out", out)
    status, said = run("plot", *words)
    assert (status, said) == (0, f"{out}: 5 words\n")
    assert out.stat().st_size > 1000


def test_a_picture_tells_tokens_with_a_blank_from_those_without(
    run, tmp_path, monkeypatch
):
    tokens = files.Embeddings([" def", "def", "(", "\n"], np.eye(4, dtype=np.float32))
    monkeypatch.setattr(vectors, "find", lambda source: tokens)
    drawn = []
    monkeypatch.setattr(
        scatter, "scatter", lambda places, words, groups: drawn.append(words)
    )
    monkeypatch.setattr(figure, "save", lambda picture, out: None)
    run("plot", "--method", "pca", "--out", tmp_path / "words.png")
    assert drawn == [["·def", "def", "(", "⏎"]]


def test_forms_are_converted(run, some_vectors, tmp_path):
    status, said = run("convert", tmp_path / "v.bin", "--vectors", some_vectors)
    assert (status, said) == (0, f"{tmp_path}/v.bin: 5 words, 3 dimensions\n")
    run("convert", tmp_path / "again.txt", "--vectors", tmp_path / "v.bin")
    assert (tmp_path / "again.txt").read_bytes() == some_vectors.read_bytes()


def test_scores_come_with_their_coverage(run, some_vectors, tmp_path):
    (tmp_path / "q.txt").write_text(": family\nMan King Woman Queen\nman king a b\n")
    (tmp_path / "s.tsv").write_text("king\tqueen\t9\nking\tland\t1\nman\tking\t8\n")
    words = ("--analogies", tmp_path / "q.txt", "--similarities", tmp_path / "s.tsv")
    status, said = run("evaluate", *words, "--vectors", some_vectors)
    assert status == 0
    assert ["family", "100.0%", "1/2", "50.0%"] in map(str.split, said.splitlines())
    assert "coverage  100.0%, 3/3 pairs" in said


def test_a_gpts_own_tokens_and_texts_are_asked(run):
    model = GOLDEN / "openai"
    status, said = run("similar", "the", "--run", model, "--top_n", 2)
    assert status == 0, said
    assert len(said.splitlines()) == 2
    status, said = run("texts", model, "The cat", "a longer dog", "The cat")
    assert status == 0, said
    assert said.splitlines()[0].split(maxsplit=1) == ["1.0000", "The cat"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("similar", "kings"), "got 'kings'; did you mean 'king'?"),
        (("similar",), "words must be given"),
        (("similar", "king", "--limit", -1), "limit must be >= 1, got -1"),
        (("evaluate",), "analogies or similarities must be given"),
        (("plot", "--words", "king", "man"), "at least 3 words"),
        (("plot", "--out", "a.bmp"), "must end in .png, .svg or .pdf"),
        (("convert", "x.doc"), "must end in"),
        (("similr", "king"), "did you mean 'similar'?"),
    ],
)
def test_a_mistake_is_one_line(run, some_vectors, words, message):
    where = () if words[0] == "similr" else ("--vectors", some_vectors)
    status, said = run(*words, *where)
    assert status == 2
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_folder_without_a_result_says_so(run, tmp_path):
    status, said = run("similar", "king", "--vectors", tmp_path)
    assert status == 2
    assert "vectors.bin is missing" in said
