"""`jaxllm answer`: records in, each with a model's answer to it out, for a judge."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jaxllm.cli import arguments, console
from jaxllm.cli.options import TextOptions
from jaxllm.data import disk, example_files, layouts, records
from jaxllm.data.records import Record
from jaxllm.data.templates import AnyTemplate
from jaxllm.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TextOptions):
    """Answer records of instructions, and write each answer beside its reference.

    `jaxllm judge` reads what is written. An answer is what `jaxllm generate` says with
    the same options, whatever is beside it.
    """

    records: str | None = None
    """Records that fit the template, references included: the name of known examples,
    or a .json, .jsonl, .ndjson, .parquet, .csv or .tsv file; null takes those that the
    run holds out for its test."""
    out: str = "answers.jsonl"
    """JSON lines to write, where no file is yet: each record with its response."""
    batch_size: int = 8
    """Records that are answered side by side; decides the speed and the memory, never
    an answer."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1, got {self.batch_size}")


def main(argv: list[str]) -> int:
    """Answer the records, and write each answer down as it comes."""
    options = arguments.parse(Options, argv, "jaxllm answer")
    out = options.out
    if pathlib.Path(out).exists():
        raise ConfigError(f"out must not be there yet, {out} is; name another file")
    from jaxllm.cli import model
    from jaxllm.data import instructions

    template = model.find_template(options)
    if template is None:
        raise ConfigError("answers need a template: give --template, and leave --raw")
    params, cfg, tokenizer = model.load_to_ask(options)
    found = find_records(options)
    shown = [
        show_record(record, template, number) for number, record in enumerate(found, 1)
    ]
    prompts = [instructions.encode_prompt(r, template, tokenizer) for r in found]
    fitting = [i for i, ids in enumerate(prompts) if len(ids) <= cfg.context_length]
    bound = f"their prompts are longer than {cfg.context_length} tokens, the context"
    if not fitting:
        raise DataError(f"none of {len(found):,} records can be answered: {bound}")
    if left_out := len(found) - len(fitting):
        print(
            f"warning: {left_out:,} of {len(found):,} records are left out: {bound}",
            file=sys.stderr,
        )
    with disk.explain_refusal("write", out):
        pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    end = instructions.end_id(template, tokenizer)
    asked = [prompts[i] for i in fitting], params, cfg, tokenizer, options, end
    with console.progress("answering") as report:
        said = console.counted(_answers(*asked), report, len(fitting))
        for i, response in zip(fitting, said, strict=True):
            line = json.dumps(shown[i] | {"response": response}) + "\n"
            with disk.explain_refusal("write", out), open(out, "a") as file:
                file.write(line)
    print(f"{out}: {len(fitting):,} answers; for grades: jaxllm judge {out}")
    return 0


def find_records(options: Options) -> list[Record]:
    """Read the file of records, or find those that the run has held out.

    Raises:
        ConfigError: no file is named, and the run has not learned from records.
    """
    if options.records is not None:
        known = example_files.find(options.records)
        return records.read_records(known.path, columns=known.columns)
    from jaxllm.finetuning import kinds, opening
    from jaxllm.finetuning.config import FinetuneConfig
    from jaxllm.training import runs

    if not opening.is_finetuned(options.run):
        raise ConfigError(f"records must be given: {options.run} holds none out")
    cfg = runs.read_config(options.run, FinetuneConfig)
    cfg = dataclasses.replace(cfg, run_dir=options.run)
    _, split = kinds.KINDS[cfg.task].read(cfg)
    return (split.chosen if cfg.task == "preference" else split).test


def show_record(record: Record, template: AnyTemplate, number: int) -> Record:
    r"""Give a record the fields that a judge reads, where it has none of its own.

    Raises:
        DataError: it does not fit the template; the message has its number.

    >>> template = layouts.Template(instruction="Q: {q}", heading="\n", response="{a}")
    >>> show_record({"q": "1 + 1?", "a": "2"}, template, 1)
    {'instruction': 'Q: 1 + 1?\n', 'output': '2', 'q': '1 + 1?', 'a': '2'}
    """
    try:
        prompt = layouts.write_prompt(record, template)
        reference = layouts.write_response(record, template)
    except DataError as error:
        raise DataError(f"record {number}: {error}") from None
    return {"instruction": prompt, "output": reference} | record


def _answers(
    prompts: Sequence[Any], params, cfg, tokenizer, options: Options, end: int
) -> Iterator[str]:
    import jax

    from jaxllm.cli import answers

    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        keys = [jax.random.key(options.seed)] * len(batch)
        streamed = answers.stream_answers(
            params, batch, cfg, tokenizer, options, keys=keys, end=end
        )
        for parts in zip(*streamed, strict=True):
            yield answers.join_answers(parts).text
