"""Archives of Python functions that are operators in the graph: the library inside registers them and tells their errors."""

from __future__ import annotations

import json
import sys
import zipfile
import zipimport
from pathlib import Path
from types import ModuleType

from .base import BackendError

ARCHIVE = ".pyz"
_LIBRARY, _TABLE = "hook_library", "hooks.json"


def load_archive(path: Path) -> ModuleType:
    """Return the library of an archive, imported once in a process however many copies of the archive there are.

    Raises:
        BackendError: If it is no such archive, or a function in it cannot be imported.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            name = f"cutset_hooks_{json.loads(opened.read(_TABLE))['digest']}"
        if name not in sys.modules:
            importer = zipimport.zipimporter(str(path))
            module = ModuleType(name)
            module.__loader__ = importer
            exec(importer.get_code(_LIBRARY), module.__dict__)  # noqa: S102 - code of the package, as this is
            module.get_library_path()
            sys.modules[name] = module
        return sys.modules[name]
    except Exception as error:  # whatever a user's module raises when it is imported
        raise BackendError(f"the Python functions in {path.name} cannot be loaded: {error}") from error
