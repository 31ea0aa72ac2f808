"""A language model's parameters in, a classifier's out; and texts to scores of classes.

The head that scored every token of the vocabulary gives way to one that scores a few
classes. Everything else stays, so whatever can be loaded can become a classifier.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.models import gpt, linear
from jaxllm.models.dropout import Noise
from jaxllm.types import Array, Params

Pooling = Literal["last", "first", "mean"]
"""Which hidden states a text is judged by: that of its last token, which alone has seen
the whole text; of its first, which has seen nothing else; or the mean of all."""


def attach_classifier(
    params: Params, cfg: GPTConfig, n_classes: int, *, key: Array
) -> Params:
    """Put a head for classes in the place of the one for tokens.

    A head tied to the token embedding goes out of use, one of its own goes. The new one
    is drawn as any projection of the model is (cfg.init).

    Returns:
      params with classifier/kernel (D, n_classes) and classifier/bias (n_classes,).

    >>> params = {"head": {"embedding": jnp.ones((5, 4))}, "final_norm": {}}
    >>> cfg = GPTConfig(vocab_size=5, emb_dim=4, n_heads=2, tied_head=False)
    >>> params = attach_classifier(params, cfg, 2, key=jax.random.key(0))
    >>> jax.tree.map(jnp.shape, params)
    {'classifier': {'bias': (2,), 'kernel': (4, 2)}, 'final_norm': {}}
    """
    if n_classes < 2:
        raise ConfigError(f"a classifier must have at least 2 classes, got {n_classes}")
    kernel_key, bias_key = jax.random.split(key)
    kernel_init, bias_init = linear.initializers(cfg, cfg.emb_dim, residual=False)
    classifier = {
        "kernel": kernel_init(kernel_key, (cfg.emb_dim, n_classes)),
        "bias": bias_init(bias_key, (n_classes,)),
    }
    kept = {name: tree for name, tree in params.items() if name != "head"}
    return kept | {"classifier": classifier}


def count_classes(params: Params) -> int:
    """Tell how many classes a classifier's head has.

    Raises:
      ConfigError: the parameters have no such head.

    >>> count_classes({"classifier": {"bias": jnp.zeros(2)}})
    2
    """
    if "classifier" not in params:
        raise ConfigError(
            f"parameters must have a classifier's head, got {', '.join(params)}"
        )
    return params["classifier"]["bias"].shape[0]


def check_classes(params: Params, names: Sequence[str]) -> None:
    """Refuse a head that does not have a class for each label.

    >>> check_classes({"classifier": {"bias": jnp.zeros(2)}}, ["ham", "spam", "news"])
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: a head must have a class for each of 3 labels (ham, spam,
    news), got 2
    """
    if (n_classes := count_classes(params)) != len(names):
        raise ConfigError(
            f"a head must have a class for each of {len(names)} labels "
            f"({', '.join(names)}), got {n_classes}"
        )


def pool(hidden: Array, lengths: Array, pooling: Pooling = "last") -> Array:
    """Take one vector per text from its hidden states; padding is not looked at.

    Args:
      hidden: (B, T, D).
      lengths: (B,) integers up to T, how many of a row's states are the text's; a row
        of none, as fills up a batch, is read as one of one.

    Returns:
      (B, D), in the dtype of hidden.

    >>> hidden = jnp.array([[[1.0], [3.0], [9.0]]])
    >>> [pool(hidden, jnp.array([2]), how).item() for how in ("last", "first", "mean")]
    [3.0, 1.0, 2.0]
    """
    if pooling == "first":
        return hidden[:, 0]
    lengths = jnp.maximum(lengths, 1)[:, None, None]
    if pooling == "last":
        return jnp.take_along_axis(hidden, lengths - 1, axis=1)[:, 0]
    if pooling != "mean":
        raise ConfigError(f"pooling must be last, first or mean, got {pooling!r}")
    is_text = jnp.arange(hidden.shape[1])[None, :, None] < lengths  # (B, T, 1)
    total = jnp.where(is_text, hidden, 0).sum(1, dtype=jnp.float32)  # (B, D)
    return (total / lengths[:, 0]).astype(hidden.dtype)


def score_classes(params: Params, hidden: Array, cfg: GPTConfig) -> Array:
    """Score every class for each hidden state.

    Args:
      hidden: (..., D).

    Returns:
      logits (..., K) float32 for the K classes of the head.

    >>> head = {"kernel": jnp.eye(2), "bias": jnp.array([0.0, 10.0])}
    >>> cfg = GPTConfig(emb_dim=2, n_heads=1)
    >>> score_classes({"classifier": head}, jnp.array([1.0, 2.0]), cfg).tolist()
    [1.0, 12.0]
    """
    dtype = jnp.dtype(cfg.dtype)
    head = params["classifier"]
    logits = jnp.einsum(
        "...d,dk->...k",
        hidden.astype(dtype),
        head["kernel"].astype(dtype),
        preferred_element_type=jnp.float32,
    )
    return logits + jnp.expand_dims(head["bias"], range(logits.ndim - 1))


def classify(
    params: Params,
    tokens: Array,
    lengths: Array,
    cfg: GPTConfig,
    *,
    pooling: Pooling = "last",
    key: Noise = None,
) -> Array:
    """Score every class for each text.

    Args:
      tokens: (B, T) int32, padded behind each text with any id of the vocabulary.
      lengths: (B,) integers in 1..T, the tokens of each text.
      key: None for no dropout; a random key; or masks, as `gpt.hidden_states` takes.

    Returns:
      logits (B, K) float32.

    >>> cfg = GPTConfig(vocab_size=5, emb_dim=6, n_heads=2, n_layers=3)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> params = attach_classifier(params, cfg, 2, key=jax.random.key(1))
    >>> tokens, lengths = jnp.array([[3, 1, 4], [1, 0, 0]]), jnp.array([3, 1])
    >>> jax.jit(classify, static_argnums=3)(params, tokens, lengths, cfg).shape
    (2, 2)
    """
    segments = None
    if not cfg.causal:  # Padding would otherwise be seen by the text before it.
        places = jnp.arange(tokens.shape[1])[None]
        segments = (places < lengths[:, None]).astype(jnp.int32)  # (B, T)
    hidden, _ = gpt.hidden_states(
        params, tokens, cfg, segments=segments, key=key
    )  # (B, T, D)
    return score_classes(params, pool(hidden, lengths, pooling), cfg)  # (B, K)
