"""The notes' pretraining: ten epochs of GPT-2's smallest shape on one short story.

The run is the library's own, step by step; only its randomness comes from the notes'
stream, in their order: the model, then for each epoch the order of its windows, the
masks of each step, and what every evaluation takes from the stream by looking at data.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.config import DataConfig, GPTConfig, OptimizerConfig
from jaxllm.data import batches, tokenizers, windows
from jaxllm.inference import generate
from jaxllm.notes import book, draws, stream
from jaxllm.training import evaluation, optimizers, state, steps
from jaxllm.types import Batch, Params

CFG = book.GPT_256
EPOCHS = 10
PROMPT = "Every effort moves you"
DATA = DataConfig(batch_size=2, shuffle=False)
OPTIMIZER = OptimizerConfig(
    learning_rate=4e-4,
    schedule="constant",
    warmup_steps=0,
    beta2=0.999,
    weight_decay=0.1,
    decay="all",
    grad_clip=None,
)


class Losses(NamedTuple):
    """Every fifth step's losses, in nats: of five training batches, of validation."""

    step: int
    train: float
    validation: float


class Sample(NamedTuple):
    """The text behind an epoch: fifty tokens that follow `PROMPT`, the likeliest."""

    epoch: int
    text: str


class Finished(NamedTuple):
    """The end of the run."""

    params: Params


def losses(step: int) -> tuple[float, float]:
    """Run the pretraining as far as a step; give its training and validation loss.

    The run is kept and goes on from there when a later line is asked for.
    """
    line = _first(lambda line: isinstance(line, Losses) and line.step == step)
    return line.train, line.validation


def sample(epoch: int) -> str:
    """Run the pretraining as far as the end of an epoch, 1 to 10; give its text."""
    return _first(lambda line: isinstance(line, Sample) and line.epoch == epoch).text


def pretrained() -> Params:
    """Run the whole pretraining, 90 steps, and give its parameters."""
    return _first(lambda line: isinstance(line, Finished)).params


def forget() -> None:
    """Let go of the run that is kept; the next line asked for begins another."""
    _lines.cache_clear()


def split_ids() -> tuple[np.ndarray, np.ndarray]:
    """Cut the story behind nine tenths of its characters, and encode both parts."""
    tokenizer, text = tokenizers.load("gpt2"), book.verdict()
    cut = int(0.9 * len(text))
    return tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:])


def run(epochs: int = EPOCHS) -> Iterator[Losses | Sample | Finished]:
    """Pretrain, and yield each line of the log when the run comes to it."""
    params, source = book.untrained(CFG)
    train_ids, _ = split_ids()
    n_windows = windows.window_count(len(train_ids), CFG.context_length)
    total_steps = epochs * (n_windows // DATA.batch_size)
    optimizer = optimizers.make_optimizer(OPTIMIZER, total_steps)
    # The state is given away at each step, and with it the parameters: keep a copy.
    params = jax.tree.map(lambda leaf: leaf.copy(), params)
    now = state.train_state_of(params, optimizer, jax.random.key(0))
    step = 0
    for epoch in range(1, epochs + 1):
        with _loader(train_ids, source, shuffle=True) as epoch_batches:
            for batch in epoch_batches:
                keep = draws.dropout_masks(source, CFG, *batch.inputs.shape)
                now, _ = _train_step(now, batch, CFG, optimizer, key=keep)
                if step % 5 == 0:
                    yield Losses(step, *_evaluated(now.params, source))
                step += 1
        yield Sample(epoch, continued(now.params, 50))
    yield Finished(now.params)


def continued(params: Params, max_new_tokens: int) -> str:
    """Continue `PROMPT` with the likeliest tokens, line ends shown as blanks."""
    gpt2 = tokenizers.load("gpt2")
    prompt = gpt2.encode(PROMPT).tolist()
    tokens = generate.generate(
        params, prompt, CFG, max_new_tokens=max_new_tokens, temperature=0
    )
    return gpt2.decode(np.asarray(tokens)).replace("\n", " ")


def mean_loss(params: Params, batches: Iterable[Batch], cfg: GPTConfig = CFG) -> float:
    """Average the loss over batches, each target weighing the same."""
    step = functools.partial(_evaluation_step, cfg=cfg)
    return evaluation.evaluate(params, batches, step)["validation_loss"]


_train_step = jax.jit(
    steps.train_step, static_argnames=("cfg", "optimizer"), donate_argnames="state"
)
_evaluation_step = jax.jit(steps.evaluation_step, static_argnames="cfg")


def _evaluated(params: Params, source: stream.Stream) -> tuple[float, float]:
    train_ids, validation_ids = split_ids()
    with _loader(train_ids, source, shuffle=True) as seen:
        train = mean_loss(params, itertools.islice(seen, 5))
    with _loader(validation_ids, source, shuffle=False) as unseen:
        return train, mean_loss(params, unseen)


def _loader(
    ids: np.ndarray, source: stream.Stream, *, shuffle: bool
) -> batches.TrainingBatches:
    """Pass once over the batches of a text as a DataLoader would."""
    count = windows.window_count(len(ids), CFG.context_length)
    order = source.loader_order(count, shuffle=shuffle)
    return batches.training_batches(
        ids, CFG.context_length, DATA, epochs=1, order=order
    )


@functools.cache
def _lines() -> tuple[list[Any], Iterator[Any]]:
    return [], run()


def _first(wanted: Callable[[Any], bool]) -> Any:
    """Find a line in the log so far, or run on until it comes."""
    log, rest = _lines()
    for line in log:
        if wanted(line):
            return line
    for line in rest:
        log.append(line)
        if wanted(line):
            return line
    raise LookupError("the run has no such line")
