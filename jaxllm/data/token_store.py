"""Documents to token ids on disk, train and validation, and back.

A store is a folder: `manifest.json` says what it holds, `tokenizer.json` made it, and
the ids lie in shards of raw little-endian integers. The manifest is written last, so a
folder that has one is whole; before, `progress.json` lists the shards that are done.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from jaxllm.data import corpora, disk, encoding, pool, shards, tokenizers
from jaxllm.data.token_sequence import TokenSequence
from jaxllm.errors import DataError

FORMAT = 1
MANIFEST, PROGRESS, TOKENIZER = "manifest.json", "progress.json", "tokenizer.json"

# Two processes take about as long to start as this many jobs take without them.
_FEW_JOBS = 16

SHARD_CHARACTERS = 2**28
"""Text that makes a shard: what is done again, at most, after a kill."""


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """The token ids of a corpus, on disk."""

    folder: pathlib.Path
    manifest: dict[str, Any]
    train: TokenSequence
    validation: TokenSequence

    @property
    def tokenizer_path(self) -> pathlib.Path:
        return self.folder / TOKENIZER

    @property
    def digest(self) -> str:
        """A hash of all ids and of where they are split, wherever the store lies."""
        files = [shard["files"] for shard in self.manifest["shards"]]
        content = json.dumps([self.manifest["splits"], files], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def prepare(
    source: str | os.PathLike[str],
    tokenizer: tokenizers.Tokenizer,
    folder: str | os.PathLike[str],
    *,
    text_column: str = "text",
    split: Literal["tokens", "documents"] = "tokens",
    validation_fraction: float = 0.1,
    allow_special: bool = False,
    workers: int | None = None,
    shard_characters: int = SHARD_CHARACTERS,
    progress: corpora.Progress | None = None,
) -> TokenStore:
    """Tokenize a corpus into a store, in parallel and in bounded memory.

    Documents are joined by the tokenizer's `<|endoftext|>`, where it has one. A folder
    that already holds this store is opened as it is, unless the corpus is there and has
    changed; one that a killed call left behind is continued, and ends with the same
    bytes. One call at a time per folder.

    Args:
      source: a corpus, as `corpora.documents` takes it.
      tokenizer: what makes the ids; it is saved in the folder.
      folder: where the store goes; made if it does not exist.
      text_column: the field of JSON lines and Parquet that holds the text.
      split: tokens holds out the last ids of the corpus, cut between two words;
        documents holds out whole documents, chosen by their content alone (of a text
        file longer than a piece, by its first piece).
      validation_fraction: the share that is held out, in (0, 1).
      allow_special: whether `<|endoftext|>` and the like in a text become special
        tokens; they are plain text otherwise.
      workers: processes that tokenize; None for one per core, or none where the
        corpus is short. 0 and 1 tokenize in this process.
      shard_characters: text per shard.
      progress: told the characters done after each part; how many there are is not
        known.

    Raises:
      DataError: the corpus, the disk or the folder's present content forbids it.
    """
    folder = pathlib.Path(folder).expanduser()
    plan = {
        "source": str(source),
        "tokenizer_hash": tokenizer.hash,
        "text_column": text_column,
        "split": split,
        "validation_fraction": validation_fraction,
        "allow_special": allow_special,
        "shard_characters": shard_characters,
    }
    _check_options(plan)
    stamp = corpora.stamp(source)
    if is_store(folder):
        manifest = disk.read_json(folder / MANIFEST)
        _require_plan(manifest, plan, folder)
        if None not in (stamp, manifest.get("source_stamp")):
            _require_source(manifest, stamp, folder)
        return open_store(folder, tokenizer)
    jobs = _jobs(plan)
    peeked = list(itertools.islice(jobs, _FEW_JOBS))
    if workers is None:
        workers = 0 if len(peeked) < _FEW_JOBS else pool.cores()
    jobs = _reported(itertools.chain(peeked, jobs), progress)
    done = _begin(folder, tokenizer, plan)
    record = plan | {"source_stamp": stamp, "shards": list(done)}
    disk.write_json(folder / PROGRESS, record)
    with disk.explain_refusal("write", folder / TOKENIZER):
        tokenizers.save(tokenizer, folder / TOKENIZER)
    for shard in _write_shards(jobs, done, folder, tokenizer, plan, workers):
        record["shards"].append(shard)
        disk.write_json(folder / PROGRESS, record)
    _finish(folder, tokenizer, record)
    return open_store(folder, tokenizer)


def _jobs(plan: dict[str, Any]) -> Iterator[encoding.Job]:
    by_documents = plan["split"] == "documents"
    pieces = corpora.pieces(plan["source"], text_column=plan["text_column"])
    return encoding.group_pieces(
        pieces, plan["validation_fraction"] if by_documents else 0.0
    )


def _require_source(
    manifest: dict[str, Any], stamp: str | None, folder: pathlib.Path
) -> None:
    """Refuse a corpus that changed; it is read only if its stamp is another one."""
    if stamp == manifest["source_stamp"]:
        return
    groups = shards.group_jobs(_jobs(manifest), manifest["shard_characters"])
    _require_text(groups, manifest["shards"], folder)
    if next(groups, None) is not None:
        raise _changed(folder)
    with contextlib.suppress(DataError):  # The store may lie where one can't write.
        disk.write_json(folder / MANIFEST, manifest | {"source_stamp": stamp})


def _require_text(
    groups: Iterator[Iterator[encoding.Job]],
    records: Iterable[dict[str, Any]],
    folder: pathlib.Path,
) -> None:
    """Read as many groups as there are records of shards; each must be of its text."""
    for record in records:
        if shards.text_sha256(next(groups, ())) != record["text_sha256"]:
            raise _changed(folder)


def _changed(folder: pathlib.Path) -> DataError:
    return DataError(
        f"the corpus changed since {folder} was begun; delete that folder, or bring "
        "the corpus back as it was"
    )


def _write_shards(
    jobs: Iterable[encoding.Job],
    done: tuple[dict[str, Any], ...],
    folder: pathlib.Path,
    tokenizer: tokenizers.Tokenizer,
    plan: dict[str, Any],
    workers: int,
) -> Iterator[dict[str, Any]]:
    """Write the shards that are not done; yield the record of each as it is whole."""
    encode = functools.partial(
        encoding.encode_job,
        tokenizer_path=str(folder / TOKENIZER),
        tokenizer_hash=tokenizer.hash,
        allow_special=plan["allow_special"],
    )
    groups = shards.group_jobs(jobs, plan["shard_characters"])
    _require_text(groups, done, folder)
    with pool.processes(workers) as executor:
        for number, group in enumerate(groups, len(done)):
            encoded = pool.map_ahead(executor, encode, group, 2 * workers)
            yield shards.write_shard(
                encoded, number, folder, plan["split"], tokenizer.vocab_size
            )


def _reported(
    jobs: Iterable[encoding.Job], progress: corpora.Progress | None
) -> Iterator[encoding.Job]:
    done = 0
    for job in jobs:
        yield job
        done += job.characters
        if progress is not None:
            progress(done, None)


def open_store(
    folder: str | os.PathLike[str],
    tokenizer: tokenizers.Tokenizer | None = None,
    *,
    verify: bool = False,
) -> TokenStore:
    """Open a store for reading; nothing but its manifest is read.

    Args:
      folder: what `prepare` made.
      tokenizer: refuse a store that another tokenizer made.
      verify: whether to read every shard and compare its sha256 too.

    Raises:
      DataError: there is no store, or it is damaged, or of another tokenizer.
    """
    folder = pathlib.Path(folder).expanduser()
    refuse_unfinished(folder)
    if not is_store(folder):
        raise DataError(
            f"a token store must have a {MANIFEST}, {folder} has none; "
            "make one with `jaxllm prepare`"
        )
    manifest = disk.read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{folder} must be a token store of format {FORMAT}, "
            f"it is of format {manifest.get('format')!r}"
        )
    if tokenizer is not None and manifest["tokenizer_hash"] != tokenizer.hash:
        raise DataError(
            f"the token store {folder} was made by the tokenizer "
            f"{manifest['tokenizer_hash']}, this one is {tokenizer.hash}; use "
            f"{folder / TOKENIZER}, or prepare the corpus again"
        )
    for record in manifest["shards"]:
        shards.check_shard(record, folder, manifest["vocab_size"], verify=verify)
    train, validation = (
        shards.open_stream(folder, manifest, *manifest["splits"][name])
        for name in ("train", "validation")
    )
    return TokenStore(folder, manifest, train, validation)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a whole token store."""
    return (pathlib.Path(path).expanduser() / MANIFEST).is_file()


