"""Where the rows of a batch lie on a mesh, from the first layer to the loss.

The compiler is told, since it may else split vectors as it finds the matrices split
(fsdp), and send every row to every device, where the matrices should travel.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxllm.types import Array

# The axes of a mesh over which the rows of a batch are split, and the tokens of each.
ROWS, TOKENS = ("data", "fsdp"), "sequence"
# The axis over which heads, hidden units and the vocabulary are.
MODEL = "tensor"


def keep_apart(x: Array) -> Array:
    """Leave x (B, T, D) with the devices that have its rows, where a mesh is set.

    >>> keep_apart(jax.numpy.ones((2, 3, 4))).shape
    (2, 3, 4)
    """
    if not _is_split(x.shape):
        return x
    return lax.with_sharding_constraint(x, P(ROWS, TOKENS))


def sum_apart(work: Callable[..., Any], *apart: Array, whole: Any = ()) -> Any:
    """Let each device of a mesh sum over the rows that it has, and add up the sums.

    Args:
      work: (whole, *apart) -> a tree of sums, and a tree of (B, T, ...).
      apart: (B, T, ...) each, of which a device works on its part.
      whole: a tree of what each device needs whole.

    >>> ones = jax.numpy.ones((2, 3))
    >>> sum_apart(lambda scale, x: (x.sum() * scale, x), ones, whole=2.0)[0].tolist()
    12.0
    """
    if not _is_split(apart[0].shape):
        return work(whole, *apart)
    axes = (*ROWS, TOKENS)

    def add_up(whole: Any, *apart: Array) -> Any:
        sums, rest = work(whole, *apart)
        return lax.psum(sums, axes), rest

    here = P(ROWS, TOKENS)
    return jax.shard_map(
        add_up,
        in_specs=(P(), *(here for _ in apart)),
        out_specs=(P(), here),
        axis_names=set(axes),  # the compiler splits the work further over the others
        check_vma=False,
    )(whole, *apart)


def split_vocabulary(head: Array) -> Array:
    """Let devices that split the model score a part each of the tokens, head (V, D).

    >>> split_vocabulary(jax.numpy.ones((4, 2))).shape
    (4, 2)
    """
    devices = jax.sharding.get_abstract_mesh().shape.get(MODEL, 1)
    if devices == 1 or head.shape[0] % devices:
        return head
    return lax.with_sharding_constraint(head, P(MODEL))


def _is_split(shape: tuple[int, ...]) -> bool:
    """Find out whether there is a mesh that splits (B, T, ...), and does so evenly."""
    sizes = jax.sharding.get_abstract_mesh().shape
    if not sizes:
        return False
    n_rows, n_tokens = sizes[ROWS[0]] * sizes[ROWS[1]], sizes[TOKENS]
    even = not (shape[0] % n_rows or shape[1] % n_tokens)
    return even and n_rows * n_tokens > 1
