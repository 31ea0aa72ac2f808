"""GPT-2's own settings in, a GPTConfig out, and back.

Hugging Face keeps them in config.json, OpenAI in hparams.json. A setting that our model
does not know is an error that names it, in either direction.
"""

from typing import Any, Literal

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.pretrained.tensors import FLOATS

# What config.json leaves out has GPT2Config's default.
_HUGGINGFACE_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_OUR_ACTIVATION: dict[str, Literal["gelu_tanh", "gelu_erf"]] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu_erf",
}
# Variants of GPT-2 that compute something else; the value that we compute.
_HUGGINGFACE_FIXED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# What GPT-2 is, in our words.
_GPT2_FIXED = {
    "positions": "learned",
    "qkv_bias": True,
    "causal": True,
    "attention_window": None,
}


def from_huggingface(settings: dict[str, Any]) -> GPTConfig:
    """Read a GPTConfig out of what Hugging Face's config.json holds.

    Ours is one dropout rate; it is taken from resid_pdrop. No logit depends on it.

    Raises:
        ConfigError: it describes a model that this library does not compute.

    >>> from_huggingface({"model_type": "gpt2", "n_embd": 64, "n_head": 4}).emb_dim
    64
    """
    for name, wanted in _HUGGINGFACE_FIXED.items():
        if settings.get(name, wanted) != wanted:
            raise ConfigError(
                f"config.json: {name} must be {wanted}, got {settings[name]!r}"
            )
    known = _HUGGINGFACE_DEFAULTS | settings
    _require_types(known)
    mlp_ratio, rest = divmod(known["n_inner"] or 4 * known["n_embd"], known["n_embd"])
    if rest:
        raise ConfigError(
            "config.json: n_inner must be a multiple of n_embd, "
            f"got {known['n_inner']} and {known['n_embd']}"
        )
    return GPTConfig(
        vocab_size=known["vocab_size"],
        context_length=known["n_positions"],
        emb_dim=known["n_embd"],
        n_heads=known["n_head"],
        n_layers=known["n_layer"],
        drop_rate=known["resid_pdrop"],
        tied_head=known["tie_word_embeddings"],
        mlp_ratio=mlp_ratio,
        activation=_OUR_ACTIVATION[known["activation_function"]],
        norm_eps=known["layer_norm_epsilon"],
    )


def _require_types(known: dict[str, Any]) -> None:
    """Raise ConfigError unless each setting is of its type; n_inner may be null."""

    def require(holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise ConfigError(
                f"config.json: {name} must be {rule}, got {known[name]!r}"
            )

    # By type(), since true is an int in Python.
    sizes = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"]
    for name in sizes + ["n_inner"] * (known["n_inner"] is not None):
        holds = type(known[name]) is int and known[name] >= 1
        require(holds, name, "a whole number >= 1")
    for name in ("resid_pdrop", "layer_norm_epsilon"):
        require(type(known[name]) in (int, float), name, "a number")
    name = "tie_word_embeddings"
    require(type(known[name]) is bool, name, "true or false")
    name, choices = "activation_function", [*_OUR_ACTIVATION]
    require(known[name] in choices, name, f"one of {', '.join(choices)}")


def to_huggingface(
    cfg: GPTConfig, end_of_text: int | None = None, dtype: str = "float32"
) -> dict[str, Any]:
    """Write a GPTConfig as Hugging Face's config.json.

    Args:
        end_of_text: id of the token that opens and closes a text, if there is one.
        dtype: the type of the stored tensors.

    Raises:
        ConfigError: GPT-2 has no such setting; the field is named.

    >>> to_huggingface(GPTConfig(n_layers=3))["n_layer"]
    3
    >>> to_huggingface(GPTConfig(positions="rotary"))
    Traceback (most recent call last):
    ...
    jaxllm.errors.ConfigError: GPT-2 needs positions='learned', got 'rotary'
    """
    if dtype not in FLOATS:
        raise ConfigError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}")
    for name, wanted in _GPT2_FIXED.items():
        if getattr(cfg, name) != wanted:
            hint = "; add_qkv_bias makes it so" if name == "qkv_bias" else ""
            raise ConfigError(
                f"GPT-2 needs {name}={wanted!r}, got {getattr(cfg, name)!r}{hint}"
            )
    if cfg.kv_heads != cfg.n_heads:
        raise ConfigError(
            f"GPT-2 needs n_kv_heads={cfg.n_heads}, as many as n_heads, "
            f"got {cfg.n_kv_heads}"
        )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": cfg.vocab_size,
        "n_positions": cfg.context_length,
        "n_embd": cfg.emb_dim,
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
        "n_inner": None if cfg.mlp_ratio == 4 else cfg.mlp_dim,
        "activation_function": {"gelu_tanh": "gelu_new", "gelu_erf": "gelu"}[
            cfg.activation
        ],
        "resid_pdrop": cfg.drop_rate,
        "embd_pdrop": cfg.drop_rate,
        "attn_pdrop": cfg.drop_rate,
        "layer_norm_epsilon": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied_head,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }


def from_openai(hparams: dict[str, Any]) -> GPTConfig:
    """Read a GPTConfig out of what OpenAI's hparams.json holds.

    >>> from_openai({"n_vocab": 9, "n_ctx": 8, "n_embd": 6, "n_head": 2, "n_layer": 3})
    ... # doctest: +ELLIPSIS
    GPTConfig(vocab_size=9, context_length=8, emb_dim=6, n_heads=2, ..., n_layers=3, ...
    """
    try:
        return GPTConfig(
            vocab_size=hparams["n_vocab"],
            context_length=hparams["n_ctx"],
            emb_dim=hparams["n_embd"],
            n_heads=hparams["n_head"],
            n_layers=hparams["n_layer"],
        )
    except KeyError as error:
        raise ConfigError(f"hparams.json must hold {error}, got {hparams}") from error
