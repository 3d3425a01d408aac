"""Read PIPELINE.yaml into typed values that remember their lines; everything the schema can say is checked here.

The schema is `schema.json` beside this module. What needs the models (names of their tensors, types) is checked where
they are composed, with the lines that this module kept.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cutset.errors import UsageError
from cutset.files import check_regular
from cutset.yaml_text import check_events

SUFFIXES = frozenset({".yaml", ".yml"})
"""What the file of a cascade is called."""

SCHEMA = Path(__file__).with_name("schema.json")
_LARGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A declared type and shape; a string in `shape` is a size of any value."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage as it is written.

    Args:
        name: Its name.
        kind: ``model``, ``part`` or ``python``.
        what: The file or sample, the part's name, or ``module:function``.
        inputs: Reference of what each of its inputs reads.
        settings: ``with`` of a part.
        shapes: Shapes of a model's inputs that win over those in its file.
        takes: Declared element types of the inputs of a Python stage.
        gives: Declared outputs of a Python stage.
        requires: Requirements of a Python stage.
    """

    name: str
    kind: str
    what: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    shapes: Mapping[str, tuple[int | str, ...]]
    takes: Mapping[str, str]
    gives: Mapping[str, Tensor]
    requires: tuple[str, ...]


class Document:
    """A cascade as it is written, valid by the schema.

    Args:
        path: The file.
        root: Its YAML nodes.
        data: The same as plain values.
    """

    def __init__(self, path: Path, root: yaml.Node, data: Mapping[str, Any]) -> None:
        self.path = path
        self._root = root
        self.inputs = {name: _tensor(entry) for name, entry in data["inputs"].items()}
        self.stages = {name: _stage(name, entry) for name, entry in data["stages"].items()}
        self.outputs: dict[str, str] = dict(data["outputs"])

    @property
    def folder(self) -> Path:
        """What paths in the file are relative to."""
        return self.path.parent

    def line(self, *keys: str | int) -> str:
        """Return ``FILE:LINE`` of a place in the file, or of the nearest that exists above it."""
        return f"{self.path}:{_node_at(self._root, keys).start_mark.line + 1}"

    def refusal(self, what: str, *keys: str | int, cause: str | None = None, hint: str | None = None) -> UsageError:
        """Return the error that says what is wrong at a place in the file."""
        return UsageError(what, where=self.line(*keys), cause=cause, hint=hint)


def read_document(path: Path) -> Document:
    """Return the cascade in a file.

    Raises:
        UsageError: If the file cannot be read, is not YAML, or breaks the schema; the message names the line.
    """
    try:
        check_regular(path)
        if path.stat().st_size > _LARGEST_BYTES:
            raise UsageError(f"{path} is too large to describe a pipeline", hint="models stay in files of their own")
        text = path.read_text("utf-8")
        check_events(text, path, aliases=False)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}", cause=getattr(error, "strerror", None) or str(error)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = str(path) if mark is None else f"{path}:{mark.line + 1}"
        raise UsageError(f"{path} is not YAML", where=where, cause=getattr(error, "problem", None) or str(error)) from error
    if root is None:
        raise UsageError(
            f"{path} is empty", hint="it needs `inputs`, `stages` and `outputs`; `cutset compose --schema` has all"
        )
    _check_keys(root, path)
    _validate(path, root, data)
    return Document(path, root, data)


def schema() -> dict[str, Any]:
    """Return the JSON schema of PIPELINE.yaml."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))
    return found


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only cascades need it

    return Draft202012Validator(schema())


def _validate(path: Path, root: yaml.Node, data: object) -> None:
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - only cascades need it

    error = best_match(_validator().iter_errors(data))
    if error is None:
        return
    keys = list(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        unknown = [key for key in error.instance if key not in error.schema.get("properties", {})]
        keys += unknown[:1]
    node = _node_at(root, keys)
    above = [str(key) for key in error.absolute_path]
    raise UsageError(
        _what(error, f"`{'.'.join(above)}`" if above else "the file"),
        where=f"{path}:{node.start_mark.line + 1}",
        hint=_hint(error),
    )


def _what(error: Any, place: str) -> str:
    """Return a schema error in words."""
    found, rule = error.instance, error.validator
    what = f"{place}: {error.message[:200]}"
    if rule == "required":
        missing = next(name for name in error.validator_value if name not in found)
        what = f"{place} lacks `{missing}`"
        if missing == "part":
            what = f"{place} says neither `model`, `part` nor `python`"
    elif rule == "additionalProperties" and isinstance(found, dict):
        what = f"{place} has no setting `{next(key for key in found if key not in error.schema.get('properties', {}))}`"
    elif rule == "oneOf":
        names = [entry["required"][0] for entry in error.validator_value]
        what = f"{place} needs exactly one of {' and '.join(f'`{name}`' for name in names)}"
    elif rule == "pattern":
        what = f"{place}: {found!r} is not a name that can stand here"
    elif rule == "enum":
        what = f"{place}: {found!r} is not known"
    return what


def _hint(error: Any) -> str:
    if error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), [str(value) for value in error.validator_value], n=1)
        known = ", ".join(str(value) for value in error.validator_value)
        return f"did you mean `{near[0]}`? known: {known}" if near else f"known: {known}"
    if error.validator == "additionalProperties":
        return f"known: {', '.join(error.schema.get('properties', {}))}"
    if error.validator == "pattern":
        return f"it must match {error.validator_value}"
    return "`cutset compose --schema` prints what may stand where"


def _node_at(root: yaml.Node, keys: Sequence[str | int]) -> yaml.Node:
    """Return the node at a path of keys and indices; a key's own node where it leads to a value, as its line is wanted."""
    node = found = root
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((name, value) for name, value in node.value if name.value == str(key)), None)
            if pair is None:
                return found
            found, node = pair
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = node = node.value[key]
        else:
            return found
    return found


def _check_keys(node: yaml.Node, path: Path) -> None:
    """Refuse a key that stands twice in one mapping, of which YAML would keep the last, and one that is no text."""
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value, path)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, yaml.Node] = {}
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise UsageError("YAML does not read this key as text", where=where, hint="put it in quotes")
        if key.value in seen:
            first = seen[key.value].start_mark.line + 1
            raise UsageError(f"`{key.value}` is there twice", where=where, hint=f"the first is in line {first}")
        seen[key.value] = key
        _check_keys(value, path)


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    return Tensor(dtype=entry["type"], shape=tuple(entry["shape"]))


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    kind = next(kind for kind in ("model", "python", "part") if kind in entry)
    python = kind == "python"
    inputs = entry["inputs"]
    return Stage(
        name=name,
        kind=kind,
        what=entry[kind],
        inputs={key: value["from"] for key, value in inputs.items()} if python else dict(inputs),
        settings=entry.get("with", {}),
        shapes={key: tuple(value) for key, value in entry.get("shapes", {}).items()},
        takes={key: value["type"] for key, value in inputs.items()} if python else {},
        gives={key: _tensor(value) for key, value in entry["outputs"].items()} if python else {},
        requires=tuple(entry.get("requires", ())),
    )
