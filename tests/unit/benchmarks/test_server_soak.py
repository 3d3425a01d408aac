"""A short soak of the server: every kind of request, as in the long run, in a few seconds."""

import numpy as np
import pytest

from benchmarks.server_soak import KINDS, PARTS, Report, soak, table
from benchmarks.soak_package import POISON, draw_input, poisonable, right_answer, write_package
from cutset.codegen.runtime import Pipeline, StageError

SHARES = {"good": 0.65, "aborted": 0.15, "refused": 0.17, "poison": 0.03}


def test_every_request_ends_as_it_must_and_nothing_is_left(tmp_path):
    report = soak(120, 1, 3, tmp_path, SHARES, first=26)
    assert sum(sum(outcomes.values()) for outcomes in report.outcomes.values()) == 120 + 26 + PARTS * 2
    assert {kind.split()[0] for kind in report.outcomes} == set(KINDS)
    assert [fault for fault in report.faults if not fault.startswith("memory")] == [], report  # too short for memory
    assert report.tracebacks == 0


def test_the_poison_ends_its_process_and_a_good_input_does_not(tmp_path):
    good = draw_input(np.random.default_rng(0), 3, 5)
    with Pipeline.load(write_package(tmp_path / "package", poisonable())) as pipeline:
        np.testing.assert_array_equal(pipeline.run({"a": good})["d"], right_answer(good))
        with pytest.raises(StageError):
            pipeline.run({"a": np.full((1, 3), POISON, np.float32)})
        assert pipeline.stats().stages[1].replaced > 0
        np.testing.assert_array_equal(pipeline.run({"a": good})["d"], right_answer(good))


def test_what_is_not_as_it_has_to_be_is_named():
    report = Report(
        requests=9, seed=0, clients=1, memory_mib=[(8.0, 9.0), (9.0, 10.0), (9.0, 11.0)], memory_growth=0.1, tracebacks=0,
        said={}, seconds=1.0,
        outcomes={
            "good gRPC": {"right": 3, "wrong": 1},
            "refused HTTP JSON": {"200": 1, "refused": 1},
            "poison gRPC": {"INTERNAL": 1},
        },
        more={"descriptors": 2, "processes": 0},
    )  # fmt: skip
    assert report.faults == [
        "1 of good gRPC: wrong",
        "1 of refused HTTP JSON: 200",
        "memory grew by 10.0%",
        "2 more descriptors",
    ]
    assert "| good gRPC | 3 | 1 x wrong |" in table(report)
