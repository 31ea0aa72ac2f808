"""`jaxllm chat`: a conversation in the terminal, in turns or continued as text."""

import contextlib
import dataclasses
import importlib
import itertools
import sys
from collections.abc import Iterator

from jaxllm.cli import arguments
from jaxllm.cli.options import TextOptions
from jaxllm.errors import DataError, TokenizerError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TextOptions):
    """Talk with a model. Ctrl-D ends the conversation, Ctrl-C a reply that comes.

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

    loaded = model.load_to_ask(options)
    template = model.find_template(options)
    if template is None:
        if options.system is not None:
            raise DataError("a system prompt needs a template")
        _continue(options, *loaded)
    else:
        _converse(options, template, *loaded)
    return 0


def _lines() -> Iterator[str]:
    with contextlib.suppress(ImportError):  # There is none on Windows.
        importlib.import_module("readline")  # So lines can be edited and called back.
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _printed(reply: Iterator[str]) -> str:
    """Print a reply as it comes, and give what came of it: Ctrl-C ends it."""
    text = ""
    with contextlib.suppress(KeyboardInterrupt):
        for part in reply:
            text += part
            print(part, end="", flush=True)
    print()
    return text


def _continue(options: Options, params, cfg, tokenizer) -> None:
    from jaxllm.cli import answers, model

    said = ""
    for turn, line in enumerate(_lines()):
        asked = f"{said}{line}\n"
        try:
            ids = model.encode_prompt(asked, tokenizer, cfg, "slide")
        except (DataError, TokenizerError) as error:
            print(error, file=sys.stderr)
            continue
        reply = answers.stream_reply(
            params,
            ids[-cfg.context_length :],
            cfg,
            tokenizer,
            options,
            turn=turn,
            stops=["\n"],
        )
        said = f"{asked}{_printed(reply)}\n"


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
        reply = answers.stream_reply(
            params,
            ids,
            cfg,
            tokenizer,
            dataclasses.replace(options, max_new_tokens=new),
            turn=next(turn),
            end=end,
        )
        said = [*asked, message(templates.ASSISTANT, _printed(reply))]
