"""A run writes what it promises, stops when asked, and goes on to the same bits."""

import dataclasses
import gzip
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from parameters import quick
from small_runs import TEXT, small_run

from jaxllm.config import TokenizerConfig
from jaxllm.data import tokenizers
from jaxllm.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    JaxllmError,
    TokenizerError,
)
from jaxllm.training import checkpoints, loop, preparation, resumption, runs


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """Let all runs of this file share what is compiled."""
    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def say_something(params, cfg, tokenizer, loop, *, key):
    number = int(jax.random.randint(key, (), 0, 1000))
    return [f"{prompt}{number}" for prompt in loop.sample_prompts]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run: its result, its events, and its folder."""
    cfg = small_run(tmp_path_factory.mktemp("whole"))
    events = []
    result = loop.train(
        cfg,
        on_event=lambda kind, record: events.append((kind, record)),
        sample=say_something,
    )
    return result, events, pathlib.Path(cfg.run_dir)


def same_as(folder: pathlib.Path, whole, **changes):
    """The config of the undisturbed run, for another folder."""
    return dataclasses.replace(small_run(folder), **changes)


def copy_of(whole, folder: pathlib.Path):
    """The config of a copy of the undisturbed run, in another folder."""
    shutil.copytree(whole[2], folder / "run")
    return dataclasses.replace(whole[0].cfg, run_dir=str(folder / "run"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run before its first step."""
    cfg = small_run(tmp_path_factory.mktemp("prepared"))
    return preparation.prepare_run(
        cfg, resume=False, processes=1, on_event=lambda kind, record: None
    )[1]


@pytest.fixture
def instant(prepared, tmp_path):
    """A function that gives a run whose steps only count, with losses as they are told.

    Args:
      losses: of the steps 1, 2, ...; where they end, each step's is 1.
      validation: of the evaluations, one after the other.
    """

    def make(losses=(), validation=(), state=prepared.state, **changes):
        told = iter(validation)
        counts = {"grad_norm": 1.0, "tokens": 128}

        def train_step(state, batch):
            step = int(state.step)
            metrics = counts | {"loss": losses[step] if step < len(losses) else 1.0}
            metrics = {name: np.asarray(value) for name, value in metrics.items()}
            return state._replace(step=state.step + 1), jax.device_put(metrics)

        return prepared._replace(
            run_dir=str(tmp_path),
            loop=small_run(tmp_path, **changes).loop,
            total_steps=changes.get("steps", 12),
            state=state,
            train_step=train_step,
            evaluate=lambda params: {"validation_loss": next(told, 1.0)},
        )

    return make


