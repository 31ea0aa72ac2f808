"""Vectors in, projected vectors out: the layer that holds nearly every parameter."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxllm.config import GPTConfig
from jaxllm.models import gradients
from jaxllm.models.packed import Packed, product
from jaxllm.types import Array


class Linear(nn.Module):
    """x @ kernel + bias over the trailing `inputs` axes of x.

    Parameters: kernel inputs + outputs, bias outputs, both float32. A projection whose
    output is added to the residual stream says so, for GPT-2's smaller initial values.
    """

    cfg: GPTConfig
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bias: bool = True
    residual: bool = False

    def __call__(self, x: Array) -> Array:
        (y,) = side_by_side(x, [self])
        return y

    @nn.compact
    def weights(self) -> tuple[Array | Packed, Array | None]:
        """Give the kernel, or what decoding has in its place, and the bias."""
        kernel_init, bias_init = initializers(
            self.cfg, fan_in=math.prod(self.inputs), residual=self.residual
        )
        kernel = self.get_variable("params", "kernel")
        if not isinstance(kernel, Packed):
            kernel = self.param("kernel", kernel_init, self.inputs + self.outputs)
        bias = self.param("bias", bias_init, self.outputs) if self.bias else None
        return kernel, bias


def side_by_side(x: Array, layers: Sequence[Linear]) -> list[Array]:
    """Apply linear layers that read the same x, of one config and the same inputs."""
    cfg, n_inputs = layers[0].cfg, len(layers[0].inputs)
    weights: Any = [layer.weights() for layer in layers]
    if isinstance(weights[0][0], Packed):
        return [packed_linear(x, kernel, bias, n_inputs) for kernel, bias in weights]
    dtype = jnp.dtype(cfg.dtype)
    if cfg.gradients == "written":
        return fast_linears(x, weights, n_inputs, dtype)
    return [linear(x, kernel, bias, n_inputs, dtype) for kernel, bias in weights]


def linear(
    x: Array, kernel: Array, bias: Array | None, n_inputs: int, dtype: jnp.dtype
) -> Array:
    """Contract the last `n_inputs` axes of x with the first of the kernel; add a bias.

    >>> x, kernel = jnp.array([[1.0, 2.0]]), jnp.array([[1.0], [10.0]])
    >>> linear(x, kernel, jnp.array([0.5]), 1, jnp.dtype("float32"))
    Array([[21.5]], dtype=float32)
    """
    y = jnp.tensordot(x.astype(dtype), kernel.astype(dtype), n_inputs)
    return _shifted(y, bias, x.ndim - n_inputs)


def fast_linears(
    x: Array,
    weights: Sequence[tuple[Array, Array | None]],
    n_inputs: int,
    dtype: jnp.dtype,
) -> list[Array]:
    """Compute `linear` for each layer by matrix products with gradients by hand."""
    lead, size = x.shape[: x.ndim - n_inputs], math.prod(x.shape[x.ndim - n_inputs :])
    ys: tuple[Array, ...] = gradients.affine(
        x.reshape(-1, size),
        tuple(kernel.reshape(size, -1) for kernel, _ in weights),
        tuple(None if bias is None else bias.reshape(-1) for _, bias in weights),
        dtype,
    )
    shapes = [lead + kernel.shape[n_inputs:] for kernel, _ in weights]
    return [y.reshape(shape) for y, shape in zip(ys, shapes, strict=True)]


def packed_linear(x: Array, kernel: Packed, bias: Array | None, n_inputs: int) -> Array:
    """Compute `linear` with a kernel that is stored for decoding."""
    lead = x.shape[: x.ndim - n_inputs]
    vectors = x.reshape(math.prod(lead), -1)
    y = product(vectors, kernel).reshape(*lead, *kernel.outputs)
    return _shifted(y, bias, len(lead)).astype(x.dtype)


def _shifted(y: Array, bias: Array | None, n_lead: int) -> Array:
    if bias is None:
        return y
    return y + jnp.expand_dims(bias.astype(y.dtype), tuple(range(n_lead)))


def initializers(cfg: GPTConfig, fan_in: int, residual: bool = False):
    """Choose the initial values of a kernel and its bias.

    gpt2: N(0, 0.02), scaled by 1 / sqrt(2 n_layers) where the output joins the residual
    stream (Radford et al. 2019, section 2.3: two such projections per block); biases 0.
    pytorch: torch.nn.Linear's uniform within 1 / sqrt(fan_in), for the bias too.
    """
    if cfg.init == "gpt2":
        stddev = 0.02 / math.sqrt(2 * cfg.n_layers) if residual else 0.02
        return nn.initializers.normal(stddev), nn.initializers.zeros

    def uniform(key: Array, shape: tuple[int, ...]) -> Array:
        limit = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    return uniform, uniform
