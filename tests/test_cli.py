"""The command line: what it prints, what it refuses, and how it exits."""

import dataclasses
import errno
import io
import subprocess
import sys
from typing import Literal

import pytest

from jaxllm.cli import arguments, console, main, reading
from jaxllm.config import TrainConfig
from jaxllm.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Do a thing to a run."""

    run: str
    """Run directory, 100 % of it."""
    prompts: tuple[str, ...] = ()
    """Prompts."""
    text: str = "\n"
    """Any text."""
    top_k: int | None = None
    """Candidates."""
    name: str | None = None
    """A name."""
    labels: tuple[str, ...] | None = None
    """Labels."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision."""
    quoted: bool | None = None
    """A flag, or null."""
    loud: bool = False
    """A flag."""
    config_of: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """The run."""


def parse(*words: str) -> Options:
    return arguments.parse(Options, list(words), "jaxllm x")


@pytest.fixture
def fails(capsys):
    """A function that runs the command line and returns its one line of error."""

    def run(*words: str) -> str:
        assert main.main(list(words)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("jaxllm: error: ")
        return lines[0]

    return run


def test_a_field_without_a_default_is_positional():
    assert parse("runs/a").run == "runs/a"
    assert parse("--top_k", "3", "runs/a") == Options(run="runs/a", top_k=3)
    with pytest.raises(ConfigError, match="run must be given"):
        parse()


def test_a_string_is_taken_as_it_is_written():
    assert parse("a", "--text", "null").text == "null"
    assert parse("a", "--text", "[1, 2]").text == "[1, 2]"
    assert parse("a", "--text=--x").text == "--x"
    assert parse("a", "--text", "").text == ""
    assert parse("a", "--name", "null").name is None
    assert parse("a", "--name", "12").name == "12"


def test_a_list_takes_several_words():
    assert parse("a", "--prompts", "x y", "z").prompts == ("x y", "z")
    assert parse("a", "--prompts").prompts == ()


def test_a_list_that_may_be_null_takes_several_words_too():
    assert parse("a", "--labels", "ham", "no spam").labels == ("ham", "no spam")
    assert parse("a", "--labels").labels == ()
    assert parse("a", "--labels", "null").labels is None


def test_a_choice_that_may_be_null_is_checked():
    assert parse("a", "--dtype", "bfloat16").dtype == "bfloat16"
    assert parse("a", "--dtype", "null").dtype is None
    with pytest.raises(ConfigError, match="one of float32, bfloat16 or null, got 'x'"):
        parse("a", "--dtype", "x")


def test_a_flag_alone_says_true():
    assert parse("a", "--loud").loud
    assert parse("a", "--quoted").quoted
    assert parse("a", "--quoted", "null").quoted is None
    assert not parse("a", "--loud", "false").loud


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("{run: b, config_of: {seed: 1, model: {n_layers: 3, n_heads: 4}}}")
    words = ("--config_of.model.n_layers", "5", "--config", str(file))
    options = parse(*words)
    assert options.run == "b"
    assert options.config_of.seed == 1
    assert options.config_of.model.n_layers == 5
    assert options.config_of.model.n_heads == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-k", "3"], "unknown argument '--top-k'; did you mean '--top_k'?"),
        (["--n_layers=3"], "did you mean '--config_of.model.n_layers'?"),
        (["--top_k", "3.5"], "top_k must be an integer or null, got 3.5"),
        (["--top_k", "{"], "top_k must be an integer or null, got '{'"),
        (["--top_k"], "argument --top_k: expected one argument"),
        (["b"], "unexpected argument 'b'"),
        (["-k"], "unexpected argument '-k'"),
    ],
)
def test_a_wrong_word_says_what_would_be_right(words, message):
    with pytest.raises(ConfigError) as error:
        parse("a", *words)
    assert message in str(error.value)


def test_help_names_every_key_with_its_gloss_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "Do a thing to a run." in out
    assert "--dtype {float32,bfloat16}" in out
    assert "--top_k INT" in out
    assert "Run directory, 100 % of it." in out
    assert "--config_of.optimizer.grad_clip FLOAT" in out
    text = " ".join(out.split())
    assert (
        "Largest global norm of the gradient; null for no clipping. (default: 1" in text
    )
    assert "--config_of.seed INT" in out
    assert "(default: 0)" in text


def test_the_overview_lists_the_commands_in_order(capsys):
    assert main.main([]) == 0
    out = capsys.readouterr().out
    places = [out.index(f"\n  {command} ") for command in main.available_commands()]
    assert places == sorted(places)


