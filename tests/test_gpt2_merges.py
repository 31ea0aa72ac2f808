"""GPT-2's merges: read as tiktoken reads them, taken only where they are whole."""

import hashlib
import importlib.metadata

import pytest

from jaxllm.data import gpt2_merges

NAME = hashlib.sha1(gpt2_merges.URL.encode()).hexdigest()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_package(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)


def test_the_package_holds_the_published_file(empty_cache):
    merges = gpt2_merges.find_merges()
    assert merges is not None
    assert hashlib.sha256(merges.encode()).hexdigest() == gpt2_merges.SHA256


def test_tiktokens_cache_comes_first(empty_cache, no_package, monkeypatch):
    (empty_cache / NAME).write_bytes(b"merges")
    monkeypatch.setattr(gpt2_merges, "SHA256", hashlib.sha256(b"merges").hexdigest())
    assert gpt2_merges.find_merges() == "merges"


def test_a_damaged_file_in_the_cache_is_passed_over(empty_cache):
    (empty_cache / NAME).write_bytes(b"damaged")
    merges = gpt2_merges.find_merges()
    assert merges is not None
    assert merges.startswith("#version")


def test_nothing_is_found_where_nothing_is(empty_cache, no_package):
    assert gpt2_merges.find_merges() is None


def test_gpt2_has_fifty_thousand_merges():
    merges = gpt2_merges.find_merges()
    assert merges is not None
    ranks = gpt2_merges.read_merges(merges)
    assert list(ranks.values()) == list(range(50256))
    assert (ranks[b"\xc4"], ranks[b" the"], ranks[b"boys"]) == (128, 262, 13202)
