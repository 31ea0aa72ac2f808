"""`jaxllm classify`: texts in, the label of each and its probability out."""

import dataclasses
import json
import sys
from collections.abc import Iterator

from jaxllm.cli import arguments, reading
from jaxllm.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Tell the class of each text: its label, how probable that is, and the text."""

    run: str
    """Run directory of a classifier."""
    text: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
    """Texts; none reads them from the file, or a line each from standard input."""
    file: str | None = None
    """A text on each line of this file."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint."""
    batch_size: int = 32
    """Texts that go through the model at once."""
    json: bool = False
    """Whether to print a JSON object per line, with the probability of every label."""


def main(argv: list[str]) -> int:
    """Print a line for each text, as soon as its batch is done."""
    options = arguments.parse(Options, argv, "jaxllm classify")
    if options.text and options.file is not None:
        raise ConfigError("give texts or a file, got both")
    if options.batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, got {options.batch_size}")
    from jaxllm.finetuning import classification, opening

    opening.require_folder(options.run)
    cfg = opening.read_classifier(options.run)
    if cfg is None:
        raise ConfigError(f"run must be that of a classifier, got {options.run}")
    params, model, tokenizer = opening.open_model(options.run, options.checkpoint)
    texts = list(find_texts(options))
    answers = classification.classify_texts(
        params, model, tokenizer, cfg, texts, batch_size=options.batch_size
    )
    truncated = 0
    for text, (label, shares, cut) in zip(texts, answers, strict=True):
        truncated += cut
        if options.json:
            names = cfg.classify.labels or ()
            each = {n: float(p) for n, p in zip(names, shares, strict=True)}
            line = {"text": text, "label": label, "probabilities": each}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(f"{label}\t{shares.max():.4f}\t{text}", flush=True)
    if truncated:
        print(
            f"warning: {truncated:,} of {len(texts):,} texts are too long for the "
            "model; it read their beginning",
            file=sys.stderr,
        )
    return 0


def find_texts(options: Options) -> Iterator[str]:
    """Find the texts to classify; empty lines are none."""
    if options.text:
        yield from options.text
        return
    yield from (line for line in reading.read_lines(options.file) if line.strip())
