"""Which backend is chosen for which GPU and which libraries."""

import importlib.util

import pytest

from cutset.errors import UnavailableError
from cutset.profilers import gpu_backend
from cutset.profilers.child import Failure
from cutset.profilers.gpu_backend import Gpu, choose_backend
from cutset.profilers.tensorrt_library import LibraryInfo

FULL = LibraryInfo(version="11.4", compute_capabilities=())
RTX = LibraryInfo(version="1.7", compute_capabilities=("7.5", "8.0", "8.6", "8.9", "12.0"))
MISSING = Failure(kind="raised", detail="tensorrt cannot be used: No module named 'tensorrt'")
NO_BUILDER = LibraryInfo(version="11.4", compute_capabilities=(), failure="CUDA initialization failure with error: 35")
BROKEN = Failure(kind="raised", detail="tensorrt cannot be used: libnvinfer.so.11: cannot open shared object file")
HERE = Gpu(name="L4", compute_capability="8.9", here=True)
T4, L4, H100 = (Gpu(name=name, compute_capability=sm) for name, sm in (("T4", "7.5"), ("L4", "8.9"), ("H100", "9.0")))


@pytest.fixture
def libraries(monkeypatch):
    def install(full, rtx):
        found = {"tensorrt": full, "tensorrt_rtx": rtx}
        monkeypatch.setattr(gpu_backend, "run_in_child", lambda _function, module, limits: found[module])

    return install


@pytest.mark.parametrize(
    ("request_", "gpu", "installed", "expected"),
    [
        ("auto", HERE, (FULL, RTX), ("tensorrt", "", False)),
        ("auto", HERE, (MISSING, RTX), ("tensorrt-rtx", "", False)),
        ("auto", HERE, (NO_BUILDER, RTX), ("tensorrt-rtx", "", False)),
        ("tensorrt", T4, (NO_BUILDER, MISSING), ("tensorrt", None, False)),
        ("auto", HERE, (MISSING, MISSING), ("onnxruntime-cuda", None, False)),
        ("auto", T4, (FULL, RTX), ("tensorrt", "8.0", True)),
        ("auto", L4, (FULL, RTX), ("tensorrt-rtx", "8.9", False)),
        ("auto", Gpu(), (MISSING, RTX), ("tensorrt-rtx", "8.0", False)),
        ("auto", H100, (MISSING, RTX), ("tensorrt", "8.9", True)),
        ("auto", T4, (FULL, MISSING), ("onnxruntime-cuda", None, False)),
        ("tensorrt", T4, (FULL, RTX), ("tensorrt", "8.0", True)),
        ("tensorrt", T4, (FULL, MISSING), ("tensorrt", None, False)),
        ("tensorrt-rtx", T4, (MISSING, RTX), ("tensorrt-rtx", "7.5", False)),
        ("onnxruntime-cuda", T4, (FULL, RTX), ("onnxruntime-cuda", None, False)),
    ],
)
def test_choices(libraries, request_, gpu, installed, expected):
    libraries(*installed)
    name, asked, proxy = expected
    found = choose_backend(request_, gpu)
    assert (found.name, found.proxy) == (name, proxy)
    assert (None if found.oracle is None else found.oracle.compute_capability) == asked
    assert bool(found.notice) == (proxy or (asked is None and request_ != "onnxruntime-cuda"))


@pytest.mark.parametrize(
    ("request_", "gpu", "full", "rtx", "words"),
    [
        ("tensorrt", T4, MISSING, RTX, "pip install 'cutset"),
        ("tensorrt", T4, BROKEN, RTX, "force-reinstall tensorrt"),
        ("tensorrt", HERE, NO_BUILDER, RTX, "CUDA initialization failure"),
        ("tensorrt-rtx", T4, FULL, MISSING, "pip install 'cutset"),
        ("tensorrt-rtx", H100, FULL, RTX, "H100 (compute capability 9.0)"),
    ],
)
def test_what_cannot_be_used_names_the_cure(libraries, request_, gpu, full, rtx, words):
    libraries(full, rtx)
    with pytest.raises(UnavailableError) as caught:
        choose_backend(request_, gpu)
    assert words in str(caught.value)
    assert "--gpu-backend auto" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_installed_library_answers():
    found = choose_backend("auto", L4)
    assert found.oracle is not None
    assert (found.name, found.oracle.compute_capability) == ("tensorrt-rtx", "8.9")