def assert_same_run(result, run_dir, whole):
    """Compare the last bits, and every line but for the times in it."""
    expected, _, whole_dir = whole
    for a, b in zip(
        jax.tree.leaves((result.state.params, result.state.opt_state)),
        jax.tree.leaves((expected.state.params, expected.state.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert untimed(run_dir) == untimed(whole_dir)
    assert (run_dir / runs.SAMPLES).read_text() == (
        whole_dir / runs.SAMPLES
    ).read_text()


def untimed(run_dir):
    times = {"seconds", "seconds_left", "tokens_per_second", "flops_per_second"}
    return [
        {name: value for name, value in record.items() if name not in times}
        for record in runs.read_metrics(run_dir)
    ]


def stop_at(step, number=signal.SIGTERM):
    """An on_event that asks the run to stop when it hears of a step."""

    def on_event(kind, record):
        if kind == "train" and record["step"] == step:
            signal.raise_signal(number)

    return on_event


def test_a_run_directory_holds_everything(whole):
    result, _, run_dir = whole
    assert not result.interrupted
    assert int(result.state.step) == 12
    assert sorted(os.listdir(run_dir)) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "samples.md",
        "tokenizer.json",
        "tokens",
    ]
    assert runs.read_config(run_dir) == result.cfg
    assert result.cfg.model.vocab_size == len(set(TEXT))
    assert tokenizers.load(run_dir).hash == result.tokenizer.hash
    assert "## Step 6\n" in (run_dir / runs.SAMPLES).read_text()


def test_lines_are_written_when_due_and_tell_where_the_time_went(whole):
    result, _, run_dir = whole
    records = runs.read_metrics(run_dir)
    steps = {"train": [], "evaluation": []}
    for record in records:
        steps[record["kind"]].append(record["step"])
    assert steps == {"train": [2, 4, 6, 8, 10, 12], "evaluation": [6, 12]}
    assert records[-1]["validation_loss"] == result.validation["validation_loss"]
    first = records[0]
    assert first["tokens"] == 16 * 8
    seconds = first["seconds"]
    parts = [value for name, value in seconds.items() if name != "total"]
    assert sum(parts) == pytest.approx(seconds["total"])
    assert seconds["compile"] > seconds["step"] >= 0


def test_a_corpus_that_is_not_there_leaves_no_run(whole, tmp_path):
    cfg = same_as(tmp_path, whole)
    lost = dataclasses.replace(cfg.data, corpus=str(tmp_path / "lost.txt"))
    with pytest.raises(DataError, match="does not exist"):
        loop.train(dataclasses.replace(cfg, data=lost))
    assert not pathlib.Path(cfg.run_dir).exists()


def test_whoever_listens_hears_everything_in_its_order(whole):
    _, events, _ = whole
    kinds = [kind for kind, _ in events if kind != "tokenizing"]
    assert kinds[0] == "start"
    # Saved before it is evaluated.
    after_six = [kind for kind, record in events if record.get("step") == 6]
    assert after_six == ["train", "checkpoint", "evaluation", "sample"]
    start = next(record for kind, record in events if kind == "start")
    assert start["train_tokens"] + start["validation_tokens"] == len(TEXT)
    evaluated = [record for kind, record in events if kind == "evaluation"]
    assert evaluated[0]["unigram_entropy"] > 1


def test_the_model_learns(whole):
    losses = [r["loss"] for r in runs.read_metrics(whole[2]) if r["kind"] == "train"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("step", "number"),
    quick([(8, signal.SIGTERM), (6, signal.SIGINT), (2, signal.SIGTERM)]),
)
def test_a_stopped_run_goes_on_to_the_same_bits(step, number, whole, tmp_path):
    cfg = same_as(tmp_path, whole)
    stopped = loop.train(cfg, on_event=stop_at(step, number), sample=say_something)
    assert stopped.interrupted
    # Heard of a step later, and the one under way is finished.
    assert int(stopped.state.step) in (step, step + 1)
    assert checkpoints.latest_step(pathlib.Path(cfg.run_dir) / "checkpoints") == int(
        stopped.state.step
    )
    result = loop.train(cfg, resume=True, sample=say_something)
    assert not result.interrupted
    assert_same_run(result, pathlib.Path(cfg.run_dir), whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(whole, tmp_path):
    cfg = copy_of(whole, tmp_path)
    last = pathlib.Path(cfg.run_dir) / "checkpoints" / "12"
    largest = max(last.rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, 10)
    events = []
    result = loop.train(
        cfg,
        resume=True,
        on_event=lambda kind, record: events.append((kind, record)),
        sample=say_something,
    )
    kind, record = next(event for event in events if event[0] != "tokenizing")
    assert kind == "damaged"
    assert record["reason"].startswith(f"{last} is damaged")
    assert_same_run(result, pathlib.Path(cfg.run_dir), whole)


def test_a_run_without_a_checkpoint_begins_again_to_the_same_bits(whole, tmp_path):
    cfg = same_as(tmp_path, whole)
    run_dir = pathlib.Path(cfg.run_dir)
    runs.write_config(run_dir, cfg)
    (run_dir / runs.METRICS).write_text('{"kind": "train", "st')
    result = loop.train(cfg, resume=True, sample=say_something)
    assert_same_run(result, run_dir, whole)


def test_a_finished_run_can_be_made_longer(whole, tmp_path):
    cfg = copy_of(whole, tmp_path)
    longer = dataclasses.replace(cfg.loop, steps=13)
    _, run = preparation.prepare_run(
        dataclasses.replace(cfg, loop=longer),
        resume=True,
        processes=1,
        on_event=lambda kind, record: None,
    )
    assert (int(run.state.step), run.total_steps) == (12, 13)
    assert runs.read_config(cfg.run_dir).loop == longer


def test_the_best_step_is_saved_though_no_checkpoint_is_due(instant, tmp_path):
    plan = {"eval_every": 3, "checkpoint_every": 12, "keep_last": 1}
    loop.learn(instant(validation=[3.0, 1.0, 2.0, 2.0], **plan))
    folder, lines = tmp_path / runs.CHECKPOINTS, untimed(tmp_path)
    assert checkpoints.steps(folder) == [6, 12]
    # As if it had been killed before its end: it goes on from the best step.
    shutil.rmtree(folder / "12")
    run = instant(validation=[1.0, 2.0, 2.0], **plan)
    state = resumption.restore(
        run.run_dir, run.state, run.tokenizer, run.batches, lambda kind, record: None
    )
    loop.learn(run._replace(state=state))
    assert checkpoints.steps(folder) == [6, 12]
    assert untimed(tmp_path) == lines


def test_the_last_checkpoints_and_the_best_are_kept(whole, tmp_path):
    _, _, run_dir = whole
    assert checkpoints.steps(run_dir / "checkpoints")[-2:] == [9, 12]
    losses = {
        r["step"]: r["validation_loss"]
        for r in runs.read_metrics(run_dir)
        if r["kind"] == "evaluation"
    }
    best = min(losses, key=losses.get)
    assert runs.best_step(run_dir) == best
    assert set(checkpoints.steps(run_dir / "checkpoints")) == {best, 9, 12}


def test_what_a_run_has_learned_can_be_opened_and_moved(whole, tmp_path):
    result, _, run_dir = whole
    moved = tmp_path / "elsewhere"
    os.symlink(run_dir, moved)
    params, cfg, tokenizer = runs.load_run(moved)
    assert cfg == result.cfg.model
    assert tokenizer.hash == result.tokenizer.hash
    jax.tree.map(np.testing.assert_array_equal, params, result.state.params)
    runs.load_run(moved, step="best")
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
        runs.load_run(moved, step=5)


def test_epochs_count_batches_of_the_training_text(tmp_path):
    cfg = small_run(tmp_path, steps=None, epochs=3)
    cfg, run = preparation.prepare_run(
        cfg, resume=False, processes=1, on_event=lambda kind, record: None
    )
    n_windows = (run.facts["train_tokens"] - 1) // cfg.model.context_length
    assert run.total_steps == 3 * (n_windows // cfg.data.batch_size)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_divergence_names_the_step_and_the_last_good_checkpoint(
    loss, instant, tmp_path
):
    run = instant(losses=[1.0, 1.0, loss], checkpoint_every=1)
    with pytest.raises(DivergenceError, match=f"became {loss} in step 3;") as caught:
        loop.learn(run)
    folder = tmp_path / "checkpoints"
    assert checkpoints.steps(folder) == [1, 2]
    assert str(caught.value).endswith(f"the last good checkpoint is {folder / '2'}")


def test_tensorboard_events_are_written_where_asked(instant, tmp_path):
    loop.learn(instant(tensorboard=True))
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert events
    assert b"validation_loss" in events[0].read_bytes()


def test_a_full_disk_is_one_line(instant, tmp_path):
    (tmp_path / runs.METRICS).symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        loop.learn(instant())


def test_steps_can_be_traced_for_perfetto(tmp_path):
    cfg = small_run(tmp_path, checkpoint_every=12, eval_every=12)
    loop.train(cfg, profile_steps=2)
    folder = pathlib.Path(cfg.run_dir) / runs.PROFILE
    assert list(folder.rglob("*.xplane.pb"))  # for TensorBoard
    (trace,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("train_step" in event.get("name", "") for event in events)


def test_the_time_of_a_run_is_accounted_for(whole):
    _, events, _ = whole
    seconds = [r["seconds"] for kind, r in events if kind in ("train", "end")]
    assert events[-1][0] == "end"
    assert sum(s["evaluation"] for s in seconds) > 0
    assert sum(s["checkpoint"] for s in seconds) > 0


def test_a_run_directory_that_can_not_be_written_is_one_line(tmp_path):
    cfg = dataclasses.replace(small_run(tmp_path), run_dir="/sys/no permission")
    with pytest.raises(DataError, match="cannot write /sys/no permission"):
        loop.train(cfg)


def test_a_run_is_not_overwritten(whole):
    result, _, _ = whole
    with pytest.raises(ConfigError, match="holds a run already; resume it"):
        loop.train(result.cfg)


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="there is no run in"):
        loop.train(small_run(tmp_path), resume=True)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("data", {"batch_size": 32}, "data.batch_size = 16, it can't go on with"),
        ("model", {"emb_dim": 16}, "model.emb_dim = 8"),
        ("optimizer", {"name": "muon"}, "optimizer.name = adamw, it can't go on with"),
    ],
)
def test_a_run_does_not_go_on_as_another(part, change, words, whole):
    cfg = whole[0].cfg
    changed = dataclasses.replace(getattr(cfg, part), **change)
    with pytest.raises(CheckpointError, match=words):
        loop.train(dataclasses.replace(cfg, **{part: changed}), resume=True)


def test_a_run_that_was_refused_goes_on_as_it_was(whole):
    result, _, run_dir = whole
    files = run_dir / runs.CONFIG, run_dir / runs.METRICS
    before = [file.read_bytes() for file in files]
    shorter = dataclasses.replace(result.cfg.loop, steps=2)
    with pytest.raises(ConfigError, match="at step 12 and can't end at step 2; raise"):
        loop.train(dataclasses.replace(result.cfg, loop=shorter), resume=True)
    assert [file.read_bytes() for file in files] == before


def test_a_run_does_not_go_on_with_another_tokenizer(whole, tmp_path):
    cfg = copy_of(whole, tmp_path)
    run_dir = pathlib.Path(cfg.run_dir)
    other = tokenizers.learn(
        [TEXT.replace("times", "TIMES")], TokenizerConfig(kind="char")
    )
    tokenizers.save(other, run_dir / runs.TOKENIZER)
    with pytest.raises(JaxllmError, match="tokenizer"):
        loop.train(cfg, resume=True)


@pytest.mark.parametrize(
    ("part", "change", "error", "words"),
    [
        ("model", {"vocab_size": 5}, ConfigError, "vocab_size must be 18"),
        ("data", {"batch_size": 12}, ConfigError, r"multiple of 16 .* got 12"),
        ("data", {"corpus": "no/such"}, DataError, "no/such"),
        ("model", {"context_length": 10**6}, DataError, "1000000|1,000,000"),
        ("tokenizer", {"kind": "gpt3"}, TokenizerError, "gpt3"),
    ],
)
def test_what_does_not_go_together_is_one_line(part, change, error, words, tmp_path):
    cfg = small_run(tmp_path)
    changed = dataclasses.replace(getattr(cfg, part), **change)
    with pytest.raises(error, match=words) as caught:
        loop.train(dataclasses.replace(cfg, **{part: changed}))
    assert "\n" not in str(caught.value)


def test_metrics_that_a_kill_cut_short_are_read_up_to_there(tmp_path):
    lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2)]
    (tmp_path / runs.METRICS).write_text("\n".join(lines))
    assert runs.read_metrics(tmp_path) == [{"kind": "train", "step": 1}]
    assert runs.read_metrics(tmp_path / "nowhere") == []


def test_samples_of_no_prompts_are_not_written(tmp_path):
    with runs.recorder(tmp_path, False, 0, lambda kind, record: None) as tell:
        tell("sample", {"step": 1, "texts": []})
        assert not (tmp_path / "samples.md").exists()
        tell("sample", {"step": 2, "texts": ["a", "b"]})
    assert (tmp_path / "samples.md").read_text() == (
        "## Step 2\n\n    a\n\n---\n\n    b\n\n"
    )
