"""Check one request's inputs against the model's signature, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        inputs: One value a name.

    Raises:
        InputError: If a tensor is missing, unknown, or of another type, rank or fixed size.
    """
    checked: dict[str, Value] = {}
    for tensor in signature:
        if tensor.name in inputs:
            checked[tensor.name] = check_value(tensor, inputs[tensor.name])
    if len(checked) < len(inputs):
        unknown = next(name for name in inputs if name not in checked)
        known = ", ".join(repr(tensor.name) for tensor in signature) or "no inputs"
        raise InputError(str(unknown), got="an unknown name", expected=f"one of {known}")
    if len(checked) < len(signature):
        missing = next(tensor for tensor in signature if tensor.name not in checked)
        raise InputError(missing.name, got="nothing", expected=describe(missing))
    return checked


def check_value(tensor: TensorConfig, value: Value) -> Value:
    """Return one input in the model's element type; see `check_inputs`."""
    element = tensor.element
    if element is None:
        if isinstance(value, np.ndarray):
            raise InputError(tensor.name, got="an array", expected=describe(tensor))
        return value
    array = _as_tensor(tensor, element, value)
    if not fits(tensor.shape, array.shape):
        raise InputError(tensor.name, got=f"shape {list(array.shape)}", expected=describe(tensor))
    return array


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
    sizes = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.dtype} of shape [{sizes}]"


def _as_tensor(tensor: TensorConfig, element: ElementType, value: Value) -> Tensor:
    try:
        return from_array(value, element) if isinstance(value, np.ndarray) else from_python(value, element)
    except ValueError as error:
        raise InputError(tensor.name, got=str(error), expected=describe(tensor)) from None
