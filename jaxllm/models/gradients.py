"""The functions of a block in, the same functions with gradients written by hand out.

What JAX derives is right, but keeps or recomputes more than it needs, and on a CPU asks
for products in a form that runs slowly. Each function here computes what its plain form
computes, which stands where a reader looks for it (`linear.linear`,
`blocks.layer_norm`, `blocks.gelu`), and its tests compare the two. They know no forward
mode (jvp); GPTConfig.gradients = "derived" takes the plain forms.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.types import Array

_ROWS = (((0,), (0,)), ((), ()))  # contract the rows of both operands


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """Multiply in `dtype`, with sums in float32: (R, I) by (I, O), to (R, O).

    The gradient of the kernel is one product contracted over the rows, in the layout of
    the kernel; what is kept is x in `dtype`.
    """
    return _product(x, kernel, dtype)[0]


def _product(x, kernel, dtype):
    saved = x.astype(dtype)
    y = jnp.dot(saved, kernel.astype(dtype), preferred_element_type=jnp.float32)
    return y.astype(dtype), (saved, kernel, jnp.zeros((), x.dtype))


def _product_gradient(dtype, saved, dy):
    x, kernel, like = saved
    dy = dy.astype(dtype)
    dx = lax.dot_general(
        dy, kernel.astype(dtype), (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    dkernel = lax.dot_general(x, dy, _ROWS, preferred_element_type=jnp.float32)
    return dx.astype(like.dtype), dkernel.astype(kernel.dtype)


product.defvjp(_product, _product_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Normalise (R, D) as `blocks.layer_norm` does; keep x, its mean and deviation."""
    return _layer_norm(x, scale, bias, eps)[0]


def _layer_norm(x, scale, bias, eps):
    y = x.astype(jnp.float32)
    mean = y.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(y - mean).mean(axis=-1, keepdims=True) + eps)
    y = (y - mean) * inverse * scale[None] + bias[None]
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_gradient(eps, saved, dy):
    x, mean, inverse, scale = saved
    dy = dy.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    scaled = dy * scale[None]
    along = (scaled * normal).mean(axis=-1, keepdims=True)
    dx = inverse * (scaled - scaled.mean(axis=-1, keepdims=True) - normal * along)
    return dx.astype(x.dtype), (dy * normal).sum(axis=0), dy.sum(axis=0)


layer_norm.defvjp(_layer_norm, _layer_norm_gradient)

_SLOPE, _CUBE = math.sqrt(2 / math.pi), 0.044715


@jax.custom_vjp
def gelu_tanh(x: Array) -> Array:
    """Bend as `blocks.gelu` does by its tanh form; keep x alone."""
    return _gelu(x)[0]


def _gelu(x):
    y = x.astype(jnp.float32)
    tanh = jnp.tanh(_SLOPE * (y + _CUBE * y * y * y))
    return (0.5 * y * (1 + tanh)).astype(x.dtype), x


def _gelu_gradient(x, dy):
    y = x.astype(jnp.float32)
    tanh = jnp.tanh(_SLOPE * (y + _CUBE * y * y * y))
    rise = _SLOPE * (1 + 3 * _CUBE * y * y)
    slope = 0.5 * (1 + tanh) + 0.5 * y * (1 - tanh * tanh) * rise
    return ((slope * dy.astype(jnp.float32)).astype(x.dtype),)


gelu_tanh.defvjp(_gelu, _gelu_gradient)
