"""A config in, everything that a run needs before its first step out.

The order is that of dependence: tokenizer, tokens, mesh, then the shapes of the state,
its shardings, and only then the state itself, which is born where it belongs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm import accounting
from jaxllm.config import LoopConfig, TrainConfig
from jaxllm.data import batches, token_store, tokenizers
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding, startup
from jaxllm.errors import ConfigError, DataError
from jaxllm.models import attention
from jaxllm.training import (
    evaluation,
    optimizers,
    resumption,
    run_text,
    runs,
    steps,
)
from jaxllm.training.runs import OnEvent
from jaxllm.training.state import TrainState, init_train_state
from jaxllm.types import Array, Batch, Params

# Tokens of the validation split that are counted for its entropy; more change nothing.
ENTROPY_TOKENS = 2**24


class Run(NamedTuple):
    """What the loop works with. Of a batch it knows only that it is a pytree of rows.

    The params of the state are what trains. In finetuning that may be less than the
    model, whose rest is then known to train_step, evaluate and sample.
    """

    run_dir: str
    seed: int
    loop: LoopConfig
    tokenizer: tokenizers.Tokenizer
    mesh: Mesh
    batches: resumption.Batches
    total_steps: int
    learning_rate: Callable[[int], Array]
    state: TrainState
    # Its metrics hold loss, grad_norm, and under run.unit the number of targets.
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]
    evaluate: Callable[[Params], dict[str, float]]  # validation_loss among them
    facts: dict[str, Any]  # to tell at the start
    unit: str = "tokens"  # what a loss is the mean over
    flops_per_token: float | None = None
    sample: Callable[[Params, Array], list[str]] | None = None  # given a random key


def prepare_run(
    cfg: TrainConfig, *, resume: bool, processes: int, on_event: OnEvent
) -> tuple[TrainConfig, Run]:
    """Make everything that a run needs, or find it where the run was before.

    Returns:
      the config, with what followed from it filled in, and the run.

    Raises:
      ConfigError: parts of the config do not go together, or run_dir holds a run.
      CheckpointError: there is nothing to resume, or it was another run.
    """
    mesh = meshes.make_mesh(cfg.mesh)
    check_batch_sizes(cfg, mesh)
    cfg, tokenizer, store = startup.first_alone(
        lambda: run_text.open_run_dir(cfg, resume, processes, on_event)
    )
    share = sharding.process_share(mesh)
    data = batches.training_batches(
        store.train,
        cfg.model.context_length,
        cfg.data,
        seed=cfg.seed,
        text=store.digest,
        process_index=share.part,
        process_count=share.parts,
    )
    epochs, steps_per_epoch = cfg.loop.epochs or 1, data.plan.batches_per_epoch
    total_steps = cfg.loop.steps or epochs * steps_per_epoch
    check_held_out(store)
    resumption.require_steps_left(cfg.run_dir, total_steps)
    optimizer = optimizers.make_optimizer(cfg.optimizer, total_steps)

    create = functools.partial(init_train_state, cfg=cfg.model, optimizer=optimizer)
    key = jax.random.key(cfg.seed)
    with jax.set_mesh(mesh):  # as below, so that it is traced once for both
        shapes = sharding.placed_shapes(jax.jit(create).eval_shape(key), mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    state = None
    if resume:
        state = resumption.restore(cfg.run_dir, shapes, tokenizer, data, on_event)
    if state is None:
        with jax.set_mesh(mesh):
            state = jax.jit(
                create, out_shardings=places, compiler_options=_quick_to_compile()
            )(key)
    # Only now, so that a run that can't go on like this keeps the config it has.
    if jax.process_index() == 0:
        runs.write_config(cfg.run_dir, cfg)

    train_step, evaluation_step = compiled_steps(cfg, optimizer, places)
    return cfg, Run(
        run_dir=cfg.run_dir,
        seed=cfg.seed,
        loop=cfg.loop,
        tokenizer=tokenizer,
        mesh=mesh,
        batches=data,
        total_steps=total_steps,
        learning_rate=optimizers.learning_rate_schedule(cfg.optimizer, total_steps),
        state=state,
        train_step=train_step,
        evaluate=functools.partial(
            measure,
            cfg=cfg,
            store=store,
            mesh=mesh,
            step=evaluation_step,
            known=functools.cache(lambda: known_of_text(store, tokenizer)),
        ),
        facts={
            "parameters": accounting.count(cfg.model),
            "attention": attention.choose(
                cfg.model,
                dropout=cfg.model.drop_rate > 0,
                kernels=attention.kernels_here(),
                whole_rows=mesh.shape["sequence"] == 1,
            ),
            "train_tokens": len(store.train),
            "validation_tokens": len(store.validation),
        },
        flops_per_token=accounting.training_flops(cfg.model),
    )


def _quick_to_compile() -> dict[str, Any] | None:
    """Have XLA optimize less what runs once, if it has code to generate for a CPU.

    The same bits, compiled in 1.4 s instead of 2.5; to draw 124M of them then takes 2.6
    s instead of 2.1.
    """
    if jax.default_backend() == "cpu":
        return {"xla_backend_optimization_level": 1}
    return None


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
    # Every process reads the figures.
    everywhere = NamedSharding(places.step.mesh, P())
    return (
        jax.jit(
            train_step,
            donate_argnums=0,
            out_shardings=(places, everywhere),
        ),
        jax.jit(evaluation_step, out_shardings=everywhere),
    )


def measure(
    params: Params,
    *,
    cfg: TrainConfig,
    store: token_store.TokenStore,
    mesh: Mesh,
    step: Callable[[Params, Batch], tuple[Array, Array]],
    known: Callable[[], tuple[np.ndarray, float]],
) -> dict[str, float]:
    """Measure a model on what its run holds out, always on the same part of it.

    Args:
      known: `known_of_text`, which no run need wait for before its first step.
    """
    token_bytes, entropy = known()
    everything = cfg.loop.eval_batches is None
    share = sharding.process_share(mesh)
    held_out = batches.evaluation_batches(
        store.validation,
        cfg.model.context_length,
        cfg.loop.eval_batch_size or cfg.data.batch_size,
        count=cfg.loop.eval_batches,
        tail=everything or len(store.validation) <= cfg.model.context_length,
        process_index=share.part,
        process_count=share.parts,
    )
    figures = evaluation.evaluate(
        params,
        held_out,
        step,
        token_bytes=token_bytes,
        place=functools.partial(sharding.place_batch, mesh=mesh),
        copies=share.copies,
    )
    return figures | {"unigram_entropy": entropy}


def known_of_text(
    store: token_store.TokenStore, tokenizer: tokenizers.Tokenizer
) -> tuple[np.ndarray, float]:
    """Count the bytes of each token; compute the entropy of those held out."""
    held_out = store.validation[:ENTROPY_TOKENS]
    return evaluation.byte_lengths(tokenizer), evaluation.unigram_entropy(held_out)


def check_held_out(store: token_store.TokenStore) -> None:
    """Refuse a text that nothing can be measured on, before anything is trained."""
    if len(store.validation) < 2:
        raise DataError(
            "at least 2 tokens must be held out, a token and its target, got "
            f"{len(store.validation)}; raise data.validation_fraction"
        )


def check_batch_sizes(cfg: TrainConfig, mesh: Mesh) -> None:
    """Refuse batches that can't be shared out evenly, before anything is computed."""
    if cfg.model.context_length % mesh.shape["sequence"]:
        raise ConfigError(
            f"model.context_length must be a multiple of {mesh.shape['sequence']} "
            f"(mesh sequence), got {cfg.model.context_length}"
        )
    sharding.check_batch_size(
        "data.batch_size", cfg.data.batch_size, mesh, cfg.optimizer.accumulation_steps
    )
    if cfg.loop.eval_batch_size is not None:
        sharding.check_batch_size(
            "loop.eval_batch_size", cfg.loop.eval_batch_size, mesh
        )
