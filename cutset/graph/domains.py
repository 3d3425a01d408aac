"""Find operators outside ONNX's own domain in a model: TensorRT's parser looks at their type alone."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from cutset.graph.types import STANDARD_DOMAINS, OpId


def custom_operator(nodes: Iterable[onnx.NodeProto]) -> str:
    """Return the first operator outside ONNX's own domain, those in bodies included; empty where there is none.

    Args:
        nodes: Nodes of a graph.
    """
    for node in nodes:
        if node.domain not in STANDARD_DOMAINS:
            return str(OpId(domain=node.domain, op_type=node.op_type))
        bodies = (body for attribute in node.attribute for body in (attribute.g, *attribute.graphs))
        inner = next(filter(None, (custom_operator(body.node) for body in bodies)), "")
        if inner:
            return inner
    return ""


def refusal_of(model: onnx.ModelProto) -> str:
    """Return why no engine may be built from a model, empty where nothing is against it."""
    custom = custom_operator(model.graph.node)
    return f"{custom} is no operator of ONNX's own domain, and TensorRT would look at its name alone" if custom else ""
