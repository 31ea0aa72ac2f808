"""Rules on paths in, what trains and what stays out.

Parameters of all blocks are stacked along a layer axis, so what trains of them is a
matter of layers: a rule's value is True, False, or a slice of the first axis.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import paths
from jaxllm.errors import ConfigError
from jaxllm.types import Array, Params

Rules = Sequence[tuple[str, bool | slice]]

ALL: Rules = (("", True),)
HEAD: Rules = (("^classifier/", True), ("", False))


def last_blocks(count: int) -> Rules:
    """Let the last blocks train, with the final norm and the classifier behind them.

    >>> last_blocks(2)[1]
    ('^blocks/', slice(-2, None, None))
    """
    if count < 1:
        raise ConfigError(f"count must be >= 1, got {count}")
    behind = ("^(final_norm|classifier)/", True)
    return (behind, ("^blocks/", slice(-count, None)), ("", False))


def trainable_mask(params: Params, rules: Rules) -> Any:
    """Tell for each parameter what of it trains.

    Args:
      params: arrays, or from jax.eval_shape only their shapes.

    Returns:
      A tree like params of NumPy booleans that broadcast against the parameters:
      (1, 1, ...), or (L, 1, ...) where a slice of L layers trains.

    >>> params = {"blocks": {"bias": jnp.zeros((3, 2))}, "final_norm": jnp.zeros(2)}
    >>> mask = trainable_mask(params, [("blocks", slice(-1, None)), ("", False)])
    >>> mask["blocks"]["bias"].tolist(), mask["final_norm"].tolist()
    ([[False], [False], [True]], [False])
    """

    def mask(path: str, leaf: Any) -> np.ndarray:
        chosen = paths.first_match(path, rules)
        if isinstance(chosen, bool):
            return np.full((1,) * leaf.ndim, chosen)
        trains = np.zeros((leaf.shape[0],) + (1,) * (leaf.ndim - 1), bool)
        trains[chosen] = True
        return trains

    return paths.map_with_path(mask, params)


def count_trainable(params: Params, masks: Any) -> int:
    """Count the numbers that train; params may be shapes only.

    >>> params = {"bias": jnp.zeros((3, 2))}
    >>> count_trainable(params, trainable_mask(params, [("", slice(-1, None))]))
    2
    """
    counts = jax.tree.map(
        lambda leaf, mask: int(mask.sum()) * math.prod(leaf.shape) // mask.size,
        params,
        masks,
    )
    return sum(jax.tree.leaves(counts))


def stop_gradients(params: Params, masks: Any) -> Params:
    """Return the same parameters, of which only what trains has a gradient.

    So the norm that clipping looks at is that of what moves, and the gradients of
    tables and heads that are frozen whole are never computed.

    >>> masks = {"bias": np.array([True, False])}
    >>> def total(params):
    ...     return stop_gradients(params, masks)["bias"].sum()
    >>> jax.grad(total)({"bias": jnp.array([3.0, 4.0])})["bias"].tolist()
    [1.0, 0.0]
    """
    return keep_frozen(jax.lax.stop_gradient(params), params, masks)


def keep_frozen(before: Params, after: Params, masks: Any) -> Params:
    """Take what trains from the parameters after a step, the rest from those before.

    It stands behind the optimizer, since weight decay moves a parameter without any
    gradient. What is frozen does not change by a bit.

    >>> masks = {"bias": np.array([True, False])}
    >>> before, after = {"bias": jnp.array([1.0, 2.0])}, {"bias": jnp.array([3.0, 4.0])}
    >>> keep_frozen(before, after, masks)["bias"].tolist()
    [3.0, 2.0]
    """

    def choose(old: Array, new: Array, mask: np.ndarray) -> Array:
        if mask.all():
            return new
        return jnp.where(mask, new, old) if mask.any() else old

    return jax.tree.map(choose, before, after, masks)


def split(params: Params, rules: Rules) -> tuple[Params, Params]:
    """Part parameters into what trains and what is frozen; `join` undoes it.

    What is differentiated, updated and saved is then only what trains. A slice of
    layers must go to the last one.

    >>> params = {"blocks": {"bias": jnp.zeros((3, 2))}, "final_norm": jnp.zeros(2)}
    >>> trained, frozen = split(params, [("blocks", slice(-1, None)), ("", False)])
    >>> jax.tree.map(jnp.shape, trained), jax.tree.map(jnp.shape, frozen)
    ({'blocks': {'bias': (1, 2)}}, {'blocks': {'bias': (2, 2)}, 'final_norm': (2,)})
    """
    trained, frozen = _split(params, "", rules)
    if trained is None:
        raise ConfigError(f"some parameter must train, got {', '.join(params)}")
    return trained, frozen or {}


def _split(tree: Any, path: str, rules: Rules) -> tuple[Any, Any]:
    if isinstance(tree, dict):
        start = f"{path}/" if path else ""
        parts = {name: _split(sub, start + name, rules) for name, sub in tree.items()}
        trained, frozen = (
            {name: part[side] for name, part in parts.items() if part[side] is not None}
            for side in (0, 1)
        )
        return trained or None, frozen or None
    chosen = paths.first_match(path, rules)
    if isinstance(chosen, bool):
        return (tree, None) if chosen else (None, tree)
    first, end, _ = chosen.indices(tree.shape[0])
    if end < tree.shape[0]:
        raise ConfigError(f"layers that train must be the last ones, got {chosen}")
    return tree[first:], tree[:first] if first else None


def join(trained: Params, frozen: Params) -> Params:
    """Put together what `split` has parted; layers that train come last.

    >>> join({"bias": jnp.ones(1)}, {"bias": jnp.zeros(2)})["bias"].tolist()
    [0.0, 0.0, 1.0]
    """
    shared = {
        name: join(trained[name], frozen[name])
        if isinstance(trained[name], dict)
        else jnp.concatenate([frozen[name], trained[name]])
        for name in trained.keys() & frozen.keys()
    }
    return frozen | trained | shared
