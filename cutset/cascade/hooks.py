"""Python functions as nodes: their names in the graph, and the archive that brings them wherever the graph runs.

A hook is an operator of its own domain, which onnxruntime-extensions calls Python for. So a graph with hooks is measured,
cut, verified and served as any other with custom operators; what is loaded is one archive (``.pyz``) that holds the
user's modules and `cutset.cascade.hook_library`.
"""

from __future__ import annotations

import ast
import io
import json
import sys
import zipfile
import zipimport
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cutset.beside import find_beside
from cutset.cascade.document import Document, Stage
from cutset.digest import sha256_json
from cutset.errors import UnavailableError
from cutset.graph.load import HOOK_DOMAIN

SUFFIX = ".pyz"
"""Of the archive: Python imports from it as from a folder."""

LIBRARY = "hook_library"
TABLE = "hooks.json"
_MODULE = "cutset_hooks_"
_LOADED: list[ModuleType] = []
_DIGEST_LENGTH = 12
_LARGEST_BYTES = 1 << 20
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The hooks of one cascade.

    Args:
        stages: The stage of each.
        sources: Text of each module by its name.
    """

    stages: tuple[Stage, ...]
    sources: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Fingerprint of the hooks: changes with the text and the declared types of the hooks."""
        return sha256_json([self._entries(""), dict(self.sources)])[:_DIGEST_LENGTH]

    def operator(self, stage: str) -> tuple[str, str]:
        """Return the domain and the type of the operator of a stage."""
        function = next(entry.what for entry in self.stages if entry.name == stage).partition(":")[2]
        return f"{HOOK_DOMAIN}.{self.digest}.{stage}", function

    def archive(self) -> bytes:
        """Return the archive, the same bytes for the same hooks."""
        library = Path(__file__).with_name(f"{LIBRARY}.py").read_text("utf-8")
        files = {f"{LIBRARY}.py": library, TABLE: json.dumps(self._table(), indent=1)}
        files |= {f"modules/{name}.py": text for name, text in self.sources.items()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in sorted(files.items()):
                archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), text)
        return buffer.getvalue()

    def _table(self) -> dict[str, Any]:
        requires = sorted({requirement for stage in self.stages for requirement in stage.requires})
        return {"schema": "cutset.hooks/1", "digest": self.digest, "requires": requires, "hooks": self._entries(self.digest)}

    def _entries(self, digest: str) -> list[dict[str, Any]]:
        return [
            {
                "domain": f"{HOOK_DOMAIN}.{digest}.{stage.name}",
                "module": stage.what.partition(":")[0],
                "function": stage.what.partition(":")[2],
                "inputs": [[name, dtype] for name, dtype in stage.takes.items()],
                "outputs": [[name, tensor.dtype, len(tensor.shape)] for name, tensor in stage.gives.items()],
            }
            for stage in self.stages
        ]


def hooks_of(document: Document) -> Hooks | None:
    """Return the hooks of a cascade, None where it has none. No code of the user's runs.

    Raises:
        UsageError: If a module is missing, is not Python, or lacks the function.
    """
    stages = tuple(stage for stage in document.stages.values() if stage.kind == "python")
    if not stages:
        return None
    sources = {}
    for stage in stages:
        module, _, function = stage.what.partition(":")
        sources[module] = _source(document, stage, module, function)
    return Hooks(stages=stages, sources=sources)


def requirements_of(archive: Path) -> Sequence[str]:
    """Return what the hooks of an archive need beside onnxruntime-extensions."""
    return [str(entry) for entry in _table_of(archive)["requires"]]


def native_library(library: str) -> str:
    """Return the native library behind a library of custom operators: itself, or what the hooks of an archive run in.

    The archive's modules are imported, and its hooks are made known to onnxruntime-extensions in this process.

    Raises:
        UnavailableError: If the archive, a module in it or onnxruntime-extensions cannot be loaded.
    """
    if not library.endswith(SUFFIX):
        return library
    try:
        return str(_module_of(Path(library)).get_library_path())
    except Exception as error:  # whatever a user's module raises when it is imported
        raise UnavailableError(
            f"the hooks in {library} cannot be loaded",
            cause=str(error)[:300],
            hint="install what they import; they need onnxruntime-extensions too: pip install 'cutset[extensions]'",
        ) from error


def take_error() -> str | None:
    """Return why a hook failed in this thread's last run of a session, or None."""
    found = [module.take_error() for module in _LOADED]  # asked after every run, those of models without hooks too
    return next((error for error in found if error), None)


def _module_of(archive: Path) -> ModuleType:
    """Return the library of an archive, imported once in a process however many copies of the archive there are."""
    name = f"{_MODULE}{_table_of(archive)['digest']}"
    if name not in sys.modules:
        importer = zipimport.zipimporter(str(archive))
        module = ModuleType(name)
        module.__loader__ = importer
        exec(importer.get_code(LIBRARY), module.__dict__)  # noqa: S102 - the module beside this one, out of the archive
        sys.modules[name] = module
    if sys.modules[name] not in _LOADED:
        _LOADED.append(sys.modules[name])
    return sys.modules[name]


def _table_of(archive: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as opened:
        table: dict[str, Any] = json.loads(opened.read(TABLE))
    return table


def _source(document: Document, stage: Stage, module: str, function: str) -> str:
    """Return the text of a module that defines a function."""
    path = document.folder / f"{module}.py"
    keys = ("stages", stage.name, "python")
    file = find_beside(document.path, path.name)
    if file is None:
        hint = f"it is a link; copy what it leads to beside {document.path.name}, whose package would carry the file"
        raise document.refusal(f"{path} leads out of the folder of this file", *keys, hint=hint)
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise document.refusal(f"{path} is over {_LARGEST_BYTES >> 20} MiB", *keys)
        text = file.read_text("utf-8")
        tree = ast.parse(text, str(path))
    except (OSError, UnicodeDecodeError) as error:
        hint = f"`{stage.what}` is the function `{function}` in {module}.py beside this file"
        raise document.refusal(f"cannot read {path}", *keys, cause=str(error), hint=hint) from error
    except (SyntaxError, ValueError) as error:
        raise document.refusal(f"{path} is not Python", *keys, cause=str(error)) from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
        raise document.refusal(f"{path} defines no function `{function}`", *keys)
    return text
