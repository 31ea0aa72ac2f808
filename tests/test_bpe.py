"""Byte-pair encoding: equal to a naive trainer and to Hugging Face's, and its laws."""

import collections
import concurrent.futures
import itertools
import json
import os

import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.config import TokenizerConfig
from jaxllm.data import bpe, gpt2_merges, pool, text_files, tokenizers
from jaxllm.errors import DataError, TokenizerError


def naive_ranks(counts, vocab_size, min_count=2):
    """Learn as in the paper: count every pair anew before each merge."""
    tokens = [bytes([b]) for b in bpe.BYTES]
    rows = [[tokens.index(bytes([b])) for b in piece.encode()] for piece in counts]
    while len(tokens) < vocab_size:
        pairs = collections.Counter()
        for row, count in zip(rows, counts.values(), strict=True):
            for pair in itertools.pairwise(row):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < min_count:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        rows = [replace(row, (first, second), len(tokens)) for row in rows]
        tokens.append(tokens[first] + tokens[second])
    assert len(set(tokens)) == len(tokens)
    return {token: i for i, token in enumerate(tokens)}


def replace(row, pair, new):
    result, i = [], 0
    while i < len(row):
        found = tuple(row[i : i + 2]) == pair
        result.append(new if found else row[i])
        i += 2 if found else 1
    return result


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=12), st.integers(1, 5)),
    st.integers(256, 276),
    st.integers(1, 3),
)
def test_the_ranks_are_those_of_the_naive_trainer(counts, vocab_size, min_count):
    learned = bpe.learn_ranks(counts, vocab_size, min_count=min_count)
    assert learned == naive_ranks(counts, vocab_size, min_count)


@given(st.text(max_size=200))
def test_the_ranks_are_those_of_the_naive_trainer_on_any_text(text):
    counts = bpe.count_pieces([text])
    assert bpe.learn_ranks(counts, 280) == naive_ranks(counts, 280)


def test_the_ranks_are_those_of_the_naive_trainer_on_real_text(real_file):
    text = real_file("the-verdict.txt").read_text("utf-8")[:3000]
    counts = bpe.count_pieces([text])
    assert bpe.learn_ranks(counts, 400) == naive_ranks(counts, 400)


