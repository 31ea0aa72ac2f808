"""Tokenizer files of GPT-2's kind in, a Tokenizer out; and back.

OpenAI wrote encoder.json and vocab.bpe. Hugging Face renamed them vocab.json and
merges.txt, and has tokenizer.json, which says everything in one file. A character
tokenizer has the last of these alone.
"""

import dataclasses
import itertools
import json
import pathlib
import re
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.data import bpe, disk, gpt2_merges
from jaxllm.data.tokenizers import BPETokenizer, CharTokenizer, Tokenizer
from jaxllm.errors import DataError, TokenizerError
from jaxllm.pretrained import merges

_PAIRS_OF_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
NAMES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", *itertools.chain.from_iterable(_PAIRS_OF_FILES)),
)
"""The files that a folder may have for its tokenizer."""

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def read(folder: pathlib.Path) -> Tokenizer | None:
    """Read the tokenizer of a folder, in whichever form it is there; None if in none.

    Raises:
        TokenizerError: it is damaged, or tokenizes in a way that ours cannot.
        DataError: what lies beside its vocabulary is not JSON.
    """
    tokenizer = _read_ids(folder)
    if tokenizer is None or (end := _end_token(folder, tokenizer)) is None:
        return tokenizer
    if end not in tokenizer.special_tokens:
        raise TokenizerError(
            f"{folder}: its eos_token must be one of the added tokens, "
            f"{', '.join(tokenizer.special_tokens) or 'none'}, got {end!r}"
        )
    return dataclasses.replace(tokenizer, end_token=end)


def _end_token(folder: pathlib.Path, tokenizer: Tokenizer) -> str | None:
    """Find the name of the token that ends a text; None where the folder has none."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _settings(folder / file).get("eos_token")
        if token is not None:
            return token.get("content") if isinstance(token, dict) else token
    ends = _settings(folder / "config.json").get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    return next((names[end] for end in ends if end in names), None)


def _settings(path: pathlib.Path) -> dict[str, Any]:
    return disk.read_json(path) if path.exists() else {}


def _read_ids(folder: pathlib.Path) -> Tokenizer | None:
    path = folder / "tokenizer_config.json"
    try:
        known = _settings(path).get("added_tokens_decoder", {})
        added = _settings(folder / "added_tokens.json")
        added |= {token["content"]: int(id) for id, token in known.items()}
        path = folder / "tokenizer.json"
        if path.exists():
            return _from_json(json.loads(path.read_text("utf-8")), added)
        for vocabulary, pairs in _PAIRS_OF_FILES:
            path = folder / vocabulary
            if path.exists() and (folder / pairs).exists():
                lines = (folder / pairs).read_text("utf-8").splitlines()
                # The first line of the pairs is a heading.
                return _from_pair(
                    json.loads(path.read_text("utf-8")),
                    [m for m in lines[1:] if m],
                    added,
                )
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{path} is no tokenizer's: {error!r}") from error
    return None


def require_fit(tokenizer: Tokenizer, cfg: GPTConfig) -> None:
    """Raise TokenizerError if an id of the tokenizer is beyond the vocabulary."""
    if tokenizer.vocab_size > cfg.vocab_size:
        raise TokenizerError(
            f"the tokenizer must have at most {cfg.vocab_size} tokens, the model's "
            f"vocab_size, got {tokenizer.vocab_size}"
        )


def _from_json(data: dict[str, Any], added: dict[str, int]) -> Tokenizer:
    model = data["model"]
    if model["type"] != "BPE" or data.get("normalizer") is not None:
        raise TokenizerError(
            f"it must be a BPE without normalizer, got {model['type']} "
            f"and {data.get('normalizer')}"
        )
    listed = {token["content"]: token["id"] for token in data.get("added_tokens", [])}
    added = listed | added
    if data.get("pre_tokenizer") is None and not model["merges"]:
        characters = "".join(sorted(model["vocab"].keys() - added.keys()))
        tokenizer = CharTokenizer(characters=characters, special_tokens=added)
        ids = dict(zip(characters, range(len(characters)), strict=True)) | added
        if ids != model["vocab"] | added:
            raise TokenizerError("the ids of characters must be in their order")
        return tokenizer
    return _from_vocabulary(
        model["vocab"],
        model["merges"],
        pattern=_pattern(data["pre_tokenizer"]),
        added=added,
        whole_pieces=model.get("ignore_merges", False),
    )


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """Find the pattern that cuts text into pieces."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    last = steps[-1]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        if len(steps) == 1 and last.get("use_regex", True):
            return bpe.GPT2_PATTERN
        cuts, first = len(steps) == 2 and not last.get("use_regex", True), steps[0]
        if cuts and first["type"] == "Split" and first["behavior"] == "Isolated":
            return first["pattern"]["Regex"]
    raise TokenizerError(
        "its pre_tokenizer must be ByteLevel without add_prefix_space, or cut by one "
        f"pattern in front of it, got {pre_tokenizer}"
    )


def _from_pair(
    vocabulary: dict[str, int], pairs: list[str], added: dict[str, int]
) -> BPETokenizer:
    """Add what is neither a byte nor made by a merge, as <|endoftext|> in GPT-2's."""
    ordinary = {merges.spell(bytes([byte])) for byte in bpe.BYTES}
    ordinary |= {pair.replace(" ", "") for pair in pairs}
    others = {token: id for token, id in vocabulary.items() if token not in ordinary}
    return _from_vocabulary(vocabulary, pairs, added=others | added)


