"""Tensors that are too small for a stage's kernels never reach them, whoever runs the stage."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.codegen.runtime import Pipeline, StageError
from cutset.codegen.runtime.backends.base import BackendError
from cutset.codegen.runtime.backends.device import Parts
from cutset.codegen.runtime.backends.size_checked import SizeCheckedBackend
from cutset.codegen.runtime.replica import StageReplica


class Recording:
    """Copies its input; remembers the shapes."""

    device, substitution, slots, joins = "gpu", None, 3, True

    def __init__(self):
        self.shapes, self.closed = [], False

    def run(self, feeds):
        self.shapes.append(np.concatenate(list(feeds["x"])).shape if isinstance(feeds["x"], Parts) else feeds["x"].shape)
        return {"y": feeds["x"]}

    def close(self):
        self.closed = True


def test_what_is_too_small_is_not_run():
    inner = Recording()
    backend = SizeCheckedBackend(inner, {"x": (2, 0)})
    assert (backend.device, backend.slots, backend.joins, getattr(backend, "max_batch", None)) == ("gpu", 3, True, None)
    for value in (np.zeros((2, 0)), np.zeros(1), Parts([np.zeros((1, 3)), np.zeros((1, 3))])):
        backend.run({"x": value})
    for value in (np.zeros((1, 3)), Parts([np.zeros((1, 3))])):
        with pytest.raises(BackendError, match=r"below shape \[2, 0\] of 'x': not run"):
            backend.run({"x": value})
    assert inner.shapes == [(2, 0), (1,), (2, 3)]
    backend.close()
    assert inner.closed


def test_the_pipeline_and_a_replica_of_a_stage_check(chain):
    package = chain(2)
    package.document["stages"][1]["least"] = {"t1": [2]}
    package.write()
    with Pipeline.load(package.folder) as pipeline:
        assert len(pipeline.run({"t0": np.ones(2, np.float32)})["t2"]) == 2
        with pytest.raises(StageError, match="below shape"):
            pipeline.run({"t0": np.ones(1, np.float32)})
    replica = StageReplica.load(package.folder, 1)
    good, bad = replica.run([{"t1": np.ones(2, np.float32)}, {"t1": np.ones(1, np.float32)}])
    assert good["t2"].tolist() == [2, 2]
    assert isinstance(bad, StageError)
    replica.close()
