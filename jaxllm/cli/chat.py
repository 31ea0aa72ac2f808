"""`jaxllm chat`: a conversation in the terminal, continued as text."""

import dataclasses
import itertools

from jaxllm.cli import arguments
from jaxllm.cli.options import TextOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TextOptions):
    """Talk with a model: it goes on from your line, up to the end of its own.

    Ctrl-D ends the conversation. The model sees as much of it as its context holds.
    """


def main(argv: list[str]) -> int:
    """Read lines and stream replies until the input ends."""
    options = arguments.parse(Options, argv, "jaxllm chat")
    from jaxllm.cli import model

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    said = ""
    for turn in itertools.count():
        try:
            said += input("> ") + "\n"
        except EOFError:
            print()
            return 0
        ids = tokenizer.encode(said, allow_special=True)[-cfg.context_length :]
        for piece in model.stream_text(params, ids, cfg, tokenizer, options, turn):
            line, newline, _ = piece.partition("\n")
            print(line, end="", flush=True)
            said += line
            if newline:
                break
        print()
        said += "\n"
    return 0
