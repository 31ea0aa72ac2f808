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
    to: Literal["other", "run", "huggingface", "peft"] = "other"
    """The form to write; other is the one that source is not, or huggingface where a
    dtype is asked for that rounds. peft is the adapter alone
    of a run with LoRA, for PEFT to open on the run's base."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint, of a run."""
    revision: str | None = None
    """A branch, tag or commit, of a model on the hub."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Type of the numbers in a Hugging Face folder; all but float32 round. int8 is a
    quarter as large, and opens in jaxllm only."""
    text: str | None = None
    """A corpus, a file or a folder of text, on which to measure what rounding costs."""
    add_qkv_bias: bool = False
    """Whether a model without biases of query, key and value gets some, all zero:
    GPT-2 has them."""

    def __post_init__(self) -> None:
        if self.text is not None and not self.rounds:
            raise ConfigError(
                "text is for a dtype that rounds, got float32: leave text, or give one"
            )
        if self.to == "peft" and (self.rounds or self.add_qkv_bias):
            raise ConfigError("an adapter stays as it is: leave dtype and add_qkv_bias")

    @property
    def rounds(self) -> bool:
        """Whether the numbers that are written are not those that were read."""
        return self.dtype != "float32"


def main(argv: list[str]) -> int:
    """Read a model in one form, and write it in another."""
    options = arguments.parse(Options, argv, "jaxllm convert")
    from jaxllm.cli import model
    from jaxllm.pretrained import load, save, surgery
    from jaxllm.training import runs

    from_run = runs.is_run(options.source)
    if from_run and options.revision is not None:
        raise ConfigError(
            f"a revision is for a model on the hub, {options.source} is a run; leave "
            f"{options.revision!r} out"
        )
    to = options.to
    if to == "peft":
        return write_adapter(options)
    if to == "other":
        to = "huggingface" if from_run or options.rounds else "run"
    if to == "huggingface" and write_classifier(options):
        return 0
    if to == "run" and options.rounds:
        raise ConfigError(
            f"a run keeps float32, got dtype {options.dtype}: leave it, or write a "
            "Hugging Face folder with --to huggingface"
        )
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
    if options.rounds:
        print(_cost(params, cfg, tokenizer, options))
    return 0


def _cost(
    params: "Params", cfg: GPTConfig, tokenizer: "Tokenizer | None", options: Options
) -> str:
    """Say what rounding costs, by reading back what was written."""
    if options.text is None or tokenizer is None:
        missing = "--text FILE" if options.text is None else "a tokenizer"
        return f"perplexity not measured: it needs {missing}"
    from jaxllm.cli import evaluate, model
    from jaxllm.pretrained import load

    ids = model.text_ids(options.source, tokenizer, options.text, "text")
    rounded, _, _ = load.load_pretrained(options.folder)
    before, after = (
        evaluate.measure(each, cfg, tokenizer, ids)["perplexity"]
        for each in (params, rounded)
    )
    return (
        f"perplexity {after:,.2f} in {options.dtype}, {before:,.2f} before "
        f"({after / before - 1:+.2%}), on {len(ids):,} tokens of {options.text}"
    )


def write_classifier(options: Options) -> bool:
    """Write a classifier's run as a folder that transformers opens; tell if it is one.

    Raises:
        ConfigError: it judges a text otherwise than GPT2ForSequenceClassification does.
    """
    from jaxllm.finetuning import opening, tasks
    from jaxllm.pretrained import save, surgery

    cfg = opening.read_classifier(options.source)
    if cfg is None:
        return False
    if options.text is not None:
        raise ConfigError("a classifier writes no text: leave text out")
    wanted = {"pooling": "last", "read_padding": False, "causal": True}
    for name, value in wanted.items():
        if (got := getattr(cfg.classify, name)) != value:
            raise ConfigError(
                f"GPT2ForSequenceClassification needs classify.{name}={value!r}, "
                f"got {got!r}"
            )
    params, model, tokenizer = opening.open_model(options.source, options.checkpoint)
    if options.add_qkv_bias:
        params, model = surgery.add_qkv_bias(params, model)
    labels = cfg.classify.labels or ()
    save.save_classifier(
        params,
        model,
        tokenizer,
        options.folder,
        labels,
        max_length=tasks.max_length(cfg, model),
        dtype=options.dtype,
    )
    print(
        f"{options.folder}: a Hugging Face classifier of {', '.join(labels)}, "
        f"from {options.source}"
    )
    return True


def write_adapter(options: Options) -> int:
    """Write the adapter that a run has learned as a folder that PEFT opens."""
    from jaxllm.finetuning import opening, peft

    step = options.checkpoint
    adapter, cfg = opening.load_adapter(options.source, step=opening.step_of(step))
    peft.save_adapters(adapter, cfg, options.folder)
    size = console.count(sum(leaf.size for leaf in _leaves(adapter.adapters)))
    print(f"{options.folder}: an adapter of {size} numbers, from {options.source}")
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
