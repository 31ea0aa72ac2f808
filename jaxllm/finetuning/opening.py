"""A run or a folder in, a whole model to use out; and what a run keeps of its base.

A finetuning run's checkpoints hold what trains. The rest lies beside them:

    base/        what of the model does not train, as a checkpoint of step 0
    base.json    or, where it is not kept: the source, its checkpoint, and a digest

Either way a run opens by itself: with the first wherever it is, with the second as
long as the source is where it was and has not changed.
"""

import hashlib
import os
import pathlib
import shutil
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np

from jaxllm import config_files, paths
from jaxllm.config import GPTConfig
from jaxllm.data import disk, tokenizers
from jaxllm.errors import CheckpointError, ConfigError
from jaxllm.finetuning import lora, parts
from jaxllm.finetuning.config import BaseConfig, FinetuneConfig
from jaxllm.models import gpt
from jaxllm.pretrained import load as pretrained
from jaxllm.pretrained import surgery
from jaxllm.training import checkpoints, runs
from jaxllm.training.runs import Folder
from jaxllm.training.state import TrainState
from jaxllm.types import Array, Params

if TYPE_CHECKING:
    from jaxllm.finetuning.tasks import Kind

Model = tuple[Params, GPTConfig, tokenizers.Tokenizer]
Step = int | Literal["last", "best"]

_KEPT, _REFERENCE = "base", "base.json"


def open_model(source: str, checkpoint: str = "last") -> Model:
    """Open a run directory, or a folder with a GPT-2 of Hugging Face or OpenAI.

    Args:
      checkpoint: last, best, or the step of one, in a run directory.
    """
    require_folder(source)
    return open_base(source, checkpoint)


def open_base(source: str, checkpoint: str = "last") -> Model:
    """Open what a run starts from: as `open_model`, or OWNER/NAME on the hub."""
    if runs.is_run(source):
        return load_run(source, step=step_of(checkpoint))
    params, cfg, tokenizer = pretrained.load_pretrained(source)
    if tokenizer is None:
        raise CheckpointError(
            f"{source} must hold a tokenizer (tokenizer.json, or GPT-2's vocab.json "
            "and merges.txt), it has none"
        )
    return params, cfg, tokenizer


def require_folder(source: str) -> None:
    """Refuse what is no folder on this machine."""
    if not os.path.isdir(source):
        raise CheckpointError(f"a run must be a folder that exists, got {source!r}")


def step_of(checkpoint: str) -> Step:
    """Read which checkpoint a text asks for.

    >>> step_of("best"), step_of("100")
    ('best', 100)
    """
    if checkpoint == "last" or checkpoint == "best":
        return checkpoint
    if checkpoint.isdigit():
        return int(checkpoint)
    raise ConfigError(f"checkpoint must be last, best, or a step, got {checkpoint!r}")


def load_run(run_dir: Folder, *, step: Step = "last") -> Model:
    """Open what a run has learned: the whole model's parameters, config, tokenizer.

    Adapters come merged. Of a classifier, `heads.classify` makes use.

    Args:
      step: of a checkpoint; "best" is the one with the lowest validation loss.

    Raises:
      CheckpointError: there is no such run or checkpoint, it is damaged, or the base
        that it refers to is gone or has changed.
    """
    if not is_finetuned(run_dir):
        return runs.load_run(run_dir, step=step)
    cfg = runs.read_config(run_dir, FinetuneConfig)
    trained, frozen = _read_trained(run_dir, cfg, step)
    frozen = read_frozen(run_dir, cfg, frozen)
    params = parts.join(trained, frozen, cfg.trainable)
    return params, cfg.model, tokenizers.load(pathlib.Path(run_dir) / runs.TOKENIZER)


def load_adapter(
    run_dir: Folder, *, step: Step = "last"
) -> tuple[lora.Lora, GPTConfig]:
    """Open the adapter that a run has learned, and not the base it stands on.

    Raises:
      ConfigError: something else than adapters has trained.
      CheckpointError: there is no such run or checkpoint, or it is damaged.
    """
    if not is_finetuned(run_dir):
        raise ConfigError(f"{os.fspath(run_dir)} must be a run of jaxllm finetune")
    cfg = runs.read_config(run_dir, FinetuneConfig)
    trained, _ = _read_trained(run_dir, cfg, step)
    adapter = parts.adapter_of(trained, cfg.trainable)
    if heads := sorted(trained.keys() - {parts.ADAPTERS}):
        raise ConfigError(
            f"only adapters must have trained, but {heads[0]} has too: "
            "without it the adapter is of no use"
        )
    return adapter, cfg.model


def _read_trained(
    run_dir: Folder, cfg: FinetuneConfig, step: Step
) -> tuple[Params, Params]:
    """Read what a run has learned; of what is frozen, return the shapes."""
    trained, frozen = jax.eval_shape(
        lambda key: parts.split(drawn_params(cfg, key), cfg.trainable, key=key),
        _any_key(),
    )
    folder = pathlib.Path(run_dir) / runs.CHECKPOINTS
    step = runs.find_step(run_dir, step)
    return checkpoints.restore_params(folder, step, trained), frozen


