"""Greedy generation by transformers, with its cache, and by CTranslate2."""

import pathlib
from collections.abc import Iterator
from typing import Any

from benchmarks import generation, machine, processes
from benchmarks.suites import Options


def transformers_eager(options: Options) -> Iterator[dict[str, Any]]:
    """Generate with the cache that is transformers' default."""
    return _transformers(options)


def transformers_compiled(options: Options) -> Iterator[dict[str, Any]]:
    """Generate with a static cache, which transformers compiles for."""
    return _transformers(options, cache_implementation="static")


def _transformers(options: Options, **how: Any) -> Iterator[dict[str, Any]]:
    import torch
    from transformers import GPT2LMHeadModel

    device = "cuda" if options["device"] == "gpu" else "cpu"
    torch.set_num_threads(machine.cores())
    dtype = getattr(torch, options["dtype"])
    model = GPT2LMHeadModel.from_pretrained(options["folder"], dtype=dtype)
    model = model.to(device).eval()
    inputs = torch.from_numpy(generation.prompts(options)).long().to(device)
    mask = torch.ones_like(inputs)

    def call() -> list[list[int]]:
        with torch.inference_mode():
            rows = model.generate(
                inputs,
                attention_mask=mask,
                max_new_tokens=options["new"],
                min_new_tokens=options["new"],
                do_sample=False,
                pad_token_id=50256,
                **how,
            )
        return rows[:, inputs.shape[1] :].tolist()

    return generation.measured(options, call)


def ctranslate2(options: Options) -> Iterator[dict[str, Any]]:
    """Generate with weights that CTranslate2 has converted from the same folder."""
    import ctranslate2
    from transformers import AutoTokenizer

    converted = convert(options)
    generator = ctranslate2.Generator(
        str(converted),
        device="cuda" if options["device"] == "gpu" else "cpu",
        compute_type=options["dtype"],
        intra_threads=machine.cores(),
    )
    tokenizer = AutoTokenizer.from_pretrained(options["folder"])
    rows = [
        tokenizer.convert_ids_to_tokens(row)
        for row in generation.prompts(options).tolist()
    ]

    def call() -> list[list[int]]:
        results = generator.generate_batch(
            rows,
            max_length=options["new"],
            min_length=options["new"],
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    return generation.measured(options, call)


def ctranslate2_process(options: Options) -> Iterator[dict[str, Any]]:
    """Start a process that loads the converted weights and writes a first token."""
    import ctranslate2

    convert(options)
    return processes.first_lines(
        "-m",
        "benchmarks.peers.first_token",
        options["folder"],
        ctranslate2=ctranslate2.__version__,
    )


def convert(options: Options) -> pathlib.Path:
    """Convert the folder of weights, once for each type."""
    from ctranslate2.converters import TransformersConverter

    out = pathlib.Path(options["folder"]) / f"ctranslate2-{options['dtype']}"
    if not out.exists():
        quantization = "int8" if options["dtype"] == "int8" else None
        TransformersConverter(options["folder"]).convert(
            str(out), quantization=quantization
        )
    return out
