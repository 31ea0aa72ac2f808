"""`jaxllm generate`: a prompt in, the text that follows out."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal

from jaxllm.cli import arguments, reading
from jaxllm.cli.options import TextOptions
from jaxllm.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TextOptions):
    """Complete a prompt, or have an assistant answer; tokens are printed as they come.

    An assistant, a run with a template, is asked by it, and its answer is printed; any
    other model goes on from the prompt. A prompt of a file gives the same text as the
    prompt alone, and its sample number i, from 0, the text of the seed + i.
    """

    prompt: str = "\n"
    """Text to go on from, or to answer; - reads it from standard input."""
    prompts: str | None = None
    """A file with a prompt on each line, instead of one prompt."""
    n: int = 1
    """Texts for each prompt; with beams, the best ones."""
    batch_size: int = 8
    """Texts made side by side; decides the speed and the memory, never a text."""
    beams: int | None = None
    """Search for the most probable text with so many beams, instead of drawing one."""
    length_penalty: float = 1.0
    """A beam scores log-probability / length ** this: above 0 for longer texts."""
    logprobs: int | None = None
    """Print log-probabilities: each token's, and those of so many of the likeliest."""
    overflow: Literal["error", "keep_last", "slide"] = "error"
    """A prompt longer than the context is an error; keep_last reads so much of its end
    that the new tokens fit; slide reads its end, and new tokens may outgrow the context
    (which they may where the prompt fits, too). Beams stay within the context: there is
    no slide, and a prompt without room for the new tokens is an error."""
    json: bool = False
    """Print each text as one line of JSON, with its tokens and what ended it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.beams is not None and self.beams < self.n:
            raise ConfigError(f"beams must be >= n, {self.n}, got {self.beams}")
        if self.beams is not None and self.overflow == "slide":
            raise ConfigError(
                "beams stay within the context: leave beams, or overflow slide"
            )
        drawn_only = {
            "logprobs": self.logprobs is not None,
            "stop": bool(self.stop),
            "lookahead": bool(self.lookahead),
        }
        for name, given in drawn_only.items():
            if self.beams is not None and given:
                raise ConfigError(f"beams know no {name}: leave beams or {name}")
        if self.prompts is not None and self.prompt != "\n":
            raise ConfigError("give prompt or prompts, got both")


def main(argv: list[str]) -> int:
    """Print each prompt and what follows it, or the answer to it."""
    options = arguments.parse(Options, argv, "jaxllm generate")
    texts = _prompts(options)
    from jaxllm.cli import answers, model
    from jaxllm.data import instructions

    params, cfg, tokenizer = model.load_to_ask(options)
    template = model.find_template(options)
    rest = tokenizer, cfg, options.overflow
    if template is None:
        prompts, end = [model.encode_prompt(text, *rest) for text in texts], None
        shown = texts
    else:
        prompts = [model.encode_request(text, template, *rest) for text in texts]
        end = instructions.end_id(template, tokenizer)
        shown = [""] * len(texts)
    asked = params, cfg, tokenizer, options, end
    single = len(texts) * options.n == 1 and options.beams is None
    if single and not options.json:
        _print_live(shown[0], prompts[0], *asked)
        return 0
    found = _searched(prompts, *asked) if options.beams else _drawn(prompts, *asked)
    for place, sample, answer, more in found:
        if options.json:
            record = {"prompt": texts[place], "sample": sample} | more
            print(json.dumps(record | answers.record(answer, tokenizer)), flush=True)
            continue
        number = f"{place + 1}.{sample + 1}" if options.n > 1 else f"{place + 1}"
        print(f"--- {number}", *(f"{k} {v:.4f}" for k, v in more.items()))
        print(shown[place] + answer.text, flush=True)
        answers.print_logprobs(answer, tokenizer)
    return 0


def _prompts(options: Options) -> list[str]:
    if options.prompts is None:
        return [reading.read_text() if options.prompt == "-" else options.prompt]
    prompts = reading.read_lines(options.prompts)
    if not prompts:
        raise DataError(
            f"prompts must hold a prompt on each line, got none: "
            f"{options.prompts} is empty"
        )
    return prompts


def _print_live(text: str, prompt, params, cfg, tokenizer, options, end) -> None:
    from jaxllm.cli import answers

    streamed = answers.stream_answers(
        params,
        [prompt],
        cfg,
        tokenizer,
        options,
        **_drawing(options, end, [options.seed]),
    )
    print(text, end="", flush=True)
    parts = []
    for (part,) in streamed:
        print(part.text, end="", flush=True)
        parts.append(part)
    print()
    answers.print_logprobs(answers.join_answers(parts), tokenizer)


def _drawn(prompts, params, cfg, tokenizer, options, end) -> Iterator[Any]:
    """Draw n texts for each prompt, some side by side."""
    from jaxllm.cli import answers

    rows = [(prompt, j) for prompt in prompts for j in range(options.n)]
    for start in range(0, len(rows), options.batch_size):
        batch = rows[start : start + options.batch_size]
        streamed = answers.stream_answers(
            params,
            [prompt for prompt, _ in batch],
            cfg,
            tokenizer,
            options,
            **_drawing(options, end, [options.seed + j for _, j in batch]),
        )
        for i, parts in enumerate(zip(*streamed, strict=True), start):
            yield *divmod(i, options.n), answers.join_answers(parts), {}


def _drawing(options: Options, end: int | None, seeds: list[int]) -> dict[str, Any]:
    import jax

    return {
        "keys": [jax.random.key(seed) for seed in seeds],
        "end": end,
        "logprobs": options.logprobs,
        "overflow": "keep_last" if options.overflow == "keep_last" else "slide",
    }


def _searched(prompts, params, cfg, tokenizer, options, end) -> Iterator[Any]:
    """Search for the n most probable texts behind each prompt."""
    from jaxllm.cli import answers
    from jaxllm.inference import beam, text

    if options.overflow == "error":
        _require_room(prompts, cfg, options.max_new_tokens)
    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        found = beam.beam_search(
            params,
            batch,
            cfg,
            beams=options.beams or 1,
            n=options.n,
            max_new_tokens=options.max_new_tokens,
            length_penalty=options.length_penalty,
            sampling=answers.sampling_of(options, tokenizer, cfg),
            stop_tokens=answers.stop_tokens(tokenizer, end),
            overflow=options.overflow,
        )
        for place, (prompt, beams) in enumerate(zip(batch, found, strict=True), start):
            (shown,) = text.texts_of(
                [[one.piece for one in beams]],
                tokenizer,
                after=[int(prompt[-1])] * len(beams),
            )
            for sample, (answer, one) in enumerate(zip(shown, beams, strict=True)):
                yield place, sample, answers.Answer(*answer), {"score": one.score}


def _require_room(prompts, cfg, max_new_tokens: int) -> None:
    longest = max(map(len, prompts))
    if longest + max_new_tokens > cfg.context_length:
        raise DataError(
            f"a prompt and its beams must fit the context of {cfg.context_length} "
            f"tokens, got {longest} and {max_new_tokens} new ones; lower "
            "--max_new_tokens, or read the prompt's end with --overflow keep_last"
        )
