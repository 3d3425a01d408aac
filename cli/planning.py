"""From a measured model to its plan, as commands share it: sizes are explored, then the best one is planned in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutset.advisory import advisory
from cutset.cli.arguments import CostArguments, ModelArguments
from cutset.cli.backend import NO_GPU, backend_support, choose, in_engines
from cutset.cli.calibration import StageTimer
from cutset.cli.engines import EngineArguments, Session, recipe_of
from cutset.cli.output import Output
from cutset.cli.plan_arguments import PlanArguments
from cutset.cli.shared_runs import sharing
from cutset.cli.workflow import Measured, Progress, measure
from cutset.codegen.engines.prepare import as_deployed
from cutset.codegen.runtime.backends.engine_compile import BuildSettings
from cutset.devices import GpuBackendRequest
from cutset.errors import PlanError, ProfileError, UsageError
from cutset.graph.model import ModelGraph
from cutset.partitioner.atoms import Evidence, broken_pieces
from cutset.partitioner.batches import between, fitted_steps
from cutset.partitioner.calibrate import calibrate
from cutset.partitioner.cost import Machine
from cutset.partitioner.decide import Case, candidate_of
from cutset.partitioner.judge import MIN_GAIN
from cutset.partitioner.obstacles import held_back
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import Kept, resolve, resolve_kept
from cutset.partitioner.plan import Operating, Plan
from cutset.partitioner.planner import Outcome, plan_evidence
from cutset.partitioner.sizing import rivals_at, size_up, worker_counts
from cutset.partitioner.support import Support
from cutset.profilers.gpu_backend import GpuBackend
from cutset.profilers.pieces import with_pieces
from cutset.profilers.profile import batched
from cutset.profilers.segments import Backend, Segment

AUTO_BATCH = 8
"""Largest batch that ``--batch auto`` measures."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sized:
    """A model as measured at the batch to deploy, what to plan for, what other sizes would reach, and all measurements."""

    measured: Measured
    options: PlanOptions
    pareto: tuple[Operating, ...] = ()
    batches: Mapping[int, Measured] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """What plans one model for one command line.

    Args:
        about: The model and its inputs.
        costs: How to measure.
        wanted: What to plan for.
        output: Where notices go.
        progress: Told each step.
        gpu_backend: What runs GPU stages on this machine, None where the GPU is elsewhere.
        kept: Nodes that stay together besides those that the user keeps so.
        engines: How engines are made: those that are timed are those that are deployed.
        accept: Raises where the loaded model is not wanted, before anything is measured.
    """

    about: ModelArguments
    costs: CostArguments
    wanted: PlanArguments
    output: Output
    progress: Progress
    gpu_backend: Backend | None = None
    kept: tuple[Kept, ...] = ()
    engines: EngineArguments = field(default_factory=EngineArguments)
    accept: Callable[[ModelGraph], None] | None = None

    def deployed(self, measured: Measured) -> Callable[[Sequence[Segment], Sequence[Path]], list[BuildSettings]]:
        """Return what makes engines of segments of a measured model as a package would have them."""

        def make(segments: Sequence[Segment], models: Sequence[Path]) -> list[BuildSettings]:
            name = self.gpu_backend
            backend = NO_GPU if name is None or name == "onnxruntime-cpu" else GpuBackend(name=name, oracle=None)
            session = Session(measured=measured, about=self.about, backend=backend, progress=self.progress)
            return as_deployed(measured.graph, segments, models, recipe_of(session, self.engines))

        return make

    def measure(self) -> dict[int, Measured]:
        """Return the model measured at the wanted batch; for ``auto`` alone and at the largest batch, if it takes batches."""
        if self.costs.batch != "auto":
            found = self._measure_at(self.costs.batch)
            return {found.batch: found}
        alone = self._measure_at("1")
        with advisory(f"measuring a batch of {AUTO_BATCH}"):
            try:
                return {1: alone, AUTO_BATCH: self._measure_at(str(AUTO_BATCH))}
            except (UsageError, ProfileError) as error:  # the model takes none
                self.output.notice(f"planning without batches: {error.what}")
        return {1: alone}

    def size(self, batches: Mapping[int, Measured], support: Mapping[str, Support]) -> Sized:
        """Return the best batch and workers, and the model as measured at that batch.

        Args:
            batches: From `measure`.
            support: Which nodes the GPU backend takes.

        Raises:
            PlanError: If pins, the stage limit and the latency target leave no plan at any size.
        """
        first = next(iter(batches.values()))
        workers = self._workers(first)
        options = self._options(first, workers)
        if len(batches) == 1 and len(workers) == 1:
            return Sized(measured=first, options=options)
        batches = {batch: self._with_pieces(entry, support) for batch, entry in batches.items()}
        self.progress("choosing batch and workers")
        sizing = size_up(self._evidences(batches, support), options, workers)
        chosen = self._measured_at(sizing.options.machine.batch, batches)
        if chosen is None:  # that batch cannot be measured: take the best of those that were
            sizing = size_up({batch: self._evidence(entry, support) for batch, entry in batches.items()}, options, workers)
            chosen = batches[sizing.options.machine.batch]
        return Sized(measured=chosen, options=sizing.options, pareto=sizing.pareto, batches=batches)

    def _measured_at(self, batch: int, batches: Mapping[int, Measured]) -> Measured | None:
        """Return the model as measured at a batch, measured now where it was not; None where that fails."""
        if batch in batches:
            return batches[batch]
        with advisory(f"measuring a batch of {batch}", ends=()):
            return self._measure_at(str(batch))
        return None

    def plan(self, sized: Sized, support: Mapping[str, Support]) -> tuple[Sized, Outcome]:
        """Return the plan at a size, and the size with the costs that planning measured or calibrated.

        Args:
            sized: From `size`.
            support: Which nodes the GPU backend takes.

        Raises:
            PlanError: If pins, the stage limit and the latency target leave no plan.
        """
        measured = self._with_pieces(sized.measured, support)
        self.progress("planning")
        evidence = self._evidence(measured, support)
        sized = replace(sized, measured=measured)
        with advisory("planning for requests that share runs"):
            sized, evidence = self._shared(sized, evidence)
        measured = replace(measured, table=evidence.table)
        outcome = self._calibrated(measured, evidence, sized) if self.wanted.calibrate else None
        if outcome is None:
            sized, outcome = self._plan_among(replace(sized, measured=measured), evidence, support)
        measured = replace(measured, table=outcome.case.evidence.table)
        if sized.pareto:
            outcome = replace(outcome, plan=replace(outcome.plan, pareto=sized.pareto))
        with advisory("fitting how steps grow with the batch"):
            outcome = replace(outcome, plan=self._with_batch_scaling(outcome, sized.batches, support))
        return replace(sized, measured=measured), outcome

    def _calibrated(self, measured: Measured, evidence: Evidence, sized: Sized) -> Outcome | None:
        """Return the plan at costs that measured stages correct; None where that fails."""
        rows = max((group.rows for group in evidence.table.groups), default=1)
        timer = StageTimer(
            measured=measured, progress=self.progress, gpu_backend=self.gpu_backend, rows=rows, deployed=self.deployed(measured)
        )
        with advisory("calibrating the plan", ends=(UsageError, PlanError)):
            outcome, calibration = calibrate(evidence, sized.options, timer)
            return replace(outcome, plan=replace(outcome.plan, calibration=calibration.as_json()))
        return None

    def _plan_among(self, sized: Sized, evidence: Evidence, support: Mapping[str, Support]) -> tuple[Sized, Outcome]:
        """Return the plan, held against the simple plans at the sizes that suit them best.

        A simple plan that wins gets the workers that suit it. The batch stays: samples and engines are made for it.
        """
        if not sized.batches:
            return sized, plan_evidence(evidence, sized.options)
        batch, workers = sized.measured.batch, self._workers(sized.measured)
        shared = any(group.rows > 1 for group in evidence.table.groups)
        evidences = {batch: evidence} if shared else self._evidences(sized.batches, support) | {batch: evidence}
        scores = {name: plan.scores for name, plan in rivals_at(evidences, sized.options, workers).items()}
        outcome = plan_evidence(evidence, sized.options, rivals=scores)
        better = rivals_at({batch: evidence}, sized.options, workers).get(outcome.choice.simple or "")
        if better is None or better.case.options == sized.options:
            return sized, outcome
        sized = replace(sized, options=better.case.options)
        return sized, plan_evidence(evidence, sized.options, rivals=scores)

    def _shared(self, sized: Sized, evidence: Evidence) -> tuple[Sized, Evidence]:
        """Return the size and the evidence for GPU stages that several requests share, where that gives the better plan."""
        measured, options = sized.measured, sized.options
        alone = measured.batch == 1 and options.objective == "throughput" and options.slo_s is None
        if self.gpu_backend != "onnxruntime-cuda" or not alone or _source(evidence) != "measured":
            return sized, evidence
        shared = sharing(measured, evidence, self.progress)
        if shared is None:
            return sized, evidence
        try:
            sizing = size_up({1: shared}, options, self._workers(measured))
            plans = plan_evidence(evidence, options), plan_evidence(shared, sizing.options)
        except PlanError:  # what the pins ask for keeps requests apart
            return sized, evidence
        apart, joint = (outcome.case.score(outcome.choice.candidate) for outcome in plans)
        if joint <= apart * (1 + MIN_GAIN):
            return sized, evidence
        return replace(sized, options=sizing.options, pareto=sizing.pareto or sized.pareto), shared

    def _with_batch_scaling(self, outcome: Outcome, batches: Mapping[int, Measured], support: Mapping[str, Support]) -> Plan:
        """Return the plan with steps that grow with the batch as measured, where it was at two sizes."""
        plan = outcome.plan
        if len(batches) < 2:
            return plan
        first, last = min(batches), max(batches)
        ends = []
        for batch in (first, last):
            machine = replace(outcome.case.options.machine, batch=batch)
            options = replace(outcome.case.options, machine=machine, slo_s=None)
            case = Case(evidence=self._evidence(batches[batch], support), options=options)
            costed = case.costed()
            placement = costed.placement_of(plan.placement)
            if placement is None:
                return plan
            ends.append(candidate_of(case, costed, placement).steps)
        steps = fitted_steps(ends[0], first, ends[1], last)
        return plan if steps is None else replace(plan, steps=steps, batch_scaling="measured")

    def _measure_at(self, batch: str) -> Measured:
        return measure(self.about, replace(self.costs, batch=batch), self.output, self.progress, self.accept)

    def _with_pieces(self, measured: Measured, support: Mapping[str, Support]) -> Measured:
        """Return the measured model with the prices of what is left of the groups that the GPU takes in part."""
        graph = measured.graph
        inputs = batched(graph, measured.samples.samples[0], measured.batch)
        pieces = broken_pieces(self._evidence(measured, support))
        with advisory("measuring what is left of groups that the GPU takes in part"):
            table = with_pieces(graph, measured.table, inputs, pieces, measured.options, self.progress)
            return replace(measured, table=table)
        return measured

    def _evidence(self, measured: Measured, support: Mapping[str, Support]) -> Evidence:
        graph = measured.graph
        return Evidence(
            graph=graph,
            table=measured.table,
            support=support,
            pins=resolve(graph, self.wanted.pins),
            kept=(*resolve_kept(graph, self.wanted.file.keeps), *self.kept),
        )

    def _evidences(self, measured: Mapping[int, Measured], support: Mapping[str, Support]) -> dict[int, Evidence]:
        """Return the evidence at each measured batch and at the powers of two between them."""
        found = {batch: self._evidence(entry, support) for batch, entry in measured.items()}
        small, large = min(found), max(found)
        for batch in (2**power for power in range(1, 16)):
            if small < batch < large:
                line = between(found[small], found[large], batch)
                if line is not None:
                    found[batch] = line
        return found

    def _workers(self, measured: Measured) -> tuple[int, ...]:
        if self.wanted.workers is not None:
            return (self.wanted.workers,)
        cores = int(measured.table.environment["usable_cores"])
        return worker_counts(cores, self.costs.threads, gpu=measured.table.target is not None)

    def _options(self, measured: Measured, workers: Sequence[int]) -> PlanOptions:
        """Return the options at the largest number of workers: by default one core is left to feed the GPU."""
        cores = int(measured.table.environment["usable_cores"])
        return PlanOptions(
            name=self.wanted.name,
            machine=Machine(cpu_workers=workers[-1], cores=max(1, cores // self.costs.threads), batch=measured.batch),
            threads=self.costs.threads,
            seed=self.about.seed,
            slo_s=self.wanted.slo_s,
            **self.wanted.settings,
        )


def _source(evidence: Evidence) -> str | None:
    """Return where the GPU's costs come from, None without a GPU."""
    return (evidence.table.target or {}).get("source")


@dataclass(slots=True, kw_only=True)
class Planning:
    """A model that is ready to be planned, as often as refusals ask for it; called with refusals, it plans.

    Args:
        planner: What plans it.
        backend: What runs the GPU stages.
        support: Which nodes that takes.
        sized: The model at the size to deploy, with the costs that the last plan measured.
        outcome: The last plan and what it was chosen from, None before the first.
    """

    planner: Planner
    backend: GpuBackend
    support: Mapping[str, Support]
    sized: Sized
    outcome: Outcome | None = None

    def outcome_of(self, refusals: Mapping[str, Support]) -> Outcome:
        """Return the plan, and what it was chosen from, with the verdicts in `refusals` in place of the backend's."""
        self.sized, self.outcome = self.planner.plan(self.sized, {**self.support, **refusals})
        return self.outcome

    def final(self, plan: Plan) -> Plan:
        """Return the last plan with what holds it back, for which it is made again without these refusals."""
        return plan if self.outcome is None else replace(plan, held_back=held_back(self.outcome, self.backend.name))

    def keep(self, kept: Sequence[Kept]) -> None:
        """Keep nodes together in every later plan."""
        self.planner, self.outcome = replace(self.planner, kept=(*self.planner.kept, *kept)), None

    def leave_whole(self) -> None:
        """Cut nothing in any later plan."""
        self.sized = replace(self.sized, options=replace(self.sized.options, max_stages=1))
        self.outcome = None

    def __call__(self, refusals: Mapping[str, Support]) -> Plan:
        """Return the plan alone, which is what the engines' feedback asks for."""
        return self.outcome_of(refusals).plan


def prepare(planner: Planner, gpu_backend: GpuBackendRequest, batches: Mapping[int, Measured] | None = None) -> Planning:
    """Return a model measured, with the backend's verdicts, at the batch and the workers to deploy.

    Args:
        planner: What plans it.
        gpu_backend: What is to run GPU stages.
        batches: The model as measured, by batch; None to measure it.

    Raises:
        UnavailableError: If the library that is asked for cannot be used.
        PlanError: If pins, the stage limit and the latency target leave no plan at any size.
    """
    batches = batches or planner.measure()
    first = next(iter(batches.values()))
    backend = choose(gpu_backend, first.gpu, planner.output) if first.table.target else NO_GPU
    support = backend_support(first, backend, resolve(first.graph, planner.wanted.pins), planner.progress)
    planner = replace(planner, gpu_backend=backend.name if first.gpu.here else None)
    batches = {size: in_engines(entry, backend, support, planner.deployed, planner.progress) for size, entry in batches.items()}
    sized = planner.size(batches, support)
    sized = replace(sized, measured=in_engines(sized.measured, backend, support, planner.deployed, planner.progress))
    return Planning(planner=planner, backend=backend, support=support, sized=sized)
