"""How far modelled costs are from measured ones: calibrated and plain roofline, leaving one model out at a time.

usage: python benchmarks/calibration.py [-o FILE] [--markdown] [--seconds S] [SAMPLE ...]

Every sample is profiled on the CPU of this machine. Its total is then modelled twice, as a GPU's would be that is not
here: by rates fitted to the profiles of all other samples, and from a data sheet of this CPU, whose peaks are a matrix
product, a copy and an empty kernel timed in the same run. What cannot be modelled counts as zero.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from cutset import serde
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.profilers.calibrated import calibrate
from cutset.profilers.datasheets import Datasheet, Link
from cutset.profilers.environment import environment
from cutset.profilers.inputs import collect
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from cutset.profilers.table import CostTable
from cutset.profilers.without_device import datasheet_group
from cutset.sample_models import registry

SAMPLES = tuple(sample.name for sample in registry.SAMPLES.values() if sample.kind == "fetched")
LOW, HIGH = 0.8, 1.25
LARGEST = 12
GEMM_SIZE, COPY_BYTES, CHAIN = 1024, 1 << 28, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Totals of one model over its measured latency, and the share of that latency whose groups cannot be modelled."""

    model: str
    groups: int
    measured_s: float
    calibrated: float
    plain: float
    unmodelled: float

    @property
    def within(self) -> bool:
        """Whether the calibrated total is near enough."""
        return LOW <= self.calibrated <= HIGH


def best_of(call: Callable[[], object], repeats: int = 25) -> float:
    """Return the seconds of the quickest of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def run_seconds(nodes: list[onnx.NodeProto], output: str, shape: list[int]) -> float:
    """Return the seconds of one run of `nodes` on one thread, as they are; they read ``x``."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    array = np.ones(shape, np.float32)
    return best_of(lambda: session.run(None, {"x": array}))


def this_cpu() -> Datasheet:
    """Return a data sheet of one core of this machine, from a matrix product, a copy, and a chain of empty kernels."""
    product_s = run_seconds([helper.make_node("MatMul", ["x", "x"], ["y"])], "y", [GEMM_SIZE, GEMM_SIZE])
    chain = [helper.make_node("Neg", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(CHAIN)]
    launch_s = run_seconds(chain, f"v{CHAIN}", [1]) / CHAIN
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    copy_s = best_of(lambda: np.copyto(target, source))
    flops, bytes_per_s = 2 * GEMM_SIZE**3 / product_s, 2 * COPY_BYTES / copy_s
    return Datasheet(
        id="this-cpu",
        name=f"one core of {environment().cpu}",
        compute_capability="",
        fp32_flops=flops,
        tf32_flops=None,
        fp16_flops=flops,
        bf16_flops=None,
        int8_ops=flops,
        memory_bytes=environment().memory_bytes,
        memory_bytes_per_s=bytes_per_s,
        link=Link(bus="none", h2d_bytes_per_s=bytes_per_s, d2h_bytes_per_s=bytes_per_s, fixed_s=0.0),
        kernel_launch_s=launch_s,
        sources=(),
    )


def measure(name: str, seconds: float) -> tuple[ModelGraph, CostTable]:
    """Return a sample with its measured costs."""
    with tempfile.TemporaryDirectory() as folder:
        written = registry.write(name, Path(folder) / f"{name}.onnx")
        graph = load(written.model)
        inputs = collect(graph.inputs, model=written.model).samples[0]
        return profile(graph, inputs, target=None, options=ProfileOptions(budget_s=seconds))


def compare(name: str, measured: dict[str, tuple[ModelGraph, CostTable]], sheet: Datasheet) -> Row:
    """Return the two modelled totals of one sample over its measured one."""
    graph, table = measured[name]
    fitted = calibrate([other.groups for key, (_, other) in measured.items() if key != name], sheet)
    if fitted is None:
        raise SystemExit("too few samples to fit to")
    total = sum(group.latency_s or 0.0 for group in table.groups)
    plain = [datasheet_group(graph, group, sheet=sheet).latency_s or 0.0 for group in table.groups]
    return Row(
        model=name,
        groups=len(table.groups),
        measured_s=total,
        calibrated=sum(fitted.seconds(group.work) for group in table.groups) / total,
        plain=sum(plain) / total,
        unmodelled=sum(group.latency_s or 0.0 for group in table.groups if not group.work) / total,
    )


def summary(rows: list[Row]) -> dict[str, Any]:
    """Return how many models are near enough: of all, and of the largest, the others being over at once."""
    largest = sorted(rows, key=lambda row: -row.measured_s)[:LARGEST]
    return {
        "bounds": [LOW, HIGH],
        "models": len(rows),
        "within": sum(row.within for row in rows),
        "largest": len(largest),
        "within_of_largest": sum(row.within for row in largest),
        "plain_within": sum(LOW <= row.plain <= HIGH for row in rows),
    }


def markdown(rows: list[Row]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| model | groups | measured | calibrated / measured | plain / measured | cannot be modelled |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.model} | {row.groups} | {row.measured_s * 1e3:.2f} ms | {'' if row.within else '**'}{row.calibrated:.2f}"
        f"{'' if row.within else '**'} | {row.plain:.2f} | {row.unmodelled:.0%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write one JSON document, or the table alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", default=SAMPLES)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write the table to stdout, not JSON")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each repeated measurement")
    arguments = parser.parse_args()
    sheet = this_cpu()
    measured = {name: measure(name, arguments.seconds) for name in arguments.samples}
    rows = [compare(name, measured, sheet) for name in measured]
    result = {
        "environment": environment(),
        "peaks": {
            "flops": sheet.fp32_flops, "bytes_per_s": sheet.memory_bytes_per_s, "launch_s": sheet.kernel_launch_s,
        },
        "summary": summary(rows),
        "models": rows,
    }  # fmt: skip
    text = serde.dumps(result)
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(markdown(rows) if arguments.markdown else text)


if __name__ == "__main__":
    main()
