"""The golden GPT-2 computes what it computed in PyTorch, read from either form.

tests/golden was made by scripts/make_golden_gpt2.py with PyTorch 2.13, transformers
5.23 and TensorFlow 2.21: random weights of a model of 2 layers, 3 heads and width 24.
"""

import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import openai_form
import pytest
import small_models

from jaxllm.config import GPTConfig
from jaxllm.errors import CheckpointError, ConfigError, DataError, TokenizerError
from jaxllm.finetuning import heads
from jaxllm.pretrained import hub, load, safetensors_file, save, tensors

GOLDEN = pathlib.Path(__file__).parent / "golden"
FORMS = ["huggingface", "openai"]
TEXT = "The cat sat on the mat; the rat sat on the cat, and that was that.\n"


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def copy(tmp_path):
    """A copy of a golden folder, to be damaged."""
    return lambda form: pathlib.Path(shutil.copytree(GOLDEN / form, tmp_path / form))


def equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- the same numbers


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_pytorchs(form, expected):
    params, cfg, _ = load.load_pretrained(GOLDEN / form)
    logits = small_models.apply(params, expected["tokens"], cfg)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_greedy_tokens_are_pytorchs(form, expected):
    params, cfg, _ = load.load_pretrained(GOLDEN / form)
    tokens = expected["greedy"].copy()
    for t in range(4, tokens.shape[1]):
        # What lies behind a position has no part in its logits.
        tokens[:, t] = small_models.apply(params, tokens, cfg)[:, t - 1].argmax(axis=-1)
    np.testing.assert_array_equal(tokens, expected["greedy"])


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_those_of_the_tokenizers_library(form, expected):
    _, _, tokenizer = load.load_pretrained(GOLDEN / form)
    assert tokenizer.encode(TEXT).tolist() == expected["text_ids"].tolist()
    assert tokenizer.end_of_text == 279


def test_both_forms_hold_the_same_bits():
    params, cfg, tokenizer = load.load_pretrained(GOLDEN / "huggingface")
    same_params, same_cfg, same_tokenizer = load.load_pretrained(GOLDEN / "openai")
    equal_trees(params, same_params)
    # OpenAI's form does not say what dropout it was trained with.
    assert (cfg.drop_rate, same_cfg.drop_rate) == (0.1, 0.0)
    assert cfg.n_layers == same_cfg.n_layers == 2
    assert tokenizer.hash == same_tokenizer.hash


