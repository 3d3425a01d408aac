"""Symmetric int8 with calibration: onnxruntime's static quantisation of a part, in the form that TensorRT takes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from cutset.errors import ModelError
from cutset.graph.protos import copy_model, fits_inside, write_model
from cutset.graph.types import STANDARD_DOMAINS
from cutset.profilers.session import Arrays

QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with int8 kernels worth having; the others stay in float32 between them."""


def quantise(
    model: onnx.ModelProto, feeds: Sequence[Arrays], keep: Collection[str] = (), *, per_channel: bool = True
) -> onnx.ModelProto:
    """Return a part with symmetric int8 Q/DQ pairs around its matrix products.

    Args:
        model: The part in float32, weights inside.
        feeds: Inputs to calibrate with.
        keep: Names of nodes to leave in float32.
        per_channel: Whether each output channel of a weight has its own scale.

    Raises:
        ModelError: If onnxruntime cannot quantise it.
    """
    plain = _plain_names(model)
    if plain:  # the names that onnxruntime makes of those of the tensors are there already
        feeds = [{plain[name]: value for name, value in feed.items()} for feed in feeds]
        renamed = _quantised(_renamed(model, plain), feeds, keep, per_channel=per_channel)
        return _renamed(renamed, {name: original for original, name in plain.items()})
    return _quantised(model, feeds, keep, per_channel=per_channel)


def _quantised(model: onnx.ModelProto, feeds: Sequence[Arrays], keep: Collection[str], *, per_channel: bool) -> onnx.ModelProto:
    from onnxruntime import quantization as ort  # noqa: PLC0415 (heavy, and only for int8)

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[Arrays] = iter(feeds)

        def get_next(self) -> dict[str, object] | None:
            feed = next(self._feeds, None)
            return None if feed is None else dict(feed)

    with tempfile.TemporaryDirectory(prefix="cutset-int8-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        write_model(model, source)
        level = logging.getLogger().level
        try:
            logging.getLogger().setLevel(logging.ERROR)  # it warns through the root logger about models without shapes
            ort.quantize_static(
                source,
                target,
                Reader(),
                op_types_to_quantize=list(QUANTISED),
                per_channel=per_channel,
                activation_type=ort.QuantType.QInt8,
                weight_type=ort.QuantType.QInt8,
                nodes_to_exclude=excluded(model, keep),
                use_external_data_format=not fits_inside(model),
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        except Exception as error:  # it raises whatever onnx and onnxruntime raise
            raise ModelError("onnxruntime cannot quantise the part", cause=" ".join(str(error).split())[:300]) from error
        finally:
            logging.getLogger().setLevel(level)
        return onnx.load(target)


def excluded(model: onnx.ModelProto, keep: Collection[str]) -> list[str]:
    """Return the nodes that stay in float32: onnxruntime's quantiser looks at an operator's type alone, not at its domain.

    Args:
        model: The part.
        keep: Names of nodes to leave in float32.
    """
    return sorted({*keep, *(node.name for node in model.graph.node if node.domain not in STANDARD_DOMAINS)})


def _plain_names(model: onnx.ModelProto) -> dict[str, str]:
    """Return other names for all tensors, where one is called as another with a suffix; nothing where none is.

    onnxruntime calls what it adds after the tensors: ``x_scale``, ``x_quantized``, ``x_QuantizeLinear_Output``.
    """
    graph = model.graph
    made = (name for node in graph.node for name in node.output)
    names = dict.fromkeys([*(value.name for value in (*graph.input, *graph.initializer)), *made])
    names.pop("", None)
    if not any(name[:place] in names for name in names for place in range(1, len(name)) if name[place] == "_"):
        return {}
    base = "t"
    while any(name.startswith(base) for name in names):
        base += "t"
    return {name: f"{base}{index}" for index, name in enumerate(names)}


def _renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return a model in which tensors have other names, in bodies, too."""
    found = copy_model(model)
    _rename(found.graph, names)
    return found


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(body, names)


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether a part carries symmetric int8 Q/DQ already."""
    zero_points = {weight.name: weight for weight in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    return bool(pairs) and all(_symmetric(node, zero_points) for node in pairs)


def _symmetric(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return node.op_type == "DequantizeLinear"  # without a zero point QuantizeLinear makes uint8
    zero_point = weights.get(node.input[2])
    return zero_point is None or (zero_point.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero_point).any())
