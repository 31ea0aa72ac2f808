"""A folder of PEFT's in, an adapter out; and back.

PEFT (github.com/huggingface/peft) keeps an adapter as adapter_config.json and
adapter_model.safetensors, with a pair for each layer and each module of transformers'
GPT-2: A (rank, inputs) and B (outputs, rank), and B A alpha / rank is the change.

That GPT-2 makes query, key and value in one module. Our three pairs become its one
without loss: the As below each other, the Bs on a diagonal of blocks, and a rank that
is the sum. Back, each third of B has the whole A; what is zero in a third is left out,
so that an adapter comes back with the ranks that it had.
"""

import functools
import os
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxllm import paths
from jaxllm.config import GPTConfig
from jaxllm.data import disk
from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.finetuning import lora, peft_config
from jaxllm.finetuning.lora import Lora
from jaxllm.pretrained import names, safetensors_file, tensors
from jaxllm.pretrained.names import Home
from jaxllm.pretrained.safetensors_file import NewTensor
from jaxllm.pretrained.tensors import FLOATS
from jaxllm.types import Params

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(
    r"base_model\.model\.transformer\.h\.(\d+)\.(.+)\.lora_([AB])\.weight"
)

Pair = tuple[np.ndarray, np.ndarray]
"""A (L, rank, inputs) and B (L, outputs, rank), of all layers of a module."""


def save_adapters(
    adapter: Lora,
    cfg: GPTConfig,
    folder: str | os.PathLike[str],
    *,
    base: str | None = None,
) -> None:
    """Save an adapter of a GPT-2's blocks as a folder that PEFT opens.

    `peft.PeftModel.from_pretrained(model, folder)` opens it, where model is what
    `save_pretrained` makes of the parameters that the adapter stands on.

    Args:
      cfg: of the model that is adapted.
      folder: made if need be; files of the same names are replaced.
      base: the folder or name on the hub by which PEFT may look for the model.

    Raises:
      ConfigError: GPT-2 cannot express the model, or PEFT the adapter.
    """
    peft_config.check_model(cfg)
    modules = {
        module: _side_by_side(pairs) for module, pairs in _flatten(adapter, cfg).items()
    }
    ranks = {module: a.shape[1] for module, (a, _) in modules.items()}
    news = {
        f"base_model.model.{_full_name(module, layer)}.lora_{side}.weight": NewTensor(
            shape=factor.shape[1:],
            dtype=FLOATS["float32"],
            make=functools.partial(factor.__getitem__, layer),
        )
        for module, pair in modules.items()
        for side, factor in zip("AB", pair, strict=True)
        for layer in range(cfg.n_layers)
    }
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors_file.write(folder / _TENSORS, news)
    config = peft_config.describe(ranks, adapter.scale, base)
    disk.write_json(folder / _CONFIG, config)


def load_adapters(folder: str | os.PathLike[str], cfg: GPTConfig) -> Lora:
    """Load an adapter that PEFT or `save_adapters` has saved, for a GPT-2.

    Modules and layers without one have none, or zeros; where layers differ in rank,
    zeros fill up.

    Args:
      cfg: of the model that is adapted.

    Raises:
      CheckpointError: a file is missing or damaged, does not fit the model, or asks for
        what is more than low-rank pairs; the field or tensor is named.
    """
    folder = pathlib.Path(folder)
    for name in (_CONFIG, _TENSORS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} must hold {name}, which is not there")
    config = disk.read_json(folder / _CONFIG)
    peft_config.check(config, folder / _CONFIG)
    # One scale for all; where a module's is another, its B carries the difference.
    scale = peft_config.scale_of(config, "", config["r"]) or 1.0
    adapters: Params = {}
    modules = _read_modules(folder / _TENSORS, cfg, config, scale)
    for home in _linear_homes(cfg):
        pair = _own_part(modules.get(_module_of(home)), home)
        if pair is not None:
            *parents, last = home.path.split("/")
            branch = adapters
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = _unflatten(pair, home, cfg)
    return Lora(adapters, lora.BLOCKS_LINEAR, scale)


def _linear_homes(cfg: GPTConfig) -> list[Home]:
    return [
        home
        for home in names.homes(cfg)
        if paths.first_match(home.path, lora.BLOCKS_LINEAR)
    ]


def _module_of(home: Home) -> str:
    """Name a module within its block: attn.c_attn, mlp.c_fc."""
    return home.name.removeprefix("h.{}.").removesuffix(".weight")


def _full_name(module: str, layer: int) -> str:
    return f"transformer.h.{layer}.{module}"


def _flatten(adapter: Lora, cfg: GPTConfig) -> dict[str, list[Pair]]:
    """Give the pairs of an adapter PEFT's axes, by module.

    Of query, key and value, those that there are come in this order, each with B as
    high as the whole module's, its own third filled.
    """
    leaves = _pairs_of(adapter.adapters)
    if not leaves:
        raise ConfigError("an adapter must have some pair, got none")
    modules: dict[str, list[Pair]] = {}
    for home in _linear_homes(cfg):
        if home.path not in leaves:
            continue
        pair = leaves.pop(home.path)
        equation: Any = paths.first_match(home.path, lora.BLOCKS_LINEAR)
        rank = pair["a"].shape[-1]
        shapes = lora.factor_shapes(equation, home.path, home.shape(cfg), rank)[:2]
        if (pair["a"].shape, pair["b"].shape) != shapes:
            raise ConfigError(
                f"the adapter of {home.path} must have shapes {shapes}, got "
                f"{pair['a'].shape} and {pair['b'].shape}"
            )
        L, (inputs, outputs) = cfg.n_layers, home.tensor_shape(cfg)
        a = np.asarray(pair["a"], np.float32).reshape(L, inputs, rank)
        b = np.asarray(pair["b"], np.float32).reshape(L, rank, -1)
        whole = np.zeros((L, rank, outputs), np.float32)
        whole[..., _third(home, outputs)] = b
        ours = a.swapaxes(1, 2), whole.swapaxes(1, 2)
        modules.setdefault(_module_of(home), []).append(ours)
    if leaves:
        raise ConfigError(
            f"PEFT's GPT-2 must have a place for what is adapted, got {min(leaves)}"
        )
    return modules


