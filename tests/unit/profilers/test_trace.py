"""Kernel events of a trace as onnxruntime writes it."""

import json

import pytest

from cutset.errors import ProfileError
from cutset.profilers.trace import KernelEvent, read_trace


def line(name, *, cat="Node", dur=7, **args):
    return json.dumps({"cat": cat, "pid": 1, "tid": 1, "dur": dur, "ts": 3, "ph": "X", "name": name, "args": args}) + ","


def test_kernels_alone_are_read(tmp_path):
    trace = tmp_path / "trace.json"
    lines = [
        "[",
        line("model_run", cat="Session"),
        line("n0_fence_before", provider="CUDAExecutionProvider"),
        line("n0_kernel_time", provider="CUDAExecutionProvider", op_name="Conv"),
        line("n1_kernel_time", dur=1500, provider="CPUExecutionProvider"),
        line("cudnn_kernel_time", cat="Kernel"),
        "]",
    ]
    trace.write_text("\n".join(lines))
    assert read_trace(trace) == [
        KernelEvent(name="n0", provider="CUDAExecutionProvider", seconds=7e-6),
        KernelEvent(name="n1", provider="CPUExecutionProvider", seconds=1.5e-3),
    ]


def test_a_torn_line_is_an_error(tmp_path):
    trace = tmp_path / "trace.json"
    trace.write_text('[\n{"cat": "Node", "name": "n0_kernel_time", "du')
    with pytest.raises(ProfileError, match="cannot be read"):
        read_trace(trace)
