"""Replace sums by what whole stages really take: measure, scale the costs, plan again, keep the best plan that was measured.

Fusion across the groups of a stage makes it cheaper than their sum, and a cut makes it dearer. Measuring is the caller's;
a device that is not here stays as it was costed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset import serde
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Costed
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.judge import MIN_GAIN
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import Outcome, plan_evidence
from cutset.partitioner.problem import GPU
from cutset.partitioner.scaling import scaled, scaled_sessions

MOST_ROUNDS = 6
MIN_CHANGE = 0.02
"""A measurement closer than this to its prediction changes nothing, nor one within its own noise."""

TOLERANCE = 0.10
"""A plan whose stages were measured this close to what it predicts is called calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one run of a stage, alone, and the relative half-width of their interval."""

    seconds: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNodes:
    """What is measured as one unit: its device and nodes."""

    device: str
    nodes: tuple[str, ...]


Measure = Callable[[Sequence[StageNodes]], Sequence[Timing | None]]
"""Returns what each stage takes, None for one that cannot be measured here.

Those on the CPU run in turns, so that their ratios hold; their seconds are of a machine whose speed moves.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCheck:
    """One stage as predicted and as measured; seconds of a run, alone."""

    device: str
    nodes: int
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """How far the prediction is from the measurement, as a fraction of it."""
        return abs(self.predicted_s / self.measured_s - 1) if self.measured_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What was measured in one round, and what the plan then promised."""

    what: str
    stages: tuple[StageCheck, ...]
    decision: str
    throughput_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the costs of a plan were calibrated.

    Attributes:
        state: ``calibrated`` if the stages measured last are within `TOLERANCE` of the plan, else ``uncalibrated``.
        worst_error: Their largest relative error, None if nothing could be measured.
        devices: Devices whose stages were measured; the others' costs stay as they were.
        rounds: What happened, in order.
    """

    state: str
    worst_error: float | None
    devices: tuple[str, ...]
    rounds: tuple[Round, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as `plan.json` holds it."""
        document: dict[str, Any] = serde.to_builtins(self)
        return document


def calibrate(evidence: Evidence, options: PlanOptions, measure: Measure) -> tuple[Outcome, Calibration]:
    """Return the best plan whose stages were measured, and how its costs came about.

    Args:
        evidence: The model and its costs.
        options: What to plan for.
        measure: Times stages.

    Raises:
        PlanError: If pins and limits leave no plan.
    """
    loop = _Loop(options, measure)
    evidence = loop.measure_whole(evidence)
    outcome = plan_evidence(evidence, options)
    evidence = loop.measure_greedy(evidence, outcome)
    if evidence is not outcome.case.evidence:
        outcome = plan_evidence(evidence, options)
    best: Outcome | None = None
    for _ in range(MOST_ROUNDS):
        evidence = loop.measure_plan("the plan", outcome)
        fresh = plan_evidence(evidence, options)
        held = _held(outcome, fresh)
        loop.note(held)
        if best is None or _score(held) > _score(best):
            best = held
        if fresh.plan.placement == held.plan.placement or _score(fresh) < _score(best) * (1 + MIN_GAIN):
            break
        outcome = fresh
    assert best is not None
    best = loop.measure_stand_ins(best)
    loop.measure_plan("the plan that is deployed", best)
    loop.note(best)
    return best, loop.result()


class _Loop:
    """Measures stages, scales costs by what it finds, and remembers both."""

    def __init__(self, options: PlanOptions, measure: Measure) -> None:
        self.options = options
        self.measure = measure
        self.rounds: list[Round] = []
        self._what = ""
        self._checks: tuple[StageCheck, ...] = ()
        self._gpu_absent = False

    def measure_whole(self, evidence: Evidence) -> Evidence:
        """Return the evidence with all CPU costs scaled by how quick this machine is now: a profile may be of yesterday."""
        session, whole = evidence.table.session("cpu"), _whole(evidence)
        if session is None or not whole.nodes:
            return evidence
        (timing,) = self.measure([whole])
        if timing is None or timing.seconds <= 0:
            return evidence
        check = StageCheck(
            device="cpu", nodes=len(whole.nodes), predicted_s=session.latency_s.median, measured_s=timing.seconds
        )
        entry = Round(
            what="the whole model on one core",
            stages=(check,),
            decision="unsplit-cpu",
            throughput_per_s=self.options.machine.batch / timing.seconds,
            latency_s=timing.seconds,
        )
        self.rounds.append(entry)
        ratio = _ratio(check, timing)
        if ratio == 1.0:
            return evidence
        table = scaled(evidence.table, "cpu", dict.fromkeys(whole.nodes, ratio))
        return replace(evidence, table=scaled_sessions(table, "cpu", ratio))

    def measure_greedy(self, evidence: Evidence, outcome: Outcome) -> Evidence:
        """Return the evidence after measuring the plan that puts on the GPU whatever it can run, if it may be deployed."""
        baseline = outcome.solution.baselines["capability_first"]
        if baseline is None or baseline.placement is None or outcome.plan.decision != "split":
            return evidence
        found = evaluate(outcome.costed.problem, baseline.placement)
        if not 1 < found.stages <= self.options.max_stages or np.array_equal(
            baseline.placement, outcome.choice.candidate.placement
        ):
            return evidence
        evidence, checks = self._scaled_by(evidence, outcome.costed, _units(outcome.costed, found))
        entry = Round(
            what="whatever the GPU can run",
            stages=checks,
            decision="split",
            throughput_per_s=baseline.throughput_per_s,
            latency_s=baseline.latency_s * outcome.costed.batch,
        )
        self.rounds.append(entry)
        return evidence

    def measure_plan(self, what: str, outcome: Outcome) -> Evidence:
        """Return the evidence scaled by what the stages of a plan take; a whole model on the CPU was measured already."""
        self._what, self._checks = what, ()
        evidence, candidate = outcome.case.evidence, outcome.choice.candidate
        if candidate.decision == "unsplit-cpu":
            return evidence
        evidence, self._checks = self._scaled_by(evidence, outcome.costed, _units(outcome.costed, candidate.evaluation))
        return evidence

    def measure_stand_ins(self, outcome: Outcome) -> Outcome:
        """Return the plan with the CPU's costs of its GPU stages as they are where a core has to stand in for the GPU."""
        units = _units(outcome.costed, outcome.choice.candidate.evaluation)
        stand_ins = [(replace(unit, device="cpu"), ops) for unit, ops in units if unit.device == "gpu" and self._gpu_absent]
        if not stand_ins:
            return outcome
        evidence, _ = self._scaled_by(outcome.case.evidence, outcome.costed, stand_ins)
        return plan_evidence(evidence, self.options, outcome.costed.placement_of(outcome.plan.placement))

    def note(self, outcome: Outcome) -> None:
        """Remember what was measured last, and what the plan promises with it."""
        prediction = outcome.plan.prediction
        entry = Round(
            what=self._what,
            stages=self._checks,
            decision=outcome.plan.decision,
            throughput_per_s=prediction.throughput_per_s,
            latency_s=prediction.latency_s,
        )
        self.rounds.append(entry)

    def result(self) -> Calibration:
        """Return how it went; the last round decides, for a plan that cuts nothing the whole model."""
        last = self.rounds[-1].stages or (self.rounds[0].stages if len(self.rounds) > 1 else ())
        worst = max((check.error for check in last), default=None)
        devices = {check.device for entry in self.rounds for check in entry.stages}
        return Calibration(
            state="calibrated" if worst is not None and worst <= TOLERANCE else "uncalibrated",
            worst_error=worst,
            devices=tuple(sorted(devices)),
            rounds=tuple(self.rounds),
        )

    def _scaled_by(
        self, evidence: Evidence, costed: Costed, units: Sequence[tuple[StageNodes, Sequence[int]]]
    ) -> tuple[Evidence, tuple[StageCheck, ...]]:
        """Return the evidence scaled by stages as they are measured, and each as predicted and measured."""
        table, checks = evidence.table, []
        for (unit, ops), timing in zip(units, self._times(evidence, [unit for unit, _ in units]), strict=True):
            if timing is None:
                self._gpu_absent |= unit.device == "gpu"
                continue
            atoms = [costed.atoms[v] for v in ops]
            predicted_s = sum(atom.cpu_s if unit.device == "cpu" else atom.gpu_s for atom in atoms)
            check = StageCheck(device=unit.device, nodes=len(unit.nodes), predicted_s=predicted_s, measured_s=timing.seconds)
            checks.append(check)
            table = scaled(table, unit.device, dict.fromkeys(unit.nodes, _ratio(check, timing)))
        return replace(evidence, table=table), tuple(checks)

    def _times(self, evidence: Evidence, units: Sequence[StageNodes]) -> list[Timing | None]:
        """Return what stages take; on the CPU as shares of what the whole model takes, which runs in turns with them."""
        session = evidence.table.session("cpu")
        if all(unit.device != "cpu" for unit in units):
            return list(self.measure(units))
        whole, *found = self.measure([_whole(evidence), *units])
        if whole is None or whole.seconds <= 0 or session is None:
            return found
        now = session.latency_s.median / whole.seconds
        return [
            replace(timing, seconds=timing.seconds * now) if timing is not None and unit.device == "cpu" else timing
            for unit, timing in zip(units, found, strict=True)
        ]


def _whole(evidence: Evidence) -> StageNodes:
    """Return the whole model on the CPU."""
    return StageNodes(device="cpu", nodes=tuple(node.name for node in evidence.graph.placeable))


def _units(costed: Costed, found: Evaluation) -> list[tuple[StageNodes, Sequence[int]]]:
    """Return the stages of a placement, each with its ops."""
    units: list[tuple[StageNodes, Sequence[int]]] = []
    for stage in range(found.stages):
        ops: list[int] = np.flatnonzero(found.labels == stage).tolist()
        device = "gpu" if (found.first + stage) % 2 == GPU else "cpu"
        units.append((StageNodes(device=device, nodes=tuple(name for v in ops for name in costed.atoms[v].nodes)), ops))
    return units


def _ratio(check: StageCheck, timing: Timing) -> float:
    """Return measured over predicted, one where they differ by no more than noise."""
    if check.predicted_s <= 0 or timing.seconds <= 0:
        return 1.0
    ratio = timing.seconds / check.predicted_s
    return ratio if abs(ratio - 1) > max(MIN_CHANGE, timing.noise) else 1.0


def _score(outcome: Outcome) -> float:
    return outcome.case.score(outcome.choice.candidate)


def _held(outcome: Outcome, fresh: Outcome) -> Outcome:
    """Return the plan of `outcome` under the costs of `fresh`; `fresh` itself where its atoms are no longer the same."""
    placement = fresh.costed.placement_of(outcome.plan.placement)
    return fresh if placement is None else plan_evidence(fresh.case.evidence, fresh.case.options, placement)
