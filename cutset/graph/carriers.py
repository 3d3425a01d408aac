"""Let values cross a cut whose element type numpy lacks: 8-bit floats and integers below 8 bits.

They cross as a wider type that holds each of them exactly, so a Cast at either side changes no number. bfloat16 needs no
carrier: it travels as its raw bits.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from cutset.graph.names import FreshNames

_FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
_WIDER = {
    **dict.fromkeys((*_FLOAT8, "FLOAT4E2M1"), "FLOAT16"),
    "FLOAT8E8M0": "FLOAT",  # powers of two beyond float16's range
    **dict.fromkeys(("INT4", "INT2"), "INT8"),
    **dict.fromkeys(("UINT4", "UINT2"), "UINT8"),
}
CARRIERS = {ir.DataType[name]: ir.DataType[wider] for name, wider in _WIDER.items() if name in ir.DataType.__members__}
"""The element type that carries each type that cannot cross by itself."""


def carry(part: ir.Graph, fixed: Collection[str], taken: Collection[str] = ()) -> None:
    """Replace the inputs and outputs of `part` that cannot cross by carriers of the same name.

    Args:
        part: A part that was cut out, with typed inputs and outputs; changed in place.
        fixed: Inputs and outputs of the whole model, whose types are not ours to change.
        taken: Names that the nodes and values made here must not have, besides those of the part.
    """
    if not any(_needs_carrier(value, fixed) for value in (*part.inputs, *part.outputs)):
        return
    names = FreshNames.beside_ir(part, taken)
    for index, value in enumerate(part.inputs):
        if _needs_carrier(value, fixed):
            part.inputs[index] = carrier = _carrier(value, names)
            part.insert_before(part[0], _cast(carrier, value, names))
    for index, value in enumerate(part.outputs):
        if _needs_carrier(value, fixed):
            carrier = _carrier(value, names)
            part.append(_cast(value, carrier, names))
            part.outputs[index] = carrier


def _needs_carrier(value: ir.Value, fixed: Collection[str]) -> bool:
    return value.name not in fixed and value.dtype in CARRIERS


def _carrier(value: ir.Value, names: FreshNames) -> ir.Value:
    """Return the value that crosses instead of `value`, which takes another name."""
    assert value.dtype is not None
    carrier = ir.Value(name=value.name, type=ir.TensorType(CARRIERS[value.dtype]), shape=value.shape)
    value.name = names.make(f"{value.name}.narrow")
    return carrier


def _cast(source: ir.Value, target: ir.Value, names: FreshNames) -> ir.Node:
    assert target.dtype is not None
    attributes = [ir.AttrInt64("to", target.dtype)]
    if target.dtype.name in _FLOAT8:
        attributes.append(ir.AttrInt64("saturate", 0))  # infinity stays infinity
    return ir.Node("", "Cast", [source], attributes, outputs=[target], name=names.make(f"{target.name}.carry"))
