"""Streamed text: whole characters, and never a part of a stop string."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import random_params

from jaxllm.config import GPTConfig
from jaxllm.data import bpe, tokenizers
from jaxllm.data.tokenizers import BPETokenizer, WordTokenizer
from jaxllm.errors import ConfigError, DataError
from jaxllm.inference import text
from jaxllm.inference.generate import Piece, join_pieces
from jaxllm.inference.sampling import Logprobs
from jaxllm.inference.settings import Sampling

# Each byte is a token, and so are some longer strings, which end inside characters.
RANKS = bpe.learn_ranks({"漢字漢字": 3, "naïve": 2, "🙂🙂": 3}, 266)
BYTES = BPETokenizer(ranks=RANKS)
many = settings(max_examples=200, deadline=None)
tokens = st.lists(st.integers(0, len(RANKS) - 1), max_size=30)
# Few letters, so that stop strings begin often and end now and then.
stops = st.lists(st.text("aé漢🙂", min_size=1, max_size=4), max_size=3)
letters = st.text("aé漢🙂b", max_size=30)


def shown(ids, stops=(), tokenizer=BYTES):
    return list(text.text_of(ids, tokenizer, stops=stops))


def up_to_stop(whole, stops):
    """The definition: read character by character until a stop string is complete."""
    for n in range(len(whole) + 1):
        ended = [stop for stop in stops if whole[:n].endswith(stop)]
        if ended:
            return whole[: n - max(map(len, ended))]
    return whole


@many
@given(ids=tokens)
def test_pieces_join_to_the_decoded_text_whatever_the_bytes(ids):
    assert "".join(shown(ids)) == BYTES.decode(ids)


@many
@given(whole=letters)
def test_every_piece_is_of_whole_characters(whole):
    pieces = shown(BYTES.encode(whole))
    assert "".join(pieces) == whole
    assert "\ufffd" not in "".join(pieces)


@many
@given(whole=letters, stops=stops, by_bytes=st.booleans())
def test_text_ends_before_the_first_stop_string(whole, stops, by_bytes):
    ids = BYTES.encode(whole)
    if by_bytes:  # a token for each byte: stop strings go across the borders.
        ids = [RANKS[bytes([byte])] for byte in whole.encode()]
    pieces = shown(ids, stops)
    assert "".join(pieces) == up_to_stop(whole, stops)


@many
@given(whole=letters, stops=stops, cut=st.integers(0, 30))
def test_what_is_shown_is_never_taken_back(whole, stops, cut):
    """What can be shown of a text is the beginning of what any longer one shows."""
    state = text.TextState()
    early = ""
    for token in BYTES.encode(whole[:cut]):
        state, new = text.read_token(state, int(token), BYTES, stops)
        early += new
    assert up_to_stop(whole, stops).startswith(early)


def test_bytes_that_are_no_text_become_replacement_characters():
    ids = [RANKS[bytes([byte])] for byte in b"a\xffb\xe6"]
    assert "".join(shown(ids)) == "a\ufffdb\ufffd"


def test_words_keep_the_space_between_them():
    words = WordTokenizer(vocabulary=(",", "cat", "the"))
    ids = words.encode("the cat, the cat")
    assert shown(ids, tokenizer=words) == ["the", " cat", ",", " the", " cat"]
    behind = text.text_of(ids[1:], words, after=int(ids[0]))
    assert "".join(behind) == " cat, the cat"


def piece(ids, finish=None):
    ids = np.array(ids, np.int32)
    logprobs = Logprobs(-ids.astype(np.float32), ids[:, None] * 1.0, ids[:, None])
    return Piece(ids, logprobs, finish)


def test_a_row_that_a_stop_string_ends_goes_as_far_as_the_token_that_completed_it():
    a, b, c = BYTES.encode("abc")
    first = [piece([a]), piece([c])]
    second = [piece([b, c, a]), piece([a, b])]
    third = [piece([c], "length"), piece([c, c], "length")]
    streamed = text.texts_of(
        [first, second, third], BYTES, stops=["bc"], after=[None, None]
    )
    rows = list(zip(*streamed, strict=True))
    assert ["".join(text for text, _ in row) for row in rows] == ["a", "ca"]
    wholes = [join_pieces([piece for _, piece in row]) for row in rows]
    assert [whole.tokens.tolist() for whole in wholes] == [[a, b, c], [c, a, b, c]]
    assert [whole.finish for whole in wholes] == ["stop", "stop"]
    for whole in wholes:
        assert whole.logprobs.top_tokens[:, 0].tolist() == whole.tokens.tolist()


def test_nothing_more_is_asked_for_when_all_rows_have_ended():
    a, b = BYTES.encode("ab")

    def endless():
        yield [piece([a])]
        yield [piece([b])]
        pytest.fail("the rows have ended")

    streamed = list(text.texts_of(endless(), BYTES, stops=["b"], after=[None]))
    assert [row[0][0] for row in streamed] == ["a", ""]


def test_an_unfinished_character_is_shown_at_the_end():
    gpt2 = tokenizers.load("gpt2")
    ids = gpt2.encode("🙂")[:-1]
    streamed = text.texts_of([[Piece(ids, None, "length")]], gpt2, after=[None])
    assert [row[0][0] for row in streamed] == ["\ufffd"]


@many
@given(whole=letters, stops=stops, n=st.integers(0, 30))
def test_stop_strings_count_in_the_text_behind_the_first_tokens_only(whole, stops, n):
    ids = [RANKS[bytes([byte])] for byte in whole.encode()]
    said = "".join(text.text_of(ids, BYTES, stops=stops, min_new_tokens=n))
    # A character that the border cuts is of the text behind it.
    head = whole.encode()[:n].decode(errors="ignore")
    assert said == head + up_to_stop(whole[len(head) :], stops)


CHARACTERS = tokenizers.CharTokenizer(characters="abc")
CFG = GPTConfig(vocab_size=5, context_length=8, emb_dim=8, n_heads=2, n_layers=1)


def streamed(prompt, tokenizer=CHARACTERS, **how):
    how = {"max_new_tokens": 8, "temperature": 0, "overflow": "slide"} | how
    return "".join(text.stream_text(random_params(CFG), prompt, CFG, tokenizer, **how))


def test_text_in_gives_the_text_that_follows():
    said = streamed("ca")
    assert len(said) == 8  # ids beyond the three characters are never drawn
    assert streamed("ca", max_new_tokens=3) == said[:3]
    assert streamed("ca", bias={1: 99.0}) == "b" * 8
    assert streamed("ca", bias={1: 99.0}, stops=["bbb"], min_new_tokens=2) == "bb"
    with pytest.raises(ConfigError, match="its fields by name, got sampling and temp"):
        streamed("ca", sampling=Sampling())


def test_an_empty_prompt_is_the_beginning_of_a_text_where_there_is_a_token_for_it():
    with pytest.raises(DataError, match="no token that begins a text"):
        streamed("")
    ending = tokenizers.CharTokenizer(
        characters="abc", special_tokens={"<|endoftext|>": 3}
    )
    assert streamed("", ending, bias={3: 99.0}) == ""
    assert streamed("", ending, bias={2: 99.0}) == "c" * 8
