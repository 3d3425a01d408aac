"""Bring a part to a precision, within a tolerance: nodes that cost too much of it stay in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx
import onnx.shape_inference
import onnx.version_converter
from onnx import TensorProto

from cutset.codegen.precision.error import TOLERANCES, OutputError, errors_of, run_narrowed, run_part
from cutset.codegen.precision.floats import MATRIX_OPS, NarrowType, candidates, narrow
from cutset.codegen.precision.quantise import QUANTISED, is_quantised, quantise
from cutset.codegen.precision.ranges import LIMITS, Signs, beyond, out_of_range, spread
from cutset.codegen.precision.search import fewest
from cutset.codegen.precision.tf32 import emulated_tf32
from cutset.errors import ModelError, UsageError, VerificationError
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.graph.protos import with_large_weights, without_large_weights
from cutset.profilers.datasheets import Precision
from cutset.profilers.session import Arrays

OPSETS: Mapping[NarrowType, tuple[int, ...]] = {"fp16": (), "bf16": (22, 13)}
"""Those a part is raised to if it can be: 22 is the first in which Conv takes bfloat16, 13 the first in which Cast does."""
MOST_TESTS = {"tf32": 0, "fp16": 40, "bf16": 40, "int8": 24}
"""Runs of a part in the search for what stays in float32; int8 calibrates anew in each, tf32 is one switch for an engine."""


@dataclass(frozen=True)
class Original:
    """A part in float32, read at most once, and the model that it is cut out of."""

    path: Path
    whole: ModelGraph | None = None

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The part, weights inside; not to be changed."""
        return onnx.load(str(self.path))

    @cached_property
    def dtypes(self) -> Mapping[str, str]:
        """Element type of each tensor, as far as it is known: by ONNX's inference, which is fast, if that gets to the end."""
        found = _inferred(self.model)
        if all(name in found for node in self.model.graph.node for name in node.output if name):
            return found
        return {name: spec.dtype for name, spec in load(self.path).values.items()}


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
        beyond: Nodes that could be in it and stay in float32 because numbers they read or write do not fit into it.
    """

    model: onnx.ModelProto | None = field(repr=False)
    precision: Precision
    tolerance: float
    errors: tuple[OutputError, ...]
    reduced: tuple[str, ...]
    kept: tuple[str, ...]
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    model: onnx.ModelProto | None
    reduced: tuple[str, ...]
    outputs: Sequence[Arrays]
    beyond: tuple[str, ...] = ()


def reduce_part(
    path: Path,
    precision: Precision,
    feeds: Sequence[Arrays],
    *,
    calibration: Sequence[Arrays] = (),
    tolerance: float | None = None,
    whole: ModelGraph | None = None,
) -> Reduced:
    """Return a part in a precision, with its error on real inputs.

    Args:
        path: The part in float32.
        precision: The precision.
        feeds: Inputs of the part to compare on.
        calibration: Inputs of the part to calibrate int8 with; empty if the part must carry Q/DQ already.
        tolerance: Largest error over the output's largest magnitude; None takes the one of `TOLERANCES`.
        whole: The model that the part is cut out of, whose large constants may reach the part's inputs.

    Raises:
        UsageError: If int8 is asked for without anything to calibrate with.
        VerificationError: If the tolerance leaves no matrix product in the precision.
    """
    part = Original(path, whole)
    if precision == "fp32" or (precision == "int8" and not calibration and not _to_calibrate(part.model)):
        return Reduced(model=None, precision=precision, tolerance=0.0, errors=(), reduced=(), kept=())
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    attempt = _attempts(part, precision, feeds, calibration)
    return _within(part.model, precision, limit, run_part(path, feeds), attempt)


def compare_part(
    part: Original,
    precision: Precision,
    reference: Sequence[Arrays],
    feeds: Sequence[Arrays],
    calibration: Sequence[Arrays] = (),
) -> tuple[tuple[OutputError, ...], tuple[str, ...]]:
    """Return the error of a part in a precision with all its nodes in it that can be, and their names.

    Args:
        part: The part.
        precision: The precision.
        reference: What it computes.
        feeds: Inputs of the part to compare on.
        calibration: Inputs of the part to calibrate int8 with.

    Raises:
        UsageError: As `reduce_part`.
        ModelError: If it cannot be brought to the precision.
    """
    attempt = _attempts(part, precision, feeds, calibration)(frozenset())
    return errors_of(reference, attempt.outputs), attempt.reduced


def check_calibration(op_types: Collection[str]) -> None:
    """Refuse int8 without inputs to calibrate with, where a model of these operators has no Q/DQ at all.

    Raises:
        UsageError: If the model cannot be brought to int8.
    """
    if not {"QuantizeLinear", "DequantizeLinear"}.intersection(op_types) and not set(QUANTISED).isdisjoint(op_types):
        raise _uncalibrated()


def _uncalibrated() -> UsageError:
    return UsageError(
        "--precision int8 needs inputs to calibrate with: the model has no symmetric Q/DQ of its own",
        hint="give some with --calibration inputs.npz",
    )


def _to_calibrate(model: onnx.ModelProto) -> bool:
    """Return whether int8 has something to quantise in a part, and the part does not carry it itself."""
    return any(node.op_type in QUANTISED for node in model.graph.node) and not is_quantised(model)


def _attempts(
    part: Original, precision: Precision, feeds: Sequence[Arrays], calibration: Sequence[Arrays]
) -> Callable[[frozenset[str]], _Attempt]:
    """Return what brings a part to a precision but for the named nodes, and runs it."""
    if precision == "int8" and not calibration:
        raise _uncalibrated()
    if precision == "tf32":
        return _tf32(part, feeds)
    if precision == "int8":
        return _int8(_at_least(part, 13), feeds, calibration)
    return _floats(part, "fp16" if precision == "fp16" else "bf16", feeds)


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
    if matrix & (kept | set(everything.beyond)) and not matrix & set(everything.reduced):
        stay = f"{len(kept)} nodes had to stay in fp32" if kept else f"numbers in {len(everything.beyond)} nodes do not fit"
        raise VerificationError(
            f"the stage cannot be computed in {precision} within a tolerance of {limit:g}",
            cause=f"{stay}, every matrix product among them",
            hint="use --precision fp32, or accept more with --precision-tolerance",
        )
    return Reduced(
        model=everything.model,
        precision=precision,
        tolerance=limit,
        errors=errors,
        reduced=everything.reduced,
        kept=tuple(node.name for node in model.graph.node if node.name in kept),
        beyond=everything.beyond,
    )


def _worst(errors: Sequence[OutputError]) -> float:
    return max((error.max_rel for error in errors), default=0.0)


def _tf32(part: Original, feeds: Sequence[Arrays]) -> Callable[[frozenset[str]], _Attempt]:
    model = _at_least(part, 7)
    dtypes = _dtypes(part, model)

    def attempt(keep: frozenset[str]) -> _Attempt:
        if keep:
            return _Attempt(model=None, reduced=(), outputs=run_part(model, feeds))
        emulated, products = emulated_tf32(model, dtypes)
        return _Attempt(model=None, reduced=products, outputs=run_part(emulated, feeds))

    return attempt


def _floats(part: Original, kind: NarrowType, feeds: Sequence[Arrays]) -> Callable[[frozenset[str]], _Attempt]:
    model = _raised(part, OPSETS[kind])
    dtypes = _dtypes(part, model)

    large = beyond(model, dtypes, kind, feeds, _entering(part, kind))
    possible = candidates(model, dtypes, kind)
    outside = out_of_range(model, possible, large)

    def attempt(keep: frozenset[str]) -> _Attempt:
        narrowed = narrow(model, dtypes, kind, keep | outside)
        outputs = run_narrowed(narrowed, kind, feeds)
        stay = tuple(name for name in possible if name in outside)
        return _Attempt(model=narrowed.model, reduced=narrowed.nodes, outputs=outputs, beyond=stay)

    return attempt


def _entering(part: Original, kind: NarrowType) -> Mapping[str, Signs]:
    """Return the inputs of a part that large constants of the whole model can get into."""
    if part.whole is None:
        return {}
    found = spread(part.whole.source.graph, LIMITS[kind])
    return {value.name: found[value.name] for value in part.model.graph.input if value.name in found}


def _dtypes(part: Original, model: onnx.ModelProto) -> Mapping[str, str]:
    """Return the element type of each tensor of a part, or of the part in another opset."""
    return part.dtypes if model is part.model else {**_inferred(model), **part.dtypes}


def _inferred(model: onnx.ModelProto) -> dict[str, str]:
    """Return for each tensor that ONNX infers whether it is ``float32`` or ``other``."""
    graph = onnx.shape_inference.infer_shapes(without_large_weights(model)).graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed}
    kinds |= {weight.name: weight.data_type for weight in model.graph.initializer}
    return {name: "float32" if kind == TensorProto.FLOAT else "other" for name, kind in kinds.items() if kind}


def _raised(part: Original, opsets: Sequence[int]) -> onnx.ModelProto:
    """Return the part in the first of these opsets, or a later one, that it can be brought to; the last one it must be."""
    for opset in opsets[:-1]:
        try:
            return _at_least(part, opset)
        except ModelError:
            continue
    return _at_least(part, opsets[-1]) if opsets else part.model


def _at_least(part: Original, opset: int) -> onnx.ModelProto:
    """Return the part in a version of ONNX that has what a precision needs.

    Raises:
        ModelError: If it cannot be brought to one.
    """
    model = part.model
    if max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}) >= opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(without_large_weights(model), opset)
    except Exception as error:  # it raises what its C++ says
        raise ModelError(
            f"the precision needs opset {opset}, and the stage cannot be converted to it", where=str(part.path),
            cause=" ".join(str(error).split())[:300], hint="export it with a later opset, or use --precision fp16",
        ) from error  # fmt: skip
    for index, node in enumerate(converted.graph.node):
        node.name = node.name or f"converted.{index}"
    return with_large_weights(converted, model.graph.initializer)


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
