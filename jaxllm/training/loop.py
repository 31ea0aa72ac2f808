"""A config in, a trained model and its run directory out.

The device never waits for the host: while it computes a step, the host reads the
figures of the one before, and fetches the next batch.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple, Protocol

import jax

from jaxllm.config import GPTConfig, LoopConfig, TrainConfig
from jaxllm.data import batches, tokenizers
from jaxllm.distributed import sharding, startup
from jaxllm.errors import DivergenceError
from jaxllm.models import gpt
from jaxllm.training import checkpoints, evaluation, preparation, runs, signals, speed
from jaxllm.training.preparation import Run
from jaxllm.training.runs import OnEvent
from jaxllm.training.state import TrainState
from jaxllm.types import Array, Params

# Tokens of the validation split that are counted for its entropy; more change nothing.
ENTROPY_TOKENS = 2**24


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


class TrainResult(NamedTuple):
    """How a run ended."""

    state: TrainState
    cfg: TrainConfig
    tokenizer: tokenizers.Tokenizer
    interrupted: bool  # by SIGTERM or Ctrl-C; resuming goes on
    validation: dict[str, float]  # of the last evaluation


def train(
    cfg: TrainConfig,
    *,
    resume: bool = False,
    processes: int = 1,
    on_event: OnEvent = lambda kind, record: None,
    sample: Sample | None = None,
) -> TrainResult:
    """Train a model as its config says, into its run directory.

    SIGTERM and Ctrl-C end it after the step under way, with a checkpoint.

    Args:
      resume: whether to go on with the run in cfg.run_dir after its last good
        checkpoint, to the same bits as if it had never stopped.
      processes: that learn a vocabulary and tokenize. A script that asks for more
        than one needs the `if __name__ == "__main__":` guard of multiprocessing.
      on_event: told (kind, record) of the kinds tokenizing, damaged, start, train,
        checkpoint, evaluation and sample.
      sample: writes, now and then, what the model has to say.

    Raises:
      JaxllmError: something in the config, the text or the run directory is wrong.
      DivergenceError: the loss or the gradient became NaN or infinite.
    """
    run = preparation.prepare_run(
        cfg, resume=resume, processes=processes, on_event=on_event
    )
    with (
        jax.set_mesh(run.mesh),
        run.batches,
        signals.stop_asked() as stop_asked,
        runs.recorder(run.cfg, int(run.state.step), on_event) as tell,
    ):
        try:
            return _loop(run, stop_asked, tell, sample)
        except DivergenceError as error:
            raise DivergenceError(f"{error}; {_last_good(run)}") from None


def _loop(
    run: Run, stop_asked: Callable[[], bool], tell: OnEvent, sample: Sample | None
) -> TrainResult:
    loop, total = run.cfg.loop, run.total_steps
    first, state = int(run.state.step), run.state
    lap = speed.start_lap()
    saving, stop, validation = None, False, {}
    tell("start", _description(run))
    try:
        for step, state, stop in _steps(run, stop_asked, lap, tell):
            if step > first and (stop or due(step, loop.checkpoint_every, total)):
                with speed.timed(lap, "checkpoint"):
                    saving = _save(run, state, saving)
                tell("checkpoint", {"step": step})
            # Also of the step that a run goes on from: it was saved before this.
            if not stop and due(step, loop.eval_every, total):
                with speed.timed(lap, "evaluation"):
                    validation = _evaluate(run, state.params)
                tell("evaluation", {"step": step} | validation)
            if sample and not stop and due(step, _sample_every(loop), total):
                with speed.timed(lap, "evaluation"):
                    texts = _sample(run, step, state.params, sample)
                tell("sample", {"step": step, "texts": texts})
    finally:
        if saving:
            futures.wait([saving])
    if saving:
        saving.result()
        _forget_old(run)
    return TrainResult(state, run.cfg, run.tokenizer, stop, validation)


def _steps(
    run: Run, stop_asked: Callable[[], bool], lap: speed.Lap, tell: OnEvent
) -> Iterator[tuple[int, TrainState, bool]]:
    """Yield the number of steps taken, the state, and whether to stop; first as it is.

    A state is gone once the next one is asked for: its buffers go into that one.
    """
    loop, state = run.cfg.loop, run.state
    first, total, unread = int(state.step), run.total_steps, None
    yield first, state, False
    for step in range(first + 1, total + 1):
        with speed.timed(lap, "data"):
            batch = sharding.place_batch(next(run.batches), run.mesh)
        with speed.timed(lap, "compile" if step == first + 1 else "dispatch"):
            state, metrics = run.train_step(state, batch)
        if unread:
            _read(run, *unread, lap, tell)
        unread = step, metrics
        stop = _agree(stop_asked(), step, loop)
        used = (loop.checkpoint_every, loop.eval_every, _sample_every(loop))
        if stop or any(due(step, every, total) for every in used):
            # Nothing is kept, or looked at, before it is known to be finite.
            _read(run, *unread, lap, tell)
            unread = None
        yield step, state, stop
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
        "parameters": gpt.count_params(run.cfg.model),
        "train_tokens": len(run.store.train),
        "validation_tokens": len(run.store.validation),
        "unigram_entropy": evaluation.unigram_entropy(
            run.store.validation[:ENTROPY_TOKENS]
        ),
        "devices": run.mesh.devices.size,
        "platform": jax.default_backend(),
    }


def _agree(stop_asked: bool, step: int, loop: LoopConfig) -> bool:
    """Let all processes stop after the same step; agreeing costs, so seldom."""
    if jax.process_count() == 1:
        return stop_asked
    return step % loop.log_every == 0 and startup.any_process(stop_asked)


def _read(run: Run, step: int, metrics: Any, lap: speed.Lap, tell: OnEvent) -> None:
    """Wait for a step, see that it went well, and write a line now and then."""
    values = {name: value.item() for name, value in jax.device_get(metrics).items()}
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise DivergenceError(f"{name} became {values[name]} in step {step}")
    lap["tokens"] += values["tokens"]
    lap["steps"] += 1
    if due(step, run.cfg.loop.log_every, run.total_steps):
        rate = {"learning_rate": float(run.learning_rate(step - 1))}
        figures = speed.figures(lap, run.total_steps - step, run.cfg.model)
        tell("train", {"step": step} | values | rate | figures)
        lap.clear()
        lap.update(speed.start_lap())


def _last_good(run: Run) -> str:
    folder = pathlib.Path(run.cfg.run_dir) / runs.CHECKPOINTS
    step = checkpoints.latest_step(folder)
    if step is None:
        return "there is no checkpoint before it"
    return f"the last good checkpoint is {folder / str(step)}"


def _save(
    run: Run, state: TrainState, saving: futures.Future[pathlib.Path] | None
) -> futures.Future[pathlib.Path]:
    if saving:
        saving.result()
        _forget_old(run)
    facts = {
        "tokenizer": run.tokenizer.hash,
        "data": run.batches.state(),
        "sizes": runs.sizes(run.cfg.run_dir),
    }
    folder = pathlib.Path(run.cfg.run_dir) / runs.CHECKPOINTS
    return checkpoints.save(folder, state, facts)


def _forget_old(run: Run) -> None:
    """Keep the last checkpoints, and the best one."""
    folder = pathlib.Path(run.cfg.run_dir) / runs.CHECKPOINTS
    kept = checkpoints.steps(folder)[-run.cfg.loop.keep_last :]
    best = runs.best_step(run.cfg.run_dir)
    if run.cfg.loop.keep_best and best is not None:
        kept.append(best)
    if jax.process_index() == 0:
        checkpoints.keep_only(folder, kept)


def _evaluate(run: Run, params: Params) -> dict[str, float]:
    loop = run.cfg.loop
    held_out = batches.evaluation_batches(
        run.store.validation,
        run.cfg.model.context_length,
        loop.eval_batch_size or run.cfg.data.batch_size,
        count=loop.eval_batches,
        tail=loop.eval_batches is None,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return evaluation.evaluate(
        params,
        held_out,
        run.evaluation_step,
        token_bytes=run.token_bytes,
        place=functools.partial(sharding.place_batch, mesh=run.mesh),
    )


def _sample(run: Run, step: int, params: Params, sample: Sample) -> list[str]:
    key = jax.random.fold_in(jax.random.key(run.cfg.seed), step)
    return sample(params, run.cfg.model, run.tokenizer, run.cfg.loop, key=key)
