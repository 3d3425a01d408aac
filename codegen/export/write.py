"""Write the exports that were asked for into the output folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cutset.codegen.export.kubernetes import write_kubernetes
from cutset.codegen.export.names import KUBERNETES, TRITON, Alphabet, legal_name
from cutset.codegen.export.ort import check_ort, write_ort
from cutset.codegen.export.ray import write_ray
from cutset.codegen.export.source import Source
from cutset.codegen.export.triton import TritonBackend, write_triton
from cutset.errors import UsageError

PACKAGE = "python"
"""The serving package, which every other export is made of and which is always written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """What to write besides the serving package.

    Args:
        kinds: Names of `EXPORTS`.
        triton_backend: What runs the stages in Triton.
    """

    kinds: tuple[str, ...] = ()
    triton_backend: TritonBackend = "python"


EXPORTS: dict[str, Callable[[Source, Path, Exports], None]] = {
    "triton": lambda source, folder, exports: write_triton(source, folder, exports.triton_backend),
    "ray": lambda source, folder, _exports: write_ray(source, folder),
    "k8s": lambda source, folder, _exports: write_kubernetes(source, folder),
    "ort": lambda source, folder, _exports: write_ort(source, folder),
}
"""What can be exported, each into the folder of its name."""
_ALPHABETS: dict[str, Alphabet] = {"triton": TRITON, "k8s": KUBERNETES}


def parse_exports(text: str, triton_backend: TritonBackend) -> Exports:
    """Return what ``--emit`` asks for.

    Args:
        text: Names with commas between them.
        triton_backend: What runs the stages in Triton.

    Raises:
        UsageError: If a name is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name != PACKAGE and name not in EXPORTS:
            raise UsageError(f"--emit {name!r} is unknown", hint=f"known: {', '.join((PACKAGE, *EXPORTS))}")
    return Exports(kinds=tuple(kind for kind in EXPORTS if kind in names), triton_backend=triton_backend)


def check_exports(exports: Exports, name: str) -> None:
    """Check before any work that a model of this name can be exported.

    Raises:
        UsageError: If the name cannot be made legal.
        UnavailableError: If this machine's onnxruntime cannot do what is to be exported.
    """
    if "ort" in exports.kinds:
        check_ort()
    for kind in exports.kinds:
        if kind in _ALPHABETS:
            legal_name(name, _ALPHABETS[kind])


def write_exports(source: Source, folder: Path, exports: Exports) -> None:
    """Write each export into its folder under `folder`.

    Raises:
        UsageError: If one cannot hold this model; the message says why.
    """
    for kind in exports.kinds:
        EXPORTS[kind](source, folder / kind, exports)
