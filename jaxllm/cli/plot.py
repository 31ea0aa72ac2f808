"""`jaxllm plot`: a run, a model or a corpus in, a picture of it out."""

import dataclasses
import itertools
import os
import pathlib
from typing import Any

from jaxllm.cli import arguments, console, inspect
from jaxllm.cli.options import ModelOptions
from jaxllm.errors import ConfigError, DataError

_LINES = {
    "loss": "training and validation loss of a run",
    "rate": "learning rate and norm of the gradient of a run",
    "attention": "whom the heads of a layer look at in a text",
    "positions": "position vectors, and how alike they are",
    "lengths": "how many texts have how many tokens",
    "memory": "what fills the memory of a device",
}


def main(argv: list[str]) -> int:
    """Draw one picture, and say where it is."""
    commands = {
        "loss": loss,
        "rate": rate,
        "attention": attention,
        "positions": positions,
        "lengths": lengths,
        "memory": memory,
    }
    about = "Pictures as PNG, SVG or PDF."
    name, rest = arguments.choose(_LINES, argv, "jaxllm plot", about)
    return commands[name](rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Draw a curve from the metrics of a run."""

    run: str
    """Run directory."""
    out: str | None = None
    """File to write, .png, .svg or .pdf; in the run's plots if null."""


def loss(argv: list[str]) -> int:
    """Draw the losses of a run."""
    options = arguments.parse(RunOptions, argv, "jaxllm plot loss")
    from jaxllm.plots import curves

    return _save(curves.loss_curve(_metrics(options.run)), options, "loss")


def rate(argv: list[str]) -> int:
    """Draw the learning rate of a run."""
    options = arguments.parse(RunOptions, argv, "jaxllm plot rate")
    from jaxllm.plots import curves

    return _save(curves.learning_rate_curve(_metrics(options.run)), options, "rate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOptions(ModelOptions):
    """Draw the attention weights of every head of a layer, for one text."""

    text: str
    """The text; special tokens in it count."""
    layer: int = -1
    """Layer, counted from 0; -1 is the last one."""
    out: str | None = None
    """File to write, .png, .svg or .pdf; in the run's plots if null."""


def attention(argv: list[str]) -> int:
    """Run the model on a text, and draw whom its tokens look at."""
    options = arguments.parse(AttentionOptions, argv, "jaxllm plot attention")
    import numpy as np

    from jaxllm.cli import model
    from jaxllm.models import gpt
    from jaxllm.plots import attention, pieces

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    if not -cfg.n_layers <= options.layer < cfg.n_layers:
        raise ConfigError(
            f"layer must be in [{-cfg.n_layers}, {cfg.n_layers}), got {options.layer}"
        )
    layer = options.layer % cfg.n_layers
    ids = model.encode_prompt(options.text, tokenizer, cfg)
    weights = gpt.trace(params, ids[None], cfg)["blocks"]["weights"][layer, 0]
    figure = attention.attention_maps(
        np.asarray(weights, np.float32),
        [pieces.visible(tokenizer.token_bytes(id)) for id in ids.tolist()],
        title=f"{options.run}, layer {layer}",
    )
    return _save(figure, options, "attention")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionOptions(ModelOptions):
    """Draw a model's position vectors, and the cosine of every pair of them."""

    out: str | None = None
    """File to write, .png, .svg or .pdf; in the run's plots if null."""


def positions(argv: list[str]) -> int:
    """Draw the positions that a model adds to its tokens."""
    options = arguments.parse(PositionOptions, argv, "jaxllm plot positions")
    import numpy as np

    from jaxllm.cli import model
    from jaxllm.models import positions
    from jaxllm.plots import positions as pictures

    params, cfg, _ = model.load(options.run, options.checkpoint)
    if cfg.positions == "learned":
        table = np.asarray(params["position_embedding"]["embedding"])
    elif cfg.positions == "sinusoidal":
        table = positions.sinusoidal_table(cfg.context_length, cfg.emb_dim)
    else:
        raise ConfigError(
            "only learned and sinusoidal positions are vectors, this model has "
            f"positions={cfg.positions!r}"
        )
    return _save(pictures.position_maps(table), options, "positions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthOptions:
    """Draw how many tokens the texts of a corpus have."""

    corpus: str
    """A named corpus, a text, JSON lines or Parquet file, or a folder of them."""
    tokenizer: str = "gpt2"
    """gpt2, another name that tiktoken knows, or a saved tokenizer.json."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    max_documents: int = 10_000
    """Texts to count, from the first one on."""
    context: int | None = None
    """Tokens that fit, drawn as a line."""
    out: str = "lengths.png"
    """File to write, .png, .svg or .pdf."""


def lengths(argv: list[str]) -> int:
    """Count the tokens of each text, and draw the counts."""
    options = arguments.parse(LengthOptions, argv, "jaxllm plot lengths")
    import numpy as np

    from jaxllm.data import corpora, tokenizers
    from jaxllm.plots import counts

    tokenizer = tokenizers.load(options.tokenizer)
    documents = corpora.documents(options.corpus, text_column=options.text_column)
    with console.progress("counting tokens") as report:
        texts = itertools.islice(documents, options.max_documents)
        found = np.array(
            [
                len(tokenizer.encode_ordinary(text))
                for text in console.counted(texts, report)
            ]
        )
    figure = counts.length_histogram(found, context_length=options.context)
    return _save(figure, options, "lengths")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryOptions(inspect.Options):
    """Draw what fills the memory of a device, in training and in use."""

    out: str = "memory.png"
    """File to write, .png, .svg or .pdf."""


def memory(argv: list[str]) -> int:
    """Draw what `inspect` prints of a model's memory."""
    options = arguments.parse(MemoryOptions, argv, "jaxllm plot memory")
    from jaxllm.plots import counts

    cfg = inspect.chosen_config(options)
    figure = counts.memory_bars(
        inspect.held_bytes(cfg, options), memory=inspect.device_memory(options)
    )
    return _save(figure, options, "memory")


def _metrics(run: str) -> list[dict[str, Any]]:
    from jaxllm.training import runs

    runs.require_run(run)
    records = runs.read_metrics(run)
    if not records:
        raise DataError(f"{run} has no metrics yet")
    return records


def _save(figure: Any, options: Any, name: str) -> int:
    from jaxllm.plots import figure as figures

    path = options.out
    if path is None:
        run = pathlib.Path(options.run)
        folder = run / "plots" if (run / "config.yaml").is_file() else pathlib.Path()
        path = folder / f"{name}.png"
    figures.save(figure, path)
    print(os.fspath(path))
    return 0
