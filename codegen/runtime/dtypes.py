"""Element types: the plan's names, numpy's, the protocol's, and exact conversion of plain Python values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Tensor: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""A numpy array of any element type; strings are object arrays of `str`, bfloat16 is its 16 raw bits in uint16."""
Value: TypeAlias = Any
"""What a tensor name stands for in a request: a `Tensor`, or a list or dict for ONNX sequences and maps."""

_MAX_DEPTH = 64  # numpy 2 allows 64 dimensions; a deeper list is an attack, not a tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementType:
    """One element type under its three names.

    Args:
        name: The plan's name, e.g. ``"float32"``.
        datatype: The Open Inference Protocol's name, e.g. ``"FP32"``.
        storage: The numpy type that holds it in memory, little-endian.
    """

    name: str
    datatype: str
    storage: np.dtype[Any]

    @property
    def is_string(self) -> bool:
        """True for variable-length strings."""
        return self.name == "string"


def _table() -> dict[str, ElementType]:
    rows = [
        ("float32", "FP32", "<f4"),
        ("float64", "FP64", "<f8"),
        ("float16", "FP16", "<f2"),
        ("bfloat16", "BF16", "<u2"),
    ]
    rows += [(f"int{bits}", f"INT{bits}", f"<i{bits // 8}") for bits in (8, 16, 32, 64)]
    rows += [(f"uint{bits}", f"UINT{bits}", f"<u{bits // 8}") for bits in (8, 16, 32, 64)]
    rows += [("bool", "BOOL", "?"), ("string", "BYTES", "O")]
    return {name: ElementType(name=name, datatype=datatype, storage=np.dtype(code)) for name, datatype, code in rows}


ELEMENT_TYPES = _table()


_BY_STORAGE = {element.storage: name for name, element in reversed(ELEMENT_TYPES.items()) if name != "bfloat16"}


def element_of(value: Value) -> str:
    """Return the name of the element type that an array's memory is, bfloat16 being ``"uint16"`` here.

    Raises:
        ValueError: If the value is no array of a known type.
    """
    if not isinstance(value, np.ndarray) or value.dtype not in _BY_STORAGE:
        raise ValueError(f"a {type(value).__name__} cannot cross between processes, only tensors can")
    return _BY_STORAGE[value.dtype]


def from_array(array: Tensor, element: ElementType) -> Tensor:
    """Return the array in the storage of `element`, without changing any value.

    Raises:
        ValueError: If the element type differs, or a string is not text.
    """
    if array.dtype == element.storage and array.dtype.kind != "O":
        return array
    if element.is_string:
        if array.dtype.kind not in "OUS":
            raise ValueError(f"elements of type {array.dtype}")
        leaves = array.ravel().tolist()
        return _pack(leaves, set(map(type, leaves)), element).reshape(array.shape)
    if element.name == "bfloat16" and array.dtype.name == "bfloat16":  # the ml_dtypes package's
        return array.view(element.storage)
    if array.dtype.newbyteorder("<") == element.storage:
        return array.astype(element.storage)
    raise ValueError(f"elements of type {array.dtype}")


def from_python(value: object, element: ElementType) -> Tensor:
    """Return a (nested) list or a scalar as a tensor; its shape is the nesting.

    Booleans, integers and strings must be exactly of their kind and range. A float is rounded to the tensor's
    precision, as in numpy, but never to infinity; an integer in a float tensor must be representable.

    Raises:
        ValueError: If the nesting is uneven or a value does not fit; the message says what came.
    """
    leaves, shape = _flatten(value)
    kinds = set(map(type, leaves))
    if any(issubclass(kind, np.generic) for kind in kinds):
        leaves = [leaf.item() if isinstance(leaf, np.generic) else leaf for leaf in leaves]
        kinds = set(map(type, leaves))
    return _pack(leaves, kinds, element).reshape(shape)


def _flatten(value: object) -> tuple[list[Any], list[int]]:
    """Return the leaves in order, and the shape; level by level, so that the loops run inside C."""
    level: list[Any] = [value]
    shape: list[int] = []
    while any(issubclass(kind, list | tuple) for kind in set(map(type, level))):
        if not all(isinstance(item, list | tuple) for item in level):
            raise ValueError("a list that mixes values and lists")
        lengths = set(map(len, level))
        if len(lengths) != 1:
            raise ValueError("a list of uneven lengths")
        if len(shape) == _MAX_DEPTH:
            raise ValueError(f"a list nested deeper than {_MAX_DEPTH}")
        shape.append(lengths.pop())
        level = list(itertools.chain.from_iterable(level))
    return level, shape


def _pack(leaves: list[Any], kinds: set[type], element: ElementType) -> Tensor:
    storage = element.storage
    allowed: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "O": {str, bytes}}
    if element.name == "bfloat16":
        raise ValueError("a list, and bfloat16 is taken as raw 16-bit data only")
    wrong = sorted(kind.__name__ for kind in kinds - allowed[storage.kind])
    if wrong:
        raise ValueError(f"values of type {', '.join(wrong)}")
    if element.is_string:
        return _strings(leaves)
    if leaves and storage.kind in "iu":
        limits = np.iinfo(storage)
        for extreme in (min(leaves), max(leaves)):
            if not int(limits.min) <= extreme <= int(limits.max):
                raise ValueError(f"the value {_short(extreme)}")
    return _floats(leaves, kinds, storage) if storage.kind == "f" else np.array(leaves, dtype=storage)


def _floats(leaves: list[Any], kinds: set[type], storage: np.dtype[Any]) -> Tensor:
    try:
        wide = np.array(leaves, dtype=np.float64)
    except OverflowError:
        raise ValueError("an integer beyond every float") from None
    with np.errstate(over="ignore"):
        packed = wide.astype(storage)
    lost = np.isinf(packed) & ~np.isinf(wide)
    exact_up_to = 2.0 ** (np.finfo(storage).nmant + 1)
    if int in kinds and not (np.abs(wide) <= exact_up_to).all():
        pairs = zip(leaves, packed.tolist(), strict=True)
        lost |= np.array([type(leaf) is int and stored != leaf for leaf, stored in pairs])
    if lost.any():
        raise ValueError(f"the value {_short(leaves[int(lost.argmax())])}")
    return packed


def _strings(leaves: Sequence[str | bytes]) -> Tensor:
    tensor = np.empty(len(leaves), dtype=np.object_)
    for position, leaf in enumerate(leaves):
        try:
            # ONNX Runtime would hand a bytes element on as its repr: measured, b'a' arrived as "b'a'".
            text = leaf.decode("utf-8") if isinstance(leaf, bytes) else leaf
            text.encode("utf-8")
        except UnicodeError:
            raise ValueError(f"a string that is not UTF-8 at position {position}") from None
        tensor[position] = text
    return tensor


def _short(value: float) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "of thousands of digits"
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} digits)"
