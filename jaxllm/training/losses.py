"""A batch in, its loss out: cross-entropy, weighted by tokens.

Losses are sums with the number of targets that they sum over. Sums of slices, of
devices and of batches add up to what the whole would give; means of means do not.
"""

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.models import embeddings, gpt
from jaxllm.models.dropout import Noise
from jaxllm.training import fused_loss
from jaxllm.types import Array, Batch, Params


def cross_entropy_sum(
    logits: Array, targets: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """Sum -log softmax(logits)[target] over the targets that count.

    Args:
      logits: (..., V), any float; the sum is made in float32.
      targets: (...) int32.
      mask: (...) bool, True = counts; None counts every target.

    Returns:
      the sum in nats, float32, and the number of targets counted, int32.

    >>> logits = jnp.zeros((3, 4))  # four tokens, all alike: log 4 each
    >>> total, count = cross_entropy_sum(logits, jnp.array([0, 1, 3]))
    >>> round(float(total), 4), int(count)
    (4.1589, 3)
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    if mask is None:
        return losses.sum(), jnp.int32(losses.size)
    return jnp.where(mask, losses, 0.0).sum(), mask.sum(dtype=jnp.int32)


def cross_entropy(
    logits: Array, targets: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """Average -log softmax(logits)[target] over the targets that count.

    Arguments and results are those of `cross_entropy_sum`, with the mean for the sum;
    it is 0 where no target counts.

    >>> logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])
    >>> mean, _ = cross_entropy(logits, jnp.array([0, 1, 1]))
    >>> round(float(mean), 4)
    0.7936
    """
    total, count = cross_entropy_sum(logits, targets, mask)
    return total / jnp.maximum(count, 1), count


def counted(batch: Batch) -> Array | None:
    """Find out which targets of a batch count: None for all, or (B, T) bool.

    >>> ids, segments = jnp.array([[5, 6, 0]]), jnp.array([[1, 1, 0]])
    >>> counted(Batch(ids, ids, segments=segments)).tolist()
    [[True, True, False]]
    """
    if batch.segments is None:
        return batch.mask
    real = batch.segments != 0
    return real if batch.mask is None else real & batch.mask


def next_token_sum(
    params: Params, batch: Batch, cfg: GPTConfig, *, key: Noise = None
) -> tuple[Array, Array]:
    """Sum the losses of predicting every counted target from what precedes it.

    Args:
      key: None for no dropout; a random key; or masks, as `gpt.hidden_states` takes.

    Returns:
      the sum in nats, float32, and the number of targets counted, int32.
    """
    hidden, _ = gpt.hidden_states(
        params, batch.inputs, cfg, segments=batch.segments, key=key
    )  # (B, T, D)
    if cfg.gradients == "derived":
        logits = gpt.unembed(params, hidden, cfg)  # (B, T, V)
        return cross_entropy_sum(logits, batch.targets, counted(batch))
    head, dtype = embeddings.head_matrix(params), jnp.dtype(cfg.dtype)
    return fused_loss.cross_entropy_sum(
        hidden, head, batch.targets, counted(batch), dtype
    )


def next_token_loss(
    params: Params, batch: Batch, cfg: GPTConfig, *, key: Noise = None
) -> tuple[Array, dict[str, Array]]:
    """Average the losses of predicting every counted target from what precedes it.

    Every token weighs the same, however the targets are spread over the rows; where
    none counts the loss is 0.

    Returns:
      the loss in nats per token, float32, and metrics: loss, tokens (targets counted).

    >>> cfg = GPTConfig(vocab_size=4, emb_dim=2, n_heads=1, n_layers=1)
    >>> zeros = jax.tree.map(jnp.zeros_like, gpt.init_params(jax.random.key(0), cfg))
    >>> batch = Batch(inputs=jnp.array([[0, 1]]), targets=jnp.array([[1, 2]]))
    >>> loss, metrics = jax.jit(next_token_loss, static_argnums=2)(zeros, batch, cfg)
    >>> round(float(loss), 4), int(metrics["tokens"])  # log 4
    (1.3863, 2)
    """
    total, count = next_token_sum(params, batch, cfg, key=key)
    loss = total / jnp.maximum(count, 1)
    return loss, {"loss": loss, "tokens": count}
