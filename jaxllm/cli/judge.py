"""`jaxllm judge`: answers to instructions in, grades by another model out."""

import dataclasses

from jaxllm.cli import arguments, console
from jaxllm.data import records
from jaxllm.evals import judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(judge.Judge):
    """Let a model behind an OpenAI-compatible address grade answers from 0 to 100.

    Started again, it goes on where it was: grades are in `out`, one a line.
    """

    answers: str
    """JSON, JSON lines or Parquet of records with instruction, input, output (the
    reference) and response (what is graded), as `jaxllm answer` writes them."""
    out: str = "grades.jsonl"
    """File that grades are added to."""
    max_answers: int | None = None
    """Answers to grade, from the first one on; all if null."""


def main(argv: list[str]) -> int:
    """Grade, and print what the grades amount to."""
    options = arguments.parse(Options, argv, "jaxllm judge")
    answers = records.read_records(options.answers)[: options.max_answers]
    with console.progress("judging") as report:
        graded = judge.judge_answers(options, answers, options.out)
        lines = list(console.counted(graded, report, len(answers)))
    figures = judge.report(lines)
    print(f"{options.model} graded {figures['graded']:,} answers: {options.out}")
    print(f"mean       {figures['mean']:.2f} of 100")
    print(f"median     {figures['median']:.1f}")
    print(f"deviation  {figures['deviation']:.2f}")
    silent = sum(line["reply"] is None for line in lines)
    if figures["missing"] > silent:
        print(f"{figures['missing'] - silent:,} replies had no grade in them")
    if silent:
        print(f"{silent:,} replies were empty: they are asked for again the next time")
    return 0
