"""Labelled text: the SMS messages both ways, the book's sample, rows alone as a law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import labelled, records, tokenizers
from jaxllm.data.labelled import Labelled
from jaxllm.data.text_tokenizers import CharTokenizer
from jaxllm.errors import DataError

COLUMNS = ("label", "text")
ABC = CharTokenizer(characters="abc", special_tokens={"<|endoftext|>": 3})


@pytest.fixture(scope="module")
def messages(real_file):
    """A function that reads the SMS messages, quoted or not."""
    path = real_file("SMSSpamCollection.tsv")
    return lambda quoted: labelled.read_labelled(path, columns=COLUMNS, quoted=quoted)


def counts(data):
    return dict(zip(data.names, np.bincount(data.labels).tolist(), strict=True))


def test_the_messages_are_all_read(messages):
    data = messages(quoted=None)
    assert len(data.texts) == 5574
    assert counts(data) == {"ham": 4827, "spam": 747}
    assert data.labels.dtype == np.int32


def test_a_reader_that_takes_quotes_for_quotes_merges_messages(messages):
    data = messages(quoted=True)
    assert len(data.texts) == 5572
    assert counts(data) == {"ham": 4825, "spam": 747}


def test_the_books_sample_split_and_batches(messages):
    data = messages(quoted=True)

    def permute(n):
        return np.random.RandomState(123).permutation(n)

    rows = labelled.balanced_rows(data.labels, permute)
    assert len(rows) == 1494
    assert rows[:5].tolist() == [4307, 4138, 4831, 4461, 5440]
    assert rows[-5:].tolist() == [5537, 5540, 5547, 5566, 5567]
    parts = records.split(rows[permute(len(rows))], (0.7, 0.1, 0.2))
    assert [len(part) for part in parts] == [1045, 149, 300]
    train, validation, test = parts
    sizes = [len(records.batch_rows(part, 8)) for part in (validation, test)]
    assert [len(records.batch_rows(train, 8, drop_last=True)), *sizes] == [130, 19, 38]

    tokenizer = tokenizers.load("gpt2")
    encoded = labelled.encode_texts(labelled.take(data, train).texts, tokenizer)
    assert encoded.ids.shape == (1045, 120)
    assert not encoded.truncated.any()
    assert (encoded.ids[encoded.lengths < 120, -1] == 50256).all()


# Laws.


@given(labels=st.lists(st.integers(0, 3), min_size=1), seed=st.integers(0, 9))
def test_balanced_rows_are_different_rows_as_many_of_each_label(labels, seed):
    labels = np.array(labels)
    permute = np.random.default_rng(seed).permutation
    rows = labelled.balanced_rows(labels, permute)
    assert len(set(rows.tolist())) == len(rows)
    least = np.unique_counts(labels).counts.min()
    assert (np.unique_counts(labels[rows]).counts == least).all()
    np.testing.assert_array_equal(np.unique(labels[rows]), np.unique(labels))


@given(labels=st.lists(st.integers(0, 3), min_size=1))
def test_weighted_rows_count_one_on_average_and_classes_alike(labels):
    weights = labelled.class_weights(np.array(labels), 4)[labels]
    present = len(set(labels))
    sums = np.bincount(labels, weights)
    np.testing.assert_allclose(sums[sums > 0], len(labels) / present, rtol=1e-6)
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)


TEXTS = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=6)


@given(texts=TEXTS, max_length=st.none() | st.integers(1, 12))
def test_an_encoded_row_is_the_row_alone_and_the_rest_is_padding(texts, max_length):
    encoded = labelled.encode_texts(texts, ABC, max_length=max_length)
    width = max_length or max(map(len, texts))
    assert encoded.ids.shape == (len(texts), width)
    assert encoded.ids.dtype == encoded.lengths.dtype == np.int32
    assert encoded.truncated.tolist() == [len(text) > width for text in texts]
    for row, length, text in zip(encoded.ids, encoded.lengths, texts, strict=True):
        assert length == min(len(text), width)
        assert ABC.decode(row[:length]) == text[:width]
        assert (row[length:] == 3).all()


def test_a_special_token_in_a_text_is_plain_text():
    encoded = labelled.encode_texts(["<|endoftext|>"], tokenizers.load("gpt2"))
    assert encoded.lengths > 1
    assert 50256 not in encoded.ids


# Labels.


def rows_of(*labels):
    return [{"text": "x", "label": value} for value in labels]


def test_labels_have_the_numbers_of_their_names():
    data = labelled.label(rows_of("b", "a", "b"))
    assert data.names == ("a", "b")
    assert data.labels.tolist() == [1, 0, 1]
    data = labelled.label(rows_of("b", "a", "b"), names=["b", "a", "c"])
    assert data.names == ("b", "a", "c")
    assert data.labels.tolist() == [0, 1, 0]
    assert labelled.label(rows_of(1, 0)).names == ("0", "1")
    assert labelled.label(rows_of(True, False)).names == ("False", "True")


def test_rows_are_taken_in_their_order():
    data = labelled.take(labelled.label(rows_of("b", "a", "c")), np.array([2, 0]))
    assert data == Labelled(["x", "x"], data.labels, ("a", "b", "c"))
    assert data.labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (rows_of("a", "a"), {}, "at least two labels, .* only 'a'"),
        ([], {}, "at least two labels, .* no row"),
        (rows_of("a", ""), {}, "must hold a label, got '' in record 2"),
        (rows_of("a", None), {}, "must hold a label, got None in record 2"),
        ([{"text": " ", "label": "a"}], {}, "must hold a text, got ' ' in record 1"),
        ([{"text": 3, "label": "a"}], {}, "must hold a text, got 3 in record 1"),
        (rows_of("a", "b"), {"label_column": "kind"}, "record 1 has no column 'kind'"),
        (rows_of("a", "b"), {"text_column": "body"}, "it has 'text', 'label'"),
        (rows_of("a", "b"), {"names": ["a", "c"]}, "one of 'a', 'c', got 'b' in rec"),
    ],
)
def test_records_without_text_or_different_labels_are_errors(rows, options, words):
    with pytest.raises(DataError, match=words):
        labelled.label(rows, **options)


def test_an_error_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "label": "a"}\n')
    with pytest.raises(DataError, match=r"only 'a' \(in .*a\.jsonl\)"):
        labelled.read_labelled(path)


def test_a_text_without_tokens_and_a_width_of_none_are_errors():
    with pytest.raises(DataError, match="at least one token, got ''"):
        labelled.encode_texts(["a", ""], ABC)
    with pytest.raises(DataError, match="max_length must be >= 1, got 0"):
        labelled.encode_texts(["a"], ABC, max_length=0)
