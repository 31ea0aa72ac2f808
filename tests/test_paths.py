"""The first rule that is found in a path decides; a path without one is a mistake."""

import collections

import pytest

from jaxllm import paths
from jaxllm.errors import ConfigError

TREE = {"blocks": {"mlp": {"up": {"kernel": 1, "bias": 2}}}, "head": {"embedding": 3}}


def test_the_first_rule_wins():
    rules = [("mlp/up/kernel$", "a"), ("mlp", "b"), ("", "c")]
    assert paths.match_rules(TREE, rules) == {
        "blocks": {"mlp": {"up": {"kernel": "a", "bias": "b"}}},
        "head": {"embedding": "c"},
    }


def test_a_path_without_a_rule_is_named_with_the_rules():
    with pytest.raises(ConfigError, match=r"'head/embedding'; the patterns are mlp"):
        paths.match_rules(TREE, [("mlp", 0)])


def test_tuples_and_named_tuples_have_paths_too():
    Pair = collections.namedtuple("Pair", "left right")
    tree = (Pair({"w": 1}, 2),)
    found = paths.map_with_path(lambda path, leaf: path, tree)
    assert found == (Pair({"w": "0/left/w"}, "0/right"),)
