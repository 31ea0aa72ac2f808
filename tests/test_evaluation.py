"""Figures weigh every token alike, and compare across tokenizers."""

import functools
import math

import jax
import numpy as np
import pytest
from small_models import CFG, random_batch, random_params

from jaxllm.data import batches, text_tokenizers, tokenizers
from jaxllm.training import evaluation, losses, steps
from jaxllm.types import Batch

STEP = jax.jit(functools.partial(steps.evaluation_step, cfg=CFG))


def test_a_ragged_last_batch_weighs_by_its_tokens():
    params = random_params()
    ids = np.random.default_rng(0).integers(0, CFG.vocab_size, 8 * 5 + 1, np.int32)
    figures = evaluation.evaluate(params, batches.evaluation_batches(ids, 8, 2), STEP)
    whole = Batch(ids[:-1].reshape(5, 8), ids[1:].reshape(5, 8))
    expected, _ = losses.next_token_loss(params, whole, CFG)
    assert figures["validation_tokens"] == 40
    np.testing.assert_allclose(figures["validation_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(figures["perplexity"], np.exp(expected), rtol=1e-5)


def test_dropout_is_off():
    params, batch = random_params(), random_batch(2)
    a, b = (evaluation.evaluate(params, [batch], STEP) for _ in range(2))
    assert a == b


def test_bits_per_byte_spread_the_loss_over_the_bytes_of_counted_targets():
    batch = Batch(
        inputs=np.array([[0, 1], [2, 3]]),
        targets=np.array([[1, 2], [3, 0]]),
        mask=np.array([[True, True], [True, False]]),
    )
    figures = evaluation.evaluate(
        {},
        [batch, batch],
        lambda params, batch: (6 * math.log(2), 3),
        token_bytes=np.array([100, 1, 2, 1]),
    )
    # Twice 6 bits over twice 1 + 2 + 1 bytes.
    assert figures["bits_per_byte"] == pytest.approx(1.5)


def test_no_batches_at_all_give_a_loss_of_zero():
    figures = evaluation.evaluate({}, [], STEP, token_bytes=np.array([1]))
    assert figures["validation_loss"] == 0
    assert figures["bits_per_byte"] == 0


def test_a_loss_beyond_floating_point_has_infinite_perplexity():
    assert evaluation.perplexity(1e6) == math.inf


def test_special_tokens_have_no_bytes_and_characters_as_many_as_utf8_takes():
    tokenizer = text_tokenizers.CharTokenizer(characters="aé€")
    tokenizer = tokenizers.add_special_tokens(tokenizer, ["<|endoftext|>"])
    assert evaluation.byte_lengths(tokenizer).tolist() == [1, 2, 3, 0]


def test_byte_lengths_of_a_text_add_up_to_its_bytes():
    tokenizer = tokenizers.load("gpt2")
    text = "Every effort moves you — 努力"
    lengths = evaluation.byte_lengths(tokenizer)
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode())


def test_unigram_entropy_of_known_shares():
    ids = np.repeat(np.arange(3), [2, 1, 1])
    assert evaluation.unigram_entropy(ids) == pytest.approx(1.5 * math.log(2))
    assert evaluation.unigram_entropy(np.zeros(5, int)) == 0
