"""The commands that look at a model and carry it from one form to another."""

import json
import pathlib
import shutil

import pytest
from small_models import random_params

from jaxllm.config import GPTConfig
from jaxllm.data import bpe
from jaxllm.data.tokenizers import BPETokenizer, CharTokenizer
from jaxllm.pretrained import load, save

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.mark.parametrize("form", ["huggingface", "openai"])
def test_a_model_goes_to_a_run_and_back_without_a_bit_changed(run, tmp_path, form):
    status, said = run("convert", GOLDEN / form, tmp_path / "run")
    assert status == 0
    assert "a run of 21.6K parameters" in said
    status, said = run("convert", tmp_path / "run", tmp_path / "back")
    assert status == 0
    assert "a Hugging Face folder" in said
    run("convert", GOLDEN / form, tmp_path / "direct", "--to", "huggingface")
    for file in (tmp_path / "direct").iterdir():
        assert file.read_bytes() == (tmp_path / "back" / file.name).read_bytes()


def test_a_converted_run_can_be_asked(run, tmp_path):
    run("convert", GOLDEN / "openai", tmp_path / "run")
    words = ("--prompt", "The cat", "--max_new_tokens", 4, "--temperature", 0)
    status, from_run = run("generate", tmp_path / "run", *words)
    assert status == 0
    _, from_folder = run("generate", GOLDEN / "openai", *words)
    assert from_run == from_folder
    assert from_run.startswith("The cat")


def test_a_converted_run_holds_no_text_out(run, tmp_path):
    run("convert", GOLDEN / "openai", tmp_path / "run")
    status, said = run("evaluate", tmp_path / "run")
    assert status == 2
    assert "text must be given" in said
    assert not (tmp_path / "run" / "tokens").exists()


def test_ids_without_a_token_are_not_drawn_and_can_be_shown(run, tmp_path):
    """A vocabulary with a gap, of a model with more rows than that."""
    from jaxllm.cli import convert

    tokenizer = BPETokenizer(
        ranks=bpe.learn_ranks({}, 256), special_tokens={"<|endoftext|>": 258}
    )
    cfg = GPTConfig(
        vocab_size=1024, context_length=16, emb_dim=8, n_heads=2, n_layers=1
    )
    convert.write_run(random_params(cfg), cfg, tokenizer, tmp_path / "run")
    words = ("--prompt", "a", "--max_new_tokens", 8, "--logprobs", 1024, "--json")
    status, said = run("generate", tmp_path / "run", *words)
    assert status == 0
    ids = json.loads(said)["tokens"]
    assert ids
    assert max(ids) < 256


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--revision", "main"), "is a run; leave 'main' out"),
        (("--text", "a.txt"), "text is for a dtype that rounds, got float32"),
        (("--text", "a.txt", "--dtype", "int8"), "a classifier writes no text"),
        (("--to", "peft", "--dtype", "int8"), "leave dtype and add_qkv_bias"),
        (("--to", "peft", "--add_qkv_bias"), "leave dtype and add_qkv_bias"),
    ],
)
def test_what_converting_would_leave_unread_is_refused(run, tmp_path, words, message):
    (tmp_path / "config.yaml").write_text("task: classify")
    status, said = run("convert", tmp_path, tmp_path / "out", *words)
    assert status == 2
    assert message in said


def test_a_run_is_not_written_over_another(run, tmp_path):
    run("convert", GOLDEN / "openai", tmp_path / "run")
    status, said = run("convert", GOLDEN / "openai", tmp_path / "run")
    assert status == 2
    assert "holds a run already" in said


def test_a_model_without_tokenizer_makes_no_run(run, tmp_path):
    bare = pathlib.Path(shutil.copytree(GOLDEN / "openai", tmp_path / "bare"))
    (bare / "vocab.bpe").unlink()
    status, said = run("convert", bare, tmp_path / "run")
    assert status == 2
    assert "needs a tokenizer" in said
    assert run("convert", bare, tmp_path / "same", "--to", "huggingface")[0] == 0


