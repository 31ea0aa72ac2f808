"""Pairs of answers in, a loss that is low where the preferred one is likelier out.

Rafailov et al. 2023, "Direct Preference Optimization", equation 7: no reward model and
no sampling, only log-probabilities of answers, under the model that trains and under
the one that it started from. The latter never change, and are computed once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.models import gpt
from jaxllm.models.dropout import Noise
from jaxllm.training import losses
from jaxllm.types import Array, Batch, Params


class PairScores(NamedTuple):
    """Log-probabilities of the answers of B pairs, in nats."""

    chosen: Array  # (B,) float32
    rejected: Array  # (B,) float32


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
      accuracy (share of pairs with a margin above 0).

    >>> same = PairScores(jnp.array([-5.0, -7.0]), jnp.array([-6.0, -2.0]))
    >>> loss, metrics = preference_loss(same, same)
    >>> round(float(loss), 6), float(metrics["margin"])  # log 2
    (0.693147, 0.0)
    """
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margins = chosen - rejected  # (B,)
    loss = -jax.nn.log_sigmoid(beta * margins).mean()
    accuracy = (margins > 0).mean(dtype=jnp.float32)
    return loss, {"loss": loss, "margin": margins.mean(), "accuracy": accuracy}
