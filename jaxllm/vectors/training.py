"""A config in, trained word vectors and their run directory out.

    vocabulary.json    the words and how often each occurs
    words.ids          the text as word ids
    config.yaml        the run, as it was asked for, with the batch_size that followed
    checkpoint.npz     both tables, and how many chunks they have learned from
    metrics.jsonl      a line per logged chunk
    vectors.bin        the result, in word2vec's binary form

All that is random about a chunk of text is drawn from the seed and the chunk's number,
so a run that was stopped goes on to the same bits.
"""

import dataclasses
import json
import math
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.data import disk
from jaxllm.errors import CheckpointError, ConfigError, DivergenceError
from jaxllm.training import runs, signals
from jaxllm.vectors import blocks, files, vocabulary, word2vec
from jaxllm.vectors.config import Word2VecConfig
from jaxllm.vectors.word2vec import Tables

OnEvent = Callable[[str, dict[str, Any]], None]
"""Told (kind, record) of the kinds reading, start, train and checkpoint."""

CHECKPOINT, RESULT = "checkpoint.npz", "vectors.bin"

_REMEDY = "a lower learning_rate, or a smaller batch_size or block_size, helps"

# A loss above so many times that of vectors of zeros comes from a divergence. Where a
# text repeats itself for a while, as tables do, 5 times were seen to pass.
_FAR = 20

# What may differ between a run and its continuation.
_FREE = {"run_dir", "checkpoint_seconds"}


class Result(NamedTuple):
    """How a run ended."""

    tables: Tables
    words: list[str]
    interrupted: bool  # by SIGTERM or Ctrl-C; resuming goes on


class _Run(NamedTuple):
    cfg: Word2VecConfig
    words: vocabulary.Vocabulary
    ids: np.ndarray
    tables: Tables
    chunk: int  # the first one to learn from
    mesh: jax.sharding.Mesh | None


def train(
    cfg: Word2VecConfig,
    *,
    resume: bool = False,
    on_event: OnEvent = lambda kind, record: None,
) -> Result:
    """Train word2vec as its config says.

    Devices share the dimensions evenly, so of those there are, as many work as their
    greatest common divisor with emb_dim says: of 3 devices, one for 100 dimensions.

    SIGTERM and Ctrl-C end it after the chunk under way, with a checkpoint.

    Raises:
        JaxllmError: something in the config, the text or the run directory is wrong.
        DivergenceError: the vectors became NaN, infinite, or far worse than zeros.
    """
    run = _prepare(cfg, resume, on_event)
    on_event("start", _description(run))
    with signals.stop_asked() as stop_asked:
        tables, interrupted = _learn(run, stop_asked, on_event)
    if not interrupted:
        result = files.Embeddings(run.words.words, np.asarray(tables.inputs))
        files.write(result, pathlib.Path(cfg.run_dir) / RESULT)
    return Result(tables, run.words.words, interrupted)


