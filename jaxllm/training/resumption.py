"""A run that was stopped in, where it stood out: its last good state and data."""

import dataclasses
import pathlib
from typing import Any, Protocol, Self

import jax

from jaxllm.data import tokenizers
from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.training import checkpoints, runs
from jaxllm.training.runs import OnEvent
from jaxllm.training.state import TrainState

# What may be different when a run goes on: how long, how fast and where. What a base
# was is in the model, and in what the run keeps of it.
_FREE = (
    "run_dir loop optimizer mesh model.dtype model.remat model.unroll data.workers base"
).split()
_FIXED = ["optimizer.name"]  # Its state is of another shape.


class Batches(Protocol):
    """This process's share of the batches of a run, from where it stands."""

    def __next__(self) -> Any: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def require_same_run(cfg: Any, begun: Any) -> None:
    """Refuse to go on with settings under which the run would be another.

    >>> from jaxllm.config import TrainConfig
    >>> require_same_run(TrainConfig(seed=2), TrainConfig(seed=1))
    Traceback (most recent call last):
    jaxllm.errors.CheckpointError: the run was begun with seed = 1, it can't go on with
    seed = 2
    """
    before = dict(_settings(dataclasses.asdict(begun)))
    for key, value in _settings(dataclasses.asdict(cfg)):
        free = any(key == name or key.startswith(f"{name}.") for name in _FREE)
        if (not free or key in _FIXED) and before[key] != value:
            raise CheckpointError(
                f"the run was begun with {key} = {before[key]}, "
                f"it can't go on with {key} = {value}"
            )


def restore(
    run_dir: str,
    like: TrainState,
    tokenizer: tokenizers.Tokenizer,
    data: Batches,
    on_event: OnEvent,
) -> TrainState | None:
    """Take a run back to its last good checkpoint: state, data and what it wrote.

    Returns None, and takes the run back to its start, where it has no checkpoint yet.
    """
    folder = pathlib.Path(run_dir) / runs.CHECKPOINTS
    writes = jax.process_index() == 0
    if not checkpoints.steps(folder):
        if writes:
            runs.cut_back(run_dir, runs.NOTHING_WRITTEN)
        return None
    state = checkpoints.restore_latest(
        folder, like, lambda error: on_event("damaged", {"reason": str(error)})
    )
    step = int(state.step)
    facts = checkpoints.read_facts(folder, step)
    if facts["tokenizer"] != tokenizer.hash:
        raise CheckpointError(
            f"{folder / str(step)} belongs to the tokenizer {facts['tokenizer']}, "
            f"{runs.TOKENIZER} beside it is {tokenizer.hash}"
        )
    data.restore(facts["data"])
    if writes:
        runs.cut_back(run_dir, facts["sizes"])
        # What is damaged must not count among the last that are kept.
        good = [good for good in checkpoints.steps(folder) if good <= step]
        checkpoints.keep_only(folder, good)
    return state


def require_steps_left(run_dir: str, total_steps: int) -> None:
    """Refuse to go on to a step that a run is past already."""
    step = checkpoints.latest_step(pathlib.Path(run_dir) / runs.CHECKPOINTS) or 0
    if step > total_steps:
        raise ConfigError(
            f"the run is at step {step} and can't end at step {total_steps}; "
            "raise loop.steps or loop.epochs"
        )


def _settings(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _settings(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs
