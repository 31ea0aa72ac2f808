"""An OptimizerConfig in, an optax gradient transformation out.

The order within a step: clip the gradient, form the update, decay the matrices, scale
by the learning rate of that step. Which parameters decay is a rule on their paths.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from optax import contrib

from jaxllm import paths
from jaxllm.config import OptimizerConfig
from jaxllm.types import Array

# Block parameters are stacked along a layer axis, so a bias has as many axes as a
# matrix without one: names tell them apart, numbers of axes do not.
DECAY_RULES = {
    "matrices": (("/(kernel|embedding)(/[ab])?$", True), ("/(bias|scale)$", False)),
    "all": (("", True),),
}

# The axes along which Muon sees a matrix, inputs and outputs: each layer has its own,
# and a projection's heads are the columns, or rows, of one. What looks tokens up is no
# map between vectors, so embeddings stay with AdamW, as norms and biases do.
_Axes = contrib.MuonDimensionNumbers
MUON_RULES = (
    (r"attention/(query|key|value)/kernel$", _Axes((1,), (2, 3))),  # (L, D, N, H)
    (r"attention/out/kernel$", _Axes((1, 2), (3,))),  # (L, N, H, D)
    (r"mlp/(up|down)/kernel$", _Axes((1,), (2,))),  # (L, D, F), (L, F, D)
    ("", None),
)


def make_optimizer(
    cfg: OptimizerConfig, total_steps: int
) -> optax.GradientTransformation:
    """Build the optimizer of a run that takes `total_steps` steps.

    Decay is decoupled and multiplied by the learning rate (Loshchilov and Hutter 2019,
    algorithm 2), as in PyTorch. Clipping scales the whole gradient to a norm of
    `grad_clip` where it is longer (Pascanu et al. 2013).

    >>> optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), total_steps=10)
    >>> params = {"mlp": {"kernel": jnp.ones((1, 1))}}
    >>> state = optimizer.init(params)
    >>> gradient = {"mlp": {"kernel": jnp.full((1, 1), 0.5)}}
    >>> update, state = optimizer.update(gradient, state, params)
    >>> round(float(update["mlp"]["kernel"][0, 0]), 6)  # -1e-3 (1 + 0.1 · 1)
    -0.0011
    """
    if cfg.grad_clip is None:
        clip = optax.identity()
    else:
        clip = optax.clip_by_global_norm(cfg.grad_clip)
    adam = optax.scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps)
    return optax.chain(
        clip,
        adam if cfg.name == "adamw" else _muon(cfg.momentum, adam),
        optax.add_decayed_weights(
            cfg.weight_decay, mask=lambda params: decay_mask(params, cfg)
        ),
        optax.scale_by_learning_rate(learning_rate_schedule(cfg, total_steps)),
    )


def _muon(
    momentum: float, others: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Replace the momentum of each matrix by the nearest matrix that only turns.

    Muon, Jordan et al. 2024, with Nesterov momentum and five Newton-Schulz steps. An
    update's entries have a root mean square of 0.2, which is about that of AdamW's, so
    that learning rates and decay mean the same for both (Liu et al. 2025, equation 4).

    Args:
      others: what updates the parameters that are no matrix of a block.
    """

    def axes_of(params: Any) -> Any:
        return paths.match_rules(params, MUON_RULES)

    def label(path: str, _: Any) -> str:
        return "turned" if paths.first_match(path, MUON_RULES) else "others"

    def rescale(path: str, turned: Array) -> Array:
        axes: Any = paths.first_match(path, MUON_RULES)
        sides = (math.prod(turned.shape[i] for i in side) for side in axes)
        return 0.2 * math.sqrt(max(sides)) * turned

    turn = optax.chain(
        contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=axes_of),
        optax.stateless(lambda turned, _: paths.map_with_path(rescale, turned)),
    )
    return optax.partition(
        {"turned": turn, "others": others},
        lambda params: paths.map_with_path(label, params),
    )


def decay_mask(params: Any, cfg: OptimizerConfig) -> Any:
    """Tell for each parameter whether weight decay acts on it.

    >>> decay_mask({"up": {"kernel": 0, "bias": 0}}, OptimizerConfig())
    {'up': {'bias': False, 'kernel': True}}
    """
    return paths.match_rules(params, DECAY_RULES[cfg.decay])


def learning_rate_schedule(
    cfg: OptimizerConfig, total_steps: int
) -> Callable[[Array | int], Array]:
    """Build the function from a step, counted from 0, to its learning rate.

    The rate rises on a line from `initial_learning_rate` to `learning_rate` over
    `warmup_steps`, and then falls to `min_learning_rate`, which it would reach at
    step `total_steps`: on half a cosine (Loshchilov and Hutter 2017, equation 5), on
    a line, or, for wsd, on a line over the last `decay_fraction` of all steps. A run
    shorter than its warm-up ends within it.

    >>> cfg = OptimizerConfig(learning_rate=1.0, min_learning_rate=0.0,
    ...                       warmup_steps=2, schedule="linear")
    >>> rate = learning_rate_schedule(cfg, total_steps=6)
    >>> [round(float(rate(step)), 6) for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    peak, floor, warmup = cfg.learning_rate, cfg.min_learning_rate, cfg.warmup_steps
    decay_start = warmup
    if cfg.schedule == "wsd":
        stable_end = total_steps - round(cfg.decay_fraction * total_steps)
        decay_start = max(warmup, stable_end)
    decay_steps = max(total_steps - decay_start, 1)

    def rate(step: Array | int) -> Array:
        step = jnp.asarray(step, jnp.float32)
        rising = cfg.initial_learning_rate + (
            (peak - cfg.initial_learning_rate) * step / max(warmup, 1)
        )
        done = jnp.clip((step - decay_start) / decay_steps, 0.0, 1.0)
        if cfg.schedule == "constant":
            left = jnp.ones_like(done)
        elif cfg.schedule == "cosine":
            left = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        else:
            left = 1.0 - done
        return jnp.where(step < warmup, rising, floor + (peak - floor) * left)

    return rate