def is_finetuned(run_dir: Folder) -> bool:
    """Tell whether a folder holds a run of finetuning."""
    if not runs.is_run(run_dir):
        return False
    text = (pathlib.Path(run_dir) / runs.CONFIG).read_text("utf-8")
    return "task" in config_files.values_of_yaml(text)


def read_classifier(run_dir: Folder) -> FinetuneConfig | None:
    """Read the config of a classifier's run; None of any other folder."""
    if not is_finetuned(run_dir):
        return None
    cfg = runs.read_config(run_dir, FinetuneConfig)
    return cfg if cfg.task == "classify" else None


def keep_base(
    run_dir: Folder, frozen: Params, base: BaseConfig, digest: str | None
) -> None:
    """Write down what of a run's model does not train, or what it came from.

    What an earlier attempt left is deleted: it might be read in place of this.

    Args:
      digest: of the base's parameters, where only that is kept.
    """
    folder = pathlib.Path(run_dir) / _KEPT
    if jax.process_index() == 0:
        (pathlib.Path(run_dir) / _REFERENCE).unlink(missing_ok=True)
        shutil.rmtree(folder / "0", ignore_errors=True)
    if digest is None and frozen:
        state = TrainState(np.int32(0), frozen, (), _any_key())
        checkpoints.save(folder, state, {}).result()
    elif digest is not None and jax.process_index() == 0:
        source = base.source or ""
        if os.path.isdir(source):  # and no name on the hub
            source = os.path.abspath(source)
        reference = {"source": source, "checkpoint": base.checkpoint, "sha256": digest}
        disk.write_json(pathlib.Path(run_dir) / _REFERENCE, reference)


def read_frozen(run_dir: Folder, cfg: FinetuneConfig, like: Params) -> Params:
    """Read what of a run's model does not train.

    Args:
      like: its shapes, whose shardings say where everything goes.
    """
    reference = pathlib.Path(run_dir) / _REFERENCE
    if not like:
        return {}
    if not reference.exists():
        return checkpoints.restore_params(pathlib.Path(run_dir) / _KEPT, 0, like)
    known = disk.read_json(reference)
    try:
        params, model, _ = open_base(known["source"], known["checkpoint"])
    except CheckpointError as error:
        raise CheckpointError(
            f"the base of {os.fspath(run_dir)} is not where it was: {error}"
        ) from error
    if params_digest(params) != known["sha256"]:
        raise CheckpointError(
            f"{known['source']} is not what {os.fspath(run_dir)} started from: its "
            "parameters have changed"
        )
    params, model = grow_vocabulary(params, model, cfg.model.vocab_size, cfg.seed)
    params, _ = _kind(cfg).fit(params, model, cfg, key=_any_key())
    _, frozen = parts.split(params, cfg.trainable, key=_any_key())
    return jax.tree.map(
        lambda leaf, shape: jax.device_put(leaf, getattr(shape, "sharding", None)),
        frozen,
        like,
    )


def grow_vocabulary(
    params: Params, model: GPTConfig, vocab_size: int, seed: int
) -> tuple[Params, GPTConfig]:
    """Give a base rows for the tokens that a run adds, the same ones each time."""
    if vocab_size <= model.vocab_size:
        return params, model
    # A base lies on one device when it was read, whatever the run's mesh is.
    with jax.set_mesh(None):
        key = jax.random.fold_in(jax.random.key(seed), 2)
        return surgery.resize_vocabulary(params, model, vocab_size, key=key)


def params_digest(params: Params) -> str:
    """Compute the sha256 of parameters: of their paths, types, shapes and numbers.

    >>> params_digest({"bias": np.zeros(2, np.float32)})[:8]
    'a4f6cfbb'
    """
    digest = hashlib.sha256()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(jax.device_get(leaf))
        title = f"{paths.path_of(keys)} {array.dtype} {array.shape}\n"
        digest.update(title.encode() + array.tobytes())
    return digest.hexdigest()


def drawn_params(cfg: FinetuneConfig, key: Array) -> Params:
    """Draw a run's whole model: for jax.eval_shape, which finds its shapes."""
    params = gpt.init_params(key, cfg.model)
    return _kind(cfg).fit(params, cfg.model, cfg, key=key)[0]


def fitted_model(cfg: FinetuneConfig, model: GPTConfig) -> GPTConfig:
    """Find what a run's task makes of a model."""
    found = []

    def fit(key: Array) -> None:
        params = gpt.init_params(key, model)
        found.append(_kind(cfg).fit(params, model, cfg, key=key)[1])

    jax.eval_shape(fit, _any_key())  # so that nothing is drawn
    return found[0]


def _kind(cfg: FinetuneConfig) -> "Kind":
    """Find what a task does; it imports what trains, for which no text should wait."""
    from jaxllm.finetuning.kinds import KINDS

    return KINDS[cfg.task]


def _any_key() -> Array:
    """Make a key for what is read over, or looked at for its shape alone."""
    return jax.random.key(0)
