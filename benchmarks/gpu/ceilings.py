"""What the GPU can do at best through onnxruntime, and what copies and launches cost: the ends of every roofline."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.gpu.job import Job
from benchmarks.gpu.standin import stand_in_copies
from cutset import serde
from cutset.profilers.child import Failure
from cutset.profilers.ort_child import SessionJob, SessionTime, time_session
from cutset.profilers.transfer import TransferProfile, profile_transfers

CHAIN = 256
GEMM, SMALL_GEMM = 8192, 256
COPY_BYTES, SMALL_COPY_BYTES = 1 << 30, 1 << 22
_ELEMENTS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def ceilings(job: Job) -> dict[str, Any]:
    """Return peak rates of products and copies on the device, the cost of a launch, and copies between host and device."""
    side, size = (SMALL_GEMM, SMALL_COPY_BYTES) if job.device is None else (GEMM, COPY_BYTES)
    square = np.ones((side, side), np.float32) / side
    flops = 2 * side**3
    copied = _seconds(job, [("Neg", "x", "y")], np.ones(size // 4, np.float32))
    long, short = (_seconds(job, _chain(length), np.ones(1, np.float32)) for length in (CHAIN, 1))
    product = [("MatMul", "x x", "y")]
    return {
        "product_side": side,
        "fp32_flops": flops / _seconds(job, product, square).latency.median,
        "tf32_flops": flops / _seconds(job, product, square, tf32=True).latency.median,
        "fp16_flops": flops / _seconds(job, product, square.astype(np.float16)).latency.median,
        "copy_bytes": size,
        "memory_bytes_per_s": 2 * size / copied.latency.median,
        "launch_s": (long.latency.median - short.latency.median) / (CHAIN - 1),
        "smallest_run_s": short.latency.median,
        "state": serde.to_builtins(copied.state),
        "copies": serde.to_builtins(copies(job)),
    }


def copies(job: Job) -> TransferProfile:
    """Return what copies between host and device cost, pageable and pinned.

    Raises:
        RuntimeError: If they cannot be measured; the message says why.
    """
    if job.device is None:
        return stand_in_copies()
    found = profile_transfers(job.device)
    if isinstance(found, Failure):
        raise RuntimeError(f"copies could not be measured: {found.detail}")
    return found


def _chain(length: int) -> list[tuple[str, str, str]]:
    names = ["x", *(f"v{index}" for index in range(1, length)), "y"]
    return [("Neg", source, target) for source, target in itertools.pairwise(names)]


def _seconds(job: Job, nodes: Sequence[tuple[str, str, str]], array: np.ndarray, *, tf32: bool = False) -> SessionTime:
    """Return the time of nodes as they are on one array that lies on the device."""
    element = _ELEMENTS[array.dtype]
    info = [helper.make_tensor_value_info(name, element, list(array.shape)) for name in "xy"]
    made = [helper.make_node(op, reads.split(), [writes], name=writes) for op, reads, writes in nodes]
    graph = helper.make_graph(made, "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(model, str(path))
        asked = SessionJob(model=path, feed={"x": array}, cuda_device=job.device, budget_s=job.measured_s / 2, level="none")
        return time_session(replace(asked, cuda_options={"use_tf32": str(int(tf32))}))
