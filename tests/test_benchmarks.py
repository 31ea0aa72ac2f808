"""The benchmarks: our side of every suite at tiny sizes, ratios, and the page."""

import json
import pathlib
import resource
import sys

import pytest
from parameters import quick

sys.path.append(str(pathlib.Path(__file__).parents[1] / "scripts"))

import benchmark
from benchmarks import contestant, harness, page, suites

ROOT = pathlib.Path(__file__).parents[1]
# The suites that compile many programs, even at tiny sizes.
_PROGRAMS = ("train", "generate", "startup", "vectors")
ROUNDS = [{"amount": 6, "seconds": 2.0}, {"amount": 6, "seconds": 3.0}]
ROW = suites.Row("small", "little work", ("jaxllm", "Peer", "Gone"), {})


def _result(rounds, peak=10):
    return {"facts": {}, "rounds": rounds, "peak_bytes": peak, "versions": {"jax": "1"}}


@pytest.mark.parametrize("device", quick(["cpu", "gpu"]))
@pytest.mark.parametrize(
    "suite", quick(sorted(suites.SUITES, key=_PROGRAMS.__contains__), count=2)
)
def test_our_side_of_every_row_runs_at_tiny_sizes(suite, device, tmp_path):
    """In this process, and once where rows differ by no more than their names."""
    rows = suites.rows(suite, device, smoke=True)
    distinct = {json.dumps([row.options, row.contestants[0]]): row for row in rows}
    for row in distinct.values():
        folder = tmp_path / row.name
        folder.mkdir()
        options = row.options | {"folder": str(folder)}
        suites.prepare(suite, options)
        for name in row.contestants:
            if not name.startswith("jaxllm"):
                continue
            rounds = suites.find(suite, name)(options)
            try:
                assert isinstance(next(rounds), dict)
            except ImportError:
                continue  # what is absent; the harness tells the reason
            measured = [next(rounds), next(rounds)]
            assert all(speed > 0 for speed in harness.speeds(measured))


def test_contestants_have_processes_of_their_own_and_lose_as_much(tmp_path, capsys):
    words = "train --smoke --only chars-10.7M-float32 --rounds 1 --out".split()
    assert benchmark.main([*words, str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "train-cpu.json").read_text())["rows"]
    ours = row["contestants"]["jaxllm"]
    assert ours["peak_bytes"] > 1e8
    assert ours["versions"]["jax"]
    for name, result in row["contestants"].items():
        if "absent" not in result:
            assert result["facts"]["loss"] == pytest.approx(ours["facts"]["loss"], 1e-4)
            assert (name == "jaxllm") == (name not in row["ratios"])


def test_a_ratio_is_of_speeds_in_the_same_round():
    results = {
        "jaxllm": _result(ROUNDS),
        "Peer": _result(ROUNDS[::-1], peak=40),
        "Gone": {"absent": "not installed"},
    }
    ratios = harness.ratios(ROW, results)
    assert ratios["Peer"]["speed"]["min"] == pytest.approx(2 / 3)
    assert ratios["Peer"]["speed"]["max"] == pytest.approx(3 / 2)
    assert ratios["Peer"]["memory"] == 0.25
    assert "Gone" not in ratios


def test_rows_are_kept_and_the_page_shows_them(tmp_path):
    results = {name: _result(ROUNDS) for name in ("jaxllm", "Peer")}
    results["Gone"] = {"absent": "not installed"}
    record = {
        "name": "small",
        "work": "little work",
        "unit": "tokens/s",
        "contestants": results,
        "ratios": harness.ratios(ROW, results),
        "hardware": {"cpu": "Chip", "cores": 2, "memory_gb": 8.0},
        "python": "3.11",
        "date": "2026-01-01",
        "revision": "abc",
        "command": "python scripts/benchmark.py train",
    }
    page.keep(record | {"name": "other"}, "train", tmp_path / "train-cpu.json")
    for _ in range(2):
        page.keep(record, "train", tmp_path / "train-cpu.json")
    kept = json.loads((tmp_path / "train-cpu.json").read_text())
    assert [row["name"] for row in kept["rows"]] == ["other", "small"]
    text = page.benchmarks_page(tmp_path)
    assert "| little work | 3 tokens/s | Peer | 1.00 (1.00–1.00) | 1.00 |" in text
    assert "not run: not installed" in text
    assert "2 cores of an Chip" not in text


def test_the_page_tells_how_good_the_work_was_and_knows_every_suite(tmp_path):
    rounds = [round | {"scores": {"accuracy": 0.5}} for round in ROUNDS]
    results = {"jaxllm": _result(rounds), "Peer": _result(ROUNDS)}
    row = {"name": "small", "contestants": results}
    assert page._scores(row) == ["- small, jaxllm: accuracy 0.500 (0.500–0.500)"]
    assert set(page._SUITES) == set(suites.SUITES)


def test_the_page_in_docs_is_what_its_files_say():
    folder = ROOT / "docs/benchmarks"
    if folder.exists():
        written = folder.with_suffix(".md").read_text("utf-8")
        assert written == page.benchmarks_page(folder)


def test_memory_is_counted_in_the_unit_of_the_system(monkeypatch):
    linux = contestant._most_bytes(resource.RUSAGE_SELF)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert contestant._most_bytes(resource.RUSAGE_SELF) < linux / 900
