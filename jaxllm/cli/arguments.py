"""Words of the command line in, one frozen dataclass out.

    parse(TrainConfig, ["--config", "a.yaml", "--model.n_layers", "2"], "jaxllm train")

The file comes first and the overrides win. The dataclass is all there is to define: its
types check the values, and its docstrings are the help.
"""

import argparse
import ast
import dataclasses
import functools
import inspect
import itertools
import operator
import pathlib
import shutil
import textwrap
import types
import typing
from typing import Any, NoReturn, TypeVar

import yaml

from jaxllm import config_files
from jaxllm.errors import CheckpointError, ConfigError

T = TypeVar("T")


def parse(cls: type[T], argv: list[str], command: str) -> T:
    """Build a dataclass from `--config FILE`, `--any.nested.key VALUE` and positionals.

    A field without a default may be given by its position, and one whose metadata says
    positional; a list takes several words; `--flag` alone says true.

    Raises:
        ConfigError: A key is unknown, or a value is not what its field wants.

    >>> from jaxllm.config import MeshConfig
    >>> parse(MeshConfig, ["--data", "4", "--tensor=2"], "jaxllm mesh")
    MeshConfig(data=4, fsdp=1, sequence=1, tensor=2)
    >>> parse(MeshConfig, ["--tensr", "2"], "jaxllm mesh")
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: unknown argument '--tensr'; did you mean '--tensor'?
    """
    kinds = config_files.types_of_keys(cls)
    given, unknown = _parser(cls, command).parse_known_args(argv)
    if unknown:
        raise ConfigError(_unknown_argument(unknown[0], list(kinds)))
    words = vars(given)
    file = words.pop("config", None)
    values = _file_values(file) if file else {}
    for key, word in words.items():
        _set(values, key.split("."), _value(word, kinds[key]), key)
    return config_files.from_values(values, cls)


def config_in(options: Any, cls: type[T]) -> T:
    """Take a config out of the options that extend it by keys of their own.

    >>> from jaxllm.config import MeshConfig
    >>> Options = dataclasses.make_dataclass(
    ...     "Options", [("loud", bool, False)], bases=(MeshConfig,), frozen=True
    ... )
    >>> config_in(Options(data=4, loud=True), MeshConfig)
    MeshConfig(data=4, fsdp=1, sequence=1, tensor=1)
    """
    return cls(**{f.name: getattr(options, f.name) for f in _fields(cls)})


def peek(argv: list[str], key: str) -> str | None:
    """Find the value of one key without looking at the others; the last one counts.

    >>> peek(["--seed", "1", "--resume=runs/a"], "resume")
    'runs/a'
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{key}")
    return getattr(parser.parse_known_args(argv)[0], key)


def resuming(argv: list[str]) -> tuple[list[str], str | None]:
    """Let `--resume RUN` stand for the config of that run, in the folder it is in now.

    Returns:
        the words to parse, and the run directory; None where none is resumed.

    >>> resuming(["--seed", "1"])
    (['--seed', '1'], None)
    """
    resumed = peek(argv, "resume")
    if resumed is None:
        return argv, None
    own = pathlib.Path(resumed) / "config.yaml"
    if not own.is_file():
        raise CheckpointError(f"resume must be a run directory, {own} is missing")
    # A run may have been moved, so where it is counts, not where it was.
    return ["--config", str(own), *argv, "--run_dir", resumed], resumed


def choose(
    commands: dict[str, str], argv: list[str], command: str, about: str
) -> tuple[str, list[str]]:
    """Split words into the name of a sub-command and its own words.

    Args:
        commands: Names, each with the line that describes it; `--help` lists them.

    >>> choose({"encode": "text to ids"}, ["encode", "gpt2"], "jaxllm tokenizer", "")
    ('encode', ['gpt2'])
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, commands))
        lines = (f"  {name:<{width}}  {line}" for name, line in commands.items())
        print(
            f"usage: {command} COMMAND [--config FILE] [--KEY VALUE ...]\n\n{about}\n"
        )
        print(*lines, sep="\n")
        print(f"\n`{command} COMMAND --help` names every key, its gloss and default.")
        raise SystemExit(0)
    name, *rest = argv
    if name not in commands:
        near = config_files.nearest(name, commands)
        raise ConfigError(f"no command {name!r}; did you mean {near!r}?")
    return name, rest


