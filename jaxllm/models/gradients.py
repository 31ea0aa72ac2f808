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

# The axes that are contracted: A @ B, A @ B.T, and A.T @ B.
_MATRICES, _COLUMNS, _ROWS = ((1,), (0,)), ((1,), (1,)), ((0,), (0,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def affine(
    x: Array,
    kernels: tuple[Array, ...],
    biases: tuple[Array | None, ...],
    dtype: jnp.dtype,
) -> tuple[Array, ...]:
    """Multiply (R, I) in `dtype` by each of several (I, O), and add the (O,) of each.

    The gradient of a kernel is one product contracted over the rows, in the layout of
    the kernel; on an accelerator, kernels of one shape share it, and that of x. What is
    kept is x in `dtype`.
    """
    return _affine(x, kernels, biases, dtype)[0]


def _affine(x, kernels, biases, dtype):
    saved = x.astype(dtype)
    ys = []
    for kernel, bias in zip(kernels, biases, strict=True):
        y = _product(saved, kernel.astype(dtype), _MATRICES, dtype)
        ys.append(y if bias is None else y + bias.astype(dtype)[None])
    return tuple(ys), (saved, kernels, biases, jnp.zeros((), x.dtype))


def _affine_gradient(dtype, saved, dys):
    x, kernels, biases, like = saved
    dys = [dy.astype(dtype) for dy in dys]
    dbiases = tuple(
        bias if bias is None else dy.sum(axis=0, dtype=jnp.float32).astype(bias.dtype)
        for dy, bias in zip(dys, biases, strict=True)
    )
    alike = len({kernel.shape for kernel in kernels}) == 1
    if alike and jax.default_backend() != "cpu":
        # Side by side along an axis of their own: O may be split over devices.
        dy = jnp.stack(dys, axis=1)  # (R, n, O)
        kernel = jnp.stack([kernel.astype(dtype) for kernel in kernels], axis=1)
        dx = _product(dy, kernel, ((1, 2), (1, 2)), dtype)
        dkernel = _product(x, dy, _ROWS, jnp.float32)  # (I, n, O)
        dkernels = tuple(dkernel[:, i] for i in range(len(kernels)))
    else:
        first, *others = (
            _product(dy, kernel.astype(dtype), _COLUMNS, dtype)
            for dy, kernel in zip(dys, kernels, strict=True)
        )
        dx = sum(others, first)
        dkernels = tuple(_product(x, dy, _ROWS, jnp.float32) for dy in dys)
    like_kernels = zip(dkernels, kernels, strict=True)
    dkernels = tuple(one.astype(kernel.dtype) for one, kernel in like_kernels)
    return dx.astype(like.dtype), dkernels, dbiases


affine.defvjp(_affine, _affine_gradient)


def _afresh(x, dy):
    """Give x once more, so that what is computed of it is not what is known already.

    XLA on a CPU drops barriers, but can't know that 0 dy is 0.
    """
    if jax.default_backend() == "cpu":
        return x + 0 * dy
    return lax.optimization_barrier(x)


def _product(a, b, axes, dtype):
    """Contract axes of two arrays with sums in float32, and round these to `dtype`.

    Matrix units add up in float32 and round as they store. XLA on a CPU would add up in
    the type that is asked for.
    """
    on_cpu = jax.default_backend() == "cpu"
    sums = jnp.float32 if on_cpu else dtype
    y = lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=sums)
    return y.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Normalise (R, D) as `blocks.layer_norm` does; keep x, its mean and deviation."""
    return _layer_norm(x, scale, bias, eps)[0]


def _layer_norm(x, scale, bias, eps):
    y = x.astype(jnp.float32)
    mean = y.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(y - mean).mean(axis=-1, keepdims=True) + eps)
    y = (y - mean) * inverse * scale[None] + bias[None]
    return y.astype(x.dtype), (x, mean, inverse, scale, bias)


def _layer_norm_gradient(eps, saved, dy):
    x, mean, inverse, scale, bias = saved

    def normal(x):
        return (x.astype(jnp.float32) - mean) * inverse

    scaled = dy.astype(jnp.float32) * scale[None]
    along = (scaled * normal(x)).mean(axis=-1, keepdims=True)
    dx = scaled - scaled.mean(axis=-1, keepdims=True) - normal(x) * along
    # Sums along rows and sums along columns do not fuse: XLA would store what they
    # share, as float32.
    if jax.default_backend() != "cpu":
        x, dy = lax.optimization_barrier((x, dy))
    dy = dy.astype(jnp.float32)
    dscale = (dy * normal(x)).sum(axis=0).astype(scale.dtype)
    return (inverse * dx).astype(x.dtype), dscale, dy.sum(axis=0).astype(bias.dtype)


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
    # Lest XLA find the tanh of the forward pass, and keep that too, as float32.
    y = _afresh(x, dy).astype(jnp.float32)
    tanh = jnp.tanh(_SLOPE * (y + _CUBE * y * y * y))
    rise = _SLOPE * (1 + 3 * _CUBE * y * y)
    slope = 0.5 * (1 + tanh) + 0.5 * y * (1 - tanh * tanh) * rise
    return ((slope * dy.astype(jnp.float32)).astype(x.dtype),)


gelu_tanh.defvjp(_gelu, _gelu_gradient)
