"""Pins: the user's word on where nodes run, by node name, by glob, or by operator type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast

from cutset.errors import PlanError, UsageError
from cutset.graph.model import ModelGraph, OpNode

DeviceKind = Literal["cpu", "gpu"]
OP_PREFIX = "op:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One pin: nodes that match `pattern` run on `device`. ``op:TYPE`` matches operator types."""

    pattern: str
    device: DeviceKind

    def matches(self, node: OpNode) -> bool:
        """Return whether the pin is about `node`: its very name, a glob of it, or its operator type."""
        if self.pattern.startswith(OP_PREFIX):
            return fnmatchcase(node.op.op_type, self.pattern.removeprefix(OP_PREFIX))
        return node.name == self.pattern or fnmatchcase(node.name, self.pattern)

    def __str__(self) -> str:
        return f"--pin {self.pattern}={self.device}"


def parse_pin(text: str) -> Pin:
    """Return the pin of ``GLOB=cpu``, ``GLOB=gpu`` or ``op:TYPE=cpu``.

    Raises:
        UsageError: If the text has another form.
    """
    pattern, _, device = text.rpartition("=")
    if not pattern or device not in {"cpu", "gpu"}:
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
    pins = tuple(pins)
    found: dict[str, Pin] = {}
    for pin in pins:
        exact = graph.by_name.get(pin.pattern)  # a name that reads as a glob means itself: `a[0]` is not `a0`
        matched = [node for node in graph.placeable if (pin.matches(node) if exact is None else node is exact)]
        if not matched:
            raise UsageError(f"{pin} matches no node", hint=_known(graph, pin))
        for node in matched:
            other = found.get(node.name)
            if other is not None and other.device != pin.device:
                raise PlanError(
                    f"node `{node.name}` is pinned to both devices",
                    where=f"{other} and {pin}",
                    hint="remove one of the two pins",
                )
            found[node.name] = pin
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _known(graph: ModelGraph, pin: Pin) -> str:
    if pin.pattern.startswith(OP_PREFIX):
        known: Sequence[str] = sorted({node.op.op_type for node in graph.placeable})
    else:
        known = [node.name for node in graph.placeable]
    listed = ", ".join(known[:6])
    return f"for example {listed}; `cutset inspect` lists all" if known else "the model has no node to place"
