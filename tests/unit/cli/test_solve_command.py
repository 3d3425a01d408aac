"""`cutset solve` as its user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutset.cli.main import run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a cost graph of four nodes in a row: an accelerator is ten times as quick, copies cost half a unit."""
    nodes = [{"id": v, "cpuLatency": 10.0, "fpgaLatency": 1.0, "supportedOnFpga": v != 3, "size": 1.0} for v in range(4)]
    edges = [{"sourceId": v, "destId": v + 1, "cost": 0.5} for v in range(3)]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"maxCPUs": 1, "maxFPGAs": 1, "maxSizePerFPGA": 9, "nodes": nodes, "edges": edges}))
    return path


def test_json_has_the_fields_of_the_contract(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["solve", str(file), "--json", "--objective", "latency", "--max-stages", "3", "--exact"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {"placement", "bottleneck", "lower_bound", "latency", "stages", "objective", "seconds"} <= set(plan)
    assert plan["placement"] == {"0": "gpu", "1": "gpu", "2": "gpu", "3": "cpu"}
    assert plan["latency"] == pytest.approx(13.5)
    assert plan["lower_bound"] == pytest.approx(13.5, rel=1e-5)
    assert (plan["objective"], plan["stages"]) == ("latency", 2)


def test_text_says_what_is_proven_and_how_latency_trades_for_throughput(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["solve", str(file), "--pin", "0=cpu", "--pareto", "3"]) == 0
    text = capsys.readouterr().out
    assert "proven: no placement has a throughput value under" in text
    assert "Latency against throughput" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--pin", "nothing=cpu"], 2, "matches no node"),
        (["--latency", "1"], 1, "no placement answers within 1\n  cause: the fastest takes 13.5 "),
        (["--pin", "3=gpu"], 1, "can run on neither device"),
        (["--max-stages", "0"], 2, "0"),
    ],
)
def test_what_cannot_be_is_one_clear_error(
    file: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["solve", str(file), *words]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "holds no JSON object"), ("{}", "expected fields")])
def test_a_file_that_is_no_cost_graph(file: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(text)
    assert run(["solve", str(file)]) == 2
    assert message in capsys.readouterr().err
    assert run(["solve", str(file.parent / "none.json")]) == 1