@pytest.mark.parametrize("form", FORMS)
def test_load_save_load_is_lossless(tmp_path, form):
    params, cfg, tokenizer = load.load_pretrained(GOLDEN / form)
    save.save_pretrained(params, cfg, tokenizer, tmp_path / "a")
    again, same_cfg, same_tokenizer = load.load_pretrained(tmp_path / "a")
    equal_trees(params, again)
    assert same_cfg == cfg
    assert same_tokenizer.hash == tokenizer.hash
    save.save_pretrained(again, same_cfg, same_tokenizer, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_saving_writes_the_tensors_that_transformers_wrote(tmp_path):
    params, cfg, tokenizer = load.load_pretrained(GOLDEN / "huggingface")
    save.save_pretrained(params, cfg, tokenizer, tmp_path)
    theirs = safetensors_file.read_folder(GOLDEN / "huggingface")
    ours = safetensors_file.read_folder(tmp_path)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(
            tensors.map_tensor(ours[name]), tensors.map_tensor(theirs[name])
        )


def test_a_model_leaves_nothing_of_the_one_it_replaces(tmp_path, copy):
    folder = copy("huggingface")
    (folder / "added_tokens.json").write_text("{}")
    params, cfg, tokenizer = load.load_pretrained(folder)
    save.save_pretrained(params, cfg, tokenizer, folder)
    assert not (folder / "added_tokens.json").exists()
    save.save_pretrained(params, cfg, None, folder)
    assert load.load_pretrained(folder)[2] is None


def test_a_model_is_not_saved_where_openais_would_be_read(copy):
    folder = copy("openai")
    params, cfg, tokenizer = load.load_pretrained(folder)
    with pytest.raises(DataError, match=r"hparams\.json; name another"):
        save.save_pretrained(params, cfg, tokenizer, folder)
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_model_replaces_one_in_parts(copy, dtype):
    folder = copy("huggingface")
    params, cfg, tokenizer = load.load_pretrained(folder)
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for part in parts:
        shutil.copy(folder / "model.safetensors", folder / part)
    weight_map = dict.fromkeys(safetensors_file.read_folder(folder), parts[0])
    index = {"weight_map": weight_map | {"another": parts[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save.save_pretrained(params, cfg, tokenizer, folder, dtype=dtype)
    assert len([*folder.glob("model*")]) == 1


def test_a_model_is_not_saved_beside_a_pickle_that_could_be_read_instead(copy):
    folder = copy("huggingface")
    params, cfg, tokenizer = load.load_pretrained(folder)
    (folder / "pytorch_model-00001-of-00002.bin").touch()
    with pytest.raises(DataError, match=r"a pickle, pytorch_model-.*; name another"):
        save.save_pretrained(params, cfg, tokenizer, folder, dtype="int8")
    assert (folder / "model.safetensors").exists()


@pytest.mark.filterwarnings("error")
def test_a_weight_that_half_precision_cannot_hold_is_an_error(tmp_path):
    params, cfg, _ = load.load_pretrained(GOLDEN / "huggingface")
    norm = params["final_norm"]
    params["final_norm"] = norm | {"scale": norm["scale"].at[3].set(-1e5)}
    save.save_pretrained(params, cfg, None, tmp_path / "b", dtype="bfloat16")
    message = "transformer.ln_f.weight must .* 65504.* float16, got 100000.0; bfloat16"
    with pytest.raises(CheckpointError, match=message):
        save.save_pretrained(params, cfg, None, tmp_path / "a", dtype="float16")
    assert not [*(tmp_path / "a").glob("*")]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["ham"], "2 different names, .* got 'ham'"),
        (["ham", "ham"], "2 different names"),
        ([], "got none"),
    ],
)
def test_a_classifier_has_a_name_for_each_class(tmp_path, labels, message):
    params, cfg, tokenizer = load.load_pretrained(GOLDEN / "huggingface")
    with pytest.raises(CheckpointError, match="must have a head"):
        save.save_classifier(params, cfg, tokenizer, tmp_path, labels)
    params = heads.attach_classifier(params, cfg, 2, key=jax.random.key(0))
    with pytest.raises(ConfigError, match=message):
        save.save_classifier(params, cfg, tokenizer, tmp_path, labels)
    save.save_classifier(params, cfg, tokenizer, tmp_path, ["ham", "spam"])
    names = json.loads((tmp_path / "config.json").read_text())["id2label"]
    assert names == {"0": "ham", "1": "spam"}
    with pytest.raises(CheckpointError, match=r"a classifier, .*text-classification"):
        load.load_pretrained(tmp_path)


# --- the forms of a folder


def test_names_without_prefix_and_a_head_of_its_own(tmp_path, copy):
    """As GPT2Model is saved, and with the head stored beside the embedding."""
    folder = copy("huggingface")
    params, cfg, _ = load.load_pretrained(folder)
    arrays = {
        name.removeprefix("transformer."): np.array(tensors.map_tensor(stored))
        for name, stored in safetensors_file.read_folder(folder).items()
    }

    def reload(arrays):
        entries = {n: (a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}
        safetensors_file.write(folder / "model.safetensors", entries)
        return load.load_pretrained(folder)[:2]

    again, same_cfg = reload(arrays)
    equal_trees(params, again)
    again, same_cfg = reload(arrays | {"lm_head.weight": arrays["wte.weight"]})
    equal_trees(params, again)
    assert same_cfg == cfg
    # Under the head's name alone.
    renamed = arrays | {"lm_head.weight": arrays["wte.weight"]}
    del renamed["wte.weight"]
    again, same_cfg = reload(renamed)
    equal_trees(params, again)
    # Different, although the config says tied: transformers unties them too.
    head = arrays["wte.weight"][::-1]
    again, same_cfg = reload(arrays | {"lm_head.weight": head})
    assert not same_cfg.tied_head
    np.testing.assert_array_equal(again["head"]["embedding"], head)
    # The config says untied, and there is no head.
    change_json(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="lm_head"):
        reload(arrays)


def test_a_checkpoint_in_shards_is_the_same(tmp_path, copy):
    folder = copy("openai")
    arrays = {
        name: np.array(tensors.map_tensor(stored))
        for name, stored in safetensors_file.read_folder(GOLDEN / "huggingface").items()
    }
    hparams = json.loads((folder / "hparams.json").read_text())
    openai_form.write_openai_folder(tmp_path / "sharded", hparams, arrays, shards=4)
    params, _, tokenizer = load.load_pretrained(tmp_path / "sharded")
    equal_trees(params, load.load_pretrained(folder)[0])
    assert tokenizer is None


# --- what is refused


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(copy, name):
    folder = copy("huggingface")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=r"python -c .*from_pretrained") as error:
        load.load_pretrained(folder)
    assert name in str(error.value)


def test_a_pickle_that_is_named_itself_is_refused(copy):
    path = copy("huggingface") / "pytorch_model.bin"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        load.load_pretrained(path)


def test_a_folder_with_nothing_in_it_says_what_is_wanted(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json .* or hparams\.json"):
        load.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"must hold model\.safetensors"):
        load.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="must be JSON"):
        load.load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type must be gpt2, got 'llama'"),
        ({"activation_function": "relu"}, "activation_function must be one of"),
        ({"activation_function": ["gelu"]}, "activation_function must be one of"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon must be a number, got True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights must be True, got False"),
        ({"add_cross_attention": True}, "add_cross_attention must be False"),
        ({"n_inner": 100}, "n_inner must be a multiple of n_embd"),
        ({"n_inner": "96"}, "n_inner must be a whole number >= 1, got '96'"),
        ({"n_inner": 96.0}, "n_inner must be a whole number >= 1, got 96.0"),
        ({"n_layer": "2"}, "n_layer must be a whole number >= 1, got '2'"),
        ({"n_layer": 2.0}, "n_layer must be a whole number >= 1, got 2.0"),
        ({"n_embd": 0}, "n_embd must be a whole number >= 1, got 0"),
        ({"n_embd": None}, "n_embd must be a whole number >= 1, got None"),
        ({"vocab_size": True}, "vocab_size must be a whole number >= 1, got True"),
        ({"n_head": 7}, "n_heads must divide emb_dim"),
    ],
)
def test_a_config_that_is_not_ours_names_the_field(copy, changes, message):
    folder = copy("huggingface")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        load.load_pretrained(folder)


def test_a_config_of_another_size_names_the_tensor(copy):
    folder = copy("huggingface")
    change_json(folder / "config.json", n_embd=48)
    with pytest.raises(
        CheckpointError, match=r"wte\.weight must have shape \(280, 48\)"
    ):
        load.load_pretrained(folder)
    folder = copy("openai")
    change_json(folder / "hparams.json", n_layer=3)
    with pytest.raises(
        CheckpointError, match=r"tensor h\.2\.ln_1\.weight .* is missing"
    ):
        load.load_pretrained(folder)
    (folder / "hparams.json").write_text('{"n_vocab": 3}')
    with pytest.raises(ConfigError, match="must hold 'n_ctx'"):
        load.load_pretrained(folder)


def test_a_checkpoint_that_is_not_named_is_an_error(copy):
    folder = copy("openai")
    (folder / "checkpoint").unlink()
    with pytest.raises(CheckpointError, match="must name the checkpoint"):
        load.load_pretrained(folder)


def test_a_tokenizer_with_too_many_tokens_is_an_error(copy):
    folder = copy("huggingface")
    (folder / "vocab.json").unlink()
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"][0]["id"] = 280
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match="at most 280 tokens"):
        load.load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"positions": "rotary"}, "positions"),
        ({"positions": "sinusoidal"}, "positions"),
        ({"positions": "alibi"}, "positions"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"causal": False}, "causal"),
        ({"attention_window": 4}, "attention_window"),
        ({"n_kv_heads": 1}, "n_kv_heads"),
    ],
)
def test_a_config_that_gpt2_cannot_express_names_the_field(tmp_path, changes, field):
    cfg = GPTConfig(vocab_size=5, emb_dim=8, n_heads=2, n_layers=1, **changes)
    params = small_models.random_params(cfg)
    with pytest.raises(ConfigError, match=f"GPT-2 needs {field}="):
        save.save_pretrained(params, cfg, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_type_that_is_no_float_is_an_error(tmp_path):
    params, cfg, _ = load.load_pretrained(GOLDEN / "openai")
    with pytest.raises(ConfigError, match=r"dtype must be one of .* got 'int16'"):
        save.save_pretrained(params, cfg, None, tmp_path / "out", dtype="int16")


def test_a_saved_model_wins_over_parts_that_lie_beside_it(copy):
    folder = copy("huggingface")
    (folder / "model.safetensors.index.json").write_text("{}")
    load.load_pretrained(folder)


# --- the hub


def test_a_name_that_is_no_folder_and_no_hub_name_is_an_error(tmp_path):
    for source in ("gpt2", tmp_path / "nothing", "a/b/c", __file__):
        with pytest.raises(
            CheckpointError, match="must be a folder, or the OWNER/NAME"
        ):
            load.load_pretrained(source)


def test_a_folder_has_no_revisions():
    with pytest.raises(CheckpointError, match="leave 'main' out"):
        load.load_pretrained(GOLDEN / "huggingface", revision="main")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"install jaxllm\[hub\]"):
        load.load_pretrained("openai-community/gpt2")


def test_a_model_in_the_cache_is_loaded_without_network(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    # The layout of the hub's cache: a revision's name, and its files.
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(GOLDEN / "huggingface", repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = hub.find_folder("someone/tiny")
    assert folder.name == "0" * 40
    _, cfg, _ = load.load_pretrained("someone/tiny")
    assert cfg.vocab_size == 280
    with pytest.raises(CheckpointError, match="not found on the hub"):
        load.load_pretrained("someone/other")
