"""Emit a plan that passes the proof: plan again without cuts that change numbers, and in the end leave the model whole."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutset.advisory import advisory
from cutset.cli.engines import EngineArguments, Session, engineer
from cutset.cli.planning import Planning
from cutset.codegen.engines.feedback import Engineered
from cutset.codegen.fault import cuts_at_fault, parted_by
from cutset.codegen.package import EmitOptions, KeptTogether, emit
from cutset.codegen.verify import PartsDifferError, Verification
from cutset.errors import PlanError
from cutset.partitioner.pins import Kept
from cutset.partitioner.plan import Plan
from cutset.partitioner.study import dump_study, study_of
from cutset.partitioner.support import Support

MOST_REPLANS = 4
"""Plans without a cut at fault that are tried before the model is left whole."""
_ORIGIN = "the proof that the parts equal the whole"


def emit_proven(
    planning: Planning, of_engines: EngineArguments, emission: EmitOptions, target: Path, *, reuse: bool = False
) -> tuple[Engineered, Verification]:
    """Return the engines of the plan that was emitted to `target`, and its proof.

    Args:
        planning: The model, ready to be planned; it is left with what the proof asks for.
        of_engines: How engines are made.
        emission: How to emit.
        target: The output folder.
        reuse: Whether a plan that `planning` made already is taken where no node is refused.

    Raises:
        PartsDifferError: If pins force a cut that changes numbers.
        PlanError: If pins, the stage limit and the latency target leave no plan.
    """
    repair = _Repair(planning=planning, emission=emission)
    while True:
        try:
            engines = _engines(planning, of_engines, repair.emission, target, reuse=reuse)
        except PlanError as error:
            repair.after_no_plan(error)
            continue
        if isinstance(engines, _Proven):
            return engines.engines, engines.proof
        repair.after_difference(engines)


@dataclass(frozen=True, slots=True)
class _Proven:
    engines: Engineered
    proof: Verification


@dataclass(frozen=True, slots=True)
class _Differing:
    plan: Plan
    error: PartsDifferError


def _engines(
    planning: Planning, of_engines: EngineArguments, emission: EmitOptions, target: Path, *, reuse: bool
) -> _Proven | _Differing:
    """Plan, build and emit once."""

    def replan(refusals: Mapping[str, Support]) -> Plan:
        known = planning.outcome
        return known.plan if reuse and known is not None and not refusals else planning(refusals)

    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cutset-engines-") as work:
        session = Session(
            measured=planning.sized.measured,
            about=planning.planner.about,
            backend=planning.backend,
            progress=emission.progress,
        )
        engines = engineer(session, of_engines, replan, Path(work))
        with advisory("asking what keeps the model off the GPU"):
            engines = replace(engines, plan=planning.final(engines.plan))
        measured = planning.sized.measured
        documents: dict[str, str] = {}
        if planning.outcome is not None:
            with advisory("keeping the problem that the plan solves"):
                documents["problem.json"] = dump_study(study_of(planning.outcome))
        spent = {**measured.seconds, "plan": time.perf_counter() - start}
        emission = replace(emission, seconds=spent, engines=engines, documents=documents)
        try:
            proof = emit(measured.graph, engines.plan, measured.table, measured.samples, target, emission)
        except PartsDifferError as error:
            return _Differing(plan=engines.plan, error=error)
    return _Proven(engines=engines, proof=proof)


@dataclass(slots=True, kw_only=True)
class _Repair:
    """What is changed after each plan whose parts are not the whole: first the cuts at fault, then all, then free rows.

    Args:
        planning: Changed.
        emission: How to emit next.
        first: The first difference, which is what is reported where nothing helps.
        replans: Plans tried without a cut at fault.
    """

    planning: Planning
    emission: EmitOptions
    first: PartsDifferError | None = None
    replans: int = 0
    whole: bool = field(default=False)

    def after_difference(self, found: _Differing) -> None:
        """Prepare another plan, or raise the difference where no plan is left to try."""
        self.first = self.first or found.error
        self.emission.progress("finding the cut that changes numbers")
        if len(found.plan.stages) == 1:
            if self.emission.keep_rows:
                raise found.error
            self.emission = replace(self.emission, keep_rows=True)
        elif self.replans >= MOST_REPLANS or not self._keep(found):
            self._leave_whole()

    def after_no_plan(self, error: PlanError) -> None:
        """Prepare to leave the model whole, or raise what made that necessary."""
        if self.first is None:
            raise error
        if self.whole:
            self.first.hint = f"the pins force this cut ({error.what}): remove one, or widen the tolerance with --rtol/--atol"
            raise self.first from error
        self._leave_whole()

    def _keep(self, found: _Differing) -> bool:
        """Keep together what the cuts at fault part; return whether any is at fault."""
        measured = self.planning.sized.measured
        parted: list[tuple[str, ...]] = []
        with advisory("finding the cut that changes numbers", ends=()):
            stages, samples = found.plan.stages, measured.samples.samples
            groups = [group.nodes for group in measured.table.groups_on("cpu")]
            for cut in cuts_at_fault(measured.graph, stages, samples, self.emission.tolerance):
                parted += parted_by(measured.graph, stages, cut, groups)
        if not parted:
            return False
        self.replans += 1
        self.planning.keep([Kept(nodes=nodes, origin=_ORIGIN) for nodes in parted])
        self._say(f"kept together: cut apart, {found.error.words}", parted)
        return True

    def _leave_whole(self) -> None:
        assert self.first is not None
        self.whole = True
        self.planning.leave_whole()
        self._say(f"left whole: cut, {self.first.words}", [])

    def _say(self, sentence: str, parted: Sequence[tuple[str, ...]]) -> None:
        nodes = tuple(dict.fromkeys(name for names in parted for name in names))
        kept = KeptTogether(sentence=sentence, nodes=nodes)
        self.emission = replace(self.emission, kept_together=(*self.emission.kept_together, kept))
