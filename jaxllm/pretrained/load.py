"""A published GPT-2 in, parameters, config and tokenizer out.

Two forms are read: Hugging Face's folder (config.json, safetensors) and OpenAI's
(hparams.json, a TensorFlow checkpoint). Nothing that could run code is opened.
"""

import os
import pathlib
import re
from typing import Literal

import jax
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import disk
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import CheckpointError
from jaxllm.pretrained import (
    configs,
    hub,
    int8,
    names,
    safetensors_file,
    tensor_bundle,
    tensors,
    tokenizer_files,
    weights,
)
from jaxllm.pretrained.tensors import StoredTensor
from jaxllm.types import Params

_PREFIX = "transformer."


def load_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Params, GPTConfig, Tokenizer | None]:
    """Load a GPT-2: its parameters, its config and its tokenizer.

    Args:
        source: a folder of either form, or OWNER/NAME of a model on the Hugging Face
            hub, which needs the extra `jaxllm[hub]` and is cached.
        revision: a branch, tag or commit of a model on the hub.
        mesh: devices over which the parameters are split; None for the default one.

    Returns:
        the parameters in float32, whatever they are stored in; the config; and the
        tokenizer, or None where the folder has none.

    Raises:
        CheckpointError: a file is missing, damaged, of a form that can hold code, or
            does not fit the config; before anything has been used.
        DataError: a file cannot be read, or is not JSON.
        ConfigError: it is not a GPT-2 that this library computes.
        TokenizerError: the tokenizer cannot be read, or has ids beyond the model's.
    """
    _refuse_pickle(pathlib.Path(source))
    folder = hub.find_folder(source, revision)
    if (folder / "hparams.json").exists():
        cfg, table = _read_openai(folder)
    else:
        cfg, table = _read_huggingface(folder)
    tokenizer = tokenizer_files.read(folder)
    if tokenizer is not None:
        tokenizer_files.require_fit(tokenizer, cfg)
    return weights.read_params(table, cfg, mesh=mesh), cfg, tokenizer


def stored_weights(source: str | os.PathLike[str]) -> Literal["int8"] | None:
    """Tell in which bits a folder's matrices are stored, where it is not in floats."""
    return "int8" if int8.is_folder(pathlib.Path(source)) else None


def _read_openai(folder: pathlib.Path) -> tuple[GPTConfig, dict[str, StoredTensor]]:
    """Read OpenAI's form; its convolution kernels have a leading axis of one."""
    cfg = configs.from_openai(disk.read_json(folder / "hparams.json"))
    pointer = folder / "checkpoint"
    text = pointer.read_text("utf-8") if pointer.exists() else ""
    found = re.search(r'^model_checkpoint_path: "([^"]+)"', text, re.MULTILINE)
    if not found:
        raise CheckpointError(
            f"{pointer} must name the checkpoint: 'model_checkpoint_path: \"...\"'"
        )
    # It may be the full path on the machine that wrote it.
    prefix = folder / pathlib.PurePosixPath(found[1]).name
    table = {}
    for name, stored in tensor_bundle.read_table(prefix).items():
        if len(stored.shape) == 3 and stored.shape[0] == 1:
            stored = stored._replace(shape=stored.shape[1:])
        table[names.huggingface_name(name)] = stored
    return cfg, table


def _read_huggingface(
    folder: pathlib.Path,
) -> tuple[GPTConfig, dict[str, StoredTensor]]:
    if not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} must hold config.json (Hugging Face) or hparams.json (OpenAI)"
        )
    settings = disk.read_json(folder / "config.json")
    if int8.is_folder(folder):
        found = int8.with_scales(safetensors_file.read_table(folder / int8.FILE))
    else:
        _require_safetensors(folder)
        found = safetensors_file.read_folder(folder)
    if "score.weight" in found:
        raise CheckpointError(
            f"{folder} must hold a language model, got a classifier, score.weight; use "
            "the run that it was saved from, or transformers.pipeline("
            f"'text-classification', '{folder}')"
        )
    table = {name.removeprefix(_PREFIX): stored for name, stored in found.items()}
    table, tied = _settle_head(table, configs.from_huggingface(settings).tied_head)
    return configs.from_huggingface(settings | {"tie_word_embeddings": tied}), table


def _require_safetensors(folder: pathlib.Path) -> None:
    files = ("model.safetensors", "model.safetensors.index.json")
    if any((folder / file).exists() for file in files):
        return
    for path in sorted(folder.iterdir()):
        _refuse_pickle(path)
    raise CheckpointError(f"{folder} must hold model.safetensors, or an index of parts")


def _refuse_pickle(path: pathlib.Path) -> None:
    if path.suffix in (".bin", ".pt", ".pth") and path.is_file():
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened. If you trust "
            'it, convert its folder: python -c "import transformers as t; '
            f"m = t.GPT2LMHeadModel.from_pretrained('{path.parent}'); "
            f"m.save_pretrained('{path.parent}')\""
        )


def _settle_head(
    table: dict[str, StoredTensor], tied: bool
) -> tuple[dict[str, StoredTensor], bool]:
    """Decide whether the head is tied, and drop a tensor that is stored twice.

    As transformers does: a tied pair may be stored under either name or under both; if
    both are there and differ, the config is wrong and the head is untied.
    """
    embedding, head = names.TOKEN_EMBEDDING.name, names.HEAD.name
    if not tied or head not in table:
        return table, tied
    rest = {name: stored for name, stored in table.items() if name != head}
    if embedding not in table:
        return rest | {embedding: table[head]}, True
    same = _equal(table[embedding], table[head])
    return (rest, True) if same else (table, False)


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    if a.shape != b.shape:
        return False
    A, B = tensors.read_tensor(a), tensors.read_tensor(b)
    return all(np.array_equal(row, other) for row, other in zip(A, B, strict=True))
