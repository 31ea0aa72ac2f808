"""A process that loads a model into CTranslate2 and prints one token after a text."""

import pathlib
import sys

import ctranslate2
import tokenizers

from benchmarks import machine
from benchmarks.generation import TEXT


def main(folder: pathlib.Path) -> None:
    """Print the first token that the model writes after the text."""
    generator = ctranslate2.Generator(
        str(folder / "ctranslate2-float32"), intra_threads=machine.cores()
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode(TEXT).tokens
    result = generator.generate_batch(
        [prompt], max_length=1, min_length=1, include_prompt_in_result=False
    )
    print(TEXT + tokenizer.decode(result[0].sequences_ids[0]), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
