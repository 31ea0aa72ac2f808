"""Low-rank adaptation: parameters in, small factors to train out; both in, merged out.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3: a
kernel W stays as it is, and W + (alpha / rank) a b takes its place, where a and b meet
in an axis of only `rank`. What a model does is a function of merged parameters; so a
gradient for the adapter is that of loss(merge_lora(params, lora)).
"""

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm import paths
from jaxllm.errors import ConfigError
from jaxllm.types import Array, Params

Rules = tuple[tuple[str, str | None], ...]
"""Paths of kernels, and how a and b make one: r is the rank, l the layer, and the first
factor has the axes that the kernel's input has. None leaves a parameter alone."""

_QUERY_KEY_VALUE = "ldr,lrnh->ldnh"

ALL_LINEAR: Rules = (
    ("attention/(query|key|value)/kernel$", _QUERY_KEY_VALUE),
    ("attention/out/kernel$", "lnhr,lrd->lnhd"),
    ("mlp/up/kernel$", "ldr,lrf->ldf"),
    ("mlp/down/kernel$", "lfr,lrd->lfd"),
    ("^classifier/kernel$", "dr,rk->dk"),
    ("^head/embedding$", "rd,vr->vd"),
    ("", None),
)
BLOCKS_LINEAR: Rules = (*ALL_LINEAR[:4], ("", None))
QUERY_AND_VALUE: Rules = (
    ("attention/(query|value)/kernel$", _QUERY_KEY_VALUE),
    ("", None),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lora:
    """An adapter: a pytree whose arrays are all there is to train and to save."""

    adapters: Params
    """Those of the parameters that are adapted, with {"a": ..., "b": ...} for each."""
    rules: Rules = dataclasses.field(metadata={"static": True})
    """How each pair makes a kernel."""
    scale: float = dataclasses.field(metadata={"static": True})
    """alpha / rank."""


def init_lora(
    key: Array,
    params: Params,
    rules: Rules = ALL_LINEAR,
    rank: int = 8,
    alpha: float = 16.0,
) -> Lora:
    """Draw an adapter that changes nothing yet: b is zero.

    a is uniform within 1 / sqrt(inputs), as is the custom since the authors' own code.
    A pair's start depends on the key and its path, not on what else is adapted.

    Args:
      params: arrays, or from jax.eval_shape only their shapes.
      rules: which kernels, and how; first match wins.
      rank: of each change, the length of the axis in which a and b meet.
      alpha: scales the change, divided by the rank.

    Raises:
      ConfigError: no parameter is adapted, or a kernel has not the axes of its rule.

    >>> params = {"mlp": {"up": {"kernel": jnp.ones((3, 4, 8)), "bias": jnp.ones(8)}}}
    >>> lora = init_lora(jax.random.key(0), params, rank=2)
    >>> jax.tree.map(jnp.shape, lora.adapters["mlp"]["up"])
    {'kernel': {'a': (3, 4, 2), 'b': (3, 2, 8)}}
    """
    if rank < 1:
        raise ConfigError(f"rank must be >= 1, got {rank}")
    rules = tuple((pattern, equation) for pattern, equation in rules)  # can be hashed

    def draw(path: str, kernel: Any) -> dict[str, Array] | None:
        equation = paths.first_match(path, rules)
        if equation is None:
            return None
        a, b, inputs = factor_shapes(equation, path, kernel.shape, rank)
        limit = 1 / math.sqrt(inputs)
        own_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return {
            "a": jax.random.uniform(own_key, a, minval=-limit, maxval=limit),
            "b": jnp.zeros(b),
        }

    adapters = _present(paths.map_with_path(draw, params))
    if not adapters:
        patterns = ", ".join(pattern for pattern, equation in rules if equation)
        raise ConfigError(f"some parameter must be adapted, none matches {patterns}")
    return Lora(adapters, rules, alpha / rank)


def merge_lora(params: Params, lora: Lora) -> Params:
    """Add an adapter's change to the parameters that it was made for.

    >>> params = {"classifier": {"kernel": jnp.zeros((2, 2))}}
    >>> pair = {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0]])}
    >>> lora = Lora({"classifier": {"kernel": pair}}, ALL_LINEAR, scale=0.5)
    >>> merge_lora(params, lora)["classifier"]["kernel"].tolist()
    [[1.5, 2.0], [3.0, 4.0]]
    """

    def merge(path: str, kernel: Array) -> Array:
        pair: Any = lora.adapters
        for name in path.split("/"):
            pair = pair.get(name, {})
        if not pair:
            return kernel
        equation: Any = paths.first_match(path, lora.rules)
        change = jnp.einsum(equation, pair["a"], pair["b"])
        return kernel + lora.scale * change.astype(kernel.dtype)

    return paths.map_with_path(merge, params)


def factor_shapes(
    equation: str, path: str, shape: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Read the shapes of a and b, and how many inputs a kernel has, from its rule.

    >>> factor_shapes("lnhr,lrd->lnhd", "attention/out/kernel", (3, 2, 4, 8), 1)
    ((3, 2, 4, 1), (3, 1, 8), 8)
    """
    factors, kernel = equation.split("->")
    if len(kernel) != len(shape):
        raise ConfigError(
            f"{path} must have the axes {kernel} of its rule {equation}, "
            f"got shape {shape}"
        )
    sizes = dict(zip(kernel, shape, strict=True)) | {"r": rank}
    a, b = factors.split(",")
    inputs = math.prod(sizes[letter] for letter in set(a) - set(b))
    return tuple(sizes[x] for x in a), tuple(sizes[x] for x in b), inputs


def _present(tree: Any) -> Any:
    """Leave out of nested dicts what is None, and dicts of which nothing is left."""
    if not isinstance(tree, dict):
        return tree
    kept = {name: _present(sub) for name, sub in tree.items()}
    return {
        name: sub
        for name, sub in kept.items()
        if sub is not None and not (isinstance(sub, dict) and not sub)
    }
