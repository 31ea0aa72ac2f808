"""A path in, a model that can be asked out: where `generate` and `chat` begin."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxllm.cli.options import TextOptions
from jaxllm.config import GPTConfig
from jaxllm.data import corpora, tokenizers
from jaxllm.errors import CheckpointError, ConfigError, DataError
from jaxllm.inference import generate, sampling
from jaxllm.pretrained import load as pretrained
from jaxllm.training import preparation, runs
from jaxllm.types import Params


def load(
    source: str, checkpoint: str = "last"
) -> tuple[Params, GPTConfig, tokenizers.Tokenizer]:
    """Open a run directory, or a folder with a GPT-2 of Hugging Face or OpenAI.

    Args:
        checkpoint: last, best, or the step of one, in a run directory.
    """
    if runs.is_run(source):
        if checkpoint in ("last", "best"):
            return runs.load_run(source, step=checkpoint)
        if checkpoint.isdigit():
            return runs.load_run(source, step=int(checkpoint))
        raise ConfigError(
            f"checkpoint must be last, best, or a step, got {checkpoint!r}"
        )
    if not os.path.isdir(source):
        raise CheckpointError(f"a run must be a folder that exists, got {source!r}")
    params, cfg, tokenizer = pretrained.load_pretrained(source)
    if tokenizer is None:
        raise CheckpointError(f"{source} has no tokenizer; GPT-2's files say its words")
    return params, cfg, tokenizer


def text_ids(
    run: str, tokenizer: tokenizers.Tokenizer, text: str | None, text_column: str
) -> Any:
    """Find the ids to measure a model on: (n,), an array or a part of a token store.

    Args:
        text: a corpus; None takes what the run has held out.
    """
    if text is None and not runs.is_run(run):
        raise ConfigError(f"text must be given: {run} is no run, and holds nothing out")
    if text is None:
        cfg = dataclasses.replace(runs.read_config(run), run_dir=run)
        store = preparation.find_tokens(cfg, tokenizer, 1, lambda kind, record: None)
        return store.validation
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    rows = [
        np.append(tokenizer.encode_ordinary(document), end)
        for document in corpora.documents(text, text_column=text_column)
    ]
    return np.concatenate(rows).astype(np.int32)


def encode_prompt(
    text: str, tokenizer: tokenizers.Tokenizer, cfg: GPTConfig
) -> np.ndarray:
    """Turn a prompt into ids; special tokens in it count, and nothing begins a text.

    Raises:
        DataError: the prompt is longer than the context.
    """
    ids = tokenizer.encode(text, allow_special=True)
    if not len(ids) and tokenizer.end_of_text is not None:
        ids = np.array([tokenizer.end_of_text], np.int32)
    if len(ids) > cfg.context_length:
        raise DataError(
            f"a prompt must have at most {cfg.context_length} tokens, the context of "
            f"the model, got {len(ids)}"
        )
    return ids


def stream_text(
    params: Params,
    prompt: np.ndarray,
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
    options: TextOptions,
    turn: int = 0,
) -> Iterator[str]:
    """Yield what follows a prompt, as it comes, up to the end of the text.

    Args:
        turn: which text of a conversation this is; each draws differently.
    """
    end = tokenizer.end_of_text
    pieces = generate.stream(
        params,
        [prompt],
        cfg,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling.Sampling(
            temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
        ),
        stop_tokens=() if end is None else (end,),
        overflow="slide",
        key=jax.random.fold_in(jax.random.key(options.seed), turn),
    )
    tokens = (token for (row,) in pieces for token in row.tolist())
    yield from generate.text_of(tokens, tokenizer)
