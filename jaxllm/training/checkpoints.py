"""A training state in, a folder on disk out, and back: the only door to orbax.

    checkpoints/250/params/      the parameters
                    training/    step, optimizer state, random key
                    facts/       JSON: what else is needed to go on
                    sha256.json  digests of all these files, written last

A checkpoint exists once its digests do. A process that is killed while it saves leaves
a folder without them, which counts as nothing. A file that was cut short or changed
since then differs from its digest, and such a checkpoint is never read.

orbax's AsyncCheckpointer is used bare. Its CheckpointManager decides what to keep when
it saves, and here the validation loss is known only afterwards; its v1 functions are
still being renamed; and no layer of it notices a changed byte in an array. It takes
0.6 s to import, which only what saves or restores should wait for.
"""

import errno
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import SingleDeviceSharding

from jaxllm import paths
from jaxllm.data import disk
from jaxllm.errors import CheckpointError, MisfitError
from jaxllm.training.state import TrainState
from jaxllm.types import Params

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Folder = str | os.PathLike[str]

_DIGESTS = "sha256.json"

# Bytes that a checkpoint takes beside its arrays, and some to spare.
_ROOM_FOR_THE_REST = 2**20


def save(
    folder: Folder, state: TrainState, facts: dict[str, Any]
) -> Future[pathlib.Path]:
    """Begin to save a state under its step, in the background.

    Returns once the arrays are copied; the state's buffers may then be donated. Take
    the result of one save before the next begins. A checkpoint of the same step is
    replaced.

    Args:
      folder: of all checkpoints of the run.
      facts: what else is needed to go on; anything that JSON can hold.

    Returns:
      a future of the checkpoint's path; its result raises CheckpointError where the
      disk refuses.
    """
    path = pathlib.Path(folder).resolve() / str(int(state.step))
    training = {
        "step": state.step,
        "opt_state": state.opt_state,
        "key": jax.random.key_data(state.key),
    }
    facts = facts | {"key_impl": str(jax.random.key_impl(state.key))}
    import orbax.checkpoint as ocp

    checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    try:
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            _delete(path)
            _require_room(path.parent, (state.params, training))
        checkpointer.save(
            path,
            ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                training=ocp.args.StandardSave(training),
                facts=ocp.args.JsonSave(facts),
            ),
        )
    except Exception as error:
        raise _cannot_write(path, error) from error
    executor = ThreadPoolExecutor(1, "checkpoint")
    saving = executor.submit(_finish, checkpointer, path)
    executor.shutdown(wait=False)
    return saving


def restore(folder: Folder, step: int, like: TrainState) -> TrainState:
    """Read the state that was saved at a step.

    Args:
      like: a state of the same shapes: arrays, or jax.ShapeDtypeStruct, whose shardings
        say where everything goes. It need not be where it was when it was saved.

    Raises:
      CheckpointError: the checkpoint is missing or damaged; MisfitError: it has other
        shapes.
    """
    key_data = jax.eval_shape(jax.random.key_data, like.key)
    training = {
        "step": _place(like.step),
        "opt_state": jax.tree.map(_place, like.opt_state),
        "key": _place(key_data, getattr(like.key, "sharding", None)),
    }
    params = jax.tree.map(_place, like.params)
    read = _read(folder, step, {"params": params, "training": training})
    impl = read_facts(folder, step)["key_impl"]
    key = jax.random.wrap_key_data(read["training"]["key"], impl=impl)
    return TrainState(
        read["training"]["step"], read["params"], read["training"]["opt_state"], key
    )


def restore_params(folder: Folder, step: int, like: Params) -> Params:
    """Read the parameters alone that were saved at a step; `like` as in `restore`."""
    return _read(folder, step, {"params": jax.tree.map(_place, like)})["params"]


def read_facts(folder: Folder, step: int) -> dict[str, Any]:
    """Read the facts that were saved with a state.

    Raises CheckpointError where they are missing or damaged.
    """
    check(folder, step, ("facts",))
    path = pathlib.Path(folder) / str(step) / "facts" / "metadata"
    return json.loads(path.read_text("utf-8"))


def restore_latest(
    folder: Folder, like: TrainState, on_damaged: Callable[[CheckpointError], None]
) -> TrainState:
    """Read the last state that is whole.

    Args:
      on_damaged: called with what is wrong with each later checkpoint.

    Raises:
      MisfitError: it has other shapes.
      CheckpointError: there is none.
    """
    reason = "there is none"
    for step in reversed(steps(folder)):
        try:
            return restore(folder, step, like)
        except MisfitError:
            raise
        except CheckpointError as error:
            reason = str(error)
            on_damaged(error)
    raise CheckpointError(f"no checkpoint in {os.fspath(folder)} can be read: {reason}")


