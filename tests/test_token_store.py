"""The token store: the ids of the corpus and nothing else, whole or not at all."""

import errno
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.config import DataConfig
from jaxllm.data import (
    batches,
    disk,
    encoding,
    text_files,
    token_store,
    tokenizers,
)
from jaxllm.data.token_sequence import TokenSequence
from jaxllm.errors import DataError, TokenizerError

CHARACTERS = tokenizers.CharTokenizer(
    characters="".join(sorted(set("abcdefghijklmnopqrstuvwxyz .\n0123456789")))
)
JOINED = tokenizers.add_special_tokens(CHARACTERS, ["<|endoftext|>"])
DOCUMENTS = [f"document {n} is this.\n" + "word " * (n % 7) for n in range(200)]


@pytest.fixture
def corpus(tmp_path):
    """A JSON lines file of DOCUMENTS."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return path


@pytest.fixture
def small_jobs(monkeypatch):
    monkeypatch.setattr(encoding, "JOB_CHARACTERS", 300)


def _contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def _joined_ids(texts):
    end = [JOINED.end_of_text]
    parts = [part for text in texts for part in (end, JOINED.encode(text))]
    return np.concatenate(parts[1:])


def test_a_store_holds_the_documents_joined_by_end_of_text(tmp_path, corpus):
    store = token_store.prepare(corpus, JOINED, tmp_path / "store")
    ids = np.concatenate([store.train[:], store.validation[:]])
    np.testing.assert_array_equal(ids, _joined_ids(DOCUMENTS))
    manifest = store.manifest
    assert manifest["documents"] == 200
    assert manifest["tokens"] == len(ids)
    assert manifest["characters"] == manifest["bytes"] == sum(map(len, DOCUMENTS))
    assert manifest["dtype"] == "<u2"
    assert manifest["tokenizer_hash"] == JOINED.hash
    assert tokenizers.load(store.tokenizer_path).hash == JOINED.hash
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "manifest.json",
        "tokenizer.json",
        "tokens-00000.bin",
    ]


def test_a_tokenizer_without_end_of_text_joins_documents_by_nothing(tmp_path, corpus):
    store = token_store.prepare(corpus, CHARACTERS, tmp_path / "store")
    ids = np.concatenate([store.train[:], store.validation[:]])
    assert CHARACTERS.decode(ids) == "".join(DOCUMENTS)


@pytest.mark.parametrize("split", ["tokens", "documents"])
def test_shards_and_processes_do_not_change_the_ids(
    tmp_path, corpus, split, small_jobs
):
    one, many, parallel = (
        token_store.prepare(corpus, JOINED, tmp_path / name, split=split, **options)
        for name, options in {
            "one": {"workers": 0},
            "many": {"workers": 0, "shard_characters": 900},
            "parallel": {"workers": 2, "shard_characters": 900},
        }.items()
    )
    assert len(one.manifest["shards"]) == 1
    assert len(many.manifest["shards"]) > 3
    for name in ("train", "validation"):
        np.testing.assert_array_equal(getattr(one, name)[:], getattr(many, name)[:])
    assert _contents(many.folder) == _contents(parallel.folder)


def test_a_split_by_tokens_is_the_last_fraction_cut_between_words(tmp_path, corpus):
    store = token_store.prepare(
        corpus, JOINED, tmp_path / "store", validation_fraction=0.3
    )
    n = store.manifest["tokens"]
    assert 0 <= len(store.train) - int(n * 0.7) < 12
    left = JOINED.decode(store.train[-20:])
    right = JOINED.decode(store.validation[:20])
    assert not (left[-1].isalnum() and right[0].isalnum())


def test_a_split_by_documents_does_not_depend_on_their_order(tmp_path, corpus):
    store = token_store.prepare(corpus, JOINED, tmp_path / "a", split="documents")
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(lines[::-1]))
    other = token_store.prepare(corpus, JOINED, tmp_path / "b", split="documents")
    for name in ("train", "validation"):
        one, two = (
            JOINED.decode(getattr(s, name)[:]).split("<|endoftext|>")
            for s in (store, other)
        )
        assert one == two[::-1]
    held_out = JOINED.decode(store.validation[:]).split("<|endoftext|>")
    assert 5 < len(held_out) < 45  # about 20 of 200
    assert set(held_out) <= set(DOCUMENTS)
    train = JOINED.decode(store.train[:]).split("<|endoftext|>")
    assert sorted(train + held_out) == sorted(DOCUMENTS)


def test_the_verdict_has_5145_ids_of_gpt2(real_file, tmp_path):
    path = real_file("the-verdict.txt")
    gpt2 = tokenizers.load("gpt2")
    store = token_store.prepare(path, gpt2, tmp_path / "store")
    ids = gpt2.encode(path.read_text(encoding="utf-8"))
    assert store.manifest["tokens"] == len(ids) == 5145
    assert 4630 <= len(store.train) < 4640  # and train + validation is not 5146
    np.testing.assert_array_equal(store.train[:], ids[: len(store.train)])
    np.testing.assert_array_equal(store.validation[:], ids[len(store.train) :])
    assert gpt2.decode(store.validation[:5])[0] == " "


def test_tinyshakespeare_has_the_published_counts(real_file, tmp_path, monkeypatch):
    path = real_file("tinyshakespeare.txt")
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 200_000)
    monkeypatch.setattr(encoding, "JOB_CHARACTERS", 200_000)
    gpt2 = tokenizers.load("gpt2")
    store = token_store.prepare(path, gpt2, tmp_path / "gpt2", workers=0)
    assert store.manifest["tokens"] == 338_025
    text = path.read_text(encoding="utf-8")
    characters = tokenizers.CharTokenizer(characters="".join(sorted(set(text))))
    store = token_store.prepare(path, characters, tmp_path / "char", workers=0)
    assert (len(store.train), len(store.validation)) == (1_003_854, 111_540)
    assert characters.decode(store.validation[:10]) == text[1_003_854:1_003_864]


def test_a_large_vocabulary_takes_32_bits(tmp_path):
    characters = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    tokenizer = tokenizers.CharTokenizer(characters=characters)
    assert tokenizer.vocab_size > 2**16
    text = "abc " * 20 + characters[-1] + " end" * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    store = token_store.prepare(tmp_path / "a.txt", tokenizer, tmp_path / "store")
    assert store.manifest["dtype"] == "<u4"
    ids = np.concatenate([store.train[:], store.validation[:]])
    assert tokenizer.decode(ids) == text


def test_special_tokens_in_a_text_are_plain_text_unless_allowed(tmp_path):
    gpt2 = tokenizers.load("gpt2")
    text = "one story<|endoftext|>another story " * 9
    (tmp_path / "a.txt").write_text(text)
    plain = token_store.prepare(tmp_path / "a.txt", gpt2, tmp_path / "plain")
    special = token_store.prepare(
        tmp_path / "a.txt", gpt2, tmp_path / "special", allow_special=True
    )
    assert 50256 not in np.asarray(plain.train)
    assert np.count_nonzero(np.asarray(special.train) == 50256) == 8
    with pytest.raises(DataError, match="allow_special=True, asked for was False"):
        token_store.prepare(tmp_path / "a.txt", gpt2, tmp_path / "special")


def test_a_long_document_is_tokenized_in_pieces_to_the_ids_of_the_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 5000)
    monkeypatch.setattr(encoding, "JOB_CHARACTERS", 5000)
    text = pathlib.Path(json.__file__).with_name("decoder.py").read_text() * 3
    (tmp_path / "a.txt").write_text(text)
    gpt2 = tokenizers.load("gpt2")
    store = token_store.prepare(tmp_path / "a.txt", gpt2, tmp_path / "s", workers=0)
    ids = np.concatenate([store.train[:], store.validation[:]])
    np.testing.assert_array_equal(ids, gpt2.encode(text))


def test_preparing_again_opens_the_store_as_it_is(tmp_path, corpus):
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").iterdir()}
    corpus.unlink()
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").iterdir()} == before


@pytest.mark.parametrize("same_size", [True, False])
def test_a_corpus_that_changed_since_its_store_is_refused(tmp_path, corpus, same_size):
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    text = corpus.read_text()
    more = '{"text": "one more"}\n'
    corpus.write_text(text.replace("199", "xxx") if same_size else text + more)
    os.utime(corpus, (1, 1))
    with pytest.raises(DataError, match="the corpus changed since"):
        token_store.prepare(corpus, JOINED, tmp_path / "store")


def test_a_corpus_that_was_only_added_to_is_refused(tmp_path, corpus, small_jobs):
    options = {"workers": 0, "shard_characters": 900}
    whole = token_store.prepare(corpus, JOINED, tmp_path / "store", **options)
    characters = whole.manifest["shards"][0]["characters"]
    with open(corpus, "a") as file:
        file.write(json.dumps({"text": "a" * characters}) + "\n")
    with pytest.raises(DataError, match="the corpus changed since"):
        token_store.prepare(corpus, JOINED, tmp_path / "store", **options)


def test_a_copy_of_the_corpus_is_read_once_and_is_the_same(
    tmp_path, corpus, monkeypatch
):
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    os.utime(corpus, (1, 1))
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    monkeypatch.setattr(token_store, "_jobs", lambda plan: pytest.fail("read again"))
    token_store.prepare(corpus, JOINED, tmp_path / "store")


def test_a_store_that_knows_no_stamp_is_opened(tmp_path, corpus):
    store = token_store.prepare(corpus, JOINED, tmp_path / "store")
    manifest = dict(store.manifest)
    del manifest["source_stamp"]
    disk.write_json(tmp_path / "store" / "manifest.json", manifest)
    corpus.write_text("{}")
    token_store.prepare(corpus, JOINED, tmp_path / "store")


_SLOW_PREPARE = """
import sys, time
from jaxllm.data import encoding, token_store, tokenizers
encoding.JOB_CHARACTERS = 300

