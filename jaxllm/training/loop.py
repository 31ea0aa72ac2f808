"""A config in, a trained model and its run directory out.

`learn` is the loop itself. What is learnt, from what and how it is judged, is the
run's to say: pretraining and finetuning are runs of different parts.

An accelerator never waits for the host: while it computes a step, the host places the
next batch, and reads the figures of the step before.
"""

import math
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxllm.config import GPTConfig, LoopConfig, TrainConfig
from jaxllm.data import tokenizers
from jaxllm.distributed import startup
from jaxllm.errors import DivergenceError, ProcessLostError
from jaxllm.training import (
    checkpoints,
    dispatch,
    preparation,
    runs,
    signals,
    speed,
)
from jaxllm.training.preparation import Run
from jaxllm.training.runs import OnEvent
from jaxllm.training.state import TrainState
from jaxllm.types import Array, Params


class Sample(Protocol):
    """Continues the prompts of a LoopConfig: one text for each, prompt included."""

    def __call__(
        self,
        params: Params,
        cfg: GPTConfig,
        tokenizer: tokenizers.Tokenizer,
        loop: LoopConfig,
        *,
        key: Array,
    ) -> list[str]: ...


class Learned(NamedTuple):
    """What the loop ended with."""

    state: TrainState
    interrupted: bool  # by SIGTERM or Ctrl-C; resuming goes on
    validation: dict[str, float]  # of the last evaluation


class TrainResult(NamedTuple):
    """How a run ended."""

    state: TrainState
    cfg: TrainConfig
    tokenizer: tokenizers.Tokenizer
    interrupted: bool
    validation: dict[str, float]


def train(
    cfg: TrainConfig,
    *,
    resume: bool = False,
    processes: int = 1,
    on_event: OnEvent = lambda kind, record: None,
    sample: Sample | None = None,
    profile_steps: int = 0,
) -> TrainResult:
    """Train a model as its config says, into its run directory.

    SIGTERM and Ctrl-C end it after the step under way, with a checkpoint.

    Args:
      resume: whether to go on with the run in cfg.run_dir after its last good
        checkpoint, to the same bits as if it had never stopped.
      processes: that learn a vocabulary and tokenize. A script that asks for more
        than one needs the `if __name__ == "__main__":` guard of multiprocessing.
      on_event: told (kind, record) of the kinds tokenizing, damaged, start, train,
        checkpoint, evaluation, sample and end.
      sample: writes, now and then, what the model has to say.
      profile_steps: how many steps to trace into the run's folder `profile`.

    Raises:
      JaxllmError: something in the config, the text or the run directory is wrong.
      DivergenceError: the loss or the gradient became NaN or infinite.
      ProcessLostError: another process of the job is gone.
    """
    cfg, run = preparation.prepare_run(
        cfg, resume=resume, processes=processes, on_event=on_event
    )
    if sample:
        run = run._replace(
            sample=lambda params, key: sample(
                params, cfg.model, run.tokenizer, cfg.loop, key=key
            )
        )
    state, interrupted, validation = learn(run, on_event, profile_steps=profile_steps)
    return TrainResult(state, cfg, run.tokenizer, interrupted, validation)


def learn(
    run: Run,
    on_event: OnEvent = lambda kind, record: None,
    *,
    profile_steps: int = 0,
) -> Learned:
    """Take the steps of a run that are left, and write down what happens.

    SIGTERM and Ctrl-C end it after the step under way, with a checkpoint.

    Args:
      profile_steps: how many steps to trace, once what has to be compiled is.

    Raises:
      DivergenceError: the loss or the gradient became NaN or infinite.
      ProcessLostError: another process of the job is gone.
    """
    first = int(run.state.step)
    traced = range(first + 4, first + 4 + profile_steps)
    if jax.process_index() > 0:
        traced = range(0)
    with (
        jax.set_mesh(run.mesh),
        run.batches,
        signals.stop_asked() as stop_asked,
        runs.recorder(run.run_dir, run.loop.tensorboard, first, on_event) as tell,
        speed.tracer(str(pathlib.Path(run.run_dir) / runs.PROFILE), traced) as trace,
    ):
        try:
            return _loop(run, stop_asked, tell, trace)
        except (DivergenceError, ProcessLostError) as error:
            raise type(error)(f"{error}; {_last_good(run)}") from None


def _loop(
    run: Run,
    stop_asked: Callable[[], bool],
    tell: OnEvent,
    trace: Callable[[int], None],
) -> Learned:
    loop, total = run.loop, run.total_steps
    first, state = int(run.state.step), run.state
    lap = speed.start_lap()
    saving, stop, validation = None, False, {}
    tell("start", _description(run))
    try:
        with startup.explain_loss():
            for step, state, position, stop in _steps(
                run, stop_asked, lap, tell, trace
            ):
                saves = stop or due(step, loop.checkpoint_every, total)
                evaluates = not stop and due(step, loop.eval_every, total)
                facts = _facts(run, position) if saves or evaluates else {}
                if step > first and saves:
                    saving = _save(run, state, facts, saving, lap, tell)
                if evaluates:
                    with speed.timed(lap, "evaluation"):
                        validation = run.evaluate(state.params)
                    tell("evaluation", {"step": step} | validation)
                    if step > first and not saves and _is_best(run, step):
                        saving = _save(run, state, facts, saving, lap, tell)
                if run.sample and not stop and due(step, _sample_every(loop), total):
                    with speed.timed(lap, "evaluation"):
                        key = jax.random.fold_in(jax.random.key(run.seed), step)
                        texts = run.sample(state.params, key)
                    tell("sample", {"step": step, "texts": texts})
    except ProcessLostError:
        saving = None  # It can't end without the process that is gone.
        raise
    finally:
        if saving:
            with speed.timed(lap, "checkpoint"):
                futures.wait([saving])
    if saving:
        saving.result()
        # The first process finishes it; a process that leaves would end the job.
        startup.wait_for_all()
        _forget_old(run)
    tell("end", {"seconds": speed.seconds_of(lap)})
    return Learned(state, stop, validation)


