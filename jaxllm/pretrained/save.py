"""Parameters, config and tokenizer in, a folder out that opens in transformers."""

import os
import pathlib
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.data import disk
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.pretrained import configs, tokenizer_files, weights
from jaxllm.types import Params


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
        folder: made if need be; files of the same names are replaced.
        dtype: float32, which loses nothing; or float16 or bfloat16, which round.

    Raises:
        ConfigError: GPT-2 cannot express the config; the field is named.
        TokenizerError: transformers has no tokenizer of this kind.
        CheckpointError: the parameters are not those of the config.
        DataError: the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    end_of_text = None if tokenizer is None else tokenizer.end_of_text
    files: dict[str, Any] = {
        "config.json": configs.to_huggingface(cfg, end_of_text, dtype),
        "generation_config.json": {
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
        },
    }
    if tokenizer is not None:
        tokenizer_files.require_fit(tokenizer, cfg)
        files |= tokenizer_files.write(tokenizer, cfg.context_length)
    weights.write_params(params, cfg, folder / "model.safetensors", dtype)
    for name, content in files.items():
        if isinstance(content, str):
            with disk.atomic_writer(folder / name) as file:
                file.write(content.encode())
        else:
            disk.write_json(folder / name, content)
