"""Prove that the parts equal the whole: the emitted pipeline against onnxruntime on the unsplit model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnxruntime as ort

from cutset.codegen.numerics import Comparison, Tolerance, compare
from cutset.errors import VerificationError
from cutset.graph.model import ModelGraph
from cutset.profilers.session import Arrays, open_session, release_memory, run, session_options

NOISE_FACTOR = 4
NOISE_SHARE = 0.01
"""What the parts may differ by at most, over the output's largest magnitude, however noisy the model is."""

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
        reordering: Largest difference between onnxruntime's own optimisation levels on the unsplit model, where an output
            was held to that because it was outside the tolerance of its type; zero where none was.
        unrepeatable: Outputs that differ between two runs of the unsplit model itself (random operators); of these only
            the type is compared.
        unproven_engines: Stages that the package runs as engines, none of which ran here: they were proven in onnxruntime,
            and the package compares each engine with the stage's ONNX file at its first start.
    """

    passed: bool
    max_abs: float
    max_rel: float
    samples: int
    inputs: str
    outputs: tuple[str, ...]
    unrepeatable: tuple[str, ...]
    reordering: float = 0.0
    unproven_engines: tuple[int, ...] = ()


class PartsDifferError(VerificationError):
    """An output of the parts is not that of the whole model.

    Args:
        graph: The whole model.
        result: The output, and how far it is off.
        index: Place of the sample among those compared.
        origin: Where the samples came from.
        reordering: How far onnxruntime's own optimisation levels are apart on that output, as an absolute difference.
    """

    def __init__(self, graph: ModelGraph, result: Comparison, index: int, origin: str, reordering: float) -> None:
        super().__init__(
            f"output `{result.name}` of the parts differs from the whole model",
            where=f"{graph.path}, sample {index} ({origin})",
            cause=result.reason,
            hint="nothing was emitted; widen the tolerance with --rtol/--atol if this difference is acceptable",
        )
        self.result = result
        self.reordering = reordering

    @property
    def words(self) -> str:
        """Both numbers: how far the output is off, and how far onnxruntime is off itself."""
        result = self.result
        if not math.isfinite(result.max_rel) or not result.max_abs:
            return f"output `{result.name}` differs ({result.reason})"
        own = self.reordering * result.max_rel / result.max_abs
        return (
            f"output `{result.name}` differs by {result.max_rel:.2%} of its largest magnitude, where onnxruntime's own "
            f"optimisation levels differ by {own:.2%} on the whole model"
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the unsplit model gives, which several sets of parts can be held against.

    Args:
        graph: The whole model.
        samples: Complete inputs.
        first: Its outputs for each sample.
        again: Its outputs when it is asked again.
    """

    graph: ModelGraph
    samples: Sequence[Arrays]
    first: Sequence[Mapping[str, Any]]
    again: Sequence[Mapping[str, Any]]
    _noise: dict[int, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ModelGraph, samples: Sequence[Arrays]) -> Reference:
        """Return the reference of a model on samples."""
        first, again = reference_outputs(graph, samples)
        return cls(graph=graph, samples=samples, first=first, again=again)

    def noise(self, index: int) -> dict[str, float]:
        """Return `reordering_noise` of a sample, found out once."""
        if index not in self._noise:
            self._noise[index] = reordering_noise(self.graph, self.samples[index], self.first[index])
        return self._noise[index]


def reference_outputs(graph: ModelGraph, samples: Sequence[Arrays]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the unsplit model gives for each sample, and what it gives when asked again.

    Both come from one session: a new one would begin its random numbers anew and hide that they are random.
    """
    options = session_options(keeps_dropout=graph.keeps_dropout)
    session = open_session(graph.path, custom_ops=graph.custom_ops, options=options)
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
        PartsDifferError: If an output differs; the message names it and by how much.
    """
    return verify_against(Reference.of(graph, samples), pipeline, origin=origin, tolerance=tolerance)


def verify_against(
    whole: Reference,
    pipeline: Runner,
    *,
    origin: str,
    tolerance: Tolerance = Tolerance(),  # noqa: B008
) -> Verification:
    """Return the proof that `pipeline` equals a reference; arguments and errors are those of `verify`."""
    graph, samples = whole.graph, whole.samples
    unrepeatable = _unrepeatable(whole.first, whole.again, tolerance)
    worst_abs = worst_rel = reordering = 0.0
    for index, (sample, reference) in enumerate(zip(samples, whole.first, strict=True)):
        actual = pipeline(sample)
        for name, expected in reference.items():
            if name in unrepeatable:
                continue
            result = compare(name, expected, actual[name], tolerance)
            noise = whole.noise(index).get(name, 0.0) if result.reason else 0.0
            if result.reason and tolerance == Tolerance():  # a tolerance that was given is the last word
                reordering = max(reordering, noise)
                if _explained(result, noise):
                    result = replace(result, reason="")
            if result.reason:
                raise PartsDifferError(graph, result, index, origin, noise)
            worst_abs, worst_rel = max(worst_abs, result.max_abs), max(worst_rel, result.max_rel)
    return Verification(
        passed=True,
        max_abs=worst_abs,
        max_rel=worst_rel,
        samples=len(samples),
        inputs=origin,
        outputs=tuple(spec.name for spec in graph.outputs if spec.name not in unrepeatable),
        unrepeatable=tuple(sorted(unrepeatable)),
        reordering=reordering,
    )


def reordering_noise(graph: ModelGraph, sample: Arrays, reference: Mapping[str, Any]) -> dict[str, float]:
    """Return how far each output of the unsplit model is from `reference` at onnxruntime's lower optimisation levels.

    Both are the same model, summed in another order. A deep network amplifies that (a speech synthesiser: 2e-4 of a
    magnitude of 0.6), and a cut, which changes what is fused, cannot be held to less.

    Args:
        graph: The whole model.
        sample: One complete input.
        reference: Its outputs at the deployed level.
    """
    found = dict.fromkeys(reference, 0.0)
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
        options = session_options(keeps_dropout=graph.keeps_dropout)
        options.graph_optimization_level = level
        outputs = run(open_session(graph.path, custom_ops=graph.custom_ops, options=options), sample, list(reference))
        for name, expected in reference.items():
            difference = compare(name, expected, outputs[name]).max_abs
            if math.isfinite(difference):
                found[name] = max(found[name], difference)
    return found


def _explained(result: Comparison, noise: float) -> bool:
    """Whether a difference is no more than a few times the model's own noise, and small beside the output."""
    return result.max_abs <= NOISE_FACTOR * noise and result.max_rel <= NOISE_SHARE


def _unrepeatable(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], tolerance: Tolerance) -> set[str]:
    return {
        name
        for one, other in zip(first, second, strict=True)
        for name, value in one.items()
        if compare(name, value, other[name], tolerance).reason
    }
