"""Generation: the cache never changes a token, nor do padding, batching or chunks."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import quick

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError, DivergenceError
from jaxllm.inference import decoding, speculation, weights
from jaxllm.inference.generate import generate, stream, stream_pieces
from jaxllm.inference.sampling import sample
from jaxllm.inference.settings import Sampling
from jaxllm.models import cache, gpt

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
    "how", quick([{"temperature": 0.9, "top_k": 5, "top_p": 0.9}, {"temperature": 0.0}])
)
def test_cached_and_padded_and_batched_equals_the_definition(kind, how):
    cfg = dataclasses.replace(TINY, positions=kind)
    params, key = some_params(cfg), jax.random.key(3)
    rows = generate(params, PROMPTS, cfg, max_new_tokens=40, key=key, **how)
    for i, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        assert row.tolist() == generate_without_cache(
            params, prompt, cfg, 40, Sampling(**how), jax.random.fold_in(key, i)
        )


@pytest.mark.parametrize(
    ("n", "changes"),
    quick([(46, {}), (17, {}), (70, {}), (40, {"attention_window": 6})], 3),
)
def test_loops_of_known_length_give_the_same_text(monkeypatch, n, changes):
    """As on an accelerator: more may be drawn than is asked for, and is dropped."""
    cfg = dataclasses.replace(TINY, **changes)
    params = some_params(cfg)
    how = {"max_new_tokens": n, "temperature": 0, "overflow": "slide"}
    expected = generate(params, [[1, 2], [3]], cfg, **how)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(decoding, "_SLOTS", 16)
    rows = generate(params, [[1, 2], [3]], cfg, **how)
    for a, b in zip(rows, expected, strict=True):
        assert a.tolist() == b.tolist()


def some_prompts(longest):
    prompt = st.lists(st.integers(0, 22), min_size=1, max_size=longest)
    batches = [st.lists(prompt, min_size=n, max_size=n) for n in (1, 3, 8)]
    return st.one_of(batches)


@settings(max_examples=8, deadline=None)
@given(prompts=some_prompts(16), n=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_row_alone_with_its_key_equals_the_row_in_a_batch(prompts, n, seed):
    how = {"max_new_tokens": n, "temperature": 0.9, "top_k": 5, "top_p": 0.9}
    keys = jax.random.split(jax.random.key(seed), len(prompts))
    rows = generate(some_params(), prompts, TINY, key=keys, **how)
    for i in {0, len(prompts) // 2, len(prompts) - 1}:
        (alone,) = generate(
            some_params(), prompts[i : i + 1], TINY, key=keys[i : i + 1], **how
        )
        assert rows[i].tolist() == alone.tolist()


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(
    prompts=some_prompts(60),
    kind=st.sampled_from(["learned", "sinusoidal", "rotary", "alibi"]),
    window=st.sampled_from([None, 6]),
    piece=st.sampled_from([16, 32, 256]),
    n=st.integers(1, 70),
)
def test_text_is_the_definitions_in_any_shape(prompts, kind, window, piece, n):
    """Cached, padded, batched, in pieces, slid: all at once."""
    cfg = dataclasses.replace(TINY, positions=kind, attention_window=window)
    params = some_params(cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PIECE", piece)
        patch.setattr(decoding, "_SLOTS", 16)
        rows = generate(
            params, prompts, cfg, max_new_tokens=n, temperature=0, overflow="slide"
        )
    for prompt, row in zip(prompts, rows, strict=True):
        assert row.tolist() == slid_without_cache(params, prompt, cfg, n)


def slid_without_cache(params, prompt, cfg, n):
    """The definition of a window that slides."""
    text, window = list(prompt), list(prompt)
    for _ in range(n):
        if len(window) > cfg.context_length:
            window = window[-(cfg.context_length // 2) :]
        window = generate_without_cache(
            params, window, cfg, 1, Sampling(temperature=0), None
        )
        text.append(window[-1])
    return text


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


def compiled_programs():
    """Count the programs of each of the functions that generation compiles."""
    names = "_read _decode _first"
    compiled = [decoding.compiled(getattr(decoding, name)) for name in names.split()]
    compiled.append(decoding.compiled(cache.grow_cache))
    return [
        function._cache_size()
        for function in [*compiled, weights._pack_layer, weights._pack]
    ]


def test_a_second_call_with_other_lengths_compiles_nothing():
    def call(prompt, n):
        generate(some_params(), prompt, TINY, max_new_tokens=n, temperature=0)

    call([1, 2, 3], 12)
    before = compiled_programs()
    call([5, 4, 3, 2, 1], 9)
    call([7], 11)
    assert compiled_programs() == before


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
        assert row.tolist() == slid_without_cache(some_params(), prompt, TINY, 70)


def test_a_row_that_has_ended_is_not_read_again(monkeypatch):
    """Beside a row of 48 tokens, a full context, every token would else slide."""
    prompts = [(np.arange(48) * 7 % 23).tolist(), [5]]
    how = {"max_new_tokens": 40, "overflow": "slide"}
    likeliest = generate(some_params(), prompts[0], TINY, temperature=0, **how)[48]
    how["stop_tokens"] = [int(likeliest)]
    greedy = [Sampling(temperature=0), Sampling(temperature=0, ban=how["stop_tokens"])]
    alone = generate(some_params(), prompts[1:], TINY, sampling=greedy[1], **how)
    read, prefill = [], decoding.prefill

    def counted(params, windows, cfg):
        read.append([len(window) for window in windows])
        return prefill(params, windows, cfg)

    monkeypatch.setattr(decoding, "prefill", counted)
    rows = generate(some_params(), prompts, TINY, sampling=greedy, **how)
    assert read == [[48, 1], [1, 2]]
    assert rows[0].tolist() == prompts[0]
    assert rows[1].tolist() == alone[0].tolist()


def test_an_overflow_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="error, keep_last, slide, got 'keep-last'"):
        generate(some_params(), [1], TINY, temperature=0, overflow="keep-last")


@pytest.mark.parametrize("how", [{}, {"lookahead": 2}, {"force": [1, 2, 3]}])
def test_a_logit_that_is_no_number_is_an_error(how):
    params = some_params()
    table = params["token_embedding"]["embedding"]
    broken = params | {"token_embedding": {"embedding": table.at[5].set(np.nan)}}
    with pytest.raises(DivergenceError, match="logits must be finite, got NaN"):
        generate(broken, [[1], [2]], TINY, max_new_tokens=9, temperature=0, **how)


def test_streams_and_completions_have_the_defaults_of_generate():
    of_generate, of_pieces = (
        inspect.signature(function).parameters for function in (generate, stream_pieces)
    )
    for name in of_generate.keys() - {"prompts"}:
        assert of_generate[name].default == of_pieces[name].default


def test_options_are_checked_before_the_first_token_is_asked_for():
    with pytest.raises(ConfigError, match="give a key"):
        stream(some_params(), [[1]], TINY, max_new_tokens=3)


def test_guessing_ahead_obeys_bans():
    how = {"max_new_tokens": 20, "temperature": 0}
    params = gpt.init_params(jax.random.key(2), TINY)
    free = generate(params, [1, 2, 1, 2], TINY, **how)
    how["ban"] = [int(free[-1])]
    plain = generate(params, [1, 2, 1, 2], TINY, **how)
    assert plain.tolist() != free.tolist()
    assert (
        plain.tolist()
        == generate(params, [1, 2, 1, 2], TINY, lookahead=4, **how).tolist()
    )


@pytest.mark.parametrize("bad", [-1, 23])
def test_an_id_in_the_part_that_is_forgotten_is_checked_too(bad):
    how = {"max_new_tokens": 3, "temperature": 0, "overflow": "slide"}
    with pytest.raises(DataError, match=rf"in \[0, 23\), got {bad}"):
        generate(some_params(), [bad] + [1] * 60, TINY, **how)


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


@pytest.mark.parametrize("window", quick([6, None]))
def test_prompts_read_in_pieces_give_the_same_text(window, monkeypatch):
    cfg = dataclasses.replace(TINY, positions="rotary", attention_window=window)
    prompts = [(np.arange(n) * 5 % 23).tolist() for n in (3, 17, 40)]
    rows = generate(some_params(cfg), prompts, cfg, max_new_tokens=8, temperature=0)
    monkeypatch.setattr(decoding, "PIECE", 16)
    monkeypatch.setattr(decoding, "_SLOTS", 16)
    assert len(decoding.piece_widths(40)) == 3
    pieces = generate(some_params(cfg), prompts, cfg, max_new_tokens=8, temperature=0)
    for prompt, whole, parts in zip(prompts, rows, pieces, strict=True):
        assert whole.tolist() == parts.tolist()
        assert whole.tolist() == generate_without_cache(
            some_params(cfg), prompt, cfg, 8, Sampling(temperature=0), None
        )


def test_a_piece_in_which_no_row_ends_takes_less_work():
    params = some_params()
    filled, last = cache.init_cache(TINY, 1, 32), jnp.zeros((1, TINY.emb_dim))
    tokens, lengths = np.zeros((1, 16), np.int32), np.array([30], np.int32)

    def flops(ends):
        read = decoding.compiled(decoding._read)
        lowered = read.lower(params, filled, last, tokens, lengths, ends, TINY)
        return lowered.compile().cost_analysis()["flops"]

    # All of a block but its keys and values: 10 of 12 D^2 per token, of two blocks.
    assert flops(ends=False) < 0.65 * flops(ends=True)


@pytest.mark.parametrize(
    ("lookahead", "n_rows"),
    [(4, 1), (1, 3), pytest.param(4, 8, marks=pytest.mark.long)],
)
def test_guessing_ahead_gives_the_text_of_plain_greedy_decoding(lookahead, n_rows):
    prompts = [[1, 2, 3] * 4, [8], [9, 10, 11, 9, 10], *([i] * i for i in range(1, 6))]
    prompts = prompts[:n_rows]
    # Unscaled parameters repeat themselves, so guesses are right; scaled ones do not.
    for params in (some_params(), gpt.init_params(jax.random.key(2), TINY)):
        plain, guessed = (
            generate(
                params,
                prompts,
                TINY,
                max_new_tokens=30,
                temperature=0,
                lookahead=n_guesses,
            )
            for n_guesses in (0, lookahead)
        )
        for a, b in zip(plain, guessed, strict=True):
            assert a.tolist() == b.tolist()


def test_right_guesses_save_steps(monkeypatch):
    steps, speculate = [], decoding.compiled(speculation._speculate)

    def counted(params, state, n_steps, *rest):
        steps.append(n_steps)
        return speculate(params, state, n_steps, *rest)

    compiled = decoding.compiled
    monkeypatch.setattr(
        decoding,
        "compiled",
        lambda f: counted if f is speculation._speculate else compiled(f),
    )
    params = gpt.init_params(jax.random.key(2), TINY)
    generate(params, [3, 3, 3, 3], TINY, max_new_tokens=40, temperature=0, lookahead=4)
    assert sum(steps) < 30


def test_guessing_ahead_is_refused_where_it_could_change_the_text():
    with pytest.raises(ConfigError, match=r"temperature=0, got .*temperature"):
        generate(
            some_params(),
            [1],
            TINY,
            max_new_tokens=5,
            lookahead=2,
            key=jax.random.key(0),
        )


def test_keeping_the_last_part_of_a_prompt_equals_giving_that_part():
    prompt = (np.arange(60) * 7 % 23).tolist()
    how = {"max_new_tokens": 10, "temperature": 0}
    row = generate(some_params(), prompt, TINY, overflow="keep_last", **how)
    part = generate(some_params(), prompt[-38:], TINY, **how)
    assert row[:60].tolist() == prompt
    assert row[60:].tolist() == part[38:].tolist()
    short = generate(some_params(), prompt[:5], TINY, overflow="keep_last", **how)
    assert short.tolist() == generate(some_params(), prompt[:5], TINY, **how).tolist()


@pytest.mark.parametrize("kind", quick(["int8", "bfloat16"]))
def test_packed_weights_give_the_text_of_the_rounded_parameters(kind):
    rounded = weights.rounded_params(some_params(), kind)
    packed = weights.decoding_params(some_params(), TINY, kind)
    for prompts in (PROMPTS, PROMPTS[0]):
        pair = (
            generate(params, prompts, TINY, max_new_tokens=20, temperature=0)
            for params in (rounded, packed)
        )
        for one, other in zip(*pair, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "bad", [[1.9, 2.0], [2**32 + 1], [float("nan")], "hello", [[[1, 2]]]]
)
def test_ids_that_are_no_ids_are_refused_and_not_rounded(bad):
    with pytest.raises(DataError, match="whole numbers of 32 bits"):
        generate(some_params(), bad, TINY, max_new_tokens=1, temperature=0)


def test_a_key_of_the_old_form_is_a_key():
    old, new = (
        generate(some_params(), PROMPTS, TINY, max_new_tokens=5, key=make(3))
        for make in (jax.random.PRNGKey, jax.random.key)
    )
    assert [row.tolist() for row in old] == [row.tolist() for row in new]


def test_keys_and_noise_that_do_not_fit_the_rows_are_named():
    def draw(key):
        generate(some_params(), PROMPTS, TINY, max_new_tokens=5, key=key)

    with pytest.raises(ConfigError, match=r"one for each of 3 prompts, got \(2,\)"):
        draw(jax.random.split(jax.random.key(0)))
    for shape in ((4, 3, 23), (5, 3, 1), (5, 3, 7)):
        got = re.escape(str(shape))
        with pytest.raises(ConfigError, match=rf"\(5 or more, 3, 23\), .* got {got}"):
            draw(jnp.zeros(shape))
    with pytest.raises(
        ConfigError, match=r"must be like jax.random.key\(0\), .* got 0"
    ):
        draw(0)


def test_a_stream_takes_its_options_by_name():
    how = {"max_new_tokens": 5, "temperature": 0}
    pieces = stream(some_params(), PROMPTS, TINY, **how)
    joined = [np.concatenate(row) for row in zip(*pieces, strict=True)]
    rows = generate(some_params(), PROMPTS, TINY, **how)
    for prompt, new, row in zip(PROMPTS, joined, rows, strict=True):
        assert [*prompt, *new] == row.tolist()
