"""Vectors in, projected vectors out: the layer that holds nearly every parameter."""

import math

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

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel_init, bias_init = initializers(
            self.cfg, fan_in=math.prod(self.inputs), residual=self.residual
        )
        kernel = self.get_variable("params", "kernel")
        if not isinstance(kernel, Packed):
            kernel = self.param("kernel", kernel_init, self.inputs + self.outputs)
        bias = self.param("bias", bias_init, self.outputs) if self.bias else None
        if isinstance(kernel, Packed):
            return packed_linear(x, kernel, bias, len(self.inputs))
        apply = fast_linear if self.cfg.gradients == "written" else linear
        return apply(x, kernel, bias, len(self.inputs), jnp.dtype(self.cfg.dtype))


def linear(
    x: Array, kernel: Array, bias: Array | None, n_inputs: int, dtype: jnp.dtype
) -> Array:
    """Contract the last `n_inputs` axes of x with the first of the kernel; add a bias.

    >>> x, kernel = jnp.array([[1.0, 2.0]]), jnp.array([[1.0], [10.0]])
    >>> linear(x, kernel, jnp.array([0.5]), 1, jnp.dtype("float32"))
    Array([[21.5]], dtype=float32)
    """
    y = jnp.tensordot(x.astype(dtype), kernel.astype(dtype), n_inputs)
    return _shifted(y, bias)


def fast_linear(
    x: Array, kernel: Array, bias: Array | None, n_inputs: int, dtype: jnp.dtype
) -> Array:
    """Compute `linear` as one product of matrices, with its gradient by hand."""
    lead, inputs = x.shape[: x.ndim - n_inputs], kernel.shape[:n_inputs]
    outputs = kernel.shape[n_inputs:]
    matrix = kernel.reshape(math.prod(inputs), math.prod(outputs))
    y: Array = gradients.product(x.reshape(-1, math.prod(inputs)), matrix, dtype)
    return _shifted(y.reshape(*lead, *outputs), bias)


def _shifted(y: Array, bias: Array | None) -> Array:
    if bias is not None:
        lead = tuple(range(y.ndim - bias.ndim))
        y = y + jnp.expand_dims(bias.astype(y.dtype), lead)
    return y


def packed_linear(x: Array, kernel: Packed, bias: Array | None, n_inputs: int) -> Array:
    """Compute `linear` with a kernel that is stored for decoding."""
    lead = x.shape[: x.ndim - n_inputs]
    vectors = x.reshape(math.prod(lead), -1)
    y = product(vectors, kernel).reshape(*lead, *kernel.outputs)
    if bias is not None:
        y = y + jnp.expand_dims(bias, tuple(range(len(lead))))
    return y.astype(x.dtype)


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
