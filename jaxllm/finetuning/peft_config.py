"""An adapter_config.json of PEFT's in, judged; and one out, for GPT-2's blocks.

A field that only says how to begin or to train does not change what a saved adapter
means. Any other that is set, also one of a version of PEFT to come, is refused: it
would be silently wrong to leave it out.
"""

import dataclasses
import math
import pathlib
import re
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.errors import CheckpointError
from jaxllm.pretrained import configs

_READ = ("alpha_pattern", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora")
# Of no meaning once the tensors are there, whose names and shapes say the rest.
_IDLE = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
)
# Other ways to begin change the base too, so that the pair alone is not the change.
_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")


def check_model(cfg: GPTConfig) -> None:
    """Raise ConfigError unless GPT-2 can express a model, biases left aside."""
    configs.to_huggingface(dataclasses.replace(cfg, qkv_bias=True), None, "float32")


def check(config: dict[str, Any], path: pathlib.Path) -> None:
    """Raise CheckpointError unless a config means low-rank pairs and nothing else.

    >>> check({"peft_type": "LORA", "r": 8, "lora_alpha": 16}, pathlib.Path("config"))
    >>> check({"peft_type": "LORA", "use_dora": True}, pathlib.Path("config"))
    Traceback (most recent call last):
    jaxllm.errors.CheckpointError: config: use_dora must not be set, got True
    """
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path}: peft_type must be LORA, got {config.get('peft_type')!r}"
        )
    if config.get("init_lora_weights") not in _BEGINNINGS:
        raise CheckpointError(
            f"{path}: init_lora_weights must be one of {_BEGINNINGS}, got "
            f"{config['init_lora_weights']!r}"
        )
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias must be none, got {config['bias']!r}")
    known = {*_READ, *_IDLE, "init_lora_weights", "bias"}
    for name in sorted(config.keys() - known):
        if config[name]:
            raise CheckpointError(
                f"{path}: {name} must not be set, got {config[name]!r}"
            )
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: alpha_pattern must be a map, got {patterns!r}")
    for name, value in {**config, **patterns}.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (name in ("r", "lora_alpha") or name in patterns) and not number:
            raise CheckpointError(f"{path}: {name} must be a number, got {value!r}")
    for name, least in (("r", 1), ("lora_alpha", 0)):
        if config.get(name, -1) < least:
            got = config.get(name)
            raise CheckpointError(f"{path}: {name} must be >= {least}, got {got!r}")


def scale_of(config: dict[str, Any], module: str, rank: int) -> float:
    """Find the factor of a module's change, as PEFT does: by the first pattern.

    >>> config = {"lora_alpha": 16, "alpha_pattern": {"c_attn": 24}}
    >>> scale_of(config, "transformer.h.0.attn.c_attn", 6)
    4.0
    >>> scale_of(config, "transformer.h.0.attn.c_proj", 2)
    8.0
    """
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CheckpointError(
                f"alpha_pattern must hold regular expressions, got {pattern!r}: {error}"
            ) from error
        if found:
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def describe(ranks: dict[str, int], scale: float, base: str | None) -> dict[str, Any]:
    """Write the config of an adapter whose modules have these ranks and one scale.

    >>> config = describe({"attn.c_attn": 6, "mlp.c_fc": 2}, 2.0, None)
    >>> config["r"], config["lora_alpha"], config["rank_pattern"]
    (2, 4.0, {'attn.c_attn': 6})
    """
    r = min(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != r}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": True,
        "r": r,
        "lora_alpha": scale * r,
        "rank_pattern": others,
        "alpha_pattern": {module: scale * rank for module, rank in others.items()},
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
