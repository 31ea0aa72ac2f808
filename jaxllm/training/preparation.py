"""A config in, everything that a run needs before its first step out.

The order is that of dependence: tokenizer, tokens, mesh, then the shapes of the state,
its shardings, and only then the state itself, which is born where it belongs.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxllm.config import TrainConfig
from jaxllm.data import batches, corpora, token_store, tokenizers
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding, startup
from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.training import checkpoints, evaluation, optimizers, runs, steps
from jaxllm.training.runs import OnEvent
from jaxllm.training.state import TrainState, init_train_state
from jaxllm.types import Array, Batch, Params

LEARNED = ("bpe", "char", "word")

# What may be different when a run goes on: how long, how fast and where.
_FREE = (
    "run_dir loop optimizer mesh model.dtype model.remat model.unroll data.workers"
).split()


class Run(NamedTuple):
    """What the loop works with."""

    cfg: TrainConfig
    tokenizer: tokenizers.Tokenizer
    store: token_store.TokenStore
    mesh: Mesh
    batches: batches.TrainingBatches
    total_steps: int
    learning_rate: Callable[[int], Array]
    state: TrainState
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
    evaluation_step: Callable[[Params, Batch], tuple[Array, Array]]
    token_bytes: np.ndarray


def prepare_run(
    cfg: TrainConfig, *, resume: bool, processes: int, on_event: OnEvent
) -> Run:
    """Make everything that a run needs, or find it where the run was before.

    Raises:
      ConfigError: parts of the config do not go together, or run_dir holds a run.
      CheckpointError: there is nothing to resume, or it was another run.
    """
    mesh = meshes.make_mesh(cfg.mesh)
    check_batch_sizes(cfg, mesh)
    cfg, tokenizer, store = startup.first_alone(
        lambda: open_run_dir(cfg, resume, processes, on_event)
    )
    data = batches.training_batches(
        store.train,
        cfg.model.context_length,
        cfg.data,
        seed=cfg.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    epochs, steps_per_epoch = cfg.loop.epochs or 1, data.plan.batches_per_epoch
    total_steps = cfg.loop.steps or epochs * steps_per_epoch
    optimizer = optimizers.make_optimizer(cfg.optimizer, total_steps)

    create = functools.partial(init_train_state, cfg=cfg.model, optimizer=optimizer)
    key = jax.random.key(cfg.seed)
    shapes = sharding.placed_shapes(jax.eval_shape(create, key), mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    state = restore(cfg, shapes, tokenizer, data, on_event) if resume else None
    if state is None:
        with jax.set_mesh(mesh):
            state = jax.jit(create, out_shardings=places)(key)

    train_step, evaluation_step = compiled_steps(cfg, optimizer, places)
    return Run(
        cfg=cfg,
        tokenizer=tokenizer,
        token_bytes=evaluation.byte_lengths(tokenizer),
        store=store,
        mesh=mesh,
        batches=data,
        total_steps=total_steps,
        learning_rate=optimizers.learning_rate_schedule(cfg.optimizer, total_steps),
        state=state,
        train_step=train_step,
        evaluation_step=evaluation_step,
    )


def compiled_steps(
    cfg: TrainConfig, optimizer: optax.GradientTransformation, places: TrainState
) -> tuple[Callable, Callable]:
    """Decide what training steps and evaluation steps leave open: jit and donation.

    A state goes into the next step's in place, and stays where it is.
    """
    train_step = functools.partial(
        steps.train_step,
        cfg=cfg.model,
        optimizer=optimizer,
        accumulation_steps=cfg.optimizer.accumulation_steps,
    )
    evaluation_step = functools.partial(steps.evaluation_step, cfg=cfg.model)
    return (
        jax.jit(train_step, donate_argnums=0, out_shardings=(places, None)),
        jax.jit(evaluation_step),
    )


def check_batch_sizes(cfg: TrainConfig, mesh: Mesh) -> None:
    """Refuse batches that can't be shared out evenly, before anything is computed."""
    sharding.check_batch_size(
        "data.batch_size", cfg.data.batch_size, mesh, cfg.optimizer.accumulation_steps
    )
    if cfg.loop.eval_batch_size is not None:
        sharding.check_batch_size(
            "loop.eval_batch_size", cfg.loop.eval_batch_size, mesh
        )


def open_run_dir(
    cfg: TrainConfig, resume: bool, processes: int, on_event: OnEvent
) -> tuple[TrainConfig, tokenizers.Tokenizer, token_store.TokenStore]:
    """Begin a run directory, or open the one that is there; fill in the config."""
    run_dir = pathlib.Path(cfg.run_dir)
    begun = runs.read_config(run_dir) if resume or runs.is_run(run_dir) else cfg
    if not resume:
        if runs.has_trained(run_dir):
            raise ConfigError(
                f"{run_dir} holds a run already; resume it, or name another run_dir"
            )
        if (begun.tokenizer, begun.data) != (cfg.tokenizer, cfg.data):
            runs.forget_tokens(run_dir)  # of an attempt that came to nothing
        if jax.process_index() == 0:
            runs.write_config(run_dir, cfg)
    tokenizer = find_tokenizer(cfg, processes)
    store = find_tokens(cfg, tokenizer, processes, on_event)
    cfg = with_vocabulary(cfg, tokenizer)
    if resume:
        require_same_run(cfg, with_vocabulary(begun, tokenizer))
    if jax.process_index() == 0:
        runs.write_config(run_dir, cfg)
    return cfg, tokenizer, store


