"""GPT-style language models in JAX, from raw text to a trained assistant.

The public functions are those of `jaxllm.api`; they are imported when the first of them
is asked for, so that what only reads text does not wait for JAX.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `from jaxllm import paths` asks here first; a module is not the api's to give.
    if not name.startswith("_") and not importlib.util.find_spec(f"jaxllm.{name}"):
        api = importlib.import_module("jaxllm.api")
        if hasattr(api, name):
            return getattr(api, name)
    raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    api = importlib.import_module("jaxllm.api")
    return [name for name in vars(api) if not name.startswith("_")]
