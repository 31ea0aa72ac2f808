"""A path in, a model that can be asked out: where `generate` and `chat` begin."""

import dataclasses
import os
from typing import Any

import numpy as np

from jaxllm.cli.options import TextOptions
from jaxllm.config import GPTConfig
from jaxllm.data import corpora, instructions, templates, token_store, tokenizers
from jaxllm.errors import ConfigError, DataError
from jaxllm.finetuning import opening
from jaxllm.inference import text as texts
from jaxllm.inference import weights
from jaxllm.inference.generate import Overflow
from jaxllm.pretrained import load as pretrained
from jaxllm.training import runs
from jaxllm.types import Params


def load(
    source: str, checkpoint: str = "last"
) -> tuple[Params, GPTConfig, tokenizers.Tokenizer]:
    """Open a run directory, or a folder with a GPT-2 of Hugging Face or OpenAI.

    Args:
        checkpoint: last, best, or the step of one, in a run directory.

    Raises:
        ConfigError: it is a classifier, which writes no text.
    """
    params, cfg, tokenizer = opening.open_model(source, checkpoint)
    if "classifier" in params:
        raise ConfigError(
            f"{source} is a classifier, which writes no text; ask it with "
            "`jaxllm classify`"
        )
    return params, cfg, tokenizer


def load_to_ask(
    options: TextOptions,
) -> tuple[Params, GPTConfig, tokenizers.Tokenizer]:
    """Open a model as `load` does, its parameters packed for decoding."""
    params, cfg, tokenizer = load(options.run, options.checkpoint)
    bits = options.weights or pretrained.stored_weights(options.run)
    return weights.decoding_params(params, cfg, bits, donate=True), cfg, tokenizer


def find_template(options: TextOptions) -> templates.AnyTemplate | None:
    """Find what is written around a person's words; None for nothing."""
    if options.raw:
        if options.template is not None:
            raise ConfigError(
                f"raw text has no template, got template {options.template!r}"
            )
        return None
    if options.template is not None:
        return templates.load(options.template)
    own = os.path.join(options.run, templates.FILE)
    return templates.load(own) if os.path.isfile(own) else None


def text_ids(
    run: str, tokenizer: tokenizers.Tokenizer, text: str | None, text_column: str
) -> Any:
    """Find the ids to measure a model on: (n,), an array or a part of a token store.

    Args:
        text: a corpus, or a token store, of which the held-out part counts; None takes
        what the run has held out.
    """
    if text is None and not _holds_out(run):
        raise ConfigError(f"text must be given: {run} holds no text of its own out")
    if text is None:
        from jaxllm.training import run_text

        cfg = dataclasses.replace(runs.read_config(run), run_dir=run)
        store = run_text.find_tokens(cfg, tokenizer, 1, lambda kind, record: None)
        return store.validation
    if token_store.is_store(text):
        return token_store.open_store(text, tokenizer).validation
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    rows = [
        np.append(tokenizer.encode_ordinary(document), end)
        for document in corpora.documents(text, text_column=text_column)
    ]
    return np.concatenate(rows).astype(np.int32)


def _holds_out(run: str) -> bool:
    """Tell whether a run was trained here; the data of one converted are a default."""
    if not runs.is_run(run) or opening.is_finetuned(run):
        return False
    return any(
        os.path.exists(os.path.join(run, n)) for n in (runs.METRICS, runs.TOKENS)
    )


def encode_prompt(
    text: str,
    tokenizer: tokenizers.Tokenizer,
    cfg: GPTConfig,
    overflow: Overflow = "error",
) -> np.ndarray:
    """Turn a prompt into ids, as `stream_text` does.

    Raises:
        DataError: the prompt is longer than the context, where that is an error, or
            it is empty and the tokenizer has no end of a text to begin one with.
    """
    return _checked(texts.encode_prompt(text, tokenizer), cfg, overflow)


def encode_request(
    text: str,
    template: templates.AnyTemplate,
    tokenizer: tokenizers.Tokenizer,
    cfg: GPTConfig,
    overflow: Overflow = "error",
) -> np.ndarray:
    """Turn what a person asks of an assistant into ids, up to where it is to answer.

    Raises:
        DataError: nothing is asked, or more than the context holds.
    """
    if not text.strip():
        raise DataError(f"a prompt must ask something, got {text!r}")
    asked = [{"role": templates.USER, "content": text}]
    ids = instructions.encode_conversation(asked, template, tokenizer)
    return _checked(ids, cfg, overflow)


def _checked(ids: np.ndarray, cfg: GPTConfig, overflow: Overflow) -> np.ndarray:
    if overflow == "error" and len(ids) > cfg.context_length:
        raise DataError(
            f"a prompt must have at most {cfg.context_length} tokens, the context of "
            f"the model, got {len(ids)}; --overflow keep_last reads its end only"
        )
    return ids
