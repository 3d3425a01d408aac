"""A child that crashes, hangs, eats memory, raises or is killed yields a reason, and leaves no process and no file."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from cutset.profilers.child import Failure, Limits, Worker, map_in_child, run_in_child
from tests.unit.profilers import child_functions as functions

MIB = 1 << 20


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Give each test a folder for temporary files, and see that nothing is left in it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def gone(pid):
    """Return whether a process has ended; one that init has not reaped yet has."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


def test_a_value_comes_back_from_another_process():
    pid, value = run_in_child(functions.echo, {"a": np.arange(3)})
    assert pid != os.getpid()
    assert value["a"].tolist() == [0, 1, 2]
    assert gone(pid)


def test_large_values_go_both_ways():
    big = np.zeros(8 * MIB, np.uint8)
    _, value = run_in_child(functions.echo, big)
    assert value.shape == big.shape


def test_the_environment_is_the_childs_alone():
    assert run_in_child(functions.variable, "CUTSET_TEST", environment={"CUTSET_TEST": "1"}) == "1"
    assert "CUTSET_TEST" not in os.environ


def test_output_of_libraries_does_not_disturb():
    assert run_in_child(functions.chatter, None) == "done"


@pytest.mark.parametrize(
    ("function", "argument", "kind", "detail"),
    [
        (functions.segfault, None, "crashed", "crashed with SIGSEGV"),
        (functions.kill_itself, None, "killed", "was killed with SIGKILL"),
        (functions.leave, 3, "exited", "ended with status 3: the library gave up"),
        (functions.fail, "cutset", "raised", "it cannot be measured: no clock"),
        (functions.fail, "other", "raised", "ValueError: two lines"),
    ],
)
def test_an_end_is_a_reason(function, argument, kind, detail):
    failure = run_in_child(function, argument)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.detail[: len(detail)]) == (kind, detail)


def test_results_and_functions_that_do_not_pickle():
    assert run_in_child(functions.unpicklable, None).kind == "raised"
    with pytest.raises((AttributeError, TypeError, ValueError, __import__("pickle").PicklingError)):
        run_in_child(lambda _: None, None)


def test_a_crash_ends_what_the_child_started(tmp_path):
    failure = run_in_child(functions.abort, str(tmp_path / "note"))
    assert failure.kind == "crashed"
    assert "SIGABRT" in failure.detail
    check_traces(tmp_path / "note")


def test_a_hang_ends_at_the_time_limit(tmp_path):
    failure = run_in_child(functions.hang, str(tmp_path / "note"), limits=Limits(time_s=1.0))
    assert failure == Failure(kind="timeout", detail="did not finish within 1 s")
    check_traces(tmp_path / "note")


def check_traces(note):
    child, grandchild, file = note.read_text().split()
    assert gone(child)
    assert gone(grandchild)
    assert not Path(file).exists()


def test_memory_is_limited():
    limits = Limits(memory_bytes=256 * MIB)
    assert run_in_child(functions.eat, 512 * MIB, limits=limits) == Failure(
        kind="memory", detail="ran out of the memory it was allowed"
    )
    assert run_in_child(functions.eat, 16 * MIB, limits=limits) == 16 * MIB


def test_a_crash_for_want_of_memory_is_told_apart():
    failure = run_in_child(functions.eat_natively, 512 * MIB, limits=Limits(memory_bytes=256 * MIB))
    assert failure.kind == "memory"
    assert "bad_alloc" in failure.detail


def test_many_calls_share_a_process_until_it_ends():
    results = map_in_child(functions.echo, range(3))
    assert [value for _, value in results] == [0, 1, 2]
    assert len({pid for pid, _ in results}) == 1
    eaten = map_in_child(functions.eat, [MIB, 4 << 40, 2 * MIB], limits=Limits(memory_bytes=1 << 30))
    assert [eaten[0], eaten[1].kind, eaten[2]] == [MIB, "memory", 2 * MIB]
    assert map_in_child(functions.echo, []) == []


def test_a_crash_costs_one_call_of_many():
    first, second = map_in_child(functions.leave, [1, 2])
    assert first.detail.startswith("ended with status 1")
    assert second.detail.startswith("ended with status 2")


def test_an_interrupt_leaves_no_child(tmp_path):
    code = (
        "import signal, sys\nfrom cutset.profilers.child import run_in_child\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job is started without
        "from tests.unit.profilers import child_functions as f\nrun_in_child(f.hang, sys.argv[1])\n"
    )
    check_orphans(tmp_path, code, signal.SIGINT)


def test_a_killed_parent_takes_its_child_along(tmp_path, temporary):
    code = (
        "import sys\nfrom cutset.profilers.child import run_in_child\n"
        "from tests.unit.profilers import child_functions as f\nrun_in_child(f.nap, sys.argv[1])\n"
    )
    check_orphans(tmp_path, code, signal.SIGKILL)


def check_orphans(tmp_path, code, number):
    note = tmp_path / "note"
    root = str(Path(__file__).resolve().parents[3])
    folder = tmp_path / "parent"
    folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(note)],
        env={**os.environ, "PYTHONPATH": root, "TMPDIR": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    with parent:
        for _ in range(1000):
            if note.exists() and note.read_text().count(" ") >= 0 and note.read_text():
                break
            time.sleep(0.02)
        parent.send_signal(number)
    child, *grandchild = note.read_text().split()[:2]
    assert gone(child)
    if number == signal.SIGINT:
        assert all(gone(pid) for pid in grandchild)
        assert list(folder.iterdir()) == []


def test_a_worker_stays_between_calls_and_is_replaced_when_it_ends():
    with Worker(limits=Limits(time_s=30)) as worker:
        first, second = (worker.ask(functions.echo, None)[0] for _ in range(2))
        assert first == second != os.getpid()
        slow = worker.ask(time.sleep, 60.0, time_s=0.3)
        assert (slow.kind, slow.detail) == ("timeout", "did not finish within 0.3 s")
        third = worker.ask(functions.echo, None)[0]
        assert third != first
        assert gone(first)
    assert gone(third)


def test_a_crash_leaves_no_core_file_behind():
    assert run_in_child(functions.core_limit, None) == (0, 0)
