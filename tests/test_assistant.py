"""An assistant from records to answers: runs that are small, and then asked."""

import dataclasses
import io
import json
import pathlib
import signal

import jax
import numpy as np
import pytest
from parameters import quick

from jaxllm.cli import answer
from jaxllm.cli import main as command_line
from jaxllm.config import GPTConfig, LoopConfig, OptimizerConfig, TokenizerConfig
from jaxllm.data import instructions, templates
from jaxllm.errors import ConfigError, DataError
from jaxllm.evals import judge
from jaxllm.finetuning import (
    instruct_batches,
    instruction,
    kinds,
    lora,
    opening,
    peft,
    run,
)
from jaxllm.finetuning.config import (
    BaseConfig,
    ExamplesConfig,
    FinetuneConfig,
    InstructConfig,
    TrainableConfig,
)
from jaxllm.training import runs

ROWS = [
    {
        "instruction": f"Add {a} and {b}.",
        "input": "" if a % 2 else "Be brief.",
        "output": f"{a + b}",
        "chosen": f"{a + b}",
        "rejected": f"It is {a + b}, dummy.",
    }
    for a in range(8)
    for b in range(10)
]


def small(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(ROWS))
    cfg = FinetuneConfig(
        task="instruct",
        run_dir=str(folder / "run"),
        model=GPTConfig(
            vocab_size=0, context_length=64, emb_dim=16, n_heads=2, n_layers=1
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=290),
        data=ExamplesConfig(file=str(folder / "rows.json"), batch_size=8),
        instruct=InstructConfig(template="phi_3", samples=2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        loop=LoopConfig(
            steps=30, eval_every=15, sample_every=30, sample_tokens=8, log_every=1
        ),
    )
    return dataclasses.replace(cfg, **changes)


@pytest.fixture(scope="module")
def assistant(tmp_path_factory):
    """A run that has learned to answer, and its result."""
    cfg = small(tmp_path_factory.mktemp("assistant"))
    return cfg, run.finetune(cfg)


def figures(cfg, kind):
    return [r for r in runs.read_metrics(cfg.run_dir) if r["kind"] == kind]


def test_held_out_answers_become_likelier_and_are_written_beside_references(assistant):
    cfg, result = assistant
    assert result.test["answer_loss"] < result.test["answer_loss_before"] - 1
    first, last = figures(cfg, "evaluation")
    assert last["validation_loss"] < first["validation_loss"]
    samples = pathlib.Path(cfg.run_dir, "samples.md").read_text()
    assert samples.count("Reference:") == 2
    assert "<|assistant|>:" in samples
    assert templates.load(f"{cfg.run_dir}/template.yaml") == templates.PHI_3


@pytest.mark.parametrize("batches", quick(["length", "shuffled"]))
def test_other_ways_to_share_a_batch_are_learnt_from_as_well(tmp_path, batches):
    instruct = InstructConfig(
        template="chat", batches=batches, response_only=True, samples=0
    )
    loop = LoopConfig(steps=2, log_every=1)
    cfg = small(tmp_path, instruct=instruct, loop=loop)
    run.finetune(cfg)
    assert all(record["tokens"] > 0 for record in figures(cfg, "train"))
    assert templates.load(f"{cfg.run_dir}/template.yaml") == templates.CHAT


def test_the_marks_of_a_chat_become_tokens_that_adapters_let_learn(
    assistant, tmp_path, capsys
):
    base, before = assistant
    cfg = small(
        tmp_path,
        # Known by its digest alone, so that opening it must grow it again.
        base=BaseConfig(source=base.run_dir, keep=False),
        model=GPTConfig(),
        tokenizer=TokenizerConfig(),
        instruct=InstructConfig(template="chat", special_marks=True, samples=0),
        trainable=TrainableConfig(what="lora", rank=2),
        loop=LoopConfig(steps=1),
    )
    result = run.finetune(cfg)
    marks = ["<|system|>", "<|user|>", "<|assistant|>"]
    special, first = result.tokenizer.special_tokens, before.model.vocab_size
    assert [special[mark] for mark in marks] == [first, first + 1, first + 2]
    assert result.model.vocab_size == first + 3
    prompt = instructions.encode_conversation(
        [{"role": "user", "content": "Add."}], templates.CHAT, result.tokenizer
    )
    assert prompt[0] == special["<|user|>"]
    params, _, tokenizer = opening.load_run(cfg.run_dir)
    assert tokenizer.hash == result.tokenizer.hash
    jax.tree.map(np.testing.assert_array_equal, params, result.params)
    table, old = (
        np.asarray(tree["token_embedding"]["embedding"])
        for tree in (params, before.params)
    )
    np.testing.assert_array_equal(table[:first], old)
    grown, _ = opening.grow_vocabulary(before.params, before.model, first + 3, cfg.seed)
    drawn = np.asarray(grown["token_embedding"]["embedding"])[first:]
    assert (table[first:] != drawn).any(axis=1).all()
    # Without these rows, PEFT's adapter would be of no use.
    words = ["convert", cfg.run_dir, f"{tmp_path}/peft", "--to", "peft"]
    assert command_line.main(words) == 2
    assert "token_embedding has too" in capsys.readouterr().err


@pytest.fixture(scope="module")
def preferring(assistant, tmp_path_factory):
    """A run that went on from the assistant with adapters, and its result."""
    base, _ = assistant
    cfg = small(
        tmp_path_factory.mktemp("preferring"),
        task="preference",
        base=BaseConfig(source=base.run_dir),
        model=GPTConfig(),
        tokenizer=TokenizerConfig(),
        instruct=InstructConfig(samples=1),
        trainable=TrainableConfig(what="lora", rank=4),
    )
    return cfg, run.finetune(cfg)


def test_preferences_start_at_log_2_and_separate_held_out_pairs(preferring):
    cfg, result = preferring
    train = figures(cfg, "train")
    np.testing.assert_allclose(train[0]["loss"], np.log(2), rtol=1e-5)
    assert train[-1]["loss"] < 0.5
    assert result.test["loss_before"] == pytest.approx(np.log(2), rel=1e-5)
    assert result.test["margin_before"] == pytest.approx(0, abs=1e-4)
    assert result.test["margin"] > 1
    assert result.test["accuracy"] > 0.9
    assert result.test["preferred"] >= result.test["preferred_before"]
    assert np.load(f"{cfg.run_dir}/reference.npy").shape == (80, 2)
    # The base's template, which this config does not name.
    assert templates.load(f"{cfg.run_dir}/template.yaml") == templates.PHI_3


@pytest.mark.parametrize("template", quick(["chat", "alpaca"]))
def test_pairs_need_no_answer_beside_the_two(template, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "output"} for row in ROWS]
    cfg = small(
        tmp_path,
        task="preference",
        model=dataclasses.replace(small(tmp_path).model, context_length=256),
        instruct=InstructConfig(template=template, samples=1),
        loop=LoopConfig(steps=1, sample_tokens=2),
    )
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    _, examples = kinds.KINDS["preference"].read(cfg)
    run.finetune(cfg)
    samples = pathlib.Path(cfg.run_dir, "samples.md").read_text()
    reference = examples.chosen.validation[0]["chosen"]
    assert f"Reference:\n    {reference}\n" in samples


