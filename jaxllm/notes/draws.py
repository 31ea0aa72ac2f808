"""A stream in; what the library's functions take out: parameters, dropout's masks.

PyTorch draws layer by layer, in the order in which a model's layers are made and then
run. The functions here keep that order, and lay the numbers where jaxllm keeps them.
"""

import jax
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.notes.stream import Stream
from jaxllm.types import Params


def gpt_parameters(stream: Stream, cfg: GPTConfig) -> Params:
    """Draw a GPT as the notes' GPTModel starts, as a tree like that of `init_params`.

    Token table, position table, then per block the query, key, value and output
    projections and the two layers of the feed-forward network, then the head, if it is
    not tied; norms start at scale 1 and bias 0 without a draw. NumPy arrays, float32.

    >>> from jaxllm.notes import stream
    >>> cfg = GPTConfig(vocab_size=5, context_length=4, emb_dim=6, n_heads=2,
    ...                 n_layers=3, qkv_bias=False)
    >>> params = gpt_parameters(stream.seed(123), cfg)
    >>> params["blocks"]["attention"]["query"]["kernel"].shape
    (3, 6, 2, 3)
    """
    D, F, N, H = cfg.emb_dim, cfg.mlp_dim, cfg.n_heads, cfg.head_dim

    def linear(inputs, outputs, *, bias=True):
        weight, offset = stream.linear(np.prod(inputs), np.prod(outputs), bias=bias)
        layer = {"kernel": weight.T.reshape(*inputs, *outputs)}
        return layer if offset is None else layer | {"bias": offset.reshape(outputs)}

    def norm(*lead):
        return {
            "scale": np.ones((*lead, D), np.float32),
            "bias": np.zeros((*lead, D), np.float32),
        }

    def block():
        query, key, value = (linear((D,), (N, H), bias=cfg.qkv_bias) for _ in range(3))
        out = linear((N, H), (D,))
        attention = {"query": query, "key": key, "value": value, "out": out}
        mlp = {"up": linear((D,), (F,)), "down": linear((F,), (D,))}
        return {"attention": attention, "mlp": mlp}

    params = {
        "token_embedding": {"embedding": stream.embedding(cfg.vocab_size, D)},
        "position_embedding": {"embedding": stream.embedding(cfg.context_length, D)},
        "blocks": _stack([block() for _ in range(cfg.n_layers)]),
        "final_norm": norm(),
    }
    params["blocks"] |= {
        "attention_norm": norm(cfg.n_layers),
        "mlp_norm": norm(cfg.n_layers),
    }
    if not cfg.tied_head:
        weight, _ = stream.linear(D, cfg.vocab_size, bias=False)
        params["head"] = {"embedding": weight}
    return params


def dropout_masks(stream: Stream, cfg: GPTConfig, batch_size: int, length: int) -> dict:
    """Draw the masks of one forward pass in training, in the order dropout meets them.

    Behind the embeddings; then in each block on the attention weights, behind the
    attention, and behind the feed-forward network.

    Returns:
      The `key` of `hidden_states`, `apply` and `next_token_loss`: bool, True = keep.

    >>> from jaxllm.notes import stream
    >>> cfg = GPTConfig(emb_dim=6, n_heads=2, n_layers=3, drop_rate=0.5)
    >>> dropout_masks(stream.seed(123), cfg, 1, 4)["blocks"]["weights"].shape
    (3, 1, 2, 4, 4)
    """
    B, T, D = batch_size, length, cfg.emb_dim
    shapes = {
        "weights": (B, cfg.n_heads, T, T),
        "attention": (B, T, D),
        "mlp": (B, T, D),
    }

    def keep(shape):
        return stream.keep_mask(shape, cfg.drop_rate)

    return {
        "embedding": keep((B, T, D)),
        "blocks": _stack(
            [
                {place: keep(shape) for place, shape in shapes.items()}
                for _ in range(cfg.n_layers)
            ]
        ),
    }


def _stack(layers: list[Params]) -> Params:
    """Join the trees of L layers into one with a layer axis in front."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *layers)
