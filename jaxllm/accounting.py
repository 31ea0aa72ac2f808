"""A config in; parameters, bytes and operations out, by arithmetic alone.

Nothing is made, compiled or imported, so that GPT-3 is as quick to look at as a toy.
What a compiled step really needs, its compiler knows: the constants below were fitted
to XLA's own memory analysis of the training step on a CPU, for shapes from 0.5M to 124M
parameters, with and without remat and dropout. They give its totals within 12 %. In
bfloat16 that holds from JAX 0.12 on: before it, XLA widened it to float32 on a CPU.
"""

from typing import NamedTuple

from jaxllm.config import GPTConfig

_FLOAT32 = 4
_BFLOAT16 = 2


class _Needs(NamedTuple):
    """What a training step holds, by how its gradients are computed."""

    # What a block leaves for its backward pass, and what that needs at once, for each
    # token: arrays as wide as the residual stream, and as the hidden layer.
    saved_widths: int
    saved_hiddens: int
    working_widths: int
    gradients: int  # copies
    logits: int  # copies, gradients among them
    logits_at_once: int | None


_NEEDS = {
    "written": _Needs(12, 2, 6, gradients=2, logits=3, logits_at_once=2**24),
    "derived": _Needs(18, 5, 0, gradients=1, logits=2, logits_at_once=None),
}
# What the backward pass of one block needs of scores at once: by blocks of queries,
# where all weights are kept, and with dropout, which draws bits too.
_SCORES_BLOCKED, _SCORES_WHOLE, _SCORES_DROPOUT = 2, 3, 10
# Scores and weights of one block, when a prompt is read.
_PREFILL_SCORES = 2


def count_by_part(cfg: GPTConfig) -> dict[str, int]:
    """Count the parameters of each part of a model.

    >>> from jaxllm.config import gpt2_config
    >>> sum(count_by_part(gpt2_config("124M")).values())
    124439808
    >>> count_by_part(gpt2_config("124M"))["feed-forward"] // 12
    4722432
    """
    V, C, D, F, L = (
        cfg.vocab_size,
        cfg.context_length,
        cfg.emb_dim,
        cfg.mlp_dim,
        cfg.n_layers,
    )
    K = cfg.kv_heads * cfg.head_dim  # width of the keys, and of the values
    return {
        "token embedding": V * D,
        "position embedding": C * D if cfg.positions == "learned" else 0,
        "attention": L
        * (2 * D * D + 2 * D * K + D + (D + 2 * K if cfg.qkv_bias else 0)),
        "feed-forward": L * (2 * D * F + F + D),
        "norms": L * 4 * D + 2 * D,
        "head": 0 if cfg.tied_head else V * D,
    }


def count(cfg: GPTConfig) -> int:
    """Count all parameters; `jaxllm.count_params` agrees, and takes seconds.

    >>> from jaxllm.config import gpt3_config
    >>> count(gpt3_config("175B"))
    174604259328
    """
    return sum(count_by_part(cfg).values())


def forward_flops(cfg: GPTConfig, context: int | None = None) -> dict[str, int]:
    """Count the operations of the matrix products of one token, forward.

    A multiplication and an addition are two. Attention is counted over all pairs of
    positions within a window, also those that the causal mask hides, as is the custom.

    Args:
        context: tokens of the sequence that it stands in; None for a full context.

    Returns:
        linear: in projections, feed-forward network and head; attention: in scores
        and weighted sums.

    >>> from jaxllm.config import gpt2_config
    >>> forward_flops(gpt2_config("124M"))["linear"] * 2 * 1024 / 1e11
    5.0598...
    """
    D, F, K = cfg.emb_dim, cfg.mlp_dim, cfg.kv_heads * cfg.head_dim
    matrices = cfg.n_layers * 2 * (D * D + D * K + D * F) + cfg.vocab_size * D
    attention = 4 * cfg.n_layers * D * _seen(cfg, context)
    return {"linear": 2 * matrices, "attention": attention}


def _seen(cfg: GPTConfig, context: int | None) -> int:
    """Count the tokens that a token looks at, were there no causal mask."""
    T = context or cfg.context_length
    return min(T, cfg.attention_window or T)


