"""`jaxllm evaluate`: a model and a text in, its loss on it out."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from jaxllm.cli import arguments, console
from jaxllm.cli.options import ModelOptions
from jaxllm.errors import ConfigError

if TYPE_CHECKING:
    from jaxllm.config import GPTConfig
    from jaxllm.data.tokenizers import Tokenizer
    from jaxllm.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Measure loss, perplexity and bits per byte, over every token of a text."""

    text: str | None = None
    """A named corpus, a text, JSON lines or Parquet file, a folder of them, or a token
    store, of which the held-out part counts; if null, all that the run has held out."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    choices: str | None = None
    """Questions to answer in place of a text: JSON, JSON lines or Parquet with prompt,
    choices and answer (the right one, or its index)."""
    batch_size: int = 16
    """Windows, or choices, that go through the model at once."""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """Round the matrices as generate does; of a text, say what it costs in
    perplexity."""

    def __post_init__(self) -> None:
        if self.text is not None and self.choices is not None:
            raise ConfigError("give a text or choices, got both")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1, got {self.batch_size}")


def main(argv: list[str]) -> int:
    """Print each figure on a line of its own."""
    options = arguments.parse(Options, argv, "jaxllm evaluate")
    from jaxllm.cli import model
    from jaxllm.inference import weights
    from jaxllm.training import evaluation

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    rounded = weights.rounded_params(params, options.weights)
    if options.choices is not None:
        return _print_choices(
            options.choices, options.batch_size, rounded, cfg, tokenizer
        )
    ids = model.text_ids(options.run, tokenizer, options.text, options.text_column)
    text = cfg, tokenizer, ids, options.batch_size
    figures = measure(rounded, *text)
    print(f"loss             {figures['validation_loss']:.4f} nats per token")
    print(f"perplexity       {figures['perplexity']:,.2f}")
    print(f"bits per byte    {figures['bits_per_byte']:.4f}")
    print(f"tokens           {figures['validation_tokens']:,}")
    print(f"unigram entropy  {evaluation.unigram_entropy(ids):.4f} nats per token")
    if options.weights != "float32":
        whole = measure(params, *text)["perplexity"]
        more = figures["perplexity"] / whole - 1
        print(
            f"in float32       {whole:,.2f} perplexity; {options.weights}: {more:+.2%}"
        )
    return 0


def measure(
    params: "Params",
    cfg: "GPTConfig",
    tokenizer: "Tokenizer",
    ids: Any,
    batch_size: int = 16,
) -> dict[str, float]:
    """Measure a model on the ids of a text; see `evaluation.evaluate`."""
    import functools

    import jax

    from jaxllm.data import batches
    from jaxllm.training import evaluation, steps

    length = cfg.context_length
    n_batches = -(-(len(ids) - 1) // (length * batch_size))
    with console.progress("evaluating") as report:
        held_out = batches.evaluation_batches(ids, length, batch_size, tail=True)
        return evaluation.evaluate(
            params,
            console.counted(held_out, report, n_batches),
            jax.jit(functools.partial(steps.evaluation_step, cfg=cfg)),
            token_bytes=evaluation.byte_lengths(tokenizer),
        )


def _print_choices(path: str, batch_size: int, params, cfg, tokenizer) -> int:
    from jaxllm.evals import choices

    questions = choices.read_questions(path)
    chosen = choices.choose(params, questions, cfg, tokenizer, batch_size=batch_size)
    figures = choices.accuracy(questions, chosen)
    print(
        f"accuracy           {figures['accuracy']:.2%} of {len(questions):,} questions"
    )
    print(f"accuracy per byte  {figures['accuracy_per_byte']:.2%}")
    print(f"by chance          {figures['chance']:.2%}")
    return 0
