"""`jaxllm vectors`: train word2vec; ask, draw and convert any table of embeddings."""

import contextlib
import dataclasses
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any, Literal

from jaxllm.cli import arguments, console
from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.vectors.config import Word2VecConfig

if TYPE_CHECKING:
    from jaxllm.vectors.files import Embeddings


def main(argv: list[str]) -> int:
    """Run one of the sub-commands."""
    commands = {
        "train": train,
        "similar": similar,
        "analogy": analogy,
        "doesnt_match": doesnt_match,
        "texts": texts,
        "evaluate": evaluate,
        "plot": plot,
        "convert": convert,
    }
    lines = {
        "train": "train word2vec on a corpus, or resume a run",
        "similar": "the words nearest to some words, and farthest from others",
        "analogy": "complete: a is to b as c is to ...",
        "doesnt_match": "the word that does not go with the others",
        "texts": "how alike texts are to a GPT",
        "evaluate": "score analogies, or likenesses as people see them",
        "plot": "draw words in a plane",
        "convert": "word2vec binary, text, GloVe and .npy into each other",
    }
    about = (
        "Words as vectors: of word2vec, of a file of them, or of a GPT's own (--run)."
    )
    name, rest = arguments.choose(lines, argv, "jaxllm vectors", about)
    return commands[name](rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Word2VecConfig):
    """Train word2vec: skip-gram or CBOW with negative sampling.

    Ctrl-C ends a run after the chunk under way, with a checkpoint.
    """

    resume: str | None = None
    """Run directory to go on with."""


def train(argv: list[str]) -> int:
    """Train, show how fast it goes, and say what can be asked."""
    argv, resumed = arguments.resuming(argv)
    options = arguments.parse(Train, argv, "jaxllm vectors train")
    cfg = arguments.config_in(options, Word2VecConfig)
    use_all_cores()
    from jaxllm.vectors import training

    facts: dict[str, Any] = {}
    with console.progress("reading words") as read, console.progress("words") as learn:

        def on_event(kind: str, record: dict[str, Any]) -> None:
            facts.update(record)
            if kind == "reading":
                read(record["words"], None, record["name"])
            if kind == "start":
                print(description(record), file=sys.stderr, flush=True)
            if kind == "train":
                note = f"loss {record['loss']:.3f}"
                learn(record["words"], facts["total_words"], note)

        result = training.train(cfg, resume=resumed is not None, on_event=on_event)
    if result.interrupted:
        print(f"to go on: jaxllm vectors train --resume {cfg.run_dir}")
        return 130
    print(f"{pathlib.Path(cfg.run_dir) / training.RESULT}: {len(result.words):,} words")
    print(f"to ask: jaxllm vectors similar WORD --vectors {cfg.run_dir}")
    return 0


