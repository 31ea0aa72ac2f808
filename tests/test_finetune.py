"""A finetuning run: what it writes, what moves, and how it stops, goes on and opens."""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from parameters import quick
from small_models import CFG, random_params

import jaxllm
from jaxllm.cli import convert, main
from jaxllm.config import LoopConfig, OptimizerConfig
from jaxllm.data import text_tokenizers
from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.finetuning import opening, preparation, run
from jaxllm.finetuning.config import (
    BaseConfig,
    ClassifyConfig,
    ExamplesConfig,
    FinetuneConfig,
    InstructConfig,
    TrainableConfig,
)
from jaxllm.pretrained import hub
from jaxllm.training import checkpoints, runs

ALPHABET = text_tokenizers.CharTokenizer(
    characters=" abcdefghijklmno", special_tokens={"<|endoftext|>": 16}
)
BASE = dataclasses.replace(CFG, vocab_size=17, context_length=16)
TEXTS = [
    (f"{word} {'abcdefgh'[i % 8] * (1 + i % 3)}", label)
    for i in range(24)
    for word, label in (("good", "ham"), ("bad", "spam"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a base, drawn and never trained, and labelled texts."""
    folder = tmp_path_factory.mktemp("finetune")
    with contextlib.redirect_stdout(io.StringIO()):
        convert.write_run(random_params(BASE), BASE, ALPHABET, folder / "base")
    write_csv(folder / "texts.csv", [("text", "label"), *TEXTS])
    return folder


def write_csv(path: pathlib.Path, rows) -> pathlib.Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def small_finetuning(folder, run_dir, what, **changes) -> FinetuneConfig:
    """Six steps of a classifier, with dropout and accumulation."""
    cfg = FinetuneConfig(
        task="classify",
        run_dir=str(run_dir),
        base=BaseConfig(source=str(folder / "base"), drop_rate=0.1),
        data=ExamplesConfig(file=str(folder / "texts.csv"), batch_size=8),
        classify=ClassifyConfig(balance="weights"),
        trainable=TrainableConfig(what=what, **({"rank": 2} if what == "lora" else {})),
        optimizer=OptimizerConfig(
            learning_rate=1e-2, warmup_steps=0, accumulation_steps=2
        ),
        loop=LoopConfig(steps=6, log_every=1, eval_every=3, checkpoint_every=2),
        mesh=dataclasses.replace(jaxllm.MeshConfig(), data=4, tensor=2),
    )
    return dataclasses.replace(cfg, **changes)


@pytest.fixture(scope="module")
def finish(folder):
    """A function from a choice of what trains to its undisturbed run, made once."""
    done = {}

    def finish(what):
        if what not in done:
            done[what] = run.finetune(small_finetuning(folder, folder / what, what))
        return done[what]

    return finish


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_holds_everything_and_opens_elsewhere(folder, finish, tmp_path):
    for what in ("lora", "last_blocks"):
        result = finish(what)
        moved = shutil.copytree(folder / what, tmp_path / what)
        names = {path.name for path in moved.iterdir()}
        assert names == {
            *("config.yaml", "tokenizer.json", "metrics.jsonl", "checkpoints"),
            *("base", "test.json"),
        }
        params, cfg, tokenizer = jaxllm.load_run(moved)
        assert_same(params, result.params)
        assert cfg == result.model
        assert tokenizer.hash == ALPHABET.hash
        assert runs.read_config(moved, FinetuneConfig).classify.labels == (
            "ham",
            "spam",
        )
        assert json.loads((moved / "test.json").read_text()) == result.test


def test_only_adapters_and_the_new_head_are_in_the_checkpoint_of_lora(folder, finish):
    finish("lora")
    shapes = jax.eval_shape(
        lambda: opening.drawn_params(finish("lora").cfg, jax.random.key(0))
    )
    adapters = jax.eval_shape(
        lambda: jaxllm.init_lora(
            jax.random.key(0), {"blocks": shapes["blocks"]}, rank=2
        )
    ).adapters
    like = {"lora": adapters, "classifier": shapes["classifier"]}
    # Refused if the checkpoint held anything else.
    checkpoints.restore_params(folder / "lora" / "checkpoints", 6, like)


def test_what_is_frozen_does_not_move_by_a_bit(folder, finish):
    base, _, _ = jaxllm.load_run(folder / "base")
    params = finish("last_blocks").params
    for name in ("token_embedding", "position_embedding"):
        assert_same(params[name], base[name])

    def first(tree):
        return jax.tree.map(lambda leaf: leaf[:-1], tree["blocks"])

    assert_same(first(params), first(base))
    kernel, before = (
        np.asarray(tree["blocks"]["mlp"]["up"]["kernel"]) for tree in (params, base)
    )
    assert (kernel[-1] != before[-1]).all()
    norms = finish("lora").params["blocks"]["mlp_norm"]
    assert_same(norms, base["blocks"]["mlp_norm"])


def test_a_classifier_learns_what_tells_the_texts_apart(folder, tmp_path):
    plan = LoopConfig(epochs=15, eval_every=60, checkpoint_every=60)
    cfg = small_finetuning(folder, tmp_path / "run", "all", loop=plan)
    test = run.finetune(cfg).test
    assert test["accuracy"] == 1
    assert np.sum(test["confusion"]) == len(TEXTS) - 33 - 4


@pytest.mark.parametrize("what", quick(["lora", "last_blocks"]))
def test_a_stopped_run_ends_with_the_same_bits(what, folder, finish, tmp_path):
    whole = finish(what)
    cfg = small_finetuning(folder, tmp_path / "run", what)

    def stop(kind, record):
        if kind == "train" and record["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    stopped = run.finetune(cfg, on_event=stop)
    assert stopped.interrupted
    assert not stopped.test
    # By the config as it was given, which leaves the model to the base.
    resumed = run.finetune(cfg, resume=True)
    assert_same(resumed.params, whole.params)
    assert resumed.test == whole.test
    lines = (
        [
            {k: v for k, v in record.items() if "seconds" not in k and "_per_" not in k}
            for record in runs.read_metrics(run_dir)
        ]
        for run_dir in (tmp_path / "run", folder / what)
    )
    assert next(lines) == next(lines)


def test_a_run_goes_on_with_a_model_that_was_given_in_part():
    given = FinetuneConfig(
        model=dataclasses.replace(CFG, vocab_size=0, tied_head=False),
        classify=ClassifyConfig(labels=("ham", "spam"), causal=False),
    )
    begun = dataclasses.replace(CFG, vocab_size=17, causal=False)
    assert preparation.resumed_model(given, begun) == begun
    # What else it says is not forgotten, and then refused.
    wide = dataclasses.replace(given.model, emb_dim=32)
    wide = dataclasses.replace(given, model=wide)
    assert preparation.resumed_model(wide, begun).emb_dim == 32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FinetuneConfig(seed=-1), "seed must be in .* got -1"),
        (lambda: TrainableConfig(what="lora", alpha=0), "alpha must be > 0, got 0"),
        (
            lambda: TrainableConfig(what="lora", blocks=2),
            "blocks must be left out where what is lora, got 2",
        ),
        (lambda: TrainableConfig(rank=4), "rank must be left out where what is all"),
        (
            lambda: ClassifyConfig(labels=("ham", "spam", "ham")),
            "labels must have different names, got ham, spam, ham",
        ),
        (
            lambda: ClassifyConfig(pad_to="batch", read_padding=True),
            "pad_to must be longest or max_length .* got batch",
        ),
        (
            lambda: FinetuneConfig(
                classify=ClassifyConfig(pad_to="batch"),
                loop=LoopConfig(steps_per_dispatch=2),
            ),
            "classify.pad_to must be longest or max_length .* got batch",
        ),
        (
            lambda: FinetuneConfig(
                task="instruct",
                instruct=InstructConfig(batches="length"),
                loop=LoopConfig(steps_per_dispatch=2),
            ),
            "instruct.batches must be packed .* got length",
        ),
    ],
)
def test_a_config_that_can_not_be_run_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_run_may_know_its_base_by_its_digest_alone(folder, finish, tmp_path):
    base = shutil.copytree(folder / "base", tmp_path / "base")
    cfg = small_finetuning(
        folder,
        tmp_path / "run",
        "lora",
        base=BaseConfig(source=str(base), drop_rate=0.1, keep=False),
    )
    result = run.finetune(cfg)
    assert not (tmp_path / "run" / "base").exists()
    params, _, _ = jaxllm.load_run(tmp_path / "run")
    assert_same(params, result.params)
    assert_same(params, finish("lora").params)
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match="not where it was"):
        jaxllm.load_run(tmp_path / "run")
    other = random_params(BASE, seed=5)
    with contextlib.redirect_stdout(io.StringIO()):
        convert.write_run(other, BASE, ALPHABET, base)
    with pytest.raises(CheckpointError, match="have changed"):
        jaxllm.load_run(tmp_path / "run")


def test_a_run_keeps_its_base_in_one_form(folder, tmp_path):
    base = BaseConfig(source=str(folder / "base"))
    frozen, other = {"bias": np.ones(2)}, {"bias": np.zeros(2)}
    opening.keep_base(tmp_path, frozen, base, digest="of another attempt")
    assert (tmp_path / "base.json").exists()
    opening.keep_base(tmp_path, frozen, base, digest=None)
    assert not (tmp_path / "base.json").exists()
    cfg = small_finetuning(folder, tmp_path, "lora")
    assert_same(opening.read_frozen(tmp_path, cfg, other), frozen)
    opening.keep_base(tmp_path, frozen, base, digest="of a third")
    assert (tmp_path / "base.json").exists()
    assert not checkpoints.steps(tmp_path / "base")


def test_a_base_may_be_on_the_hub(folder, tmp_path, monkeypatch):
    params, cfg, _ = jaxllm.load_run(folder / "base")
    jaxllm.save_pretrained(params, cfg, ALPHABET, tmp_path / "hub")
    monkeypatch.setattr(hub, "find_folder", lambda *source: tmp_path / "hub")
    monkeypatch.chdir(tmp_path)
    base = BaseConfig(source="someone/gpt2", keep=False)
    opened, _, _ = opening.open_base("someone/gpt2")
    assert_same(opened, params)
    digest = opening.params_digest(opened)
    opening.keep_base(tmp_path, opened, base, digest)
    # The name is kept as it is: it is no folder beside the run.
    small = small_finetuning(folder, tmp_path, "lora", task="instruct", model=cfg)
    assert_same(opening.read_frozen(tmp_path, small, opened), params)


# The command line.


@pytest.fixture
def fails(capsys):
    """A function that runs the command line and returns the line of its error."""

    def fail(*words: object) -> str:
        assert main.main([str(word) for word in words]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("jaxllm: error: ")
        return line

    return fail


def words_of(folder, file, run_dir):
    return [
        *("finetune", "--task", "classify", "--base.source", folder / "base"),
        *("--data.file", file, "--run_dir", run_dir),
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("text", "kind"), ("good", "ham")], "has no column 'label'"),
        ([("text", "label"), ("good", "ham"), ("bad", "ham")], "holds only 'ham'"),
        ([("text", "label"), ("", "ham"), ("bad", "spam")], "must hold a text"),
        ([("text", "label"), ("good", ""), ("bad", "spam")], "must hold a label"),
        ([("text", "label"), ("good", "ham"), ("bad", "spam")], "must hold something"),
        ([("text", "label")], "must hold one"),
    ],
    ids=["missing", "constant", "empty text", "empty label", "too few", "none"],
)
def test_bad_examples_are_refused_in_one_line(rows, words, fails, folder, tmp_path):
    file = write_csv(tmp_path / "bad.csv", rows)
    assert words in fails(*words_of(folder, file, tmp_path / "run"))


def test_a_head_of_other_classes_is_refused(finish, fails, folder, tmp_path):
    finish("last_blocks")
    rows = [("text", "label"), *TEXTS[:20], *[("lone", "news")] * 5]
    file = write_csv(tmp_path / "three.csv", rows)
    words = words_of(folder, file, tmp_path / "run")
    line = fails(*words, "--base.source", folder / "last_blocks")
    assert "a class for each of 3 labels (ham, news, spam), got 2" in line


def test_a_classifier_is_no_base_to_write_text(finish, fails, folder, tmp_path):
    finish("last_blocks")
    rows = [{"instruction": "a", "output": "b", "chosen": "b", "rejected": "c"}] * 20
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = words_of(folder, tmp_path / "rows.json", tmp_path / "run")
    words += ["--base.source", folder / "last_blocks"]
    for task in ("instruct", "preference"):
        line = fails(*words, "--task", task)
        assert f"must write text, {folder / 'last_blocks'} is a classifier" in line
        assert not (tmp_path / "run").exists()


def test_classify_answers_with_label_and_probability(finish, folder, capsys):
    finish("last_blocks")
    words = ["classify", str(folder / "last_blocks"), "good a", "bad bb", "--json"]
    assert main.main(words) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["text"] == "good a"
    assert sum(second["probabilities"].values()) == pytest.approx(1)
    file = folder / "lines.txt"
    file.write_text("good a\n\nbad bb\n")
    words = ["classify", str(folder / "last_blocks"), "--file", str(file)]
    assert main.main([*words, "--batch_size", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    label, share, text = lines[0].split("\t")
    assert (label, text) == (first["label"], "good a")
    assert float(share) == pytest.approx(max(first["probabilities"].values()), abs=1e-4)
    assert len(lines) == 2


def test_the_losses_of_a_classifier_can_be_drawn_again(finish, folder, tmp_path):
    finish("last_blocks")
    picture = tmp_path / "loss.png"
    words = ["plot", "loss", str(folder / "last_blocks"), "--out", str(picture)]
    assert main.main(words) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_no_classifier_is_not_asked(fails, folder):
    assert "must be that of a classifier" in fails("classify", folder / "base", "a")
    assert "must be a folder that exists" in fails("classify", folder / "none", "a")


def test_a_classifier_is_the_same_one_in_transformers(finish, folder, tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="not installed")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    finish("last_blocks")
    source, texts = str(folder / "last_blocks"), ["good a", "bad", "good bbb " * 3]
    assert main.main(["convert", source, str(tmp_path)]) == 0
    assert main.main(["classify", source, *texts, "--json"]) == 0
    captured = capsys.readouterr()
    assert "a Hugging Face classifier of ham, spam" in captured.out
    assert "1 of 3 texts are too long" in captured.err
    ours = [json.loads(line) for line in captured.out.splitlines()[1:]]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(model).__name__ == "GPT2ForSequenceClassification"
    padded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        shares = model(**padded).logits.softmax(-1).numpy()
    for line, share in zip(ours, shares, strict=True):
        assert model.config.id2label[int(share.argmax())] == line["label"]
        np.testing.assert_allclose([*line["probabilities"].values()], share, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "mean"}, "needs classify.pooling='last', got 'mean'"),
        ({"causal": False}, "needs classify.causal=True, got False"),
        ({"read_padding": True}, "needs classify.read_padding=False, got True"),
    ],
)
def test_what_transformers_cannot_judge_by_is_refused_by_name(
    changes, words, fails, tmp_path
):
    cfg = small_finetuning(tmp_path, tmp_path, "all")
    task = dataclasses.replace(cfg.classify, **changes)
    runs.write_config(tmp_path, dataclasses.replace(cfg, classify=task))
    assert words in fails("convert", tmp_path, tmp_path / "folder")
