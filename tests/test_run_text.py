"""A run finds its text: in its folder, in a token store, and not in another one."""

import dataclasses
import os
import pathlib

import pytest
from small_runs import TEXT, small_run

from jaxllm.config import TokenizerConfig
from jaxllm.data import token_store, tokenizers
from jaxllm.errors import CheckpointError, ConfigError, DataError
from jaxllm.training import run_text, runs


def opened(cfg, resume=False):
    return run_text.open_run_dir(cfg, resume, 1, lambda kind, record: None)


def with_data(cfg, **changes):
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **changes))


def store_of(folder: pathlib.Path, text: str = TEXT) -> token_store.TokenStore:
    (folder / "of_store.txt").write_text(text)
    learned = tokenizers.learn([text], TokenizerConfig(kind="char"))
    return token_store.prepare(
        folder / "of_store.txt",
        learned,
        folder / "store",
        validation_fraction=0.25,
        workers=0,
    )


def begun_on_a_store(folder: pathlib.Path):
    """A run that a store was opened for, and that has learned something since."""
    cfg = with_data(small_run(folder), corpus=str(store_of(folder).folder))
    cfg, _, store = opened(cfg)
    runs.write_config(cfg.run_dir, cfg)
    (pathlib.Path(cfg.run_dir) / runs.METRICS).write_text("")
    return cfg, store


def test_a_token_store_says_how_it_was_made(tmp_path):
    cfg, store = begun_on_a_store(tmp_path)
    assert cfg.data.validation_fraction == 0.25
    assert cfg.tokenizer.vocab_size == cfg.model.vocab_size == len(set(TEXT))
    again, _, _ = opened(small_run_on(store, tmp_path), resume=True)
    assert again == cfg


def small_run_on(store, folder, **changes):
    return with_data(small_run(folder), corpus=str(store.folder), **changes)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("data", {"validation_fraction": 0.5}, "fraction must be 0.25, .* got 0.5"),
        ("data", {"split": "documents"}, "data.split must be tokens, as the token st"),
        ("data", {"text_column": "body"}, "data.text_column must be text, as"),
        ("tokenizer", {"kind": "bpe"}, "tokenizer.kind must be char, .* got bpe"),
        ("tokenizer", {"vocab_size": 300}, "vocab_size must be 18, .* got 300"),
    ],
)
def test_what_contradicts_a_token_store_is_refused(part, change, words, tmp_path):
    cfg = small_run_on(store_of(tmp_path), tmp_path)
    changed = dataclasses.replace(getattr(cfg, part), **change)
    with pytest.raises(ConfigError, match=words):
        opened(dataclasses.replace(cfg, **{part: changed}))


def test_a_token_store_may_be_moved(tmp_path):
    cfg, store = begun_on_a_store(tmp_path)
    os.rename(store.folder, tmp_path / "moved")
    with pytest.raises(DataError, match="is not there; a token store that was moved"):
        opened(cfg, resume=True)
    there = with_data(cfg, corpus=str(tmp_path / "moved"))
    resumed, _, moved = opened(there, resume=True)
    assert resumed == there
    assert moved.digest == store.digest


def test_a_token_store_brings_its_tokenizer(tmp_path):
    store = store_of(tmp_path)
    _, tokenizer, found = opened(small_run_on(store, tmp_path))
    assert tokenizer.hash == store.manifest["tokenizer_hash"]
    assert found.digest == store.digest
    assert tokenizers.load(tmp_path / "run").hash == tokenizer.hash


def test_a_token_store_from_another_tokenizer_is_refused(tmp_path):
    cfg = small_run_on(store_of(tmp_path), tmp_path)
    named = TokenizerConfig(kind="gpt2")
    with pytest.raises(DataError, match="was made by the tokenizer"):
        opened(dataclasses.replace(cfg, tokenizer=named))


def test_another_text_has_another_digest(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    stores = [store_of(tmp_path / "a"), store_of(tmp_path / "b", TEXT[::-1])]
    assert len(stores[0].train) == len(stores[1].train)
    assert stores[0].digest != stores[1].digest


def test_a_run_on_a_text_does_not_go_on_with_another_name_for_it(tmp_path):
    cfg = small_run(tmp_path)
    opened(cfg)
    (pathlib.Path(cfg.run_dir) / runs.METRICS).write_text("")
    with pytest.raises(CheckpointError, match=r"go on with data\.corpus = other"):
        opened(with_data(cfg, corpus="other"), resume=True)


def test_a_run_goes_on_with_its_own_tokens_whatever_became_of_the_text(tmp_path):
    cfg, tokenizer, store = opened(small_run(tmp_path))
    (pathlib.Path(cfg.run_dir) / runs.METRICS).write_text("")
    pathlib.Path(cfg.data.corpus).write_text("another text")
    assert opened(cfg, resume=True)[2].digest == store.digest
    os.remove(cfg.data.corpus)
    resumed, again, found = opened(cfg, resume=True)
    assert (resumed, again.hash, found.digest) == (cfg, tokenizer.hash, store.digest)


def test_a_failed_attempt_leaves_nothing_of_another_config(tmp_path):
    cfg = small_run(tmp_path)
    opened(dataclasses.replace(cfg, tokenizer=TokenizerConfig(kind="word")))
    _, tokenizer, store = opened(cfg)
    assert tokenizer.kind == "char"
    assert len(store.train) + len(store.validation) == len(TEXT)


def test_a_failed_attempt_leaves_nothing_of_a_text_that_changed_since(tmp_path):
    cfg = small_run(tmp_path)
    _, tokenizer, _ = opened(cfg)
    tokens = pathlib.Path(cfg.run_dir) / runs.TOKENS / token_store.MANIFEST
    made = tokens.stat().st_mtime_ns
    _, again, _ = opened(cfg)
    assert again.hash == tokenizer.hash
    assert tokens.stat().st_mtime_ns == made  # The same text is kept as it is.
    pathlib.Path(cfg.data.corpus).write_text("another text, ever so much longer. " * 9)
    _, other, store = opened(cfg)
    assert other.hash != tokenizer.hash
    assert other.decode(store.train[:12]) == "another text"


def test_tokens_that_a_kill_cut_short_are_known_by_their_text(tmp_path, monkeypatch):
    cfg = small_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(token_store, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened(cfg)
    pathlib.Path(cfg.data.corpus).write_text("another text, ever so much longer. " * 9)
    _, _, store = opened(cfg)
    assert store.manifest["characters"] == 9 * 35


def test_a_token_store_is_found_at_home(tmp_path, monkeypatch):
    store = store_of(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = with_data(small_run(tmp_path / "run"), corpus="~/store")
    _, _, found = opened(cfg)
    assert found.digest == store.digest
    assert not (pathlib.Path(cfg.run_dir) / runs.TOKENS).exists()


def test_an_unfinished_token_store_is_no_text(tmp_path):
    store = store_of(tmp_path)
    os.rename(store.folder / "manifest.json", store.folder / "progress.json")
    with pytest.raises(DataError, match="is an unfinished token store; run the same"):
        opened(small_run_on(store, tmp_path))
    with pytest.raises(DataError, match="is an unfinished token store; run the same"):
        token_store.open_store(store.folder)
