"""The commands that make a run and use one, in the way a user does."""

import contextlib
import io
import json
import os
import pathlib
import re
import resource
import shutil

import pytest
from small_models import random_params

from jaxllm.cli import answers, convert, main, model
from jaxllm.config import GPTConfig
from jaxllm.data import templates, token_store, tokenizers
from jaxllm.data.tokenizers import CharTokenizer, WordTokenizer

TEXT = "the cat sat on the mat, the dog sat on the cat.\n" * 40

TINY = {
    "tokenizer.kind": "char",
    "data.batch_size": "8",
    "model.vocab_size": "0",
    "model.context_length": "16",
    "model.emb_dim": "8",
    "model.n_heads": "2",
    "model.n_layers": "1",
    "loop.steps": "4",
    "loop.eval_every": "4",
    "loop.checkpoint_every": "2",
    "loop.sample_tokens": "5",
}


def train_words(text: pathlib.Path, run: pathlib.Path, **changes: str) -> list[str]:
    keys = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    words = [f"--{key}={value}" for key, value in keys.items()]
    return ["train", f"--data.corpus={text}", f"--run_dir={run}", *words]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "cats.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    """A run of four steps, and what it printed at its end."""
    run = tmp_path_factory.mktemp("runs") / "cats"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main.main(train_words(text, run)) == 0
    return run, out.getvalue()


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, in another place."""
    return pathlib.Path(shutil.copytree(trained[0], tmp_path / "moved"))


