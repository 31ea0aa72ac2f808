"""A conversation of any length in, what of it fits a model's context out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.data import instructions
from jaxllm.data.records import Record
from jaxllm.data.templates import SYSTEM, USER, AnyTemplate
from jaxllm.data.text_tokenizers import Tokenizer
from jaxllm.errors import DataError


class Remembered(NamedTuple):
    """The part of a conversation that a model is shown."""

    messages: list[Record]
    ids: np.ndarray  # (n,) int32, up to where the assistant is to speak


def remember(
    messages: Sequence[Record],
    template: AnyTemplate,
    tokenizer: Tokenizer,
    max_length: int,
) -> Remembered:
    r"""Shorten a conversation to max_length tokens: its oldest turns leave.

    A turn is a message of the user with the answers to it, and leaves as a whole; a
    system prompt stays.

    Raises:
      DataError: the last message of the user is too long by itself.

    >>> from jaxllm.data import templates, tokenizers
    >>> talk = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"},
    ...         {"role": "user", "content": "22"}]
    >>> remember(talk, templates.CHAT, tokenizers.load("gpt2"), 20).messages
    [{'role': 'user', 'content': '22'}]
    """
    first = 1 if messages and messages[0]["role"] == SYSTEM else 0
    system, rest = messages[:first], messages[first:]
    turns = [i for i, message in enumerate(rest) if message["role"] == USER]
    length = 0
    for turn in turns:
        kept = [*system, *rest[turn:]]
        ids = instructions.encode_conversation(kept, template, tokenizer)
        if len(ids) <= max_length:
            return Remembered(kept, ids)
        length = len(ids)
    raise DataError(
        f"a message must leave room for an answer: with what is around it, at most "
        f"{max_length} tokens, got {length}"
    )


def split_context(context_length: int, max_new_tokens: int) -> int:
    """Tell how many tokens of a context a conversation may have, the rest its answer's.

    An answer has the room that was asked for, up to half of the context.

    >>> split_context(1024, 200), split_context(128, 200)
    (824, 64)
    """
    return context_length - min(max_new_tokens, context_length // 2)
