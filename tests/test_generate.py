"""Generation: the cache never changes a token, nor do padding, batching or chunks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError
from jaxllm.inference import generate as generation
from jaxllm.inference.generate import generate, stream, text_of
from jaxllm.inference.sampling import Sampling, sample
from jaxllm.models import gpt

TINY = GPTConfig(vocab_size=23, context_length=48, emb_dim=16, n_heads=2, n_layers=2)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11, 12]]

apply = jax.jit(gpt.apply, static_argnums=2)


@functools.cache
def some_params(cfg=TINY):
    # Scaled up, so that the likeliest token depends on the whole past.
    return jax.tree.map(lambda p: p * 6, gpt.init_params(jax.random.key(7), cfg))


def generate_without_cache(params, prompt, cfg, n, how, key):
    """The definition: read the whole text again for every token."""
    text = list(prompt)
    for i in range(n):
        padded = np.zeros((1, cfg.context_length), np.int32)
        padded[0, : len(text)] = text
        logits = apply(params, jnp.asarray(padded), cfg)[:, len(text) - 1]
        noise = None if key is None else jax.random.fold_in(key, i)[None]
        text.append(int(sample(logits, how, noise)[0]))
    return text


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary", "alibi"])
@pytest.mark.parametrize(
    "how", [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 5, "top_p": 0.9}]
)
def test_cached_and_padded_and_batched_equals_the_definition(kind, how):
    cfg = dataclasses.replace(TINY, positions=kind)
    params, key = some_params(cfg), jax.random.key(3)
    rows = generate(params, PROMPTS, cfg, max_new_tokens=40, key=key, **how)
    for i, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        assert row.tolist() == generate_without_cache(
            params, prompt, cfg, 40, Sampling(**how), jax.random.fold_in(key, i)
        )


def test_a_row_alone_with_its_key_equals_the_row_in_a_batch():
    keys = jax.random.split(jax.random.key(5), 3)
    rows = generate(some_params(), PROMPTS, TINY, max_new_tokens=20, key=keys)
    alone = generate(
        some_params(), PROMPTS[1:2], TINY, max_new_tokens=20, key=keys[1:2]
    )
    assert rows[1].tolist() == alone[0].tolist()


def test_recorded_noise_draws_the_same_text_as_its_keys():
    keys = jax.random.split(jax.random.key(5), 3)
    noise = jnp.stack(
        [
            jnp.stack(
                [jax.random.gumbel(jax.random.fold_in(k, i), (23,)) for k in keys]
            )
            for i in range(9)
        ]
    )
    one, other = (
        generate(some_params(), PROMPTS, TINY, max_new_tokens=9, key=randomness)
        for randomness in (keys, noise)
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_prompt_gives_one_array_that_starts_with_it():
    text = generate(some_params(), [4, 5], TINY, max_new_tokens=3, temperature=0)
    assert isinstance(text, np.ndarray)
    assert text.dtype == np.int32
    assert text[:2].tolist() == [4, 5]
    assert len(text) == 5


def test_a_stop_token_ends_its_row_only_and_is_left_out():
    free = generate(some_params(), PROMPTS, TINY, max_new_tokens=30, temperature=0)
    stop = int(free[0][len(PROMPTS[0]) + 4])
    rows = generate(
        some_params(),
        PROMPTS,
        TINY,
        max_new_tokens=30,
        temperature=0,
        stop_tokens=[stop],
    )
    for prompt, whole, cut in zip(PROMPTS, free, rows, strict=True):
        new = whole[len(prompt) :].tolist()
        expected = new[: new.index(stop)] if stop in new else new
        assert cut[len(prompt) :].tolist() == expected


def test_streamed_pieces_join_to_the_generated_text_and_the_first_is_one_token():
    how = Sampling(temperature=0)
    pieces = list(stream(some_params(), PROMPTS, TINY, max_new_tokens=37, sampling=how))
    assert [len(row) for row in pieces[0]] == [1, 1, 1]
    rows = generate(some_params(), PROMPTS, TINY, max_new_tokens=37, temperature=0)
    for i, prompt in enumerate(PROMPTS):
        joined = np.concatenate([piece[i] for piece in pieces])
        assert joined.tolist() == rows[i][len(prompt) :].tolist()


def test_a_second_call_with_other_lengths_compiles_nothing():
    def call(prompt, n):
        generate(some_params(), prompt, TINY, max_new_tokens=n, temperature=0)

    call([1, 2, 3], 12)
    before = generation._prefill._cache_size(), generation._decode._cache_size()
    call([5, 4, 3, 2, 1], 9)
    call([7], 11)
    after = generation._prefill._cache_size(), generation._decode._cache_size()
    assert before == after


def test_a_full_context_is_an_error_that_gives_the_numbers():
    with pytest.raises(DataError, match=r"45 tokens and 4 new ones exceed .* 48"):
        generate(some_params(), [1] * 45, TINY, max_new_tokens=4, temperature=0)
    generate(some_params(), [1] * 45, TINY, max_new_tokens=3, temperature=0)


def test_a_sliding_window_reads_the_half_it_keeps_as_if_it_were_the_prompt():
    prompts = [(np.arange(length) % 23).tolist() for length in (3, 47, 48, 60)]
    rows = generate(
        some_params(), prompts, TINY, max_new_tokens=70, temperature=0, overflow="slide"
    )
    for prompt, row in zip(prompts, rows, strict=True):
        text, window = list(prompt), list(prompt)
        for _ in range(70):
            if len(window) > 48:
                window = window[-24:]
            window = generate_without_cache(
                some_params(), window, TINY, 1, Sampling(temperature=0), None
            )
            text.append(window[-1])
        assert row.tolist() == text


@pytest.mark.parametrize("bad", [-1, 23])
def test_prompt_ids_outside_the_vocabulary_are_named(bad):
    with pytest.raises(DataError, match=rf"in \[0, 23\), got {bad}"):
        generate(some_params(), [1, bad], TINY, max_new_tokens=3, temperature=0)


@pytest.mark.parametrize("empty", [[], [[]], [[1], []]])
def test_an_empty_prompt_is_refused(empty):
    with pytest.raises(DataError, match="at least one token"):
        generate(some_params(), empty, TINY, max_new_tokens=3, temperature=0)


def test_drawing_without_a_key_is_refused():
    with pytest.raises(ConfigError, match="give a key"):
        generate(some_params(), [1], TINY, max_new_tokens=3)


class Bytes:
    """Each id is one byte."""

    def token_bytes(self, token):
        return bytes([token])


@pytest.mark.parametrize("text", ["plain", "naïve — 漢字 🙂", ""])
def test_streamed_text_is_whole_characters(text):
    pieces = list(text_of(text.encode(), Bytes()))
    assert "".join(pieces) == text
    assert "�" not in "".join(pieces)


def test_bytes_that_are_no_text_become_replacement_characters():
    assert "".join(text_of(b"a\xffb\xe6", Bytes())) == "a�b�"
