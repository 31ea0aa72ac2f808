"""Questions to embeddings have gensim's answers, however the rows are cut."""

import jax
import numpy as np
import pytest

from jaxllm.errors import DataError
from jaxllm.vectors import queries
from jaxllm.vectors.files import Embeddings


def random_embeddings(V=300, D=20, seed=0):
    rows = np.random.default_rng(seed).normal(size=(V, D)) * 3
    return Embeddings([f"w{n}" for n in range(V)], rows.astype(np.float32))


@pytest.fixture
def both():
    """The same vectors, ours and gensim's."""
    gensim = pytest.importorskip("gensim")
    ours = random_embeddings()
    theirs = gensim.models.KeyedVectors(20)
    theirs.add_vectors(ours.words, ours.rows)
    return ours, theirs


@pytest.mark.parametrize(
    ("positive", "negative"),
    [(["w1"], []), (["w1", "w2"], ["w3"]), (["w4", "w5", "w4"], []), ([], ["w7"])],
)
def test_most_similar_is_gensims(both, positive, negative):
    ours, theirs = both
    found = queries.most_similar(ours, positive, negative, top_n=15)
    expected = theirs.most_similar(positive, negative, topn=15)
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose(
        [x for _, x in found], [x for _, x in expected], atol=1e-6
    )


def test_similarity_and_the_odd_word_out_are_gensims(both):
    ours, theirs = both
    for a, b in (("w1", "w2"), ("w3", "w3"), ("w299", "w0")):
        assert queries.similarity(ours, a, b) == pytest.approx(
            theirs.similarity(a, b), abs=1e-6
        )
    for n in range(0, 60, 6):
        words = [f"w{n + i}" for i in range(5)]
        assert queries.doesnt_match(ours, words) == theirs.doesnt_match(words)


@pytest.mark.parametrize("chunk_rows", [1, 7, 100, 299, 300, 1000])
def test_the_answers_do_not_depend_on_how_the_rows_are_cut(chunk_rows):
    rows = random_embeddings().rows
    vectors = np.random.default_rng(1).normal(size=(3, 20))
    exclude = np.array([[5, 299], [0, -1], [-1, -1]], np.int32)
    ids, scores = queries.nearest(
        rows, vectors, 12, exclude=exclude, chunk_rows=chunk_rows
    )
    cosines = queries.unit(vectors) @ queries.unit(rows).T
    cosines[0, [5, 299]] = cosines[1, 0] = -np.inf
    np.testing.assert_array_equal(ids, np.argsort(-cosines, 1)[:, :12])
    np.testing.assert_allclose(scores, -np.sort(-cosines, 1)[:, :12], atol=1e-6)


def test_memory_is_bounded_by_the_chunk_and_not_by_the_rows(tmp_path):
    # A sparse file: 2 million rows that would be 1.2 GB in memory.
    rows = np.lib.format.open_memmap(
        tmp_path / "rows.npy", "w+", np.float32, (2_000_000, 150)
    )
    rows[1_234_567, 3], rows[7, 3] = 2.0, 1.0
    rows[7, 4] = 1.0
    compiled = queries._merge_best.lower(
        (jax.ShapeDtypeStruct((1, 2), np.int32), jax.ShapeDtypeStruct((1, 2), "f4")),
        *(jax.ShapeDtypeStruct(s, "f4") for s in ((queries.CHUNK_ROWS, 150), (1, 150))),
        jax.ShapeDtypeStruct((1, 1), np.int32),
        0,
        0,
    ).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100e6
    ids, scores = queries.nearest(rows, np.eye(1, 150, 3), 2)
    assert ids.tolist() == [[1_234_567, 7]]
    np.testing.assert_allclose(scores, [[1, 0.5**0.5]], atol=1e-6)


def test_words_of_the_question_are_no_answers_and_answers_can_run_out():
    embeddings = random_embeddings(V=4)
    found = queries.most_similar(embeddings, ["w0", "w1"], ["w2"], top_n=10)
    assert [word for word, _ in found] == ["w3"]
    everything = ["w0", "w1", "w2", "w3"]
    assert queries.most_similar(embeddings, everything) == []


def test_a_row_of_zeros_is_like_nothing():
    embeddings = Embeddings(["zero", "one"], np.array([[0, 0], [1, 0]], np.float32))
    assert queries.similarity(embeddings, "zero", "one") == 0
    assert queries.most_similar(embeddings, ["one"]) == [("zero", 0.0)]


def test_an_analogy_is_a_sum_of_directions():
    embeddings = random_embeddings()
    assert queries.analogy(embeddings, "w1", "w2", "w3") == queries.most_similar(
        embeddings, ["w2", "w3"], ["w1"]
    )


def test_an_unknown_word_is_named_with_those_that_are_near():
    embeddings = Embeddings(["monday", "sunday", "x"], np.eye(3, dtype=np.float32))
    with pytest.raises(DataError, match="got 'mondays'; did you mean 'monday'"):
        queries.most_similar(embeddings, ["mondays"])
    with pytest.raises(DataError, match=r"got 'qqqqqq'$"):
        queries.similarity(embeddings, "x", "qqqqqq")
    with pytest.raises(DataError, match="at least 1 word"):
        queries.most_similar(embeddings)
