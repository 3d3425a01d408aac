"""A step that is advisory never ends what it is part of, and never fails without a word."""

import pytest

from cutset.advisory import SkippedSteps, advisory, recording, skipped_steps
from cutset.errors import PlanError, UsageError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no\n  luck"), "RuntimeError: no luck"),
        (MemoryError(), "MemoryError: "),
        (PlanError("no placement", cause="pins"), "no placement: pins"),
        (KeyError("q.carry"), "KeyError: 'q.carry'"),
    ],
)
def test_whatever_a_step_raises_is_a_reason(error, reason):
    told = []
    with recording(SkippedSteps(told.append)):
        for _ in range(2):
            with advisory("comparing precisions", "stage 1"):
                raise error
        assert skipped_steps() == [{"step": "comparing precisions", "about": "stage 1", "reason": reason.strip()}]
    assert [str(one) for one in told] == [f"left out: comparing precisions of stage 1: {reason.strip()}"]
    assert skipped_steps() == []


@pytest.mark.parametrize(
    ("error", "ends"), [(UsageError("wrong"), None), (PlanError("p"), (PlanError,)), (KeyboardInterrupt(), None)]
)
def test_what_ends_a_job_passes(error, ends):
    with pytest.raises(type(error)), recording(SkippedSteps()), advisory("a step", **({"ends": ends} if ends else {})):
        raise error
    assert skipped_steps() == []


def test_a_step_that_works_leaves_no_trace():
    with recording(SkippedSteps()):
        with advisory("a step"):
            pass
        assert skipped_steps() == []
