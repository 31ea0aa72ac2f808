"""Pairs of answers in, the task of preferring the chosen ones out."""

import functools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.data import disk, example_batches, instructions, layouts, templates
from jaxllm.data.example_batches import Collate
from jaxllm.data.instructions import Example
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.errors import DataError
from jaxllm.finetuning import instruct_batches, instruction, preference, tasks
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.finetuning.instruction import Split
from jaxllm.finetuning.preference import PairBatch
from jaxllm.finetuning.tasks import Kind, Start, Task, keep_writer
from jaxllm.training import runs
from jaxllm.types import Params

REFERENCE = "reference.npy"
"""The file of a run with the frozen model's log-probabilities: (pairs, 2) float32."""

Pairs = list[tuple[Example, Example]]


class Answered(NamedTuple):
    """Records with two answers each, and with the one to prefer for their response."""

    pairs: Split
    chosen: Split


def read(cfg: FinetuneConfig) -> tuple[FinetuneConfig, Answered]:
    """Read and split records with two answers each; find the template."""
    names = cfg.preference.chosen, cfg.preference.rejected
    pairs = instruction.read_split(
        cfg,
        lambda record, template: [
            layouts.answered(record, name, template) for name in names
        ],
    )
    template, *parts = pairs
    chosen = [[layouts.answered(r, names[0], template) for r in p] for p in parts]
    return cfg, Answered(pairs, Split(template, *chosen))


def prepare(cfg: FinetuneConfig, examples: Answered, start: Start) -> Task:
    """Encode the pairs, score them by the frozen model, and say how they are judged.

    A pair is learnt whole: one of which an answer does not fit is left out.
    """
    template = examples.pairs.template
    if jax.process_index() == 0:
        templates.save(template, pathlib.Path(cfg.run_dir, templates.FILE))
    bound = tasks.max_length(cfg, start.model)
    end = instructions.end_id(template, start.tokenizer)
    parts = [_encode(part, template, cfg, start, bound) for part in examples.pairs[1:]]
    pairs = [pair for part in parts for pair in part]
    starts = np.cumsum([0, *map(len, parts)])
    longest = max(len(one.ids) - 1 for pair in pairs for one in pair)
    width = instruct_batches.round_up(longest, bound)
    size = cfg.loop.eval_batch_size or cfg.data.batch_size

    def collate(reference: np.ndarray, first: int = 0) -> Collate:
        def join(rows: np.ndarray) -> PairBatch:
            there = rows >= 0
            return preference.collate_pairs(
                [pairs[first + row] if row >= 0 else None for row in rows],
                end,
                reference=np.where(there[:, None], reference[first + rows], 0),
                width=width,
            )

        return join

    batches = example_batches.ordered_batches
    blank = np.zeros((len(pairs), 2), np.float32)
    reference = find_reference(
        cfg, start, lambda: batches(len(pairs), size, collate(blank)), len(pairs)
    )
    judge = _judge(cfg, start)
    train, validation, test = (collate(reference, int(first)) for first in starts[:-1])
    n_train, n_validation, n_test = map(len, parts)

    def evaluate(params: Params) -> dict[str, float]:
        figures = {}
        for name, join, n in (
            ("training", train, n_train),
            ("validation", validation, n_validation),
        ):
            found = judge(params, batches(n, size, join, count=cfg.loop.eval_batches))
            figures |= {f"{name}_{figure}": value for figure, value in found.items()}
        return figures

    def report(params: Params) -> dict[str, Any]:
        after, before = (
            judge(p, batches(n_test, size, test))
            for p in (params, instruction.placed_start(start))
        )
        return after | {f"{name}_before": value for name, value in before.items()}

    return Task(
        batches=tasks.training_batches(
            example_batches.shuffled_plan(
                n_train,
                cfg.data.batch_size,
                seed=cfg.seed,
                drop_last=cfg.data.drop_last,
            ),
            train,
            cfg,
            start.mesh,
        ),
        loss_sum=functools.partial(preference.preference_sum, beta=cfg.preference.beta),
        unit="pairs",
        evaluate=evaluate,
        facts={"train": n_train, "validation": n_validation, "test": n_test},
        test=report,
        sample=instruction.sampler(cfg, examples.chosen, start),
    )


def find_reference(
    cfg: FinetuneConfig, start: Start, batches: Callable[[], Any], n: int
) -> np.ndarray:
    """Score every answer by the frozen model, once: (n, 2) float32, kept in the run.

    Args:
      batches: gives those of all n pairs, in their order.
    """
    path = pathlib.Path(cfg.run_dir, REFERENCE)
    if runs.has_trained(cfg.run_dir) and path.exists():
        reference = np.load(path, allow_pickle=False)
        if reference.shape != (n, 2):
            raise DataError(
                f"{path} must have scores of {n} pairs, got {reference.shape}: the "
                "records have changed"
            )
        return reference
    score = jax.jit(
        lambda params, batch: jnp.stack(
            preference.score_pairs(params, batch, start.model), axis=1
        ),
        out_shardings=NamedSharding(start.mesh, PartitionSpec()),
    )
    params = instruction.placed_start(start)
    rows = [score(params, tasks.place_batch(b, start.mesh)) for b in batches()]
    reference = np.concatenate(jax.device_get(rows))[:n]
    if jax.process_index() == 0:
        with disk.atomic_writer(path) as file:
            np.save(file, reference, allow_pickle=False)
    return reference


def _judge(
    cfg: FinetuneConfig, start: Start
) -> Callable[[Params, Iterable[PairBatch]], dict[str, float]]:
    """Build the function that averages what `preference_sums` sums."""
    step = jax.jit(
        functools.partial(
            preference.pair_sums, cfg=start.model, beta=cfg.preference.beta
        )
    )

    def judge(params: Params, batches: Iterable[PairBatch]) -> dict[str, float]:
        sums = [step(params, tasks.place_batch(batch, start.mesh)) for batch in batches]
        totals = jax.tree.map(lambda *each: float(np.sum(each)), *jax.device_get(sums))
        n = max(totals.pop("pairs"), 1)
        return {name: total / n for name, total in totals.items()}

    return judge


def _encode(
    records: list[Record],
    template: AnyTemplate,
    cfg: FinetuneConfig,
    start: Start,
    bound: int,
) -> Pairs:
    encode = functools.partial(
        instructions.encode_pair,
        template=template,
        tokenizer=start.tokenizer,
        chosen=cfg.preference.chosen,
        rejected=cfg.preference.rejected,
    )
    pairs = [
        pair
        for pair in map(encode, records)
        if max(len(one.ids) for one in pair) <= bound + 1
    ]
    if left_out := len(records) - len(pairs):
        text = f"{left_out:,} of {len(records):,} pairs are longer than {bound} tokens "
        start.on_event("warning", {"text": text + "and are left out"})
    if not pairs:
        raise DataError(
            f"some pair must fit {bound} tokens, none of {len(records)} does"
        )
    return pairs


KIND = Kind(
    read=read,
    texts=lambda examples: instruction.write_texts(examples.chosen),
    fit=keep_writer,
    prepare=prepare,
    special_tokens=lambda cfg, examples: instruction.special_tokens(
        cfg, examples.chosen
    ),
)
