"""The command as a process: what it imports, which stream and code it uses, and what it leaves in the system."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from cutset import __version__
from cutset.cli.main import COMMANDS
from tests.e2e.harness import QUICK, ready_url, stop

HEAVY = {"onnx", "onnx_ir", "onnxruntime", "numpy", "scipy", "networkx", "rich", "jinja2", "msgspec", "uvicorn", "starlette"}


def imported_by(*words: str) -> set[str]:
    """Return the top-level packages that a command imports before it ends."""
    code = (
        "import sys; sys.argv = ['cutset', *sys.argv[1:]]\n"
        "from cutset.cli.main import run\n"
        "code = run()\n"
        "print('\\n' + '|'.join({name.partition('.')[0] for name in sys.modules}))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split("|"))


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    loaded = imported_by(*words)
    assert {"cutset", "click"} <= loaded
    assert loaded & HEAVY == set()


def test_the_list_of_samples_imports_no_model_library():
    assert imported_by("samples") & {"onnx", "onnx_ir", "onnxruntime", "scipy"} == set()


def test_help_lists_every_command_and_each_has_its_own(cutset):
    done = cutset.process("--help")
    assert done.code == 0
    for name, line in COMMANDS.items():
        assert name in done.out
        assert line in " ".join(done.out.split())
    assert cutset.process("--version").out == f"cutset, version {__version__}\n"


@pytest.mark.parametrize("words", [["--json"], []])
def test_results_go_to_stdout_and_progress_to_stderr(words, cutset, mixed):
    done = cutset.process("partition", mixed, "--plan-only", "--target", "t4", *QUICK, *words)
    assert done.code == 0
    assert "... planning" in done.err.splitlines()
    assert "..." not in done.out
    if words:
        assert done.json["schema"] == "cutset.plan/1"
        assert done.json["directory"] is None
    else:
        assert "Predicted (modelled)" in done.out
    assert sorted(path.name for path in cutset.folder.iterdir()) == ["tmp"]
    assert cutset("partition", mixed, "--plan-only", "--target", "t4", "-q", *QUICK).err == ""


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["partition", "missing.onnx"], 1, "ModelError"),
        (["partition", "missing.onnx", "--teleport"], 2, "UsageError"),
        (["teleport"], 2, "UsageError"),
        (["partition", "missing.onnx", "--target", "cuda:0"], 3, "UnavailableError"),
    ],
)
def test_exit_codes_of_the_process(words, code, kind, cutset):
    done = cutset.process(*words, "--json")
    assert done.code == code
    assert done.error["kind"] == kind
    plain = cutset(*words)
    assert (plain.code, plain.out) == (code, "")
    assert f"error: {done.error['what']}" in plain.err


def test_a_reader_that_goes_away_is_no_error(cutset, mixed):
    with cutset.started("inspect", mixed, "--json") as process:
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(60)
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_onnxruntime_is_told_not_to_report_to_its_maker(cutset, mixed):
    """One that may report keeps its session's number in TMPDIR."""
    assert cutset("inspect", mixed, env={"ORT_DISABLE_TELEMETRY": "0"}).code == 0
    kept = cutset.left_in_tmp()
    for name in kept:
        (cutset.tmp / name).unlink()
    assert cutset.process("inspect", mixed).code == 0
    assert cutset.left_in_tmp() == []
    if not kept:
        pytest.skip("this onnxruntime reports nothing")


def test_doctor_names_what_works_here(cutset):
    done = cutset.process("doctor", "--json")
    assert done.code == 0
    states = {entry["name"]: entry["state"] for entry in done.json["availability"]}
    assert states["onnxruntime-cpu"] == "ready", states
    assert done.json["environment"]["usable_cores"] == len(os.sched_getaffinity(0))


def test_samples_lists_writes_and_the_written_one_runs(cutset):
    listed = {entry["name"]: entry for entry in cutset("samples", "--json").json}
    assert {"classifier", "detector", "tagger", "orientation-jpeg"} <= set(listed)
    done = cutset("samples", "tagger", "-o", "words.onnx", "--json")
    assert done.json == {"name": "tagger", "model": "words.onnx", "inputs": "words.npz", "licence": "Apache-2.0"}
    assert cutset("inspect", "words.onnx").code == 0


def test_a_recorded_profile_gives_the_same_plan(cutset, mixed, tmp_path):
    assert cutset("profile", mixed, "-o", tmp_path / "p.json", "--target", "l4", *QUICK).code == 0
    modelled = cutset("partition", mixed, "--plan-only", "--json", "--target", "l4", *QUICK).json
    recorded = cutset("partition", mixed, "--plan-only", "--json", "--target", tmp_path / "p.json", *QUICK).json
    assert recorded["placement"] == modelled["placement"]
    assert recorded["target"]["source"] == "modelled", "a modelled number stays modelled wherever it is carried"
    profile = json.loads((tmp_path / "p.json").read_text())
    assert profile["schema"] == "cutset.profile/1"


def test_a_recorded_profile_of_another_model_says_what_it_covers(cutset, mixed, cnn_file, tmp_path):
    assert cutset("profile", cnn_file, "-o", tmp_path / "p.json", "--target", "l4", *QUICK).code == 0
    done = cutset("partition", mixed, "--plan-only", "--json", "--target", tmp_path / "p.json", *QUICK)
    assert done.code == 0, done.err
    assert "0 of 4 groups recorded" in done.err
    assert done.json["target"]["source"] == "modelled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_the_server_with_itself(number, cutset, mixed, tmp_path):
    assert cutset.partition(mixed, tmp_path / "out").code == 0
    with cutset.started("serve", tmp_path / "out", "--port", "0", "--cpu-workers", "1") as process:
        url = ready_url(process)
        words = psutil.Process(process.pid).cmdline()  # the server itself: a signal to it, or to its group, comes once
        assert words[1] == "-m"
        assert words[2].endswith("_serving")
        code, errors = stop(process, number)
    assert code == 0, errors
    assert url.startswith("http://127.0.0.1:")


def test_serve_passes_the_servers_refusals_on(cutset, mixed, tmp_path):
    assert cutset.partition(mixed, tmp_path / "out").code == 0
    done = cutset.process("serve", tmp_path / "out", "--port", "99999")
    assert done.code == 2
    assert "--port" in done.err


def test_inspect_shows_groups_with_both_costs(cutset, mixed):
    found = cutset("inspect", mixed, "--json", "--target", "t4", *QUICK).json
    groups = found["groups"]
    assert sorted(name for group in groups for name in group["nodes"]) == sorted(node["name"] for node in found["nodes"])
    for node in found["nodes"]:
        assert node["name"] in groups[node["group"]]["nodes"]
    (dense,) = [group for group in groups if "dense" in group["nodes"]]
    assert dense["intensity"] == dense["flops"] / dense["bytes"]
    assert (dense["costs"]["cpu"]["source"], dense["costs"]["gpu"]["source"]) == ("measured", "modelled")
    assert dense["costs"]["gpu"]["low_s"] < dense["costs"]["gpu"]["latency_s"] < dense["costs"]["gpu"]["high_s"]
    plain = cutset("inspect", mixed, "--target", "t4", *QUICK).out
    assert "FLOP/B" in plain
    assert plain.count("modelled") == len([group for group in groups if group["costs"]["gpu"]["latency_s"] is not None])


def test_inspect_without_costs_measures_nothing(cutset, mixed):
    found = cutset("inspect", mixed, "--no-costs", "--json").json
    assert found["groups"] == []
    assert {node["group"] for node in found["nodes"]} == {None}
