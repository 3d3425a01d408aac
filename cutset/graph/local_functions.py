"""Local functions of a model: calls of them are replaced by their nodes, which are counted first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import inliner

from cutset.errors import ModelError
from cutset.graph.protos import with_large_weights, without_large_weights

MOST_INLINED = 500_000
"""Nodes and calls that inlining may make; real models stay under 50,000."""

Name = tuple[str, str, str]
"""Domain, name and overload of a function."""


def inline_functions(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Return `model` without local functions.

    Args:
        model: A model, its weights however large.
        where: File of the model, for people.

    Raises:
        ModelError: If a function calls itself, or calls multiply: forty levels of two calls each would make 2^40 nodes.
    """
    if not model.functions:
        return model
    _check_size(model, where)
    try:
        inlined = inliner.inline_local_functions(without_large_weights(model))
    except Exception as error:  # the inliner, and what measures weights, raise many kinds for malformed models
        raise _refusal(where, str(error)) from error
    left = next((node for node in inlined.graph.node if node.domain in {entry.domain for entry in inlined.functions}), None)
    if left is not None:
        raise _refusal(where, f"`{left.domain}::{left.op_type}` uses other versions of the operators than the model")
    return with_large_weights(inlined, model.graph.initializer)


def _refusal(where: str, cause: str) -> ModelError:
    return ModelError(f"the local functions of {where} cannot be inlined", cause=cause[:300])


def _check_size(model: onnx.ModelProto, where: str) -> None:
    functions = {(entry.domain, entry.name, entry.overload): entry for entry in model.functions}
    calls = {name: _count(entry.node, functions) for name, entry in functions.items()}
    try:
        order = list(TopologicalSorter({name: set(callees) for name, (_, callees) in calls.items()}).static_order())
    except CycleError as error:
        raise _refusal(where, f"function `{error.args[1][0][1]}` calls itself") from error
    sizes: dict[Name, int] = {}
    for name in order:
        sizes[name] = _size(*calls[name], sizes)
    plain, callees = _count(model.graph.node, functions)
    total = _size(plain, callees, sizes)
    if total - plain > MOST_INLINED:
        domain, most, _ = max(callees, key=lambda callee: callees[callee] * sizes[callee])
        raise ModelError(
            f"the local functions of {where} would become {_about(total)} nodes",
            where=f"{where}, function `{domain}::{most}`",
            cause="functions that call functions several times multiply",
            hint="export the model without local functions, or with fewer levels of them",
        )


def _size(plain: int, callees: Counter[Name], sizes: dict[Name, int]) -> int:
    """Return the nodes that nodes and calls become; a call is a node itself until it is inlined."""
    return plain + sum(times * (1 + sizes[callee]) for callee, times in callees.items())


def _about(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"more than 10^{len(str(number)) - 1}"


def _count(nodes: Iterable[onnx.NodeProto], functions: dict[Name, onnx.FunctionProto]) -> tuple[int, Counter[Name]]:
    """Return the number of nodes that call no local function, those of bodies included, and the calls by function."""
    plain, calls = 0, Counter[Name]()
    left = [nodes]
    while left:
        for node in left.pop():
            name = (node.domain, node.op_type, node.overload)
            if name in functions:
                calls[name] += 1
            else:
                plain += 1
            for attribute in node.attribute:
                left += [body.node for body in (attribute.g, *attribute.graphs) if body.node]
    return plain, calls