def test_an_unknown_command_names_the_nearest(fails):
    assert "no command 'trian'; did you mean 'train'?" in fails("trian")


def test_text_goes_to_ids_and_back(capsys):
    assert main.main(["tokenizer", "encode", "gpt2", "Hello, I am"]) == 0
    assert capsys.readouterr().out == "15496 11 314 716\n"
    assert main.main("tokenizer decode gpt2 15496 11 314 716".split()) == 0
    assert capsys.readouterr().out == "Hello, I am\n"
    assert main.main("tokenizer encode gpt2 Hi --show_tokens".split()) == 0
    assert capsys.readouterr().out == "17250 b'Hi'\n"


def test_a_vocabulary_is_learned_saved_and_compared(capsys, tmp_path):
    (tmp_path / "a.txt").write_text("a rose is a rose")
    text, out = str(tmp_path / "a.txt"), str(tmp_path / "tokenizer.json")
    assert main.main(["tokenizer", "train", text, "--kind", "char", "--out", out]) == 0
    assert "7 tokens" in capsys.readouterr().out
    words = ["tokenizer", "compare", "gpt2", out, "--corpus", text]
    assert main.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[1:] == ["7", "16", "1.00"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a\nb", ["a", "b"]),
        ("a\n\nb\n", ["a", "", "b"]),
        ("\ufeffa\r\nb\r\n", ["a", "b"]),
        ("a\x0cb\x85c\u2028d\x0be\rf\n", ["a\x0cb\x85c\u2028d\x0be\rf"]),
        ("\n", [""]),
        ("", []),
    ],
)
def test_only_a_line_feed_ends_a_line_of_a_file_or_the_input(
    content, lines, tmp_path, monkeypatch
):
    file = tmp_path / "a.txt"
    file.write_bytes(content.encode())
    assert reading.read_lines(str(file)) == lines
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert reading.read_lines() == lines


def test_a_text_that_is_not_utf_8_is_refused(fails, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    line = fails("tokenizer", "encode", "gpt2", "-")
    assert "a text must be UTF-8, the standard input has the byte 0xe9 at" in line
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    line = fails("generate", str(tmp_path), "--prompts", f"{tmp_path}/latin")
    assert "latin has the byte 0xe9 at byte offset 3" in line


def test_ids_outside_the_vocabulary_are_refused(fails):
    line = fails("tokenizer", "decode", "gpt2", "99999")
    assert "ids must be in 0..50256, got 99999" in line


def test_an_unknown_key_on_the_command_line_names_the_nearest(fails):
    line = fails("train", "--model.n_layer", "2")
    assert "unknown argument '--model.n_layer'; did you mean '--model.n_layers'" in line


def test_an_unknown_key_in_a_config_file_names_the_nearest(fails, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("optimizer: {learning_rat: 1e-3}")
    line = fails("train", "--config", str(file))
    assert "'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?" in line


def test_a_wrong_type_names_the_key_the_type_and_the_value(fails):
    line = fails("train", "--model.n_layers", "two")
    assert line.endswith("model.n_layers must be an integer, got 'two'")


def test_heads_that_do_not_divide_the_width_are_refused(fails):
    line = fails("train", "--model.n_heads", "5")
    assert "n_heads must divide emb_dim, got n_heads=5 and emb_dim=768" in line


def test_a_config_that_is_not_there_is_named(fails, tmp_path):
    line = fails("train", "--config", str(tmp_path / "none.yaml"))
    assert "No such file or directory" in line
    assert "none.yaml" in line


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("two\nlines"), 2, "jaxllm: error: two lines"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2, "denied: /a"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "No space left on device",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_command_raises_decides_the_exit(
    error, status, words, monkeypatch, capsys
):
    def command(argv):
        raise error

    monkeypatch.setattr(main, "_run", command)
    assert main.main([]) == status
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def command(argv):
        raise ZeroDivisionError

    monkeypatch.setattr(main, "_run", command)
    with pytest.raises(ZeroDivisionError):
        main.main([])


def test_a_log_gets_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_INTERVAL", 0.0)
    with console.progress("counting") as report:
        report(1, 2)
        report(2, 2, "done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("counting  1/2  50%")
    assert lines[1].startswith("counting  2/2  100%")
    assert lines[1].endswith("done")


def test_help_and_mistakes_do_not_wait_for_jax():
    code = (
        "import sys; from jaxllm.cli import main\n"
        "assert main.main(['train', '--model.n_layer', '2']) == 2\n"
        "try: main.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
