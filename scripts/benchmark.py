#!/usr/bin/env python3
"""Run jaxllm and its peers on the same work, in turns, and tell the ratio of speeds.

    python scripts/benchmark.py train                        # a suite, on this machine
    python scripts/benchmark.py generate --only batch-8      # rows whose name has this
    python scripts/benchmark.py train --device gpu           # the rows for a GPU
    python scripts/benchmark.py train --out docs/benchmarks  # keep the result there
    python scripts/benchmark.py page                         # write docs/benchmarks.md

Peers are installed by `pip install "jaxllm[bench]"`; one that is absent is left out,
and the reason is told. Each contestant has a process of its own.
"""

import argparse
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import contestant, harness, machine, page, suites

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/benchmarks"


def main(argv: list[str] | None = None) -> int:
    """Run a suite, or write the page of results."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == [harness.CONTESTANT]:  # how the harness starts a contestant
        contestant.serve(*words[1:])
        return 0
    options = _parser().parse_args(words)
    if options.suite == "page":
        path = RESULTS.with_suffix(".md")
        path.write_text(page.benchmarks_page(RESULTS), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
        return 0
    rows = suites.rows(options.suite, options.device, smoke=options.smoke)
    rows = [row for row in rows if any(part in row.name for part in options.only)]
    if not rows:
        print(f"no row of {options.suite} has {options.only} in its name")
        return 2
    command = "python scripts/benchmark.py " + " ".join(words)
    path = options.out / f"{options.suite}-{options.device}.json"
    with tempfile.TemporaryDirectory() as files:
        for row in rows:
            result = harness.run_row(
                options.suite, row, pathlib.Path(files), rounds=options.rounds
            )
            record = machine.describe(options.device) | {"command": command} | result
            page.keep(record, options.suite, path)
    print(f"kept in {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=[*suites.SUITES, "page"])
    add = parser.add_argument
    add("--only", nargs="*", default=[""], help="rows whose name has one of these")
    add("--device", choices=["cpu", "gpu"], default="cpu", help="which rows to run")
    add("--rounds", type=int, help="turns of each contestant")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"))
    add("--smoke", action="store_true", help="tiny sizes, to see that all of it works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
