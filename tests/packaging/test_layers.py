"""The import direction: a layer may import those below it and nothing above, and the runtime stands alone."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["cutset", "cutset.sample_models", "cutset.profilers", "cutset.partitioner", "cutset.codegen", "cutset.cli"]
"""From the bottom; `cutset` is the root package with `cutset.graph`."""

ENTRY = {"cutset.__main__": {"cutset.cli.main"}}
"""What starts the command line has to reach up to it."""

RUNTIME = "cutset.codegen.runtime"
RUNTIME_LIBRARIES = {"numpy", "onnxruntime", "uvicorn", "httptools"} | {
    "google", "grpc", "grpc_health", "grpc_reflection", "opentelemetry", "prometheus_client", "pynvml",
}  # fmt: skip
"""What the runtime may import; those of the second set only where its extras are installed."""


def folders():
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["tool"]["setuptools"]["package-dir"]


def sources():
    """Every module of the project by name."""
    found = {}
    for package, folder in folders().items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


SOURCES = sources()


def imports(name, path):
    """Yield every module that one imports, anywhere in it; of `from a import b` both a and, if it is a module, a.b."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base, node.level
            yield from ((f"{base}.{alias.name}", node.level) for alias in node.names if f"{base}.{alias.name}" in SOURCES)


def layer(name):
    """Return the place of a module; the runtime needs nothing of Cutset, so it is at the bottom, and everyone may import it."""
    if in_runtime(name):
        return 0
    return max(index for index, package in enumerate(LAYERS) if name == package or name.startswith(f"{package}."))


def in_runtime(name):
    return name == RUNTIME or name.startswith(f"{RUNTIME}.")


def test_the_table_is_complete():
    assert set(folders()) == set(LAYERS)
    assert {layer(name) for name in SOURCES} == set(range(len(LAYERS)))
    assert any(in_runtime(name) for name in SOURCES)


@pytest.mark.parametrize("name", [name for name in SOURCES if not in_runtime(name)])
def test_imports_point_down(name):
    wrong = [
        target
        for target, _ in imports(name, SOURCES[name])
        if target.split(".")[0] == "cutset" and layer(target) > layer(name) and target not in ENTRY.get(name, ())
    ]
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in SOURCES if not in_runtime(name)])
def test_imports_are_absolute_and_exist(name):
    bare = {package.rpartition(".")[2] for package in LAYERS[1:]}
    for target, level in imports(name, SOURCES[name]):
        assert level == 0, f"relative import of {target}"
        assert target.split(".")[0] not in bare, f"{target} would be a second copy of the module"
        if target.split(".")[0] == "cutset":
            assert target in SOURCES or target.rpartition(".")[0] in SOURCES, f"there is no {target}"


@pytest.mark.parametrize("name", [name for name in SOURCES if in_runtime(name)])
def test_the_runtime_stands_alone(name):
    """It is copied into packages under another name, so its own modules are imported relatively."""
    for target, level in imports(name, SOURCES[name]):
        if level:
            assert in_runtime(target), f"{target} is not copied"
        else:
            allowed = RUNTIME_LIBRARIES | sys.stdlib_module_names
            assert target.split(".")[0] in allowed, f"{target} is not installed with a package"


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if layer(name) < LAYERS.index("cutset.cli") and not in_runtime(name)]
)
def test_libraries_neither_print_nor_exit(name):
    """Words, argument parsing and exit codes belong to the command line."""
    if name == "cutset.__main__":
        return
    tree = ast.parse(SOURCES[name].read_text("utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert calls.isdisjoint({"print", "sys.exit", "exit", "quit", "input", "breakpoint"})
    assert not {target.split(".")[0] for target, _ in imports(name, SOURCES[name])} & {"argparse", "click", "rich", "getpass"}
