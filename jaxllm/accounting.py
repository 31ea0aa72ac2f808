"""A config in; parameters, bytes and operations out, by arithmetic alone.

Nothing is made, compiled or imported, so that GPT-3 is as quick to look at as a toy.
What a compiled step really needs, its compiler knows: the constants below were fitted
to XLA's own memory analysis of the training step, for eleven shapes from 0.5M to 124M
parameters, with and without remat and dropout. They give its totals within 12 %. In
bfloat16 that holds from JAX 0.12 on: before it, XLA widened it to float32 on a CPU.
"""

from jaxllm.config import GPTConfig

_FLOAT32 = 4
_BFLOAT16 = 2

# What a block leaves for its backward pass, for each token: arrays as wide as the
# residual stream, and as the hidden layer.
_SAVED_WIDTHS, _SAVED_HIDDENS = 18, 5
# What the backward pass of one block needs of scores at once; dropout draws bits too.
_WORKING_SCORES, _WORKING_SCORES_DROPOUT = 3, 10
# Logits, and their gradient.
_LOGITS = 2
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
    return {
        "token embedding": V * D,
        "position embedding": C * D if cfg.positions == "learned" else 0,
        "attention": L * (4 * D * D + D + (3 * D if cfg.qkv_bias else 0)),
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
    positions, also those that the causal mask hides, as is the custom.

    Args:
        context: tokens of the sequence that it stands in; None for a full context.

    Returns:
        linear: in projections, feed-forward network and head; attention: in scores
        and weighted sums.

    >>> from jaxllm.config import gpt2_config
    >>> forward_flops(gpt2_config("124M"))["linear"] * 2 * 1024 / 1e11
    5.0598...
    """
    D, F, T = cfg.emb_dim, cfg.mlp_dim, context or cfg.context_length
    matrices = cfg.n_layers * (4 * D * D + 2 * D * F) + cfg.vocab_size * D
    return {"linear": 2 * matrices, "attention": 4 * cfg.n_layers * D * T}


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
    T = context or cfg.context_length
    attention = 12 * cfg.n_layers * cfg.emb_dim * T
    return 6 * (sum(parts.values()) - looked_up) + attention


def cache_bytes(cfg: GPTConfig, batch_size: int = 1, length: int | None = None) -> int:
    """Count the bytes of the keys and values of `length` tokens, in cfg.dtype.

    >>> cfg = GPTConfig(emb_dim=4096, n_heads=32, n_layers=32, dtype="bfloat16")
    >>> cache_bytes(cfg, 1, 32768) / 1e9
    17.179869184
    """
    T = length or cfg.context_length
    return 2 * cfg.n_layers * batch_size * T * cfg.emb_dim * _width(cfg)


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
    n = count(cfg) // shards
    B, N, T = batch_size, cfg.n_heads, context or cfg.context_length
    size, pairs = _width(cfg), B * N * T * T
    block = size * B * T * (_SAVED_WIDTHS * cfg.emb_dim + _SAVED_HIDDENS * cfg.mlp_dim)
    scores = _WORKING_SCORES_DROPOUT if cfg.drop_rate else _WORKING_SCORES
    working = scores * _FLOAT32 * pairs
    if cfg.remat == "block":
        # The input of every block is kept, and one block at a time is recomputed.
        saved = cfg.n_layers * size * B * T * cfg.emb_dim
        working += block
    else:
        # Softmax is in float32, whatever the products are in, and is kept in both.
        saved = cfg.n_layers * (block + (_FLOAT32 + size) * pairs)
    # Matrices and their gradients in the type of the products, beside the originals.
    copies = 2 * _BFLOAT16 * n if cfg.dtype == "bfloat16" else 0
    return {
        "parameters": _FLOAT32 * n,
        "gradients": _FLOAT32 * n + copies,
        "optimizer state": 2 * _FLOAT32 * n,
        "activations": saved,
        "working set": max(working, _LOGITS * _FLOAT32 * B * T * cfg.vocab_size),
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
