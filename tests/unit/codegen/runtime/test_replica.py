"""One stage of a plan alone: what shares a run, whose error it is, and what is loaded."""

import numpy as np
import pytest

from cutset.codegen.runtime.backends.base import BackendError
from cutset.codegen.runtime.errors import ConfigError, DegradedWarning, StageError
from cutset.codegen.runtime.replica import StageReplica


class Counting:
    """Wraps a loaded stage and keeps the rows of each run; it refuses any run with a negative number in it."""

    substitution = None
    device = "cpu"

    def __init__(self, backend):
        self._backend = backend
        self.rows = []

    def run(self, feeds):
        (value,) = feeds.values()
        if (value < 0).any():
            raise BackendError("negative")
        self.rows.append(len(value))
        return self._backend.run(feeds)

    def close(self):
        self._backend.close()


@pytest.fixture
def replica(chain):
    made = chain(3, max_batch=4)
    made.document["stages"][1]["batching"] = {"proven": True}
    made.write()
    loaded = StageReplica.load(made.folder, 1)
    counting = StageReplica(loaded.stage, Counting(loaded.backend), loaded.max_batch)
    yield counting
    counting.close()


def feeds(*rows):
    return {"t1": np.array(rows, np.float32)}


def test_neighbours_share_runs_and_each_gets_its_own_rows(replica):
    requests = [feeds(0, 1), feeds(2), feeds(3, 4), feeds(5, 6, 7, 8, 9), feeds(10)]
    outcomes = replica.run(requests)
    assert replica.backend.rows == [3, 2, 5, 1]
    for given, found in zip(requests, outcomes, strict=True):
        np.testing.assert_array_equal(found["t2"], given["t1"] + 1)


def test_an_error_stays_with_its_request(replica):
    first, second, third = replica.run([feeds(1), feeds(-1), feeds(2)])
    assert (first["t2"].tolist(), third["t2"].tolist()) == ([2], [3])
    assert isinstance(second, StageError)
    assert str(second).startswith("stage 1 failed on the cpu: negative")


def test_what_does_not_fit_together_runs_apart(chain):
    loaded = StageReplica.load(chain(2).folder)
    outcomes = loaded.run([{"t0": np.zeros(2, np.float32)}, {"t0": np.zeros(3, np.float32)}])
    loaded.close()
    assert [len(outcome["t1"]) for outcome in outcomes] == [2, 3]
    assert loaded.max_batch == 1


def test_a_stage_planned_for_a_gpu_says_where_it_runs(chain):
    with pytest.warns(DegradedWarning, match="the stage is planned for the gpu and runs on the cpu"):
        loaded = StageReplica.load(chain(2, ("cpu", "gpu")).folder, 1)
    assert loaded.healthy
    loaded.close()


def test_a_folder_without_a_plan(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the plan"):
        StageReplica.load(tmp_path)