def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.01)

if __name__ == "__main__":
    corpus, tokenizer, folder, workers = sys.argv[1:]
    tokenizer = tokenizers.load(tokenizer)
    token_store.prepare(
        corpus, tokenizer, folder, workers=int(workers), shard_characters=900,
        progress=slowly)
"""


def test_a_killed_call_is_continued_to_the_same_bytes(tmp_path, corpus, small_jobs):
    whole = token_store.prepare(
        corpus, JOINED, tmp_path / "whole", workers=0, shard_characters=900
    )
    tokenizers.save(JOINED, tmp_path / "tokenizer.json")
    folder = tmp_path / "killed"
    finished = 0
    for jobs_until_kill in (1, 5, 9):
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _SLOW_PREPARE),
                *(corpus, tmp_path / "tokenizer.json", folder, "0"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(jobs_until_kill):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not token_store.is_store(folder)
        with pytest.raises(DataError, match="is an unfinished token store"):
            token_store.open_store(folder)
        shards = json.loads((folder / "progress.json").read_text())["shards"]
        assert len(shards) >= finished  # a call never loses what another did
        finished = len(shards)
    assert 0 < finished < len(whole.manifest["shards"])
    kept = folder / "tokens-00000.bin"
    before = kept.stat().st_mtime_ns
    again = token_store.prepare(corpus, JOINED, folder, workers=0, shard_characters=900)
    assert kept.stat().st_mtime_ns == before
    assert _contents(again.folder) == _contents(whole.folder)


def test_a_shard_that_was_damaged_after_a_kill_is_made_again(
    tmp_path, corpus, small_jobs, monkeypatch
):
    options = {"workers": 0, "shard_characters": 900}
    whole = token_store.prepare(corpus, JOINED, tmp_path / "whole", **options)
    folder = tmp_path / "stopped"
    monkeypatch.setattr(token_store, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_store.prepare(corpus, JOINED, folder, **options)
    monkeypatch.undo()
    monkeypatch.setattr(encoding, "JOB_CHARACTERS", 300)
    shard = folder / "tokens-00001.bin"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    again = token_store.prepare(corpus, JOINED, folder, **options)
    assert _contents(again.folder) == _contents(whole.folder)


def test_a_corpus_that_changed_since_a_kill_is_refused(
    tmp_path, corpus, small_jobs, monkeypatch
):
    options = {"workers": 0, "shard_characters": 900}
    monkeypatch.setattr(token_store, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_store.prepare(corpus, JOINED, tmp_path / "store", **options)
    corpus.write_text(corpus.read_text().replace("document 3 ", "document x "))
    with pytest.raises(DataError, match="the corpus changed since"):
        token_store.prepare(corpus, JOINED, tmp_path / "store", **options)


def test_a_store_of_another_tokenizer_is_refused_with_both_hashes(tmp_path, corpus):
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    with pytest.raises(DataError) as caught:
        token_store.open_store(tmp_path / "store", CHARACTERS)
    assert JOINED.hash in str(caught.value)
    assert CHARACTERS.hash in str(caught.value)
    with pytest.raises(DataError, match="delete it, or name another folder"):
        token_store.prepare(corpus, CHARACTERS, tmp_path / "store")


def test_a_truncated_shard_is_refused(tmp_path, corpus):
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    shard = tmp_path / "store" / "tokens-00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    message = f"must have {len(whole)} bytes, it has {len(whole) - 2}"
    with pytest.raises(DataError, match=message):
        token_store.open_store(tmp_path / "store")
    shard.write_bytes(b"\1" + whole[1:])
    token_store.open_store(tmp_path / "store")
    with pytest.raises(DataError, match="must have sha256"):
        token_store.open_store(tmp_path / "store", verify=True)
    shard.unlink()
    with pytest.raises(DataError, match=r"cannot read .*tokens-00000\.bin"):
        token_store.open_store(tmp_path / "store")


def test_a_manifest_of_another_format_or_of_none_is_refused(tmp_path, corpus):
    token_store.prepare(corpus, JOINED, tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(DataError, match="of format 1, it is of format 99"):
        token_store.open_store(tmp_path / "store")
    manifest.write_text("{")
    with pytest.raises(DataError, match="must be JSON"):
        token_store.open_store(tmp_path / "store")


def test_a_folder_with_other_files_is_not_written_to(tmp_path, corpus):
    with pytest.raises(DataError, match=r"needs an empty folder, .* corpus\.jsonl"):
        token_store.prepare(corpus, JOINED, tmp_path)
    assert os.listdir(tmp_path) == ["corpus.jsonl"]


def test_a_full_disk_is_one_line_and_the_call_can_be_repeated(
    tmp_path, corpus, monkeypatch
):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device; free some") as caught:
        token_store.prepare(corpus, JOINED, tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "store") == []
    monkeypatch.undo()
    token_store.prepare(corpus, JOINED, tmp_path / "store")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, corpus):
    with pytest.raises(DataError, match=r"cannot write .* name a folder"):
        token_store.prepare(corpus, JOINED, corpus / "store")
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match="Permission denied; allow it"):
        token_store.prepare(corpus, JOINED, tmp_path / "locked" / "store")


@pytest.mark.parametrize("split", ["tokens", "documents"])
def test_a_corpus_too_small_to_split_is_an_error(tmp_path, split):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="both splits must hold text"):
        token_store.prepare(
            tmp_path / "a.txt",
            JOINED,
            tmp_path / "store",
            split=split,
            validation_fraction=0.001,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "lines"}, "tokens or documents, got 'lines'"),
        ({"validation_fraction": 1.0}, r"in \(0, 1\), got 1.0"),
        ({"shard_characters": 0}, ">= 1, got 0"),
    ],
)
def test_options_outside_their_range_are_errors(tmp_path, corpus, options, message):
    with pytest.raises(DataError, match=message):
        token_store.prepare(corpus, JOINED, tmp_path / "store", **options)


def test_an_error_of_the_tokenizer_comes_back_from_the_processes(
    tmp_path, corpus, small_jobs
):
    narrow = tokenizers.CharTokenizer(
        characters="".join(sorted("documentishwr .\n012345678"))
    )
    with pytest.raises(TokenizerError, match="9"):
        token_store.prepare(corpus, narrow, tmp_path / "store", workers=2)


def test_progress_tells_the_characters_done(tmp_path, corpus, small_jobs):
    seen = []
    token_store.prepare(
        corpus,
        JOINED,
        tmp_path / "store",
        workers=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (sum(map(len, DOCUMENTS)), None)
    assert len(seen) > 5


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """The numbers 5 to 94 of 0 to 99, in files of 40, 0, 1 and 59."""
    folder = tmp_path_factory.mktemp("sequence")
    files, first = [], 0
    for number, count in enumerate((40, 0, 1, 59)):
        files.append((folder / f"{number}.bin", count))
        np.arange(first, first + count, dtype="<u2").tofile(files[-1][0])
        first += count
    return TokenSequence(files, "<u2", 5, 95)


_NUMBERS = np.arange(5, 95)
_ends = st.none() | st.integers(-120, 120)


@given(start=_ends, stop=_ends, step=st.sampled_from([None, 1, 2, -1, -7]))
def test_a_sequence_over_files_slices_as_an_array_does(sequence, start, stop, step):
    got = sequence[start:stop:step]
    np.testing.assert_array_equal(got, _NUMBERS[start:stop:step])
    assert got.dtype == np.uint16


@given(starts=st.lists(st.integers(0, 60), max_size=20), length=st.integers(1, 30))
def test_windows_over_files_equal_those_of_an_array(sequence, starts, length):
    starts = np.array(starts, int)
    expected = [_NUMBERS[s : s + length] for s in starts]
    got = sequence.windows(starts, length)
    np.testing.assert_array_equal(got, np.reshape(expected, (len(starts), length)))


def test_a_sequence_is_an_array_on_request_and_pickles_as_its_paths(sequence):
    assert len(sequence) == 90
    assert (sequence[0], sequence[-1]) == (5, 94)
    np.testing.assert_array_equal(np.asarray(sequence), _NUMBERS)
    np.testing.assert_array_equal(np.asarray(sequence, np.int64), _NUMBERS)
    with pytest.raises(IndexError):
        sequence[90]
    data = pickle.dumps(sequence)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data)[:], _NUMBERS)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_store_equal_those_of_its_ids_in_memory(
    tmp_path, corpus, small_jobs, workers
):
    store = token_store.prepare(
        corpus, JOINED, tmp_path / "store", workers=0, shard_characters=900
    )
    cfg = DataConfig(batch_size=8, workers=workers)
    inside = DataConfig(batch_size=8)
    with (
        batches.training_batches(store.train, 16, cfg, epochs=1) as stored,
        batches.training_batches(store.train[:], 16, inside, epochs=1) as in_memory,
    ):
        for one, other in zip(stored, in_memory, strict=True):
            np.testing.assert_array_equal(one.inputs, other.inputs)
            np.testing.assert_array_equal(one.targets, other.targets)


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(encoding, "JOB_CHARACTERS", 2**16)
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 2**16)
    text = "the same words again and again.\n" * 2**10
    (tmp_path / "a.txt").write_text(text * 2**11)  # 64 MiB
    peak = []
    token_store.prepare(
        tmp_path / "a.txt",
        CHARACTERS,
        tmp_path / "store",
        workers=0,
        progress=lambda *_: peak.append(psutil.Process().memory_info().rss),
    )
    assert max(peak) - peak[0] < 30 * 2**20
