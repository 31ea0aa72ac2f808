"""Words: the figures of the notes' two tokenizers, and the laws of both modes."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import words
from jaxllm.errors import TokenizerError

SPECIALS = [words.END_OF_TEXT, words.UNKNOWN]


@pytest.fixture(scope="module")
def verdict(real_file):
    return words.split(real_file("the-verdict.txt").read_text("utf-8"))


def numbers(line):
    return [int(number) for number in line.split()]


def spell(vocabulary, ids):
    tokens = list(vocabulary)
    return [tokens[i] for i in ids]


# The figures of the notes.


def test_a_pattern_of_white_space_leaves_marks_on_their_words():
    pieces = words.split(
        "Hello, world. This, is a test.", keep_space=True, pattern=r"(\s)"
    )
    assert pieces == (
        ["Hello,", " ", "world.", " ", "This,", " ", "is", " ", "a", " ", "test."]
    )


def test_two_marks_and_white_space_give_nineteen_pieces_of_which_ten_are_tokens():
    text, pattern = "Hello, world. This, is a test.", r"([,.]|\s)"
    raw = re.split(pattern, text)
    assert len(raw) == 19
    assert raw[-3:] == ["test", ".", ""]
    assert words.split(text, keep_space=True, pattern=pattern) == [p for p in raw if p]
    assert words.split(text, pattern=pattern) == (
        ["Hello", ",", "world", ".", "This", ",", "is", "a", "test", "."]
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "Hello, world. This, is a text",
            ["Hello", ",", "world", ".", "This", ",", "is", "a", "text"],
        ),
        (
            "Hello, world. This, is-- a text?",
            ["Hello", ",", "world", ".", "This", ",", "is", "--", "a", "text", "?"],
        ),
        (
            "Hello, world. Is this-- a test?",
            ["Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?"],
        ),
    ],
)
def test_marks_and_dashes_are_tokens(text, tokens):
    assert words.split(text) == tokens


def test_the_verdict_has_4690_tokens_of_1130_kinds(verdict):
    assert len(verdict) == 4690
    assert len(words.build_vocabulary(verdict)) == 1130
    assert verdict[:30] == (
        "I HAD always thought Jack Gisburn rather a cheap genius -- though a good "
        "fellow enough -- so it was no great surprise to me to hear that , in"
    ).split(" ")


def test_the_verdicts_vocabulary_is_numbered_in_sorted_order(verdict):
    vocabulary = words.build_vocabulary(verdict)
    assert list(vocabulary)[:11] == ["!", '"', "'", "(", ")", *", -- . : ; ?".split()]
    assert {
        token: vocabulary[token]
        for token in "A Ah Burlington Gisburn HAD Her Hermia".split()
    } == {
        "A": 11,
        "Ah": 12,
        "Burlington": 21,
        "Gisburn": 38,
        "HAD": 44,
        "Her": 49,
        "Hermia": 50,
    }


def test_special_tokens_come_last(verdict):
    vocabulary = words.build_vocabulary(verdict, SPECIALS)
    assert len(vocabulary) == 1132
    assert list(vocabulary.items())[-5:] == [
        ("younger", 1127),
        ("your", 1128),
        ("yourself", 1129),
        ("<|endoftext|>", 1130),
        ("<|unk|>", 1131),
    ]


def test_the_strict_tokenizer_of_the_notes(verdict):
    vocabulary = words.build_vocabulary(verdict)
    text = (
        '"It\'s the last he painted, you know," Mrs. Gisburn said with pardonable '
        "pride."
    )
    ids = words.encode(words.split(text), vocabulary)
    assert ids == numbers(
        "1 56 2 850 988 602 533 746 5 1126 596 5 1 67 7 38 851 1108 754 793 7"
    )
    assert words.decode(spell(vocabulary, ids)) == (
        '" It\' s the last he painted, you know," Mrs. Gisburn said with pardonable '
        "pride."
    )


def test_the_strict_tokenizer_fails_on_hello(verdict):
    vocabulary = words.build_vocabulary(verdict)
    with pytest.raises(KeyError, match=r"unknown 'Hello'$"):
        words.encode(words.split("Hello, do you like tea?"), vocabulary)


@pytest.mark.parametrize("place", ["palace", "places"])
def test_the_tokenizer_with_unk_of_the_notes(verdict, place):
    vocabulary = words.build_vocabulary(verdict, SPECIALS)
    text = (
        f"Hello, do you like tea? <|endoftext|> In the sunlit terraces of the {place}."
    )
    ids = words.encode(words.split(text, special_tokens=SPECIALS), vocabulary)
    assert ids == numbers(
        "1131 5 355 1126 628 975 10 1130 55 988 956 984 722 988 1131 7"
    )
    assert words.decode(spell(vocabulary, ids)) == (
        "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>."
    )


def test_a_trailing_blank_is_lost_as_in_the_notes():
    vocabulary = words.build_vocabulary(["This", "is"])
    ids = words.encode(words.split("This is "), vocabulary)
    assert words.decode(spell(vocabulary, ids)) == "This is"


# What the notes get wrong, and what is right.


def test_colon_and_semicolon_are_cut_from_their_words():
    assert words.split("Carlo; There:") == ["Carlo", ";", "There", ":"]


@pytest.mark.parametrize("mark", list(",.:;?_!\"()'"))
def test_no_mark_keeps_a_blank_before_it(mark):
    assert words.decode(["so", mark, "it"]) == f"so{mark} it"


def test_dashes_keep_their_blanks():
    assert words.decode(["so", "--", "it"]) == "so -- it"


# Laws.


def test_every_unknown_word_is_named_once_in_the_order_of_the_text():
    with pytest.raises(words.UnknownTokenError) as caught:
        words.encode(["b", "a", "c", "b"], {"a": 0})
    assert caught.value.tokens == ("b", "c")
    assert str(caught.value).endswith("unknown 'b', 'c'")
    assert isinstance(caught.value, TokenizerError)


def test_the_error_comes_back_whole_from_another_process():
    error = pickle.loads(pickle.dumps(words.UnknownTokenError(["b", "c"])))
    assert error.tokens == ("b", "c")


def test_special_tokens_with_marks_and_blanks_stay_whole():
    specials = ["<|a_b|>", "<| the end |>", "<|a_b|>c"]
    text = "x<|a_b|>y <| the end |>.<|a_b|>c"
    tokens = ["x", "<|a_b|>", "y", "<| the end |>", ".", "<|a_b|>c"]
    assert words.split(text, special_tokens=specials) == tokens


def test_a_special_token_in_the_corpus_is_numbered_once():
    tokens = ["b", words.END_OF_TEXT, "a"]
    assert words.build_vocabulary(tokens, [words.END_OF_TEXT]) == {
        "a": 0,
        "b": 1,
        words.END_OF_TEXT: 2,
    }


def test_empty_text_has_no_tokens():
    assert words.split("") == []
    assert words.split(" \n") == []
    assert words.encode([], {}) == []
    assert words.decode([]) == ""


@given(st.text())
def test_lossless_words_give_the_text_back(text):
    tokens = words.split(text, special_tokens=SPECIALS, keep_space=True)
    vocabulary = words.build_vocabulary(tokens, SPECIALS)
    ids = words.encode(tokens, vocabulary)
    assert words.decode(spell(vocabulary, ids), keep_space=True) == text


@given(st.text(alphabet="ab ,.:;?_!\"()'-\n"))
def test_splitting_what_was_decoded_gives_the_same_tokens(text):
    tokens = words.split(text)
    assert words.split(words.decode(tokens)) == tokens
