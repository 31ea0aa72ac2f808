"""A model and instructions in, its answers out, and each beside its reference."""

from collections.abc import Sequence

from jaxllm.config import GPTConfig
from jaxllm.data import instructions, layouts
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.inference import generate
from jaxllm.types import Params


def answer(
    params: Params,
    cfg: GPTConfig,
    tokenizer: Tokenizer,
    template: AnyTemplate,
    records: Sequence[Record],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Answer the instructions of records, each by the likeliest tokens.

    A prompt that fills the context is answered by nothing.
    """
    prompts = [instructions.encode_prompt(r, template, tokenizer) for r in records]
    answers = [""] * len(records)
    end = instructions.end_id(template, tokenizer)
    fitting = [i for i, ids in enumerate(prompts) if len(ids) < cfg.context_length]
    if not fitting:
        return answers
    room = cfg.context_length - max(len(prompts[i]) for i in fitting)
    whole = generate.generate(
        params,
        [prompts[i] for i in fitting],
        cfg,
        max_new_tokens=min(max_new_tokens, room),
        temperature=0,
        stop_tokens=(end,),
    )
    for i, tokens in zip(fitting, whole, strict=True):
        answers[i] = tokenizer.decode(tokens[len(prompts[i]) :])
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
