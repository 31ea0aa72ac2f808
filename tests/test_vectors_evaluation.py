"""Scores are gensim's on the same questions, and say what they cover."""

import numpy as np
import pytest

from jaxllm.errors import DataError
from jaxllm.vectors import evaluation
from jaxllm.vectors.files import Embeddings

QUESTIONS = ": one\nW0 w1 w2 w3\nw4 w5 w6 w7\nw1 w2 w3 nowhere\n: two\nw8 w9 w10 w11\n"


@pytest.fixture
def embeddings():
    """Forty words; the first question is right by its rows, the others by chance."""
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    rows[3] = rows[1] - rows[0] + rows[2]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[3] = rows[1] - rows[0] + rows[2]
    return Embeddings([f"w{n}" for n in range(40)], rows)


def test_analogies_are_scored_as_gensim_does(embeddings, tmp_path):
    gensim = pytest.importorskip("gensim")
    (tmp_path / "q.txt").write_text(QUESTIONS)
    sections = evaluation.read_analogies(tmp_path / "q.txt")
    scores = evaluation.evaluate_analogies(embeddings, sections)
    assert scores["one"][1:] == (2, 3)
    assert scores["one"].correct >= 1
    theirs = gensim.models.KeyedVectors(6)
    theirs.add_vectors(embeddings.words, embeddings.rows)
    accuracy, _ = theirs.evaluate_word_analogies(str(tmp_path / "q.txt"))
    assert scores["total"].accuracy == pytest.approx(accuracy)
    assert scores["total"].coverage == 3 / 4


def test_likenesses_are_scored_as_gensim_does(embeddings, tmp_path):
    gensim = pytest.importorskip("gensim")
    rng = np.random.default_rng(1)
    lines = [
        f"w{a}\tW{b}\t{s}"
        for (a, b), s in zip(
            rng.integers(0, 45, (60, 2)), rng.integers(0, 9, 60), strict=True
        )
    ]
    (tmp_path / "s.tsv").write_text("# remark\n" + "\n".join(lines) + "\n")
    score = evaluation.evaluate_similarities(
        embeddings, evaluation.read_similarities(tmp_path / "s.tsv")
    )
    theirs = gensim.models.KeyedVectors(6)
    theirs.add_vectors(embeddings.words, embeddings.rows)
    pearson, spearman, missing = theirs.evaluate_word_pairs(str(tmp_path / "s.tsv"))
    assert score.spearman == pytest.approx(spearman[0], abs=1e-6)
    assert score.pearson == pytest.approx(pearson[0], abs=1e-6)
    assert score.coverage == pytest.approx(1 - missing / 100)


def test_nothing_known_is_no_score(embeddings):
    score = evaluation.evaluate_similarities(embeddings, [("a", "b", 1.0)])
    assert np.isnan(score.spearman)
    assert score.coverage == 0
    total = evaluation.evaluate_analogies(embeddings, {"x": [("a", "b", "c", "d")]})
    assert np.isnan(total["total"].accuracy)


def test_a_line_that_is_no_question_is_named(tmp_path):
    (tmp_path / "q.txt").write_text(": s\na b c\n")
    with pytest.raises(DataError, match="line 2: a question must have 4 words, got 3"):
        evaluation.read_analogies(tmp_path / "q.txt")
    (tmp_path / "s.csv").write_text("word1,word2,score\na,b,1\na,b\n")
    with pytest.raises(DataError, match="line 3: a pair must be two words"):
        evaluation.read_similarities(tmp_path / "s.csv")


def test_only_one_line_may_be_a_heading(tmp_path):
    (tmp_path / "s.csv").write_text("# remark\nword1,word2,score\na,b,x\nc,d,1\n")
    with pytest.raises(DataError, match="line 3: a pair must be two words"):
        evaluation.read_similarities(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("word1,word2,score\n")
    with pytest.raises(DataError, match="must hold pairs of words"):
        evaluation.read_similarities(tmp_path / "s.csv")


def test_a_set_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "s.csv").write_bytes(b"a,caf\xe9,1\n")
    with pytest.raises(DataError, match=r"s\.csv must be UTF-8"):
        evaluation.read_similarities(tmp_path / "s.csv")
