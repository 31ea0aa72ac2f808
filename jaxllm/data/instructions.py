r"""Records to examples, examples to batches: encode, fit, collate by lengths.

An example is a text as ids, its end included, and which of them the model is to write.
The prompt has the same ids here as when a model is asked, because prompt and response
are encoded one by one.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxllm.data import layouts
from jaxllm.data.layouts import Piece
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.data.text_tokenizers import Tokenizer
from jaxllm.errors import ConfigError, DataError
from jaxllm.types import Batch

Overlong = Literal["truncate", "drop"]
"""What becomes of an example that is too long. Its response loses its end, and with it
the end of the text: a beginning of a right answer is right, while a prompt that was cut
is none that will be asked. Or the example is left out."""


class Example(NamedTuple):
    """A text as ids, and which of them a model is to write."""

    ids: np.ndarray  # (n,) int32, the last one the end of the text
    is_response: np.ndarray  # (n,) bool


def encode_record(
    record: Record,
    template: AnyTemplate,
    tokenizer: Tokenizer,
    *,
    allow_special: bool = False,
) -> Example:
    """Encode a record's prompt, its response and the end.

    Args:
      allow_special: whether special tokens in the record's own text count as such. Only
        those of the template do otherwise.

    Raises:
      ConfigError: the template's end is no special token of the tokenizer.
      DataError: the record does not fit the template.

    >>> from jaxllm.data import templates
    >>> from jaxllm.data.text_tokenizers import CharTokenizer
    >>> question = templates.Template(
    ...     instruction="{a}", heading="=", response="{b}", end="<|end|>")
    >>> tokenizer = CharTokenizer(characters="+12=", special_tokens={"<|end|>": 4})
    >>> ids, is_response = encode_record({"a": "1+1", "b": "2"}, question, tokenizer)
    >>> ids, is_response.astype(int)
    (array([1, 0, 1, 3, 2, 4], dtype=int32), array([0, 0, 0, 0, 1, 1]))
    """
    end = end_id(template, tokenizer)
    pieces = layouts.prompt_pieces(record, template)
    pieces += layouts.response_pieces(record, template)
    ids, is_response = _encode(pieces, tokenizer, allow_special)
    return Example(np.append(ids, np.int32(end)), np.append(is_response, True))


def encode_conversation(
    messages: Sequence[Record], template: AnyTemplate, tokenizer: Tokenizer
) -> np.ndarray:
    """Encode a conversation up to where the assistant is to speak: (n,) int32.

    Raises:
      ConfigError: the template has no place for such a message.
      DataError: a message has another role, or no text, or stands in the wrong place.
    """
    pieces = layouts.conversation_pieces(messages, template)
    return _encode(pieces, tokenizer, allow_special=False)[0]


def encode_prompt(
    record: Record, template: AnyTemplate, tokenizer: Tokenizer
) -> np.ndarray:
    """Encode what precedes a record's response: (n,) int32.

    Raises:
      DataError: the record does not fit the template.
    """
    pieces = layouts.prompt_pieces(record, template)
    return _encode(pieces, tokenizer, allow_special=False)[0]


def encode_pair(
    record: Record,
    template: AnyTemplate,
    tokenizer: Tokenizer,
    *,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> tuple[Example, Example]:
    """Encode a record twice, with the answer that is preferred and with the other.

    Args:
      chosen, rejected: names of the fields that hold the two.

    Raises as `encode_record` does.
    """
    first, second = (
        encode_record(layouts.answered(record, name, template), template, tokenizer)
        for name in (chosen, rejected)
    )
    return first, second


def end_id(template: AnyTemplate, tokenizer: Tokenizer) -> int:
    """Look up the token that ends a response.

    >>> from jaxllm.data import templates
    >>> from jaxllm.data.text_tokenizers import CharTokenizer
    >>> end_id(templates.CHAT, CharTokenizer(characters="ab"))
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: the end of a template must be a special token of the
    tokenizer, which has none, got '<|endoftext|>'
    """
    special = tokenizer.special_tokens
    if template.end not in special:
        raise ConfigError(
            "the end of a template must be a special token of the tokenizer, which has "
            f"{', '.join(special) or 'none'}, got {template.end!r}"
        )
    return special[template.end]


class Fitted(NamedTuple):
    """Examples that fit a model, and what had to be done for it."""

    examples: list[Example]
    kept: list[int]  # the place of each among those that were given
    truncated: int  # how many of them lost the end of their response


def fit(
    examples: Sequence[Example], max_length: int, overlong: Overlong = "truncate"
) -> Fitted:
    """Make examples short enough for inputs of max_length tokens, or leave them out.

    An example of whose response nothing fits is left out in any case.

    >>> examples = [Example(np.arange(n), np.arange(n) > 2) for n in (4, 7)]
    >>> fitted = fit(examples, 4)
    >>> [example.ids.tolist() for example in fitted.examples], fitted.truncated
    ([[0, 1, 2, 3], [0, 1, 2, 3, 4]], 1)
    >>> fit(examples, 4, "drop").kept
    [0]
    """
    if max_length < 1:
        raise DataError(f"max_length must be >= 1, got {max_length}")
    fitted = Fitted([], [], 0)
    for place, example in enumerate(examples):
        too_long = len(example.ids) > max_length + 1
        short = Example(*(row[: max_length + 1] for row in example))
        if too_long and (overlong == "drop" or not short.is_response.any()):
            continue
        fitted.examples.append(short)
        fitted.kept.append(place)
        fitted = fitted._replace(truncated=fitted.truncated + too_long)
    return fitted


def collate(
    examples: Sequence[Example],
    padding: int,
    *,
    response_only: bool = False,
    width: int | None = None,
) -> Batch:
    """Join examples into one batch, as wide as the longest.

    Targets are the inputs one token later, so the last target of a row is its end of
    text. What counts is known by lengths, never by ids: an end of text within an
    example is learnt like any other token, and one that pads is not.

    Args:
      padding: any id, such as the end of text.
      response_only: whether only targets in responses count, and none in prompts.
      width: of the batch, where it is to be wider.

    >>> rows = [Example(np.array(ids), np.array(ids) % 2 == 0)
    ...         for ids in ([1, 1, 3, 4, 0], [5, 6, 0])]
    >>> batch = collate(rows, 0)
    >>> batch.inputs
    array([[1, 1, 3, 4],
           [5, 6, 0, 0]], dtype=int32)
    >>> np.where(batch.mask, batch.targets, -100)
    array([[   1,    3,    4,    0],
           [   6,    0, -100, -100]], dtype=int32)
    >>> collate(rows, 0, response_only=True).mask.astype(int)
    array([[0, 0, 1, 1],
           [1, 1, 0, 0]])
    """
    longest = max((len(example.ids) - 1 for example in examples), default=0)
    width = longest if width is None else width
    if width < longest:
        raise DataError(f"a batch must be as wide as {longest} tokens, got {width}")
    inputs, targets = np.full((2, len(examples), width), padding, np.int32)
    mask = np.zeros(inputs.shape, bool)
    for row, (ids, is_response) in enumerate(examples):
        n = max(len(ids) - 1, 0)
        inputs[row, :n], targets[row, :n] = ids[:n], ids[1:]
        mask[row, :n] = is_response[1:] if response_only else True
    return Batch(inputs, targets, mask)


def _encode(
    pieces: Sequence[Piece], tokenizer: Tokenizer, allow_special: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Encode pieces: ids and is_response, (n,) each.

    What is no special token is encoded as one text, whichever hand it is from, up to
    where a response begins or ends: a model knows " Paris", not " " and "Paris".
    """
    ids, is_response = [], []
    for written, group in itertools.groupby(pieces, lambda piece: piece.is_response):
        runs = [""]
        for piece in group:
            if piece.is_content and not allow_special:
                runs[-1] += piece.text
                continue
            text, *rest = tokenizer.split_special(piece.text)
            runs[-1] += text
            runs += rest
        # Special tokens stand at the odd places.
        for place, run in enumerate(runs):
            encoded = (
                np.array([tokenizer.special_tokens[run]], np.int32)
                if place % 2
                else tokenizer.encode_ordinary(run)
            )
            ids.append(encoded)
            is_response.append(np.full(len(encoded), written))
    empty = np.array([], np.int32)
    return np.concatenate([empty, *ids]), np.concatenate([[], *is_response]) > 0
