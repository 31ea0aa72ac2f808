"""Arguments in, exit status out: runs a command, and puts mistakes into one line."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable

import jaxllm
from jaxllm.cli import arguments, runtime
from jaxllm.errors import JaxllmError, ProcessLostError

# In the order of a model's life. The module of that name is imported when it is run.
COMMANDS = {
    "prepare": "tokenize a corpus into a token store",
    "train": "pretrain a model from a config, or resume a run",
    "evaluate": "measure loss, perplexity and bits per byte",
    "lm_eval": "run EleutherAI's lm-evaluation-harness",
    "answer": "answer records of instructions, for a judge",
    "judge": "let another model grade answers",
    "generate": "complete a prompt",
    "chat": "talk with a model in the terminal",
    "finetune": "train a classifier, an assistant, or LoRA",
    "classify": "tell the classes of texts",
    "convert": "exchange models with Hugging Face and OpenAI's GPT-2",
    "tokenizer": "train, encode, decode, compare",
    "vectors": "train word2vec; similar, analogy, plot",
    "inspect": "count parameters, memory and FLOPs of a config or a run",
    "plot": "draw losses, attention, positions, lengths, memory",
    "verify": "recompute the figures of the notes",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command, and return the exit status: 0, 2 for a mistake, 130 for Ctrl-C."""
    return reported(_run, sys.argv[1:] if argv is None else argv, program="jaxllm: ")


def reported(run: Callable[[list[str]], int], argv: list[str], *, program="") -> int:
    """Run what ends in an exit status, and put a mistake into one line; as `main`.

    Args:
        program: what the line begins with, in front of "error: ".
    """
    try:
        return run(argv)
    except SystemExit as stop:  # argparse ends so after --help.
        return int(stop.code or 0)
    except ProcessLostError as error:
        _fail(program, str(error))
        sys.stdout.flush()
        # The ordinary end of a process would wait for the one that is gone.
        os._exit(1)
    except JaxllmError as error:
        return _fail(program, str(error))
    except BrokenPipeError:  # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.strerror is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        return _fail(program, error.strerror + where)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def available_commands() -> dict[str, str]:
    """List the commands whose module is there, with the line that describes each."""
    return {
        command: about
        for command, about in COMMANDS.items()
        if importlib.util.find_spec(f"jaxllm.cli.{command}")
    }


def _run(argv: list[str]) -> int:
    if argv == ["--version"]:
        print(f"jaxllm {jaxllm.__version__}")
        return 0
    about = "GPT-style language models in JAX, from raw text to a trained assistant."
    name, rest = arguments.choose(available_commands(), argv, "jaxllm", about)
    runtime.start()
    return importlib.import_module(f"jaxllm.cli.{name}").main(rest)


def _fail(program: str, message: str) -> int:
    print(f"{program}error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
