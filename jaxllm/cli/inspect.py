"""`jaxllm inspect`: what a model costs before anything of it is made."""

import dataclasses
import os
import pathlib
from typing import Literal

from jaxllm import accounting, config_files, devices
from jaxllm.cli import arguments, console
from jaxllm.config import GPTConfig, TrainConfig, gpt2_config, gpt3_config
from jaxllm.data import disk
from jaxllm.errors import ConfigError
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.pretrained import configs

_PRESETS = {"gpt2": gpt2_config, "gpt3": gpt3_config}
_BAR_WIDTH = 50
# Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models".
_TOKENS_PER_PARAMETER = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Count parameters, memory and FLOPs of a model, without making it."""

    model: str
    """gpt2-124M, gpt3-175B and the like; a config file; a run directory; or a folder
    with a GPT-2 of Hugging Face or OpenAI."""
    batch_size: int = 8
    """Sequences that go through the model at once, on one device."""
    context: int | None = None
    """Tokens of each sequence; the model's context length if null."""
    vocab_size: int | None = None
    """Number of tokens, for a config that takes it from its tokenizer."""
    dtype: Literal["config", "float32", "bfloat16"] = "config"
    """Precision of the matrix products, if not the config's."""
    device: str | None = None
    """An accelerator to fit into: h200, h100, a100-80gb, a100-40gb, l4, t4, rtx4090,
    v4, v5e, v5p or v6e."""
    memory: str | None = None
    """Memory to fit into, such as 24GB, if it is not the device's."""
    devices: int = 1
    """Devices that split parameters, gradients and optimizer state between them."""
    utilisation: float = 0.4
    """Share of the device's peak that training reaches, in (0, 1]."""
    tokens: int | None = None
    """Tokens to train on; 20 for each parameter if null."""
    compile: bool = False
    """Whether to compile a training step here, and tell what memory XLA gives it."""


def main(argv: list[str]) -> int:
    """Print parameters, memory and arithmetic of one model."""
    options = arguments.parse(Options, argv, "jaxllm inspect")
    cfg = chosen_config(options)
    print(
        f"{options.model}: {cfg.n_layers} layers, {_heads(cfg)}, "
        f"width {cfg.emb_dim:,}, context {cfg.context_length:,}, "
        f"{cfg.vocab_size:,} tokens\n"
    )
    _print_parameters(cfg)
    print()
    _print_memory(cfg, options)
    print()
    _print_arithmetic(cfg, options)
    if options.compile:
        print()
        _print_compiled(cfg, options)
    return 0


def _heads(cfg: GPTConfig) -> str:
    if cfg.kv_heads == cfg.n_heads:
        return f"{cfg.n_heads} heads"
    return f"{cfg.n_heads} heads ({cfg.kv_heads} of keys and values)"


