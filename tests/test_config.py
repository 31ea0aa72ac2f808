"""Configs: their rules, the presets, and the way to YAML and back."""

import dataclasses
import pathlib

import pytest

from jaxllm import config_files
from jaxllm.cli import arguments, prepare
from jaxllm.config import (
    DataConfig,
    GPTConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
    gpt2_config,
    gpt3_config,
)
from jaxllm.errors import ConfigError
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.vectors.config import Word2VecConfig

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.yaml"))
CLASSES = (
    GPTConfig,
    TokenizerConfig,
    DataConfig,
    OptimizerConfig,
    LoopConfig,
    MeshConfig,
    TrainConfig,
)

RUN = TrainConfig(
    run_dir="runs/x",
    model=GPTConfig(n_layers=2, positions="rotary", norm_eps=1e-6),
    data=DataConfig(stride=1, corpus="naïve: text"),
    optimizer=OptimizerConfig(grad_clip=None, learning_rate=6e-4),
    loop=LoopConfig(epochs=2, sample_prompts=("\n", "def ", "null", "123")),
)


@pytest.mark.parametrize(
    ("cls", "values", "rule"),
    [
        (GPTConfig, {"n_layers": 0}, "n_layers must be >= 1, got 0"),
        (GPTConfig, {"vocab_size": -1}, "vocab_size must be >= 0, got -1"),
        (GPTConfig, {"drop_rate": 1.0}, "drop_rate must be in [0, 1), got 1.0"),
        (GPTConfig, {"n_heads": 5}, "n_heads must divide emb_dim, got n_heads=5"),
        (
            GPTConfig,
            {"n_kv_heads": 5},
            "n_kv_heads must divide n_heads, got n_kv_heads",
        ),
        (GPTConfig, {"n_kv_heads": 0}, "n_kv_heads must be >= 1, got 0"),
        (GPTConfig, {"attention_window": 0}, "attention_window must be >= 1, got 0"),
        (GPTConfig, {"emb_dim": 9, "n_heads": 3, "positions": "rotary"}, "even"),
        (GPTConfig, {"attention": "cudnn"}, "attention=cudnn needs dtype=bfloat16"),
        (TokenizerConfig, {"vocab_size": 0}, "vocab_size must be >= 1, got 0"),
        (DataConfig, {"validation_fraction": 0.0}, "validation_fraction must be in"),
        (DataConfig, {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        (DataConfig, {"stride": 0}, "stride must be >= 1, got 0"),
        (DataConfig, {"workers": -1}, "workers must be >= 0, got -1"),
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate must be > 0"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate must be"),
        (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps must be >= 0, got -1"),
        (OptimizerConfig, {"beta2": 1.0}, "beta2 must be in [0, 1), got 1.0"),
        (OptimizerConfig, {"decay_fraction": 0.0}, "decay_fraction must be in (0, 1]"),
        (OptimizerConfig, {"grad_clip": 0.0}, "grad_clip must be > 0, got 0.0"),
        (OptimizerConfig, {"accumulation_steps": 0}, "accumulation_steps must be"),
        (LoopConfig, {"steps": 1, "epochs": 1}, "either steps or epochs"),
        (LoopConfig, {"steps": 0}, "steps must be >= 1, got 0"),
        (LoopConfig, {"steps": 1, "eval_every": 0}, "eval_every must be >= 1, got 0"),
        (LoopConfig, {"steps": 1, "sample_temperature": -1.0}, "sample_temperature"),
        (
            LoopConfig,
            {"steps_per_dispatch": 8, "eval_every": 4},
            "steps_per_dispatch must be <= eval_every, 4, which no dispatch goes past",
        ),
        (LoopConfig, {"steps_per_dispatch": 8, "checkpoint_every": 7}, "got 8"),
        (LoopConfig, {"steps_per_dispatch": 8, "sample_every": 7}, "got 8"),
        (LoopConfig, {"steps_per_dispatch": 8, "steps": 7}, "got 8"),
        (TrainConfig, {"seed": -1}, "seed must be in [0, 2**32), got -1"),
        (TrainConfig, {"seed": 2**32}, "seed must be in [0, 2**32), got 4294967296"),
        (MeshConfig, {"data": 0}, "data must be >= 1 or -1, got 0"),
        (MeshConfig, {"data": -1, "fsdp": -1}, "at most one mesh axis may be -1"),
    ],
)
def test_a_broken_rule_names_the_rule_and_the_value(cls, values, rule):
    with pytest.raises(ConfigError) as error:
        cls(**values)
    assert rule in str(error.value)


def test_presets_are_the_papers_tables():
    assert gpt2_config("1558M").n_layers == 48
    assert gpt2_config().head_dim == 64
    assert gpt3_config("13B").head_dim == 128
    assert gpt2_config("124M", n_layers=2) == dataclasses.replace(
        gpt2_config("124M"), n_layers=2
    )
    with pytest.raises(ConfigError, match="124M, 355M, 774M, 1558M; got '125M'"):
        gpt2_config("125M")


@pytest.mark.parametrize("config", [RUN, TrainConfig(), *(RUN.model, RUN.loop)])
def test_yaml_and_back_is_the_same_config(config):
    assert config_files.from_yaml(config_files.to_yaml(config), type(config)) == config


def test_a_config_file_and_back_is_the_same_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(config_files.to_yaml(RUN))
    assert config_files.read_config(path, TrainConfig) == RUN


def test_what_yaml_leaves_out_takes_its_default():
    assert config_files.from_yaml("", MeshConfig) == MeshConfig()
    assert (
        config_files.from_yaml("loop: {log_every: 5}", TrainConfig).loop.steps is None
    )
    config = config_files.from_yaml("loop: {epochs: 3}", TrainConfig)
    assert (config.loop.epochs, config.loop.steps) == (3, None)
    assert config.model == GPTConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {n_layer: 2}", "unknown key 'model.n_layer'; did you mean 'model.n_l"),
        ("n_layers: 2", "unknown key 'n_layers'; did you mean 'model.n_layers'?"),
        ("modle: {n_layers: 2}", "unknown key 'modle'; did you mean 'model"),
        ("seed: one", "seed must be an integer, got 'one'"),
        ("seed: true", "seed must be an integer, got True"),
        ("seed: 1.0", "seed must be an integer, got 1.0"),
        ("run_dir: null", "run_dir must be a string, got None"),
        ("run_dir: 3", "run_dir must be a string, got 3"),
        ("model: 3", "model must be a mapping of keys, got 3"),
        ("model: {qkv_bias: 1}", "model.qkv_bias must be true or false, got 1"),
        ("model: {drop_rate: high}", "model.drop_rate must be a number, got 'high'"),
        ("model: {init: torch}", "model.init must be one of gpt2, pytorch, got 'torch"),
        ("data: {stride: 1.5}", "data.stride must be an integer or null, got 1.5"),
        ("loop: {sample_prompts: a}", "must be a list, each a string, got 'a'"),
        ("loop: {sample_prompts: [1]}", "must be a list, each a string, got [1]"),
        ("model: {n_heads: 7}", "n_heads must divide emb_dim, got n_heads=7"),
        ("- 1", "a config is a mapping of keys to values, got [1]"),
        ("seed: 1\n'seed': 2", "'seed' stands again in line 2"),
        ("loop:\n  steps: 1\n  log_every: 2\n  steps: 3", "again in line 4"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_bad_yaml_names_the_key_and_what_would_be_right(text, message):
    with pytest.raises(ConfigError) as error:
        config_files.from_yaml(text, TrainConfig)
    assert message in str(error.value)


def test_a_bad_config_file_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("sead: 1")
    with pytest.raises(ConfigError, match=r"bad\.yaml: unknown key 'sead'.*'seed'"):
        config_files.read_config(path, TrainConfig)
    path.write_bytes("run_dir: où".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.yaml must be UTF-8 text"):
        config_files.read_config(path, TrainConfig)


def test_numbers_without_a_dot_are_numbers():
    config = config_files.from_yaml("{learning_rate: 1e-3, eps: 1}", OptimizerConfig)
    assert (config.learning_rate, config.eps) == (1e-3, 1.0)
    assert type(config.eps) is float


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_has_its_gloss(cls):
    assert arguments.glosses(cls).keys() == {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_opens_with_its_command_and_is_valid(path):
    keys = config_files.values_of_yaml(path.read_text()).keys()
    cls, command = TrainConfig, "train"
    if "task" in keys:
        cls, command = FinetuneConfig, "finetune"
    elif "model" not in keys:
        cls, command = Word2VecConfig, "vectors train"
    config = config_files.read_config(path, cls)
    assert config.run_dir == f"runs/{path.stem}"
    comment = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    call = f"jaxllm {command} --config configs/{path.name}"
    for part in (call, "Hardware:", "Time:"):
        assert part in comment
    assert "Expect:" in comment


def test_the_store_of_gpt2_is_prepared_as_its_config_says():
    (path,) = (path for path in CONFIGS if path.stem == "gpt2_124m")
    config = config_files.read_config(path, TrainConfig)
    words = path.read_text().partition("jaxllm prepare FOLDER_OF_TEXT ")[2]
    words = ["text", *words.partition("\n")[0].split()]
    options = arguments.parse(prepare.Options, words, "jaxllm prepare")
    assert options.out == config.data.corpus
    assert options.tokenizer == config.tokenizer
