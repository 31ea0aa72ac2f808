"""A finetuning config in, everything that a run needs before its first step out.

The order is that of dependence: examples, base, the model made fit for the task, the
task; then the state of what trains, born where it belongs, and what does not train.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxllm.config import GPTConfig
from jaxllm.data import tokenizers
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding
from jaxllm.errors import ConfigError
from jaxllm.finetuning import opening, parts
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.finetuning.kinds import KINDS
from jaxllm.finetuning.tasks import Start, Task
from jaxllm.models import gpt
from jaxllm.training import checkpoints, optimizers, resumption, runs, steps
from jaxllm.training import state as states
from jaxllm.training.preparation import Run
from jaxllm.training.run_text import LEARNED
from jaxllm.training.runs import OnEvent
from jaxllm.training.state import TrainState
from jaxllm.types import Array, Params


class Prepared(NamedTuple):
    """A run, and what is needed at its end."""

    cfg: FinetuneConfig  # with what followed from it filled in
    run: Run
    task: Task
    whole: Callable[[Params], Params]  # from what trains to the whole model


class Origin(NamedTuple):
    """A base, made fit for a task."""

    params: Params
    model: GPTConfig
    tokenizer: tokenizers.Tokenizer
    digest: str | None  # of the base as it was read, where it is not kept
    new_tokens: int  # rows of the vocabulary that the base did not know


def prepare_run(
    cfg: FinetuneConfig, *, resume: bool, processes: int, on_event: OnEvent
) -> Prepared:
    """Make everything that a run needs, or find it where the run was before.

    Raises:
      ConfigError: parts of the config do not go together, or run_dir holds a run.
      DataError: the examples are not what the task asks for.
      CheckpointError: base or run cannot be read, or it was another run.
    """
    mesh = meshes.make_mesh(cfg.mesh)
    check_batch_sizes(cfg, mesh)
    if not resume and runs.has_trained(cfg.run_dir):
        raise ConfigError(
            f"{cfg.run_dir} holds a run already; resume it, or name another run_dir"
        )
    begun = runs.read_config(cfg.run_dir, FinetuneConfig) if resume else cfg
    resume = resume and bool(_saved_steps(cfg))
    kind = KINDS[cfg.task]
    cfg, examples = kind.read(cfg)
    origin = functools.cache(
        lambda: find_origin(
            cfg,
            lambda: kind.texts(examples),
            kind.special_tokens(cfg, examples),
            processes,
        )
    )
    tokenizer_file = pathlib.Path(cfg.run_dir) / runs.TOKENIZER
    if resume:
        tokenizer = tokenizers.load(tokenizer_file)
        model = resumed_model(cfg, begun.model)
        new_tokens = begun.trainable.new_tokens
    else:
        model, tokenizer = origin().model, origin().tokenizer
        new_tokens = origin().new_tokens
    cfg = dataclasses.replace(
        cfg, model=model, trainable=cfg.trainable.with_new_tokens(new_tokens)
    )
    cfg = kind.complete(cfg, examples, tokenizer)
    if resume:
        begun = kind.complete(begun, examples, tokenizer)
        resumption.require_same_run(cfg, begun)
    elif jax.process_index() == 0:
        tokenizers.save(tokenizer, tokenizer_file)
        runs.write_config(cfg.run_dir, cfg)

    start = Start(lambda: origin().params, model, tokenizer, mesh, on_event)
    task = kind.prepare(cfg, examples, start)
    epochs, steps_per_epoch = cfg.loop.epochs or 1, task.batches.batches_per_epoch
    total_steps = cfg.loop.steps or epochs * steps_per_epoch
    optimizer = optimizers.make_optimizer(cfg.optimizer, total_steps)

    key, steps_key = jax.random.split(jax.random.fold_in(jax.random.key(cfg.seed), 1))

    def create(params: Params) -> tuple[TrainState, Params]:
        trained, frozen = parts.split(params, cfg.trainable, key=key)
        return states.train_state_of(trained, optimizer, steps_key), frozen

    shapes = sharding.placed_shapes(
        jax.eval_shape(lambda: create(opening.drawn_params(cfg, key))), mesh
    )
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    if resume:
        resumption.require_steps_left(cfg.run_dir, total_steps)
        frozen = opening.read_frozen(cfg.run_dir, cfg, shapes[1])
        state = resumption.restore(
            cfg.run_dir, shapes[0], tokenizer, task.batches, on_event
        )
        assert state is not None
        if jax.process_index() == 0:  # What is refused above changes nothing.
            runs.write_config(cfg.run_dir, cfg)
    else:
        if jax.process_index() == 0:
            runs.cut_back(cfg.run_dir, runs.NOTHING_WRITTEN)
        params = jax.device_put(
            origin().params, sharding.tree_shardings(origin().params, mesh)
        )
        with jax.set_mesh(mesh):
            state, frozen = jax.jit(create, out_shardings=places)(params)
        opening.keep_base(cfg.run_dir, frozen, cfg.base, origin().digest)
    origin.cache_clear()

    whole = functools.partial(parts.join, frozen=frozen, cfg=cfg.trainable)
    sample = task.sample
    run = Run(
        run_dir=cfg.run_dir,
        seed=cfg.seed,
        loop=cfg.loop,
        tokenizer=tokenizer,
        mesh=mesh,
        batches=task.batches,
        total_steps=total_steps,
        learning_rate=optimizers.learning_rate_schedule(cfg.optimizer, total_steps),
        state=state,
        train_step=compiled_step(cfg, task, optimizer, places[0], frozen),
        evaluate=lambda trained: task.evaluate(whole(trained)),
        facts=task.facts | count_parameters(state.params, frozen),
        unit=task.unit,
        sample=sample and (lambda trained, key: sample(whole(trained), key)),
    )
    return Prepared(cfg, run, task, whole)


def resumed_model(cfg: FinetuneConfig, begun: GPTConfig) -> GPTConfig:
    """Find the model of a run that goes on, from a config as it was first given.

    Of a model such a config says nothing, where there is a base, or not yet what the
    tokenizer and the task make of it.
    """
    if cfg.base.source is not None and cfg.model == GPTConfig():
        return cfg.base.changed(begun)
    model = cfg.model
    if not model.vocab_size:
        model = dataclasses.replace(model, vocab_size=begun.vocab_size)
    return opening.fitted_model(cfg, model)


def find_origin(
    cfg: FinetuneConfig,
    texts: Callable[[], Any],
    special_tokens: Sequence[str],
    processes: int,
) -> Origin:
    """Open a run's base, or draw one, and make it fit for the task.

    Args:
      texts: gives those that a tokenizer is learned from, where one is.
      special_tokens: that the tokenizer must have.
    """
    base, digest, new_tokens = cfg.base, None, 0
    key, fit_key = jax.random.split(jax.random.key(cfg.seed))
    if base.source is None:
        tokenizer = _make_tokenizer(cfg, texts, processes)
        tokenizer = _with_special_tokens(tokenizer, special_tokens)
        if cfg.model.vocab_size not in (0, tokenizer.vocab_size):
            raise ConfigError(
                f"model.vocab_size must be {tokenizer.vocab_size}, the tokenizer's "
                f"(0 takes it), got {cfg.model.vocab_size}"
            )
        model = dataclasses.replace(cfg.model, vocab_size=tokenizer.vocab_size)
        params = gpt.init_params(key, model)
    else:
        params, model, tokenizer = opening.open_base(base.source, base.checkpoint)
        digest = None if base.keep else opening.params_digest(params)
        model, known = base.changed(model), tokenizer.vocab_size
        tokenizer = _with_special_tokens(tokenizer, special_tokens)
        params, model = opening.grow_vocabulary(
            params, model, tokenizer.vocab_size, cfg.seed
        )
        if tokenizer.vocab_size > known:
            new_tokens = model.vocab_size - known
    params, model = KINDS[cfg.task].fit(params, model, cfg, key=fit_key)
    if base.source is not None and cfg.model not in (GPTConfig(), model):
        raise ConfigError(
            "model must be left out where there is a base, whose own it is; "
            "base.drop_rate, base.dtype and base.remat change it"
        )
    return Origin(params, model, tokenizer, digest, new_tokens)


def compiled_step(
    cfg: FinetuneConfig,
    task: Task,
    optimizer: Any,  # as optimizers.make_optimizer gives it
    places: TrainState,
    frozen: Params,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
    """Compile the step of a run: what trains is differentiated, the rest is given."""
    model = cfg.model
    if cfg.trainable.what == "last_blocks":
        # Of a loop over layers that is written out, the compiler drops the backward
        # pass through all that is frozen.
        model = dataclasses.replace(model, unroll=model.n_layers)

    def step(
        state: TrainState, batch: Any, frozen: Params
    ) -> tuple[TrainState, dict[str, Array]]:
        def loss_sum(trained: Params, batch: Any, model: GPTConfig, *, key: Any) -> Any:
            params = parts.join(trained, frozen, cfg.trainable)
            return task.loss_sum(params, batch, model, key=key)

        state, metrics = steps.train_step(
            state,
            batch,
            model,
            optimizer,
            accumulation_steps=cfg.optimizer.accumulation_steps,
            loss_sum=loss_sum,
        )
        return state, metrics | {task.unit: metrics.pop("tokens")}

    compiled = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
    return lambda state, batch: compiled(state, batch, frozen)


def check_batch_sizes(cfg: FinetuneConfig, mesh: jax.sharding.Mesh) -> None:
    """Refuse batches that can't be shared out evenly, before anything is computed."""
    sharding.check_batch_size(
        "data.batch_size", cfg.data.batch_size, mesh, cfg.optimizer.accumulation_steps
    )
    sharding.check_batch_size(
        "loop.eval_batch_size", cfg.loop.eval_batch_size or cfg.data.batch_size, mesh
    )


def count_parameters(trained: Params, frozen: Params) -> dict[str, int]:
    """Count all parameters, and those that train.

    >>> import numpy as np
    >>> count_parameters({"a": np.ones(2)}, {"b": np.ones((2, 3))})
    {'parameters': 8, 'trainable_parameters': 2}
    """
    sizes = [
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for part in (trained, frozen)
    ]
    return {"parameters": sum(sizes), "trainable_parameters": sizes[0]}


def _make_tokenizer(
    cfg: FinetuneConfig, texts: Callable[[], Any], processes: int
) -> tokenizers.Tokenizer:
    if cfg.tokenizer.kind not in LEARNED:
        return tokenizers.load(cfg.tokenizer.kind)
    return tokenizers.learn(texts(), cfg.tokenizer, processes=processes)


def _with_special_tokens(
    tokenizer: tokenizers.Tokenizer, names: Sequence[str]
) -> tokenizers.Tokenizer:
    fresh = [name for name in names if name not in tokenizer.special_tokens]
    return tokenizers.add_special_tokens(tokenizer, fresh) if fresh else tokenizer


def _saved_steps(cfg: FinetuneConfig) -> list[int]:
    return checkpoints.steps(pathlib.Path(cfg.run_dir) / runs.CHECKPOINTS)
