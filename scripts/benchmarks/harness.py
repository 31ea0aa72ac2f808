"""A row in; its contestants run in turns, each in a process of its own; ratios out."""

import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.suites import Row

# The word by which benchmark.py knows that it is to be a contestant.
CONTESTANT = "contestant"
_PROGRAM = pathlib.Path(__file__).parents[1] / "benchmark.py"
# Thread pools spin for a while after their work; the next one's turn comes after that.
_REST = 0.3

Ask = Callable[[str], dict[str, Any]]


class ContestantError(Exception):
    """A contestant ended instead of answering; the message has its last words."""


def run_row(
    suite: str, row: Row, files: pathlib.Path, *, rounds: int | None = None
) -> dict[str, Any]:
    """Run a row, tell how it went, and return the record of it.

    Args:
      files: a folder for what rows read, which goes on from row to row.
    """
    print(f"\n{row.name}: {row.work}", flush=True)
    folder = files / (row.files or row.name)
    options = row.options | {"folder": str(folder)}
    if not folder.exists():
        folder.mkdir()
        with _process(suite, "prepare", options) as ask:
            ask("")
    run = _run_together if row.together else _run_one_by_one
    results = run(suite, row, options, rounds or row.rounds)
    if not row.files:
        shutil.rmtree(folder)
    record = {
        "name": row.name,
        "work": row.work,
        "unit": row.unit,
        "options": row.options,
        "contestants": results,
        "ratios": ratios(row, results),
    }
    _tell(record)
    return record


def _run_together(
    suite: str, row: Row, options: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Make all ready, then let each have its turn in every round."""
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        asks = {}
        for name in row.contestants:
            ask = stack.enter_context(_process(suite, name, options))
            results[name] = _made_ready(ask)
            if "facts" in results[name]:
                asks[name] = ask
        for number in range(rounds):
            # Whoever comes first in one round comes last in the next.
            for name in list(asks)[:: 1 if number % 2 == 0 else -1]:
                time.sleep(_REST)
                _take_turn(asks, name, results)
        for name, ask in asks.items():
            results[name] |= ask("end")
    return results


def _run_one_by_one(
    suite: str, row: Row, options: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Run one contestant after the other, where two would not fit side by side."""
    alone = {
        name: _run_together(suite, row._replace(contestants=(name,)), options, rounds)
        for name in row.contestants
    }
    return {name: result[name] for name, result in alone.items()}


def _made_ready(ask: Ask) -> dict[str, Any]:
    try:
        facts = ask("")
    except ContestantError as error:
        return {"absent": str(error)}
    return facts if "absent" in facts else {"facts": facts, "rounds": []}


def _take_turn(asks: dict[str, Ask], name: str, results: dict[str, Any]) -> None:
    try:
        results[name]["rounds"].append(asks[name]("round"))
    except ContestantError as error:
        results[name] = {"absent": str(error)}
        del asks[name]


@contextlib.contextmanager
def _process(suite: str, name: str, options: dict[str, Any]) -> Iterator[Ask]:
    """Start a contestant; yield the function that says a word and returns the answer.

    The empty word only waits for the answer that comes when it has made ready.
    """
    command = [sys.executable, str(_PROGRAM), CONTESTANT, suite, name]
    with tempfile.TemporaryFile("w+") as last_words:
        process = subprocess.Popen(
            [*command, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=last_words,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        words, answers = process.stdin, process.stdout

        def ask(word: str) -> dict[str, Any]:
            with contextlib.suppress(BrokenPipeError):
                if word:
                    words.write(word + "\n")
                    words.flush()
            if line := answers.readline():
                return json.loads(line)
            process.wait()
            last_words.seek(0)
            lines = last_words.read().strip().splitlines() or ["it said nothing"]
            raise ContestantError(f"{lines[-1]} (exit status {process.returncode})")

        try:
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                words.close()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            answers.close()


def ratios(row: Row, results: dict[str, Any]) -> dict[str, Any]:
    """Compare our speed and memory with each peer's, round by round."""
    ours, *peers = (results[name] for name in row.contestants)
    found = {}
    for name, peer in zip(row.contestants[1:], peers, strict=True):
        if "absent" in ours or "absent" in peer:
            continue
        pairs = zip(speeds(ours["rounds"]), speeds(peer["rounds"]), strict=True)
        found[name] = {
            "speed": spread([one / other for one, other in pairs]),
            "memory": ours["peak_bytes"] / peer["peak_bytes"],
        }
        if "tokens" in ours["facts"]:
            written = np.array(ours["facts"]["tokens"]), peer["facts"]["tokens"]
            found[name]["same_tokens"] = float(np.equal(*written).mean())
    return found


def speeds(rounds: Sequence[dict[str, Any]]) -> list[float]:
    """Divide the amount of each round by its seconds.

    >>> speeds([{"amount": 6, "seconds": 2.0}])
    [3.0]
    """
    return [round["amount"] / round["seconds"] for round in rounds]


def scores(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Tell the spread over the rounds of how good the work was, where rounds say so.

    >>> scores([{"scores": {"accuracy": 0.5}}, {"scores": {"accuracy": 0.7}}])
    {'accuracy': {'median': 0.6, 'min': 0.5, 'max': 0.7}}
    >>> scores([{"amount": 6}])
    {}
    """
    found = [round["scores"] for round in rounds if "scores" in round]
    names = found[0] if found else ()
    return {name: spread([score[name] for score in found]) for name in names}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Tell the median of some values, and the least and the greatest.

    >>> spread([1.0, 5.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 5.0}
    """
    middle = statistics.median(values)
    return {"median": middle, "min": min(values), "max": max(values)}


def _tell(record: dict[str, Any]) -> None:
    for name, result in record["contestants"].items():
        if "absent" in result:
            print(f"  {name:24} absent: {result['absent']}")
            continue
        speed = spread(speeds(result["rounds"]))["median"]
        shown = f"{1 / speed:.3g} s" if record["unit"] == "s" else f"{speed:,.0f}"
        line = f"  {name:24} {shown} {record['unit'] if record['unit'] != 's' else ''}"
        line += f"  {result['peak_bytes'] / 1e9:.2f} GB"
        facts = {key: fact for key, fact in result["facts"].items() if key != "tokens"}
        print(line, " ".join(f"{key}={_short(fact)}" for key, fact in facts.items()))
        for what, score in scores(result["rounds"]).items():
            print(f"    {what} {score['median']:.3f} ", end="")
            print(f"({score['min']:.3f} to {score['max']:.3f})")
        if name in record["ratios"]:
            ratio = record["ratios"][name]
            speed, memory = ratio["speed"], ratio["memory"]
            print(
                f"    {speed['median']:.2f} times as fast "
                f"({speed['min']:.2f} to {speed['max']:.2f}), {memory:.2f} times the "
                "memory",
                flush=True,
            )
            if "same_tokens" in ratio:
                print(f"    {ratio['same_tokens']:.1%} of the tokens are the same")


def _short(fact: Any) -> str:
    return f"{fact:.6g}" if isinstance(fact, float) else str(fact)
