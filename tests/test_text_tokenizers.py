"""Characters and words as tokenizers, and what holds for every kind."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import bpe, tokenizers, words
from jaxllm.data.text_tokenizers import CharTokenizer, WordTokenizer
from jaxllm.errors import TokenizerError

SPECIAL = {words.END_OF_TEXT: 3, words.UNKNOWN: 4}
CHARS = CharTokenizer(characters=" ab", special_tokens={"<|endoftext|>": 3})
WORDS = WordTokenizer(vocabulary=(",", "a", "b"), special_tokens=SPECIAL)
BPE = tokenizers.BPETokenizer(
    ranks=bpe.learn_ranks({" ab": 2}, 258), special_tokens={"<|endoftext|>": 258}
)
every_kind = pytest.mark.parametrize(
    "tokenizer", [CHARS, WORDS, BPE], ids=lambda tokenizer: tokenizer.kind
)


# What holds for every kind.


@every_kind
def test_ids_are_int32(tokenizer):
    for text in ("", "a", "a b"):
        for allow_special in (False, True):
            ids = tokenizer.encode(text, allow_special=allow_special)
            assert ids.dtype == np.int32
            assert ids.ndim == 1
            assert tokenizer.decode(ids) == text


@every_kind
def test_a_special_token_is_refused_unless_it_is_allowed(tokenizer):
    with pytest.raises(TokenizerError, match=r"got '<\|endoftext\|>' at character 2"):
        tokenizer.encode("a <|endoftext|>")
    with pytest.raises(ValueError, match="allow_special=True"):
        tokenizer.encode_batch(["a", "<|endoftext|>"])
    ids = tokenizer.encode("a<|endoftext|>b<|endoftext|>", allow_special=True)
    assert (ids == tokenizer.end_of_text).tolist() == [False, True, False, True]
    assert tokenizer.token_bytes(tokenizer.end_of_text) == b"<|endoftext|>"


@every_kind
def test_a_special_token_as_plain_text_never_has_its_id(tokenizer):
    if tokenizer.kind == "char":
        with pytest.raises(words.UnknownTokenError, match=r"unknown '<', '\|', 'e'"):
            tokenizer.encode_ordinary("<|endoftext|>")
    else:
        ids = tokenizer.encode_ordinary("<|endoftext|>")
        assert ids.size
        assert tokenizer.end_of_text not in ids


@every_kind
def test_a_batch_is_its_texts_one_by_one(tokenizer):
    texts = ["a b", "", "b<|endoftext|>a"]
    batch = tokenizer.encode_batch(texts, allow_special=True)
    assert [ids.tolist() for ids in batch] == [
        tokenizer.encode(text, allow_special=True).tolist() for text in texts
    ]
    assert tokenizer.encode_batch([]) == []


@every_kind
def test_ids_may_come_as_any_row_of_integers(tokenizer):
    ids = tokenizer.encode("a b")
    for row in (ids, ids.tolist(), iter(ids), ids.astype(np.uint16)):
        assert tokenizer.decode(row) == "a b"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode_bytes(np.array([], np.int32)) == b""


@every_kind
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, -1], "ids must be in 0..{last}, got -1"),
        ([999], "ids must be in 0..{last}, got 999"),
        ([0.5], "ids must be one row of integers, got shape (1,) of float64"),
        ([[0]], "ids must be one row of integers, got shape (1, 1) of int64"),
    ],
)
def test_ids_that_are_none_are_refused(tokenizer, ids, message):
    with pytest.raises(TokenizerError) as caught:
        tokenizer.decode(ids)
    assert str(caught.value) == message.replace("{last}", str(tokenizer.vocab_size - 1))


@every_kind
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer):
    ids = tokenizer.encode("ab" if tokenizer.kind != "word" else "a")
    pieces = [tokenizer.token_bytes(i) for i in ids]
    assert b"".join(pieces) == tokenizer.decode_bytes(ids)
    assert b"".join(pieces).decode() == tokenizer.decode(ids)


@every_kind
def test_a_tokenizer_crosses_processes_whole(tokenizer):
    tokenizer.encode("a")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.hash == tokenizer.hash
    assert copy.encode("b a").tolist() == tokenizer.encode("b a").tolist()


@every_kind
def test_special_tokens_are_appended(tokenizer):
    names = ["<|bos|>", "<|pad|>", "<|pad|>2"]
    longer = tokenizers.add_special_tokens(tokenizer, names)
    assert longer.vocab_size == tokenizer.vocab_size + 3
    assert [longer.special_tokens[name] - tokenizer.vocab_size for name in names] == (
        [0, 1, 2]
    )
    assert longer.hash != tokenizer.hash
    assert longer.encode("a b").tolist() == tokenizer.encode("a b").tolist()
    assert tokenizer.special_tokens.keys() == longer.special_tokens.keys() - {*names}


@every_kind
def test_a_special_token_that_begins_with_another_is_found_whole(tokenizer):
    longer = tokenizers.add_special_tokens(tokenizer, ["<|x|>", "<|x|>2"])
    ids = longer.encode("<|x|>2<|x|>", allow_special=True)
    assert ids.tolist() == [tokenizer.vocab_size + 1, tokenizer.vocab_size]


@every_kind
@pytest.mark.parametrize("names", [["<|endoftext|>"], ["<|x|>", "<|x|>"], [""]])
def test_special_tokens_must_be_new(tokenizer, names):
    with pytest.raises(TokenizerError, match="special token must be new"):
        tokenizers.add_special_tokens(tokenizer, names)


def test_a_word_is_no_new_special_token():
    with pytest.raises(TokenizerError, match="must be new, got 'a'"):
        tokenizers.add_special_tokens(WORDS, ["a"])


def test_names_are_a_list():
    with pytest.raises(TokenizerError, match=r"list of strings, got '<\|x\|>'"):
        tokenizers.add_special_tokens(CHARS, "<|x|>")


@every_kind
def test_a_tokenizer_shows_its_size_and_special_tokens(tokenizer):
    assert f"vocab_size={tokenizer.vocab_size}" in repr(tokenizer)
    assert "<|endoftext|>" in repr(tokenizer)
    assert len(repr(tokenizer)) < 100


# Characters.


@given(st.text())
def test_characters_give_the_text_back(text):
    tokenizer = CharTokenizer(characters="".join(sorted(set(text))))
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


def test_characters_are_numbered_by_code_point():
    tokenizer = CharTokenizer(characters="\nAaé€😀")
    assert tokenizer.encode("😀€éaA\n").tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("characters", ["bd", ""])
def test_unknown_characters_are_named(characters):
    tokenizer = CharTokenizer(characters=characters)
    with pytest.raises(words.UnknownTokenError) as caught:
        tokenizer.encode("éeace\ud800e")
    assert caught.value.tokens == ("é", "e", "a", "c", "\ud800")


@pytest.mark.parametrize("characters", ["ba", "aa"])
def test_characters_must_be_sorted_and_different(characters):
    with pytest.raises(TokenizerError, match="characters must be sorted"):
        CharTokenizer(characters=characters)


def test_special_tokens_must_follow_the_characters():
    with pytest.raises(TokenizerError, match="must have the ids from 1 on"):
        CharTokenizer(characters="a", special_tokens={"<|x|>": 2})


# Words.


def test_words_are_those_of_the_notes():
    ids = WORDS.encode("a, Hello b<|endoftext|>a", allow_special=True)
    assert ids.tolist() == [1, 0, 4, 2, 3, 1]
    assert WORDS.decode(ids) == "a, <|unk|> b <|endoftext|> a"


def test_words_without_unk_are_strict():
    strict = WordTokenizer(vocabulary=("a",))
    with pytest.raises(KeyError, match="unknown 'b', 'c'"):
        strict.encode("a b c b")


@given(st.text())
def test_lossless_words_give_the_text_back(text):
    vocabulary = tuple(words.build_vocabulary(words.split(text, keep_space=True)))
    tokenizer = WordTokenizer(vocabulary=vocabulary, keep_space=True)
    assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


def test_a_vocabulary_holds_each_word_once():
    with pytest.raises(TokenizerError, match="be there once"):
        WordTokenizer(vocabulary=("a", "a"))


def test_the_end_of_a_text_may_have_another_name(tmp_path):
    ours = CharTokenizer(characters="ab", special_tokens={"</s>": 2}, end_token="</s>")
    assert ours.end_of_text == 2
    grown = tokenizers.add_special_tokens(ours, ["<|pad|>"])
    tokenizers.save(grown, tmp_path / "tokenizer.json")
    assert tokenizers.load(tmp_path) == grown
    assert grown.end_of_text == 2


def test_the_usual_end_of_a_text_is_not_written_down():
    """What goes without saying is in no file, and changes no hash."""
    tokenizer = CharTokenizer(characters="ab")
    assert tokenizer.end_of_text is None
    assert "end_token" not in tokenizer.to_json()
