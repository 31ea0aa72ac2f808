"""A model in training in, what it has to say out."""

import jax

from jaxllm.config import GPTConfig, LoopConfig
from jaxllm.data import tokenizers
from jaxllm.errors import TokenizerError
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

    A run does not end for a prompt that its tokenizer can't encode: such a prompt is
    answered by what is wrong with it.
    """
    end = tokenizer.end_of_text
    texts = []
    for i, prompt in enumerate(loop.sample_prompts):
        try:
            ids = tokenizer.encode(prompt, allow_special=True)
        except TokenizerError as error:
            texts.append(f"{prompt!r} can't be continued: {error}")
            continue
        tokens = generate.generate(
            params,
            ids,
            cfg,
            max_new_tokens=loop.sample_tokens,
            temperature=loop.sample_temperature,
            stop_tokens=() if end is None else (end,),
            overflow="slide",
            key=jax.random.fold_in(key, i),
        )
        texts.append(tokenizer.decode(tokens))
    return texts
