"""The table between GPT-2's tensors and our parameters, read in both directions.

GPT-2 keeps a tensor for each layer, and query, key and value side by side in one; we
keep one array for all layers, and heads as an axis. Nothing is computed on the way: a
layer of our array is a view of a tensor, so that reading a checkpoint is to copy out of
that view, and writing one is to copy into it.
"""

import dataclasses
import re

import numpy as np

from jaxllm.config import GPTConfig


@dataclasses.dataclass(frozen=True)
class Home:
    """Where one of our parameters lives in GPT-2's own tensors.

    Shapes are in the letters of `jaxllm.types`, and Q = 3 D, the width of query, key
    and value side by side.
    """

    path: str  # ours
    axes: str  # ours
    name: str  # Hugging Face's, with {} for the layer
    tensor_axes: str  # of that tensor
    third: int | None = None  # 0 query, 1 key, 2 value

    @property
    def stacked(self) -> bool:
        """Whether our array has an axis of layers, the first."""
        return self.axes.startswith("L")

    def shape(self, cfg: GPTConfig) -> tuple[int, ...]:
        """Return the shape of our array, the axis of layers included."""
        return _sizes(self.axes, cfg)

    def tensor_shape(self, cfg: GPTConfig) -> tuple[int, ...]:
        """Return the shape of GPT-2's tensor, which is one layer's."""
        return _sizes(self.tensor_axes, cfg)

    def tensor_names(self, cfg: GPTConfig) -> list[str]:
        """Return the names of the tensors that hold it, one for each layer."""
        layers = cfg.n_layers if self.stacked else 1
        return [self.name.format(layer) for layer in range(layers)]


_TABLE = (
    Home("token_embedding/embedding", "VD", "wte.weight", "VD"),
    Home("position_embedding/embedding", "CD", "wpe.weight", "CD"),
    Home("blocks/attention_norm/scale", "LD", "h.{}.ln_1.weight", "D"),
    Home("blocks/attention_norm/bias", "LD", "h.{}.ln_1.bias", "D"),
    Home("blocks/attention/query/kernel", "LDNH", "h.{}.attn.c_attn.weight", "DQ", 0),
    Home("blocks/attention/query/bias", "LNH", "h.{}.attn.c_attn.bias", "Q", 0),
    Home("blocks/attention/key/kernel", "LDNH", "h.{}.attn.c_attn.weight", "DQ", 1),
    Home("blocks/attention/key/bias", "LNH", "h.{}.attn.c_attn.bias", "Q", 1),
    Home("blocks/attention/value/kernel", "LDNH", "h.{}.attn.c_attn.weight", "DQ", 2),
    Home("blocks/attention/value/bias", "LNH", "h.{}.attn.c_attn.bias", "Q", 2),
    Home("blocks/attention/out/kernel", "LNHD", "h.{}.attn.c_proj.weight", "DD"),
    Home("blocks/attention/out/bias", "LD", "h.{}.attn.c_proj.bias", "D"),
    Home("blocks/mlp_norm/scale", "LD", "h.{}.ln_2.weight", "D"),
    Home("blocks/mlp_norm/bias", "LD", "h.{}.ln_2.bias", "D"),
    Home("blocks/mlp/up/kernel", "LDF", "h.{}.mlp.c_fc.weight", "DF"),
    Home("blocks/mlp/up/bias", "LF", "h.{}.mlp.c_fc.bias", "F"),
    Home("blocks/mlp/down/kernel", "LFD", "h.{}.mlp.c_proj.weight", "FD"),
    Home("blocks/mlp/down/bias", "LD", "h.{}.mlp.c_proj.bias", "D"),
    Home("final_norm/scale", "D", "ln_f.weight", "D"),
    Home("final_norm/bias", "D", "ln_f.bias", "D"),
)
TOKEN_EMBEDDING = _TABLE[0]
HEAD = Home("head/embedding", "VD", "lm_head.weight", "VD")


def homes(cfg: GPTConfig) -> tuple[Home, ...]:
    """List where each parameter of a model that GPT-2 can express lives.

    >>> [home.path for home in homes(GPTConfig(tied_head=False))][-2:]
    ['final_norm/bias', 'head/embedding']
    """
    return _TABLE if cfg.tied_head else (*_TABLE, HEAD)


def _sizes(axes: str, cfg: GPTConfig) -> tuple[int, ...]:
    size = {
        "V": cfg.vocab_size,
        "C": cfg.context_length,
        "D": cfg.emb_dim,
        "Q": 3 * cfg.emb_dim,
        "N": cfg.n_heads,
        "H": cfg.head_dim,
        "F": cfg.mlp_dim,
        "L": cfg.n_layers,
    }
    return tuple(size[axis] for axis in axes)


def view_as_ours(tensor: np.ndarray, home: Home, cfg: GPTConfig) -> np.ndarray:
    """View one of GPT-2's tensors as our parameter of one layer; nothing is copied.

    >>> cfg = GPTConfig(emb_dim=2, n_heads=2)
    >>> value = homes(cfg)[9]
    >>> view_as_ours(np.array([1, 2, 3, 4, 5, 6]), value, cfg)
    array([[5],
           [6]])
    """
    if home.third is not None:
        D = cfg.emb_dim
        tensor = tensor[..., home.third * D : (home.third + 1) * D]
    # Splitting an axis never needs a copy.
    return tensor.reshape(_sizes(home.axes.removeprefix("L"), cfg))


def huggingface_name(openai_name: str) -> str:
    """Translate a variable of OpenAI's checkpoint into Hugging Face's name for it.

    >>> huggingface_name("model/h11/attn/c_proj/w")
    'h.11.attn.c_proj.weight'
    >>> huggingface_name("model/wte")
    'wte.weight'
    """
    *scopes, last = openai_name.removeprefix("model/").split("/")
    scopes = [re.sub(r"^h(\d+)$", r"h.\1", scope) for scope in scopes]
    last = {
        "w": "weight",
        "g": "weight",
        "b": "bias",
        "wte": "wte.weight",
        "wpe": "wpe.weight",
    }.get(last, last)
    return ".".join([*scopes, last])
