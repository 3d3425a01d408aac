"""ONNX's own backend tests, split at random and run through the real pipeline.

`python -m tests.e2e.backend_cases docs/backend-node-tests.md` writes which of them take part and why the others do not.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from cutset.codegen.numerics import ABSOLUTE_SHARE, TOLERANCES
from tests.support import (
    as_planned,
    differences,
    load_pipeline,
    make_plan,
    random_placement,
    run_whole,
    save,
    write_package,
)

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
EXOTIC = frozenset(
    code
    for name, code in onnx.TensorProto.DataType.items()
    if name == "BFLOAT16" or name.startswith("FLOAT8") or name.endswith(("INT4", "INT2")) or name == "FLOAT4E2M1"
)
"""Element types that numpy lacks; onnxruntime's Python API takes none of them as arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCase:
    """One test: a model, and pairs of inputs and the outputs they must give."""

    kind: str
    name: str
    model: onnx.ModelProto
    samples: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: left out for a reason of onnxruntime's, or run in so many stages, with a failure or without."""

    case: str
    left_out: str = ""
    failure: str = ""
    stages: int = 0


class UnusableError(Exception):
    """Onnxruntime itself does not pass the case; the text says why."""


def backend_cases() -> Iterator[BackendCase]:
    """Yield every case that ships in the installed onnx, in the order of their names."""
    for kind in KINDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # onnx overflows while it computes what it expects
            found = load_model_tests(kind=kind)
        for case in sorted(found, key=lambda case: case.name):
            if case.model is not None:
                samples = [(list(map(_plain, inputs)), list(map(_plain, outputs))) for inputs, outputs in case.data_sets]
                model = case.model
            else:
                folder = Path(case.model_dir)
                model = onnx.load(folder / "model.onnx")
                samples = [_read_sample(model.graph, data) for data in sorted(folder.glob("test_data_set_*"))]
            yield BackendCase(kind=kind, name=case.name, model=model, samples=tuple(samples), rtol=case.rtol, atol=case.atol)


def _plain(value: Any) -> Any:
    """Return a value as onnxruntime takes and gives it."""
    value = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = np.asarray(value) if isinstance(value, np.generic) else value
    exotic = isinstance(value, np.ndarray) and value.dtype.type.__module__ == "ml_dtypes"
    return value.astype(np.float32) if exotic else value


def _read_sample(graph: onnx.GraphProto, folder: Path) -> tuple[list[Any], list[Any]]:
    fed = [value for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
    sides = (("input", fed), ("output", graph.output))
    return tuple(  # type: ignore[return-value]
        [_read_value(value, folder / f"{side}_{index}.pb") for index, value in enumerate(values)] for side, values in sides
    )


def _read_value(value: onnx.ValueInfoProto, file: Path) -> Any:
    if value.type.HasField("sequence_type"):
        sequence = onnx.SequenceProto.FromString(file.read_bytes())
        return numpy_helper.to_list(sequence)
    if value.type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(file.read_bytes()))
    return _plain(onnx.TensorProto.FromString(file.read_bytes()))


def bracketed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with an Identity behind every input and before every output, or a Cast from and to float32.

    Most node tests have one node; so every type crosses between stages all the same, those too that numpy lacks.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in weights:
            outer, kind = f"in {value.name}", value.type.tensor_type
            graph.node.insert(0, _bridge(outer, value.name, kind, kind.elem_type))
            _rename(value, outer)
    for value in graph.output:
        outer, kind = f"out {value.name}", value.type.tensor_type
        graph.node.append(_bridge(value.name, outer, kind, onnx.TensorProto.FLOAT))
        _rename(value, outer)
    return copy


def _bridge(source: str, target: str, kind: onnx.TypeProto.Tensor, to: int) -> onnx.NodeProto:
    if kind.elem_type in EXOTIC:
        return helper.make_node("Cast", [source], [target], to=to)
    return helper.make_node("Identity", [source], [target])


def _rename(value: onnx.ValueInfoProto, name: str) -> None:
    value.name = name
    if value.type.tensor_type.elem_type in EXOTIC:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def try_case(case: BackendCase) -> Outcome:
    """Return what becomes of a case when it is split at random and run by the real pipeline."""
    try:
        model, wholes = _usable(case)
    except UnusableError as reason:
        return Outcome(case=case.name, left_out=str(reason))
    with tempfile.TemporaryDirectory() as folder:
        feeds = [_feeds(model, inputs) for inputs, _ in case.samples]
        try:
            graph = as_planned(save(model, Path(folder)), feeds[0])
            plan = make_plan(graph, random_placement(graph, case.name))
            write_package(graph, plan, Path(folder))
            with load_pipeline(Path(folder)) as pipeline:
                answers = [pipeline.run(sample) for sample in feeds]
        except Exception as error:  # whatever it is, it is this case's failure and not the others'
            return Outcome(case=case.name, failure=f"{type(error).__name__}: {error}")
    found = [text for whole, answer in zip(wholes, answers, strict=True) for text in differences(whole, answer)]
    for (_, expected), answer in zip(case.samples, answers, strict=True):
        found += [f"expected: {text}" for text in _unequal(case, expected, list(answer.values()))]
    return Outcome(case=case.name, failure="; ".join(found), stages=len(plan.stages))


