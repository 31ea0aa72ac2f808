"""A model in training in, what it has to say out."""

import jax

from jaxllm.config import GPTConfig, LoopConfig
from jaxllm.data import tokenizers
from jaxllm.errors import JaxllmError
from jaxllm.inference import generate
from jaxllm.types import Array, Params


def continue_prompts(
    params: Params,
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
    loop: LoopConfig,
    *,
    key: Array,
) -> list[str]:
    """Continue each of loop.sample_prompts: one text each, prompt included.

    A run does not end for a prompt that can't be encoded or continued: such a prompt is
    answered by what is wrong with it.
    """
    keys = jax.random.split(key, len(loop.sample_prompts))
    texts = []
    for prompt, key in zip(loop.sample_prompts, keys, strict=True):
        try:
            texts.append(_continue(prompt, params, cfg, tokenizer, loop, key))
        except JaxllmError as error:
            texts.append(f"{prompt!r} can't be continued: {error}")
    return texts


def _continue(
    prompt: str,
    params: Params,
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
    loop: LoopConfig,
    key: Array,
) -> str:
    end = tokenizer.end_of_text
    (tokens,) = generate.generate(
        params,
        [tokenizer.encode(prompt, allow_special=True)],
        cfg,
        max_new_tokens=loop.sample_tokens,
        temperature=loop.sample_temperature,
        ban=tokenizers.ids_without_token(tokenizer, cfg.vocab_size),
        stop_tokens=() if end is None else (end,),
        overflow="slide",
        key=key,
    )
    return tokenizer.decode(tokens)
