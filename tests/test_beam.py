"""Beam search against the search of all texts, and against other searches."""

import dataclasses
import functools
import itertools
import warnings

import jax
import numpy as np
import pytest
from small_models import random_params

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError, DivergenceError
from jaxllm.inference import beam, decoding
from jaxllm.inference.beam import beam_search
from jaxllm.inference.generate import complete, generate
from jaxllm.inference.settings import Sampling
from jaxllm.models import gpt
from jaxllm.pretrained import save

CFG = GPTConfig(vocab_size=5, context_length=16, emb_dim=8, n_heads=2, n_layers=2)
PROMPT = [3, 1]
STOP = 4


@functools.cache
def params():
    # Scaled up, so that the best text is not the one of the likeliest tokens.
    return jax.tree.map(lambda leaf: leaf * 5, random_params(CFG, seed=3))


apply = jax.jit(gpt.apply, static_argnums=2)


@functools.cache
def every_text(n, penalty=1.0, ban=(), min_new_tokens=0):
    """Score all texts of n tokens, or of fewer in front of a stop token."""
    texts = [
        text
        for length in range(1, n + 1)
        for text in itertools.product(range(5), repeat=length)
        if STOP not in text[:-1] and (length == n or text[-1] == STOP)
    ]
    padded = np.zeros((len(texts), len(PROMPT) + n), np.int32)
    for row, text in zip(padded, texts, strict=True):
        row[: len(PROMPT) + len(text)] = [*PROMPT, *text]
    logits = np.array(apply(params(), padded, CFG))
    logits[..., list(ban)] = -np.inf
    first = len(PROMPT) - 1
    logits[:, first : first + min_new_tokens, STOP] = -np.inf
    log_p = np.asarray(jax.nn.log_softmax(logits))
    scored = []
    for row, text in zip(log_p, texts, strict=True):
        at = np.arange(len(text))
        logprob = row[at + len(PROMPT) - 1, list(text)].sum()
        shown = text[:-1] if text[-1] == STOP else text
        scored.append((float(logprob) / len(text) ** penalty, shown))
    return sorted(scored, reverse=True)


def found(n=1, **how):
    options = {"max_new_tokens": 4, "stop_tokens": [STOP], "beams": 625} | how
    beams = beam_search(params(), PROMPT, CFG, n=n, **options)
    return [(one.score, tuple(one.piece.tokens.tolist())) for one in beams]


def is_same(ours, exact):
    assert [text for _, text in ours] == [text for _, text in exact]
    np.testing.assert_allclose(
        [score for score, _ in ours], [score for score, _ in exact], rtol=1e-4
    )


@pytest.mark.parametrize("penalty", [-0.5, 0.0, 1.0, 2.0])
def test_with_as_many_beams_as_texts_the_best_ones_are_found(penalty):
    is_same(found(7, length_penalty=penalty), every_text(4, penalty)[:7])


def test_bans_and_min_new_tokens_hold_for_beams():
    free = [text for _, text in every_text(4, 0.0)[:60]]
    assert min(map(len, free)) < 3
    assert any(0 in text for text in free)
    how = {"ban": (0,), "min_new_tokens": 3}
    exact = [one for one in every_text(4, 0.0, **how) if np.isfinite(one[0])]
    assert min(len(text) for _, text in exact[:60]) == 3
    is_same(found(60, length_penalty=0.0, sampling=Sampling(**how)), exact[:60])


@pytest.mark.parametrize("penalty", [-0.5, 0.0])
def test_prompts_side_by_side_find_what_each_finds_alone(penalty):
    prompts = [[3, 1], [2], [0, 1, 2, 3, 0, 2, 1], [1, 1, 1]]
    how = {"beams": 4, "n": 3, "max_new_tokens": 9, "stop_tokens": [STOP]}
    how |= {"length_penalty": penalty, "sampling": Sampling(frequency_penalty=0.5)}
    together = beam_search(params(), prompts, CFG, **how)
    lengths = {len(text.piece.tokens) for texts in together for text in texts}
    assert len(lengths) > 1  # some end earlier than others
    for prompt, texts in zip(prompts, together, strict=True):
        alone = beam_search(params(), prompt, CFG, **how)
        assert [t.piece.tokens.tolist() for t in texts] == [
            t.piece.tokens.tolist() for t in alone
        ]
        assert [t.piece.finish for t in texts] == [t.piece.finish for t in alone]
        np.testing.assert_allclose(
            [t.score for t in texts], [t.score for t in alone], rtol=1e-5
        )