def description(start: dict[str, Any]) -> str:
    """Tell what is about to be learned from what.

    >>> description({"vocabulary": 15107, "words": 1135011, "devices": 2,
    ...     "platform": "cpu"})
    '15.1K different words, 1.1M words of text, 2 cpu devices'
    """
    devices = f"{start['devices']} {start['platform']} device"
    return (
        f"{console.count(start['vocabulary'])} different words, "
        f"{console.count(start['words'])} words of text, "
        + (devices if start["devices"] == 1 else f"{devices}s")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Whose vectors are asked."""

    vectors: str = "runs/vectors"
    """A run of `vectors train`, or a file: .bin, .txt, .vec, .glove, perhaps with .gz,
    or .npy."""
    run: str | None = None
    """A GPT whose tokens are asked instead: a run directory, or a GPT-2's folder."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint of that GPT."""
    limit: int | None = None
    """Read only this many words of a file, the first ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similar(Source):
    """Print the words nearest to the mean of some words, with their cosines."""

    words: tuple[str, ...]
    """Words to be near to."""
    negative: tuple[str, ...] = ()
    """Words to be far from."""
    top_n: int = 10
    """Words to print."""


def similar(argv: list[str]) -> int:
    """Print a word and its cosine per line."""
    options = arguments.parse(Similar, argv, "jaxllm vectors similar")
    embeddings = find(options)
    from jaxllm.vectors import queries

    words, negative = (_named(embeddings, w) for w in (options.words, options.negative))
    _print_answers(
        queries.most_similar(embeddings, words, negative, top_n=options.top_n)
    )
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analogy(Source):
    """Complete "A is to B as C is to ...": the words nearest to B - A + C."""

    a: str
    """As in: man"""
    b: str
    """is to king"""
    c: str
    """as woman is to ..."""
    top_n: int = 5
    """Words to print."""


def analogy(argv: list[str]) -> int:
    """Print a word and its cosine per line."""
    options = arguments.parse(Analogy, argv, "jaxllm vectors analogy")
    embeddings = find(options)
    from jaxllm.vectors import queries

    a, b, c = _named(embeddings, (options.a, options.b, options.c))
    _print_answers(queries.analogy(embeddings, a, b, c, top_n=options.top_n))
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoesntMatch(Source):
    """Print the word that is farthest from the mean of all."""

    words: tuple[str, ...]
    """The words."""


def doesnt_match(argv: list[str]) -> int:
    """Print one word."""
    options = arguments.parse(DoesntMatch, argv, "jaxllm vectors doesnt_match")
    embeddings = find(options)
    from jaxllm.vectors import queries

    print(queries.doesnt_match(embeddings, _named(embeddings, options.words)))
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
    """Compare texts by the mean of a GPT's hidden states over their tokens."""

    run: str
    """Run directory of a GPT, or a folder with a GPT-2."""
    texts: tuple[str, ...]
    """Texts, each quoted as one word; the first is compared with the others."""
    checkpoint: str = "last"
    """last, best, or the step of a checkpoint."""


def texts(argv: list[str]) -> int:
    """Print the other texts with their cosines, the likest first."""
    options = arguments.parse(Texts, argv, "jaxllm vectors texts")
    if len(options.texts) < 2:
        raise ConfigError(f"texts must be 2 or more, got {len(options.texts)}")
    from jaxllm.cli import model
    from jaxllm.vectors import files, layers, queries

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    rows = layers.text_vectors(params, options.texts, cfg, tokenizer)
    others = files.Embeddings(list(options.texts[1:]), rows[1:])
    (answers,) = queries.nearest_words(others, rows[:1], top_n=len(others.words))
    _print_answers(answers)
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Source):
    """Score vectors on questions whose answers are known."""

    analogies: str | None = None
    """File in the form of Google's questions-words.txt."""
    similarities: str | None = None
    """File of pairs of words, each with people's score of their likeness."""
    restrict: int = 300_000
    """Answers to analogies come from this many first words."""


def evaluate(argv: list[str]) -> int:
    """Print a table of sections; or the correlations of likenesses."""
    options = arguments.parse(Evaluate, argv, "jaxllm vectors evaluate")
    if options.analogies is None and options.similarities is None:
        raise ConfigError("analogies or similarities must be given, got neither")
    embeddings = find(options)
    from jaxllm.vectors import evaluation

    if options.analogies is not None:
        scores = evaluation.evaluate_analogies(
            embeddings,
            evaluation.read_analogies(options.analogies),
            restrict=options.restrict,
        )
        rows = [
            (
                name,
                f"{s.accuracy:.1%}" if s.asked else "–",
                f"{s.asked:,}/{s.total:,}",
                f"{s.coverage:.1%}",
            )
            for name, s in scores.items()
        ]
        console.table(("analogies", "right", "asked", "coverage"), rows)
    if options.similarities is not None:
        pairs = evaluation.read_similarities(options.similarities)
        score = evaluation.evaluate_similarities(embeddings, pairs)
        print(f"spearman  {score.spearman:.4f}")
        print(f"pearson   {score.pearson:.4f}")
        print(f"coverage  {score.coverage:.1%}, {score.asked:,}/{score.total:,} pairs")
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot(Source):
    """Draw words as points in a plane, near each other where their vectors are."""

    words: tuple[str, ...] = ()
    """Words to draw; without any, the most frequent ones."""
    neighbours: int = 0
    """Draw so many of the nearest words of each as well, in its colour."""
    top_n: int = 150
    """Words to draw where none are named."""
    method: Literal["pca", "tsne"] = "tsne"
    """pca: the two directions of most variance; tsne: neighbours stay together."""
    perplexity: float | None = None
    """Neighbours that t-SNE keeps near; null for 30, or a third of fewer words."""
    out: str = "vectors.png"
    """File to write: .png, .svg or .pdf."""