def chosen_config(options: Options) -> GPTConfig:
    """Find the model that the options mean, and refuse options out of range."""
    cfg = find_config(options.model, options.vocab_size)
    if options.dtype != "config":
        cfg = dataclasses.replace(cfg, dtype=options.dtype)
    for name, least in (("batch_size", 1), ("devices", 1), ("context", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"{name} must be >= {least}, got {value}")
    if not 0 < options.utilisation <= 1:
        raise ConfigError(f"utilisation must be in (0, 1], got {options.utilisation}")
    return cfg


def find_config(model: str, vocab_size: int | None = None) -> GPTConfig:
    """Find the config of a model by a preset's name, or in a file or folder.

    Args:
        vocab_size: what a config says that takes the tokenizer's, 0.

    >>> find_config("gpt2-355M").n_layers
    24
    """
    path = pathlib.Path(model)
    family, _, size = model.partition("-")
    if path.is_dir():
        cfg = _config_in(path)
    elif path.is_file():
        cfg = _config_of(path, written=False)
    elif family in _PRESETS:
        cfg = _PRESETS[family](size)
    else:
        raise ConfigError(
            "a model must be a preset such as gpt2-124M or gpt3-175B, a config file, "
            f"a run directory, or a folder with a GPT-2; got {model!r}"
        )
    if vocab_size is not None:
        cfg = dataclasses.replace(cfg, vocab_size=vocab_size)
    if not cfg.vocab_size:
        raise ConfigError(f"{model} takes the tokenizer's vocabulary: give vocab_size")
    return cfg


def _config_in(folder: pathlib.Path) -> GPTConfig:
    readers = {
        "config.yaml": lambda path: _config_of(path, written=True),
        "config.json": lambda path: configs.from_huggingface(disk.read_json(path)),
        "hparams.json": lambda path: configs.from_openai(disk.read_json(path)),
    }
    for name, read in readers.items():
        if (folder / name).exists():
            return read(folder / name)
    raise ConfigError(f"{os.fspath(folder)} must hold one of {', '.join(readers)}")


def _config_of(path: pathlib.Path, *, written: bool) -> GPTConfig:
    """Read the model of a config, of training or of finetuning.

    Args:
        written: by a run, which fills in its base's model.
    """
    values = config_files.values_of_yaml(path.read_text("utf-8"))
    if "task" not in values:
        return config_files.read_config(path, TrainConfig).model
    cfg = config_files.read_config(path, FinetuneConfig)
    if written or cfg.base.source is None:
        return cfg.model
    base = pathlib.Path(cfg.base.source)
    if not base.is_dir():
        raise ConfigError(
            f"the base of {path} must be a folder on this machine to be looked at, "
            f"got {cfg.base.source!r}"
        )
    return cfg.base.changed(_config_in(base))


def _print_parameters(cfg: GPTConfig) -> None:
    counts = [
        accounting.count_by_part(dataclasses.replace(cfg, tied_head=tied))
        for tied in (True, False)
    ]
    sums = [sum(parts.values()) for parts in counts]
    console.table(
        ("parameters", "tied head", "untied head"),
        [
            *((part, *(f"{parts[part]:,}" for parts in counts)) for part in counts[0]),
            ("total", *(f"{n:,}" for n in sums)),
            ("MiB in float32", *(f"{4 * n / 2**20:,.2f}" for n in sums)),
        ],
    )
    print(f"this model's head is {'tied' if cfg.tied_head else 'untied'}")


def held_bytes(cfg: GPTConfig, options: Options) -> dict[str, dict[str, int]]:
    """Estimate what a device holds, part by part, in each kind of work."""
    B, T, shards = _batch(cfg, options)
    plain, remat = _without_and_with_remat(cfg)
    return {
        "training": accounting.training_bytes(plain, B, T, shards=shards),
        "with remat": accounting.training_bytes(remat, B, T, shards=shards),
        "generating": accounting.generation_bytes(cfg, B, T, shards=shards),
    }


def _without_and_with_remat(cfg: GPTConfig) -> tuple[GPTConfig, GPTConfig]:
    plain = dataclasses.replace(cfg, remat="none")
    return plain, dataclasses.replace(cfg, remat="block")


def _print_memory(cfg: GPTConfig, options: Options) -> None:
    B, T, shards = _batch(cfg, options)
    held = held_bytes(cfg, options)
    parts = list(dict.fromkeys(part for column in held.values() for part in column))
    memory = device_memory(options)
    widest = memory or max(sum(column.values()) for column in held.values())
    unit, name = (1e9, "GB") if widest >= 1e9 else (1e6, "MB")
    console.table(
        (f"{name}, {B} x {T:,} tokens", *held),
        [
            *(
                (part, *(_amount(column.get(part), unit) for column in held.values()))
                for part in parts
            ),
            ("total", *(_amount(sum(c.values()), unit) for c in held.values())),
        ],
    )
    print()
    for label, column in held.items():
        total = sum(column.values())
        verdict = f"{total / unit:,.1f} {name}"
        if memory:
            fits = "fits" if devices.fits(total, memory) else "does not fit"
            verdict = f"{total / unit:,.1f} of {memory / unit:,.0f} {name}: {fits}"
        print(f"{label:<10}  {bar(column, widest)}  {verdict}")
    print(" " * 12 + ", ".join(f"{_letter(part)} {part}" for part in parts))
    if memory:
        room = (
            devices.largest_batch(c, memory, T, shards=shards)
            for c in _without_and_with_remat(cfg)
        )
        print("room for batches of {:,}, with remat {:,}".format(*room))


def _batch(cfg: GPTConfig, options: Options) -> tuple[int, int, int]:
    return options.batch_size, options.context or cfg.context_length, options.devices


def device_memory(options: Options) -> float | None:
    """Tell the bytes to fit into; None where neither they nor a device are named."""
    if options.memory is not None:
        return devices.parse_memory(options.memory)
    return devices.find(options.device).memory if options.device else None


def _amount(size: int | None, unit: float) -> str:
    return "" if size is None else f"{size / unit:,.2f}"


def _letter(part: str) -> str:
    return part[0].upper()


def bar(held: dict[str, int], widest: float) -> str:
    """Draw parts of a memory, each by its first letter; > where they go beyond it.

    >>> bar({"parameters": 4, "gradients": 4, "working set": 2}, widest=20)
    'PPPPPPPPPPGGGGGGGGGGWWWWW.........................'
    """
    drawn, end = "", 0
    for part, size in held.items():
        end += size
        drawn += _letter(part) * (round(_BAR_WIDTH * end / widest) - len(drawn))
    if len(drawn) > _BAR_WIDTH:
        return drawn[: _BAR_WIDTH - 1] + ">"
    return drawn.ljust(_BAR_WIDTH, ".")


def _print_arithmetic(cfg: GPTConfig, options: Options) -> None:
    _, T, shards = _batch(cfg, options)
    forward = accounting.forward_flops(cfg, T)
    training = accounting.training_flops(cfg, T)
    print(
        f"FLOPs a token: forward {console.count(sum(forward.values()))} "
        f"({console.count(forward['linear'])} linear, "
        f"{console.count(forward['attention'])} attention), "
        f"training {console.count(training)} (6 N + 12 L D T)"
    )
    if options.device is None:
        return
    peak = devices.find(options.device).flops
    rate = shards * options.utilisation * peak / training
    tokens = options.tokens or _TOKENS_PER_PARAMETER * accounting.count(cfg)
    each = f"{shards} x " if shards > 1 else ""
    print(
        f"at {options.utilisation:.0%} of {each}{options.device}'s "
        f"{peak / 1e12:,.0f} TFLOP/s: {console.count(rate)} tokens/s, "
        f"{console.count(tokens)} tokens in {_long_duration(tokens / rate)}"
    )


def _long_duration(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:,.1f} days" if days >= 2 else console.duration(seconds)


def _print_compiled(cfg: GPTConfig, options: Options) -> None:
    B, T, _ = _batch(cfg, options)
    found = compiled_bytes(cfg, B, T)
    estimate = sum(accounting.training_bytes(cfg, B, T).values())
    print(
        f"XLA gives a training step {found / 1e9:,.2f} GB here; "
        f"the estimate is {estimate / 1e9:,.2f} GB ({estimate / found - 1:+.0%})"
    )


def compiled_bytes(cfg: GPTConfig, batch_size: int, context: int) -> int:
    """Compile a training step for this machine, and ask what memory it needs.

    Nothing is made: the compiler is told shapes.
    """
    import jax

    from jaxllm.config import OptimizerConfig
    from jaxllm.training import optimizers, state, steps
    from jaxllm.types import Batch

    optimizer = optimizers.make_optimizer(OptimizerConfig(), total_steps=1000)
    before = jax.eval_shape(
        lambda key: state.init_train_state(key, cfg, optimizer), jax.random.key(0)
    )
    ids = jax.ShapeDtypeStruct((batch_size, context), "int32")
    step = jax.jit(
        lambda state, batch: steps.train_step(state, batch, cfg, optimizer),
        donate_argnums=0,
    )
    memory = step.lower(before, Batch(ids, ids)).compile().memory_analysis()
    if memory is None:
        raise ConfigError("the compiler tells no memory on this kind of device")
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes
