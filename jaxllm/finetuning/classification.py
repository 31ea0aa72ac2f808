"""Labelled texts in, the task of telling their classes out."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import example_batches, example_files, labelled, records
from jaxllm.data.labelled import Labelled, TextBatch
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import ConfigError
from jaxllm.finetuning import heads, scores, tasks
from jaxllm.finetuning.config import ClassifyConfig, FinetuneConfig
from jaxllm.finetuning.tasks import Kind, Start, Task, max_length
from jaxllm.models.dropout import Noise
from jaxllm.types import Array, Params


class Examples(NamedTuple):
    """Labelled texts, split."""

    train: Labelled
    validation: Labelled
    test: Labelled


def read(cfg: FinetuneConfig) -> tuple[FinetuneConfig, Examples]:
    """Read, balance, shuffle and split labelled texts; name the labels in the config.

    What is drawn depends on the seed alone, so runs of one seed are judged by the same
    texts.
    """
    task, data = cfg.classify, cfg.data
    texts = _read_all(cfg)
    cfg = dataclasses.replace(
        cfg, classify=dataclasses.replace(task, labels=texts.names)
    )
    random = np.random.default_rng(cfg.seed)
    rows = np.arange(len(texts.texts))
    if task.balance == "undersample":
        rows = labelled.balanced_rows(texts.labels, random.permutation)
    split = records.split(random.permutation(rows), data.fractions)
    return cfg, Examples(*(labelled.take(texts, part) for part in split))


def read_unjudged(cfg: FinetuneConfig) -> list[str]:
    """Read the texts that a run is not judged by, in the order of the file.

    They are those that it learns from, and those left out to balance the labels; none
    is the same as a text that validates or tests.
    """
    _, examples = read(cfg)
    judges = {*examples.validation.texts, *examples.test.texts}
    return [text for text in _read_all(cfg).texts if text not in judges]


def _read_all(cfg: FinetuneConfig) -> Labelled:
    task, data = cfg.classify, cfg.data
    known = example_files.find(data.file)
    return labelled.read_labelled(
        known.path,
        text_column=task.text_column,
        label_column=task.label_column,
        names=task.labels,
        columns=data.columns or known.columns,
        quoted=data.quoted,
    )


def fit(
    params: Params, model: GPTConfig, cfg: FinetuneConfig, *, key: Array
) -> tuple[Params, GPTConfig]:
    """Give a model a head for the labels, unless it has one for as many."""
    names = cfg.classify.labels or ()
    if "classifier" in params:
        heads.check_classes(params, names)
    else:
        params = heads.attach_classifier(params, model, len(names), key=key)
    # The head for tokens is gone; what tied_head then says is that there is no other.
    return params, dataclasses.replace(
        model, tied_head=True, causal=cfg.classify.causal
    )


def complete(
    cfg: FinetuneConfig, examples: Examples, tokenizer: Tokenizer
) -> FinetuneConfig:
    """Name in the config up to where padding is read, if it is.

    A text then has the same label wherever, and beside whatever, it is classified.
    """
    task, bound = cfg.classify, max_length(cfg, cfg.model)
    if task.width is not None and task.width > bound:
        raise ConfigError(
            f"classify.width must be <= {bound}, the longest input, got {task.width}"
        )
    if not task.read_padding or task.width is not None:
        return cfg
    width = _width(cfg, _encode(examples.train, cfg, tokenizer))
    return dataclasses.replace(cfg, classify=dataclasses.replace(task, width=width))


def _width(cfg: FinetuneConfig, train: labelled.Encoded) -> int | None:
    """Find the width of a batch; None for that of its own longest text."""
    match cfg.classify.pad_to:
        case "batch":
            return None
        case "longest":
            return int(train.lengths.max())
        case "max_length":
            return max_length(cfg, cfg.model)


def loss_sum(
    params: Params,
    batch: TextBatch,
    model: GPTConfig,
    *,
    score: Callable[..., Array],
    key: Noise = None,
) -> tuple[Array, Array]:
    """Sum -weight log p(label) over the texts of a batch.

    Args:
      score: (params, tokens, lengths, model, key=...) -> logits (B, K).

    Returns:
      the sum in nats, float32, and the number of texts.
    """
    logits = score(params, batch.inputs, batch.lengths, model, key=key)  # (B, K)
    chosen = jnp.take_along_axis(logits, batch.labels[:, None], axis=1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=1) - chosen
    return (batch.weights * losses).sum(), (batch.lengths > 0).sum(dtype=jnp.int32)


def scorer(cfg: ClassifyConfig) -> Callable[..., Array]:
    """Build the function that scores texts as a run's config says.

    Where padding is read, the tokens that it gets must be as wide as cfg.width.
    """
    if cfg.read_padding and cfg.width is None:
        raise ConfigError(
            "classify.width must be how wide the training batches were where "
            "read_padding is true, got null"
        )

    def score(
        params: Params,
        tokens: Array,
        lengths: Array,
        model: GPTConfig,
        *,
        key: Noise = None,
    ) -> Array:
        if cfg.read_padding:
            lengths = jnp.maximum(lengths, cfg.width or 0)
        return heads.classify(
            params, tokens, lengths, model, pooling=cfg.pooling, key=key
        )

    return score


def prepare(cfg: FinetuneConfig, examples: Examples, start: Start) -> Task:
    """Encode the texts, and say how they are learnt and judged."""
    task, data = cfg.classify, cfg.data
    encoded = [_encode(part, cfg, start.tokenizer) for part in examples]
    _warn_of_truncated(examples, encoded, start)
    width = task.width if task.read_padding else _width(cfg, encoded[0])
    weights = np.ones(len(examples.train.names), np.float32)
    if task.balance == "weights":
        weights = labelled.class_weights(examples.train.labels, len(weights))
    train, validation, test = (
        functools.partial(
            labelled.collate_texts,
            encoded=ids,
            labels=part.labels,
            weights=weights if part is examples.train else np.ones_like(weights),
            # What is longer than the texts to learn from is read whole all the same.
            width=None if width is None else max(width, int(ids.lengths.max())),
        )
        for part, ids in zip(examples, encoded, strict=True)
    )
    judge = _judge(cfg, start)
    n_train, n_validation, n_test = (len(part.texts) for part in examples)
    size = cfg.loop.eval_batch_size or data.batch_size

    def evaluate(params: Params) -> dict[str, float]:
        count = cfg.loop.eval_batches
        figures = {}
        for name, collate, n in (
            ("training", train, n_train),
            ("validation", validation, n_validation),
        ):
            batches = example_batches.ordered_batches(n, size, collate, count=count)
            loss, matrix = judge(params, batches)
            accuracy = float(np.trace(matrix) / max(matrix.sum(), 1))
            figures |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        return figures

    def report(params: Params) -> dict[str, Any]:
        batches = example_batches.ordered_batches(n_test, size, test)
        loss, matrix = judge(params, batches)
        return {"loss": loss} | scores.report(matrix, examples.test.names)

    return Task(
        batches=tasks.training_batches(
            example_batches.shuffled_plan(
                n_train, data.batch_size, seed=cfg.seed, drop_last=data.drop_last
            ),
            train,
            cfg,
            start.mesh,
        ),
        loss_sum=functools.partial(loss_sum, score=scorer(task)),
        unit="texts",
        evaluate=evaluate,
        facts={"train": n_train, "validation": n_validation, "test": n_test},
        test=report,
    )


def _judge(
    cfg: FinetuneConfig, start: Start
) -> Callable[[Params, Iterable[TextBatch]], tuple[float, np.ndarray]]:
    """Build the function from a model and batches to its loss and confusion matrix."""
    score, n_classes = scorer(cfg.classify), len(cfg.classify.labels or ())

    @jax.jit
    def step(params: Params, batch: TextBatch) -> tuple[Array, Array, Array]:
        logits = score(params, batch.inputs, batch.lengths, start.model)
        total, count = loss_sum(
            params, batch, start.model, score=lambda *args, key: logits
        )
        pairs = batch.labels * n_classes + logits.argmax(1)
        matrix = jnp.zeros(n_classes**2, jnp.int32).at[pairs].add(batch.lengths > 0)
        return total, count, matrix

    def judge(params: Params, batches: Iterable[TextBatch]) -> tuple[float, np.ndarray]:
        sums = [step(params, tasks.place_batch(batch, start.mesh)) for batch in batches]
        totals, counts, matrices = zip(*jax.device_get(sums), strict=True)
        matrix = np.sum(matrices, axis=0).reshape(n_classes, n_classes)
        return float(np.sum(totals, dtype=np.float64) / max(sum(counts), 1)), matrix

    return judge


def _encode(
    texts: Labelled, cfg: FinetuneConfig, tokenizer: Tokenizer
) -> labelled.Encoded:
    bound = max_length(cfg, cfg.model)
    return labelled.encode_texts(texts.texts, tokenizer, max_length=bound)


def _warn_of_truncated(
    examples: Examples, encoded: list[labelled.Encoded], start: Start
) -> None:
    cut = sum(int(part.truncated.sum()) for part in encoded)
    if cut:
        n = sum(len(part.texts) for part in examples)
        width = encoded[0].ids.shape[1]
        text = (
            f"{cut:,} of {n:,} texts are longer than {width} tokens and lose their end"
        )
        start.on_event("warning", {"text": text})


def classify_texts(
    params: Params,
    model: GPTConfig,
    tokenizer: Tokenizer,
    cfg: FinetuneConfig,
    texts: Iterable[str],
    *,
    batch_size: int = 32,
) -> Iterable[tuple[str, np.ndarray, bool]]:
    """Tell for each text its label, and how probable each label is.

    Args:
      cfg: of the run that the classifier comes from.

    Yields:
      the label; (K,) float32 probabilities in the order of cfg.classify.labels; and
      whether the text was too long, and its end not read.

    Raises:
      DataError: a text has no token.
    """
    task, score = cfg.classify, scorer(cfg.classify)
    names, bound = task.labels or (), max_length(cfg, model)
    least = (task.width or 1) if task.read_padding else 1
    step = jax.jit(lambda params, ids, lengths: score(params, ids, lengths, model))
    for group in _groups(texts, batch_size):
        encoded = labelled.encode_texts(group, tokenizer, max_length=bound)
        filled = example_batches.fill_up(np.arange(len(group)), batch_size)
        # Widths in powers of two, so that few are compiled.
        longest = max(least, int(encoded.lengths.max()))
        width = min(bound, 1 << (longest - 1).bit_length())
        logits = step(params, encoded.ids[filled, :width], encoded.lengths[filled])
        shares = np.asarray(jax.nn.softmax(logits, axis=1))
        for share, cut in zip(shares, encoded.truncated, strict=False):
            yield names[int(share.argmax())], share, bool(cut)


def _groups(texts: Iterable[str], size: int) -> Iterable[list[str]]:
    iterator = iter(texts)
    while group := list(itertools.islice(iterator, size)):
        yield group


KIND = Kind(
    read=read,
    texts=lambda examples: examples.train.texts,
    fit=fit,
    prepare=prepare,
    complete=complete,
)
