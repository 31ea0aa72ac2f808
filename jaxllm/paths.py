"""A tree of parameters in, a value for each of them out, by rules on their paths.

Sharding, weight decay, freezing and loading are each a list of (pattern, value). The
path of a parameter is its keys joined by "/": "blocks/mlp/up/kernel".
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from jaxllm.errors import ConfigError

Value = TypeVar("Value")


def path_of(keys: Sequence[Any]) -> str:
    """Join the keys of one leaf, as jax.tree_util gives them, into its path.

    >>> tree = {"mlp": {"up": {"bias": 0}}}
    >>> [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
    ['mlp/up/bias']
    """
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def first_match(path: str, rules: Sequence[tuple[str, Value]]) -> Value:
    """Return the value of the first rule whose pattern is found in the path.

    A pattern is a regular expression that may match anywhere: "kernel$" is every
    kernel, also that of an optimizer's moments, whose path ends like its parameter's.

    Raises ConfigError where no rule matches: a forgotten parameter is a mistake.

    >>> first_match("blocks/mlp/up/bias", [("kernel$", "decay"), ("bias$", "keep")])
    'keep'
    >>> first_match("blocks/mlp/up/gate", [("kernel$", "decay"), ("bias$", "keep")])
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: no rule matches 'blocks/mlp/up/gate'; the patterns are
    kernel$, bias$
    """
    for pattern, value in rules:
        if re.search(pattern, path):
            return value
    patterns = ", ".join(pattern for pattern, _ in rules)
    raise ConfigError(f"no rule matches {path!r}; the patterns are {patterns}")


def match_rules(tree: Any, rules: Sequence[tuple[str, Value]]) -> Any:
    """Give every leaf of a tree the value of the first rule that matches its path.

    >>> match_rules({"up": {"kernel": 0, "bias": 0}}, [("kernel$", True), ("", False)])
    {'up': {'bias': False, 'kernel': True}}
    """
    return map_with_path(lambda path, _: first_match(path, rules), tree)


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Map a function of (path, leaf) over the leaves of a tree.

    >>> map_with_path(lambda path, leaf: (path, leaf), {"a": {"b": 1}})
    {'a': {'b': ('a/b', 1)}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: function(path_of(keys), leaf), tree
    )
