"""TensorRT or TensorRT-RTX as a Python module: whether it loads, which release it is, and what it says when it refuses.

It imports nothing but the library that is asked about: a child process that only asks whether one is there ends at once.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from cutset.errors import UnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryInfo:
    """A library that loads.

    Args:
        version: Its version.
        compute_capabilities: GPUs that it can be told to build for, such as ``8.9``; none where it builds for the GPU at
            hand only.
        failure: Why it makes no builder here, empty when it does: full TensorRT needs a GPU for one.
    """

    version: str
    compute_capabilities: tuple[str, ...]
    failure: str = ""


def library_info(module: str) -> LibraryInfo:
    """Return what the library is; meant to run in a child process.

    Args:
        module: Its Python module, ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        UnavailableError: If it is not installed or does not load.
    """
    library = open_library(module)
    trt, failure = library.trt, ""
    try:
        trt.Builder(library.logger)
    except Exception as error:  # the bindings raise TypeError where the library returns nothing
        failure = library.errors[-1] if library.errors else str(error)
    names = (name for name in dir(getattr(trt, "ComputeCapability", None)) if re.fullmatch(r"SM\d+", name))
    numbers = sorted(int(name.removeprefix("SM")) for name in names)
    return LibraryInfo(
        version=trt.__version__, compute_capabilities=tuple(f"{n // 10}.{n % 10}" for n in numbers), failure=failure
    )


class OpenLibrary:
    """The imported library, and a logger that keeps the words of its errors and prints nothing."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.errors: list[str] = []
        self.logger = _logger(trt, self.errors)

    def last_error(self) -> str:
        """Return the words of the last error, in one line."""
        return " ".join(self.errors[-1].split())[:500] if self.errors else "the library gave no reason"


def open_library(module: str) -> OpenLibrary:
    """Return the imported library.

    Args:
        module: Its Python module.

    Raises:
        UnavailableError: If it is not installed or does not load.
    """
    try:
        return OpenLibrary(importlib.import_module(module))
    except (ImportError, OSError) as error:
        name = module.replace("_", "-")
        raise UnavailableError(f"{name} cannot be used", cause=str(error)[:300], hint=f"pip install {name}") from error


def _logger(trt: Any, errors: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                errors.append(message)

    return Logger()