def count_chunks(n_ids: int, cfg: Word2VecConfig) -> int:
    """Count the chunks of an epoch."""
    return -(-n_ids // cfg.chunk_size)


def noise_table(words: vocabulary.Vocabulary, cfg: Word2VecConfig) -> blocks.AliasTable:
    """Make the table from which noise words are drawn."""
    odds = vocabulary.noise_distribution(words.counts, cfg.noise_power)
    return blocks.alias_table(odds)


def chunk_blocks(
    n: int,
    ids: np.ndarray,
    noise: blocks.AliasTable,
    keep: np.ndarray,
    cfg: Word2VecConfig,
) -> tuple[blocks.Blocks, int]:
    """Draw the blocks of the n-th chunk of a run, counted over all epochs.

    Returns:
        blocks with their learning rates, and the number of updates, as `make_blocks`.
    """
    per_epoch = count_chunks(len(ids), cfg)
    begin = n % per_epoch * cfg.chunk_size
    chunk = np.asarray(ids[begin : begin + cfg.chunk_size])
    rng = np.random.Generator(np.random.SFC64([cfg.seed, n]))
    drawn, n_updates = blocks.make_blocks(chunk, keep, noise, cfg, rng=rng)
    start = n // per_epoch * len(ids) + begin
    within = np.minimum(np.arange(len(drawn.rate)) / n_updates, 1)
    progress = (start + len(chunk) * within) / (cfg.epochs * len(ids))
    rate = cfg.rate + (cfg.min_learning_rate - cfg.rate) * progress
    return drawn._replace(rate=rate.astype(np.float32)), n_updates


def _prepare(cfg: Word2VecConfig, resume: bool, on_event: OnEvent) -> _Run:
    run_dir = pathlib.Path(cfg.run_dir)
    is_ours = (run_dir / vocabulary.WORDS).exists()
    if not resume:
        is_any = runs.is_run(run_dir) or runs.has_trained(run_dir)
        if (run_dir / CHECKPOINT).exists() or (is_any and not is_ours):
            raise ConfigError(
                f"run_dir must be a folder without a run, {run_dir} has one; name "
                "another folder, or resume it if it is one of word2vec"
            )
        # Of an attempt that came to nothing; what says that it is ours goes last.
        for name in (runs.METRICS, runs.CONFIG, vocabulary.WORDS):
            (run_dir / name).unlink(missing_ok=True)
        vocabulary.prepare(
            cfg, lambda name, n: on_event("reading", {"name": name, "words": n})
        )
    elif not is_ours:
        raise CheckpointError(
            f"resume must name a run of word2vec, {run_dir} holds none"
        )
    words, ids = vocabulary.read(run_dir)
    if cfg.batch_size is None:
        size = vocabulary.batch_size(words.counts, cfg)
        cfg = dataclasses.replace(cfg, batch_size=size)
    if not resume:
        runs.write_config(run_dir, cfg)
    tables, chunk = None, 0
    if resume and (run_dir / CHECKPOINT).exists():
        tables, chunk = read_checkpoint(cfg)
    if resume:
        _cut_back(run_dir, chunk)
    if tables is None:
        key = jax.random.key(cfg.seed)
        tables = word2vec.init_tables(key, len(words.words), cfg.emb_dim)
    mesh = _mesh(cfg)
    if mesh is not None:
        columns = jax.sharding.PartitionSpec(None, "columns")
        tables = jax.device_put(tables, jax.sharding.NamedSharding(mesh, columns))
    return _Run(cfg, words, ids, tables, chunk, mesh)


def _cut_back(run_dir: pathlib.Path, chunk: int) -> None:
    """Forget what was noted after a checkpoint: it will be noted again."""
    kept = [r for r in runs.read_metrics(run_dir) if r["chunk"] <= chunk]
    with disk.atomic_writer(run_dir / runs.METRICS) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in kept)


def _mesh(cfg: Word2VecConfig) -> jax.sharding.Mesh | None:
    """Put as many devices in a row as can share the columns evenly."""
    n = math.gcd(cfg.emb_dim, jax.device_count())
    if n == 1:
        return None
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((n,), ("columns",), axis_types, devices=jax.devices()[:n])


def _description(run: _Run) -> dict[str, Any]:
    return {
        "vocabulary": len(run.words.words),
        "words": len(run.ids),
        "total_words": len(run.ids) * run.cfg.epochs,
        "devices": 1 if run.mesh is None else run.mesh.size,
        "platform": jax.default_backend(),
    }


def _learn(
    run: _Run, stop_asked: Callable[[], bool], on_event: OnEvent
) -> tuple[Tables, bool]:
    cfg, tables = run.cfg, run.tables
    per_epoch = count_chunks(len(run.ids), cfg)
    total = per_epoch * cfg.epochs
    step = word2vec.compile_chunk(cfg, run.mesh)
    saved = time.monotonic()
    loss, interrupted, last = None, False, run.chunk
    for n, drawn, n_updates in _drawn(run, total):
        tables, latest = step(tables, drawn, jnp.int32(n_updates))
        if loss is not None:  # of the chunk before: the device never waits for the host
            _tell(run, n - 1, float(loss), on_event)
        loss, last = latest, n + 1
        interrupted = stop_asked() and last < total
        due = time.monotonic() - saved > cfg.checkpoint_seconds
        if interrupted or due or last == total:
            # The record comes first: of what a checkpoint knows, none is missing.
            _tell(run, n, float(loss), on_event)
            loss = None
            # A chunk's loss is taken before it is learned: take it once more.
            tables, after = step(tables, drawn, jnp.int32(0))
            _require_finite(tables, n)
            _require_sense(float(after), n, cfg)
            write_checkpoint(tables, last, cfg)
            on_event("checkpoint", {"chunk": last})
            saved = time.monotonic()
        if interrupted:
            break
    return tables, interrupted


