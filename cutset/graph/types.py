"""The values of a model graph: operator identity and tensor type, shape and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from cutset.errors import UnknownShapeError

Dim = int | str | None
"""A fixed size, a named (symbolic) size, or unknown."""

STRING_ELEMENT_BYTES = 32
"""Nominal size of one string element; strings never leave the host, so it only has to be plausible."""

_NUMPY: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "string": np.dtype(object),
}


STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
"""Names of the domain of ONNX's own operators."""

_KNOWN_DOMAINS = STANDARD_DOMAINS | {"com.microsoft", "com.ms.internal.nhwc"}
"""Domains whose operators have a documented meaning: ONNX's own, and onnxruntime's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpId:
    """Identity of an operator: domain (empty for ai.onnx), type and overload.

    A table of operators is asked for `standard_type` or `known_type`, never for the bare type: a custom operator may be
    called as any other one, and computes what its library says.
    """

    domain: str
    op_type: str
    overload: str = ""

    @property
    def standard_type(self) -> str:
        """Type of an operator of ONNX's own domain; empty for every other operator."""
        return self.op_type if self.domain in STANDARD_DOMAINS else ""

    @property
    def known_type(self) -> str:
        """Type of an operator of ONNX or of onnxruntime; empty for a custom operator."""
        return self.op_type if self.domain in _KNOWN_DOMAINS else ""

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.op_type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, element type and shape of one value.

    Args:
        name: Value name in the model; any text.
        dtype: ``float32``, ``string``, ...; ``seq(...)``, ``map(...)`` and ``optional(...)`` for what is no tensor.
        shape: One entry a dimension, or None when even the rank is unknown.
        default: Of an input that a caller may leave out.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    default: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def is_tensor(self) -> bool:
        """Whether the value is a plain tensor and not a sequence, map or optional."""
        return "(" not in self.dtype

    @property
    def numpy_dtype(self) -> np.dtype:
        """The numpy type that onnxruntime takes for it.

        Raises:
            UnknownShapeError: If numpy has no such type (sequences, sub-byte types).
        """
        if self.dtype not in _NUMPY:
            raise UnknownShapeError(f"tensor `{self.name}` has type {self.dtype}, which has no numpy equivalent")
        return _NUMPY[self.dtype]

    def sizes(self, bindings: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape as integers.

        Args:
            bindings: Value of each symbolic dimension, for example ``{"batch": 8}``.

        Raises:
            UnknownShapeError: If a dimension has no value; the message names the tensor and the dimension.
        """
        if self.shape is None:
            raise UnknownShapeError(f"tensor `{self.name}` has no known rank", hint="give sample inputs with --inputs")
        out = []
        for index, dim in enumerate(self.shape):
            size = bindings.get(dim) if isinstance(dim, str) else dim
            if size is None:
                raise UnknownShapeError(
                    f"tensor `{self.name}` has no known size on dimension {index} (`{dim}`)",
                    hint="give sample inputs with --inputs sample.npz, or sizes with --shape name=1x3x224x224",
                )
            out.append(size)
        return tuple(out)

    def nbytes(self, bindings: Mapping[str, int]) -> int:
        """Return the size in bytes (strings count a nominal 32 bytes an element).

        Raises:
            UnknownShapeError: If a dimension has no value.
        """
        return math.prod(self.sizes(bindings)) * element_bytes(self.dtype)


def element_bytes(dtype: str) -> int:
    """Return the bytes of one element of an ONNX element type (sub-byte types are rounded up to one)."""
    if dtype == "string":
        return STRING_ELEMENT_BYTES
    known = _NUMPY.get(dtype)
    return known.itemsize if known is not None else 1
