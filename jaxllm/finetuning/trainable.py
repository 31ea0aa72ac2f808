"""Rules on paths in, what trains and what stays out.

Parameters of all blocks are stacked along a layer axis, so what trains of them is a
matter of layers: a rule's value is True, False, or a slice of the first axis.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxllm import paths
from jaxllm.errors import ConfigError
from jaxllm.types import Params

Rules = Sequence[tuple[str, bool | slice]]

ALL: Rules = (("", True),)
HEAD: Rules = (("^classifier/", True), ("", False))


def last_tokens(count: int) -> Rules:
    """Let the rows of the last tokens train: rules that stand before others.

    >>> last_tokens(3), last_tokens(0)
    ((('^(token_embedding|head)/', slice(-3, None, None)),), ())
    """
    return (("^(token_embedding|head)/", slice(-count, None)),) if count else ()


def last_blocks(count: int) -> Rules:
    """Let the last blocks train, with the final norm and the classifier behind them.

    >>> last_blocks(2)[1]
    ('^blocks/', slice(-2, None, None))
    """
    if count < 1:
        raise ConfigError(f"count must be >= 1, got {count}")
    behind = ("^(final_norm|classifier)/", True)
    return (behind, ("^blocks/", slice(-count, None)), ("", False))


def split(params: Params, rules: Rules) -> tuple[Params, Params]:
    """Part parameters into what trains and what is frozen; `join` undoes it.

    What is differentiated, updated and saved is then only what trains. A slice, of
    layers or of tokens, must go to the last one.

    >>> import jax
    >>> params = {"blocks": {"bias": jnp.zeros((3, 2))}, "final_norm": jnp.zeros(2)}
    >>> trained, frozen = split(params, [("blocks", slice(-1, None)), ("", False)])
    >>> jax.tree.map(jnp.shape, trained), jax.tree.map(jnp.shape, frozen)
    ({'blocks': {'bias': (1, 2)}}, {'blocks': {'bias': (2, 2)}, 'final_norm': (2,)})
    """
    trained, frozen = _split(params, "", rules)
    return trained or {}, frozen or {}


def _split(tree: Any, path: str, rules: Rules) -> tuple[Any, Any]:
    if isinstance(tree, dict):
        start = f"{path}/" if path else ""
        parts = {name: _split(sub, start + name, rules) for name, sub in tree.items()}
        trained, frozen = (
            {name: part[side] for name, part in parts.items() if part[side] is not None}
            for side in (0, 1)
        )
        return trained or None, frozen or None
    chosen = paths.first_match(path, rules)
    if isinstance(chosen, bool):
        return (tree, None) if chosen else (None, tree)
    first, end, _ = chosen.indices(tree.shape[0])
    if end < tree.shape[0]:
        raise ConfigError(f"what trains of {path} must be its last, got {chosen}")
    return tree[first:], tree[:first] if first else None


def join(trained: Params, frozen: Params) -> Params:
    """Put together what `split` has parted; layers and tokens that train come last.

    >>> join({"bias": jnp.ones(1)}, {"bias": jnp.zeros(2)})["bias"].tolist()
    [0.0, 0.0, 1.0]
    """
    shared = {
        name: join(trained[name], frozen[name])
        if isinstance(trained[name], dict)
        else jnp.concatenate([frozen[name], trained[name]])
        for name in trained.keys() & frozen.keys()
    }
    return frozen | trained | shared