def test_the_template_of_a_base_is_not_looked_for_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    templates.save(templates.CHAT, tmp_path / templates.FILE)
    cfg = small(tmp_path, instruct=InstructConfig())
    assert instruction.find_template(cfg) == templates.ALPACA
    cfg = dataclasses.replace(cfg, base=BaseConfig(source=str(tmp_path)))
    assert instruction.find_template(cfg) == templates.CHAT


def test_adapters_leave_a_run_in_pefts_form(assistant, preferring, tmp_path, capsys):
    base, run_dir = assistant[0].run_dir, preferring[0].run_dir
    assert command_line.main(["convert", run_dir, f"{tmp_path}", "--to", "peft"]) == 0
    assert "an adapter of" in capsys.readouterr().out
    params, cfg, _ = opening.load_run(base)
    merged = lora.merge_lora(params, peft.load_adapters(tmp_path, cfg))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
        merged,
        opening.load_run(run_dir)[0],
    )
    assert command_line.main(["convert", base, f"{tmp_path}", "--to", "peft"]) == 2
    assert "trainable.what must be lora, got all" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("task", ["assistant", "preferring"])
def test_a_stopped_run_ends_with_the_same_bits(task, request, tmp_path):
    cfg, whole = request.getfixturevalue(task)
    cfg = dataclasses.replace(cfg, run_dir=str(tmp_path / "run"))

    def stop(kind, record):
        if kind == "train" and record["step"] == 11:
            signal.raise_signal(signal.SIGTERM)

    stopped = run.finetune(cfg, on_event=stop)
    assert stopped.interrupted
    resumed = run.finetune(cfg, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert resumed.test == whole.test
    again, undisturbed = (
        [(r["step"], r["loss"]) for r in figures(each, "train")]
        for each in (cfg, whole.cfg)
    )
    assert again == undisturbed


def test_generate_and_chat_ask_by_the_runs_template(assistant, capsys, monkeypatch):
    cfg, _ = assistant
    ask = ["--temperature", "0", "--max_new_tokens", "8"]
    prompt = ["--prompt", "Add 1 and 1."]
    assert command_line.main(["generate", cfg.run_dir, *prompt, *ask]) == 0
    answer = capsys.readouterr().out
    assert "Add 1" not in answer
    asked = "<|user|>\nAdd 1 and 1.\n<|assistant|>:\n"
    raw = ["--prompt", asked, "--raw"]
    assert command_line.main(["generate", cfg.run_dir, *raw, *ask]) == 0
    assert capsys.readouterr().out == asked + answer
    # The second line is one turn too many for the context: the first one leaves.
    lines = "Add 1 and 1.\n" + "Add 1 and 1. " * 2 + "\nAdd 1 and 1.\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert command_line.main(["chat", cfg.run_dir, *ask]) == 0
    said = capsys.readouterr().out
    assert said.startswith("> " + answer)


def test_records_are_answered_as_generate_says_and_a_judge_reads_them(
    assistant, tmp_path, capsys, monkeypatch
):
    cfg, _ = assistant
    ask = ["--temperature", "0", "--max_new_tokens", "8"]
    command_line.main(["generate", cfg.run_dir, "--prompt", "Add 1 and 1.", *ask])
    said = capsys.readouterr().out
    rows = [{"instruction": "Add 1 and 1.", "output": "2"}]
    rows += [{"instruction": "Add. " * 64, "output": "0"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    out = tmp_path / "new" / "answers.jsonl"
    words = ["--records", str(tmp_path / "rows.json"), "--out", str(out)]
    assert command_line.main(["answer", cfg.run_dir, *words, *ask[2:]]) == 0
    assert "1 of 2 records are left out" in capsys.readouterr().err
    (line,) = map(json.loads, out.read_text().splitlines())
    assert line == rows[0] | {"response": said[:-1]}
    monkeypatch.setattr(judge, "ask", lambda *_, **__: "50")
    assert command_line.main(["judge", str(out), "--out", str(tmp_path / "g")]) == 0
    assert "graded 1 answers" in capsys.readouterr().out


def test_a_run_answers_the_records_that_it_has_held_out(assistant, preferring):
    for cfg, _ in (assistant, preferring):
        found = answer.find_records(answer.Options(run=cfg.run_dir))
        split = kinds.KINDS["instruct"].read(cfg)[1]
        assert found == split.test
        assert len(found) == 16


def test_a_judge_reads_what_a_record_of_any_template_says():
    messages = [
        {"role": "user", "content": "Add 1 and 1."},
        {"role": "assistant", "content": "2"},
    ]
    shown = answer.show_record({"messages": messages}, templates.CHAT, 1)
    assert "Add 1 and 1." in shown["instruction"]
    assert shown["output"] == "2"
    with pytest.raises(DataError, match=r"^record 7: .*'output'"):
        answer.show_record({"instruction": "Add."}, templates.ALPACA, 7)


# What is refused, each in one line.


def test_a_batch_of_more_packed_rows_than_there_are_names_what_is_counted():
    one = instructions.Example(np.arange(60), np.arange(60) > 30)
    with pytest.raises(DataError, match="must be <= 6, the packed rows of 100 ex") as e:
        instruct_batches.plan_batches([one] * 100, 8, 0, 1024)
    assert "set data.drop_last: false, or instruct.batches: length" in str(e.value)
    instruct_batches.plan_batches([one] * 100, 8, 0, 1024, drop_last=False)


def refused(cfg, capsys=None):
    with pytest.raises((ConfigError, DataError)) as caught:
        run.finetune(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_records_that_do_not_fit_are_refused_by_their_number(tmp_path):
    cfg = small(tmp_path)
    rows = [*ROWS[:4], {"instruction": "Add.", "input": ""}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert "record 5 of " in (message := refused(cfg))
    assert "must have the template's field 'output'" in message
    (tmp_path / "mine.yaml").write_text("instruction: '{question}'\nheading: x")
    other = InstructConfig(template=str(tmp_path / "mine.yaml"))
    assert "field 'question'" in refused(dataclasses.replace(cfg, instruct=other))
    assert "answer 'rejected', got None" in refused(
        dataclasses.replace(cfg, task="preference"), None
    ).replace("'chosen'", "'rejected'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must hold one"),
        ("", "must hold one"),
        ("{", "must be JSON"),
        (json.dumps([r | {"output": " "} for r in ROWS]), "some record must have a"),
    ],
)
def test_files_without_anything_to_learn_are_refused(tmp_path, text, words):
    cfg = small(tmp_path)
    (tmp_path / "rows.json").write_text(text)
    assert words in refused(cfg)


def test_an_empty_prompt_is_refused(assistant, capsys):
    cfg, _ = assistant
    assert command_line.main(["generate", cfg.run_dir, "--prompt", " "]) == 2
    assert capsys.readouterr().err.count("\n") == 1
