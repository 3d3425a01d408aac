"""Whether IO binding and outputs in kept memory pay on ONNX Runtime's CPU provider: microseconds a run.

usage: python -m benchmarks.binding [-o FILE] [--markdown] [--rounds N]

Every way hands on an array that is its receiver's own, as a stage must: `run` as it is; inputs bound anew and outputs where
ONNX Runtime puts them; the same with outputs in memory that is kept from run to run, and copied; and everything bound once,
with inputs copied in and outputs copied out. The ways take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.runtime import table, timed
from cutset import serde
from cutset.codegen.runtime.allocator import keep_freed_memory
from cutset.profilers.environment import environment
from cutset.profilers.session import open_session

SHAPES = {"256 bytes": (1, 64), "600 KB": (1, 3, 224, 224)}
RUNS = 300
Run = Callable[[np.ndarray], np.ndarray]


def relu(shape: tuple[int, ...], place: Path) -> ort.InferenceSession:
    """Return a session that costs little beside its memory."""
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", *sides)
    path = place / "relu.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    return open_session(path)


def ways(session: ort.InferenceSession, shape: tuple[int, ...]) -> dict[str, Run]:
    """Return the ways to run the session."""
    kept, given = np.empty(shape, np.float32), np.empty(shape, np.float32)
    once = session.io_binding()
    once.bind_input("x", "cpu", 0, np.float32, shape, given.ctypes.data)
    once.bind_output("y", "cpu", 0, np.float32, shape, kept.ctypes.data)

    def bound(x: np.ndarray) -> np.ndarray:
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, shape, x.ctypes.data)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        result: np.ndarray = binding.get_outputs()[0].numpy()
        return result

    def preallocated(x: np.ndarray) -> np.ndarray:
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, shape, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, shape, kept.ctypes.data)
        session.run_with_iobinding(binding)
        return kept.copy()

    def bound_once(x: np.ndarray) -> np.ndarray:
        given[...] = x
        session.run_with_iobinding(once)
        return kept.copy()

    return {
        "run": lambda x: session.run(["y"], {"x": x})[0],
        "bound": bound,
        "bound, kept outputs": preallocated,
        "bound once, copied in and out": bound_once,
    }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the median microseconds of each way, for each size."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for size, shape in SHAPES.items():
            sides = ways(relu(shape, Path(place)), shape)
            inputs = [np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed in range(8)]
            for run in sides.values():
                assert all(np.array_equal(run(x), np.maximum(x, 0)) for x in inputs)
            found: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(rounds):
                for name, run in sides.items():
                    found[name].append(
                        statistics.median(timed(lambda: run(inputs[turn % 8])) for turn in range(RUNS))  # noqa: B023
                    )
            rows.append({"tensor": size, **{f"{name}, us": statistics.median(times) * 1e6 for name, times in found.items()}})
    return rows


def main() -> None:
    """Measure and write one JSON document, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write the table to stdout, not JSON")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the emitted server does
    rows = measure(arguments.rounds)
    text = serde.dumps({"environment": environment(), "binding": rows})
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(f"{table(rows)}\n" if arguments.markdown else text)


if __name__ == "__main__":
    main()
