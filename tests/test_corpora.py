"""Corpora: every format to the same documents, and every bad file to one line."""

import dataclasses
import gzip
import hashlib
import json
import os
import sys

import pytest
import regex
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.data import corpora, disk, text_files
from jaxllm.errors import DataError

TEXTS = ["Grüße, world.\n", "second\ndocument", "third"]


def _read(path, **options):
    return list(corpora.documents(path, **options))


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo \xc3\xa9\n")
    assert _read(tmp_path / "a.txt") == ["one\r\ntwo é\n"]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    assert _read(tmp_path / "a.txt") == ["one"]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n')
    assert _read(tmp_path / "a.jsonl") == ["one"]


def test_every_format_gives_the_same_documents(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in TEXTS)
    packed = {
        "a.jsonl": lines.encode(),
        "b.jsonl.gz": gzip.compress(lines.encode()[:20])
        + gzip.compress(lines.encode()[20:]),
        "c.jsonl.zst": zstandard.compress(lines.encode()[:20])
        + zstandard.compress(lines.encode()[20:]),
        "D.JSONL.GZ": gzip.compress(lines.encode()),
    }
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
        assert _read(tmp_path / name) == TEXTS
    parquet.write_table(pa.table({"text": [*TEXTS, None]}), tmp_path / "d.parquet")
    assert _read(tmp_path / "d.parquet") == TEXTS
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "3.txt").touch()
    (folder / ".hidden").write_bytes(b"\0")
    assert _read(folder) == TEXTS


def test_zeros_may_pad_a_packed_file(tmp_path):
    packed = gzip.compress(b"one ") + bytes(600) + gzip.compress(b"two") + bytes(2**17)
    (tmp_path / "a.txt.gz").write_bytes(packed)
    assert _read(tmp_path / "a.txt.gz") == ["one two"]


def test_a_zstandard_file_may_have_a_long_window(tmp_path):
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3])  # a window of 2**31
    raw_block = (3 << 3 | 1).to_bytes(3, "little") + b"one"  # the last one
    (tmp_path / "a.txt.zst").write_bytes(header + raw_block)
    assert _read(tmp_path / "a.txt.zst") == ["one"]


