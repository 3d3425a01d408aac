"""Read what onnxruntime's session profiler writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import msgspec

from cutset.errors import ProfileError

_SUFFIX = "_kernel_time"


class _Arguments(TypedDict, total=False):
    provider: str
    output_type_shape: list[dict[str, list[int]]]


class NodeEvent(TypedDict, total=False):
    """A kernel's event as onnxruntime writes it: of its fields those that are used, for the rest take most of the reading."""

    cat: str
    name: str
    ts: int
    dur: int
    args: _Arguments


_line = msgspec.json.Decoder(NodeEvent)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvent:
    """One run of one kernel.

    Args:
        name: Name of the node in the optimised graph.
        provider: Execution provider that ran it, for example ``CUDAExecutionProvider``.
        seconds: Time of the call as the host saw it.
    """

    name: str
    provider: str
    seconds: float


def read_trace(path: Path) -> list[KernelEvent]:
    """Return every kernel event of an onnxruntime trace.

    Raises:
        ProfileError: If a line of a kernel is not JSON.
    """
    return [
        KernelEvent(name=event["name"], provider=event["args"].get("provider", ""), seconds=event["dur"] * 1e-6)
        for event in node_events(path)
    ]


def node_events(path: Path) -> Iterator[NodeEvent]:
    """Yield every kernel event of an onnxruntime trace as it is written there, but under the bare name of its node.

    onnxruntime writes one event a line; read that way, the trace of a large model takes no memory to speak of.

    Raises:
        ProfileError: If a line of a kernel is not JSON.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if _SUFFIX not in line:
                continue
            try:
                event = _line.decode(line.rstrip().rstrip(","))
            except msgspec.DecodeError as error:
                raise ProfileError("onnxruntime wrote a profile that cannot be read", cause=str(error)) from error
            if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
                yield {**event, "name": event["name"].removesuffix(_SUFFIX)}
