"""A run of word2vec can be stopped anywhere and ends with the same bits."""

import dataclasses
import signal

import numpy as np
import pytest

from jaxllm.errors import CheckpointError, ConfigError, DataError, DivergenceError
from jaxllm.training import runs
from jaxllm.vectors import files, training, vocabulary
from jaxllm.vectors.config import Word2VecConfig

TEXT = "".join(
    f"{day} comes before {after}. the colour of the {thing} is {colour}.\n"
    for day, after in (("monday", "tuesday"), ("friday", "saturday"))
    for thing in ("sea", "sky", "grass", "rose")
    for colour in ("blue", "green", "red")
)


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 4)
    return Word2VecConfig(
        run_dir=str(tmp_path / "run"),
        corpus=str(tmp_path / "text.txt"),
        emb_dim=8,
        epochs=3,
        min_count=1,
        block_size=8,
        batch_size=64,
        chunk_size=256,
        subsample=1e-2,
    )


def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(cfg, tmp_path):
    whole = training.train(dataclasses.replace(cfg, run_dir=str(tmp_path / "whole")))
    assert not whole.interrupted
    stops = 0
    resume = False
    while True:
        seen = 0

        def stop_after_two(kind, record):
            nonlocal seen
            seen += kind == "train"
            if kind == "train" and seen == 2:
                signal.raise_signal(signal.SIGTERM)

        result = training.train(cfg, resume=resume, on_event=stop_after_two)
        resume = True
        if not result.interrupted:
            break
        stops += 1
    assert stops >= 2
    for a, b in zip(result.tables, whole.tables, strict=True):
        np.testing.assert_array_equal(a, b)
    files_of = [tmp_path / name / "vectors.bin" for name in ("run", "whole")]
    assert files_of[0].read_bytes() == files_of[1].read_bytes()


def test_another_seed_gives_other_vectors_and_the_same_one_the_same(cfg, tmp_path):
    changes = [{"seed": 0}, {"seed": 0}, {"seed": 1}]
    one, same, other = (
        training.train(
            dataclasses.replace(cfg, run_dir=str(tmp_path / str(n)), epochs=1, **change)
        ).tables
        for n, change in enumerate(changes)
    )
    np.testing.assert_array_equal(one.inputs, same.inputs)
    assert np.abs(one.inputs - other.inputs).max() > 0


@pytest.mark.parametrize("algorithm", ["skipgram", "cbow"])
def test_the_loss_falls_and_the_result_is_a_file(cfg, algorithm):
    losses = []
    plan = dataclasses.replace(cfg, algorithm=algorithm, epochs=20, subsample=0)

    def note(kind, record):
        if kind == "train":
            losses.append(record["loss"])

    result = training.train(plan, on_event=note)
    assert np.mean(losses[-4:]) < 0.9 * losses[0]
    kept = files.read(cfg.run_dir + "/vectors.bin")
    assert kept.words == result.words
    np.testing.assert_array_equal(kept.rows, result.tables.inputs)


def test_the_rate_falls_linearly_from_the_first_word_to_the_last(cfg):
    vocabulary.prepare(cfg)
    words, ids = vocabulary.read(cfg.run_dir)
    noise = training.noise_table(words, cfg)
    keep = np.ones(len(words.words) + 1)
    chunks = training.count_chunks(len(ids), cfg) * cfg.epochs
    drawn = [training.chunk_blocks(n, ids, noise, keep, cfg) for n in range(chunks)]
    rates = np.concatenate([b.rate[:n] for b, n in drawn])
    assert rates[0] == pytest.approx(0.025)
    assert (np.diff(rates) < 0).all()
    assert 1e-4 < rates[-1] < 2e-3


def test_vectors_that_diverge_in_the_last_chunk_are_not_kept(cfg, tmp_path):
    plan = dataclasses.replace(cfg, epochs=1, chunk_size=4096, learning_rate=1e30)
    with pytest.raises(DivergenceError, match="not after chunk 0"):
        training.train(plan)
    assert not (tmp_path / "run" / "vectors.bin").exists()
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


@pytest.fixture
def few_words(tmp_path):
    """A config for a text of 20 words in groups of four, in a single chunk."""
    rng = np.random.default_rng(0)
    groups = np.arange(20).reshape(5, 4)[rng.integers(5, size=4000)]
    groups = rng.permuted(groups, axis=1)
    (tmp_path / "few.txt").write_text(" ".join(f"w{n}" for n in groups.ravel()))
    return Word2VecConfig(
        run_dir=str(tmp_path / "few"),
        corpus=str(tmp_path / "few.txt"),
        emb_dim=9,
        subsample=0,
        epochs=1,
    )


