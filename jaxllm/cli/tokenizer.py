"""`jaxllm tokenizer`: learn a vocabulary, look at ids, compare vocabularies."""

import dataclasses
import itertools
import os
import sys
import time

from jaxllm.cli import arguments, console, reading
from jaxllm.config import TokenizerConfig
from jaxllm.data import corpora, disk, pool, tokenizers


def main(argv: list[str]) -> int:
    """Run one of the sub-commands."""
    commands = {
        "train": train,
        "show": show,
        "encode": encode,
        "decode": decode,
        "compare": compare,
    }
    lines = {
        "train": "learn a vocabulary from a corpus",
        "show": "how a text is cut, in colour",
        "encode": "text to token ids",
        "decode": "token ids to text",
        "compare": "tokens per text, for several tokenizers",
    }
    about = "Text to token ids and back."
    name, rest = arguments.choose(lines, argv, "jaxllm tokenizer", about)
    return commands[name](rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(TokenizerConfig):
    """Learn a vocabulary from a corpus, and save it as one JSON file."""

    corpus: str
    """A named corpus, a text, JSON lines or Parquet file, or a folder of them."""
    kind: str = "bpe"
    """bpe, char or word."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    processes: int = pool.cores()
    """Processes that count pieces (bpe)."""
    out: str = "tokenizer.json"
    """File to write."""


def train(argv: list[str]) -> int:
    """Learn a vocabulary, and tell its size, its hash and the time it took."""
    options = arguments.parse(Train, argv, "jaxllm tokenizer train")
    start = time.monotonic()
    with console.progress("learning a vocabulary") as report:
        texts = corpora.texts(options.corpus, text_column=options.text_column)
        tokenizer = tokenizers.learn(
            console.counted(texts, report), options, processes=options.processes
        )
    tokenizers.save(tokenizer, options.out)
    taken = console.duration(time.monotonic() - start)
    print(f"{options.out}: {tokenizer.vocab_size:,} tokens, learned in {taken}")
    print(f"hash {tokenizer.hash}")
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show:
    """Show how a text is cut into tokens: coloured, or with bars in a pipe."""

    tokenizer: str
    """gpt2, another name that tiktoken knows, or a saved tokenizer.json."""
    text: str
    """The text; - reads it from standard input. Special tokens in it count."""
    html: str | None = None
    """A page of HTML to write, with the id of each token under the pointer."""


def show(argv: list[str]) -> int:
    """Print the pieces of a text and their number, or write them as a page."""
    options = arguments.parse(Show, argv, "jaxllm tokenizer show")
    from jaxllm.plots import pieces

    tokenizer = tokenizers.load(options.tokenizer)
    text = reading.read_text() if options.text == "-" else options.text
    ids = tokenizer.encode(text, allow_special=True).tolist()
    tokens = [tokenizer.token_bytes(id) for id in ids]
    if options.html:
        page = pieces.html_page(tokens, ids, title=options.tokenizer)
        with disk.atomic_writer(options.html) as file:
            file.write(page.encode())
        print(options.html)
        return 0
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(pieces.terminal_text(tokens, colour=colour))
    print(f"{len(ids):,} tokens, {len(text.encode()):,} bytes")
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encode:
    """Print the token ids of a text."""

    tokenizer: str
    """gpt2, another name that tiktoken knows, or a saved tokenizer.json."""
    text: str
    """The text; - reads it from standard input."""
    allow_special: bool = False
    """Whether special tokens in the text become their ids."""
    show_tokens: bool = False
    """Whether each id is printed on a line of its own, with its bytes."""


def encode(argv: list[str]) -> int:
    """Print ids on one line, or one by one with their bytes."""
    options = arguments.parse(Encode, argv, "jaxllm tokenizer encode")
    tokenizer = tokenizers.load(options.tokenizer)
    text = reading.read_text() if options.text == "-" else options.text
    ids = tokenizer.encode(text, allow_special=options.allow_special)
    if options.show_tokens:
        for id in ids.tolist():
            print(id, tokenizer.token_bytes(id))
    else:
        print(*ids)
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode:
    """Print the text of token ids."""

    tokenizer: str
    """gpt2, another name that tiktoken knows, or a saved tokenizer.json."""
    ids: tuple[int, ...]
    """The ids, one word each."""


def decode(argv: list[str]) -> int:
    """Print the text, exactly."""
    options = arguments.parse(Decode, argv, "jaxllm tokenizer decode")
    print(tokenizers.load(options.tokenizer).decode(options.ids))
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Count the tokens of one text under several tokenizers."""

    tokenizers: tuple[str, ...]
    """Names that tiktoken knows, or saved tokenizer.json files."""
    corpus: str = "python-stdlib"
    """A named corpus, a text, JSON lines or Parquet file, or a folder of them."""
    text_column: str = "text"
    """The field that holds the text in JSON lines and Parquet."""
    max_documents: int = 200
    """Documents to read, from the first one on."""


def compare(argv: list[str]) -> int:
    """Print a line per tokenizer: vocabulary, tokens, bytes per token."""
    options = arguments.parse(Compare, argv, "jaxllm tokenizer compare")
    documents = corpora.documents(options.corpus, text_column=options.text_column)
    texts = list(itertools.islice(documents, options.max_documents))
    n_bytes = sum(len(text.encode()) for text in texts)
    rows = []
    for name in options.tokenizers:
        tokenizer = tokenizers.load(name)
        n_tokens = sum(len(tokenizer.encode_ordinary(text)) for text in texts)
        ratio = f"{n_bytes / n_tokens:.2f}"
        rows.append((name, f"{tokenizer.vocab_size:,}", f"{n_tokens:,}", ratio))
    print(f"{options.corpus}: {len(texts):,} documents, {n_bytes:,} bytes")
    console.table(("tokenizer", "vocabulary", "tokens", "bytes per token"), rows)
    return 0
