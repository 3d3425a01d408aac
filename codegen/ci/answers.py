"""Whether a model, and the parts it was cut into, still give the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

from cutset.codegen.ci.finding import Finding, skipped
from cutset.codegen.ci.fingerprint import distances
from cutset.codegen.ci.record import Deployment

CHECK = "error"


def error_finding(then: Deployment, now: Deployment, limit: float, *, same_machine: bool) -> Finding:
    """Return the largest of three errors.

    How far the answers are from those of the baseline; and how much further than in the baseline the parts are from the
    whole, and the precision of a stage from fp32.

    Between two machines only floating-point outputs are compared: another order of sums breaks ties otherwise.
    """
    if now.failure:
        return Finding(check=CHECK, verdict="worse", note=now.failure)
    found = sorted(_errors(then, now, same_machine=same_machine), key=lambda error: -error[0])
    causes = tuple(words for error, words in found if error > limit)
    largest = max((error for error, _ in found), default=0.0)
    note = "" if then.inputs == now.inputs else "the sample inputs are others than the baseline's, so answers are not compared"
    if not found:
        return skipped(CHECK, note or "the model has no output to compare")
    value = largest if largest != float("inf") else "not alike"
    return Finding(
        check=CHECK, verdict="worse" if causes else "same", then=0.0, now=value, unit="share", note=note, causes=causes
    )


def _errors(then: Deployment, now: Deployment, *, same_machine: bool) -> Iterator[tuple[float, str]]:
    """Yield each error that there is, in words too."""
    yield now.parts_error - then.parts_error, f"the parts differ from the whole by {now.parts_error:.2g}"
    for stage in now.precision_errors.keys() & then.precision_errors.keys():
        error = now.precision_errors[stage]
        yield error - then.precision_errors[stage], f"the precision of stage {stage} changes its numbers by {error:.2g}"
    if then.inputs == now.inputs:
        for found in distances(then.outputs, now.outputs):
            if same_machine or not found.exact:
                yield found.error, f"output `{found.name}`: " + (found.reason or f"{found.error:.2g} of its norm")
