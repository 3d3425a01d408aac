"""Let values cross a cut whose element type numpy lacks: 8-bit floats and integers below 8 bits.

They cross as a wider type that holds each of them exactly, so a Cast at either side changes no number. bfloat16 needs no
carrier: it travels as its raw bits.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

_FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
_WIDER = {
    **dict.fromkeys((*_FLOAT8, "FLOAT4E2M1"), "FLOAT16"),
    "FLOAT8E8M0": "FLOAT",  # powers of two beyond float16's range
    **dict.fromkeys(("INT4", "INT2"), "INT8"),
    **dict.fromkeys(("UINT4", "UINT2"), "UINT8"),
}
CARRIERS = {ir.DataType[name]: ir.DataType[wider] for name, wider in _WIDER.items() if name in ir.DataType.__members__}
"""The element type that carries each type that cannot cross by itself."""


def carry(part: ir.Graph, fixed: Collection[str]) -> None:
    """Replace the inputs and outputs of `part` that cannot cross by carriers of the same name.

    Args:
        part: A part that was cut out, with typed inputs and outputs; changed in place.
        fixed: Inputs and outputs of the whole model, whose types are not ours to change.
    """
    for index, value in enumerate(part.inputs):
        carrier = _carrier(value, fixed)
        if carrier is not None:
            part.inputs[index] = carrier
            part.insert_before(part[0], _cast(carrier, value))
    for index, value in enumerate(part.outputs):
        carrier = _carrier(value, fixed)
        if carrier is not None:
            part.append(_cast(value, carrier))
            part.outputs[index] = carrier


def _carrier(value: ir.Value, fixed: Collection[str]) -> ir.Value | None:
    """Return the value that crosses instead of `value`, which takes another name; None if it crosses itself."""
    if value.name in fixed or value.dtype not in CARRIERS:
        return None
    carrier = ir.Value(name=value.name, type=ir.TensorType(CARRIERS[value.dtype]), shape=value.shape)
    value.name = f"{value.name}.narrow"
    return carrier


def _cast(source: ir.Value, target: ir.Value) -> ir.Node:
    assert target.dtype is not None
    attributes = [ir.AttrInt64("to", target.dtype)]
    if target.dtype.name in _FLOAT8:
        attributes.append(ir.AttrInt64("saturate", 0))  # infinity stays infinity
    return ir.Node("", "Cast", [source], attributes, outputs=[target], name=f"{target.name}.carry")
