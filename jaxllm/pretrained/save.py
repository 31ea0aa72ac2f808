"""Parameters, config and tokenizer in, a folder out that opens in transformers."""

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import disk
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import CheckpointError, ConfigError, DataError
from jaxllm.pretrained import configs, int8, surgery, tokenizer_files, weights
from jaxllm.types import Params

_FILE = "model.safetensors"

# What the folder of a model can have beside config.json, as patterns.
_OTHERS = (
    *(_FILE, "model.safetensors.index.json", "model-*-of-*.safetensors", int8.FILE),
    *("generation_config.json", *tokenizer_files.NAMES),
)


def save_pretrained(
    params: Params,
    cfg: GPTConfig,
    tokenizer: Tokenizer | None,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
) -> None:
    """Save a model as Hugging Face's GPT-2, with its tokenizer.

    `transformers.AutoModelForCausalLM` and `AutoTokenizer` open the folder and give the
    same logits and the same ids. A config field that only says how to compute (dtype,
    remat, unroll) or how to begin (init) has no place there and is left out.

    Args:
        tokenizer: a byte-level BPE or a character tokenizer; None writes none.
        folder: made if need be; the files of a model that is there are replaced.
        dtype: float32, which loses nothing; float16 or bfloat16, which round; or int8,
            a quarter as large, which `load_pretrained` alone opens (see `int8`).

    Raises:
        ConfigError: GPT-2 cannot express the config; the field is named.
        TokenizerError: transformers has no tokenizer of this kind.
        CheckpointError: the parameters are not those of the config, or one is beyond
            what float16 holds.
        DataError: the folder cannot be written, or holds a model that would be read
            instead: in OpenAI's form, or as a pickle.
    """
    folder = _free_folder(folder)
    end_of_text = None if tokenizer is None else tokenizer.end_of_text
    if dtype == "int8":
        config = configs.to_huggingface(cfg, end_of_text) | int8.CONFIG
        name = int8.FILE
    else:
        config = configs.to_huggingface(cfg, end_of_text, dtype)
        name = _FILE
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
        },
    }
    if tokenizer is not None:
        tokenizer_files.require_fit(tokenizer, cfg)
        files |= tokenizer_files.write(tokenizer, cfg.context_length)
    weights.write_params(params, cfg, folder / name, dtype)
    _write_files(folder, files, name)


def save_classifier(
    params: Params,
    cfg: GPTConfig,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    max_length: int | None = None,
    dtype: str = "float32",
) -> None:
    """Save a classifier as Hugging Face's GPT2ForSequenceClassification.

    `transformers.pipeline("text-classification", folder)` opens it, and gives the same
    logits for a text alone as for one that is padded. A text is judged by its last
    token that does not pad. The head there has no bias: it goes into the final norm.

    Args:
        tokenizer: has an end of text, which pads and is never part of a text.
        labels: the name of each class, in the order of the head's columns.
        max_length: tokens past which a text is cut; the context if None.

    Raises:
        ConfigError: GPT-2 cannot express the config, the tokenizer has nothing to pad
            with, or the labels are not as many as the head's, each with its own name.
        CheckpointError: the parameters have no head, or as `save_pretrained`.
        TokenizerError, DataError: as `save_pretrained`.
    """
    folder, end_of_text = _free_folder(folder), tokenizer.end_of_text
    _require_labels(params, labels)
    if end_of_text is None:
        raise ConfigError(
            "GPT2ForSequenceClassification needs an end of text to pad with; the "
            f"tokenizer has the special tokens {list(tokenizer.special_tokens)}"
        )
    tokenizer_files.require_fit(tokenizer, cfg)
    settings = configs.to_huggingface(cfg, end_of_text, dtype) | {
        "architectures": ["GPT2ForSequenceClassification"],
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "pad_token_id": end_of_text,
    }
    files = tokenizer_files.write(tokenizer, max_length or cfg.context_length)
    params = surgery.fold_head_bias(params)
    body = {name: tree for name, tree in params.items() if name != "classifier"}
    score = np.asarray(params["classifier"]["kernel"], np.float32).T  # (K, D)
    weights.write_params(body, cfg, folder / _FILE, dtype, more={"score.weight": score})
    _write_files(folder, {"config.json": settings} | files, _FILE)


def _free_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Refuse a folder with files that would be read instead of ours."""
    folder = pathlib.Path(folder)
    for form, pattern in (
        ("in OpenAI's form", "hparams.json"),
        ("as a pickle", "pytorch_model*.bin"),
    ):
        for path in folder.glob(pattern):
            raise DataError(
                f"{folder} holds a model {form}, {path.name}; name another folder"
            )
    return folder


def _require_labels(params: Params, labels: Sequence[str]) -> None:
    if "classifier" not in params:
        raise CheckpointError(
            f"a classifier must have a head, 'classifier', got {', '.join(params)}"
        )
    classes = params["classifier"]["kernel"].shape[-1]
    if len(labels) != classes or len(set(labels)) != classes:
        raise ConfigError(
            f"labels must be {classes} different names, one for each class, "
            f"got {', '.join(map(repr, labels)) or 'none'}"
        )


def _write_files(folder: pathlib.Path, files: dict[str, Any], weights: str) -> None:
    """Write what stands beside the weights, and take away what another model left."""
    for path in itertools.chain.from_iterable(map(folder.glob, _OTHERS)):
        if path.name not in {*files, weights}:
            path.unlink(missing_ok=True)
    for name, content in files.items():
        if isinstance(content, str):
            with disk.atomic_writer(folder / name) as file:
                file.write(content.encode())
        else:
            disk.write_json(folder / name, content)
