"""Register the Python functions of an archive as operators; this module is copied into the archive and loaded from there.

It imports nothing but what the archive's user must have: numpy and onnxruntime-extensions. An exception in a hook would
end the process, since it would pass through native code: it is kept instead, the hook's outputs are empty, and who runs
the session asks `take_error` after every run.

A domain is registered once in a process and holds one operator: onnxruntime-extensions keeps the operators of a domain in
one vector, which sessions point into, so a second one would move the first from under them.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

_LOCK = threading.Lock()
_FAILED = threading.local()
_REGISTERED: set[str] = set()


def get_library_path() -> str:
    """Return the native library to register with a session, after the hooks have been made known to it.

    Raises:
        ImportError: If a module cannot be imported, or lacks its function.
    """
    import onnxruntime_extensions  # noqa: PLC0415 - an optional extra

    with _LOCK:
        for hook in _HOOKS:
            if hook["domain"] not in _REGISTERED:
                _register(onnxruntime_extensions, hook)
                _REGISTERED.add(hook["domain"])
    return str(onnxruntime_extensions.get_library_path())


def take_error() -> str | None:
    """Return why a hook failed in a run of this thread since the last call, or None."""
    error: str | None = getattr(_FAILED, "error", None)
    _FAILED.error = None
    return error


def _register(extensions: ModuleType, hook: dict[str, Any]) -> None:
    kinds = extensions.PyCustomOpDef
    native = {"float32": "float", "float64": "double"}
    function = _function(hook)
    extensions.onnx_op(
        op_type=f"{hook['domain']}::{hook['function']}",
        inputs=[getattr(kinds, f"dt_{native.get(dtype, dtype)}") for _, dtype in hook["inputs"]],
        outputs=[getattr(kinds, f"dt_{native.get(dtype, dtype)}") for _, dtype, _ in hook["outputs"]],
    )(_guarded(hook, function))


def _guarded(hook: dict[str, Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that never raises and whose results have the declared types."""
    outputs = hook["outputs"]

    def call(*arrays: Any) -> Any:
        try:
            named = {name: array for (name, _), array in zip(hook["inputs"], arrays, strict=True)}
            found = _checked(outputs, function(**named))
        except BaseException as error:  # anything that leaves here ends the process
            place = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
            _FAILED.error = f"hook {hook['module']}:{hook['function']} failed: {words}"
            found = [np.zeros((0,) * rank, _dtype(dtype)) for _, dtype, rank in outputs]
        return tuple(found) if len(found) > 1 else found[0]

    return call


def _checked(outputs: list[Any], found: Any) -> list[Any]:
    """Return what a hook gave as arrays in the declared order."""
    if isinstance(found, dict):
        missing = [name for name, _, _ in outputs if name not in found]
        if missing:
            raise TypeError(f"the result lacks `{missing[0]}`")
        values = [found[name] for name, _, _ in outputs]
    else:
        values = list(found) if isinstance(found, tuple) else [found]
    if len(values) != len(outputs):
        raise TypeError(f"{len(values)} results, {len(outputs)} are declared")
    arrays = []
    for (name, dtype, rank), value in zip(outputs, values, strict=True):
        array = np.asarray(value)
        if array.ndim != rank:
            raise TypeError(f"`{name}` has {array.ndim} dimensions, {rank} are declared")
        same = array.dtype.kind in "OU" if dtype == "string" else array.dtype == _dtype(dtype)
        if not same and array.size:
            raise TypeError(f"`{name}` is {array.dtype}, {dtype} is declared")
        arrays.append(array.astype(_dtype(dtype)))
    return arrays


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(object if name == "string" else name)


def _function(hook: dict[str, Any]) -> Callable[..., Any]:
    """Return a hook's function out of its module, which is imported once."""
    name = f"{__name__}.{hook['module']}"
    if name not in sys.modules:
        file = f"modules/{hook['module']}.py"
        module = ModuleType(name)
        module.__file__ = f"{_ARCHIVE.archive}/{file}"
        try:
            sys.modules[name] = module
            exec(compile(_read(file), module.__file__, "exec"), module.__dict__)  # noqa: S102 - the user's own module
        except BaseException as error:
            del sys.modules[name]
            raise ImportError(f"{hook['module']}.py cannot be imported: {type(error).__name__}: {error}") from error
    function: Callable[..., Any] = getattr(sys.modules[name], hook["function"])
    return function


def _read(name: str) -> bytes:
    """Return a file of the archive."""
    data: bytes = _ARCHIVE.get_data(f"{_ARCHIVE.archive}/{name}")
    return data


_ARCHIVE: Any = globals()["__loader__"]
_HOOKS: list[dict[str, Any]] = json.loads(_read("hooks.json"))["hooks"]
"""Read once: a copy of the archive may be gone when the next session is opened."""
