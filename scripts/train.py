#!/usr/bin/env python3
"""The training script for CPU, GPU and TPU hosts: `jaxllm` as a file for a launcher.

    python scripts/train.py --config FILE   does what `jaxllm train --config FILE` does
    python scripts/train.py evaluate RUN    does what `jaxllm evaluate RUN` does

On many hosts, start the same line on each of them.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from jaxllm.cli import main

if __name__ == "__main__":
    words = sys.argv[1:]
    is_command = bool(words) and words[0] in main.COMMANDS
    sys.exit(main.main(words if is_command else ["train", *words]))
