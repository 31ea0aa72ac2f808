"""`jaxllm convert`: a run to a folder that transformers opens, and GPT-2 to a run."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Literal

from jaxllm.cli import arguments, console
from jaxllm.config import GPTConfig, TokenizerConfig, TrainConfig
from jaxllm.errors import ConfigError

if TYPE_CHECKING:
    from jaxllm.data.tokenizers import Tokenizer
    from jaxllm.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Exchange models with Hugging Face, and read OpenAI's GPT-2.

    A run becomes a folder that transformers opens, anything else a run.
    """

    source: str
    """A run directory; a folder with a GPT-2 of Hugging Face or OpenAI; or OWNER/NAME
    of one on the Hugging Face hub, which needs jaxllm[hub]."""
    folder: str
    """The folder to write."""
    to: Literal["other", "run", "huggingface"] = "other"
    """The form to write; other is the one that source is not."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint, of a run."""
    revision: str | None = None
    """A branch, tag or commit, of a model on the hub."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the numbers in a Hugging Face folder; all but float32 round."""
    add_qkv_bias: bool = False
    """Whether a model without biases of query, key and value gets some, all zero:
    GPT-2 has them."""


def main(argv: list[str]) -> int:
    """Read a model in one form, and write it in another."""
    options = arguments.parse(Options, argv, "jaxllm convert")
    from jaxllm.cli import model
    from jaxllm.pretrained import load, save, surgery
    from jaxllm.training import runs

    from_run = runs.is_run(options.source)
    to = options.to
    if to == "other":
        to = "huggingface" if from_run else "run"
    if from_run:
        params, cfg, tokenizer = model.load(options.source, options.checkpoint)
    else:
        params, cfg, tokenizer = load.load_pretrained(
            options.source, revision=options.revision
        )
    if options.add_qkv_bias:
        params, cfg = surgery.add_qkv_bias(params, cfg)
    if to == "run":
        write_run(params, cfg, tokenizer, pathlib.Path(options.folder))
    else:
        save.save_pretrained(
            params, cfg, tokenizer, options.folder, dtype=options.dtype
        )
    form = {"run": "a run", "huggingface": "a Hugging Face folder"}[to]
    size = console.count(sum(leaf.size for leaf in _leaves(params)))
    print(f"{options.folder}: {form} of {size} parameters, from {options.source}")
    return 0


def write_run(
    params: "Params",
    cfg: GPTConfig,
    tokenizer: "Tokenizer | None",
    run_dir: pathlib.Path,
) -> None:
    """Write a run directory whose one checkpoint, of step 0, holds these parameters.

    It can be asked, evaluated and finetuned. It has no optimizer state and no data to
    resume from.
    """
    import jax

    from jaxllm.data import tokenizers
    from jaxllm.training import checkpoints, runs
    from jaxllm.training.state import TrainState

    if tokenizer is None:
        raise ConfigError("a run needs a tokenizer, and the source has none")
    if runs.is_run(run_dir):
        raise ConfigError(f"{run_dir} holds a run already; name another folder")
    run_dir.mkdir(parents=True, exist_ok=True)
    tokenizers.save(tokenizer, run_dir / runs.TOKENIZER)
    facts = {"tokenizer": tokenizer.hash, "data": {}, "sizes": runs.NOTHING_WRITTEN}
    state = TrainState(jax.numpy.int32(0), params, (), jax.random.key(0))
    checkpoints.save(run_dir / runs.CHECKPOINTS, state, facts).result()
    # Last, since a folder with a config is a run.
    runs.write_config(
        run_dir,
        TrainConfig(
            run_dir=str(run_dir),
            model=cfg,
            tokenizer=TokenizerConfig(kind=tokenizer.kind),
        ),
    )


def _leaves(params: "Params") -> list:
    import jax

    return jax.tree.leaves(params)