def _from_vocabulary(
    vocabulary: dict[str, int],
    pairs: list[str] | list[list[str]],
    *,
    pattern: str = bpe.GPT2_PATTERN,
    added: dict[str, int],
    whole_pieces: bool = False,
) -> BPETokenizer:
    """Make a BPE tokenizer whose ranks merge exactly the pairs, in their order.

    Args:
        added: tokens that are found in the text before it is cut.
        whole_pieces: whether a piece that is a token needs no merges to become it.
    """
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    if ranks := _gpt2_ranks(lines, vocabulary):
        return BPETokenizer(ranks=ranks, special_tokens=added, pattern=pattern)
    split = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
    wanted = [(merges.unspell(left), merges.unspell(right)) for left, right in split]
    ranks = {
        merges.unspell(token): id
        for token, id in vocabulary.items()
        if token not in added
    }
    if absent := {*bpe.BYTES} - {token[0] for token in ranks if len(token) == 1}:
        raise TokenizerError(f"every byte must be a token, got none for {min(absent)}")
    unmerged = len(ranks) - len(bpe.BYTES) - len(wanted)
    if merges.recover_merges(ranks) != wanted or (unmerged and not whole_pieces):
        raise TokenizerError("tokens must have ids in the order of their merges")
    return BPETokenizer(ranks=ranks, special_tokens=added, pattern=pattern)


def _gpt2_ranks(lines: list[str], vocabulary: dict[str, int]) -> bpe.Ranks | None:
    """Give GPT-2's own ranks if these are its merges, all of whose tokens have ids.

    They need no check of every merge, a second's work that a text would wait for.
    """
    text = "\n".join(["#version: 0.2", *lines, ""])
    if not gpt2_merges.are_gpt2s(text.encode()):
        return None
    ranks = gpt2_merges.read_merges(text)
    tokens = [*map(merges.spell, list(ranks)[: len(bpe.BYTES)])]
    tokens += [line.replace(" ", "") for line in lines]
    same = all(vocabulary.get(token) == id for id, token in enumerate(tokens))
    return ranks if same else None


def write(tokenizer: Tokenizer, context_length: int) -> dict[str, Any]:
    """Write the files from which transformers makes the same tokenizer.

    Returns:
        for each file name its text, or what it holds as JSON.

    Raises:
        TokenizerError: it is a word tokenizer, which transformers does not have.
    """
    files: dict[str, Any] = {}
    if isinstance(tokenizer, BPETokenizer):
        steps = _bpe_steps(tokenizer)
        files["vocab.json"] = steps["model"]["vocab"]
        lines = ["#version: 0.2", *steps["model"]["merges"], ""]
        files["merges.txt"] = "\n".join(lines)
    elif isinstance(tokenizer, CharTokenizer):
        steps = _character_steps(tokenizer)
    else:
        raise TokenizerError(
            "transformers needs a bpe or char tokenizer, got one of kind "
            f"{tokenizer.kind!r}"
        )
    special = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    files["tokenizer.json"] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, id) for name, id in special],
        "normalizer": None,
        "post_processor": None,
        **steps,
    }
    files["tokenizer_config.json"] = _tokenizer_config(tokenizer, context_length)
    return files


def _bpe_steps(tokenizer: BPETokenizer) -> dict[str, Any]:
    pairs = merges.recover_merges(tokenizer.ranks)
    ordinary = {merges.spell(token): id for token, id in tokenizer.ranks.items()}
    model = _model(ordinary, tokenizer.special_tokens)
    model["merges"] = [f"{merges.spell(a)} {merges.spell(b)}" for a, b in pairs]
    model["ignore_merges"] = len(ordinary) > len(bpe.BYTES) + len(pairs)
    return {
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern),
        "decoder": _BYTE_LEVEL | {"use_regex": True},
        "model": model,
    }


def _character_steps(tokenizer: CharTokenizer) -> dict[str, Any]:
    """Neither cut nor merge: each character is a token."""
    ordinary = {character: id for id, character in enumerate(tokenizer.characters)}
    return {
        "pre_tokenizer": None,
        "decoder": {"type": "Fuse"},
        "model": _model(ordinary, tokenizer.special_tokens),
    }


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    if pattern == bpe.GPT2_PATTERN:
        return _BYTE_LEVEL | {"use_regex": True}
    split = {
        "type": "Split",
        # {1,3}+ gives nothing back in tiktoken's engine, but repeats in this one.
        "pattern": {"Regex": re.sub(r"(\{\d+(,\d*)?\})\+", r"\1", pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    whole = _BYTE_LEVEL | {"use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, whole]}


def _model(ordinary: dict[str, int], special: dict[str, int]) -> dict[str, Any]:
    """Describe a BPE that merges nothing yet."""
    if twice := sorted(ordinary.keys() & special.keys()):
        raise TokenizerError(
            "in transformers a special token must not be spelled like another token, "
            f"got {twice[0]!r}"
        )
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": ordinary | special,
        "merges": [],
    }


def _added_token(name: str, id: int) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": id, "content": name, **plain, "normalized": False, "special": True}


def _tokenizer_config(tokenizer: Tokenizer, context_length: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        # The generic class takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    if tokenizer.end_of_text is not None:
        # GPT-2's own is its unknown token, too; CTranslate2 opens no model without one.
        roles = ("bos_token", "eos_token", "pad_token", "unk_token")
        config |= dict.fromkeys(roles, names[tokenizer.end_of_text])
    return config
