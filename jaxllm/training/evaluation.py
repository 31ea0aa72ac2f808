"""Parameters and validation batches in, figures that compare models out."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxllm.data.tokenizers import Tokenizer
from jaxllm.distributed import startup
from jaxllm.errors import TokenizerError
from jaxllm.training import losses
from jaxllm.types import Array, Batch, Params


def evaluate(
    params: Params,
    batches: Iterable[Batch],
    step: Callable[[Params, Batch], tuple[Array, Array]],
    *,
    token_bytes: np.ndarray | None = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    copies: int = 1,
) -> dict[str, float]:
    """Measure the loss over batches; every token weighs the same.

    Args:
      batches: on the host; of many processes, each gives its rows.
      step: sums the losses of a batch and counts its targets, as
        `steps.evaluation_step` does; compiled by the caller.
      token_bytes: (V,) bytes of each token, for bits per byte.
      place: puts a batch on the devices.
      copies: processes that give the same rows.

    Returns:
      validation_loss (nats per token), perplexity, validation_tokens (counted), and
      bits_per_byte: what the model needs for a byte of text, whatever its tokenizer.

    >>> batch = Batch(np.array([[0, 1]]), np.array([[1, 1]]))
    >>> uniform = lambda params, batch: (2 * math.log(4), 2)
    >>> figures = evaluate({}, [batch], uniform, token_bytes=np.array([1, 2]))
    >>> figures["perplexity"], figures["bits_per_byte"]
    (4.0, 1.0)
    """
    sums, n_bytes = [], 0
    for batch in batches:
        if token_bytes is not None:
            n_bytes += count_bytes(batch, token_bytes)
        sums.append(step(params, place(batch)))
    # Read only now, so that no batch waits for the result of another.
    pairs = [(float(total), int(count)) for total, count in jax.device_get(sums)]
    nats = math.fsum(total for total, _ in pairs)
    tokens = sum(count for _, count in pairs)
    loss = nats / max(tokens, 1)
    figures = {
        "validation_loss": loss,
        "perplexity": perplexity(loss),
        "validation_tokens": tokens,
    }
    if token_bytes is not None:
        n_bytes = startup.sum_of_processes(n_bytes) // copies
        figures["bits_per_byte"] = nats / math.log(2) / max(n_bytes, 1)
    return figures


def perplexity(loss: float) -> float:
    """Turn nats per token into the number of tokens that are as hard to choose among.

    >>> round(perplexity(math.log(50257)))
    50257
    """
    return math.exp(loss) if loss < 700 else math.inf


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """Count the bytes of text behind each token id: (V,) int32.

    Special tokens stand for no text, and have none.

    >>> from jaxllm.data import tokenizers
    >>> byte_lengths(tokenizers.load("gpt2"))[[0, 1212, 50256]]  # "!", "This", the end
    array([1, 4, 0], dtype=int32)
    """
    special = set(tokenizer.special_tokens.values())

    def length(id: int) -> int:
        try:
            return 0 if id in special else len(tokenizer.token_bytes(id))
        except TokenizerError:  # Some vocabularies skip an id.
            return 0

    return np.array([length(id) for id in range(tokenizer.vocab_size)], np.int32)


def count_bytes(batch: Batch, token_bytes: np.ndarray) -> int:
    """Count the bytes of text behind the targets that count."""
    lengths = token_bytes[np.asarray(batch.targets)]
    mask = losses.counted(batch)
    return int(lengths.sum() if mask is None else lengths[mask].sum())


def unigram_entropy(ids: Any) -> float:
    """Compute the entropy of single tokens, in nats per token.

    The loss of the best model that knows how often each token occurs and nothing of
    what precedes it.

    >>> round(unigram_entropy(np.array([0, 1, 0, 1])) / math.log(2), 4)
    1.0
    """
    counts = np.bincount(np.asarray(ids))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