def test_one_beam_is_greedy():
    ours = beam_search(params(), PROMPT, CFG, beams=1, max_new_tokens=9)
    greedy = generate(params(), PROMPT, CFG, max_new_tokens=9, temperature=0)
    assert ours[0].piece.tokens.tolist() == greedy[2:].tolist()


def test_a_score_is_the_sum_of_the_tokens_log_probabilities():
    (best,) = beam_search(params(), PROMPT, CFG, beams=3, max_new_tokens=8)
    piece = complete(
        params(),
        PROMPT,
        CFG,
        max_new_tokens=8,
        logprobs=0,
        temperature=0,
        force=best.piece.tokens.tolist(),
    )
    assert piece.tokens.tolist() == best.piece.tokens.tolist()
    assert best.score == pytest.approx(float(piece.logprobs.chosen.mean()), rel=1e-4)


def test_another_length_penalty_compiles_nothing():
    how = {"beams": 3, "stop_tokens": []}
    found(**how)
    before = decoding.compiled(beam._search)._cache_size()
    found(length_penalty=0.5, max_new_tokens=3, **how)
    assert decoding.compiled(beam._search)._cache_size() == before


def test_beams_repeat_less_where_that_is_penalised():
    how = Sampling(frequency_penalty=20.0, repetition_penalty=2.0)
    ((_, text),) = found(beams=4, max_new_tokens=3, stop_tokens=[], sampling=how)
    assert len(set(text)) == 3


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_beams_are_those_of_transformers(tmp_path, penalty):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    cfg = GPTConfig(vocab_size=40, context_length=32, emb_dim=16, n_heads=2, n_layers=2)
    ours = jax.tree.map(lambda leaf: leaf * 3, random_params(cfg, seed=1))
    save.save_pretrained(ours, cfg, None, tmp_path)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    for prompt in ([3, 1], [20, 9, 30, 2]):
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            num_beams=4,
            num_return_sequences=4,
            early_stopping="never",
            length_penalty=penalty,
            eos_token_id=7,
            pad_token_id=7,
            return_dict_in_generate=True,
            output_scores=True,
        )
        beams = beam_search(
            ours,
            prompt,
            cfg,
            beams=4,
            n=4,
            max_new_tokens=12,
            length_penalty=penalty,
            stop_tokens=[7],
        )
        for i, one in enumerate(beams):
            text = theirs.sequences[i, len(prompt) :].tolist()
            text = text[: text.index(7)] if 7 in text else text
            assert one.piece.tokens.tolist() == text
            expected = float(theirs.sequences_scores[i])
            assert one.score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"n": 3, "beams": 2}, ConfigError, r"n must be in 1..2, the beams, got 3"),
        ({"sampling": Sampling(force=[1])}, ConfigError, r"can't be forced"),
        ({"max_new_tokens": 15}, DataError, "exceed the context of 16"),
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens must be >= 1, got 0"),
    ],
)
def test_what_beams_cannot_do_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        found(**wrong)


def test_beams_stay_in_one_window():
    with pytest.raises(ConfigError, match=r'overflow must be .* got "slide"'):
        beam_search(params(), PROMPT, CFG, overflow="slide")


def test_a_logit_that_is_no_number_is_an_error():
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params())
    with pytest.raises(DivergenceError, match="logits must be finite, got NaN"):
        beam_search(broken, [PROMPT, [2]], CFG, beams=3, max_new_tokens=8)


def test_a_beam_that_comes_to_a_logit_that_is_no_number_is_an_error():
    """Though others have ended before."""
    ours = dict(params())
    (best, *_) = found(beams=3, max_new_tokens=3, stop_tokens=[])
    head = ours["token_embedding"]["embedding"]
    ours["head"] = {"embedding": head}
    ours["token_embedding"] = {"embedding": head.at[best[1][1]].set(np.nan)}
    cfg = dataclasses.replace(CFG, tied_head=False)
    how = {"beams": 3, "max_new_tokens": 8, "stop_tokens": [STOP]}
    with pytest.raises(DivergenceError, match="logits must be finite, got NaN"):
        beam_search(ours, PROMPT, cfg, **how)
