"""The plan of a command is held against the simple plans at their own sizes, and made at such a size where one wins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cutset.cli.commands.explain import _show_made
from cutset.cli.planning import Planner, Sized
from cutset.partitioner.cost import Machine
from cutset.partitioner.explain import Reach, best_reach
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan_evidence
from cutset.partitioner.study import study_of
from tests.unit.partitioner.conftest import Case, chain, chain_graph  # noqa: F401


class Workers(Planner):
    """A planner of a case whose costs are known, for one to four workers; nothing is measured."""

    def _workers(self, measured: Any) -> tuple[int, ...]:
        return (1, 2, 3, 4)


def planner() -> Planner:
    nothing: Any = SimpleNamespace()
    wanted: Any = SimpleNamespace(pins=(), file=SimpleNamespace(keeps=()))
    return Workers(about=nothing, costs=nothing, wanted=wanted, output=nothing, progress=print)


@pytest.mark.parametrize(("interval", "workers", "chosen"), [(1.0, 2, "split"), (3.0, 1, "capability_first")])
def test_a_plan_is_made_at_the_size_of_the_simple_plan_that_wins(chain, interval, workers, chosen):  # noqa: F811
    """Sized for two workers, which the split needs; where the split is refused, one worker does."""
    case: Case = chain([1, 9, 90], [9, 5, 5], refused={"a": "no"}, session_ms=1000, interval=interval)
    measured: Any = SimpleNamespace(graph=case.graph, table=case.table(), batch=1)
    options = PlanOptions(name="m", machine=Machine(cpu_workers=2, cores=16))
    sized = Sized(measured=measured, options=options, batches={1: measured})
    made = planner()
    evidence = made._evidence(measured, case.support())
    found, outcome = made._plan_among(sized, evidence, case.support())
    assert outcome.plan.comparison["chosen"] == chosen
    assert (found.options.machine.cpu_workers, outcome.plan.cpu_workers) == (workers, workers)


def test_explain_says_so_where_the_best_plan_of_the_search_was_refused(chain):  # noqa: F811
    case: Case = chain([1, 4, 60], [9, 5, 5], refused={"a": "no"}, interval=3.0)
    lines: list[str] = []
    output: Any = SimpleNamespace(line=lines.append)
    for interval, told in ((3.0, 1), (1.0, 0)):
        case.interval = interval
        made = planner()
        evidence = made._evidence(SimpleNamespace(graph=case.graph, table=case.table()), case.support())  # type: ignore[arg-type]
        outcome = plan_evidence(evidence, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=2)))
        study = study_of(outcome)
        best = best_reach(study)
        assert isinstance(best, Reach)
        _show_made(outcome.plan.as_json(), best, study, output)
        assert len(lines) == told
        lines.clear()
