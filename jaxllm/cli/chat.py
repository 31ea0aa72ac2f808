"""`jaxllm chat`: a conversation in the terminal, in turns or continued as text."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator

from jaxllm.cli import arguments
from jaxllm.cli.options import TextOptions
from jaxllm.errors import DataError, TokenizerError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TextOptions):
    """Talk with a model. Ctrl-D ends the conversation.

    An assistant, a run with a template, answers you; when its context is full, it
    forgets the oldest turns. Any other model goes on from your line, up to the end of
    its own, and sees as much of what was said as its context holds.
    """

    system: str | None = None
    """Tells an assistant what it is; it never forgets this."""


def main(argv: list[str]) -> int:
    """Read lines and stream replies until the input ends."""
    options = arguments.parse(Options, argv, "jaxllm chat")
    from jaxllm.cli import model
    from jaxllm.inference import weights
    from jaxllm.pretrained import load

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    bits = options.weights or load.stored_weights(options.run)
    params = weights.decoding_params(params, cfg, bits, donate=True)
    loaded = params, cfg, tokenizer
    template = model.find_template(options)
    if template is None:
        if options.system is not None:
            raise DataError("a system prompt needs a template")
        _continue(options, *loaded)
    else:
        _converse(options, template, *loaded)
    return 0


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _continue(options: Options, params, cfg, tokenizer) -> None:
    from jaxllm.cli import answers

    said = ""
    for turn, line in enumerate(_lines()):
        asked = f"{said}{line}\n"
        try:
            ids = tokenizer.encode(asked, allow_special=True)[-cfg.context_length :]
        except TokenizerError as error:
            print(error, file=sys.stderr)
            continue
        said = asked
        reply = answers.stream_reply(
            params, ids, cfg, tokenizer, options, turn=turn, stops=["\n"]
        )
        for text in reply:
            print(text, end="", flush=True)
            said += text
        print()
        said += "\n"


def _converse(options: Options, template, params, cfg, tokenizer) -> None:
    from jaxllm.cli import answers
    from jaxllm.data import conversations, instructions, templates

    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    room = conversations.split_context(cfg.context_length, options.max_new_tokens)
    end = instructions.end_id(template, tokenizer)
    said = []
    if options.system is not None:
        said = [message(templates.SYSTEM, options.system)]
    turn = itertools.count()
    for line in filter(str.strip, _lines()):
        asked = [*said, message(templates.USER, line)]
        try:
            asked, ids = conversations.remember(asked, template, tokenizer, room)
        except (DataError, TokenizerError) as error:
            print(error, file=sys.stderr)
            continue
        left = cfg.context_length - len(ids)
        new = min(options.max_new_tokens, left)
        answer = ""
        for piece in answers.stream_reply(
            params,
            ids,
            cfg,
            tokenizer,
            dataclasses.replace(options, max_new_tokens=new),
            turn=next(turn),
            end=end,
        ):
            print(piece, end="", flush=True)
            answer += piece
        print()
        said = [*asked, message(templates.ASSISTANT, answer)]