def plot(argv: list[str]) -> int:
    """Write the picture, and say where it is."""
    options = arguments.parse(Plot, argv, "jaxllm vectors plot")
    embeddings = find(options)
    from jaxllm.plots import figure, pieces, scatter
    from jaxllm.vectors import projection, queries

    words = list(options.words) or embeddings.words[: options.top_n]
    words = _named(embeddings, words)
    group = {word: n if options.words else 0 for n, word in enumerate(words)}
    for word in words if options.neighbours else ():
        near = queries.most_similar(embeddings, [word], top_n=options.neighbours)
        for other, _ in near:
            group.setdefault(other, group[word])
    if len(group) < 3:
        raise ConfigError(f"a picture must have at least 3 words, got {len(group)}")
    rows = queries.unit(queries.word_rows(embeddings, list(group)))
    if options.method == "pca":
        places = projection.pca(rows)
    else:
        perplexity = options.perplexity or max(1.0, min(30.0, len(group) / 3))
        places = projection.tsne(rows, perplexity=perplexity)
    # " def" and "def" are two tokens.
    shown = [pieces.visible(word.encode("utf-8", "surrogateescape")) for word in group]
    picture = scatter.scatter(places, shown, groups=list(group.values()))
    figure.save(picture, options.out)
    print(f"{options.out}: {len(group)} words")
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(Source):
    """Write vectors in the form that the name of a file ends in."""

    out: str
    """File to write: .bin, .txt, .vec or .glove, perhaps with .gz, or .npy."""


def convert(argv: list[str]) -> int:
    """Write the file, and tell what it holds."""
    options = arguments.parse(Convert, argv, "jaxllm vectors convert")
    from jaxllm.vectors import files

    if options.run is None:
        V, D = files.convert(_file(options), options.out, limit=options.limit)
    else:
        embeddings = find(options)
        files.write(embeddings, options.out)
        V, D = embeddings.rows.shape
    print(f"{options.out}: {V:,} words, {D} dimensions")
    return 0


def find(source: Source) -> "Embeddings":
    """Open the vectors that are asked."""
    from jaxllm.vectors import files

    if source.run is not None:
        from jaxllm.cli import model
        from jaxllm.vectors import layers

        params, _, tokenizer = model.load(source.run, source.checkpoint)
        return layers.token_embeddings(params, tokenizer)
    return files.read(_file(source), limit=source.limit)


def _file(source: Source) -> pathlib.Path:
    """Find the file of vectors that is meant: of a run, its result."""
    from jaxllm.vectors import training

    path = pathlib.Path(source.vectors)
    if path.is_dir():
        if not (path / training.RESULT).exists():
            raise CheckpointError(
                f"{path} must be a run of `vectors train` that has ended, "
                f"{training.RESULT} is missing"
            )
        path /= training.RESULT
    return path


def _named(embeddings: "Embeddings", words: Any) -> list[str]:
    """Let a word stand for the token that begins with a blank, where only that is."""
    index = embeddings.index
    return [
        f" {word}" if word not in index and f" {word}" in index else word
        for word in words
    ]


def _print_answers(answers: list[tuple[str, float]]) -> None:
    for word, cosine in answers:
        shown = word if word.isprintable() and word == word.strip() else repr(word)
        print(f"{cosine:7.4f}  {shown}")


def use_all_cores() -> None:
    """Make each core a device of its own that runs its products by itself.

    The products are too small to be shared by threads. JAX reads this when it starts; a
    process in which it has started stays as it is.
    """
    import jax

    from jaxllm.data import pool

    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" in flags:
        return
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    with contextlib.suppress(RuntimeError):
        # Each does the small sums for itself, so more of them gain less and less.
        jax.config.update("jax_num_cpu_devices", min(pool.cores(), 4))
