"""What is declared of CUDA's driver interface, against NVIDIA's own header."""

from __future__ import annotations

import ctypes
import re
import zipfile

import pytest

from cutset.codegen.runtime.backends import cuda
from cutset.profilers import cuda_driver
from tests.unit.codegen.runtime.test_tensorrt import cached_wheel

HEADERS = ("nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-runtime==13.0.96")
PASSED = {
    "int": ctypes.c_int, "CUdevice": ctypes.c_int, "CUdevice_attribute": ctypes.c_int, "CUstreamCaptureMode": ctypes.c_int,
    "CUresult": ctypes.c_int, "unsigned int": ctypes.c_uint, "size_t": ctypes.c_size_t, "CUdeviceptr": ctypes.c_uint64,
    "unsigned long long": ctypes.c_uint64, "char *": ctypes.c_char_p,
}  # fmt: skip
HANDLES = {"CUstream", "CUevent", "CUcontext", "CUgraph", "CUgraphExec"}
CONSTANTS = {
    "CU_STREAM_NON_BLOCKING": cuda._NON_BLOCKING,
    "CU_EVENT_BLOCKING_SYNC": cuda._SLEEP_AND_NO_TIMES & 1,
    "CU_EVENT_DISABLE_TIMING": cuda._SLEEP_AND_NO_TIMES & 2,
    "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": cuda._THREAD_LOCAL,
    "CU_STREAM_CAPTURE_STATUS_NONE": 0,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": cuda._CAPABILITY_MAJOR,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": cuda._CAPABILITY_MINOR,
}


def passed_as(argument: str) -> type:
    """Return how ctypes passes an argument of the header."""
    text = " ".join(argument.replace("const ", " ").replace("*", " * ").split())
    kind = re.fullmatch(r"(.*?)(\w+)", text)
    words = (kind[1] if kind else text).strip()
    if words in PASSED:
        return PASSED[words]
    assert words in HANDLES or words.endswith("*"), words
    return ctypes.c_void_p


@pytest.fixture(scope="module", params=HEADERS)
def header(request):
    with zipfile.ZipFile(cached_wheel(request.param)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/include/cuda.h"))
        text = archive.read(name).decode("utf-8", errors="replace")
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


@pytest.mark.network
@pytest.mark.parametrize("module", [cuda, cuda_driver], ids=["runtime", "profilers"])
def test_signatures_are_those_of_the_header(header, module):
    for name, declared in module._SIGNATURES.items():
        renamed = re.search(rf"#define\s+(\w+)\s+(?:__CUDA_API_PT[DS][SZ]\()?{name}\b", header)
        plain = renamed[1] if renamed else name  # the header declares what is current under a plain name
        found = re.findall(rf"CUresult\s+CUDAAPI\s+{plain}\s*\((.*?)\)\s*;", header, re.DOTALL)
        assert found, name
        assert tuple(passed_as(argument) for argument in found[0].split(",")) == declared, name


@pytest.mark.network
def test_constants_are_those_of_the_header(header):
    for name, value in CONSTANTS.items():
        found = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", header)
        assert found, name
        assert int(found[1], 0) == value, name
    errors = {int(number) for number in re.findall(r"CUDA_ERROR_\w+\s*=\s*(\d+)", header)}
    assert errors >= cuda._FATAL
