"""What a library that fails leaves: the costs and the verdicts that there were before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cutset.advisory import SkippedSteps, recording, skipped_steps
from cutset.cli import backend
from cutset.profilers.capability import Oracle
from cutset.profilers.gpu_backend import GpuBackend

ORACLE = Oracle(backend="tensorrt-rtx", version="1.7", compute_capability="")


@pytest.mark.parametrize("source", ["measured", "modelled"])
def test_costs_inside_engines_that_cannot_be_measured_stay_as_they_were(monkeypatch, source):
    """Where the GPU itself could only be modelled nothing is tried."""

    def fails(*_arguments):
        raise RuntimeError("no engine")

    monkeypatch.setattr(backend, "with_engine_costs", fails)
    monkeypatch.setattr(backend, "engine_options", fails)
    monkeypatch.setattr(backend, "batched", lambda *_: {})
    measured = SimpleNamespace(
        gpu=SimpleNamespace(here=True), table=SimpleNamespace(target={"id": "cuda:0", "source": source}), graph=None,
        samples=SimpleNamespace(samples=[{}]), batch=1, options=None,
    )  # fmt: skip
    with recording(SkippedSteps()):
        found = backend.in_engines(measured, GpuBackend(name="tensorrt-rtx", oracle=ORACLE), {}, fails, lambda _text: None)
        reasons = [skipped["reason"] for skipped in skipped_steps()]
    assert found is measured
    assert reasons == (["RuntimeError: no engine"] if source == "measured" else [])
