"""`jaxllm evaluate`: a model and a text in, its loss on it out."""

import dataclasses

from jaxllm.cli import arguments, console
from jaxllm.cli.options import ModelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Measure loss, perplexity and bits per byte, over every token of a text."""

    text: str | None = None
    """A named corpus, a text, JSON lines or Parquet file, or a folder of them; if null,
    all that the run has held out."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    batch_size: int = 16
    """Windows that go through the model at once."""


def main(argv: list[str]) -> int:
    """Print each figure on a line of its own."""
    options = arguments.parse(Options, argv, "jaxllm evaluate")
    import functools

    import jax

    from jaxllm.cli import model
    from jaxllm.data import batches
    from jaxllm.training import evaluation, steps

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    ids = model.text_ids(options.run, tokenizer, options.text, options.text_column)
    length, size = cfg.context_length, options.batch_size
    n_batches = -(-(len(ids) - 1) // (length * size))
    with console.progress("evaluating") as report:
        held_out = batches.evaluation_batches(ids, length, size, tail=True)
        figures = evaluation.evaluate(
            params,
            console.counted(held_out, report, n_batches),
            jax.jit(functools.partial(steps.evaluation_step, cfg=cfg)),
            token_bytes=evaluation.byte_lengths(tokenizer),
        )
    print(f"loss             {figures['validation_loss']:.4f} nats per token")
    print(f"perplexity       {figures['perplexity']:,.2f}")
    print(f"bits per byte    {figures['bits_per_byte']:.4f}")
    print(f"tokens           {figures['validation_tokens']:,}")
    print(f"unigram entropy  {evaluation.unigram_entropy(ids):.4f} nats per token")
    return 0