def test_a_folder_is_read_recursively_in_the_order_of_paths(tmp_path):
    for name in ("b/1.txt", "a/2.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _read(tmp_path) == ["a/2.txt", "b/1.txt", "c.txt"]


def test_another_column_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n\n{"content": ""}\n')
    assert _read(tmp_path / "a.jsonl", text_column="content") == ["x"]


# Runs of words and of blanks, and the split patterns of GPT-2 and of tiktoken's
# cl100k_base and o200k_base.
PATTERNS = [
    r"\w+|\s+|[^\w\s]+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(text=st.text("aB é1.'\n\r\t/,中_-", max_size=40) | st.text(max_size=40))
def test_a_safe_cut_never_changes_the_pieces_of_a_split_pattern(pattern, text):
    cut = text_files.last_safe_cut(text)
    whole = regex.findall(pattern, text)
    parts = regex.findall(pattern, text[:cut]) + regex.findall(pattern, text[cut:])
    assert parts == whole


def test_a_long_text_comes_in_pieces_that_join_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 50_000)
    text = "".join(f"line {n} of a long, long text é\n" for n in range(60_000))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = list(corpora.pieces(tmp_path / "a.txt"))
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == text
    assert _read(tmp_path / "a.txt") == [text]


def test_a_text_without_a_safe_cut_is_still_read_in_bounded_pieces(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 100_000)
    (tmp_path / "a.txt").write_text("x" * 5_000_000)
    pieces = list(corpora.pieces(tmp_path / "a.txt"))
    assert sum(len(piece.text) for piece in pieces) == 5_000_000
    assert max(len(piece.text) for piece in pieces) < 3_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold some text"),
        (b"abc\0def", "binary.*zero byte at byte offset 3"),
        (b"\x89PNG\r\n\x1a\n", "UTF-8.*0x89 at byte offset 0"),
        ("Grüße".encode("latin-1"), "UTF-8.*0xfc at byte offset 2"),
        (b"a" * 2**20 + b"\xe9", "UTF-8.*0xe9 at byte offset 1048576"),
        (b"a" * (2**20 - 1) + b"\xc3(", "UTF-8.*0xc3 at byte offset 1048575"),
        (b"end \xe2\x82", "UTF-8.*0xe2 at byte offset 4"),
    ],
)
def test_a_file_that_is_no_text_is_an_error(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path / "bad.txt")
    assert "bad.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"body": "x", "id": 1}', "no column 'text'; it has 'body', 'id'"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2 .* must be a JSON object"),
        ("a.jsonl", b"[1]", r"line 1 .* JSON object, got '\[1\]'"),
        ("a.jsonl", b'{"text": 5}', "'text' must hold text, got 5"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', "byte offset 24"),
        ("a.jsonl", b'{"text": "\\ud83d"}', "half a surrogate pair"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-5], "ends before"),
        ("a.txt.gz", b"no gzip", "damaged"),
        ("a.txt.zst", zstandard.compress(bytes(range(1, 128)) * 9)[:-2], "ends before"),
        ("a.txt.zst", b"no zstandard", "damaged"),
        ("a.parquet", b"no parquet", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        _read(tmp_path / name)


def test_a_missing_column_of_parquet_names_the_columns_there_are(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'text'; it has 'body', 'id'"):
        _read(tmp_path / "a.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'jaxllm\[parquet\]'"):
        _read(tmp_path / "a.parquet")


def test_an_unknown_name_is_an_error_with_the_nearest_ones(tmp_path):
    with pytest.raises(DataError, match="did you mean tinyshakespeare") as caught:
        _read("tiny-shakespeare")
    assert "python-stdlib, the-verdict, tinyshakespeare" in str(caught.value)
    (tmp_path / "corpus.txt").write_text("x")
    with pytest.raises(DataError, match=r"did you mean .*corpus\.txt"):
        _read(tmp_path / "corpsu.txt")


def test_a_folder_without_text_is_an_error(tmp_path):
    with pytest.raises(DataError, match="must hold some text"):
        _read(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads all")
def test_a_file_without_permission_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(DataError, match=r"cannot read .* Permission denied; allow it"):
        _read(tmp_path / "a.txt")


def test_the_standard_library_is_about_11_megabytes_of_source():
    texts = _read("python-stdlib")
    size = sum(len(text.encode()) for text in texts)
    assert 8e6 < size < 14e6
    assert any("class JSONDecoder" in text for text in texts)
    assert not any("class TestCase_" in text for text in texts)
    again = hashlib.sha256("".join(_read("python-stdlib")).encode())
    assert hashlib.sha256("".join(texts).encode()).digest() == again.digest()


def test_the_texts_of_the_notes_are_found_and_checked(real_file, monkeypatch):
    monkeypatch.setenv("JAXLLM_DATA", str(real_file("the-verdict.txt").parent))
    [text] = _read("the-verdict")
    assert len(text) == len(text.encode()) == 20_479
    assert text[:99] == (
        "I HAD always thought Jack Gisburn rather a cheap genius--though a good "
        "fellow enough--so it was no "
    )
    assert text[-99:] == (
        "it for me! The Strouds stand alone, and happen once--but there's no "
        'exterminating our kind of art."'
    )
    real_file("tinyshakespeare.txt")
    [text] = _read("tinyshakespeare")
    assert len(text.encode()) == 1_115_394


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A corpus whose address is a file, with an empty cache; returns that file."""
    source = tmp_path / "server.txt"
    source.write_text("a text from afar")
    monkeypatch.delenv("JAXLLM_DATA", raising=False)
    monkeypatch.setenv("JAXLLM_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    record = corpora.Remote(source.as_uri(), "afar.txt", digest)
    monkeypatch.setitem(corpora.REMOTE, "afar", record)
    return source


def test_a_remote_corpus_is_fetched_once_with_progress(remote, tmp_path):
    seen = []
    first = _read("afar", progress=lambda done, total: seen.append((done, total)))
    assert first == ["a text from afar"]
    assert seen == [(16, 16)]
    remote.unlink()
    assert _read("afar") == ["a text from afar"]
    assert os.listdir(tmp_path / "cache") == ["afar.txt"]


def test_the_data_folder_is_looked_into_before_the_cache(remote, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("JAXLLM_DATA", str(tmp_path / "data"))
    remote.rename(tmp_path / "data" / "afar.txt")
    assert _read("afar") == ["a text from afar"]
    assert not (tmp_path / "cache").exists()


def test_a_fetched_text_with_another_sha256_is_refused_and_not_kept(
    remote, tmp_path, monkeypatch
):
    wrong = dataclasses.replace(corpora.REMOTE["afar"], sha256="0" * 64)
    monkeypatch.setitem(corpora.REMOTE, "afar", wrong)
    with pytest.raises(DataError, match=r"must have sha256 0000.* it has [^0]"):
        _read("afar")
    assert os.listdir(tmp_path / "cache") == []


def test_a_cached_text_that_changed_is_refused(remote, tmp_path):
    _read("afar")
    (tmp_path / "cache" / "afar.txt").write_text("tampered")
    with pytest.raises(DataError, match=r"afar\.txt must have sha256 .* delete it"):
        _read("afar")


def test_an_address_that_does_not_answer_says_where_to_put_the_file(remote):
    remote.unlink()
    with pytest.raises(DataError, match=r"put afar\.txt into .*cache or .*JAXLLM_DATA"):
        _read("afar")


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def interrupted():
        with disk.atomic_writer(path) as file:
            file.write(b"after")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]
