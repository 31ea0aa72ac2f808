"""Words to vectors: word2vec here, and gensim's compiled code on as many cores.

Both learn from the same words with the same settings, a whole training with a seed of
its own per round. What counts is words of text per second while learning: neither
reading nor compiling. Each round also tells Spearman's correlation with WordSim-353 and
the accuracy on the analogies of questions-words, which come with gensim.
"""

import importlib.util
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.suites import Options, Row

CONTESTANTS = {
    "jaxllm": "benchmarks.vectors:jaxllm",
    "gensim": "benchmarks.vectors:gensim",
}


def rows(device: str, smoke: bool) -> list[Row]:
    """List a row for each algorithm."""
    epochs = 1 if smoke else 5
    work = f"python-stdlib, {epochs} epochs, 100 dimensions, window 5, 5 noise words"
    return [
        Row(
            algorithm,
            f"{algorithm}, {work}",
            ("jaxllm", "gensim"),
            {"algorithm": algorithm, "epochs": epochs},
            "words/s",
            rounds=3,
        )
        for algorithm in ("skipgram", "cbow")
    ]


def prepare(options: Options) -> None:
    """Read the words once, for both."""
    from jaxllm.vectors import vocabulary

    vocabulary.prepare(_config(options, "words", 0))


def _config(options: Options, name: str, seed: int) -> Any:
    from jaxllm.vectors import config

    return config.Word2VecConfig(
        run_dir=str(pathlib.Path(options["folder"]) / name),
        algorithm=options["algorithm"],
        epochs=options["epochs"],
        seed=seed,
    )


def jaxllm(options: Options) -> Iterator[dict[str, Any]]:
    """Train, and leave the first quarter out: it pays for compiling."""
    from jaxllm.cli import vectors as command

    command.use_all_cores()
    from jaxllm.vectors import files, training

    yield {}
    seed = 0
    while True:
        marks: list[tuple[float, int]] = []

        def note(kind: str, record: dict[str, Any], marks: Any = marks) -> None:
            if kind == "train":
                marks.append((time.perf_counter(), record["words"]))

        result = training.train(_config(options, f"jaxllm-{seed}", seed), on_event=note)
        (start, first), (end, last) = marks[len(marks) // 4], marks[-1]
        kept = files.Embeddings(result.words, np.asarray(result.tables.inputs))
        yield {"amount": last - first, "seconds": end - start} | _quality(kept)
        seed += 1


def gensim(options: Options) -> Iterator[dict[str, Any]]:
    """Train on lists of words in memory, on as many cores as ours takes."""
    # The peer's, which need not be installed.
    from gensim.models import word2vec  # pyright: ignore[reportMissingImports]

    from jaxllm.vectors import files, vocabulary

    cfg = _config(options, "words", 0)
    words, ids = vocabulary.read(cfg.run_dir)
    names = np.array(words.words, object)
    texts = [
        names[part].tolist()
        for text in np.split(np.asarray(ids), np.flatnonzero(ids < 0))
        # gensim cuts texts off after 10,000 words.
        for part in np.array_split(text[text >= 0], 1 + len(text) // 10_000)
    ]
    yield {}
    seed = 1
    while True:
        model = word2vec.Word2Vec(
            vector_size=cfg.emb_dim,
            window=cfg.window,
            negative=cfg.negatives,
            min_count=cfg.min_count,
            sample=cfg.subsample,
            sg=int(cfg.algorithm == "skipgram"),
            seed=seed,
            workers=min(machine.cores(), 4),
        )
        model.build_vocab(texts)
        start = time.perf_counter()
        model.train(texts, total_examples=len(texts), epochs=cfg.epochs)
        seconds = time.perf_counter() - start
        kept = files.Embeddings([*map(str, model.wv.index_to_key)], model.wv.vectors)
        amount = sum(map(len, texts)) * cfg.epochs
        yield {"amount": amount, "seconds": seconds} | _quality(kept)
        seed += 1


def _quality(embeddings: Any) -> dict[str, dict[str, float]]:
    """Score vectors on the questions in gensim's own tests, where it is there."""
    from jaxllm.vectors import evaluation

    found = importlib.util.find_spec("gensim")
    if found is None or found.origin is None:
        return {}
    folder = pathlib.Path(found.origin).parent / "test" / "test_data"
    pairs = evaluation.read_similarities(folder / "wordsim353.tsv")
    questions = evaluation.read_analogies(folder / "questions-words.txt")
    likeness = evaluation.evaluate_similarities(embeddings, pairs)
    total = evaluation.evaluate_analogies(embeddings, questions)["total"]
    scores = {"wordsim353": likeness.spearman, "analogies": total.accuracy}
    return {"scores": scores}
