"""`jaxllm lm_eval`: EleutherAI's harness with our models in it, and its own words."""

# lm_eval is an extra, and need not be there.
# pyright: reportMissingImports=false

import importlib.util
import sys
from typing import Any

from jaxllm.errors import ConfigError

_HELP = """\
usage: jaxllm lm_eval --model_args run=RUN[,checkpoint=best] --tasks TASK[,...] [WORDS]

Run lm-evaluation-harness on a run directory or a GPT-2 folder. Every word is the
harness's own (--num_fewshot, --limit, --include_path, --output_path, ...), as
`lm_eval run --help` lists them; --model is set to jaxllm."""


def main(argv: list[str]) -> int:
    """Hand the words on, with our model registered."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm_eval is missing: pip install 'jaxllm[eval]'")
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model

    register_model("jaxllm")(_model_class())
    words = argv if "--model" in argv else ["--model", "jaxllm", *argv]
    # The harness reads its words from the process's own.
    sys.argv = ["lm_eval", "run", *words]
    cli_evaluate()
    return 0


def _model_class() -> type:
    from jaxllm.cli import model
    from jaxllm.evals import harness

    class Model(harness.HarnessModel):
        """A model that the harness makes from --model_args and --batch_size."""

        def __init__(
            self,
            run: str,
            checkpoint: str | int = "last",
            batch_size: int | str = 8,
            **_: Any,
        ) -> None:
            size = 8 if batch_size == "auto" else int(batch_size)
            super().__init__(*model.load(run, str(checkpoint)), batch_size=size)

    return Model
