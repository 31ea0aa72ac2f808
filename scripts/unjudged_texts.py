#!/usr/bin/env python3
"""A classifying config in, the texts that do not judge it out: a base can read them.

    python scripts/unjudged_texts.py --config configs/spam.yaml [--seed 1]

It writes what `jaxllm finetune` with this config leaves out to balance the labels, and
what it learns from, as JSON lines without labels: a corpus for `jaxllm train`. No text
that validates or tests is among them, nor a copy of one.
"""

import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from jaxllm.cli import arguments
from jaxllm.cli import main as command
from jaxllm.data import disk
from jaxllm.finetuning import classification
from jaxllm.finetuning.config import FinetuneConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(FinetuneConfig):
    """Write the texts that no figure of a classifier depends on."""

    corpus: str = "runs/unjudged_texts.jsonl"
    """The file to write."""


def main(argv: list[str]) -> int:
    """Read as the run does, and write what it does not judge by."""
    options = arguments.parse(Options, argv, "unjudged_texts.py")
    texts = classification.read_unjudged(options)
    path = pathlib.Path(options.corpus)
    with disk.atomic_writer(path) as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
    print(f"{path}: {len(texts):,} texts of {sum(map(len, texts)):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(command.reported(main, sys.argv[1:]))