def training_flops(cfg: GPTConfig, context: int | None = None) -> int:
    """Count the operations of training on one token: 6 N + 12 L D T.

    Chowdhery et al. 2022 (PaLM), appendix B. N leaves out what is only looked up:
    positions, and tokens where the head has a matrix of its own.

    >>> from jaxllm.config import gpt2_config
    >>> training_flops(gpt2_config("124M")) / 1e9
    0.855...
    """
    parts = count_by_part(cfg)
    looked_up = parts["position embedding"]
    looked_up += 0 if cfg.tied_head else parts["token embedding"]
    attention = 12 * cfg.n_layers * cfg.emb_dim * _seen(cfg, context)
    return 6 * (sum(parts.values()) - looked_up) + attention


def cache_bytes(cfg: GPTConfig, batch_size: int = 1, length: int | None = None) -> int:
    """Count the bytes of the keys and values of `length` tokens, in cfg.dtype.

    >>> cfg = GPTConfig(emb_dim=4096, n_heads=32, n_layers=32, dtype="bfloat16")
    >>> cache_bytes(cfg, 1, 32768) / 1e9
    17.179869184
    """
    T = length or cfg.context_length
    width = cfg.kv_heads * cfg.head_dim
    return 2 * cfg.n_layers * batch_size * T * width * _width(cfg)


def _width(cfg: GPTConfig) -> int:
    """Return the bytes of a number in the type of the matrix products."""
    return _BFLOAT16 if cfg.dtype == "bfloat16" else _FLOAT32


def training_bytes(
    cfg: GPTConfig, batch_size: int = 1, context: int | None = None, *, shards: int = 1
) -> dict[str, int]:
    """Estimate what a device holds at the height of a training step with AdamW.

    Args:
        batch_size: sequences that go through the model at once: those of one device,
            and of one slice where gradients are accumulated.
        context: tokens of each; None for a full context.
        shards: devices that split what is as large as the parameters (fsdp).

    Returns:
        bytes of parameters, gradients, optimizer state; of the activations that wait
        for the backward pass; and of the working set: of the logits and their
        gradient, or of one block's backward pass, which is never at the same time.
    """
    n, needs = count(cfg) // shards, _NEEDS[cfg.gradients]
    B, T = batch_size, context or cfg.context_length
    size, pairs = _width(cfg), B * cfg.n_heads * T * T
    width = size * B * T * cfg.emb_dim
    block = needs.saved_widths * width + needs.saved_hiddens * width * cfg.mlp_ratio
    scores = _SCORES_BLOCKED
    weights = 0
    if cfg.drop_rate or cfg.attention == "plain" or cfg.gradients == "derived":
        scores = _SCORES_DROPOUT if cfg.drop_rate else _SCORES_WHOLE
        # Softmax is in float32, whatever the products are in, and is kept in both.
        weights = (_FLOAT32 + size) * pairs
    working = scores * _FLOAT32 * pairs
    if cfg.remat == "block":
        # The input of every block is kept, and one block at a time is recomputed.
        saved = cfg.n_layers * width
        working += block
    else:
        saved = cfg.n_layers * (block + weights)
        working += needs.working_widths * width
    logits = B * T * cfg.vocab_size
    if needs.logits_at_once is not None:
        logits = min(logits, needs.logits_at_once)
    # Matrices and their gradients in the type of the products, beside the originals.
    copies = 2 * _BFLOAT16 * n if cfg.dtype == "bfloat16" else 0
    return {
        "parameters": _FLOAT32 * n,
        "gradients": needs.gradients * _FLOAT32 * n + copies,
        "optimizer state": 2 * _FLOAT32 * n,
        "activations": saved,
        "working set": max(working, needs.logits * _FLOAT32 * logits),
    }


def generation_bytes(
    cfg: GPTConfig, batch_size: int = 1, context: int | None = None, *, shards: int = 1
) -> dict[str, int]:
    """Estimate what a device holds when it reads prompts as long as the context.

    Returns:
        bytes of parameters, cache, and the working set: the cache once more, as it is
        written, and the scores of one block.
    """
    T = context or cfg.context_length
    cache = cache_bytes(cfg, batch_size, T)
    scores = _PREFILL_SCORES * _FLOAT32 * batch_size * cfg.n_heads * T * T
    return {
        "parameters": _FLOAT32 * count(cfg) // shards,
        "key-value cache": cache,
        "working set": cache + scores,
    }
