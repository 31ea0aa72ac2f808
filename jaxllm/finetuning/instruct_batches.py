"""Instruction records in, the plan of an epoch's batches out."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxllm.data import example_batches, instructions, layouts, packing
from jaxllm.data.example_batches import Collate, Plan
from jaxllm.data.instructions import Example, Overlong
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import DataError
from jaxllm.types import Batch

Grouping = Literal["packed", "length", "shuffled"]
"""What shares a batch: rows of one width with several examples in each; examples of
about one length; or any."""

# Widths of unpacked batches are multiples of it, so that few of them are compiled.
WIDTH_STEP = 32

_NOTHING = Example(np.zeros(1, np.int32), np.zeros(1, bool))


class Examples(NamedTuple):
    """Records as a model can learn them, and what was done to make them fit."""

    records: list[Record]
    examples: list[Example]
    truncated: int  # lost the end of their response
    left_out: int  # had no response, or none of it fitted


def read_examples(
    records: Sequence[Record],
    template: AnyTemplate,
    tokenizer: Tokenizer,
    max_length: int,
    overlong: Overlong = "truncate",
) -> Examples:
    """Encode records and fit them into max_length tokens; those without an answer go.

    Raises:
      DataError: a record does not fit the template, or no record is left.
    """
    answered = [r for r in records if layouts.write_response(r, template).strip()]
    examples = [instructions.encode_record(r, template, tokenizer) for r in answered]
    fitted = instructions.fit(examples, max_length, overlong)
    left_out = len(records) - len(fitted.examples)
    if not fitted.examples:
        raise DataError(
            f"some record must have a response that fits {max_length} tokens, "
            f"none of {len(records)} has"
        )
    kept = [answered[place] for place in fitted.kept]
    return Examples(kept, fitted.examples, fitted.truncated, left_out)


def plan_batches(
    examples: Sequence[Example],
    batch_size: int,
    padding: int,
    max_length: int,
    *,
    grouping: Grouping = "packed",
    response_only: bool = False,
    seed: int = 0,
    drop_last: bool = True,
) -> tuple[Plan, Collate]:
    """Plan the batches of each epoch, and how their rows are joined.

    Args:
      batch_size: rows of a batch; packed ones hold several examples each.
      max_length: the width of packed rows, and the bound of any.

    Raises:
      DataError: no batch is full, and one that is not is left out.
    """
    if grouping == "packed":
        rows = packing.pack([len(one.ids) - 1 for one in examples], max_length)
        if drop_last and len(rows) < batch_size:
            raise DataError(
                f"data.batch_size must be <= {len(rows)}, the packed rows of "
                f"{len(examples)} examples of max_length {max_length}, got "
                f"{batch_size}; lower it or data.max_length, set data.drop_last: "
                "false, or instruct.batches: length"
            )

        def join(numbers: np.ndarray) -> Batch:
            chosen = [[examples[i] for i in rows[n]] if n >= 0 else [] for n in numbers]
            return packing.collate_packed(
                chosen, padding, max_length, response_only=response_only
            )

        plan = example_batches.shuffled_plan(
            len(rows), batch_size, seed=seed, drop_last=drop_last
        )
        return plan, join

    collate = padded(
        examples, padding, max_length=max_length, response_only=response_only
    )
    plan = example_batches.shuffled_plan(
        len(examples), batch_size, seed=seed, drop_last=drop_last
    )
    if grouping == "length":
        plan = _grouped(plan, [len(one.ids) for one in examples])
    return plan, collate


def padded(
    examples: Sequence[Example],
    padding: int,
    *,
    max_length: int,
    response_only: bool = False,
) -> Collate:
    """Join examples by their numbers, -1 for none, into batches of a few widths."""

    def collate(numbers: np.ndarray) -> Batch:
        chosen = [examples[i] if i >= 0 else _NOTHING for i in numbers]
        longest = max(len(one.ids) - 1 for one in chosen)
        return instructions.collate(
            chosen,
            padding,
            response_only=response_only,
            width=round_up(longest, max_length),
        )

    return collate


def round_up(width: int, max_length: int) -> int:
    """Find the width of a batch: the next multiple of WIDTH_STEP, up to the bound.

    >>> round_up(33, 100), round_up(97, 100)
    (64, 100)
    """
    return max(1, min(max_length, -(-width // WIDTH_STEP) * WIDTH_STEP))


def _grouped(plan: Plan, lengths: Sequence[int]) -> Plan:
    """Let the batches of each epoch be of about one length; the same rows are in it."""

    def grouped(epoch: int) -> list[np.ndarray]:
        batches = plan(epoch)
        order = np.concatenate(batches)
        groups = packing.group_by_length(lengths, order[order >= 0], len(batches[0]))
        return [example_batches.fill_up(rows, len(batches[0])) for rows in groups]

    return grouped