def find_tokenizer(cfg: TrainConfig, processes: int) -> tokenizers.Tokenizer:
    """Load the tokenizer of a run, or learn it; the run directory then has it."""
    saved = pathlib.Path(cfg.run_dir) / runs.TOKENIZER
    if saved.exists():
        return tokenizers.load(saved)
    corpus = pathlib.Path(cfg.data.corpus)
    if cfg.tokenizer.kind not in LEARNED:
        tokenizer = tokenizers.load(cfg.tokenizer.kind)
    elif token_store.is_store(corpus):
        tokenizer = tokenizers.load(corpus)
    else:
        texts = corpora.documents(cfg.data.corpus, text_column=cfg.data.text_column)
        tokenizer = tokenizers.learn(texts, cfg.tokenizer, processes=processes)
    tokenizers.save(tokenizer, saved)
    return tokenizer


def find_tokens(
    cfg: TrainConfig,
    tokenizer: tokenizers.Tokenizer,
    processes: int,
    on_event: OnEvent,
) -> token_store.TokenStore:
    """Open the token store that the config names, or make one in the run directory."""
    if token_store.is_store(cfg.data.corpus):
        return token_store.open_store(cfg.data.corpus, tokenizer)
    return token_store.prepare(
        cfg.data.corpus,
        tokenizer,
        pathlib.Path(cfg.run_dir) / runs.TOKENS,
        text_column=cfg.data.text_column,
        split=cfg.data.split,
        validation_fraction=cfg.data.validation_fraction,
        workers=processes,
        progress=lambda done, total: on_event("tokenizing", {"characters": done}),
    )


def with_vocabulary(cfg: TrainConfig, tokenizer: tokenizers.Tokenizer) -> TrainConfig:
    """Fill in a vocabulary size of 0, and refuse any other that is not the tokenizer's.

    A model with fewer rows could not read the text; one with more could write tokens
    that nobody can decode.
    """
    wanted, there = cfg.model.vocab_size, tokenizer.vocab_size
    if wanted not in (0, there):
        raise ConfigError(
            f"model.vocab_size must be {there}, the tokenizer's (0 takes it), "
            f"got {wanted}"
        )
    model = dataclasses.replace(cfg.model, vocab_size=there)
    return dataclasses.replace(cfg, model=model)


def require_same_run(cfg: TrainConfig, begun: TrainConfig) -> None:
    """Refuse to go on with settings under which the run would be another.

    >>> require_same_run(TrainConfig(seed=2), TrainConfig(seed=1))
    Traceback (most recent call last):
    jaxllm.errors.CheckpointError: the run was begun with seed = 1, it can't go on with
    seed = 2
    """
    before = dict(_settings(dataclasses.asdict(begun)))
    for key, value in _settings(dataclasses.asdict(cfg)):
        free = any(key == name or key.startswith(f"{name}.") for name in _FREE)
        if not free and before[key] != value:
            raise CheckpointError(
                f"the run was begun with {key} = {before[key]}, "
                f"it can't go on with {key} = {value}"
            )


def restore(
    cfg: TrainConfig,
    like: TrainState,
    tokenizer: tokenizers.Tokenizer,
    data: batches.TrainingBatches,
    on_event: OnEvent,
) -> TrainState | None:
    """Take a run back to its last good checkpoint: state, data and what it wrote.

    Returns None, and takes the run back to its start, where it has no checkpoint yet.
    """
    folder = pathlib.Path(cfg.run_dir) / runs.CHECKPOINTS
    writes = jax.process_index() == 0
    if not checkpoints.steps(folder):
        if writes:
            runs.cut_back(cfg.run_dir, runs.NOTHING_WRITTEN)
        return None
    state = checkpoints.restore_latest(
        folder, like, lambda error: on_event("damaged", {"reason": str(error)})
    )
    step = int(state.step)
    facts = checkpoints.read_facts(folder, step)
    if facts["tokenizer"] != tokenizer.hash:
        raise CheckpointError(
            f"{folder / str(step)} belongs to the tokenizer {facts['tokenizer']}, "
            f"{runs.TOKENIZER} beside it is {tokenizer.hash}"
        )
    data.restore(facts["data"])
    if writes:
        runs.cut_back(cfg.run_dir, facts["sizes"])
        # What is damaged must not count among the last that are kept.
        good = [good for good in checkpoints.steps(folder) if good <= step]
        checkpoints.keep_only(folder, good)
    return state


def _settings(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _settings(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs
