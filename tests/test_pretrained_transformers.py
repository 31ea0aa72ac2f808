"""A GPT-2 is the same model in Hugging Face transformers, in both directions.

Needs the extra `parity`: PyTorch and transformers.
"""

import pathlib

import jax
import numpy as np
import pytest
from small_models import random_params

from jaxllm.config import GPTConfig
from jaxllm.data import bpe, tokenizers
from jaxllm.data.tokenizers import BPETokenizer
from jaxllm.inference import generate
from jaxllm.models import gpt
from jaxllm.pretrained import load, save

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="not installed")

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# Vocabulary, context, width, heads, layers, and what else GPT2Config says.
SHAPES = {
    "one of everything": (7, 4, 8, 1, 1, {}),
    "many heads": (65, 16, 32, 8, 2, {}),
    "deep": (31, 12, 12, 2, 7, {}),
    "odd vocabulary, odd heads": (301, 33, 15, 5, 2, {}),
    "erf": (50, 16, 16, 2, 2, {"activation_function": "gelu"}),
    "narrow mlp": (50, 16, 16, 2, 2, {"n_inner": 32, "layer_norm_epsilon": 1e-3}),
    "untied": (50, 16, 16, 2, 2, {"tie_word_embeddings": False}),
}


def draw_model(vocab_size, context, width, heads, layers, changes):
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=context,
            n_embd=width,
            n_head=heads,
            n_layer=layers,
            bos_token_id=0,
            eos_token_id=0,
            **changes,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens).long()).logits.numpy()


def their_greedy(model, prompt, n):
    prompt = torch.tensor(prompt).long()[None]
    with torch.no_grad():
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=n,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0].numpy()


def assert_same_model(model, params, cfg):
    """Equal logits over the whole context, and the same greedy tokens to its end."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(cfg.vocab_size, size=(2, cfg.context_length))
    tokens = tokens.astype(np.int32)
    apply = jax.jit(gpt.apply, static_argnames="cfg")
    np.testing.assert_allclose(
        apply(params, tokens, cfg=cfg), their_logits(model, tokens), atol=1e-4
    )
    prompt, n = tokens[0, :3], cfg.context_length - 3
    ours = generate.generate(params, prompt, cfg, max_new_tokens=n, temperature=0)
    np.testing.assert_array_equal(ours, their_greedy(model, prompt, n))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_transformers_saved_is_the_same_model_here(tmp_path, shape):
    model = draw_model(*SHAPES[shape])
    model.save_pretrained(tmp_path)
    params, cfg, tokenizer = load.load_pretrained(tmp_path)
    assert tokenizer is None
    assert_same_model(model, params, cfg)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_transformers_reads_it(tmp_path, dtype):
    model = draw_model(*SHAPES["many heads"])
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    params, cfg, _ = load.load_pretrained(tmp_path)
    widened = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    assert_same_model(widened, params, cfg)


def test_a_model_in_several_files_is_read(tmp_path):
    model = draw_model(*SHAPES["many heads"])
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_model(model, *load.load_pretrained(tmp_path)[:2])


def test_a_model_that_was_saved_without_its_head_is_read(tmp_path):
    model = draw_model(*SHAPES["many heads"])
    model.transformer.save_pretrained(tmp_path)
    assert_same_model(model, *load.load_pretrained(tmp_path)[:2])


@pytest.mark.parametrize(
    "changes",
    [
        {"n_heads": 4, "n_layers": 3, "drop_rate": 0.1},
        {"tied_head": False, "mlp_ratio": 2, "norm_eps": 1e-3},
        {"activation": "gelu_erf", "vocab_size": 97, "context_length": 9},
    ],
)
def test_what_is_saved_here_is_the_same_model_in_transformers(tmp_path, changes):
    shape = {"vocab_size": 40, "context_length": 16, "emb_dim": 24, "n_heads": 2}
    cfg = GPTConfig(**({"n_layers": 2} | shape | changes))
    params = random_params(cfg)
    save.save_pretrained(params, cfg, None, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert_same_model(model, params, cfg)
    again, same_cfg, _ = load.load_pretrained(tmp_path)
    assert same_cfg == cfg
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_what_transformers_saves_again_is_still_the_same(tmp_path):
    """Ours, opened and saved by transformers, opened here: no bit has changed."""
    cfg = GPTConfig(vocab_size=40, context_length=16, emb_dim=24, n_heads=2, n_layers=2)
    params = random_params(cfg)
    save.save_pretrained(params, cfg, None, tmp_path / "ours")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    again, same_cfg, _ = load.load_pretrained(tmp_path / "theirs")
    assert same_cfg == cfg
    jax.tree.map(np.testing.assert_array_equal, params, again)


def learned_tokenizer():
    text = pathlib.Path(__file__).read_text("utf-8")
    ranks = bpe.learn_ranks(bpe.count_pieces([text]), 500)
    return BPETokenizer(ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)})


@pytest.mark.parametrize("kind", ["gpt2", "learned", "char"])
def test_auto_tokenizer_gives_the_same_ids_and_the_model_the_same_text(tmp_path, kind):
    text = "def generate(prompt, n):\n    return 'we are not the naïve 東京'  # ok\n"
    ours = {
        "gpt2": lambda: tokenizers.load("gpt2"),
        "learned": learned_tokenizer,
        "char": lambda: tokenizers.CharTokenizer(characters="".join(sorted({*text}))),
    }[kind]()
    cfg = GPTConfig(
        vocab_size=ours.vocab_size, context_length=32, emb_dim=8, n_heads=2, n_layers=2
    )
    params = random_params(cfg)
    save.save_pretrained(params, cfg, ours, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text
    assert len(theirs) == ours.vocab_size
    assert theirs.eos_token_id == ours.end_of_text
    assert theirs.unk_token_id == ours.end_of_text
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = ours.encode(text[:12])
    tokens = generate.generate(params, prompt, cfg, max_new_tokens=16, temperature=0)
    assert ours.decode(tokens) == theirs.decode(their_greedy(model, prompt, 16))
    _, _, same = load.load_pretrained(tmp_path)
    assert same.hash == ours.hash


def test_gpt2s_own_tokenizer_class_reads_the_pair_of_files(tmp_path):
    text = "It's the naïve 東京 of 1905,  \n\n isn't it?"
    cfg = GPTConfig(context_length=8, emb_dim=4, n_heads=1, n_layers=1)
    save.save_pretrained(random_params(cfg), cfg, tokenizers.load("gpt2"), tmp_path)
    theirs = transformers.GPT2Tokenizer(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt")
    )
    assert theirs(text)["input_ids"] == tokenizers.load("gpt2").encode(text).tolist()


def test_ctranslate2_converts_what_is_saved_here_and_writes_the_same_text(tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="it is not installed")
    tokenizer = learned_tokenizer()
    cfg = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=32,
        emb_dim=16,
        n_heads=2,
        n_layers=2,
    )
    params = random_params(cfg)
    save.save_pretrained(params, cfg, tokenizer, tmp_path / "ours")
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "ours"))
    converter.convert(str(tmp_path / "theirs"))
    prompt = tokenizer.encode("def generate(")
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    (result,) = ctranslate2.Generator(str(tmp_path / "theirs")).generate_batch(
        [tokens.convert_ids_to_tokens(prompt.tolist())],
        max_length=8,
        min_length=8,
        include_prompt_in_result=False,
    )
    ours = generate.generate(params, prompt, cfg, max_new_tokens=8, temperature=0)
    assert result.sequences_ids[0] == ours[len(prompt) :].tolist()
