"""A matrix in, as int8 with a scale for each output out; and the pairs of a file back.

Our own form of a Hugging Face folder, a quarter as large: the same tensors under the
same names, in model-int8.safetensors. Beside each matrix M.weight of int8 lies
M.weight_scale, float32: weight × weight_scale is the matrix, where the scale has one
number for each output and an axis of 1 for the inputs. Positions, biases and norms are
float32. The largest weight of an output is ±127, so that packing the matrices in int8
for decoding (`models.packed`) gives the stored numbers again.

transformers finds no model.safetensors in such a folder and refuses it, rather than
to read the numbers without their scales.
"""

import pathlib

import numpy as np

from jaxllm.errors import CheckpointError
from jaxllm.pretrained.names import HEAD, TOKEN_EMBEDDING, Home
from jaxllm.pretrained.tensors import FLOATS, StoredTensor

FILE = "model-int8.safetensors"
DTYPE = np.dtype("i1")
_SCALE = "_scale"

# What config.json says of it.
CONFIG = {
    "quantization_config": {
        "quant_method": "jaxllm",
        "bits": 8,
        "scales": "one for each output of a matrix, in weight_scale",
    }
}


def scale_name(name: str) -> str:
    """Name the tensor with the scales of a matrix."""
    return name + _SCALE


def input_axis(home: Home) -> int | None:
    """Tell which axis of a tensor is that of the inputs; None if it is not stored so.

    A layer's matrices are (in, out), as GPT-2 has them; the head, which is the table of
    tokens too, gives a logit for each of its rows.
    """
    if home in (TOKEN_EMBEDDING, HEAD):
        return 1
    return 0 if home.stacked and len(home.tensor_axes) == 2 else None


def scales(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Find what the weights of each output are multiples of, the largest 127 times.

    >>> scales(np.array([[-127.0, 2.54], [0.0, 0.0]]), axis=1).tolist()
    [[1.0], [0.0]]
    """
    return np.abs(matrix).max(axis=axis, keepdims=True).astype(np.float32) / 127


def rounded(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Round to multiples of the scales.

    >>> rounded(np.array([[-127.0, 2.54], [0.0, 0.0]]), axis=1).tolist()
    [[-127, 3], [0, 0]]
    """
    scale = scales(matrix, axis)
    return np.round(matrix / np.where(scale > 0, scale, 1)).astype(DTYPE)


def is_folder(folder: pathlib.Path) -> bool:
    """Find out whether a folder holds a model in this form."""
    return (folder / FILE).is_file()


def with_scales(table: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Give each int8 tensor of a file the scales that lie beside it.

    Raises:
        CheckpointError: there are none, or they do not fit the tensor.
    """
    joined = {}
    for name, stored in table.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in table:
            continue
        if stored.dtype == DTYPE:
            scale = table.get(scale_name(name))
            if scale is None or not _fits(scale, stored):
                raise CheckpointError(
                    f"{stored.path.name}: tensor {stored.name} of shape {stored.shape} "
                    f"needs float32 scales for one of its axes in "
                    f"{scale_name(stored.name)}, got {scale and scale.shape}"
                )
            stored = stored._replace(scale=scale)
        joined[name] = stored
    return joined


def _fits(scale: StoredTensor, stored: StoredTensor) -> bool:
    if len(stored.shape) != 2 or scale.dtype != FLOATS["float32"]:
        return False
    n_rows, n_columns = stored.shape
    return scale.shape in ((n_rows, 1), (1, n_columns))
