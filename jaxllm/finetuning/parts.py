"""A whole model in, what of it trains and what stays out, by a config; and back.

What trains goes through the optimizer and into the checkpoints. The rest is an argument
of the step: it has no gradient, no moments, and is written at most once.
"""

from jaxllm.errors import ConfigError
from jaxllm.finetuning import lora, trainable
from jaxllm.finetuning.config import TrainableConfig
from jaxllm.types import Array, Params

ADAPTERS = "lora"
"""The name under which adapters stand among what trains."""

LORA_RULES = {
    "all_linear": lora.BLOCKS_LINEAR,
    "query_value": lora.QUERY_AND_VALUE,
}


def split(params: Params, cfg: TrainableConfig, *, key: Array) -> tuple[Params, Params]:
    """Part a model into what trains and what is frozen.

    Args:
      params: arrays; or, in jax.eval_shape, their shapes.
      key: from which adapters are drawn.

    Returns:
      both as nested dicts. With adapters, what trains is these, under the name "lora",
      and what is drawn anew and has nothing to adapt: a classifier's head, and the rows
      of new tokens.
    """
    rules = {
        "all": trainable.ALL,
        "last_blocks": trainable.last_blocks(cfg.blocks),
    }.get(cfg.what, trainable.HEAD)
    tokens = trainable.last_tokens(cfg.new_tokens or 0)
    trained, frozen = trainable.split(params, (*tokens, *rules))
    if cfg.what == "lora":
        adapted = LORA_RULES[cfg.adapt]
        adapter = lora.init_lora(key, params, adapted, cfg.rank, cfg.alpha)
        trained |= {ADAPTERS: adapter.adapters}
    if not trained:
        raise ConfigError(f"some parameter must train, got {', '.join(params)}")
    return trained, frozen


def join(trained: Params, frozen: Params, cfg: TrainableConfig) -> Params:
    """Put a model together again; adapters are merged into the kernels they adapt."""
    if cfg.what != "lora":
        return trainable.join(trained, frozen)
    others = {name: tree for name, tree in trained.items() if name != ADAPTERS}
    return trainable.join(others, lora.merge_lora(frozen, adapter_of(trained, cfg)))


def adapter_of(trained: Params, cfg: TrainableConfig) -> lora.Lora:
    """Find the adapter in what trains."""
    if ADAPTERS not in trained:
        raise ConfigError(f"trainable.what must be lora, got {cfg.what}")
    scale = cfg.alpha / cfg.rank
    return lora.Lora(trained[ADAPTERS], LORA_RULES[cfg.adapt], scale)
