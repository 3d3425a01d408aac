"""Arithmetic on the elements of small tensors that say sizes: what exporters compute a shape with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from cutset.rowwise.flow import Element, Flow, from_data
from cutset.rowwise.operation import Operation
from cutset.rowwise.size import Size, opaque, product


def evaluate(operation: Operation) -> Flow | None:
    """Return the result of an operator on small tensors without rows, None where this module does not know the operator.

    Args:
        operation: None of its inputs carries rows.
    """
    name = operation.node.op_type
    if operation.node.domain or any(flow.data is None for flow in operation.given) or not operation.given:
        return None
    if name == "Identity":
        return operation.need(0)
    if name == "Cast":
        return _cast(operation)
    if name in _PAIRS or name == "Where":
        return _elementwise(operation)
    if name == "ReduceProd" and operation.need(0).data:
        sizes = operation.need(0).data or ()
        keep = operation.attribute("keepdims", 1)
        return from_data((_product(sizes),), scalar=not keep)
    return None


def _cast(operation: Operation) -> Flow:
    """Return the same numbers in another type; a named size stays a size in an integer or float type."""
    flow, kind = operation.need(0), ir.DataType(operation.attribute("to"))
    if kind == ir.DataType.BOOL:
        made = tuple(_truth(element) for element in flow.data or ())
    elif kind.is_integer():
        made = tuple(Size(int(element)) if isinstance(element, float) else element for element in flow.data or ())
    else:
        made = flow.data or ()
    return from_data(made, scalar=flow.shape == ())


def _truth(element: Element) -> Element:
    number = element.number if isinstance(element, Size) else element
    return Size(int(bool(number))) if number is not None else _named("bool", [element])


def _elementwise(operation: Operation) -> Flow | None:
    flows = operation.given
    length = max(len(flow.data or ()) for flow in flows)
    if any(len(flow.data or ()) not in {1, length} for flow in flows):
        return None
    columns = [tuple(flow.data or ()) * (length if len(flow.data or ()) == 1 else 1) for flow in flows]
    name = operation.node.op_type
    made = [_one(name, elements) for elements in zip(*columns, strict=True)]
    return from_data(tuple(made), scalar=all(flow.shape == () for flow in flows))


def _one(name: str, elements: Sequence[Element]) -> Element:
    """Return one element; what is no known number or product becomes a name, or unknown."""
    if name == "Where":
        condition, yes, no = elements
        found = condition.number if isinstance(condition, Size) else None
        return _named(name, elements) if found is None else yes if found else no
    if len(elements) != 2:
        return _named(name, elements)
    made = _PAIRS[name](elements[0], elements[1])
    return _named(name, elements) if made is None else made


def _named(name: str, elements: Sequence[Element]) -> Element:
    """Return a name for an expression; an expression over an unknown element is unknown, unless it counts rows."""
    sizes = [element for element in elements if isinstance(element, Size)]
    if len(sizes) < len(elements) and not any(size.counts_rows for size in sizes):
        return None
    return opaque(f"{name}({', '.join(map(repr, elements))})", sizes)


def _product(elements: Sequence[Element]) -> Element:
    sizes = [element for element in elements if isinstance(element, Size)]
    return product(sizes) if len(sizes) == len(elements) else _named("ReduceProd", elements)


def _mul(a: Element, b: Element) -> Element:
    return a.times(b) if isinstance(a, Size) and isinstance(b, Size) else _floats(a, b, lambda x, y: x * y)


def _div(a: Element, b: Element) -> Element:
    return a.divide(b) if isinstance(a, Size) and isinstance(b, Size) and b.factor > 0 else None


def _add(a: Element, b: Element) -> Element:
    if Size(0) in (a, b):
        return b if a == Size(0) else a
    return _integers(a, b, lambda x, y: x + y)


def _sub(a: Element, b: Element) -> Element:
    if b == Size(0):
        return a
    return Size(0) if a == b and isinstance(a, Size) else _integers(a, b, lambda x, y: x - y)


def _equal(a: Element, b: Element) -> Element:
    """Compare two elements; a negative number differs from every named size, for no size is negative."""
    if not isinstance(a, Size) or not isinstance(b, Size):
        return None
    if a == b:
        return Size(1)
    numbers = a.number is not None and b.number is not None
    return Size(0) if numbers or (a.factor < 0) != (b.factor < 0) else None


def _max(a: Element, b: Element) -> Element:
    return a if a == b else _integers(a, b, max)


def _min(a: Element, b: Element) -> Element:
    return a if a == b else _integers(a, b, min)


def _mod(a: Element, b: Element) -> Element:
    return _integers(a, b, lambda x, y: x % y if y else 0) if b != Size(0) else None


def _integers(a: Element, b: Element, function: Callable[[int, int], int]) -> Element:
    if isinstance(a, Size) and isinstance(b, Size) and a.number is not None and b.number is not None:
        return Size(function(a.number, b.number))
    return None


def _floats(a: Element, b: Element, function: Callable[[float, float], float]) -> Element:
    return function(a, b) if isinstance(a, float) and isinstance(b, float) else None


_PAIRS: dict[str, Callable[[Element, Element], Element]] = {
    "Mul": _mul, "Div": _div, "Add": _add, "Sub": _sub, "Equal": _equal, "Max": _max, "Min": _min, "Mod": _mod,
}  # fmt: skip
