"""The notes' set pieces: their texts, their toy inputs, and the models they start from.

What the figures have in common has its name here, so that the line that gives a figure
is one call of the library on something known.
"""

import copy
import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig, gpt2_config
from jaxllm.data import corpora, disk, labelled, records, tokenizers
from jaxllm.data.labelled import Labelled
from jaxllm.data.templates import Template
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import CheckpointError, DataError
from jaxllm.models import blocks, dropout, embeddings, linear
from jaxllm.notes import draws, stream
from jaxllm.pretrained import load
from jaxllm.types import Array, Params

# "Your journey starts with one step": six words, three made-up features each.
INPUTS = np.array(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ],
    np.float32,
)

# "Every effort moves you", "Every day holds a"
TWO_TEXTS = np.array(
    [[6109, 3626, 6100, 345], [6109, 1110, 6622, 257]],
    np.int32,
)

# Two heads of three tokens with four features each, for a batched product.
TWO_HEADS = np.array(
    [
        [
            [0.2745, 0.6584, 0.2775, 0.8573],
            [0.8993, 0.0390, 0.9268, 0.7388],
            [0.7179, 0.7058, 0.9156, 0.4340],
        ],
        [
            [0.0772, 0.3565, 0.1479, 0.5331],
            [0.4066, 0.2318, 0.4545, 0.9737],
            [0.4606, 0.5159, 0.4220, 0.5786],
        ],
    ],
    np.float32,
)

