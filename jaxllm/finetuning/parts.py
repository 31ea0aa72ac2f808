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
      and a classifier's head, which is drawn anew and has nothing to adapt.
    """
    if cfg.what != "lora":
        rules = {"head": trainable.HEAD, "all": trainable.ALL}
        chosen = rules.get(cfg.what, trainable.last_blocks(cfg.blocks))
        return trainable.split(params, chosen)
    base = {name: tree for name, tree in params.items() if name != "classifier"}
    heads = {name: tree for name, tree in params.items() if name == "classifier"}
    rules = LORA_RULES[cfg.adapt]
    adapter = lora.init_lora(key, base, rules, cfg.rank, cfg.alpha)
    return heads | {ADAPTERS: adapter.adapters}, base


def join(trained: Params, frozen: Params, cfg: TrainableConfig) -> Params:
    """Put a model together again; adapters are merged into the kernels they adapt."""
    if cfg.what != "lora":
        return trainable.join(trained, frozen)
    heads = {name: tree for name, tree in trained.items() if name != ADAPTERS}
    return lora.merge_lora(frozen, adapter_of(trained, cfg)) | heads


def adapter_of(trained: Params, cfg: TrainableConfig) -> lora.Lora:
    """Find the adapter in what trains."""
    if ADAPTERS not in trained:
        raise ConfigError(f"trainable.what must be lora, got {cfg.what}")
    scale = cfg.alpha / cfg.rank
    return lora.Lora(trained[ADAPTERS], LORA_RULES[cfg.adapt], scale)
