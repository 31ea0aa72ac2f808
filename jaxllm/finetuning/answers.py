"""A model and instructions in, its answers out, and each beside its reference."""

from collections.abc import Sequence

from jaxllm.config import GPTConfig
from jaxllm.data import instructions, layouts, tokenizers
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.inference import generate
from jaxllm.types import Params


def answer(
    params: Params,
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
    template: AnyTemplate,
    records: Sequence[Record],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Answer the instructions of records, each by the likeliest tokens.

    An answer has the room that its own prompt leaves in the context, whatever is beside
    it; a prompt that fills the context is answered by nothing.
    """
    prompts = [instructions.encode_prompt(r, template, tokenizer) for r in records]
    answers = [""] * len(records)
    end = instructions.end_id(template, tokenizer)
    C = cfg.context_length
    fitting = [i for i, ids in enumerate(prompts) if len(ids) < C]
    if not fitting:
        return answers
    room = C - min(len(prompts[i]) for i in fitting)
    whole = generate.generate(
        params,
        [prompts[i] for i in fitting],
        cfg,
        max_new_tokens=min(max_new_tokens, room),
        temperature=0,
        ban=tokenizers.ids_without_token(tokenizer, cfg.vocab_size),
        stop_tokens=(end,),
        # The others go on where the row of a long prompt has filled its context.
        overflow="slide",
    )
    for i, tokens in zip(fitting, whole, strict=True):
        answers[i] = tokenizer.decode(tokens[len(prompts[i]) : C])
    return answers


def show_answers(
    records: Sequence[Record], answers: Sequence[str], template: AnyTemplate
) -> list[str]:
    r"""Write answers behind their prompts, each with its reference beneath.

    >>> from jaxllm.data.templates import PHI_3
    >>> record = {"instruction": "Add 1 and 1.", "input": "", "output": "2"}
    >>> show_answers([record], ["3"], PHI_3)
    ['<|user|>\nAdd 1 and 1.\n<|assistant|>:\n3\n\nReference:\n2']
    """
    return [
        f"{layouts.write_prompt(record, template)}{answer}\n\n"
        f"Reference:\n{layouts.write_response(record, template)}"
        for record, answer in zip(records, answers, strict=True)
    ]
