"""A config in, the text that its run learns from out: a tokenizer and token ids.

Both are made in the run directory, or found there, or in the token store that the
config names; what follows from them is filled into the config.
"""

import dataclasses
import pathlib
from typing import Any

import jax

from jaxllm.config import DataConfig, TokenizerConfig, TrainConfig
from jaxllm.data import corpora, token_store, tokenizers
from jaxllm.errors import ConfigError, DataError
from jaxllm.training import resumption, runs
from jaxllm.training.runs import OnEvent

LEARNED = ("bpe", "char", "word")


def open_run_dir(
    cfg: TrainConfig, resume: bool, processes: int, on_event: OnEvent
) -> tuple[TrainConfig, tokenizers.Tokenizer, token_store.TokenStore]:
    """Begin a run directory, or open the one that is there; fill in the config."""
    run_dir = pathlib.Path(cfg.run_dir)
    begun = runs.read_config(run_dir) if resume else cfg
    token_store.refuse_unfinished(cfg.data.corpus)
    if not resume:
        if runs.has_trained(run_dir):
            raise ConfigError(
                f"{run_dir} holds a run already; resume it, or name another run_dir"
            )
        corpora.find(cfg.data.corpus)  # A mistake in its name leaves nothing behind.
        if jax.process_index() == 0:
            forget_other_tokens(cfg)
            runs.write_config(run_dir, cfg)
    tokenizer = find_tokenizer(cfg, processes)
    store = find_tokens(cfg, tokenizer, processes, on_event)
    cfg = filled_in(cfg, tokenizer, store)
    if resume:
        if token_store.is_store(cfg.data.corpus):  # It may have been moved.
            data = dataclasses.replace(begun.data, corpus=cfg.data.corpus)
            begun = dataclasses.replace(begun, data=data)
        resumption.require_same_run(cfg, filled_in(begun, tokenizer, store))
    return cfg, tokenizer, store


def forget_other_tokens(cfg: TrainConfig) -> None:
    """Delete what a failed attempt has made of another text, or in another way."""
    if not runs.is_run(cfg.run_dir):
        return
    begun = runs.read_config(cfg.run_dir)
    made_of = token_store.source_stamp(pathlib.Path(cfg.run_dir) / runs.TOKENS)
    same_text = made_of == corpora.stamp(cfg.data.corpus)
    if not same_text or (begun.tokenizer, begun.data) != (cfg.tokenizer, cfg.data):
        runs.forget_tokens(cfg.run_dir)


def find_tokenizer(cfg: TrainConfig, processes: int) -> tokenizers.Tokenizer:
    """Load the tokenizer of a run, or learn it; the run directory then has it."""
    saved = pathlib.Path(cfg.run_dir) / runs.TOKENIZER
    if saved.exists():
        return tokenizers.load(saved)
    corpus = pathlib.Path(cfg.data.corpus).expanduser()
    if cfg.tokenizer.kind not in LEARNED:
        tokenizer = tokenizers.load(cfg.tokenizer.kind)
    elif token_store.is_store(corpus):
        tokenizer = tokenizers.load(corpus)
    else:
        texts = corpora.texts(cfg.data.corpus, text_column=cfg.data.text_column)
        tokenizer = tokenizers.learn(texts, cfg.tokenizer, processes=processes)
    tokenizers.save(tokenizer, saved)
    return tokenizer


def find_tokens(
    cfg: TrainConfig,
    tokenizer: tokenizers.Tokenizer,
    processes: int,
    on_event: OnEvent,
) -> token_store.TokenStore:
    """Open the token store that the config names, or make one in the run directory."""
    if token_store.is_store(cfg.data.corpus):
        return token_store.open_store(cfg.data.corpus, tokenizer)
    folder = pathlib.Path(cfg.run_dir) / runs.TOKENS
    # What a run has learned from it goes on with, whatever became of the corpus.
    if runs.has_trained(cfg.run_dir) and token_store.is_store(folder):
        return token_store.open_store(folder, tokenizer)
    if runs.has_trained(cfg.run_dir) and corpora.stamp(cfg.data.corpus) is None:
        raise DataError(
            f"{cfg.data.corpus}, which the run {cfg.run_dir} learned from, is not "
            "there; a token store that was moved can be named: data.corpus where the "
            "run goes on, text where it is evaluated"
        )
    return token_store.prepare(
        cfg.data.corpus,
        tokenizer,
        folder,
        text_column=cfg.data.text_column,
        split=cfg.data.split,
        validation_fraction=cfg.data.validation_fraction,
        workers=processes,
        progress=lambda done, total: on_event("tokenizing", {"characters": done}),
    )


def with_vocabulary(cfg: TrainConfig, tokenizer: tokenizers.Tokenizer) -> TrainConfig:
    """Fill in a vocabulary size of 0, and refuse any other that is not the tokenizer's.

    A model with fewer rows could not read the text; one with more could write tokens
    that nobody can decode.
    """
    wanted, there = cfg.model.vocab_size, tokenizer.vocab_size
    if wanted not in (0, there):
        raise ConfigError(
            f"model.vocab_size must be {there}, the tokenizer's (0 takes it), "
            f"got {wanted}"
        )
    model = dataclasses.replace(cfg.model, vocab_size=there)
    return dataclasses.replace(cfg, model=model)


def filled_in(
    cfg: TrainConfig, tokenizer: tokenizers.Tokenizer, store: token_store.TokenStore
) -> TrainConfig:
    """Fill in what follows from the tokenizer and from the token store that is named.

    Raises ConfigError where the config says otherwise; in what a store decides, a
    default says nothing.
    """
    cfg = with_vocabulary(cfg, tokenizer)
    if not token_store.is_store(cfg.data.corpus):
        return cfg
    names = ("text_column", "split", "validation_fraction")
    data = _as_in_store("data", cfg.data, {n: store.manifest[n] for n in names})
    learned = cfg.tokenizer
    if learned.kind in LEARNED:
        there = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
        learned = _as_in_store("tokenizer", learned, there)
    return dataclasses.replace(cfg, tokenizer=learned, data=data)


def _as_in_store(
    name: str, part: DataConfig | TokenizerConfig, there: dict[str, Any]
) -> Any:
    for key, value in there.items():
        given = getattr(part, key)
        if given not in (value, getattr(type(part)(), key)):
            raise ConfigError(
                f"{name}.{key} must be {value}, as the token store was made, "
                f"got {given}"
            )
    return dataclasses.replace(part, **there)
