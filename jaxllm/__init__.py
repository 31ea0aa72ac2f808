"""GPT-style language models in JAX, from raw text to a trained assistant.

The public functions, in the order of the data's way. They are imported when they are
first asked for, so that reading text does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.config import (
        DataConfig,
        GPTConfig,
        LoopConfig,
        MeshConfig,
        OptimizerConfig,
        TokenizerConfig,
        TrainConfig,
        gpt2_config,
        gpt3_config,
    )
    from jaxllm.errors import JaxllmError
    from jaxllm.types import Batch

_HOME = {
    "config": (
        "DataConfig GPTConfig LoopConfig MeshConfig OptimizerConfig TokenizerConfig "
        "TrainConfig gpt2_config gpt3_config"
    ),
    "errors": "JaxllmError",
    "types": "Batch",
}
_MODULE_OF = {
    name: f"jaxllm.{module}"
    for module, names in _HOME.items()
    for name in names.split()
}

__version__ = "0.1.0"
__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
