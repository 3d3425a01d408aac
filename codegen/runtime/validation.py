"""Check one request's inputs against the model's signature, before anything runs.

Sizes that bear the same symbol must be equal, by ONNX's rules. onnxruntime does not insist, and not every kernel checks:
GatherND reads behind the end of its data where there are more rows of indices, SkipLayerNormalization ends the process where
one side has no rows (onnxruntime 1.32). So unequal sizes are refused, not tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from .config import TensorConfig
from .dtypes import ElementType, Tensor, Value, from_array, from_python
from .errors import InputError


def check_inputs(signature: Sequence[TensorConfig], inputs: Mapping[str, Value]) -> dict[str, Value]:
    """Return the inputs as tensors in the model's element types.

    An array must have the model's element type; a list or a scalar is converted where that changes no value
    (`dtypes.from_python`). Arrays are not copied: they must not be written to while the request is under way.

    Args:
        signature: The model's inputs.
        inputs: One value a name; an input with a default may be left out.

    Raises:
        InputError: If a tensor is missing, unknown, of another type, rank or fixed size, smaller than allowed, or if sizes
            that bear one symbol differ.
    """
    checked: dict[str, Value] = {}
    for tensor in signature:
        if tensor.name in inputs:
            checked[tensor.name] = check_value(tensor, inputs[tensor.name])
    if len(checked) < len(inputs):
        unknown = next(name for name in inputs if name not in checked)
        known = ", ".join(repr(tensor.name) for tensor in signature) or "no inputs"
        raise InputError(str(unknown), got="an unknown name", expected=f"one of {known}")
    left_out = [tensor for tensor in signature if tensor.name not in checked] if len(checked) < len(signature) else []
    for tensor in left_out:
        if tensor.default is None:
            raise InputError(tensor.name, got="nothing", expected=describe(tensor))
    for symbol, places in shared_symbols(tuple(signature)):
        _check_equal(symbol, places, checked)
    return checked | {tensor.name: check_value(tensor, tensor.default) for tensor in left_out} if left_out else checked


def check_value(tensor: TensorConfig, value: Value) -> Value:
    """Return one input in the model's element type; see `check_inputs`."""
    element = tensor.element
    if element is None:
        if isinstance(value, np.ndarray):
            raise InputError(tensor.name, got="an array", expected=describe(tensor))
        return value
    array = _as_tensor(tensor, element, value)
    if not fits(tensor.shape, array.shape) or (tensor.least is not None and below(tensor.least, array.shape)):
        raise InputError(tensor.name, got=f"shape {list(array.shape)}", expected=describe(tensor))
    return array


def below(least: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a size is smaller than the least one of its dimension."""
    return any(size < low for low, size in zip(least, shape, strict=True))


def fits(expected: tuple[int | str | None, ...] | None, shape: tuple[int, ...]) -> bool:
    """Return whether a shape has the rank and the fixed sizes the model asks for."""
    if expected is None:
        return True
    if len(expected) != len(shape):
        return False
    for want, size in zip(expected, shape, strict=True):  # `all` of a generator takes three times as long  # noqa: SIM110
        if want != size and isinstance(want, int):
            return False
    return True


def describe(tensor: TensorConfig) -> str:
    """Return an input's signature in words, e.g. ``float32 of shape [batch, 3, 224, 224]``."""
    if tensor.element is None:
        return tensor.dtype
    if tensor.shape is None:
        return f"{tensor.dtype} of any shape"
    sizes = ["?" if size is None else str(size) for size in tensor.shape]
    if tensor.least is not None:
        bounds = zip(sizes, tensor.shape, tensor.least, strict=True)
        sizes = [f"{text} >= {low}" if low and not isinstance(size, int) else text for text, size, low in bounds]
    return f"{tensor.dtype} of shape [{', '.join(sizes)}]"


Places: TypeAlias = tuple[tuple[str, int], ...]


@lru_cache(16)
def shared_symbols(signature: tuple[TensorConfig, ...]) -> tuple[tuple[str, Places], ...]:
    """Return each symbol that several dimensions of the inputs bear, with the input and the axis of each dimension."""
    places: dict[str, list[tuple[str, int]]] = {}
    for tensor in signature:
        for axis, size in enumerate(tensor.shape or ()):
            if isinstance(size, str):
                places.setdefault(size, []).append((tensor.name, axis))
    return tuple((symbol, tuple(where)) for symbol, where in places.items() if len(where) > 1)


def _check_equal(symbol: str, places: Places, inputs: Mapping[str, Value]) -> None:
    """Check that the sizes that bear a symbol are equal; inputs that are left out have none."""
    sizes = [(name, axis, inputs[name].shape[axis]) for name, axis in places if name in inputs]
    for name, axis, size in sizes[1:]:
        first, other, expected = sizes[0]
        if size != expected:
            got = f"size {size} for {symbol!r} on dimension {axis}"
            raise InputError(name, got=got, expected=f"{expected}, which input {first!r} has on dimension {other}")


def _as_tensor(tensor: TensorConfig, element: ElementType, value: Value) -> Tensor:
    try:
        return from_array(value, element) if isinstance(value, np.ndarray) else from_python(value, element)
    except ValueError as error:
        raise InputError(tensor.name, got=str(error), expected=describe(tensor)) from None
