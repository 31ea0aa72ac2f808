r"""Instruction records to batches: fill a template, encode, collate by lengths.

A record has an instruction, perhaps an input, and the output that is to be learnt. The
prompt is everything up to where the model begins to write; it has the same ids here as
when a model is asked, because prompt and response are encoded one by one.
"""

import dataclasses
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.data.records import Record
from jaxllm.data.text_tokenizers import Tokenizer
from jaxllm.errors import ConfigError, DataError
from jaxllm.types import Batch


def field_names(text: str) -> list[str]:
    """List the fields of a part of a template.

    >>> field_names("{question} in {{one}} {unit}")
    ['question', 'unit']
    >>> field_names("{0}")
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: a template must name its fields, as in {output}, got
    '{0}'
    """
    rule = f"a template must name its fields, as in {{output}}, got {text!r}"
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{rule}: {error}") from error
    fields = [piece[1:] for piece in pieces if piece[1] is not None]
    for name, specification, conversion in fields:
        # What str.format can do besides is no part of a template: it reaches into
        # objects.
        if not str(name).isidentifier() or specification or conversion:
            raise ConfigError(rule)
    return [str(name) for name, _, _ in fields]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """The text around the fields of a record; {name} stands for a field."""

    instruction: str
    """What begins the prompt."""
    input: str = ""
    """What follows in the prompt, left out where its fields are empty."""
    heading: str
    """What ends the prompt and announces the response."""
    response: str = "{output}"
    """What the model is to write."""

    def __post_init__(self) -> None:
        for part in vars(self).values():
            field_names(part)


# Taori et al. 2023, "Stanford Alpaca", as the notes' book shortens it.
ALPACA = Template(
    instruction=(
        "Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\n{instruction}"
    ),
    input="\n\n### Input:\n{input}",
    heading="\n\n### Response:\n",
)

# Abdin et al. 2024, "Phi-3 Technical Report", in the form of the notes' book.
PHI_3 = Template(
    instruction="<|user|>\n{instruction}",
    input="\n{input}",
    heading="\n<|assistant|>:\n",
)


class Example(NamedTuple):
    """A record as ids; what ends a text is not among them."""

    ids: np.ndarray  # (T,) int32, the prompt's and the response's
    prompt_length: int  # how many of them are the prompt's


def write_prompt(record: Record, template: Template) -> str:
    r"""Write the text behind which a model is to write its response.

    Raises:
      DataError: the record lacks a field of the template, or it holds no text.

    >>> record = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    >>> write_prompt(record, PHI_3)
    '<|user|>\nAdd.\n1 + 1\n<|assistant|>:\n'
    >>> write_prompt(record | {"input": ""}, PHI_3)
    '<|user|>\nAdd.\n<|assistant|>:\n'
    >>> write_prompt({"question": "1 + 1?"}, PHI_3)
    Traceback (most recent call last):
    jaxllm.errors.DataError: a record must have the template's field 'instruction', it
    has 'question'
    """
    parts = (template.instruction, template.input, template.heading)
    instruction, given, heading = (_fill(part, record) for part in parts)
    is_given = any(record[name] for name in field_names(template.input))
    return instruction + (given if is_given else "") + heading


def write_response(record: Record, template: Template) -> str:
    """Write what a model is to answer.

    >>> write_response({"instruction": "Add 1 and 1.", "output": "2"}, ALPACA)
    '2'
    """
    return _fill(template.response, record)


def encode_record(
    record: Record,
    template: Template,
    tokenizer: Tokenizer,
    *,
    allow_special: bool = False,
) -> Example:
    """Encode a record's prompt and response.

    Args:
      allow_special: as `tokenizer.encode` takes it, for a template with special tokens.

    >>> from jaxllm.data.text_tokenizers import CharTokenizer
    >>> question = Template(instruction="{a}", heading="=", response="{b}")
    >>> tokenizer = CharTokenizer(characters="+12=")
    >>> encode_record({"a": "1+1", "b": "2"}, question, tokenizer)
    Example(ids=array([1, 0, 1, 3, 2], dtype=int32), prompt_length=4)
    """
    prompt, response = (
        tokenizer.encode(text, allow_special=allow_special)
        for text in (write_prompt(record, template), write_response(record, template))
    )
    return Example(np.concatenate([prompt, response]), len(prompt))


def collate(
    examples: Sequence[Example],
    end_of_text: int,
    *,
    max_length: int | None = None,
    response_only: bool = False,
) -> tuple[Batch, int]:
    """Join examples into one batch, as wide as the longest; count the truncated ones.

    Targets are the inputs one token later, and the last counted target of a row is its
    end of text. What counts is known by lengths, never by ids: an end of text within an
    example is learnt like any other token.

    Args:
      end_of_text: ends each example, and pads it.
      max_length: width past which an example loses the end of its response, and with it
        the end of text. A row of which nothing is left to learn is masked out whole.
      response_only: whether only targets in the response count, and none in the prompt.

    >>> rows = [Example(np.array(ids), 2) for ids in ([1, 2, 3, 4], [5, 6])]
    >>> batch, truncated = collate(rows, 0)
    >>> batch.inputs
    array([[1, 2, 3, 4],
           [5, 6, 0, 0]], dtype=int32)
    >>> np.where(batch.mask, batch.targets, -100)
    array([[   2,    3,    4,    0],
           [   6,    0, -100, -100]], dtype=int32)
    >>> collate(rows, 0, response_only=True)[0].mask.astype(int)
    array([[0, 1, 1, 1],
           [0, 1, 0, 0]])
    """
    if max_length is not None and max_length < 1:
        raise DataError(f"max_length must be >= 1, got {max_length}")
    lengths = np.array([len(example.ids) for example in examples], np.int64)
    longest = int(lengths.max(initial=0))
    width = longest if max_length is None else min(longest, max_length)
    ids = np.full((len(examples), width + 1), end_of_text, np.int32)
    for row, example in zip(ids, examples, strict=True):
        row[: len(example.ids)] = example.ids[: width + 1]
    place = np.arange(width)
    mask = place < lengths[:, None]
    if response_only:
        prompts = np.array([example.prompt_length for example in examples], np.int64)
        mask &= place + 1 >= prompts[:, None]
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), mask)
    return batch, int((lengths > width).sum())


def _fill(text: str, record: Record) -> str:
    values = {name: _value(record, name) for name in field_names(text)}
    return text.format_map(values)


def _value(record: Record, name: str) -> str:
    """Return a field's text, where null is an empty one."""
    if name not in record:
        raise DataError(
            f"a record must have the template's field {name!r}, it has "
            f"{', '.join(map(repr, record)) or 'none'}"
        )
    value = "" if record[name] is None else record[name]
    if not isinstance(value, str):
        raise DataError(f"field {name!r} of a record must hold text, got {value!r}")
    return value
