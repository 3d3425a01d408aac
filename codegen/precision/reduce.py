"""Bring a part to a precision, within a tolerance: nodes that cost too much of it stay in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.version_converter

from cutset.codegen.precision.error import TOLERANCES, OutputError, errors_of, run_narrowed, run_part
from cutset.codegen.precision.floats import MATRIX_OPS, NarrowType, narrow
from cutset.codegen.precision.quantise import QUANTISED, is_quantised, quantise
from cutset.codegen.precision.search import fewest
from cutset.errors import ModelError, UsageError, VerificationError
from cutset.graph.load import load
from cutset.graph.types import TensorSpec
from cutset.profilers.datasheets import Precision
from cutset.profilers.session import Arrays

LEAST_OPSET = {"fp16": 0, "bf16": 13, "int8": 13}
"""The first in which Cast knows bfloat16, and in which QuantizeLinear has an axis."""
MOST_TESTS = {"fp16": 40, "bf16": 40, "int8": 24}
"""Runs of a part in the search for what stays in float32; one of int8 calibrates anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """A part in a precision.

    Args:
        model: The part, None where it is as it was.
        precision: Of the part.
        tolerance: Largest error that was accepted, over the output's largest magnitude.
        errors: Of each output against float32 on the sample inputs.
        reduced: Nodes in the precision.
        kept: Nodes that could be in it and stay in float32 because of their error.
    """

    model: onnx.ModelProto | None = field(repr=False)
    precision: Precision
    tolerance: float
    errors: tuple[OutputError, ...]
    reduced: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    model: onnx.ModelProto
    reduced: tuple[str, ...]
    outputs: Sequence[Arrays]


def reduce_part(
    path: Path,
    precision: Precision,
    feeds: Sequence[Arrays],
    *,
    calibration: Sequence[Arrays] = (),
    tolerance: float | None = None,
) -> Reduced:
    """Return a part in a precision, with its error on real inputs.

    Args:
        path: The part in float32.
        precision: The precision.
        feeds: Inputs of the part to compare on.
        calibration: Inputs of the part to calibrate int8 with; empty if the part must carry Q/DQ already.
        tolerance: Largest error over the output's largest magnitude; None takes the one of `TOLERANCES`.

    Raises:
        UsageError: If int8 is asked for without anything to calibrate with.
        VerificationError: If the tolerance leaves no matrix product in the precision.
    """
    as_it_is = Reduced(model=None, precision=precision, tolerance=0.0, errors=(), reduced=(), kept=())
    if precision in {"fp32", "tf32"}:
        return as_it_is
    model = onnx.load(str(path))
    if precision == "int8" and not calibration and is_quantised(model):
        return as_it_is
    if precision == "int8" and not calibration:
        raise UsageError(
            "--precision int8 needs inputs to calibrate with: the model has no symmetric Q/DQ of its own",
            hint="give some with --calibration inputs.npz",
        )
    if precision == "int8":
        attempt = _int8(_at_least(model, LEAST_OPSET[precision], path), feeds, calibration)
    else:
        attempt = _floats(path, model, "fp16" if precision == "fp16" else "bf16", feeds)
    return _within(model, precision, tolerance or TOLERANCES[precision], run_part(path, feeds), attempt)


def _within(
    model: onnx.ModelProto,
    precision: Precision,
    limit: float,
    reference: Sequence[Arrays],
    attempt: Callable[[frozenset[str]], _Attempt],
) -> Reduced:
    """Return the first attempt within the limit: all nodes reduced, or all but the few that must not be."""

    def passes(keep: frozenset[str]) -> bool:
        return _worst(errors_of(reference, attempt(keep).outputs)) <= limit

    everything = attempt(frozenset())
    kept: frozenset[str] = frozenset()
    if _worst(errors_of(reference, everything.outputs)) > limit:
        kept = fewest(everything.reduced, passes, most_tests=MOST_TESTS[precision])
        everything = attempt(kept)
    errors = errors_of(reference, everything.outputs)
    matrix = {node.name for node in model.graph.node if node.op_type in MATRIX_OPS}
    if matrix & kept and not matrix & set(everything.reduced):
        raise VerificationError(
            f"the stage cannot be computed in {precision} within a tolerance of {limit:g}",
            cause=f"{len(kept)} nodes had to stay in fp32, every matrix product among them",
            hint="use --precision fp32, or accept more with --precision-tolerance",
        )
    return Reduced(
        model=everything.model,
        precision=precision,
        tolerance=limit,
        errors=errors,
        reduced=everything.reduced,
        kept=tuple(node.name for node in model.graph.node if node.name in kept),
    )


def _worst(errors: Sequence[OutputError]) -> float:
    return max((error.max_rel for error in errors), default=0.0)


def _floats(
    path: Path, model: onnx.ModelProto, kind: NarrowType, feeds: Sequence[Arrays]
) -> Callable[[frozenset[str]], _Attempt]:
    original = model
    model = _at_least(original, LEAST_OPSET[kind], path)
    values = load(path).values if model is original else _values(model)
    dtypes = {name: spec.dtype for name, spec in values.items()}

    def attempt(keep: frozenset[str]) -> _Attempt:
        narrowed = narrow(model, dtypes, kind, keep)
        return _Attempt(model=narrowed.model, reduced=narrowed.nodes, outputs=run_narrowed(narrowed, kind, feeds))

    return attempt


def _values(model: onnx.ModelProto) -> Mapping[str, TensorSpec]:
    """Return what is known of each tensor of a model in memory."""
    with tempfile.TemporaryDirectory(prefix="cutset-precision-") as folder:
        file = Path(folder) / "m.onnx"
        onnx.save(model, str(file), save_as_external_data=True, location="m.onnx.data")
        return load(file).values


def _at_least(model: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    """Return the part in a version of ONNX that has what a precision needs.

    Raises:
        ModelError: If it cannot be brought to one.
    """
    if max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}) >= opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # it raises what its C++ says
        raise ModelError(
            f"the precision needs opset {opset}, and the stage cannot be converted to it", where=str(path),
            cause=" ".join(str(error).split())[:300], hint="export it with a later opset, or use --precision fp16",
        ) from error  # fmt: skip
    for index, node in enumerate(converted.graph.node):
        node.name = node.name or f"converted.{index}"
    return converted


def _int8(
    model: onnx.ModelProto, feeds: Sequence[Arrays], calibration: Sequence[Arrays]
) -> Callable[[frozenset[str]], _Attempt]:
    candidates = [node.name for node in model.graph.node if node.op_type in QUANTISED]

    def attempt(keep: frozenset[str]) -> _Attempt:
        reduced = tuple(name for name in candidates if name not in keep)
        try:
            quantised = quantise(model, calibration, keep)
            return _Attempt(model=quantised, reduced=reduced, outputs=run_part(quantised, feeds))
        except ModelError:  # a weight that two operators read along different axes
            quantised = quantise(model, calibration, keep, per_channel=False)
            return _Attempt(model=quantised, reduced=reduced, outputs=run_part(quantised, feeds))

    return attempt
