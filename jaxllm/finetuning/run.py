"""A finetuning config in, a model for its task and its run directory out."""

import pathlib
from typing import Any, NamedTuple

import jax

from jaxllm.config import GPTConfig
from jaxllm.data import disk, tokenizers
from jaxllm.finetuning import preparation
from jaxllm.finetuning.config import FinetuneConfig
from jaxllm.training import loop
from jaxllm.training.runs import OnEvent
from jaxllm.types import Params

TEST = "test.json"


class FinetuneResult(NamedTuple):
    """How a run ended."""

    params: Params  # of the whole model, adapters merged
    model: GPTConfig
    cfg: FinetuneConfig
    tokenizer: tokenizers.Tokenizer
    interrupted: bool  # by SIGTERM or Ctrl-C; resuming goes on
    validation: dict[str, float]  # of the last evaluation
    test: dict[str, Any]  # of the end, where the task is tested; as in test.json


def finetune(
    cfg: FinetuneConfig,
    *,
    resume: bool = False,
    processes: int = 1,
    on_event: OnEvent = lambda kind, record: None,
) -> FinetuneResult:
    """Finetune a model as its config says, into its run directory.

    SIGTERM and Ctrl-C end it after the step under way, with a checkpoint.

    Args:
      resume: whether to go on with the run in cfg.run_dir after its last good
        checkpoint, to the same bits as if it had never stopped.
      processes: that learn a vocabulary, where there is no base.
      on_event: told (kind, record) of the kinds warning, damaged, start, train,
        checkpoint, evaluation, sample, end and test.

    Raises:
      JaxllmError: something in config, base, examples or run directory is wrong.
      DivergenceError: the loss or the gradient became NaN or infinite.
    """
    cfg, run, task, whole = preparation.prepare_run(
        cfg, resume=resume, processes=processes, on_event=on_event
    )
    state, interrupted, validation = loop.learn(run, on_event)
    params, test = whole(state.params), {}
    if task.test and not interrupted:
        with jax.set_mesh(run.mesh):
            test = task.test(params)
        if jax.process_index() == 0:
            disk.write_json(pathlib.Path(cfg.run_dir) / TEST, test)
            on_event("test", test)
    return FinetuneResult(
        params, cfg.model, cfg, run.tokenizer, interrupted, validation, test
    )
