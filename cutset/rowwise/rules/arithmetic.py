"""Arithmetic on the elements of small tensors that say sizes: what exporters compute a shape with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from cutset.rowwise.flow import Element, Flow, from_data
from cutset.rowwise.operation import Operation
from cutset.rowwise.size import Size, opaque, product

_WIDE = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""Types that hold every size as it is."""

_TOO_LARGE = 1 << 31
"""Results from here on may have overflowed, and float numbers do not fit in an integer."""


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
    if name == "ReduceProd" and operation.need(0).data and not operation.attribute("noop_with_empty_axes", 0):
        sizes = operation.need(0).data or ()
        keep = operation.attribute("keepdims", 1)
        return from_data((_product(sizes),), scalar=not keep or operation.need(0).shape == ())
    return None


def _cast(operation: Operation) -> Flow:
    """Return the same numbers in another type; a named size stays a size in an integer or float type."""
    flow, kind = operation.need(0), ir.DataType(operation.attribute("to"))
    if kind == ir.DataType.BOOL:
        made = tuple(_truth(element) for element in flow.data or ())
    else:
        made = tuple(_converted(element, kind) for element in flow.data or ())
    return from_data(made, scalar=flow.shape == ())


def _converted(element: Element, kind: ir.DataType) -> Element:
    """Return an element in another type; what may not fit is a name of its own or unknown."""
    if isinstance(element, float):
        whole = kind.is_integer() and abs(element) < _TOO_LARGE
        return Size(int(element)) if whole else element if kind == ir.DataType.DOUBLE else None
    if element is None or kind in _WIDE or (element.number is not None and 0 <= element.number < 128):
        return element
    return _named(f"Cast to {kind.name}", [element])


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
    key = name if name != "Div" or _is_whole(operation.node.inputs[0]) else f"{name} of `{operation.node.outputs[0].name}`"
    if name == "Mod" and operation.attribute("fmod", 0):
        return None
    made = [_one(name, key, elements) for elements in zip(*columns, strict=True)]
    return from_data(tuple(made), scalar=all(flow.shape == () for flow in flows))


def _is_whole(value: ir.Value | None) -> bool:
    """Return whether a value is known to be of integers: 7 / 2 is 3 then."""
    while value is not None:
        kind = value.dtype or (None if value.const_value is None else value.const_value.dtype)
        if kind is not None:
            return kind.is_integer()
        node = value.producer()
        if node is None or node.op_type in {"Shape", "Size"}:
            return node is not None
        if node.op_type == "Cast":
            return ir.DataType(node.attributes["to"].value).is_integer()
        value = next(iter(node.inputs[node.op_type == "Where" :]), None)
    return False


def _one(name: str, key: str, elements: Sequence[Element]) -> Element:
    """Return one element; what is no known number or product becomes a name that begins with the key, or unknown."""
    if name == "Where":
        condition, yes, no = elements
        found = condition.number if isinstance(condition, Size) else None
        return _named(name, elements) if found is None else yes if found else no
    if len(elements) != 2:
        return _named(key, elements)
    made = _PAIRS[name](elements[0], elements[1])
    overflows = isinstance(made, Size) and abs(made.factor) >= _TOO_LARGE and made not in elements
    return _named(key, elements) if made is None or overflows else made


def _named(name: str, elements: Sequence[Element]) -> Element:
    """Return a name for an expression; an expression over an unknown element is unknown, unless it counts rows."""
    sizes = [element for element in elements if isinstance(element, Size)]
    if len(sizes) < len(elements) and not any(size.counts_rows for size in sizes):
        return None
    signed = name.startswith(("Sub", "Cast")) or any(size.may_be_negative for size in sizes) or len(sizes) < len(elements)
    return opaque(f"{name}({', '.join(map(repr, elements))})", sizes, signed=signed)


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
    if a.number is not None and b.number is not None:
        return Size(0)
    below = [one for one, other in ((a, b), (b, a)) if (one.number or 0) < 0 and not other.may_be_negative]
    return Size(0) if below else None


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
