"""The walls of the house, checked by reading the imports of every file."""

import ast
import functools
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "jaxllm"

# Low to high: a file imports from its own layer and from those below it.
LAYERS = (
    (
        "types",
        "errors",
        "paths",
        "heap",
        "config",
        "config_files",
        "accounting",
        "devices",
    ),
    ("data",),
    ("models",),
    ("distributed",),
    ("training",),
    ("inference",),
    ("pretrained",),
    ("finetuning", "vectors"),
    ("evals", "notes", "plots"),
    ("api",),
    ("",),  # jaxllm/__init__.py, the face of all of them
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# The one file or folder in which an outside library may be imported.
HOMES = {
    "flax": "models/",
    "optax": "training/",
    "grain": "data/batches.py",
    "tiktoken": "data/tokenizers.py",
    "orbax": "training/checkpoints.py",
    "matplotlib": "plots/",
    "safetensors": "pretrained/",
    "lm_eval": ("evals/harness.py", "cli/lm_eval.py"),
    "rich": "cli/",
}

FREE_OF_JAX = ("data/", "notes/stream.py", "cli/arguments.py", "cli/console.py")


def file_of(module: str) -> pathlib.Path | None:
    path = ROOT / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.exists():
            return file
    return None


def module_of(file: pathlib.Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports_of(file: pathlib.Path) -> set[str]:
    """The full names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if file_of(inner) else base)
    return found


def layer_of(module: str) -> str:
    return [*module.split("."), ""][1]


FILES = sorted(PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize(
    "file", FILES, ids=lambda file: str(file.relative_to(PACKAGE))
)


@every_file
def test_a_file_imports_only_from_its_own_layer_and_lower_ones(file):
    own = RANK[layer_of(module_of(file))]
    ours = {name for name in imports_of(file) if name.split(".")[0] == "jaxllm"}
    assert not {name for name in ours if RANK[layer_of(name)] > own}


@every_file
def test_an_outside_library_is_imported_only_in_its_home(file):
    place = file.relative_to(PACKAGE).as_posix()
    guests = {name.split(".")[0] for name in imports_of(file)} & HOMES.keys()
    assert not {guest for guest in guests if not place.startswith(HOMES[guest])}


@every_file
def test_functions_of_other_folders_are_called_by_the_name_of_their_module(file):
    own = layer_of(module_of(file))
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ImportFrom)
        and str(node.module).startswith("jaxllm.")
        and layer_of(str(node.module)) not in (own, "config")
        for alias in node.names
        if alias.name[0].islower()
    }
    assert own in ("", "api") or not {n for n in imported if file_of(n) is None}


@every_file
def test_only_the_command_line_prints(file):
    if layer_of(module_of(file)) == "cli":
        return
    names = {
        ast.unparse(node)
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Name | ast.Attribute)
    }
    assert not names & {"print", "sys.stdout", "sys.stderr"}


def test_there_are_no_cycles():
    graph = {
        module_of(file): {name for name in imports_of(file) if file_of(name)}
        for file in FILES
        if file != PACKAGE / "__init__.py"
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("place", FREE_OF_JAX)
def test_text_is_read_without_jax(place):
    reached = [
        module_of(file)
        for file in FILES
        if file.relative_to(PACKAGE).as_posix().startswith(place)
    ]
    seen: set[str] = set()
    while reached:
        name = reached.pop()
        if name in seen:
            continue
        seen.add(name)
        file = file_of(name)
        # The package's own __init__ imports for type checkers only.
        if file and file != PACKAGE / "__init__.py":
            reached += imports_of(file)
    assert not {name for name in seen if name.split(".")[0] in ("jax", "jaxlib")}


def test_nothing_that_is_loaded_can_run_code():
    for file in FILES:
        assert not {name.split(".")[0] for name in imports_of(file)} & {
            "pickle",
            "dill",
            "cloudpickle",
            "marshal",
            "shelve",
        }, file