def _steps(
    run: Run,
    stop_asked: Callable[[], bool],
    lap: speed.Lap,
    tell: OnEvent,
    trace: Callable[[int], None],
) -> Iterator[tuple[int, TrainState, dict[str, Any], bool]]:
    """Yield the steps taken, the state, the data's position, and whether to stop.

    First as it is, then after each dispatch. A state is gone once the next one is
    asked for: its buffers go into that one.
    """
    loop, total = run.loop, run.total_steps
    first, unread = int(run.state.step), None
    used = (loop.checkpoint_every, loop.eval_every, _sample_every(loop))
    sizes = dispatch.dispatch_sizes(first, total, loop.steps_per_dispatch, used)
    yield first, run.state, run.batches.state(), False
    for taken in dispatch.dispatches(run, sizes, lap):
        if unread:
            _read(run, unread, lap, tell, trace)
        unread, step = taken, taken.steps[-1]
        stop = _agree(stop_asked(), taken.steps, loop)
        if stop or any(due(step, every, total) for every in used):
            # Nothing is kept, or looked at, before it is known to be finite.
            _read(run, unread, lap, tell, trace)
            unread = None
        yield step, taken.state, taken.position, stop
        if stop:
            return


def due(step: int, every: int, total: int) -> bool:
    """Tell whether something that happens every so many steps happens after this one.

    The last step is always one of them, and the start never is.

    >>> [step for step in range(8) if due(step, 3, total=7)]
    [3, 6, 7]
    """
    return step > 0 and (step % every == 0 or step == total)


def _sample_every(loop: LoopConfig) -> int:
    return loop.sample_every or loop.eval_every


def _description(run: Run) -> dict[str, Any]:
    return {
        "step": int(run.state.step),
        "total_steps": run.total_steps,
        "devices": run.mesh.devices.size,
        "platform": jax.default_backend(),
    } | run.facts


def _agree(stop_asked: bool, taken: range, loop: LoopConfig) -> bool:
    """Let all processes stop after the same step; agreeing costs, so seldom."""
    if jax.process_count() == 1:
        return stop_asked
    due_now = any(step % loop.log_every == 0 for step in taken)
    return due_now and startup.any_process(stop_asked)


def _read(
    run: Run,
    taken: dispatch.Taken,
    lap: speed.Lap,
    tell: OnEvent,
    trace: Callable[[int], None],
) -> None:
    """Wait for some steps, see that they went well, and write a line now and then."""
    read = {n: np.atleast_1d(v) for n, v in jax.device_get(taken.metrics).items()}
    for i, step in enumerate(taken.steps):
        values = {name: column[i].item() for name, column in read.items()}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise DivergenceError(f"{name} became {values[name]} in step {step}")
        lap["targets"] += values[run.unit]
        lap["steps"] += 1
        trace(step)
        if due(step, run.loop.log_every, run.total_steps):
            rate = {"learning_rate": float(run.learning_rate(step - 1))}
            left, flops = run.total_steps - step, run.flops_per_token
            figures = speed.figures(lap, left, run.unit, flops)
            tell("train", {"step": step} | values | rate | figures)
            lap.clear()
            lap.update(speed.start_lap())


def _last_good(run: Run) -> str:
    folder = pathlib.Path(run.run_dir) / runs.CHECKPOINTS
    step = checkpoints.latest_step(folder)
    if step is None:
        return "there is no checkpoint before it"
    return f"the last good checkpoint is {folder / str(step)}"


def _facts(run: Run, position: dict[str, Any]) -> dict[str, Any]:
    """Tell what a checkpoint needs to know, before more is written after this step.

    A run that goes on from it evaluates the step, and writes that down, again.
    """
    return {
        "tokenizer": run.tokenizer.hash,
        "data": position,
        "sizes": runs.sizes(run.run_dir),
    }


def _save(
    run: Run,
    state: TrainState,
    facts: dict[str, Any],
    saving: futures.Future[pathlib.Path] | None,
    lap: speed.Lap,
    tell: OnEvent,
) -> futures.Future[pathlib.Path]:
    with speed.timed(lap, "checkpoint"):
        if saving:
            saving.result()
            _forget_old(run)
        folder = pathlib.Path(run.run_dir) / runs.CHECKPOINTS
        saving = checkpoints.save(folder, state, facts)
    tell("checkpoint", {"step": int(state.step)})
    return saving


def _is_best(run: Run, step: int) -> bool:
    """Tell every process whether this is the step to keep as the best so far."""
    if not run.loop.keep_best:
        return False
    best = False
    if jax.process_index() == 0:  # which has written them
        losses = runs.validation_losses(run.run_dir)
        best = losses[step] == min(losses.values())
    return startup.any_process(best)


def _forget_old(run: Run) -> None:
    """Keep the last checkpoints, and the best one."""
    folder = pathlib.Path(run.run_dir) / runs.CHECKPOINTS
    kept = checkpoints.steps(folder)[-run.loop.keep_last :]
    best = runs.best_step(run.run_dir)
    if run.loop.keep_best and best is not None:
        kept.append(best)
    if jax.process_index() == 0:
        checkpoints.keep_only(folder, kept)
