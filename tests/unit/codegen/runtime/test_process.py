"""Stages in processes of their own: the same answers, no leak, and a death that costs nobody an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cutset.codegen.runtime import ConfigError, DeadlineExceeded, Pipeline, StageError
from cutset.codegen.runtime.backends import process
from cutset.codegen.runtime.sharedbuffer import SharedBuffer

CODE = """
import os

def run(feeds):
    x = feeds["x"]
    if x.size and x.flat[0] == 666:
        os._exit(9)
    if x.size and x.flat[0] == 777:
        __import__("time").sleep(600)
    if x.size and x.flat[0] < 0:
        raise ValueError("a negative number")
    print("a library that prints", flush=True)
    return {"y": x * 2, "who": __import__("numpy").array([os.getpid()]), "t": feeds["s"]}
"""


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def hooked(package):
    """A Python stage of its own processes, then an ONNX one."""

    def build(code=CODE, execution="process", **plan):
        tensors = {name: ("float32", ["n"]) for name in ("x", "y", "z")}
        tensors |= {"who": ("int64", [1]), "s": ("string", ["m"]), "t": ("string", ["m"])}
        made = package(tensors, [], inputs=["x", "s"], outputs=["z", "who", "t"], **plan)
        made.add(0, code, inputs=["x", "s"], outputs=["y", "who", "t"], execution=execution)
        made.add(1, "def run(feeds):\n    return {'z': -feeds['y']}\n", inputs=["y"], outputs=["z"], execution="thread")
        return made.folder

    return build


def ask(pipeline, *numbers):
    return pipeline.run({"x": np.array(numbers, np.float32), "s": ["é", "", "x" * 1000]})


def test_tensors_cross_and_come_back_unmixed(hooked):
    files = open_files()
    with Pipeline.load(hooked(cpu_workers=2)) as pipeline, ThreadPoolExecutor(4) as callers:
        sizes = [0, 1, 70_000, 3, 200_000, 5]
        arrays = [np.arange(size, dtype=np.float32) for size in sizes * 4]
        answers = list(callers.map(lambda array: ask(pipeline, *array), arrays[:2] * 6))
        answers += [pipeline.run({"x": array, "s": ["é"]}) for array in arrays]
        for array, answer in zip([*arrays[:2] * 6, *arrays], answers, strict=True):
            np.testing.assert_array_equal(answer["z"], -2 * array)
        assert answers[0]["t"].tolist() == ["é", "", "x" * 1000]
        children = {int(answer["who"][0]) for answer in answers}
        assert os.getpid() not in children
        assert 1 <= len(children) <= 2
    assert open_files() == files
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_an_error_in_the_process_stays_with_its_request(hooked):
    with Pipeline.load(hooked(cpu_workers=1)) as pipeline:
        with pytest.raises(StageError, match="ValueError: a negative number"):
            ask(pipeline, -1)
        assert ask(pipeline, 1)["z"].tolist() == [-2]


def test_an_answer_that_was_not_read_is_no_later_requests(hooked, monkeypatch):
    def out_of_memory(_child, _until):
        monkeypatch.undo()
        raise MemoryError("full")

    with Pipeline.load(hooked(cpu_workers=1)) as pipeline:
        monkeypatch.setattr(process._Child, "_receive", out_of_memory)
        with pytest.raises(StageError, match="full"):
            ask(pipeline, 1)
        assert ask(pipeline, 2)["z"].tolist() == [-4]
        assert ask(pipeline, 3)["z"].tolist() == [-6]


def test_killed_processes_are_replaced_and_no_request_is_lost(hooked):
    with Pipeline.load(hooked(cpu_workers=2)) as pipeline, ThreadPoolExecutor(4) as callers:
        first = int(ask(pipeline, 1)["who"][0])
        jobs = [callers.submit(ask, pipeline, number) for number in range(1, 60)]
        os.kill(first, signal.SIGKILL)
        assert [job.result(30)["z"][0] for job in jobs] == [-2 * number for number in range(1, 60)]
        while pipeline.stats().stages[0].replaced == 0:
            ask(pipeline, 1)
        assert pipeline.ready
    assert pipeline.stats().failed == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_request_that_kills_its_process_hurts_nobody_else(hooked, workers):
    """The good requests beside it are answered, and the next poison finds a stage that lives."""
    with Pipeline.load(hooked(cpu_workers=workers)) as pipeline, ThreadPoolExecutor(4) as callers:
        for _ in range(3 - workers):
            poison = callers.submit(ask, pipeline, 666)
            good = [callers.submit(ask, pipeline, number) for number in range(1, 12)]
            assert [job.result(60)["z"][0] for job in good] == [-2 * number for number in range(1, 12)]
            with pytest.raises(StageError, match="ended the stage's backend 2 times"):
                poison.result(60)
            assert ask(pipeline, 5)["z"].tolist() == [-10]
            assert (pipeline.ready, pipeline.live) == (True, True)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_hung_process_is_ended_and_the_others_are_answered(hooked, batch):
    folder = hooked(cpu_workers=1)
    files = open_files()
    with Pipeline.load(folder, stage_timeout_s=1.0, max_batch=batch) as pipeline:
        first = pipeline.submit({"x": np.float32([1]), "s": ["a"]})
        hung = pipeline.submit({"x": np.float32([777]), "s": ["a"]})
        good = pipeline.submit({"x": np.float32([2]), "s": ["a"]})
        assert first.result(60)["z"].tolist() == [-2]
        with pytest.raises(DeadlineExceeded, match="stage 0 did not return: the run took longer than 1 s"):
            hung.result(60)
        assert good.result(60)["z"].tolist() == [-4]
        assert (pipeline.ready, pipeline.live) == (True, True)
    assert open_files() == files


def test_a_stopped_process_is_replaced(hooked):
    with Pipeline.load(hooked(cpu_workers=1), stage_timeout_s=0.5) as pipeline:
        child = int(ask(pipeline, 1)["who"][0])
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            ask(pipeline, 1)
        assert ask(pipeline, 3)["z"].tolist() == [-6]
        assert not Path(f"/proc/{child}").exists()


def test_a_stage_that_cannot_load_says_why_and_leaves_no_child(hooked):
    files = open_files()
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        Pipeline.load(hooked("1 / 0"))
    with pytest.raises(ConfigError, match="exit code 3 while it was loading"):
        Pipeline.load(hooked("import os; os._exit(3)"))
    assert open_files() == files


def test_a_child_ends_when_its_parent_is_killed(hooked, tmp_path):
    code = (
        "import os, sys, numpy as np\n"
        "from cutset.codegen.runtime import Pipeline\n"
        "pipeline = Pipeline.load(sys.argv[1])\n"
        "print(pipeline.run({'x': np.ones(1, np.float32), 's': ['a']})['who'][0], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(hooked())], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    child = Path(f"/proc/{int(done.stdout)}")
    end = time.monotonic() + 20
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_buffer_grows_and_is_read_in_place_or_copied():
    writer = SharedBuffer()
    reader = SharedBuffer(os.dup(writer.handle))
    for size in (0, 3, 100_000, 2):
        array = np.arange(size, dtype=np.float64)
        found = reader.read(writer.write([("a", "float64", array), ("s", "string", np.array(["é"], object))]), copy=True)
        np.testing.assert_array_equal(found["a"], array)
        assert found["s"].tolist() == ["é"]
    writer.close()
    reader.close()
