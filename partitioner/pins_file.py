"""The pins file: the user's word on placement as YAML that can be read, written, edited and kept beside a model.

```yaml
pins:
  nms: cpu            # a node's name, a glob of names, or op:TYPE
  "op:Resize": gpu
keep:                 # no cut between the nodes of one line
  - [backbone/*]
  - [quantize, dequantize]
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from cutset.errors import UsageError
from cutset.files import check_regular, write_atomic
from cutset.partitioner.pins import DEVICE_KINDS, DeviceKind, Keep, Kept, Pin
from cutset.yaml_text import check_events

_SECTIONS = ("pins", "keep")
_EXAMPLE = "for example `pins: {nms: cpu}` and `keep: [[conv, relu]]`"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinsFile:
    """What a pins file says, in its order."""

    pins: tuple[Pin, ...] = ()
    keeps: tuple[Keep, ...] = ()


def read_pins(path: Path) -> PinsFile:
    """Return what a pins file says; every entry remembers its line.

    Raises:
        UsageError: If the file cannot be read, is not YAML, or has another form; the message names the line.
    """
    try:
        check_regular(path)
        text = path.read_text("utf-8")
        check_events(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the pins file {path}", cause=str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = str(path) if mark is None else f"{path}:{mark.line + 1}"
        raise UsageError(f"{path} is not YAML", where=where, cause=getattr(error, "problem", None) or str(error)) from error
    sections = {} if root is None else dict(_entries(root, path, "the file"))
    for name, node in sections.items():
        if name not in _SECTIONS:
            raise _refusal(node, path, f"`{name}` is no section of a pins file")
    return PinsFile(
        pins=tuple(_pins(sections["pins"], path)) if "pins" in sections else (),
        keeps=tuple(_keeps(sections["keep"], path)) if "keep" in sections else (),
    )


def write_pins(path: Path, devices: Mapping[str, str], kept: Sequence[Kept] = ()) -> None:
    """Write a pins file that puts every node where `devices` says.

    Args:
        path: The file; replaced whole or not at all.
        devices: ``cpu`` or ``gpu`` by node name.
        kept: Nodes without a cut between them.
    """
    document: dict[str, object] = {"pins": dict(devices)}
    if kept:
        document["keep"] = [list(group.nodes) for group in kept]
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, default_flow_style=False, width=2**16)
    write_atomic(path, text.encode())


def _pins(node: yaml.Node, path: Path) -> Iterator[Pin]:
    for pattern, value in _entries(node, path, "`pins`"):
        device = _text(value, path, f"the device of `{pattern}`")
        if device not in DEVICE_KINDS:
            raise _refusal(value, path, f"`{pattern}` is pinned to {device!r}, which is neither cpu nor gpu")
        yield Pin(pattern=pattern, device=cast("DeviceKind", device), origin=_line(value, path))


def _keeps(node: yaml.Node, path: Path) -> Iterator[Keep]:
    for entry in _items(node, path, "`keep`"):
        patterns = tuple(_text(item, path, "a node to keep") for item in _items(entry, path, "an entry of `keep`"))
        if not patterns:
            raise _refusal(entry, path, "an entry of `keep` names no node")
        yield Keep(patterns=patterns, origin=_line(entry, path))


def _entries(node: yaml.Node, path: Path, what: str) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise _refusal(node, path, f"{what} is not a mapping")
    seen = set[str]()
    for key, value in node.value:
        text = _text(key, path, f"a key of {what}")
        if text in seen:
            raise _refusal(key, path, f"`{text}` is there twice")
        seen.add(text)
        yield text, value


def _items(node: yaml.Node, path: Path, what: str) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(node, path, f"{what} is not a list")
    return list(node.value)


def _text(node: yaml.Node, path: Path, what: str) -> str:
    """Return a scalar as it is written: a node may be called ``1`` or ``on``."""
    if not isinstance(node, yaml.ScalarNode):
        raise _refusal(node, path, f"{what} is not a name")
    return str(node.value)


def _line(node: yaml.Node, path: Path) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _refusal(node: yaml.Node, path: Path, what: str) -> UsageError:
    return UsageError(what, where=_line(node, path), hint=_EXAMPLE)