def test_few_words_are_learned_in_small_updates(few_words):
    result = training.train(few_words)
    rows = np.asarray(result.tables.inputs)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = np.argsort(rows @ rows[result.words.index("w0")])[-4:]
    assert {result.words[n] for n in near} == {"w0", "w1", "w2", "w3"}
    assert runs.read_config(few_words.run_dir, Word2VecConfig).batch_size == 32


def test_vectors_worse_than_none_are_not_kept(few_words, tmp_path):
    # They are finite, and the loss before the only chunk is that of a start.
    plan = dataclasses.replace(few_words, batch_size=1024)
    with pytest.raises(DivergenceError, match=r"must fall from 4\.16"):
        training.train(plan)
    assert not (tmp_path / "few" / "checkpoint.npz").exists()


def test_a_run_that_was_killed_notes_each_chunk_once(cfg, tmp_path):
    def kill_at(chunk):
        def on_event(kind, record):
            if kind == "train" and record["chunk"] == chunk:
                raise KeyboardInterrupt

        return on_event

    always = dataclasses.replace(cfg, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        training.train(always, on_event=kill_at(2))
    with pytest.raises(KeyboardInterrupt):
        training.train(cfg, resume=True, on_event=kill_at(4))
    training.train(cfg, resume=True)
    chunks = [record["chunk"] for record in runs.read_metrics(tmp_path / "run")]
    assert chunks == list(range(1, len(chunks) + 1))
    assert len(chunks) > 3


def test_a_chunk_may_have_no_word_left(cfg, tmp_path):
    (tmp_path / "text.txt").write_text("rare " * 2 + "often " * 4000)
    plan = dataclasses.replace(cfg, epochs=1, subsample=1e-12)
    result = training.train(plan)
    assert np.isfinite(result.tables.inputs).all()


def test_a_run_is_not_written_over(cfg):
    training.train(dataclasses.replace(cfg, epochs=1))
    with pytest.raises(ConfigError, match="without a run"):
        training.train(cfg)


@pytest.mark.parametrize("name", [runs.CONFIG, runs.METRICS])
def test_a_run_of_another_kind_is_not_written_over(cfg, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("of a GPT")
    with pytest.raises(ConfigError, match="without a run"):
        training.train(cfg)
    (found,) = (tmp_path / "run").iterdir()
    assert found.read_text() == "of a GPT"


def test_an_attempt_without_a_checkpoint_is_begun_again(cfg, tmp_path):
    def kill(kind, record):
        if kind == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(cfg, on_event=kill)
    assert len(runs.read_metrics(cfg.run_dir)) == 1
    training.train(dataclasses.replace(cfg, epochs=1, window=2))
    chunks = [record["chunk"] for record in runs.read_metrics(cfg.run_dir)]
    assert chunks == list(range(1, len(chunks) + 1))


def test_a_run_goes_on_with_its_own_config_only(cfg):
    training.train(dataclasses.replace(cfg, epochs=1))
    with pytest.raises(ConfigError, match="window must be as in the run"):
        training.train(dataclasses.replace(cfg, epochs=1, window=2), resume=True)


def test_a_damaged_checkpoint_is_named(cfg, tmp_path):
    training.train(dataclasses.replace(cfg, epochs=1))
    path = tmp_path / "run" / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"checkpoint.npz is damaged"):
        training.train(dataclasses.replace(cfg, epochs=1), resume=True)


def test_there_must_be_a_run_to_resume(cfg):
    with pytest.raises(CheckpointError, match="holds none"):
        training.train(cfg, resume=True)


def test_a_text_without_words_is_an_error(cfg, tmp_path):
    (tmp_path / "text.txt").write_text("... !!!")
    with pytest.raises(DataError, match="at least 2 words"):
        training.train(cfg)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"window": 0}, "window must be >= 1"),
        ({"batch_size": 100}, "multiple of block_size"),
        ({"batch_size": 0}, "multiple of block_size"),
        ({"batch_size": 64, "chunk_size": 32}, "chunk_size must be >= batch_size 64"),
        ({"chunk_size": 10}, "chunk_size must be >= block_size 16"),
        ({"pattern": "("}, "regular expression"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"subsample": -1.0}, "subsample must be >= 0"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**63}, "seed must be in"),
    ],
)
def test_a_config_that_cannot_run_says_why(change, rule):
    with pytest.raises(ConfigError, match=rule):
        Word2VecConfig(**change)
