"""Vectors come back from every form as they were, whoever wrote it."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest

from jaxllm.errors import DataError
from jaxllm.vectors import files, queries
from jaxllm.vectors.files import Embeddings

FORMS = ("bin", "txt", "vec", "glove", "bin.gz", "txt.gz", "glove.gz", "npy")
WORDS = ["the", "naïve", "日本語", "don't", ".", "\u00a0x", "-1", "🙂"]


def random_embeddings(words=WORDS, dims=5):
    rows = np.random.default_rng(0).normal(size=(len(words), dims))
    rows[0, 0], rows[1, 0] = 1e-30, -3e30
    return Embeddings(list(words), rows.astype(np.float32))


def expected_words(words):
    return list(files.file_words(words))


@pytest.mark.parametrize("form", FORMS)
def test_vectors_come_back_bit_for_bit(tmp_path, form):
    made = random_embeddings()
    files.write(made, tmp_path / f"v.{form}")
    found = files.read(tmp_path / f"v.{form}")
    assert found.words == (WORDS if form == "npy" else expected_words(WORDS))
    np.testing.assert_array_equal(found.rows, made.rows)


@pytest.mark.parametrize("form", FORMS)
def test_converting_is_reading_and_writing(tmp_path, form):
    files.write(random_embeddings([*WORDS, "New York", ""]), tmp_path / f"v.{form}")
    for target, limit in (("bin", None), ("txt.gz", 3), ("npy", 9)):
        converted, written = tmp_path / f"c.{target}", tmp_path / f"w.{target}"
        size = files.convert(tmp_path / f"v.{form}", converted, limit=limit)
        found = files.read(tmp_path / f"v.{form}", limit=limit)
        files.write(found, written)
        assert size == found.rows.shape
        assert converted.read_bytes() == written.read_bytes()


@pytest.mark.parametrize(("source", "target"), [("bin", "npy"), ("npy", "bin")])
def test_converting_does_not_hold_the_rows(tmp_path, source, target):
    made = random_embeddings([f"word{n}" for n in range(1000)], dims=2000)
    files.write(made, tmp_path / f"v.{source}")
    tracemalloc.start()
    files.convert(tmp_path / f"v.{source}", tmp_path / f"c.{target}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < made.rows.nbytes / 2
    np.testing.assert_array_equal(files.read(tmp_path / f"c.{target}").rows, made.rows)


@pytest.mark.parametrize("form", FORMS)
def test_a_limit_reads_the_first_words(tmp_path, form):
    made = random_embeddings()
    files.write(made, tmp_path / f"v.{form}")
    found = files.read(tmp_path / f"v.{form}", limit=3)
    assert found.words == WORDS[:3]
    np.testing.assert_array_equal(found.rows, made.rows[:3])


def test_a_limit_does_not_touch_the_rest(tmp_path):
    files.write(random_embeddings(), tmp_path / "v.bin")
    data = (tmp_path / "v.bin").read_bytes()
    (tmp_path / "v.bin").write_bytes(data[: len(data) // 2])
    assert files.read(tmp_path / "v.bin", limit=2).words == WORDS[:2]


@pytest.mark.parametrize("line_feed", [b"", b"\n", b"\r\n"])
def test_binary_files_with_and_without_line_feeds(tmp_path, line_feed):
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    body = b"".join(
        word + b" " + row.tobytes() + line_feed
        for word, row in zip([b"a", b"b"], rows, strict=True)
    )
    (tmp_path / "v.bin").write_bytes(b"2 3\n" + body)
    found = files.read(tmp_path / "v.bin")
    assert found.words == ["a", "b"]
    np.testing.assert_array_equal(found.rows, rows)


def test_of_a_word_that_comes_twice_the_first_counts_also_when_converted(tmp_path):
    (tmp_path / "v.txt").write_text("3 1\na 1\na 2\nb 3\n")
    assert files.convert(tmp_path / "v.txt", tmp_path / "v.bin") == (2, 1)
    found = files.read(tmp_path / "v.bin")
    assert found.words == ["a", "b"]
    np.testing.assert_array_equal(found.rows, [[1], [3]])


def test_a_binary_file_larger_than_one_reading(tmp_path):
    words = [f"word{n}" for n in range(5000)]
    made = random_embeddings(words, dims=100)
    files.write(made, tmp_path / "v.bin")
    found = files.read(tmp_path / "v.bin")
    assert found.words == words
    np.testing.assert_array_equal(found.rows, made.rows)


@pytest.mark.parametrize("form", ["bin", "txt"])
def test_words_that_are_not_utf_8_survive(tmp_path, form):
    word = b"caf\xe9"  # Latin-1
    numbers = np.float32([1]).tobytes() if form == "bin" else b"1\n"
    (tmp_path / f"v.{form}").write_bytes(b"1 1\n" + word + b" " + numbers)
    found = files.read(tmp_path / f"v.{form}")
    files.write(found, tmp_path / f"again.{form}")
    assert word in (tmp_path / f"again.{form}").read_bytes()


def test_text_in_the_variants_of_the_wild(tmp_path):
    body = "\ufeff2 2\r\nNew York 1 2 \r\n\r\nb\t3\t-4e-1\r\n"
    (tmp_path / "v.txt").write_bytes(body.encode())
    found = files.read(tmp_path / "v.txt")
    assert found.words == ["New York", "b"]
    np.testing.assert_array_equal(found.rows, np.float32([[1, 2], [3, -0.4]]))


def test_glove_needs_no_first_line_and_may_have_blanks_in_words(tmp_path):
    (tmp_path / "v.txt").write_text("the 1 2 3\n. . 4 5 6\nthe 7 8 9\n")
    found = files.read(tmp_path / "v.txt")
    assert found.words == ["the", ". ."]  # the first of two counts, as in gensim
    np.testing.assert_array_equal(found.rows, [[1, 2, 3], [4, 5, 6]])


def test_words_with_blanks_or_nothing_in_them_are_written_as_one_word(tmp_path):
    odd = ["New York", "New_York", "", " ", "a\tb\n"]
    made = random_embeddings([*odd, "z"])
    for form in ("bin", "txt"):
        files.write(made, tmp_path / f"v.{form}")
        found = files.read(tmp_path / f"v.{form}")
        assert found.words == ["New_York", "New_York_", "_", "__", "a_b_", "z"]
        np.testing.assert_array_equal(found.rows, made.rows)


@pytest.mark.parametrize("form", ["bin", "txt", "bin.gz", "txt.gz"])
def test_a_file_that_ends_early_names_its_last_word(tmp_path, form):
    files.write(random_embeddings(["one", "two", "three"]), tmp_path / f"v.{form}")
    unpack = gzip.decompress if form.endswith("gz") else bytes
    pack = gzip.compress if form.endswith("gz") else bytes
    data = unpack((tmp_path / f"v.{form}").read_bytes())
    cut = data.index(b"three") + 12
    (tmp_path / f"v.{form}").write_bytes(pack(data[:cut]))
    with pytest.raises(DataError, match="ends in the middle of word 3 of 3, 'three'"):
        files.read(tmp_path / f"v.{form}")


def test_a_gzip_that_ends_early_is_damaged(tmp_path):
    files.write(random_embeddings(), tmp_path / "v.bin.gz")
    data = (tmp_path / "v.bin.gz").read_bytes()
    (tmp_path / "v.bin.gz").write_bytes(data[:-30])
    with pytest.raises(DataError, match="is damaged"):
        files.read(tmp_path / "v.bin.gz")


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("v.bin", b"", "it is empty"),
        ("v.bin", b"the 0.1 0.2\n", "line of two numbers"),
        ("v.txt", b"3 2\na 1 2\n", "must hold 3 words.*ends after 1"),
        ("v.txt", b"2 2\na 1 x\nb 1 2\n", "must have 2 numbers for each word, 'a'"),
        ("v.txt", b"2 2\na 1\nb 1 2\n", "must have 2 numbers"),
        ("v.txt", b"word\n", "a word and its numbers"),
        ("v.npy", b"", "as numpy.save writes"),
        ("v.npy", b"a 1 2\n", "as numpy.save writes"),
    ],
)
def test_what_is_no_file_of_vectors_says_why(tmp_path, name, data, rule):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rule):
        files.read(tmp_path / name)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (None, "cannot read .*v.words"),
        ("[", "v.words must be JSON"),
        ("{}", "list of words"),
        ("[1, 2]", "list of words"),
        ('["a"]', "row per word"),
    ],
)
def test_the_words_of_an_npy_are_a_list_beside_it(tmp_path, words, rule):
    np.save(tmp_path / "v.npy", np.ones((2, 3), np.float32))
    if words is not None:
        (tmp_path / "v.words").write_text(words)
    with pytest.raises(DataError, match=rule):
        files.read(tmp_path / "v.npy")


@pytest.mark.parametrize(
    "which", [2, -1, slice(1, 4), [3, 0, 3], np.array([[0, 1], [2, 7]]), slice(0, 0)]
)
def test_rows_of_a_binary_file_are_read_as_numpy_would(tmp_path, which):
    made = random_embeddings()
    files.write(made, tmp_path / "v.bin")
    rows = files.read(tmp_path / "v.bin").rows
    assert len(rows) == len(made.rows)
    assert rows.shape == made.rows.shape
    np.testing.assert_array_equal(np.asarray(rows[which]), made.rows[which])


def test_a_binary_file_may_hold_no_word(tmp_path):
    (tmp_path / "v.bin").write_bytes(b"0 5\n")
    assert np.asarray(files.read(tmp_path / "v.bin").rows).shape == (0, 5)


def test_rows_of_a_binary_file_stay_in_it(tmp_path):
    made = random_embeddings([f"word{n}" for n in range(3000)], dims=2000)
    files.write(made, tmp_path / "v.bin")
    tracemalloc.start()
    found = files.read(tmp_path / "v.bin")
    queries.nearest(found.rows, made.rows[:1], 3, chunk_rows=50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < made.rows.nbytes / 2


def test_rows_of_an_npy_are_mapped_not_read(tmp_path):
    files.write(random_embeddings(), tmp_path / "v.npy")
    assert isinstance(files.read(tmp_path / "v.npy").rows, np.memmap)
    (tmp_path / "v.words").write_text(json.dumps(WORDS[1:]))
    with pytest.raises(DataError, match="a row per word"):
        files.read(tmp_path / "v.npy")


@pytest.mark.parametrize("form", ["bin", "txt", "bin.gz", "txt.gz"])
def test_gensim_opens_what_we_write(tmp_path, form):
    gensim = pytest.importorskip("gensim")
    made = random_embeddings([*WORDS, "New York", ""])
    files.write(made, tmp_path / f"v.{form}")
    found = gensim.models.KeyedVectors.load_word2vec_format(
        tmp_path / f"v.{form}", binary=form.startswith("bin")
    )
    assert found.index_to_key == expected_words(made.words)
    np.testing.assert_array_equal(found.vectors, made.rows)


@pytest.mark.parametrize("form", ["bin", "txt", "bin.gz", "txt.gz", "glove"])
def test_we_open_what_gensim_writes(tmp_path, form):
    gensim = pytest.importorskip("gensim")
    # A blank ends a word of the binary form, for everyone.
    words = WORDS if form.startswith("bin") else [*WORDS, "New York", ""]
    made = random_embeddings(words)
    vectors = gensim.models.KeyedVectors(5)
    vectors.add_vectors(made.words, made.rows)
    vectors.save_word2vec_format(
        str(tmp_path / f"v.{form}"),
        binary=form.startswith("bin"),
        write_header=form != "glove",
    )
    found = files.read(tmp_path / f"v.{form}")
    order = [made.words.index(word) for word in found.words]
    assert sorted(order) == list(range(len(words)))
    np.testing.assert_array_equal(found.rows, made.rows[order])
