"""Hidden states and the head in, the sum of losses out, with the logits never whole.

Over 50,257 tokens the logits are the largest array of a training step, and their
gradient is another. Here tokens go through the head a chunk at a time. When a gradient
is asked for, each chunk's is made at once, while its logits are at hand: the head is
multiplied three times, as it would be anyhow, and only what is as large as the hidden
states and the head is kept. `losses.cross_entropy_sum` of `gpt.unembed` is the plain
form.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models import shares
from jaxllm.types import Array

# Bytes of a chunk's logits. On a CPU they should stay near the cache; an accelerator
# wants products large enough to fill it.
_CPU_BYTES, _ACCELERATOR_BYTES = 2**26, 2**30
# Matrix units want even numbers of rows: GPT-2's 50,257 become 50,304.
_MULTIPLE = 64


def cross_entropy_sum(
    hidden: Array, head: Array, targets: Array, mask: Array | None, dtype: jnp.dtype
) -> tuple[Array, Array]:
    """Sum -log softmax(hidden @ head.T)[target] over the targets that count.

    Args:
      hidden: (B, T, D).
      head: (V, D) float32.
      targets: (B, T) int32.
      mask: (B, T) bool, True = counts; None counts every target.
      dtype: of the products, and on an accelerator of the logits that go through its
        memory; sums, softmax and the head's gradient are float32.

    Returns:
      the sum in nats, float32, and the number of targets counted, int32.

    >>> total, count = cross_entropy_sum(jnp.ones((1, 2, 3)), jnp.zeros((4, 3)),
    ...                                  jnp.array([[0, 3]]), None, jnp.float32)
    >>> round(float(total), 4), int(count)  # two tokens, log 4 each
    (2.7726, 2)
    """
    if mask is None:
        mask = jnp.ones(targets.shape, bool)
    return _summed(hidden, head, targets, mask, dtype), mask.sum(dtype=jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _summed(hidden, head, targets, mask, dtype):
    def work(matrix, *apart):
        def add(total, chunk):
            rows, targets, mask = chunk
            logits = _logits(rows, matrix, head.shape[0])
            return total + _losses(logits, targets, mask)[0].sum(), None

        return lax.scan(add, jnp.float32(0), _cut(*apart, vocab_size=head.shape[0]))

    matrix = _padded(head, dtype)
    total, _ = shares.sum_apart(work, hidden.astype(dtype), targets, mask, whole=matrix)
    return total


def _summed_and_gradients(hidden, head, targets, mask, dtype):
    def work(matrix, hidden, targets, mask):
        B, T, D = hidden.shape

        def add(sums, chunk):
            total, dhead = sums
            rows, targets, mask = chunk  # (B, t, D), (B, t), (B, t)
            logits = _logits(rows, matrix, head.shape[0])
            losses, log_sums = _losses(logits, targets, mask)
            hit = lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
            dlogits = jnp.exp(logits - log_sums[..., None]) - hit
            dlogits = jnp.where(mask[..., None], dlogits, 0.0).astype(dtype)
            drows = _einsum("btv,vd->btd", dlogits, matrix).astype(hidden_dtype)
            dhead = dhead + _einsum("btv,btd->vd", dlogits, rows)
            return (total + losses.sum(), dhead), drows

        start = (jnp.float32(0), jnp.zeros(matrix.shape, jnp.float32))
        chunks = _cut(hidden, targets, mask, head.shape[0])
        sums, dhidden = lax.scan(add, start, chunks)  # dhidden (n, B, t, D)
        return sums, dhidden.swapaxes(0, 1).reshape(B, -1, D)[:, :T]

    hidden_dtype, matrix = hidden.dtype, _padded(head, dtype)
    (total, dhead), dhidden = shares.sum_apart(
        work, hidden.astype(dtype), targets, mask, whole=matrix
    )
    return total, (dhidden, dhead[: head.shape[0]].astype(head.dtype))


def _scaled(dtype, gradients, dtotal):
    dhidden, dhead = gradients
    scaled = ((dx * dtotal).astype(dx.dtype) for dx in (dhidden, dhead))
    return *scaled, None, None


_summed.defvjp(_summed_and_gradients, _scaled)


def _padded(head: Array, dtype: jnp.dtype) -> Array:
    """Cast the head, with rows of zeros up to a multiple of 64."""
    padding = (0, -head.shape[0] % _MULTIPLE)
    return shares.split_vocabulary(jnp.pad(head.astype(dtype), (padding, (0, 0))))


def _logits(rows: Array, matrix: Array, vocab_size: int) -> Array:
    """Score all tokens, (B, t, V padded) float32; padding never wins anything."""
    stored = jnp.float32 if jax.default_backend() == "cpu" else rows.dtype
    logits = jnp.einsum("btd,vd->btv", rows, matrix, preferred_element_type=stored)
    logits = logits.astype(jnp.float32)
    real = jnp.arange(matrix.shape[0]) < vocab_size
    return jnp.where(real[None, None], logits, jnp.finfo(jnp.float32).min)


def _losses(logits: Array, targets: Array, mask: Array) -> tuple[Array, Array]:
    """Find each token's loss, 0 where it does not count, and its log-sum, (B, t)."""
    log_sums = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.where(mask, log_sums - chosen, 0.0), log_sums


def _cut(hidden, targets, mask, vocab_size):
    """Cut along T into chunks, on a leading axis; pad the last with what counts not."""
    B, T = targets.shape
    on_cpu = jax.default_backend() == "cpu"
    limit = _CPU_BYTES if on_cpu else _ACCELERATOR_BYTES
    each = 4 if on_cpu else hidden.dtype.itemsize
    count = -(-B * T * vocab_size * each // limit)
    count = min(T, 1 << (count - 1).bit_length())  # so that most T need no padding
    size = -(-T // count)
    count = -(-T // size)

    def cut(x):
        x = jnp.pad(x, ((0, 0), (0, count * size - T)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(B, count, size, *x.shape[2:]).swapaxes(0, 1)

    return cut(hidden), cut(targets), cut(mask)


def _einsum(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
