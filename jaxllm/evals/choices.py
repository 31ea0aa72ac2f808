"""Questions with answers to choose from in, what a model chooses out."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from jaxllm.config import GPTConfig
from jaxllm.data import records
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import DataError
from jaxllm.evals import scoring
from jaxllm.types import Params


class Question(NamedTuple):
    """A prompt and the texts that may follow it, of which one is right."""

    prompt: str
    choices: tuple[str, ...]
    answer: int  # index of the right one


class Chosen(NamedTuple):
    """What a model makes of a question."""

    likeliest: int  # index of the choice with the highest likelihood
    per_byte: int  # and of that with the highest likelihood per byte
    log_likelihoods: tuple[float, ...]


def choose(
    params: Params,
    questions: Sequence[Question],
    cfg: GPTConfig,
    tokenizer: Tokenizer,
    *,
    batch_size: int = 8,
) -> list[Chosen]:
    """Let a model choose: the answer is what it finds the likeliest to follow.

    A long answer has many tokens, and so a low likelihood; divided by its bytes, it can
    be compared with a short one, also between models of different tokenizers.
    """
    pairs = [
        scoring.encode_pair(question.prompt, choice, tokenizer)
        for question in questions
        for choice in question.choices
    ]
    scores = iter(
        scoring.score_continuations(params, pairs, cfg, batch_size=batch_size)
    )
    found = []
    for question in questions:
        sums = [next(scores).log_likelihood for _ in question.choices]
        means = [
            total / len(choice.encode())
            for total, choice in zip(sums, question.choices, strict=True)
        ]
        found.append(Chosen(_argmax(sums), _argmax(means), tuple(sums)))
    return found


def accuracy(
    questions: Sequence[Question], chosen: Sequence[Chosen]
) -> dict[str, float]:
    """Tell the share of right answers, as they are and by likelihood per byte.

    >>> questions = [Question("1 + 1 =", (" 2", " 11"), 0)]
    >>> accuracy(questions, [Chosen(1, 0, (-3.0, -2.0))])
    {'accuracy': 0.0, 'accuracy_per_byte': 1.0, 'chance': 0.5}
    """
    n = max(len(questions), 1)
    pairs = list(zip(questions, chosen, strict=True))
    return {
        "accuracy": sum(c.likeliest == q.answer for q, c in pairs) / n,
        "accuracy_per_byte": sum(c.per_byte == q.answer for q, c in pairs) / n,
        "chance": sum(1 / len(q.choices) for q in questions) / n,
    }


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """Read questions from JSON, JSON lines or Parquet: prompt, choices, answer.

    The answer is the index of a choice, or its text.

    Raises DataError where a record lacks one of them, or the answer is no choice.
    """
    return [
        _question(record, f"record {number} of {os.fspath(path)}")
        for number, record in enumerate(records.read_records(path), 1)
    ]


def _question(record: records.Record, where: str) -> Question:
    missing = [name for name in Question._fields if name not in record]
    if missing:
        raise DataError(
            f"{where} must have prompt, choices and answer, not {missing[0]}"
        )
    if not isinstance(record["choices"], list):
        raise DataError(
            f"the choices of {where} must be a list, got {record['choices']!r}"
        )
    choices, answer = tuple(map(str, record["choices"])), record["answer"]
    if len(choices) < 2 or not all(choices):
        raise DataError(f"{where} must have two choices or more, none empty: {choices}")
    if answer in choices:
        answer = choices.index(answer)
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(
            f"the answer of {where} must be a choice or its index in "
            f"[0, {len(choices)}), got {answer!r}"
        )
    return Question(str(record["prompt"]), choices, answer)


def _argmax(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