def _usable(case: BackendCase) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """Return the model to split, bracketed where that runs, and what the whole of it gives."""
    wrapped = bracketed(case.model)
    try:
        return wrapped, _run_samples(case, wrapped)
    except UnusableError:  # Identity does not take sequences and optionals in old operator sets
        return case.model, _run_samples(case, case.model)


def _run_samples(case: BackendCase, model: onnx.ModelProto) -> list[dict[str, Any]]:
    found = []
    for inputs, expected in case.samples:
        try:
            outputs = run_whole(model, _feeds(model, inputs))
        except Exception as error:
            raise UnusableError(_reason(str(error))) from error
        wrong = _unequal(case, expected, list(outputs.values()))
        if wrong:
            raise UnusableError(UNEXPECTED)
        found.append(outputs)
    return found


REASONS = {
    "NOT_IMPLEMENTED": "no kernel on onnxruntime's CPU provider",
    "is not a registered function/op": "operator that onnxruntime does not know",
    "Failed to construct locale": "needs the locale en_US.UTF-8, which was not installed",
    "layout == 1": "batchwise recurrent operator, which onnxruntime's CPU kernels refuse",
    "Non-zero status code": "onnxruntime's kernel refuses the inputs",
}
UNEXPECTED = "onnxruntime's outputs are not the expected ones (dropout draws its own numbers; other rounding of sizes)"


def _reason(message: str) -> str:
    return next((reason for part, reason in REASONS.items() if part in message), f"onnxruntime: {message[:150]}")


def _feeds(model: onnx.ModelProto, inputs: Sequence[Any]) -> dict[str, Any]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return dict(zip([value.name for value in model.graph.input if value.name not in weights], inputs, strict=False))


def _unequal(case: BackendCase, expected: Sequence[Any], actual: Sequence[Any]) -> list[str]:
    """Return the differences by onnx's own rule: equal types and shapes, values within the tolerances.

    They are the case's, but never below those of the element type: a half-precision value that crosses is rounded there.
    """
    if len(expected) != len(actual):
        return [f"{len(actual)} values instead of {len(expected)}"]
    found = []
    for number, (want, have) in enumerate(zip(expected, actual, strict=True)):
        if isinstance(want, list) and isinstance(have, list):
            found += _unequal(case, want, have)
        elif want is None or have is None:
            found += [] if want is have else [f"value {number} is missing on one side"]
        elif not _close(np.asarray(want), np.asarray(have), case):
            found.append(f"value {number} differs")
    return found


def _close(want: np.ndarray, have: np.ndarray, case: BackendCase) -> bool:
    if want.shape != have.shape:
        return False
    if want.dtype.kind in "OUS":
        return bool((want.astype(str) == have.astype(str)).all())
    if want.dtype != have.dtype or want.dtype.kind not in "fc" or not want.size:
        return want.dtype == have.dtype and bool((have == want).all())
    rtol = max(case.rtol, TOLERANCES.get(str(want.dtype), 0.0))
    largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
    atol = max(case.atol, ABSOLUTE_SHARE * rtol * largest)
    return bool(np.allclose(have, want, rtol=rtol, atol=atol, equal_nan=True))


def versions() -> str:
    """Return what the lists in the document hold for."""
    return f"onnx {onnx.__version__}, onnxruntime {ort.__version__}"


def document(outcomes: Sequence[Outcome]) -> str:
    """Return the document: how many cases take part, and by reason which do not."""
    left = [outcome for outcome in outcomes if outcome.left_out]
    ran = len(outcomes) - len(left)
    counts = Counter(outcome.left_out for outcome in left)
    split = sum(outcome.stages > 1 for outcome in outcomes)
    lines = [
        "# ONNX backend tests",
        "",
        f"Versions: {versions()}",
        "",
        f"Of the {len(outcomes)} backend tests in the onnx package ({', '.join(KINDS)}), {ran} are split at random and run",
        f"through the real pipeline by `tests/e2e/test_backend_node_tests.py`, {split} of them in two stages or more. The",
        "outputs must be the expected ones and those of the unsplit model.",
        "",
        f"The other {len(left)} fail in onnxruntime before anything is split. This page is written by",
        "`python -m tests.e2e.backend_cases docs/backend-node-tests.md`.",
    ]
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        lines += ["", f"## {reason[0].upper()}{reason[1:]}: {count}", ""]
        lines += [f"- `{outcome.case}`" for outcome in left if outcome.left_out == reason]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the document to the path given; 1 if a case fails."""
    outcomes = [try_case(case) for case in backend_cases()]
    failed = [f"{outcome.case}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    sys.stderr.write("".join(f"{line}\n" for line in failed))
    Path(arguments[0]).write_text(document(outcomes), "utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
