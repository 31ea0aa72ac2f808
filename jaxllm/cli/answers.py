"""Options and prompts in, texts out: what `generate` and `chat` share."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cli import console
from jaxllm.cli.options import TextOptions
from jaxllm.config import GPTConfig
from jaxllm.data import tokenizers
from jaxllm.errors import ConfigError, TokenizerError
from jaxllm.inference import generate, text
from jaxllm.inference.generate import Overflow, Piece
from jaxllm.inference.settings import Sampling
from jaxllm.types import Params


class Answer(NamedTuple):
    """What a model said, or the next part of it."""

    text: str
    piece: Piece


def stream_answers(
    params: Params,
    prompts: Sequence[np.ndarray],
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
    options: TextOptions,
    *,
    keys: Sequence[Any],
    end: int | None = None,
    stops: Sequence[str] = (),
    logprobs: int | None = None,
    overflow: Overflow = "slide",
) -> Iterator[list[Answer]]:
    """Check the options, then yield what follows each prompt as it comes, up to a stop.

    Args:
        keys: A random key for each prompt.
        end: The token that ends an answer, where it is not the end of a text.
        stops: Stop strings beside those of the options.
    """
    pieces = generate.stream_pieces(
        params,
        prompts,
        cfg,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling_of(options, tokenizer, cfg),
        logprobs=logprobs,
        stop_tokens=stop_tokens(tokenizer, end),
        overflow=overflow,
        lookahead=options.lookahead,
        key=jnp.stack(list(keys)),
    )
    rows = text.texts_of(
        pieces,
        tokenizer,
        stops=(*options.stop, *stops),
        min_new_tokens=options.min_new_tokens,
        after=[int(prompt[-1]) for prompt in prompts],
    )
    return ([Answer(*answer) for answer in row] for row in rows)


def stream_reply(
    params: Params,
    prompt: np.ndarray,
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
    options: TextOptions,
    *,
    turn: int = 0,
    end: int | None = None,
    stops: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text that follows one prompt; more arguments as `stream_answers` has.

    Args:
        turn: Which text of a conversation this is; each draws differently.
    """
    key = jax.random.fold_in(jax.random.key(options.seed), turn)
    for (answer,) in stream_answers(
        params, [prompt], cfg, tokenizer, options, keys=[key], end=end, stops=stops
    ):
        yield answer.text


def join_answers(parts: Sequence[Answer]) -> Answer:
    """Join the parts of one answer."""
    texts, pieces = zip(*parts, strict=True)
    return Answer("".join(texts), generate.join_pieces(pieces))


def stop_tokens(
    tokenizer: tokenizers.Tokenizer, end: int | None = None
) -> tuple[int, ...]:
    """Tell which tokens end a text: the one given, or the tokenizer's."""
    end = tokenizer.end_of_text if end is None else end
    return () if end is None else (end,)


def sampling_of(
    options: TextOptions, tokenizer: tokenizers.Tokenizer, cfg: GPTConfig
) -> Sampling:
    """Read how tokens are to be chosen; ids without a token are never chosen."""
    return Sampling(
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        bias=dict(_bias(word, tokenizer) for word in options.bias),
        ban=[
            *(_token(word, tokenizer, "ban") for word in options.ban),
            *tokenizers.ids_without_token(tokenizer, cfg.vocab_size),
        ],
        min_new_tokens=options.min_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
    )


def record(answer: Answer, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Write an answer as what JSON can hold."""
    piece = answer.piece
    record = {"text": answer.text, "tokens": piece.tokens.tolist()}
    record["finish"] = piece.finish
    if piece.logprobs is not None:
        record["logprobs"] = [
            {"token": token, "text": text, "logprob": logprob, "top": top}
            for token, text, logprob, top in _scored(piece, tokenizer)
        ]
    return record


def print_logprobs(answer: Answer, tokenizer: tokenizers.Tokenizer) -> None:
    """Print a row for each token, if its log-probability was asked for."""
    if answer.piece.logprobs is None:
        return
    rows = [
        (repr(text), f"{logprob:.4f}", *(f"{other!r} {p:.4f}" for _, other, p in top))
        for _, text, logprob, top in _scored(answer.piece, tokenizer)
    ]
    n = answer.piece.logprobs.top.shape[1]
    console.table(("token", "logprob", *(f"likeliest {i + 1}" for i in range(n))), rows)


def _bias(word: str, tokenizer: tokenizers.Tokenizer) -> tuple[int, float]:
    token, _, number = word.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        raise ConfigError(f"bias must be like 198=-2.5, got {word!r}") from None
    return _token(token, tokenizer, "bias"), bias


def _token(word: str, tokenizer: tokenizers.Tokenizer, name: str) -> int:
    """Read the id of a token, or the text of exactly one."""
    if word.isdecimal():
        return int(word)
    ids = tokenizer.encode(word, allow_special=True)
    if len(ids) != 1:
        raise ConfigError(
            f"{name} must name tokens by their ids or the text of one, got {word!r}, "
            f"which is {len(ids)}: {' '.join(map(str, ids))}"
        )
    return int(ids[0])


def _scored(piece, tokenizer) -> Iterator[tuple[int, str, float, list]]:
    chosen, tops, top_tokens = piece.logprobs
    for token, logprob, top, ids in zip(
        piece.tokens.tolist(), chosen, tops, top_tokens, strict=True
    ):
        likeliest = [
            [id, _shown(id, tokenizer), _rounded(value)]
            for id, value in zip(ids.tolist(), top, strict=True)
        ]
        yield token, _shown(token, tokenizer), _rounded(logprob), likeliest


def _shown(token: int, tokenizer) -> str:
    try:
        return tokenizer.decode([token])
    except TokenizerError:  # An id without a token is never chosen, but may be likely.
        return ""


def _rounded(logprob) -> float:
    return round(float(logprob), 6)
