"""Symbolic shape inference in bounded time: expressions that grow too large are replaced by names.

Sizes behind a stack of strided convolutions are nested roundings, and the time to compare two products of them doubles with
every level. The limits here count roundings and characters, not seconds, so every machine infers the same symbols.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext, ShapeInferenceError, infer_symbolic_shapes, registry

from cutset.graph.model import iter_bodies

logger = logging.getLogger(__name__)

MAX_EXPRESSION = 1000
"""Characters of one size, above which sizes get names."""

MAX_COMPARISON = 16
"""Cost of all comparisons of expressions: 2**depth for the elements of a Reshape, at about 0.05 s a unit, and an eighth of
that for a single size that the file declares and inference finds to be another expression."""

MAX_NAMED_EXPRESSION = 80
"""Characters of one size that stays an expression where sizes get names; one with a function in it never does."""

Rule = Callable[[ShapeInferenceContext, ir.Node], None]
Size = int | ir.SymbolicDim


@dataclass(slots=True)
class _Watch:
    """Stop at the first expression that is too large to go on with."""

    exceeded: bool = False
    cost: float = 0.0
    compared: set[tuple[str, str]] = field(default_factory=set)
    declared: WeakKeyDictionary[Any, int] = field(default_factory=WeakKeyDictionary)

    def settle(self, context: ShapeInferenceContext, node: ir.Node) -> None:
        """Check what the rule of `node` has inferred.

        Raises:
            ShapeInferenceError: If it is too large, or something was before.
        """
        sizes = [size for value in node.outputs if value.shape is not None for size in value.shape]
        longest = max((len(str(size)) for size in sizes if not isinstance(size, int)), default=0)
        if node.op_type == "Reshape" and node.domain == "":
            self.cost += self._comparison(node)
        self.cost += self._declarations(context)
        self.exceeded = self.exceeded or longest > MAX_EXPRESSION or self.cost > MAX_COMPARISON
        if self.exceeded:
            raise ShapeInferenceError(
                node_name=node.name, op_type=node.op_type, domain=node.domain, message="sizes grow too large"
            )

    def _declarations(self, context: ShapeInferenceContext) -> float:
        """Return the cost of comparing the sizes that the file declares, as far as these are new, with the inferred sizes."""
        pairs = context.symbolic_equalities[self.declared.get(context, 0) :]
        self.declared[context] = len(context.symbolic_equalities)
        depths = [max(map(rounding_depth, pair)) for pair in pairs if not _is_compared_at_once(*pair)]
        return sum(2.0 ** (depth - 3) for depth in depths if depth)

    def _comparison(self, node: ir.Node) -> int:
        """Return the cost of comparing the elements before and after a Reshape; zero if no size is rounded."""
        data, output = node.inputs[0], node.outputs[0]
        if data is None or data.shape is None or output.shape is None:
            return 0
        sides = (str(data.shape), str(output.shape))
        depth = max(rounding_depth(side) for side in sides)
        if depth == 0 or sides in self.compared or str(_product(data.shape)) == str(_product(output.shape)):
            return 0
        self.compared.add(sides)
        return int(2**depth)


@dataclass(slots=True)
class _Namer:
    """Give every size that is more than a short sum or product a name, equal sizes the same name."""

    names: dict[str, ir.SymbolicDim] = field(default_factory=dict)

    def settle(self, context: ShapeInferenceContext, node: ir.Node) -> None:
        """Replace the large sizes among the results of `node`, both as shapes and as elements of shape tensors."""
        for value in node.outputs:
            if value.shape is not None and any(_is_large(size) for size in value.shape):
                value.shape = ir.Shape([self._name(context, size) for size in value.shape])
            elements = context.get_symbolic_value(value) if value.const_value is None else None
            if elements is not None and any(_is_large(size) for size in elements):
                context.set_symbolic_value(value, [self._name(context, size) for size in elements])

    def _name(self, context: ShapeInferenceContext, size: Size) -> Size:
        if not _is_large(size):
            return size
        text = str(size)
        if text not in self.names:
            self.names[text] = context.new_symbolic_dim()
        return self.names[text]


_active: ContextVar[_Watch | _Namer | None] = ContextVar("active", default=None)
_bounded: set[tuple[str, str, int]] = set()


def infer_bounded(model: ir.Model) -> None:
    """Infer the symbolic shapes of `model` in place, exactly if that is cheap, else with names for the large sizes.

    Raises:
        Exception: One of many kinds if an operator is beyond symbolic inference; what was inferred before stays.
    """
    _bound_rules()
    before = [(value, value.shape, value.type) for value in _values(model.graph)]
    watch = _Watch()
    try:
        _run(model, watch, adopt=True)
    except Exception:
        if not watch.exceeded:
            raise
    if not watch.exceeded:
        return
    logger.info("sizes grow too large: the large ones get names")
    for value, shape, kind in before:
        value.shape, value.type = shape, kind
    _run(model, _Namer(), adopt=False)


def rounding_depth(text: str) -> int:
    """Return how deeply the functions of an expression (``floor``, ``Max``, ...) are nested."""
    depth = deepest = 0
    calls: list[bool] = []
    before = " "
    for character in text:
        if character == "(":
            calls.append(before.isalnum() or before == "_")
            depth += calls[-1]
            deepest = max(deepest, depth)
        elif character == ")" and calls:
            depth -= calls.pop()
        before = character
    return deepest


def _run(model: ir.Model, bound: _Watch | _Namer, *, adopt: bool) -> None:
    token = _active.set(bound)
    try:
        infer_symbolic_shapes(model, warn_on_missing=False, adopt_declared_symbols=adopt)
    finally:
        _active.reset(token)
        _write_numbers(model.graph)


def _write_numbers(graph: ir.Graph) -> None:
    """Make the symbols that are numbers, which the arithmetic of symbols leaves behind, numbers."""
    for value in _values(graph):
        if value.shape is not None and any(str(size).isdecimal() and not isinstance(size, int) for size in value.shape):
            value.shape = ir.Shape([int(str(size)) if str(size).isdecimal() else size for size in value.shape])


def _bound_rules() -> None:
    """Register a bounded form of every operator's rule once, which outside `infer_bounded` is the rule itself."""
    for domain, op_type, versions in list(registry.iter_supported()):
        for version in sorted(set(versions)):
            rule = registry.get(domain, op_type, version)
            if rule is not None and (domain, op_type, version) not in _bounded:
                _bounded.add((domain, op_type, version))
                registry.register(domain, op_type, since_version=version)(_bound(rule))


def _bound(rule: Rule) -> Rule:
    def infer(context: ShapeInferenceContext, node: ir.Node) -> None:
        rule(context, node)
        active = _active.get()
        if active is not None:
            active.settle(context, node)

    return infer


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
        for body in iter_bodies(node):
            yield from _values(body)


def _is_compared_at_once(one: str, other: str) -> bool:
    """Return whether a side is a bare name, which has no factor to take out, or both sides are one expression."""
    if one.isidentifier() or other.isidentifier():
        return True
    try:
        return str(ir.SymbolicDim(one) - ir.SymbolicDim(other)) == "0"
    except (TypeError, ValueError):
        return False


def _product(shape: ir.Shape) -> Size:
    product: Size = 1
    for size in shape:
        product = size * product
    return product


def _is_large(size: Size) -> bool:
    if isinstance(size, int):
        return False
    text = str(size)
    return len(text) > MAX_NAMED_EXPRESSION or rounding_depth(text) > 0
