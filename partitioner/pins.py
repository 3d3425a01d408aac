"""Pins: the user's word on where nodes run and which stay together, by node name, by glob, or by operator type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast

from cutset.errors import PlanError, UsageError
from cutset.graph.model import ModelGraph, OpNode

DeviceKind = Literal["cpu", "gpu"]
DEVICE_KINDS = ("cpu", "gpu")
OP_PREFIX = "op:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One pin: nodes that match `pattern` run on `device`. ``op:TYPE`` matches operator types.

    Args:
        pattern: A node's name, a glob of names, or ``op:`` and a glob of operator types.
        device: Where they run.
        origin: File and line that say so; empty for the command line.
    """

    pattern: str
    device: DeviceKind
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.origin} ({self.pattern}: {self.device})" if self.origin else f"--pin {self.pattern}={self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Patterns of nodes between which no cut may go, and the file and line that say so."""

    patterns: tuple[str, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.origin} (keep {', '.join(self.patterns)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Nodes that stay together, in graph order, and what says so."""

    nodes: tuple[str, ...]
    origin: str


def parse_pin(text: str) -> Pin:
    """Return the pin of ``GLOB=cpu``, ``GLOB=gpu`` or ``op:TYPE=cpu``.

    Raises:
        UsageError: If the text has another form.
    """
    pattern, _, device = text.rpartition("=")
    if not pattern or device not in DEVICE_KINDS:
        raise UsageError(
            f"--pin {text!r} is not of the form GLOB=cpu or GLOB=gpu",
            hint="for example --pin nms=cpu, or --pin op:Resize=cpu",
        )
    return Pin(pattern=pattern, device=cast("DeviceKind", device))


def resolve(graph: ModelGraph, pins: Iterable[Pin]) -> dict[str, Pin]:
    """Return the pin of each pinned node, in graph order.

    Raises:
        UsageError: If a pin matches no node.
        PlanError: If two pins put one node on different devices.
    """
    found: dict[str, Pin] = {}
    for pin in pins:
        for node in _matched(graph, pin.pattern, pin):
            other = found.get(node.name)
            if other is not None and other.device != pin.device:
                raise PlanError(
                    f"node `{node.name}` is pinned to both devices",
                    where=f"{other} and {pin}",
                    hint="remove one of the two pins",
                )
            found[node.name] = pin
    return {node.name: found[node.name] for node in graph.nodes if node.name in found}


def resolve_kept(graph: ModelGraph, keeps: Iterable[Keep]) -> tuple[Kept, ...]:
    """Return the nodes that each entry keeps together.

    Raises:
        UsageError: If a pattern matches no node.
    """
    found = []
    for keep in keeps:
        names = {node.name for pattern in keep.patterns for node in _matched(graph, pattern, keep)}
        found.append(Kept(nodes=tuple(node.name for node in graph.nodes if node.name in names), origin=str(keep)))
    return tuple(found)


def _matched(graph: ModelGraph, pattern: str, origin: Pin | Keep) -> list[OpNode]:
    """Return the placeable nodes of a pattern; a name that reads as a glob means itself: ``a[0]`` is not ``a0``."""
    exact = graph.by_name.get(pattern)
    if exact is not None:
        found = [exact] if exact.name not in graph.unplaced else []
    elif pattern.startswith(OP_PREFIX):
        found = [node for node in graph.placeable if fnmatchcase(node.op.op_type, pattern.removeprefix(OP_PREFIX))]
    else:
        found = [node for node in graph.placeable if fnmatchcase(node.name, pattern)]
    if not found:
        raise UsageError(f"{origin} matches no node", hint=_known(graph, pattern))
    return found


def _known(graph: ModelGraph, pattern: str) -> str:
    if pattern.startswith(OP_PREFIX):
        known: Sequence[str] = sorted({node.op.op_type for node in graph.placeable})
    else:
        known = [node.name for node in graph.placeable]
    listed = ", ".join(known[:6])
    return f"for example {listed}; `cutset inspect` lists all" if known else "the model has no node to place"
