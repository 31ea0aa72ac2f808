"""Pairs of answers in, a loss that is low where the preferred one is likelier out.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7: no reward model and
no sampling, only log-probabilities of answers, under the model that trains and under
the one that it started from. The latter never change, and are computed once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import instructions
from jaxllm.data.instructions import Example
from jaxllm.models import gpt
from jaxllm.models.dropout import Noise
from jaxllm.training import losses
from jaxllm.types import Array, Batch, Params


class PairScores(NamedTuple):
    """Log-probabilities of the answers of B pairs, in nats."""

    chosen: Array  # (B,) float32
    rejected: Array  # (B,) float32


class PairBatch(NamedTuple):
    """B pairs of a prompt with the chosen and with the rejected answer, in that order.

    A pytree of rows, as `Batch` is one.
    """

    inputs: Array  # (B, 2, T) int32
    targets: Array  # (B, 2, T) int32
    mask: Array  # (B, 2, T) bool, True = a target of an answer
    reference: Array  # (B, 2) float32, log-probabilities of the answers, in nats
    is_pair: Array  # (B,) bool, False = fills up a batch


def collate_pairs(
    pairs: Sequence[tuple[Example, Example] | None],
    padding: int,
    *,
    reference: np.ndarray | None = None,
    width: int | None = None,
) -> PairBatch:
    """Join pairs into one batch, as wide as the longest answer's text.

    Args:
      pairs: chosen and rejected example of each; None fills up a batch.
      padding: any id, such as the end of text.
      reference: (B, 2), what `score_pairs` gives for the frozen model; 0 if None.
      width: of the batch, where it is to be wider.

    >>> chosen, rejected = (Example(np.array([1, a, 0]), np.array([False, True, True]))
    ...                     for a in (5, 6))
    >>> batch = collate_pairs([(chosen, rejected)], 0)
    >>> batch.targets.tolist(), batch.reference.tolist()
    ([[[5, 0], [6, 0]]], [[0.0, 0.0]])
    """
    nothing = Example(np.zeros(1, np.int32), np.zeros(1, bool))
    rows = [one for pair in pairs for one in (pair or (nothing, nothing))]
    flat = instructions.collate(rows, padding, response_only=True, width=width)
    inputs, targets, mask = (
        np.asarray(leaf).reshape(len(pairs), 2, -1) for leaf in flat[:3]
    )
    if reference is None:
        reference = np.zeros((len(pairs), 2), np.float32)
    is_pair = np.array([pair is not None for pair in pairs], bool)
    return PairBatch(inputs, targets, mask, reference, is_pair)


def score_pairs(
    params: Params, batch: PairBatch, cfg: GPTConfig, *, key: Noise = None
) -> PairScores:
    """Sum the log-probabilities of the answers of each pair; arguments as in
    `score_rows`."""
    B, _, T = batch.inputs.shape
    rows = Batch(*(leaf.reshape(2 * B, T) for leaf in batch[:3]))
    scores = score_rows(params, rows, cfg, key=key).reshape(B, 2)
    return PairScores(scores[:, 0], scores[:, 1])


def score_rows(
    params: Params, batch: Batch, cfg: GPTConfig, *, key: Noise = None
) -> Array:
    """Sum the log-probabilities of the targets that count, row by row.

    Args:
      batch: whose mask counts the targets of the answer.
      key: None for no dropout; a random key; or masks, as `gpt.hidden_states` takes.

    Returns:
      (B,) float32, in nats; 0 for a row in which no target counts.
    """
    logits = gpt.apply(params, batch.inputs, cfg, key=key)  # (B, T, V)
    totals, _ = jax.vmap(losses.cross_entropy_sum)(logits, batch.targets, batch.mask)
    return -totals


def preference_loss(
    policy: PairScores, reference: PairScores, *, beta: float = 0.1
) -> tuple[Array, dict[str, Array]]:
    """Average -log sigmoid(beta x margin) over the pairs.

    The margin of a pair is by how much more the policy has raised the log-probability
    of the chosen answer above the reference's than that of the rejected one.

    Args:
      policy, reference: under the model that trains, and under the frozen one.
      beta: how much a nat of margin counts; the smaller, the further from the reference
        the loss pulls.

    Returns:
      the loss in nats per pair, float32, and metrics: loss, margin (mean, in nats),
      accuracy (share of pairs with a margin above 0); of no pairs, 0.

    >>> same = PairScores(jnp.array([-5.0, -7.0]), jnp.array([-6.0, -2.0]))
    >>> loss, metrics = preference_loss(same, same)
    >>> round(float(loss), 6), float(metrics["margin"])  # log 2
    (0.693147, 0.0)
    """
    every = jnp.ones(policy.chosen.shape, bool)
    sums = preference_sums(policy, reference, every, beta=beta)
    pairs = jnp.maximum(sums["pairs"], 1)
    means = {name: total / pairs for name, total in sums.items()}
    return means["loss"], {name: means[name] for name in ("loss", "margin", "accuracy")}


def preference_sums(
    policy: PairScores, reference: PairScores, counts: Array, *, beta: float = 0.1
) -> dict[str, Array]:
    """Sum what `preference_loss` averages over the pairs that count.

    Returns:
      float32 sums: loss, margin, accuracy (margins above 0), preferred (pairs whose
      chosen answer the policy itself finds likelier), and pairs, how many there are.
    """
    margins = (policy.chosen - reference.chosen) - (
        policy.rejected - reference.rejected
    )  # (B,)
    terms = {
        "loss": -jax.nn.log_sigmoid(beta * margins),
        "margin": margins,
        "accuracy": margins > 0,
        "preferred": policy.chosen > policy.rejected,
        "pairs": jnp.ones_like(margins),
    }
    return {
        name: jnp.where(counts, term, 0).sum(dtype=jnp.float32)
        for name, term in terms.items()
    }


def pair_sums(
    params: Params,
    batch: PairBatch,
    cfg: GPTConfig,
    *,
    beta: float = 0.1,
    key: Noise = None,
) -> dict[str, Array]:
    """Sum loss, margins and hits of a batch of pairs, as `preference_sums` does."""
    policy = score_pairs(params, batch, cfg, key=key)
    reference = PairScores(batch.reference[:, 0], batch.reference[:, 1])
    return preference_sums(policy, reference, batch.is_pair, beta=beta)


def preference_sum(
    params: Params,
    batch: PairBatch,
    cfg: GPTConfig,
    *,
    beta: float = 0.1,
    key: Noise = None,
) -> tuple[Array, Array]:
    """Sum the losses of a batch of pairs, and count them: what a step minimises."""
    sums = pair_sums(params, batch, cfg, beta=beta, key=key)
    return sums["loss"], sums["pairs"].astype(jnp.int32)