def refuse_unfinished(path: str | os.PathLike[str]) -> None:
    """Raise DataError where a path is a token store that is not whole yet."""
    if not is_store(path) and (pathlib.Path(path).expanduser() / PROGRESS).is_file():
        raise DataError(
            f"{os.fspath(path)} is an unfinished token store; run the same "
            "`jaxllm prepare` again"
        )


def source_stamp(folder: str | os.PathLike[str]) -> str | None:
    """Tell which text a store is of, whole or not, by its `corpora.stamp`."""
    for name in (MANIFEST, PROGRESS):
        path = pathlib.Path(folder) / name
        if path.is_file():
            return disk.read_json(path).get("source_stamp")
    return None


def _begin(
    folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, plan: dict[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Make the folder ready; return the records of the shards that are done."""
    with disk.explain_refusal("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".*.partial"):
            left_over.unlink()
        found = sorted(p.name for p in folder.iterdir() if p.name[0] != ".")
    done = []
    if PROGRESS in found:
        begun = disk.read_json(folder / PROGRESS)
        _require_plan(begun, plan, folder)
        for record in begun["shards"]:
            try:
                shards.check_shard(record, folder, tokenizer.vocab_size, verify=True)
            except DataError:
                break
            done.append(record)
    elif found:
        raise DataError(
            f"a token store needs an empty folder, {folder} holds {', '.join(found)}"
        )
    return tuple(done)


def _finish(
    folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, record: dict[str, Any]
) -> None:
    """Split the ids, and write the manifest that makes the folder a store."""
    manifest = {
        "format": FORMAT,
        "vocab_size": tokenizer.vocab_size,
        "dtype": shards.id_dtype(tokenizer.vocab_size),
    } | record
    for count in ("documents", "characters", "bytes"):
        manifest[count] = sum(shard[count] for shard in record["shards"])
    streams = {
        stream: shards.open_stream(folder, manifest, stream)
        for stream in shards.STREAMS[record["split"]]
    }
    manifest["tokens"] = sum(map(len, streams.values()))
    if record["split"] == "tokens":
        ids = streams["tokens"]
        cut = split_point(ids, record["validation_fraction"], tokenizer)
        train, validation = ("tokens", 0, cut), ("tokens", cut, len(ids))
    else:
        train, validation = ((name, 0, len(ids)) for name, ids in streams.items())
    manifest["splits"] = {"train": train, "validation": validation}
    for name, (_, start, stop) in manifest["splits"].items():
        if start >= stop:
            raise DataError(
                f"both splits must hold text, {name} would hold none of the "
                f"{manifest['documents']} documents ({manifest['tokens']} tokens); "
                "change split or validation_fraction, and the folder"
            )
    disk.write_json(folder / MANIFEST, manifest)
    with disk.explain_refusal("write", folder):
        (folder / PROGRESS).unlink()


def split_point(
    ids: Any, validation_fraction: float, tokenizer: tokenizers.Tokenizer
) -> int:
    """Find where the last fraction of the ids begins, between two words.

    The first such place at or after int(n * (1 - fraction)); that place itself if
    none of the 64 ids after it begins a word.

    >>> tokenizer = tokenizers.CharTokenizer(characters=" abc")
    >>> split_point(tokenizer.encode("abc abc abc"), 0.5, tokenizer)
    7
    """
    cut = int(len(ids) * (1 - validation_fraction))
    for place in range(max(cut, 1), min(cut + 64, len(ids))):
        left = tokenizer.decode(ids[place - 1 : place])
        both = tokenizer.decode(ids[place - 1 : place + 1])
        right = both.removeprefix(left)
        if both != left + right:
            continue  # a character has bytes in both tokens
        if not re.fullmatch(r"\w\w", left[-1:] + right[:1]):
            return place
    return cut


def _check_options(plan: dict[str, Any]) -> None:
    if plan["split"] not in shards.STREAMS:
        raise DataError(f"split must be tokens or documents, got {plan['split']!r}")
    if not 0 < plan["validation_fraction"] < 1:
        raise DataError(
            f"validation_fraction must be in (0, 1), got {plan['validation_fraction']}"
        )
    if plan["shard_characters"] < 1:
        raise DataError(
            f"shard_characters must be >= 1, got {plan['shard_characters']}"
        )


def _require_plan(
    there: dict[str, Any], plan: dict[str, Any], folder: pathlib.Path
) -> None:
    for name, value in plan.items():
        if there.get(name) != value:
            raise DataError(
                f"{folder} holds a token store with {name}={there.get(name)!r}, "
                f"asked for was {value!r}; delete it, or name another folder"
            )
