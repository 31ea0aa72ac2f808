"""Token ids in, vectors out; and at the other end, vectors in, logits out."""

import jax.numpy as jnp
from flax import linen as nn

from jaxllm.config import GPTConfig
from jaxllm.models.linear import initializers
from jaxllm.models.packed import Packed, product
from jaxllm.types import Array, Params


class Embedding(nn.Module):
    """A table with a row of emb_dim numbers for each of `rows` ids or positions.

    Calling it gives the table; looking up is `table[ids]`. A head has a row for each
    token too, but starts like the linear layer that it is.
    Parameter: embedding (rows, D) float32.
    """

    cfg: GPTConfig
    rows: int
    is_head: bool = False

    @nn.compact
    def __call__(self) -> Array:
        if self.is_head:
            init, _ = initializers(self.cfg, fan_in=self.cfg.emb_dim)
        else:
            # GPT-2 draws from N(0, 0.02), torch.nn.Embedding from N(0, 1).
            stddev = 0.02 if self.cfg.init == "gpt2" else 1.0
            init = nn.initializers.normal(stddev)
        return self.param("embedding", init, (self.rows, self.cfg.emb_dim))


def head_matrix(params: Params) -> Array | Packed:
    """Find the (V, D) matrix that turns hidden states into logits.

    It is the token embedding itself where the head is tied (Press & Wolf 2017), and is
    stored one row per token in both cases; or as decoding reads it best.
    """
    return params.get("head", params["token_embedding"])["embedding"]


def unembed(params: Params, hidden: Array, cfg: GPTConfig) -> Array:
    """Score every token of the vocabulary against each hidden state.

    Args:
      hidden: (..., D).

    Returns:
      logits (..., V) float32.

    >>> params = {"token_embedding": {"embedding": jnp.eye(3)}}
    >>> cfg = GPTConfig(vocab_size=3, emb_dim=3, n_heads=1)
    >>> unembed(params, jnp.array([1.0, 2.0, 3.0]), cfg).tolist()
    [1.0, 2.0, 3.0]
    """
    dtype = jnp.dtype(cfg.dtype)
    matrix = head_matrix(params)
    if isinstance(matrix, Packed):
        vectors = hidden.astype(dtype).reshape(-1, hidden.shape[-1])
        return product(vectors, matrix).reshape(*hidden.shape[:-1], -1)
    return jnp.einsum(
        "...d,vd->...v",
        hidden.astype(dtype),
        matrix.astype(dtype),
        preferred_element_type=jnp.float32,
    )
