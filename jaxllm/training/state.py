"""A random key in, the state of a training run out: all that a step changes."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.models import gpt
from jaxllm.types import Array, Params

if TYPE_CHECKING:
    import optax


class TrainState(NamedTuple):
    """Where a run stands after `step` steps. A pytree."""

    step: Array  # () int32
    params: Params
    opt_state: "optax.OptState"
    key: Array  # a random key; it stays, and the key of a step is folded from it


def init_train_state(
    key: Array, cfg: GPTConfig, optimizer: "optax.GradientTransformation"
) -> TrainState:
    """Draw the state before the first step.

    >>> import optax
    >>> cfg = GPTConfig(vocab_size=5, emb_dim=2, n_heads=1, n_layers=1)
    >>> state = init_train_state(jax.random.key(0), cfg, optax.sgd(0.1))
    >>> int(state.step), sorted(state.params)
    (0, ['blocks', 'final_norm', 'position_embedding', 'token_embedding'])
    """
    params_key, steps_key = jax.random.split(key)
    return train_state_of(gpt.init_params(params_key, cfg), optimizer, steps_key)


def train_state_of(
    params: Params, optimizer: "optax.GradientTransformation", key: Array
) -> TrainState:
    """Make the state before the first step from parameters that are there already.

    >>> import optax
    >>> params = {"mlp": {"bias": jnp.ones(2)}}
    >>> int(train_state_of(params, optax.sgd(0.1), jax.random.key(0)).step)
    0
    """
    return TrainState(jnp.int32(0), params, optimizer.init(params), key)