# Logits for closer, every, effort, forward, inches, moves, pizza, toward, you.
NEXT_WORD = np.array(
    [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32
)
NEXT_WORDS = "closer every effort forward inches moves pizza toward you".split()

# What the notes mask the instructions of.
THREE_INSTRUCTIONS = (
    {
        "instruction": "What is an antonym of 'complicated'?",
        "input": "",
        "output": "An antonym of 'complicated' is 'simple'.",
    },
    {
        "instruction": "Sort the following list in alphabetical order.",
        "input": "Zebra, Elephant, Crocodile",
        "output": "Crocodile, Elephant, Zebra",
    },
    {
        "instruction": "Arrange the given numbers in descending order.",
        "input": "5, 12, 8, 3, 15",
        "output": "15, 12, 8, 5, 3.",
    },
)

# What the notes train: GPT-2's shape with PyTorch's initial values and a head of its
# own; the long context of the chapter on the model, the short one of pretraining.
GPT_124M = gpt2_config(
    "124M", tied_head=False, qkv_bias=False, drop_rate=0.1, init="pytorch"
)
GPT_256 = dataclasses.replace(GPT_124M, context_length=256)


@functools.cache
def verdict() -> str:
    """Read the notes' text, The Verdict by Edith Wharton (1908), 20,479 characters."""
    return next(corpora.documents("the-verdict"))


@functools.cache
def spam_messages(*, quoted: bool = True) -> Labelled:
    """Read the UCI SMS Spam Collection: 5,574 messages, ham or spam.

    The book's reader takes `"` for quoting, which the file does not do, and so merges
    messages; 5,572 are left.
    """
    return labelled.read_labelled(
        example_file("SMSSpamCollection.tsv"),
        columns=("label", "text"),
        quoted=quoted,
    )


@functools.cache
def instruction_records() -> list[records.Record]:
    """Read the book's 1,100 instructions with their inputs and outputs."""
    return records.read_records(example_file("instruction-data.json"))


def example_file(name: str) -> pathlib.Path:
    """Find a file of the book's examples in $JAXLLM_DATA or in the cache."""
    path = disk.find_data(name)
    if path is None:
        folders = " or ".join(map(str, disk.data_folders()))
        raise DataError(
            f"{name} must lie in $JAXLLM_DATA or in the cache, it is not in {folders}"
        )
    return path


def heading_in_response(template: Template) -> Template:
    """Let the response begin with its heading, as in the book's mask of instructions.

    The text stays the same; a model then also learns to write the heading.
    """
    response = template.heading + template.response
    return dataclasses.replace(template, heading="", response=response)


def untrained(cfg: GPTConfig, seed: int = 123) -> tuple[Params, stream.Stream]:
    """Draw a model after a seed; also return the stream where it then stands.

    >>> params, _ = untrained(GPTConfig(vocab_size=2, emb_dim=2, n_heads=1, n_layers=1))
    >>> params["token_embedding"]["embedding"].shape
    (2, 2)
    """
    params, draws_left = _drawn(cfg, seed)
    return params, copy.deepcopy(draws_left)


@functools.lru_cache(maxsize=1)
def _drawn(cfg: GPTConfig, seed: int) -> tuple[Params, stream.Stream]:
    source = stream.seed(seed)
    return jax.device_put(draws.gpt_parameters(source, cfg)), source


def find_published(size: str) -> pathlib.Path | None:
    """Find the folder of a published GPT-2: $JAXLLM_WEIGHTS/124M, or gpt2-124M, ..."""
    root = os.environ.get("JAXLLM_WEIGHTS")
    names = (size, f"gpt2-{size}", _HUB_NAMES[size])
    folders = [pathlib.Path(root, name) for name in names] if root else []
    return next(filter(pathlib.Path.is_dir, folders), None)


_HUB_NAMES = {
    "124M": "gpt2",
    "355M": "gpt2-medium",
    "774M": "gpt2-large",
    "1558M": "gpt2-xl",
}


@functools.lru_cache(maxsize=1)
def published(size: str) -> tuple[Params, GPTConfig, Tokenizer]:
    """Load a published GPT-2 and its tokenizer from the folder $JAXLLM_WEIGHTS."""
    folder = find_published(size)
    if folder is None:
        raise CheckpointError(
            f"the published GPT-2 {size} must lie in a folder {size} or "
            f"{_HUB_NAMES[size]} of $JAXLLM_WEIGHTS, got none"
        )
    params, cfg, _ = load.load_pretrained(folder)
    return params, cfg, tokenizers.load("gpt2")


def forget() -> None:
    """Let go of the models that are kept for the next call."""
    _drawn.cache_clear()
    published.cache_clear()


def attention_weights(seed: int, *, heads: int = 1) -> list[Array]:
    """Draw query, key and value (3, 2) of each head as the notes' Linear layers do."""
    source = stream.seed(seed)
    return [source.linear(3, 2, bias=False)[0].T for _ in range(3 * heads)]


def dummy_logits() -> Array:
    """Score TWO_TEXTS with the model of no blocks that stands in for the GPT.

    Embeddings, dropout and a head, (2, 4, V); drawn in this order after seed 123.
    """
    source, cfg = stream.seed(123), GPT_124M
    tokens = source.embedding(cfg.vocab_size, cfg.emb_dim)
    positions = source.embedding(cfg.context_length, cfg.emb_dim)
    head, _ = source.linear(cfg.emb_dim, cfg.vocab_size, bias=False)
    x = tokens[TWO_TEXTS] + positions[: TWO_TEXTS.shape[1]]
    keep = source.keep_mask(x.shape, cfg.drop_rate)
    x = dropout.dropout(jnp.asarray(x), cfg.drop_rate, jnp.asarray(keep))
    tables = {"token_embedding": {"embedding": tokens}, "head": {"embedding": head}}
    return embeddings.unembed(tables, x, cfg)


def deep_gradients(*, shortcuts: bool) -> list[float]:
    """Measure the mean size of each weight's gradient in a network of five layers.

    Widths 3, 3, 3, 3, 3, 1, a GELU behind each; a shortcut past each layer that keeps
    the width; squared error of the answer to (1, 0, -1) against 0; seed 123.
    """
    source = stream.seed(123)
    layers = [source.linear(3, outputs) for outputs in (3, 3, 3, 3, 1)]

    def loss(weights):
        x = jnp.array([[1.0, 0.0, -1.0]])
        for weight, (_, bias) in zip(weights, layers, strict=True):
            y = blocks.gelu(linear.linear(x, weight.T, bias, 1, x.dtype))
            x = x + y if shortcuts and x.shape == y.shape else y
        return jnp.square(x).mean()

    gradients = jax.grad(loss)([weight for weight, _ in layers])
    return [float(jnp.abs(gradient).mean()) for gradient in gradients]
