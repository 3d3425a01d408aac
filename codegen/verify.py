"""Prove that the parts equal the whole: the emitted pipeline against onnxruntime on the unsplit model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutset.codegen.numerics import Comparison, Tolerance, compare
from cutset.errors import VerificationError
from cutset.graph.model import ModelGraph
from cutset.profilers.session import Arrays, open_session, release_memory, run

Runner = Callable[[Arrays], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared, and the largest differences seen.

    Args:
        passed: Whether every comparable output was within tolerance.
        max_abs: Largest absolute difference.
        max_rel: Largest difference over its tensor's largest magnitude.
        samples: Inputs compared.
        inputs: Where the inputs came from.
        outputs: Outputs compared.
        unrepeatable: Outputs that differ between two runs of the unsplit model itself (random operators); of these only
            the type is compared.
    """

    passed: bool
    max_abs: float
    max_rel: float
    samples: int
    inputs: str
    outputs: tuple[str, ...]
    unrepeatable: tuple[str, ...]


def reference_outputs(graph: ModelGraph, samples: Sequence[Arrays]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the unsplit model gives for each sample, and what it gives when asked again.

    Both come from one session: a new one would begin its random numbers anew and hide that they are random.
    """
    session = open_session(graph.path, custom_ops=graph.custom_ops)
    names = [spec.name for spec in graph.outputs]
    first, again = ([run(session, sample, names) for sample in samples] for _ in range(2))
    del session
    release_memory()
    return first, again


def verify(
    graph: ModelGraph,
    samples: Sequence[Arrays],
    pipeline: Runner,
    *,
    origin: str,
    tolerance: Tolerance = Tolerance(),  # noqa: B008
) -> Verification:
    """Return the proof that `pipeline` equals the unsplit model on `samples`.

    Args:
        graph: The whole model.
        samples: Complete inputs.
        pipeline: Runs one sample through the parts.
        origin: Where the samples came from, for the record.
        tolerance: What is close enough.

    Raises:
        VerificationError: If an output differs; the message names it and by how much.
    """
    references, again = reference_outputs(graph, samples)
    unrepeatable = _unrepeatable(references, again, tolerance)
    worst_abs = worst_rel = 0.0
    for index, (sample, reference) in enumerate(zip(samples, references, strict=True)):
        actual = pipeline(sample)
        for name, expected in reference.items():
            if name in unrepeatable:
                continue
            result = compare(name, expected, actual[name], tolerance)
            if result.reason:
                raise _mismatch(graph, result, index, origin)
            worst_abs, worst_rel = max(worst_abs, result.max_abs), max(worst_rel, result.max_rel)
    return Verification(
        passed=True,
        max_abs=worst_abs,
        max_rel=worst_rel,
        samples=len(samples),
        inputs=origin,
        outputs=tuple(spec.name for spec in graph.outputs if spec.name not in unrepeatable),
        unrepeatable=tuple(sorted(unrepeatable)),
    )


def _unrepeatable(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], tolerance: Tolerance) -> set[str]:
    return {
        name
        for one, other in zip(first, second, strict=True)
        for name, value in one.items()
        if compare(name, value, other[name], tolerance).reason
    }


def _mismatch(graph: ModelGraph, result: Comparison, index: int, origin: str) -> VerificationError:
    return VerificationError(
        f"output `{result.name}` of the parts differs from the whole model",
        where=f"{graph.path}, sample {index} ({origin})",
        cause=result.reason,
        hint="nothing was emitted; widen the tolerance with --rtol/--atol if this difference is acceptable",
    )
