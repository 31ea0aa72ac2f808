"""`jaxllm generate`: a prompt in, the text that follows out."""

import dataclasses
import sys

from jaxllm.cli import arguments
from jaxllm.cli.options import TextOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TextOptions):
    """Complete a prompt; tokens are printed as they come."""

    prompt: str = "\n"
    """Text to go on from; - reads it from standard input."""


def main(argv: list[str]) -> int:
    """Print the prompt and what follows it."""
    options = arguments.parse(Options, argv, "jaxllm generate")
    from jaxllm.cli import model

    params, cfg, tokenizer = model.load(options.run, options.checkpoint)
    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    prompt = model.encode_prompt(text, tokenizer, cfg)
    print(text, end="", flush=True)
    for piece in model.stream_text(params, prompt, cfg, tokenizer, options):
        print(piece, end="", flush=True)
    print()
    return 0
