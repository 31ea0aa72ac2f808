"""Parameters and a config in, those of a slightly different model out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.types import Array, Params

# Of the rows' own standard deviation: enough for two rows to become different words.
_NOISE = 0.01


def resize_vocabulary(
    params: Params, cfg: GPTConfig, vocab_size: int, *, key: Array
) -> tuple[Params, GPTConfig]:
    """Add rows to embedding and head for added tokens, or cut the last ones off.

    An added row is the mean of all rows plus a little noise. The mean gives the token
    the mean of all logits, so that a model that was trained never takes it for likely;
    a random row, or zeros among logits that are all negative, would win every time
    (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").

    >>> cfg = GPTConfig(vocab_size=2)
    >>> params = {"token_embedding": {"embedding": jnp.array([[1.0, 5.0], [3.0, 5.0]])}}
    >>> params, cfg = resize_vocabulary(params, cfg, 3, key=jax.random.key(0))
    >>> cfg.vocab_size, params["token_embedding"]["embedding"][2].round(1).tolist()
    (3, [2.0, 5.0])
    """
    if vocab_size < 1:
        raise ConfigError(f"vocab_size must be >= 1, got {vocab_size}")
    tables = {"token_embedding", "head"} & params.keys()
    keys = dict(zip(sorted(tables), jax.random.split(key, len(tables)), strict=True))
    resized = {
        name: {"embedding": _resize(params[name]["embedding"], vocab_size, keys[name])}
        for name in tables
    }
    return params | resized, dataclasses.replace(cfg, vocab_size=vocab_size)


def _resize(table: Array, rows: int, key: Array) -> Array:
    mean, deviation = table.mean(0, keepdims=True), table.std(0, keepdims=True)
    shape = (max(rows - table.shape[0], 0), table.shape[1])
    noise = _NOISE * deviation * jax.random.normal(key, shape)
    return jnp.concatenate([table[:rows], mean + noise])


def add_qkv_bias(params: Params, cfg: GPTConfig) -> tuple[Params, GPTConfig]:
    """Give query, key and value the biases that GPT-2 has, all zero.

    No logit changes; the model can then be saved as a GPT-2.

    >>> kernel = {"kernel": jnp.ones((3, 4, 2, 2))}
    >>> attention = {"query": kernel, "key": kernel, "value": kernel}
    >>> params = {"blocks": {"attention": attention}}
    >>> params, cfg = add_qkv_bias(params, GPTConfig(qkv_bias=False))
    >>> params["blocks"]["attention"]["key"]["bias"].shape
    (3, 2, 2)
    """
    if cfg.qkv_bias:
        return params, cfg
    attention = params["blocks"]["attention"]
    biased = {
        name: attention[name]
        | {"bias": jnp.zeros_like(attention[name]["kernel"][:, 0])}
        for name in ("query", "key", "value")
    }
    blocks = params["blocks"] | {"attention": attention | biased}
    return params | {"blocks": blocks}, dataclasses.replace(cfg, qkv_bias=True)


def fold_head_bias(params: Params) -> Params:
    """Move the bias of a classifier's head into that of the final norm.

    Only the head reads what the norm writes, so a shift of it is a shift of the logits:
    the one wanted is the smallest that the kernel turns into the bias. No logit changes
    but by rounding; the model can then be saved for transformers, whose head has none.

    Raises:
        ConfigError: the columns of the kernel depend on each other, and the bias not
            in the same way.

    >>> head = {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "bias": jnp.ones(2)}
    >>> norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    >>> params = fold_head_bias({"final_norm": norm, "classifier": head})
    >>> params["final_norm"]["bias"].tolist(), params["classifier"]["bias"].tolist()
    ([1.0, 0.5], [0.0, 0.0])
    """
    head, norm = params["classifier"], params["final_norm"]
    kernel, bias = (np.asarray(head[name], np.float64) for name in ("kernel", "bias"))
    shift, *_ = np.linalg.lstsq(kernel.T, bias)
    if not np.allclose(kernel.T @ shift, bias, rtol=1e-6, atol=1e-6):
        raise ConfigError(
            "a head's kernel must have columns that do not depend on each other, for "
            f"its bias to go into the final norm; got {kernel.shape[1]} columns of "
            f"rank {np.linalg.matrix_rank(kernel)}"
        )
    norm = norm | {"bias": norm["bias"] + shift.astype(np.float32)}
    head = head | {"bias": jnp.zeros_like(head["bias"])}
    return params | {"final_norm": norm, "classifier": head}
