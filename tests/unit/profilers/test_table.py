"""What the table answers to the planner's questions."""

import pytest

from cutset.profilers.table import CostTable, Latency, ModelFile, SessionCost, TransferModel


def session(device, batch):
    latency = Latency(median=float(batch), p10=0.5, p90=2.0, samples=5)
    return SessionCost(device=device, backend="b", batch=batch, threads=1, latency_s=latency, source="measured")


def transfer(direction):
    return TransferModel(direction=direction, pinned=True, fixed_s=1e-5, bytes_per_s=1e9, source="modelled")


def table(sessions=(), transfers=()):
    return CostTable(
        model=ModelFile(file="m", sha256="", nodes=0), target=None, environment={}, shapes={}, sessions=sessions, groups=(),
        transfers=transfers,
    )  # fmt: skip


def test_a_transfer_is_affine_in_bytes():
    assert transfer("h2d").seconds(0) == 1e-5
    assert transfer("h2d").seconds(10**6) == pytest.approx(1e-5 + 1e-3)


def test_the_session_of_the_planned_batch_is_the_last():
    found = table(sessions=(session("cpu", 1), session("gpu", 1), session("cpu", 4)))
    assert found.session("cpu").batch == 4
    assert found.session("gpu").batch == 1
    assert table().session("cpu") is None


def test_transfers_by_direction():
    found = table(transfers=(transfer("h2d"),))
    assert found.transfer("h2d").direction == "h2d"
    assert found.transfer("d2h") is None