def steps(folder: Folder) -> list[int]:
    """List the steps of which there is a checkpoint, in their order.

    >>> steps("no/such/folder")
    []
    """
    found = pathlib.Path(folder).glob(f"*/{_DIGESTS}")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def latest_step(folder: Folder) -> int | None:
    """Find the last step of which there is a checkpoint; None where there is none."""
    return max(steps(folder), default=None)


def keep_only(folder: Folder, kept: Collection[int]) -> None:
    """Delete the checkpoints of all other steps, and what killed saves have left.

    A folder of any other name is somebody else's, and stays.
    No save may be under way, unless its step is among those kept.
    """
    for path in pathlib.Path(folder).glob("*"):
        step = re.fullmatch(r"(\d+)(\.orbax-checkpoint-tmp.*)?", path.name)
        if step and path.is_dir() and int(step[1]) not in kept:
            _delete(path)


def check(
    folder: Folder, step: int, items: Collection[str] = ("params", "training", "facts")
) -> None:
    """Compare the files of a checkpoint with the digests taken when it was saved.

    Args:
      items: the parts to look at.

    Raises:
      CheckpointError: the checkpoint is missing or damaged; names the first such file.
    """
    path = pathlib.Path(folder) / str(step)
    try:
        digests = json.loads((path / _DIGESTS).read_text("utf-8"))
        for name, digest in digests.items():
            if name.split("/")[0] in items and disk.file_sha256(path / name) != digest:
                raise CheckpointError(f"{path} is damaged: {name} has changed")
    except FileNotFoundError:
        there = ", ".join(map(str, steps(folder))) or "none"
        raise CheckpointError(
            f"no checkpoint of step {step} in {os.fspath(folder)}; there are: {there}"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _read(folder: Folder, step: int, items: dict[str, Any]) -> Any:
    import orbax.checkpoint as ocp

    check(folder, step, tuple(items))
    path = pathlib.Path(folder).resolve() / str(step)
    for name, like in items.items():
        _require_shapes(path / name, like)
    wanted = {name: ocp.args.StandardRestore(like) for name, like in items.items()}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path, ocp.args.Composite(**wanted))


def _require_shapes(item: pathlib.Path, like: Any) -> None:
    """Refuse arrays of other names or shapes before orbax starts to read them."""
    import orbax.checkpoint as ocp

    handler: Any = ocp.StandardCheckpointHandler()
    saved = {
        leaf.name.replace(".", "/"): tuple(leaf.shape)
        for leaf in jax.tree.leaves(handler.metadata(item).tree)
    }
    wanted = {
        paths.path_of(keys): leaf.shape
        for keys, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    for name in sorted(saved | wanted):
        if saved.get(name) != wanted.get(name):
            raise MisfitError(
                f"{item} does not fit this run: {name} has shape {saved.get(name)}, "
                f"and the run's has {wanted.get(name)}"
            )


def _place(leaf: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    sharding = sharding or getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _finish(checkpointer: "ocp.AsyncCheckpointer", path: pathlib.Path) -> pathlib.Path:
    """Wait until orbax has written everything, and let the checkpoint exist."""
    try:
        checkpointer.wait_until_finished()
        checkpointer.close()
        if jax.process_index() == 0:
            files = sorted(file for file in path.rglob("*") if file.is_file())
            digests = {
                file.relative_to(path).as_posix(): disk.file_sha256(file)
                for file in files
            }
            with disk.atomic_writer(path / _DIGESTS) as file:
                file.write(json.dumps(digests, indent=0).encode())
    except Exception as error:
        for part in path.parent.glob(f"{path.name}.*"):
            _delete(part)  # so that what is left of a full disk is of use
        raise _cannot_write(path, error) from error
    return path


def _require_room(folder: pathlib.Path, arrays: Any) -> None:
    """Find a full disk before orbax does, which tells of it in hundreds of lines."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) + _ROOM_FOR_THE_REST
    free = shutil.disk_usage(folder).free
    if free < needed:
        words = f"{os.strerror(errno.ENOSPC)}: {needed / 1e6:,.1f} MB are needed, "
        raise OSError(errno.ENOSPC, words + f"{free / 1e6:,.1f} MB are free")


def _delete(path: pathlib.Path) -> None:
    """Delete a folder; whoever looks meanwhile finds it whole or not at all."""
    (path / _DIGESTS).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _cannot_write(path: pathlib.Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot write checkpoint {path}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    """Say in one line what the disk, orbax or tensorstore has to say at length."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or type(error).__name__
    refusal = re.search(r"[^:]*(?= \[os_error_code=)", text)
    return refusal[0].strip() if refusal else text.splitlines()[0][:200]
