"""A config in, YAML out, and back: strict about keys and types, and safe to load.

    to_yaml(config) -> text          from_yaml(text, TrainConfig) -> config

The types of the dataclass are the schema. The command line reads its overrides
through the same `from_values`, so a key is checked in one place.
"""

import contextlib
import dataclasses
import difflib
import pathlib
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

import yaml

from jaxllm.errors import ConfigError

T = TypeVar("T")


def to_yaml(config: Any) -> str:
    """Write a config as YAML, every key in the order of its definition.

    >>> from jaxllm.config import MeshConfig
    >>> print(to_yaml(MeshConfig(tensor=2)), end="")
    data: -1
    fsdp: 1
    sequence: 1
    tensor: 2
    """
    return yaml.safe_dump(
        dataclasses.asdict(config, dict_factory=_plain_dict),
        sort_keys=False,
        allow_unicode=True,
    )


def from_yaml(text: str, cls: type[T]) -> T:
    """Read a config from YAML; what the text leaves out takes its default.

    Raises:
        ConfigError: The text is not YAML, a key is unknown (the nearest right one is
            named), a value has another type, or the config breaks one of its rules.

    >>> from jaxllm.config import TrainConfig
    >>> from_yaml("model: {n_layers: 2}", TrainConfig).model.n_layers
    2
    >>> from_yaml("model: {n_layer: 2}", TrainConfig)
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: unknown key 'model.n_layer'; did you mean
    'model.n_layers'?
    """
    return from_values(values_of_yaml(text), cls)


def read_config(path: str | pathlib.Path, cls: type[T]) -> T:
    """Read a config from a YAML file; errors as in `from_yaml`, with the path."""
    try:
        return from_yaml(pathlib.Path(path).read_text(encoding="utf-8"), cls)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} must be UTF-8 text, it is not") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def values_of_yaml(text: str) -> dict[str, Any]:
    """Load YAML whose top level is a mapping (nothing at all is an empty one).

    >>> values_of_yaml("seed: 1")
    {'seed': 1}
    """
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"a config is a mapping of keys to values, got {values!r}")
    return values


def from_values(values: dict[str, Any], cls: type[T]) -> T:
    """Build a config from nested plain values, as YAML or JSON hold them.

    >>> from jaxllm.config import OptimizerConfig
    >>> from_values({"learning_rate": "6e-4"}, OptimizerConfig).learning_rate
    0.0006
    >>> from_values({"warmup_steps": "many"}, OptimizerConfig)
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: warmup_steps must be an integer, got 'many'
    """
    return _build(values, cls, "", types_of_keys(cls))


def types_of_keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """List every key of a config by its dotted name, with its type.

    >>> from jaxllm.config import TrainConfig
    >>> types_of_keys(TrainConfig)["optimizer.grad_clip"]
    float | None
    """
    kinds: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            kinds |= types_of_keys(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            kinds[prefix + name] = kind
    return kinds


def describe(kind: Any) -> str:
    """Say in words what a type wants.

    >>> describe(int | None)
    'an integer or null'
    >>> describe(tuple[str, ...])
    'a list, each a string'
    """
    args = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Union | types.UnionType:
            return " or ".join(describe(arg) for arg in args)
        case typing.Literal:
            return "one of " + ", ".join(map(str, args))
        case origin if origin is tuple:
            return f"a list, each {describe(args[0])}"
    words = {int: "an integer", float: "a number", str: "a string"}
    words |= {bool: "true or false", type(None): "null"}
    return words[kind]


def is_required(field: dataclasses.Field) -> bool:
    """Tell whether a field has no default."""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def nearest(word: str, known: Iterable[str]) -> str:
    """Find the known key that is nearest to an unknown one; its last part counts most.

    >>> nearest("n_layer", ["seed", "model.n_layers"])
    'model.n_layers'
    """

    def likeness(key: str) -> float:
        ends = word.split(".")[-1], key.split(".")[-1]
        return sum(
            difflib.SequenceMatcher(None, *pair).ratio() for pair in (ends, (word, key))
        )

    return max(known, key=likeness)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would forget the first one's value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        taken = set()
        for key, _ in mapping.value:
            if (name := (key.tag, str(key.value))) in taken:
                raise ConfigError(
                    f"a key must stand once in its section, {key.value!r} stands again "
                    f"in line {key.start_mark.line + 1}"
                )
            taken.add(name)
        return mapping


def _plain_dict(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in items}


def _build(values: dict[str, Any], cls: type[T], prefix: str, known: Iterable) -> T:
    kinds = typing.get_type_hints(cls)
    for name in values:
        if name not in kinds:
            key = f"{prefix}{name}"
            near = nearest(key, [*known, *(prefix + kind for kind in kinds)])
            raise ConfigError(f"unknown key {key!r}; did you mean {near!r}?")
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if is_required(field) and field.name not in values:
            raise ConfigError(f"{prefix}{field.name} must be given")
    return cls(
        **{
            name: _convert(value, kinds[name], prefix + name, known)
            for name, value in values.items()
        }
    )


def _convert(value: Any, kind: Any, key: str, known: Iterable) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a mapping of keys, got {value!r}")
        return _build(value, typing.cast(type, kind), f"{key}.", known)
    try:
        return _leaf(value, kind)
    except ValueError:
        raise ConfigError(f"{key} must be {describe(kind)}, got {value!r}") from None


def _leaf(value: Any, kind: Any) -> Any:
    args = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Union | types.UnionType:
            for arg in args:
                with contextlib.suppress(ValueError):
                    return _leaf(value, arg)
        case typing.Literal if value in args:
            return value
        case origin if origin is tuple and isinstance(value, list):
            return tuple(_leaf(item, args[0]) for item in value)
    # YAML 1.1 reads 1e-3, which has no dot, as a string.
    if kind is float and type(value) in (int, str):
        return float(value)
    if type(value) is kind:
        return value
    raise ValueError
