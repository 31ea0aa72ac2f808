"""`jaxllm prepare`: a corpus to a token store."""

import dataclasses
from typing import Literal

from jaxllm.cli import arguments, console
from jaxllm.config import TokenizerConfig
from jaxllm.data import corpora, pool, token_store, tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Tokenize a corpus into a token store, in parallel and in bounded memory.

    The same line continues what was interrupted.
    """

    corpus: str
    """A named corpus, a text, JSON lines or Parquet file, or a folder of them."""
    out: str = "store"
    """Folder of the token store."""
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    """The tokenizer."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    validation_fraction: float = 0.1
    """Share of the corpus that is held out, in (0, 1)."""
    split: Literal["tokens", "documents"] = "tokens"
    """tokens: the last part of the corpus is held out, cut between two words;
    documents: whole documents, chosen by their content, are held out."""
    workers: int = pool.cores()
    """Processes that tokenize."""


def main(argv: list[str]) -> int:
    """Prepare a store, and tell what it holds."""
    options = arguments.parse(Options, argv, "jaxllm prepare")
    with console.progress("learning a vocabulary") as report:
        tokenizer = _tokenizer(options, report)
    with console.progress("characters") as report:
        store = token_store.prepare(
            options.corpus,
            tokenizer,
            options.out,
            text_column=options.text_column,
            split=options.split,
            validation_fraction=options.validation_fraction,
            workers=options.workers,
            progress=report,
        )
    train, validation = f"{len(store.train):,}", f"{len(store.validation):,}"
    print(f"{options.out}: {train} tokens to train on, {validation} held out")
    print(f"tokenizer {options.tokenizer.kind}: {tokenizer.vocab_size:,} tokens")
    return 0


def _tokenizer(options: Options, report: console.Report) -> tokenizers.Tokenizer:
    if options.tokenizer.kind not in ("bpe", "char", "word"):
        return tokenizers.load(options.tokenizer.kind)
    texts = corpora.texts(options.corpus, text_column=options.text_column)
    return tokenizers.learn(
        console.counted(texts, report), options.tokenizer, processes=options.workers
    )
