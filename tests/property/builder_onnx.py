"""A random ONNX graph under construction: typed values, and names as odd as real files have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

ELEMENT = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
    "float16": TensorProto.FLOAT16,
}
ODD = ["", "", "/a/b:", "x::", '{"k": "v"}', "<script>", "日本", "a b ", "[0]", "\\", "$(x)`", "'", "../", "%s"]
NODE_NAMES = ["", "", "same", "same", "/blk/conv:0", "a::b", 'n"{1}', "<b>", "日本 語", "[x]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Val:
    """One value: its type, its shape (None when it depends on the data), and whether its floats are whole numbers."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    exact: bool = True


def tensor(array: np.ndarray, name: str) -> TensorProto:
    """Return a constant."""
    return numpy_helper.from_array(array, name)


def info(name: str, dtype: str, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    """Return a declaration; of a sequence without shape."""
    if dtype.startswith("seq("):
        return helper.make_tensor_sequence_value_info(name, ELEMENT[dtype[4:-1]], None)
    return helper.make_tensor_value_info(name, ELEMENT[dtype], shape)


class Builder:
    """A graph under construction. Operators that find no fitting value do nothing."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[Val] = []
        self.inputs: list[Val] = []
        self.initializers: list[TensorProto] = []
        self.ir_version = draw(st.sampled_from([8, 10, 7, 3]))
        self.domains = {"": draw(st.sampled_from([13, 17, 21]))}
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.untyped: dict[str, onnx.TypeProto] = {}
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"{self.draw(st.sampled_from(ODD))}{self._count}"

    def pick(self, fits: Callable[[Val], bool]) -> Val | None:
        """Return a fitting value, if there is one; the last ones, which make long paths, are likelier."""
        found = [value for value in self.values if fits(value)]
        if len(found) > 3 and self.flag():
            found = found[-3:]
        return self.draw(st.sampled_from(found)) if found else None

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def constant(self, array: np.ndarray) -> Val:
        """Add an initializer, or a node that makes the same array."""
        value = Val(name=self.name(), dtype="string" if array.dtype == object else str(array.dtype), shape=array.shape)
        if self.flag():
            self.initializers.append(tensor(array, value.name))
        else:
            self.nodes.append(self.node("Constant", [], [value.name], value=tensor(array, "v")))
        self.values.append(value)
        return value

    def input(self, dtype: str, shape: tuple[int, ...]) -> Val:
        value = Val(name=self.name(), dtype=dtype, shape=shape)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64)).name

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> onnx.NodeProto:
        self.domains.setdefault(domain, 1)
        name = self.draw(st.sampled_from(NODE_NAMES))
        return helper.make_node(op, list(inputs), list(outputs), name=name, domain=domain, **attributes)

    def add(
        self, op: str, reads: Sequence[Val | str], dtype: str, shape: tuple[int, ...] | None, *, exact: bool = True, **more: Any
    ) -> Val:
        """Add a node with one output; the output is inexact if the operator or anything it reads is."""
        whole = exact and all(value.exact for value in reads if isinstance(value, Val))
        out = Val(name=self.name(), dtype=dtype, shape=shape, exact=whole)
        names = [value.name if isinstance(value, Val) else value for value in reads]
        self.nodes.append(self.node(op, names, [out.name], **more))
        self.values.append(out)
        return out
