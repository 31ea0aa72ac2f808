"""Instruction records in, the task of answering them out."""

import functools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.data import (
    example_batches,
    example_files,
    instructions,
    layouts,
    records,
    templates,
)
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.distributed import sharding
from jaxllm.errors import DataError
from jaxllm.finetuning import answers, instruct_batches, tasks
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.finetuning.instruct_batches import Examples
from jaxllm.finetuning.tasks import Kind, Start, Task, keep_writer, max_length
from jaxllm.training import evaluation, losses, runs, steps
from jaxllm.types import Array, Params


class Split(NamedTuple):
    """Records by what they are for, and what is written around them."""

    template: AnyTemplate
    train: list[Record]
    validation: list[Record]
    test: list[Record]


def read(cfg: FinetuneConfig) -> tuple[FinetuneConfig, Split]:
    """Read and split records; find the template."""
    return cfg, read_split(cfg, lambda record, template: [record])


def read_split(
    cfg: FinetuneConfig,
    versions: Callable[[Record, AnyTemplate], list[Record]],
) -> Split:
    """Read and split records, each of which fits the template in all its versions.

    The split depends on the seed and the number of records alone: a run that goes on
    with pairs of answers to the same records holds out the same ones.

    Raises:
      DataError: a record does not fit; the message has its number in the file.
    """
    known = example_files.find(cfg.data.file)
    rows = records.read_records(
        known.path, columns=cfg.data.columns or known.columns, quoted=cfg.data.quoted
    )
    template = find_template(cfg)
    for number, row in enumerate(rows, 1):
        try:
            for version in versions(row, template):
                layouts.write_prompt(version, template)
                layouts.write_response(version, template)
        except DataError as error:
            raise DataError(f"record {number} of {known.path}: {error}") from None
    order = np.random.default_rng(cfg.seed).permutation(len(rows))
    parts = records.split(order, cfg.data.fractions)
    return Split(template, *([rows[i] for i in part] for part in parts))


def find_template(cfg: FinetuneConfig) -> AnyTemplate:
    """Find the template of a run: its own, the config's, its base's, or Alpaca's."""
    own = pathlib.Path(cfg.run_dir, templates.FILE)
    if runs.has_trained(cfg.run_dir) and own.exists():
        return templates.load(own)
    if cfg.instruct.template is not None:
        return templates.load(cfg.instruct.template)
    if cfg.base.source is not None:
        base = pathlib.Path(cfg.base.source, templates.FILE)
        if base.exists():
            return templates.load(base)
    return templates.ALPACA


def write_texts(split: Split) -> Iterable[str]:
    """Write the texts to learn from, for a vocabulary."""
    for record in split.train:
        yield layouts.write_prompt(record, split.template)
        yield layouts.write_response(record, split.template)


def special_tokens(cfg: FinetuneConfig, split: Split) -> list[str]:
    """Name the marks of the template that are to be one token each."""
    return templates.marks(split.template) if cfg.instruct.special_marks else []


def prepare(cfg: FinetuneConfig, split: Split, start: Start) -> Task:
    """Encode the records, and say how they are learnt and judged.

    Held-out records are judged by the loss of their answers, whatever is learnt of
    their prompts.
    """
    if jax.process_index() == 0:
        templates.save(split.template, pathlib.Path(cfg.run_dir, templates.FILE))
    bound = max_length(cfg, start.model)
    end = instructions.end_id(split.template, start.tokenizer)
    train, validation, test = (
        instruct_batches.read_examples(
            part, split.template, start.tokenizer, bound, cfg.instruct.overlong
        )
        for part in split[1:]
    )
    _warn([train, validation, test], bound, start)
    plan, collate = instruct_batches.plan_batches(
        train.examples,
        cfg.data.batch_size,
        end,
        bound,
        grouping=cfg.instruct.batches,
        response_only=cfg.instruct.response_only,
        seed=cfg.seed,
        drop_last=cfg.data.drop_last,
    )
    judge = _judge(cfg, start, end, bound)

    def report(params: Params) -> dict[str, Any]:
        after, before = (judge(p, test, None) for p in (params, placed_start(start)))
        return {
            "answer_loss": after["validation_loss"],
            "answer_loss_before": before["validation_loss"],
            "answer_tokens": after["validation_tokens"],
        }

    return Task(
        batches=tasks.training_batches(plan, collate, cfg, start.mesh),
        loss_sum=losses.next_token_sum,
        unit="tokens",
        evaluate=lambda params: judge(params, validation, cfg.loop.eval_batches),
        facts={
            "train": len(train.examples),
            "validation": len(validation.examples),
            "test": len(test.examples),
        },
        test=report,
        sample=sampler(cfg, split, start),
    )


def sampler(
    cfg: FinetuneConfig, split: Split, start: Start
) -> Callable[[Params, Array], list[str]] | None:
    """Build the function that answers some held-out records; None for none."""
    shown = split.validation[: cfg.instruct.samples]

    def sample(params: Params, key: Array) -> list[str]:
        said = answers.answer(
            params,
            start.model,
            start.tokenizer,
            split.template,
            shown,
            max_new_tokens=cfg.loop.sample_tokens,
        )
        return answers.show_answers(shown, said, split.template)

    return sample if shown else None


def placed_start(start: Start) -> Params:
    """Put the model as it was before the first step where a run's batches go."""
    params = start.params()
    return jax.device_put(params, sharding.tree_shardings(params, start.mesh))


def _judge(
    cfg: FinetuneConfig, start: Start, end: int, bound: int
) -> Callable[[Params, Examples, int | None], dict[str, float]]:
    """Build the function that measures the loss of answers on some batches, or all."""
    size = cfg.loop.eval_batch_size or cfg.data.batch_size
    step = jax.jit(functools.partial(steps.evaluation_step, cfg=start.model))
    place = functools.partial(tasks.place_batch, mesh=start.mesh)

    def judge(params: Params, part: Examples, count: int | None) -> dict[str, float]:
        collate = instruct_batches.padded(
            part.examples, end, max_length=bound, response_only=True
        )
        batches = example_batches.ordered_batches(
            len(part.examples), size, collate, count=count
        )
        return evaluation.evaluate(params, batches, step, place=place)

    return judge


def _warn(parts: list[Examples], bound: int, start: Start) -> None:
    n = sum(len(part.examples) + part.left_out for part in parts)
    if truncated := sum(part.truncated for part in parts):
        text = f"{truncated:,} of {n:,} records are longer than {bound} tokens: their "
        start.on_event("warning", {"text": text + "responses lose their end"})
    if left_out := sum(part.left_out for part in parts):
        text = f"{left_out:,} of {n:,} records are left out: they have no response, or "
        start.on_event("warning", {"text": text + f"none in {bound} tokens"})


KIND = Kind(
    read=read,
    texts=write_texts,
    fit=keep_writer,
    prepare=prepare,
    special_tokens=special_tokens,
)