def glosses(cls: type) -> dict[str, str]:
    """Read the docstring under each field of a dataclass, and of those it extends.

    >>> from jaxllm.config import MeshConfig
    >>> glosses(MeshConfig)["fsdp"]
    'Devices that share the batch and split every parameter between them.'
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, gloss in itertools.pairwise(getattr(definition, "body", [])):
            match field, gloss:
                case (
                    ast.AnnAssign(target=ast.Name(name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser(cls: type, command: str) -> argparse.ArgumentParser:
    width = min(shutil.get_terminal_size().columns, 100)
    parser = _Parser(
        prog=command,
        description=inspect.getdoc(cls),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=34, width=width
        ),
    )
    positionals = [f.name.upper() for f in _fields(cls) if _is_positional(f)]
    parser.usage = " ".join(
        [command, *positionals, "[--config FILE] [--KEY VALUE ...]"]
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML for these keys; the command line wins."
    )
    _add_fields(parser, parser, cls, "")
    return parser


def _add_fields(parser: Any, group: Any, cls: type, prefix: str) -> None:
    kinds, texts = typing.get_type_hints(cls), glosses(cls)
    for field in _fields(cls):
        kind, key = _without_null(kinds[field.name]), prefix + field.name
        if dataclasses.is_dataclass(kind):
            inner = typing.cast(type, kind)
            about = (inspect.getdoc(inner) or "").splitlines()[0]
            group_of_inner = parser.add_argument_group(f"{key}: {about.rstrip('.')}")
            _add_fields(parser, group_of_inner, inner, f"{key}.")
            continue
        gloss = texts[field.name].replace("%", "%%")
        is_list = typing.get_origin(kind) is tuple
        if _is_positional(field):
            nargs = "*" if is_list else "?"
            group.add_argument(key, metavar=key.upper(), nargs=nargs, help=gloss)
            continue
        words: dict[str, Any] = {"nargs": "*"} if is_list else {}
        if kind is bool:
            words = {"nargs": "?", "const": "true"}
        default = _shown(field).replace("%", "%%")
        gloss = f"{gloss} (default: {default})"
        group.add_argument(f"--{key}", metavar=_metavar(kind), help=gloss, **words)


def _is_positional(field: dataclasses.Field) -> bool:
    return config_files.is_required(field) or "positional" in field.metadata


def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(typing.cast(Any, cls))


def _without_null(kind: Any) -> Any:
    """Take null away from what a value may be.

    >>> _without_null(tuple[str, ...] | None), _without_null(int)
    (tuple[str, ...], <class 'int'>)
    """
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    args = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    return functools.reduce(operator.or_, args)


def _metavar(kind: Any) -> str:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(args) + "}"
    return "|".join(arg.__name__ for arg in args or [kind] if arg is not ...).upper()


def _shown(field: dataclasses.Field) -> str:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    if isinstance(default, tuple):
        return " ".join(map(repr, default)) or "none"
    if isinstance(default, str):
        return default if default.strip() else repr(default)
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(default)


def _file_values(path: str) -> dict[str, Any]:
    try:
        return config_files.values_of_yaml(pathlib.Path(path).read_text("utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _value(word: str | list[str], kind: Any) -> Any:
    """Read a word as the value it stands for; a string is taken as it is written."""
    may_be_null = type(None) in typing.get_args(kind)
    kind = _without_null(kind)
    args = typing.get_args(kind)
    if may_be_null and word in ("null", ["null"]):
        return None
    if isinstance(word, list):
        return [_value(item, args[0]) for item in word]
    if kind is str or str in args or typing.get_origin(kind) is typing.Literal:
        return word
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _set(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key} needs {name} to be a mapping, got {values!r}")
    values[path[-1]] = value


def _unknown_argument(word: str, keys: list[str]) -> str:
    if not word.startswith("--"):
        return f"unexpected argument {word!r}"
    key = word.removeprefix("--").split("=")[0]
    if key in keys:  # a positional one
        return f"{key} is given without its name, leave '--{key}' out"
    near = config_files.nearest(key, [*keys, "config"])
    return f"unknown argument '--{key}'; did you mean '--{near}'?"