@pytest.mark.parametrize("name", ["the-verdict.txt", "instruction-data.json"])
def test_the_ranks_are_those_of_hugging_face(real_file, name):
    tokenizers = pytest.importorskip("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    text = real_file(name).read_text("utf-8")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = byte_level(add_prefix_space=False)
    theirs.train_from_iterator(
        [text],
        tokenizers.trainers.BpeTrainer(
            vocab_size=1500,
            min_frequency=2,
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
    )
    merges = json.loads(theirs.to_str())["model"]["merges"]
    lines = ["#version: 0.2", *map(" ".join, merges)]
    # Their ties, too, go to the smallest pair of ids, so no merge has to be left out.
    ours = bpe.learn_ranks(bpe.count_pieces([text]), 1500)
    assert list(ours) == list(gpt2_merges.read_merges("\n".join(lines)))
    encoding = tiktoken.Encoding(
        "ours", pat_str=bpe.GPT2_PATTERN, mergeable_ranks=ours, special_tokens={}
    )
    assert encoding.encode(text) == theirs.encode(text).ids


# Counting.


def test_pieces_are_those_of_gpt2():
    text = "I've 12 \u00e9t\u00e9s,  don't\n\n  x "
    pieces = "I|'ve| 12| \u00e9t\u00e9s|,| | don|'t|\n\n | x| ".split("|")
    assert regex.findall(bpe.GPT2_PATTERN, text) == pieces


# As published with GPT-2, in the file encoder.py.
PUBLISHED = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


@given(st.text() | st.text("a1'stlredvm ,\n\t\u00a0\u00e9"))
def test_the_pattern_cuts_as_the_published_one(text):
    assert regex.findall(bpe.GPT2_PATTERN, text) == regex.findall(PUBLISHED, text)


def test_processes_count_what_one_process_counts(monkeypatch):
    monkeypatch.setattr(bpe, "_BATCH", 10)
    texts = [f"a rose is a rose {i}" for i in range(20)]
    assert bpe.count_pieces(texts, processes=2) == bpe.count_pieces(texts)


class Deadly(str):
    """A text that ends the process that is handed it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_dies_is_an_error_in_one_line():
    with pytest.raises(DataError, match="a process that reads text died: use fewer"):
        bpe.count_pieces([Deadly("a rose")], processes=2)


def test_the_order_of_documents_does_not_matter():
    texts = ["abc abd", "bcd bce", "abe"]
    ranks = [
        list(bpe.learn_ranks(bpe.count_pieces(order), 300))
        for order in (texts, texts[::-1])
    ]
    assert ranks[0] == ranks[1]


def test_the_pieces_of_a_long_text_teach_what_the_whole_does(real_file):
    whole = real_file("tinyshakespeare.txt").read_text()
    pieces, rest = [], whole
    while cut := text_files.last_safe_cut(rest[:1000]):
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    assert len(pieces) > 1000
    assert bpe.count_pieces(pieces) == bpe.count_pieces([whole])
    for kind in ("char", "word"):
        config = TokenizerConfig(kind=kind)
        learned = tokenizers.learn(pieces, config)
        assert learned.hash == tokenizers.learn([whole], config).hash


def test_documents_are_read_a_batch_at_a_time(monkeypatch):
    monkeypatch.setattr(bpe, "_BATCH", 1)
    read = []

    def documents():
        for i in range(100):
            read.append(i)
            yield "x"

    batches = bpe._batches(documents())
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        results = pool.map_ahead(executor, list, batches, ahead=4)
        assert next(results) == (["x"], ["x"])
        assert len(read) == 5


def test_a_pattern_that_misses_a_character_is_refused():
    with pytest.raises(TokenizerError, match="every character, got none for '12'"):
        bpe.count_pieces(["ab12"], pattern=r"\p{L}+")


def test_no_text_teaches_the_bytes_alone():
    assert list(bpe.learn_ranks(bpe.count_pieces([]), 300)) == (
        [bytes([b]) for b in bpe.BYTES]
    )


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(TokenizerError, match="vocab_size must be >= 256"):
        bpe.learn_ranks({}, 255)


def test_a_min_count_of_nothing_is_refused():
    with pytest.raises(TokenizerError, match="min_count must be >= 1, got 0"):
        bpe.learn_ranks({"ab": 1}, 300, min_count=0)


# The merge itself, by hand.


def test_of_three_equal_tokens_the_first_two_become_one():
    # "aaa" three times: aa, then (aa, a).
    assert list(bpe.learn_ranks({"aaa": 3}, 300))[256:] == [b"aa", b"aaa"]


def test_equal_counts_go_to_the_smallest_pair_of_ids():
    assert list(bpe.learn_ranks({"zb": 2, "ay": 2, "az": 2}, 259))[256:] == (
        [b"ay", b"az", b"zb"]
    )


def test_pairs_rarer_than_min_count_are_not_merged():
    assert len(bpe.learn_ranks({"ab": 2}, 300, min_count=3)) == 256
    assert len(bpe.learn_ranks({"ab": 2}, 300, min_count=2)) == 257


def test_the_bytes_come_in_gpt2s_order():
    assert sorted(bpe.BYTES) == list(range(256))
    ranks = bpe.learn_ranks({}, 256)
    assert (ranks[b"!"], ranks[b"A"], ranks[b"\n"], ranks[b" "]) == (0, 32, 198, 220)


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(TokenizerError, match=r"got U\+D800 at character 2"):
        bpe.encode_utf8("ab\ud800")
    with pytest.raises(TokenizerError, match=r"U\+DFFF"):
        bpe.learn_ranks(bpe.count_pieces(["\udfff"]), 300)
