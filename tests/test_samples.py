"""Samples of a model in training."""

import jax
import jax.numpy as jnp
import pytest

from jaxllm.config import GPTConfig, LoopConfig
from jaxllm.data.tokenizers import CharTokenizer
from jaxllm.inference import samples
from jaxllm.models import gpt

CFG = GPTConfig(vocab_size=3, context_length=8, emb_dim=4, n_heads=1, n_layers=1)
TOKENIZER = CharTokenizer(characters="abc")


@pytest.fixture(scope="module")
def params():
    return gpt.init_params(jax.random.key(0), CFG)


def continued(params, *prompts, tokens=12, seed=0, tokenizer=TOKENIZER):
    loop = LoopConfig(steps=1, sample_prompts=prompts, sample_tokens=tokens)
    key = jax.random.key(seed)
    return samples.continue_prompts(params, CFG, tokenizer, loop, key=key)


def test_each_prompt_is_continued_beyond_the_context(params):
    texts = continued(params, "ab", "c")
    assert [len(text) for text in texts] == [14, 13]
    assert texts[0].startswith("ab")
    assert texts[1].startswith("c")


def test_the_key_decides(params):
    assert continued(params, "a") == continued(params, "a")
    assert continued(params, "a") != continued(params, "a", seed=1)


def test_a_prompt_that_cannot_be_encoded_is_answered_by_the_reason(params):
    texts = continued(params, "x", "a", tokens=1)
    assert "'x' can't be continued: " in texts[0]
    assert len(texts[1]) == 2


def test_an_empty_prompt_is_answered_by_the_reason(params):
    assert "can't be continued" in continued(params, "")[0]


def test_a_model_of_numbers_that_are_none_is_answered_by_the_reason(params):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    assert "must be finite, got NaN" in continued(broken, "a")[0]


def test_rows_of_a_model_that_have_no_token_are_not_drawn(params):
    (text,) = continued(params, "a", tokenizer=CharTokenizer(characters="ab"))
    assert len(text) == 13
    assert set(text) <= {*"ab"}