@pytest.fixture
def fails(capsys):
    """A function that runs the command line and returns the line of its error."""

    def run(*words: object) -> str:
        assert main.main([str(word) for word in words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("jaxllm: error: ")
        assert not any("Traceback" in line for line in lines)
        return lines[-1]

    return run


def test_a_run_directory_holds_everything(trained):
    run, _ = trained
    there = {path.name for path in run.iterdir()}
    assert there >= {"config.yaml", "tokenizer.json", "metrics.jsonl", "samples.md"}
    assert (run / "checkpoints" / "4").is_dir()
    assert (run / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_train_says_what_came_of_it(trained):
    run, out = trained
    assert re.search(r"validation loss \d\.\d+, perplexity [\d.]+, [\d.]+ bits", out)
    assert re.search(r"unigram entropy \d\.\d+", out)
    assert f"loss plot: {run}/plots/loss.png" in out


def test_a_moved_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(run, capsys):
    victim = max(run.glob("checkpoints/4/params/**/*"), key=os.path.getsize)
    os.truncate(victim, victim.stat().st_size // 2)
    assert main.main(["train", "--resume", str(run), "--loop.steps", "6"]) == 0
    err = capsys.readouterr().err
    assert re.search(r"checkpoints/4 is damaged.*; going on from", err)
    assert "step 6: validation loss" in err
    assert (run / "checkpoints" / "6").is_dir()


def test_evaluate_prints_every_figure(run, text, capsys):
    assert main.main(["evaluate", str(run)]) == 0
    held_out = capsys.readouterr().out
    assert main.main(["evaluate", str(run), "--text", str(text)]) == 0
    whole = capsys.readouterr().out
    for out in held_out, whole:
        assert re.search(r"loss +\d\.\d{4} nats per token\n", out)
        assert re.search(r"bits per byte +\d\.\d{4}\n", out)
    assert f"tokens           {len(TEXT) - 1:,}\n" in whole


def test_the_part_of_a_token_store_that_is_held_out_can_be_evaluated(trained, text):
    tokenizer = tokenizers.load(trained[0])
    store = token_store.prepare(text, tokenizer, trained[0].parent / "store", workers=0)
    ids = model.text_ids(str(trained[0]), tokenizer, str(store.folder), "text")
    assert list(ids) == list(store.validation)


def test_generate_goes_on_from_a_prompt_and_the_seed_decides(run, capsys):
    words = ["generate", str(run), "--prompt", "the", "--max_new_tokens", "30"]
    texts = []
    for seed in "001":
        assert main.main([*words, "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the")
    assert len(texts[0]) == len("the") + 30 + len("\n")


def said(capsys, run, *words):
    assert main.main(["generate", str(run), *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_prompt_of_a_file_and_a_sample_give_the_text_of_the_prompt_alone(
    run, tmp_path, capsys
):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat\nsat\n")
    words = ["--max_new_tokens", 6, "--min_new_tokens", 6, "--json"]
    several = ["--n", 2, "--seed", 5, "--batch_size", 3]
    lines = said(capsys, run, *words, "--prompts", prompts, *several).splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["prompt"], r["sample"]) for r in records] == [
        ("the cat", 0),
        ("the cat", 1),
        ("sat", 0),
        ("sat", 1),
    ]
    for record in records:
        seed = 5 + record["sample"]
        alone = said(capsys, run, *words, "--prompt", record["prompt"], "--seed", seed)
        assert json.loads(alone)["text"] == record["text"]
        assert len(record["tokens"]) == len(record["text"]) == 6
        assert record["finish"] == "length"
    shown = said(capsys, run, *words[:-1], "--prompts", prompts, *several)
    assert shown.startswith(f"--- 1.1\nthe cat{records[0]['text']}\n--- 1.2\n")


def test_a_stop_string_ends_the_text_in_front_of_it(run, capsys):
    words = ["--prompt", "the", "--max_new_tokens", 40, "--seed", 1]
    whole = said(capsys, run, *words)[3:-1]
    stop = whole[10:12]
    cut = said(capsys, run, *words, "--stop", "zzz", stop)
    assert cut == f"the{whole[: whole.index(stop)]}\n"
    record = json.loads(said(capsys, run, *words, "--stop", stop, "--json"))
    assert record["finish"] == "stop"
    assert record["text"] == whole[: whole.index(stop)]


def test_banned_and_favoured_tokens_and_log_probabilities(run, capsys):
    words = ["--prompt", "the", "--max_new_tokens", 9, "--temperature", 0]
    biased = said(capsys, run, *words, "--bias", "c=50")
    assert biased == "theccccccccc\n"
    assert said(capsys, run, *words, "--bias", "c=50", "d=40", "--ban", "c") == (
        "theddddddddd\n"
    )
    record = json.loads(said(capsys, run, *words, "--logprobs", 2, "--json"))
    for token in record["logprobs"]:
        assert token["logprob"] == token["top"][0][2] >= token["top"][1][2]
    table = said(capsys, run, *words, "--logprobs", 2).splitlines()
    assert table[1].split() == ["token", "logprob", "likeliest", "1", "likeliest", "2"]
    assert len(table) == 2 + 9


def test_beams_are_printed_with_their_scores_the_best_first(run, capsys):
    words = ["--prompt", "the", "--max_new_tokens", 5, "--beams", 3, "--n", 3]
    lines = said(capsys, run, *words, "--json").splitlines()
    scores = [json.loads(line)["score"] for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3
    assert said(capsys, run, *words).startswith(f"--- 1.1 score {scores[0]:.4f}\nthe")


def test_a_long_prompt_is_read_from_its_end_where_that_is_asked_for(run, capsys):
    words = ["--max_new_tokens", 4, "--json"]
    end = said(capsys, run, *words, "--prompt", "the cat sat.")
    for overflow, prompt in (("keep_last", "the cat sat."), ("slide", " cat sat")):
        long = said(
            capsys, run, *words, "--prompt", "o" * 30 + prompt, "--overflow", overflow
        )
        whole = said(capsys, run, *words, "--prompt", prompt)
        assert json.loads(long)["text"] == json.loads(whole)["text"]
    assert end


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ban", "cat"], "ids or the text of one, got 'cat', which is 3: "),
        (["--bias", "c:3"], "bias must be like 198=-2.5, got 'c:3'"),
        (["--bias", "=3"], "ids or the text of one, got ''"),
        (["--bias", "999=1"], "bias must name tokens in [0, "),
        (["--n", "0"], "n must be >= 1, got 0"),
        (["--n", "3", "--beams", "2"], "beams must be >= n, 3, got 2"),
        (["--beams", "2", "--logprobs", "2"], "leave beams or logprobs"),
        (["--beams", "2", "--stop", "a"], "leave beams or stop"),
        (["--beams", "2", "--lookahead", "2"], "leave beams or lookahead"),
        (["--lookahead", "2"], "lookahead needs plain greedy decoding, temperature=0"),
        (["--beams", "2", "--overflow", "slide"], "leave beams, or overflow slide"),
        (["--beams", "2"], "lower --max_new_tokens, or read the prompt's end with"),
        (["--prompts", "a", "--prompt", "b"], "give prompt or prompts, got both"),
        (["--min_p", "2"], "min_p must be in [0, 1], got 2.0"),
        (["--logprobs", "999"], "the vocabulary, got 999"),
        (["--overflow", "cut"], "overflow must be one of error, keep_last, slide"),
        (["--stop", ""], "stop strings must not be empty"),
        (["--prompts", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--prompt", ""], "at least one token"),
    ],
)
def test_wrong_options_of_generate_are_named(fails, run, words, message):
    assert message in fails("generate", run, *words)


def test_a_prompt_is_not_shown_where_the_options_are_wrong(run, capsys):
    assert main.main(["generate", str(run), "--prompt", "the", "--top_p", "2"]) == 2
    assert capsys.readouterr().out == ""


def test_a_stop_string_waits_for_min_new_tokens(run, capsys):
    words = ["--prompt", "the", "--max_new_tokens", 5, "--bias", "c=99", "--stop", "c"]
    assert said(capsys, run, *words) == "the\n"
    assert said(capsys, run, *words, "--min_new_tokens", 3) == "theccc\n"


def test_looking_ahead_gives_the_same_text(run, capsys):
    words = ["--prompt", "the", "--max_new_tokens", 30, "--temperature", 0]
    assert said(capsys, run, *words, "--lookahead", 3) == said(capsys, run, *words)


def chatted(run, capsys, monkeypatch, *lines):
    said = iter(lines)

    def read(prompt):
        for line in said:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    assert main.main(["chat", str(run), "--max_new_tokens", "3"]) == 0
    return capsys.readouterr()


def test_chat_answers_each_line(run, capsys, monkeypatch):
    out, _ = chatted(run, capsys, monkeypatch, "the cat", "the dog")
    assert len(out.splitlines()) >= 2


def test_chat_goes_on_behind_a_line_that_it_cannot_read(run, capsys, monkeypatch):
    out, err = chatted(run, capsys, monkeypatch, "caf\xe9", "the cat")
    assert "unknown 'f', '\xe9'" in err
    alone, _ = chatted(run, capsys, monkeypatch, "the cat")
    assert len(out.splitlines()) == len(alone.splitlines())


def test_chat_goes_on_behind_a_line_without_a_token(tmp_path, capsys, monkeypatch):
    tokenizer = WordTokenizer(vocabulary=("cat", "the"))
    cfg = GPTConfig(vocab_size=2, context_length=8, emb_dim=8, n_heads=2, n_layers=1)
    convert.write_run(random_params(cfg), cfg, tokenizer, tmp_path / "run")
    out, err = chatted(tmp_path / "run", capsys, monkeypatch, "", "the cat")
    assert "at least one token, got none" in err
    assert out.strip()


def test_an_interrupt_ends_a_reply_and_not_the_conversation(run, capsys, monkeypatch):
    replies, stream = [], answers.stream_reply

    def interrupted(*args, **options):
        replies.append(args[1])
        yield "so on"
        if len(replies) == 1:
            raise KeyboardInterrupt
        yield from stream(*args, **options)

    monkeypatch.setattr(answers, "stream_reply", interrupted)
    out, _ = chatted(run, capsys, monkeypatch, "the cat", "the dog")
    assert out.startswith("so on\nso on")
    assert len(replies) == 2


def test_an_assistant_goes_on_behind_a_line_that_it_cannot_read(
    tmp_path, capsys, monkeypatch
):
    tokenizer = CharTokenizer(characters="\nabc", special_tokens={"<|endoftext|>": 4})
    cfg = GPTConfig(vocab_size=5, context_length=16, emb_dim=8, n_heads=2, n_layers=1)
    convert.write_run(random_params(cfg), cfg, tokenizer, tmp_path / "run")
    template = templates.ChatTemplate(
        user=templates.Turn(before="a"), assistant=templates.Turn(before="b")
    )
    templates.save(template, tmp_path / "run" / templates.FILE)
    out, err = chatted(tmp_path / "run", capsys, monkeypatch, "caf\xe9", "abc")
    assert "unknown 'f', '\xe9'" in err
    assert out.strip()


def test_a_store_of_another_tokenizer_is_refused(fails, text, tmp_path, capsys):
    store = tmp_path / "store"
    words = ["prepare", str(text), "--out", str(store), "--tokenizer.kind", "char"]
    assert main.main(words) == 0
    assert "tokens to train on" in capsys.readouterr().out
    words = train_words(store, tmp_path / "run", tokenizer__kind="gpt2")
    assert "tokenizer" in fails(*words)


def test_a_run_is_not_overwritten(fails, text, trained):
    assert "holds a run already" in fails(*train_words(text, trained[0]))


def test_a_run_that_is_not_there_is_named(fails, tmp_path):
    for words in (["evaluate"], ["generate"], ["chat"], ["train", "--resume"]):
        assert "nowhere" in fails(*words, tmp_path / "nowhere")


def test_a_run_without_checkpoints_is_named(fails, run):
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint" in fails("generate", run)


def test_a_checkpoint_that_is_not_there_is_refused(fails, run):
    assert "3" in fails("generate", run, "--checkpoint", "3")
    assert "'first'" in fails("generate", run, "--checkpoint", "first")


def test_a_run_does_not_go_on_as_another(fails, run):
    line = fails("train", "--resume", run, "--model.n_layers", "2")
    assert "model.n_layers = 1" in line


def test_a_run_of_finetuning_goes_on_with_its_own_command(fails, tmp_path):
    (tmp_path / "config.yaml").write_text("task: classify\n")
    line = fails("train", "--resume", tmp_path)
    assert line.endswith(f"go on with `jaxllm finetune --resume {tmp_path}`")


def test_a_prompt_longer_than_the_context_is_refused(fails, run):
    line = fails("generate", run, "--prompt", "t" * 17)
    assert "at most 16 tokens" in line
    assert "got 17" in line


def test_an_unknown_character_is_named(fails, run):
    assert "'é'" in fails("generate", run, "--prompt", "é")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "hold some text"),
        (b"\x7fELF\x00\x00\x01", "binary"),
        ("naïve".encode("latin-1"), "byte 0xef at byte offset 2"),
        (b"short", "window"),
    ],
    ids=["empty", "binary", "latin-1", "short"],
)
def test_a_bad_text_is_refused(content, words, fails, tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    assert words in fails(*train_words(path, tmp_path / "run"))


def test_a_folder_that_cannot_be_made_is_named(fails, text, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in fails(*train_words(text, tmp_path / "file" / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission_is_named(fails, text, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in fails(*train_words(text, tmp_path / "run"))


def test_a_full_disk_is_named(fails, tmp_path):
    (tmp_path / "long.txt").write_text("ab" * 100_000)
    words = ["prepare", tmp_path / "long.txt", "--out", tmp_path / "store"]
    # The size of a file is limited: the nearest to a full disk without one.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        line = fails(*words, "--tokenizer.kind", "char")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in line
