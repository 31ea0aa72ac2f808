"""A state and a batch in, the next state and what was measured on the way out.

Pure, and usable un-jitted. Whoever calls decides on jit, donation and mesh.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.models.dropout import Noise
from jaxllm.training import losses
from jaxllm.training.state import TrainState
from jaxllm.types import Array, Batch, Params

# (params, batch, cfg, key=...) -> (sum of losses, number of targets)
LossSum = Callable[..., tuple[Array, Array]]


def train_step(
    state: TrainState,
    batch: Batch,
    cfg: GPTConfig,
    optimizer: optax.GradientTransformation,
    *,
    accumulation_steps: int = 1,
    loss_sum: LossSum = losses.next_token_sum,
    key: Noise = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one optimizer step on a batch.

    Args:
      batch: (B, T); accumulation_steps must divide B.
      accumulation_steps: slices that go through the model one after the other, to
        save memory. The step is that of the whole batch.
      loss_sum: what to minimise, per target.
      key: dropout's random key, or its masks; None derives one from the state.

    Returns:
      the next state, and metrics: loss, tokens, grad_norm (before clipping).

    >>> from jaxllm.training.state import init_train_state
    >>> cfg = GPTConfig(vocab_size=5, emb_dim=2, n_heads=1, n_layers=1)
    >>> optimizer = optax.sgd(0.1)
    >>> state = init_train_state(jax.random.key(0), cfg, optimizer)
    >>> batch = Batch(inputs=jnp.array([[0, 1, 2]]), targets=jnp.array([[1, 2, 3]]))
    >>> step = jax.jit(train_step, static_argnames=("cfg", "optimizer"))
    >>> state, metrics = step(state, batch, cfg, optimizer)
    >>> int(state.step), int(metrics["tokens"])
    (1, 3)
    """
    if key is None:
        key = jax.random.fold_in(state.key, state.step)
    total, count, gradient = summed_gradient(
        lambda params, rows, key: loss_sum(params, rows, cfg, key=key),
        state.params,
        batch,
        key,
        accumulation_steps,
    )
    targets = jnp.maximum(count, 1)
    gradient = jax.tree.map(lambda leaf: leaf / targets, gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": total / targets,
        "tokens": count,
        "grad_norm": optax.global_norm(gradient),
    }
    return TrainState(state.step + 1, params, opt_state, state.key), metrics


def summed_gradient(
    loss_sum: Callable[[Params, Batch, Noise], tuple[Array, Array]],
    params: Params,
    batch: Batch,
    key: Noise,
    slices: int,
) -> tuple[Array, Array, Params]:
    """Sum losses, counted targets and gradients over a batch, slice by slice.

    Each slice has a random key of its own. Only what is summed is divided, by the
    caller and once: rows with few targets weigh as they do in the whole batch.
    """
    differentiate = jax.value_and_grad(loss_sum, has_aux=True)
    if slices == 1:
        (total, count), gradient = differentiate(params, batch, key)
        return total, count, gradient
    if isinstance(key, Mapping):
        raise ConfigError(
            "dropout masks are for a batch in one piece: give a random key, or "
            f"accumulation_steps = 1, got {slices}"
        )

    def add(sums: Any, rows_and_key: tuple[Batch, Array]) -> tuple[Any, None]:
        (total, count), gradient = differentiate(params, *rows_and_key)
        return jax.tree.map(jnp.add, sums, (total, count, gradient)), None

    keys = None if key is None else jax.random.split(key, slices)
    zeros = (jnp.float32(0), jnp.int32(0), jax.tree.map(jnp.zeros_like, params))
    sums, _ = jax.lax.scan(add, zeros, (slice_rows(batch, slices), keys))
    return sums


def slice_rows(batch: Batch, slices: int) -> Batch:
    """Cut the rows of a batch into slices, along a leading axis.

    Row b goes to slice b mod `slices`: where devices hold contiguous rows, each of
    them has its share of every slice, and no row has to travel.

    >>> rows = jnp.array([[0], [1], [2], [3]])
    >>> slice_rows(Batch(rows, rows), 2).inputs[:, :, 0].tolist()
    [[0, 2], [1, 3]]
    """
    B = jax.tree.leaves(batch)[0].shape[0]
    if B % slices:
        raise ConfigError(
            f"accumulation_steps must divide the {B} rows of a batch, got {slices}"
        )

    def cut(rows: Array) -> Array:
        return rows.reshape(B // slices, slices, *rows.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def evaluation_step(
    params: Params,
    batch: Batch,
    cfg: GPTConfig,
    *,
    loss_sum: LossSum = losses.next_token_sum,
) -> tuple[Array, Array]:
    """Sum the losses of a batch, without dropout, and count its targets."""
    return loss_sum(params, batch, cfg, key=None)