def _drawn(run: _Run, total: int) -> Iterator[tuple[int, blocks.Blocks, int]]:
    """Yield the chunks' blocks; a thread draws the next while a device learns."""
    cfg = run.cfg
    noise = noise_table(run.words, cfg)
    # The mark, -1, finds the last entry: it always stays.
    keep = np.append(vocabulary.keep_probability(run.words.counts, cfg.subsample), 1)

    def make(n: int) -> tuple[blocks.Blocks, int]:
        return chunk_blocks(n, run.ids, noise, keep, cfg)

    with futures.ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(make, run.chunk)
        for n in range(run.chunk, total):
            drawn, n_updates = ahead.result()
            if n + 1 < total:
                ahead = thread.submit(make, n + 1)
            yield n, drawn, n_updates


def _require_finite(tables: Tables, n: int) -> None:
    """Look at the vectors themselves: a loss sees those of its update."""
    if not all(bool(jnp.isfinite(table).all()) for table in tables):
        raise DivergenceError(
            f"the vectors must stay finite, they are not after chunk {n}; {_REMEDY}"
        )


def _require_sense(loss: float, n: int, cfg: Word2VecConfig) -> None:
    """Refuse a loss that is no number, or far above that of vectors of zeros."""
    start = (1 + cfg.negatives) * math.log(2)
    if not loss <= _FAR * start:
        raise DivergenceError(
            f"the loss must fall from {start:.2f}, it is {loss:.3g} in chunk {n}; "
            + _REMEDY
        )


def _tell(run: _Run, n: int, loss: float, on_event: OnEvent) -> None:
    cfg = run.cfg
    _require_sense(loss, n, cfg)
    per_epoch, n_ids = count_chunks(len(run.ids), cfg), len(run.ids)
    done = (n + 1) // per_epoch * n_ids
    done += min((n + 1) % per_epoch * cfg.chunk_size, n_ids)
    record = {"chunk": n + 1, "words": done, "loss": loss}
    with open(pathlib.Path(cfg.run_dir) / runs.METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "train"} | record) + "\n")
    on_event("train", record)


def write_checkpoint(tables: Tables, chunk: int, cfg: Word2VecConfig) -> None:
    """Write both tables and the number of chunks they have learned from."""
    config = json.dumps(_fixed(cfg))
    with disk.atomic_writer(pathlib.Path(cfg.run_dir) / CHECKPOINT) as file:
        np.savez(
            file,
            chunk=np.int64(chunk),
            config=np.array(config),
            inputs=np.asarray(tables.inputs),
            outputs=np.asarray(tables.outputs),
        )


def read_checkpoint(cfg: Word2VecConfig) -> tuple[Tables, int]:
    """Read what `write_checkpoint` wrote, for the same config."""
    path = pathlib.Path(cfg.run_dir) / CHECKPOINT
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            config = json.loads(str(found["config"]))
            tables = Tables(*(jnp.asarray(found[name]) for name in Tables._fields))
            chunk = int(found["chunk"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    for name, value in _fixed(cfg).items():
        if config.get(name) != value:
            raise ConfigError(
                f"{name} must be as in the run that is resumed, {config.get(name)!r}, "
                f"got {value!r}"
            )
    return tables, chunk


def _fixed(cfg: Word2VecConfig) -> dict[str, Any]:
    fields = {n: getattr(cfg, n) for n in cfg.__dataclass_fields__ if n not in _FREE}
    return json.loads(json.dumps(fields))
