"""A matrix in, the same matrix as decoding reads it fastest out; and products with it.

Decoding multiplies a few vectors with every matrix of a model, so reading the matrices
is nearly all of its work: they are stored output by output, in fewer bits where asked.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.types import Array

Weights = Literal["float32", "bfloat16", "int8"]

# Of a panel: outputs side by side, and inputs that are summed at a time. Measured for
# GPT-2 124M in int8: 15 GB/s, where 64 or 256 outputs gave 5 to 7.
_WIDTH, _DEPTH = 128, 8
# Vectors up to which a panel is unpacked for each, in registers, not once in memory.
_FEW = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A matrix from n_in to n_out numbers, packed by `pack`."""

    values: Array  # rows (n_out, n_in), or panels: (P, n_in / R, R, 128)
    scale: Array | None  # (n_out,) float32, for int8: what the values are multiples of
    outputs: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """The axes that the n_out numbers are given in."""
    anchor: Array | None = None  # () int32, 0; see `anchored`


def pack(
    matrix: Array, outputs: tuple[int, ...], weights: Weights, *, panels: bool
) -> Packed:
    """Store a matrix for products with a few vectors at a time.

    Args:
      matrix: (n_out, n_in).
      outputs: the axes of the result, whose product is n_out.
      weights: bfloat16 rounds to 8 bits of precision; int8 to multiples of 1/127 of
        the largest weight of each output, so each is off by half a multiple at most.
      panels: for XLA on a CPU: it has no product of other types that is fast there, but
        makes vectors of sums over the 128 outputs of a panel, unpacked in registers.

    >>> matrix = jnp.array([[-127.0, 2.3], [0.0, 1.0]])
    >>> packed = pack(matrix, (2,), "int8", panels=False)
    >>> packed.values.tolist(), packed.scale
    ([[-127, 2], [0, 127]], Array([1.        , 0.00787402], dtype=float32))
    """
    scale = None
    if weights == "int8":
        scale = jnp.abs(matrix).max(axis=1) / 127
        safe = jnp.where(scale > 0, scale, 1)[:, None]
        matrix = jnp.round(matrix / safe).astype(jnp.int8)
    elif weights == "bfloat16":
        matrix = matrix.astype(jnp.bfloat16)
    if panels and weights != "float32":
        matrix = _panels(matrix)
    return Packed(matrix, scale, outputs)


def weights_of(matrix: Packed) -> Weights:
    """Tell in how many bits a matrix was packed.

    >>> weights_of(pack(jnp.ones((1, 1)), (1,), "bfloat16", panels=True))
    'bfloat16'
    """
    if matrix.scale is not None:
        return "int8"
    return "float32" if matrix.values.dtype == jnp.float32 else "bfloat16"


def unpack(matrix: Packed) -> Array:
    """Give the rows of a matrix back as numbers: (n_out, n_in) float32.

    >>> unpack(pack(jnp.array([[-127.0, 2.3]]), (1,), "int8", panels=False)).tolist()
    [[-127.0, 2.0]]
    """
    values = matrix.values.astype(jnp.float32)
    return values if matrix.scale is None else values * matrix.scale[:, None]


def product(x: Array, matrix: Packed) -> Array:
    """Multiply vectors (M, n_in) with a packed matrix: (M, n_out) float32.

    >>> matrix = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> packed = pack(matrix, (3,), "float32", panels=True)
    >>> product(jnp.array([[1.0, 10.0]]), packed).tolist()
    [[21.0, 43.0, 65.0]]
    """
    if matrix.values.ndim == 4 and x.shape[0] <= _FEW:
        y = _product_with_panels(x, matrix)
    else:
        y = lax.dot_general(
            x,
            rows(matrix, x.shape[1]).astype(x.dtype),
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
    y = y[:, : math.prod(matrix.outputs)]
    return y if matrix.scale is None else y * matrix.scale[None]


def anchored(tree, zero: Array):
    """Tie packed matrices to a number that a compiled loop carries, and is always 0.

    XLA unpacks ahead of a loop whatever it can, into as many bytes as were saved. It
    does not where an index depends on the loop.
    """

    def tie(leaf):
        if isinstance(leaf, Packed):
            return dataclasses.replace(leaf, anchor=zero)
        return leaf

    return jax.tree.map(tie, tree, is_leaf=lambda leaf: isinstance(leaf, Packed))


def rows(matrix: Packed, n_in: int) -> Array:
    """Unpack to (n_out or more, n_in), not yet scaled."""
    if matrix.values.ndim == 2:
        return matrix.values
    values = matrix.values
    if values.dtype == jnp.uint32:
        values = jnp.stack(_halves(values), axis=3)  # (P, G, R / 2, 2, 128)
    P, W = values.shape[0], values.shape[-1]
    return jnp.moveaxis(values.reshape(P, -1, W), 1, 2).reshape(P * W, -1)[:, :n_in]


def _panels(matrix: Array) -> Array:
    """(n_out, n_in) to (P, n_in / R, R, 128), padded with zeros.

    Two bfloat16 that follow each other in a sum share an unsigned integer, since XLA
    on a CPU unpacks those 16 bits one by one.
    """
    n_out, n_in = matrix.shape
    matrix = jnp.pad(matrix, ((0, -n_out % _WIDTH), (0, -n_in % _DEPTH)))
    panels = jnp.moveaxis(matrix.reshape(-1, _WIDTH, matrix.shape[1]), 1, 2)
    panels = panels.reshape(panels.shape[0], -1, _DEPTH, _WIDTH)
    if matrix.dtype != jnp.bfloat16:
        return panels
    bits = lax.bitcast_convert_type(panels, jnp.uint16).astype(jnp.uint32)
    return bits[:, :, 0::2] | bits[:, :, 1::2] << 16


def _product_with_panels(x: Array, matrix: Packed) -> Array:
    values = matrix.values
    P, G, R, W = values.shape
    x = x.astype(jnp.float32)
    x = jnp.pad(x, ((0, 0), (0, G * _DEPTH - x.shape[1])))
    x = x.reshape(-1, G, _DEPTH).swapaxes(0, 1)  # (G, M, _DEPTH)
    first = 0 if matrix.anchor is None else matrix.anchor
    per_row = _DEPTH // R
    sums = jnp.zeros((P, G, x.shape[1], W))
    for r in range(R):
        row = lax.dynamic_slice_in_dim(values, r + first, 1, axis=2)  # (P, G, 1, W)
        unpacked = _halves(row) if per_row == 2 else (row.astype(jnp.float32),)
        for i, part in enumerate(unpacked):
            sums = sums + part * x[None, :, :, r * per_row + i, None]
    return sums.sum(axis=1).swapaxes(0, 1).reshape(-1, P * W)


def _halves(pairs: Array) -> tuple[Array, Array]:
    """Turn unsigned integers into the two bfloat16 that each holds, as float32."""
    low, high = pairs << 16, pairs & jnp.uint32(0xFFFF0000)
    return (
        lax.bitcast_convert_type(low, jnp.float32),
        lax.bitcast_convert_type(high, jnp.float32),
    )
