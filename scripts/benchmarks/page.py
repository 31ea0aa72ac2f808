"""Records of rows into a JSON file; JSON files into docs/benchmarks.md."""

import json
import pathlib
from typing import Any

from benchmarks import harness

_OPENING = """\
# Benchmarks

jaxllm beside its peers, on the same work, in the same run. A ratio says how many times
as fast jaxllm is as the peer, and how many times the peer's memory its process takes at
its peak; on a GPU, of the GPU's memory. Contestants have a process each and take turns,
or run one after the other on a GPU; every round gives a ratio, and the table has the
median with the least and the greatest.

`python scripts/benchmark.py SUITE --out docs/benchmarks` measures again, and
`python scripts/benchmark.py page` writes this page from the files in
[benchmarks](benchmarks).
"""

_SUITES = {
    "train": "Training steps",
    "generate": "Generation",
    "tokenize": "Tokenizing",
    "data": "Batches",
    "startup": "Start-up",
    "vectors": "Word vectors",
}


def keep(record: dict[str, Any], suite: str, path: pathlib.Path) -> None:
    """Put a row's record into the file of its suite, in place of an older one."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = {row["name"]: row for row in rows} | {record["name"]: record}
    content = {"suite": suite, "rows": list(kept.values())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def benchmarks_page(folder: pathlib.Path) -> str:
    """Write the page from all files in a folder of results."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    parts = [_OPENING]
    for suite, title in _SUITES.items():
        for content in files:
            if content["suite"] == suite:
                on_gpu = "gpu" in content["rows"][0]["hardware"]
                where = " on a GPU" if on_gpu else ""
                parts.append(_suite(title + where, content["rows"]))
    return "\n".join(parts)


def _suite(title: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"## {title}\n", "| work | jaxllm | peer | speed | memory |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        lines += _lines(row)
    told = [line for row in rows for line in _scores(row)]
    told = [*told, ""] if told else []
    return "\n".join([*lines, "", *told, *_sources(rows), ""])


def _scores(row: dict[str, Any]) -> list[str]:
    """Say how good the work of each contestant was, where it has scores."""
    lines = []
    for name, result in row["contestants"].items():
        told = [
            f"{what} {score['median']:.3f} ({score['min']:.3f}–{score['max']:.3f})"
            for what, score in harness.scores(result.get("rounds", [])).items()
        ]
        if told:
            lines.append(f"- {row['name']}, {name}: {', '.join(told)}")
    return lines


def _lines(row: dict[str, Any]) -> list[str]:
    """Write a line of the table for each peer of a row."""
    name, *peers = row["contestants"]
    ours = row["contestants"][name]
    lines = []
    for peer in peers:
        if peer in row["ratios"]:
            speed, memory = row["ratios"][peer]["speed"], row["ratios"][peer]["memory"]
            ratio = f"{speed['median']:.2f} ({speed['min']:.2f}–{speed['max']:.2f})"
            memory = f"{memory:.2f}"
        else:
            gone = ours if "absent" in ours else row["contestants"][peer]
            ratio, memory = f"not run: {gone['absent']}", ""
        cells = row["work"], _absolute(ours, row["unit"]), peer, ratio, memory
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _absolute(result: dict[str, Any], unit: str) -> str:
    """Say how fast jaxllm was, and what part of the peak that is where it is known."""
    if "absent" in result:
        return ""
    rates = sorted(r["amount"] / r["seconds"] for r in result["rounds"])
    rate = rates[len(rates) // 2]
    text = f"{1 / rate:.3g} s" if unit == "s" else f"{rate:,.0f} {unit}"
    facts = result["facts"]
    if "flops_per_token" in facts:
        share = rate * facts["flops_per_token"] / facts["peak_flops"]
        text += f", {share:.0%} of peak"
    return text


def _sources(rows: list[dict[str, Any]]) -> list[str]:
    """Say on what, with what and when the rows were measured."""
    found: dict[str, None] = {}
    for row in rows:
        hardware = row["hardware"]
        versions = {
            name: version
            for result in row["contestants"].values()
            for name, version in result.get("versions", {}).items()
        }
        machine = f"{hardware['cores']} cores of {hardware['cpu']}"
        if "gpu" in hardware:
            machine = f"{hardware['gpu']}, {machine}"
        libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
        found[
            f"{machine}, {hardware['memory_gb']:.0f} GB; Python {row['python']}, "
            f"{libraries}; {row['date']}, revision {row['revision']}."
        ] = None
    return list(found)