def _side_by_side(pairs: list[Pair]) -> Pair:
    """Make one pair of several, whose change is the sum of theirs."""
    return (
        np.concatenate([a for a, _ in pairs], axis=1),
        np.concatenate([b for _, b in pairs], axis=2),
    )


def _third(home: Home, outputs: int) -> slice:
    """Say which outputs of its module are a parameter's: all, or a third."""
    if home.third is None:
        return slice(None)
    width = outputs // 3
    return slice(home.third * width, (home.third + 1) * width)


def _pairs_of(tree: Any, path: str = "") -> dict[str, Any]:
    """List the pairs of a tree by the paths of their kernels."""
    if set(tree) == {"a", "b"}:
        return {path.removeprefix("/"): tree}
    return {
        name: pair
        for key, sub in tree.items()
        for name, pair in _pairs_of(sub, f"{path}/{key}").items()
    }


def _read_modules(
    path: pathlib.Path, cfg: GPTConfig, config: dict[str, Any], scale: float
) -> dict[str, Pair]:
    """Read the pair of each module, with zeros where a layer has none or less rank."""
    sides = _read_factors(path, cfg)
    modules: dict[str, Pair] = {}
    for module in sorted({module for module, _ in sides}):
        layers = {
            layer: pair for (name, layer), pair in sides.items() if name == module
        }
        for layer, pair in layers.items():
            shapes = {side: factor.shape for side, factor in pair.items()}
            if len(pair) != 2 or shapes["A"][0] != shapes["B"][1]:
                raise CheckpointError(
                    f"{path}: h.{layer}.{module} must have A and B of one rank, got "
                    f"{shapes}"
                )
        rank = max(len(pair["A"]) for pair in layers.values())
        inputs, outputs = _sizes(cfg)[module]
        a = np.zeros((cfg.n_layers, rank, inputs), np.float32)
        b = np.zeros((cfg.n_layers, outputs, rank), np.float32)
        for layer, pair in layers.items():
            r = len(pair["A"])
            own = peft_config.scale_of(config, _full_name(module, layer), r)
            a[layer, :r] = pair["A"]
            b[layer, :, :r] = pair["B"] * (own / scale)
        modules[module] = a, b
    return modules


def _read_factors(
    path: pathlib.Path, cfg: GPTConfig
) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Read A (rank, inputs) and B (outputs, rank), by module and layer."""
    sizes = _sizes(cfg)
    found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, stored in safetensors_file.read_table(path).items():
        match = _NAME.fullmatch(name)
        if not match or match[2] not in sizes or int(match[1]) >= cfg.n_layers:
            raise CheckpointError(
                f"{path}: tensor {name} has no place in an adapter of the blocks of a "
                f"GPT-2 of {cfg.n_layers} layers"
            )
        layer, module, side = int(match[1]), match[2], match[3]
        inputs, outputs = sizes[module]
        rank = (*stored.shape, 0)["AB".index(side)]
        shape = (rank, inputs) if side == "A" else (outputs, rank)
        if stored.shape != shape or not rank or stored.dtype not in FLOATS.values():
            raise CheckpointError(
                f"{path}: tensor {name} must have the floats of {inputs} inputs and "
                f"{outputs} outputs, got shape {stored.shape} of {stored.dtype}"
            )
        factor = np.asarray(tensors.map_tensor(stored), np.float32)
        found.setdefault((module, layer), {})[side] = factor
    if not found:
        raise CheckpointError(f"{path} must hold an adapter, got no tensor")
    return found


def _sizes(cfg: GPTConfig) -> dict[str, tuple[int, ...]]:
    """List how many inputs and outputs each module has."""
    return {_module_of(home): home.tensor_shape(cfg) for home in _linear_homes(cfg)}


def _own_part(pair: Pair | None, home: Home) -> Pair | None:
    """Cut what is a parameter's out of its module's pair, if it has a share in it."""
    if pair is None or home.third is None:
        return pair
    a, b = pair
    own = b[:, _third(home, b.shape[1])]
    if not b.any():  # nothing is learnt yet, and anything may be
        return a, own
    used = own.any((0, 1))
    return (a[:, used], own[..., used]) if used.any() else None


def _unflatten(pair: Pair, home: Home, cfg: GPTConfig) -> dict[str, Any]:
    """Give a pair our axes."""
    a, b = pair
    equation: Any = paths.first_match(home.path, lora.BLOCKS_LINEAR)
    rank = a.shape[1]
    shapes = lora.factor_shapes(equation, home.path, home.shape(cfg), rank)
    return {
        "a": jnp.asarray(a.swapaxes(1, 2).reshape(shapes[0])),
        "b": jnp.asarray(b.swapaxes(1, 2).reshape(shapes[1])),
    }