def test_a_run_that_gpt2_cannot_express_says_which_field(run, tmp_path):
    """Biases that are missing can be added; nothing else can."""
    from jaxllm.cli import convert

    cfg = GPTConfig(
        vocab_size=3, context_length=8, emb_dim=8, n_heads=2, n_layers=1, qkv_bias=False
    )
    tokenizer = CharTokenizer(characters="abc")
    convert.write_run(random_params(cfg), cfg, tokenizer, tmp_path / "run")
    status, said = run("convert", tmp_path / "run", tmp_path / "out")
    assert status == 2
    assert "GPT-2 needs qkv_bias=True, got False; add_qkv_bias makes it so" in said
    words = ("convert", tmp_path / "run", tmp_path / "out", "--add_qkv_bias")
    assert run(*words, "--dtype", "float16")[0] == 0
    _, same, characters = load.load_pretrained(tmp_path / "out")
    assert same.qkv_bias
    assert characters.hash == tokenizer.hash


@pytest.mark.parametrize("form", ["huggingface", "openai"])
def test_a_folder_is_looked_at(run, form):
    status, said = run("inspect", GOLDEN / form)
    assert status == 0
    assert "2 layers, 3 heads, width 24, context 16, 280 tokens" in said
    assert "21,600" in said


def test_a_config_file_and_a_run_are_looked_at(run, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("model: {vocab_size: 0, emb_dim: 24, n_heads: 3, n_layers: 2}")
    status, said = run("inspect", config)
    assert status == 2
    assert "give vocab_size" in said
    assert run("inspect", config, "--vocab_size", 280)[0] == 0
    run("convert", GOLDEN / "openai", tmp_path / "run")
    status, said = run("inspect", tmp_path / "run", "--compile", "--batch_size", 2)
    assert status == 0
    assert "21,600" in said
    assert "XLA gives a training step" in said


def test_a_config_and_a_run_of_finetuning_are_looked_at(run, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("{task: classify, model: {emb_dim: 24, n_heads: 3, n_layers: 2}}")
    assert "2 layers, 3 heads, width 24" in run("inspect", config)[1]
    config.write_text(f"{{task: classify, base: {{source: {GOLDEN / 'openai'}}}}}")
    status, said = run("inspect", config)
    assert status == 0
    assert "2 layers, 3 heads, width 24, context 16, 280 tokens" in said
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(
        "{task: instruct, base: {source: gone}, model: {n_layers: 5, vocab_size: 7}}"
    )
    assert "5 layers, 12 heads" in run("inspect", tmp_path / "run")[1]
    words = ("plot", "memory", tmp_path / "run", "--out", tmp_path / "memory.png")
    assert run(*words)[0] == 0
    config.write_text("{task: classify, base: {source: gone}}")
    status, said = run("inspect", config)
    assert status == 2
    assert "got 'gone'" in said


def test_a_model_that_fits_and_one_that_does_not_are_told_apart(run):
    _, said = run("inspect", "gpt2-124M", "--memory", "24GB", "--batch_size", 24)
    assert "23.5 of 24 GB: does not fit" in said
    assert "7.3 of 24 GB: fits" in said
    assert "room for batches of 22, with remat 97" in said
    _, said = run("inspect", "gpt2-124M", "--device", "h200", "--tokens", 10_000_000)
    assert "at 40% of h200's 989 TFLOP/s: 462.6K tokens/s, 10.0M tokens in 0:22" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gpt5-1B",), "a model must be a preset such as gpt2-124M"),
        (("gpt2-125M",), "gpt2 comes in 124M"),
        (("gpt2-124M", "--device", "h300"), "device must be one of h200"),
        (("gpt2-124M", "--memory", "much"), "memory must be like 24GB"),
        (("gpt2-124M", "--batch_size", "0"), "batch_size must be >= 1, got 0"),
        (("gpt2-124M", "--utilisation", "40"), "utilisation must be in (0, 1], got 40"),
        ((str(GOLDEN),), "must hold one of config.yaml, config.json, hparams.json"),
    ],
)
def test_what_cannot_be_looked_at_is_an_error(run, words, message):
    status, said = run("inspect", *words)
    assert status == 2
    assert message in said


def test_a_saved_model_is_looked_at_as_it_was_made(run, tmp_path):
    cfg = GPTConfig(
        vocab_size=7,
        context_length=8,
        emb_dim=8,
        n_heads=2,
        n_layers=1,
        tied_head=False,
    )
    save.save_pretrained(random_params(cfg), cfg, None, tmp_path)
    assert "this model's head is untied" in run("inspect", tmp_path)[1]
