"""What onnxruntime's CUDA provider takes: the list of its kernels, on real one-node models, and what a GPU was seen to run."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from cutset.partitioner.cuda_kernels import cuda_source, kernel_list
from cutset.partitioner.support import CERTIFIED_SOURCE, DEFAULT_SOURCE, SEEN_SOURCE, cuda_support
from tests.unit.partitioner.test_support import IMAGE, VECTOR, build, node

TOOL = Path(__file__).parents[3] / "tools" / "write_cuda_kernels.py"
FLOAT, DOUBLE, INT64, INT32 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32
UINT8, INT8, BOOL, STRING = TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.STRING
SEQUENCE = ("x", FLOAT, [4, 1, 8])
RECURRENT = {"w": np.zeros((1, 24, 8), "f"), "r": np.zeros((1, 24, 8), "f")}
SCALES = {"s": np.array([1, 2, 2, 1], "f")}
HIDDEN = ("x", FLOAT, [1, 4, 8])


def verdict(tmp_path, nodes, inputs, output, weights, *, opset=20):
    types = {value: spec for value, *spec in [output]}
    graph = build(tmp_path, nodes, inputs, [output], weights, opset=opset)
    kinds = {name: onnx.helper.tensor_dtype_to_np_dtype(kind).name for name, (kind, _) in types.items() if kind != STRING}
    return cuda_support(graph.with_measured({}, kinds))[graph.placeable[-1].name]


TAKEN = {
    "a convolution": ([node("Conv", "xw")], [IMAGE], ("y", FLOAT, None), {"w": np.zeros((4, 3, 3, 3), "f")}),
    "float64": ([node("Erf", "x")], [("x", DOUBLE, [4])], ("y", DOUBLE, [4]), {}),
    "moved uint8": ([node("Concat", "xx", axis=0)], [("x", UINT8, [4])], ("y", UINT8, [8]), {}),
    "a resize of uint8": ([node("Resize", ["x", "", "s"])], [("x", UINT8, [1, 8, 8, 3])], ("y", UINT8, None), SCALES),
    "a crop and resize": (
        [node("Resize", ["x", "r", "s"], coordinate_transformation_mode="tf_crop_and_resize")], [IMAGE],
        ("y", FLOAT, None), {"r": np.zeros(8, "f"), **SCALES},
    ),
    "asymmetric quantisation": (
        [node("QuantizeLinear", "xsz")], [VECTOR], ("y", UINT8, [4]), {"s": np.float32(1), "z": np.uint8(117)},
    ),
    "a fused operator of onnxruntime": (
        [node("SkipLayerNormalization", "xxg", domain="com.microsoft")], [HIDDEN], ("y", FLOAT, [1, 4, 8]),
        {"g": np.ones(8, "f")},
    ),
    "attention of onnxruntime": (
        [node("MultiHeadAttention", "xxx", domain="com.microsoft", num_heads=2)], [HIDDEN], ("y", FLOAT, [1, 4, 8]), {},
    ),
    "shapes of the run": ([node("Reshape", "xs")], [VECTOR, ("s", INT64, [2])], ("y", FLOAT, None), {}),
    "many dimensions": ([node("Relu", "x")], [("x", FLOAT, [1] * 9)], ("y", FLOAT, [1] * 9), {}),
    "an operator that becomes others": ([node("Mish", "x")], [VECTOR], ("y", FLOAT, [4]), {}),
    "a GRU as cuDNN has it": ([node("GRU", "xwr", hidden_size=8, linear_before_reset=1)], [SEQUENCE], ("y", FLOAT, None),
                              RECURRENT),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_taken(tmp_path, case):
    got = verdict(tmp_path, *TAKEN[case])
    assert (got.ok, got.reason, got.source) == (True, "", cuda_source())


LSTM = {"w": np.zeros((1, 32, 8), "f"), "r": np.zeros((1, 32, 8), "f"), "p": np.zeros((1, 24), "f")}
REFUSED = {
    "no kernel": ([node("DynamicQuantizeLinear", "x", "ysz")], [VECTOR], ("y", UINT8, [4]), {},
                  "no kernel of DynamicQuantizeLinear (onnxruntime 1.21.0"),
    "no kernel of onnxruntime's own": (
        [node("QLinearAdd", ["x", "s", "z", "x", "s", "z", "s", "z"], domain="com.microsoft")], [("x", UINT8, [4])],
        ("y", UINT8, [4]), {"s": np.float32(1), "z": np.uint8(1)}, "no kernel of com.microsoft::QLinearAdd",
    ),
    "no kernel for the type": ([node("MatMul", "xx")], [("x", INT32, [2, 2])], ("y", INT32, [2, 2]), {},
                               "no kernel of MatMul for int32 (`x`)"),
    "no kernel for the type of an output": (
        [node("QuantizeLinear", "xsz")], [VECTOR], ("y", TensorProto.UINT16, [4]),
        {"s": np.float32(1), "z": np.uint16(0)}, "for uint16",
    ),
    "unsigned integer products": (
        [node("MatMulInteger", "xw")], [("x", UINT8, [2, 2])], ("y", INT32, [2, 2]), {"w": np.zeros((2, 2), np.int8)},
        "MatMulInteger for uint8",
    ),
    "attention in float64": (
        [node("MultiHeadAttention", "xxx", domain="com.microsoft", num_heads=2)], [("x", DOUBLE, [1, 4, 8])],
        ("y", DOUBLE, [1, 4, 8]), {}, "for float64",
    ),
    "strings": ([node("Identity", "x")], [("x", STRING, [4])], ("y", STRING, [4]), {}, "never leave the host"),
    "trees": ([node("Binarizer", "x", domain="ai.onnx.ml")], [VECTOR], ("y", FLOAT, [4]), {},
              "no kernel of ai.onnx.ml::Binarizer"),
    "a GRU as ONNX has it": ([node("GRU", "xwr", hidden_size=8)], [SEQUENCE], ("y", FLOAT, None), RECURRENT,
                             "linear_before_reset 0"),
    "a clipped LSTM": ([node("LSTM", "xwr", hidden_size=8, clip=1.0)], [SEQUENCE], ("y", FLOAT, None), LSTM, "clip"),
    "peepholes": ([node("LSTM", ["x", "w", "r", "", "", "", "", "p"], hidden_size=8)], [SEQUENCE], ("y", FLOAT, None), LSTM,
                  "peephole"),
    "other activations": ([node("LSTM", "xwr", hidden_size=8, activations=["Relu", "Tanh", "Tanh"])], [SEQUENCE],
                          ("y", FLOAT, None), LSTM, "activations relu"),
    "uneven pads": ([node("ConvTranspose", "xw", pads=[0, 0, 1, 1])], [IMAGE], ("y", FLOAT, None),
                    {"w": np.zeros((3, 4, 3, 3), "f")}, "differ between the ends"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_reason(tmp_path, case):
    *what, reason = REFUSED[case]
    got = verdict(tmp_path, *what)
    assert not got.ok
    assert reason in got.reason
    assert "\n" not in got.reason
    assert got.source == cuda_source()


@pytest.mark.parametrize(
    ("op", "opset", "taken"),
    [("Pad", 18, True), ("Pad", 19, False), ("Relu", 20, True), ("Conv", 11, True), ("Conv", 22, True), ("Reshape", 21, True)],
)
def test_a_kernel_computes_the_versions_it_was_registered_for_and_no_later_one(tmp_path, op, opset, taken):
    """An open end is the version it begins with: onnxruntime takes it for nothing that a later opset changed."""
    weights = {"Pad": {"w": np.zeros(8, np.int64)}, "Conv": {"w": np.zeros((4, 3, 3, 3), "f")},
               "Reshape": {"w": np.array([-1])}, "Relu": {}}[op]  # fmt: skip
    got = verdict(tmp_path, [node(op, "xw" if weights else "x")], [IMAGE], ("y", FLOAT, None), weights, opset=opset)
    assert got.ok is taken
    assert taken or f"as opset {opset} has it" in got.reason


def test_antialias_of_8_bits_with_channels_last_was_seen_to_fail(tmp_path):
    nodes = [node("Resize", ["x", "", "s"], antialias=1, mode="linear")]
    for shape, scales, taken in (([1, 8, 8, 3], [1, 2, 2, 1], False), ([1, 3, 8, 8], [1, 1, 2, 2], True)):
        graph = build(tmp_path, nodes, [("x", UINT8, shape)], [("y", UINT8, None)], {"s": np.array(scales, "f")})
        out = tuple(int(size * scale) for size, scale in zip(shape, scales, strict=True))
        got = cuda_support(graph.with_measured({"x": tuple(shape), "y": out}, {"y": "uint8"}))["Resize"]
        assert got.ok is taken, got.reason


def test_what_a_gpu_was_seen_to_run_is_taken_whatever_the_list_says(tmp_path):
    nodes = [node("DynamicQuantizeLinear", "x", "qsz"), node("NonZero", "x", "n"), node("RandomNormalLike", "x")]
    outputs = [("q", UINT8, [4]), ("n", INT64, None), ("y", FLOAT, [4])]
    graph = build(tmp_path, nodes, [VECTOR], outputs)
    cold, warm = cuda_support(graph), cuda_support(graph, seen=[one.name for one in graph.nodes])
    assert [one.source for one in cold.values()] == [cuda_source(), DEFAULT_SOURCE, CERTIFIED_SOURCE]
    assert [(one.ok, one.source) for one in warm.values()] == [
        (True, SEEN_SOURCE), (True, SEEN_SOURCE), (False, CERTIFIED_SOURCE),
    ]  # fmt: skip


def test_pins_overrule_the_defaults(tmp_path):
    nodes = [node("NonZero", "x", "n"), node("Blur", "x", domain="my.ops")]
    graph = build(tmp_path, nodes, [VECTOR], [("n", INT64, None), ("y", FLOAT, [4])])
    graph = graph.with_measured({}, {"y": "float32"})
    assert [one.source for one in cuda_support(graph).values()] == [DEFAULT_SOURCE, DEFAULT_SOURCE]
    assert all(one.ok for one in cuda_support(graph, insisted=["NonZero", "Blur"]).values())


def test_the_list_is_whole():
    listed = kernel_list()
    assert len(listed.kernels) > 200
    assert "1.21.0" in listed.version
    types = {name.lower() for name, _ in TensorProto.DataType.items()}
    types |= {"float32", "float64"}
    for name, kernels in listed.kernels.items():
        assert name.split("::")[0] in {"ai.onnx", "com.microsoft"}
        firsts = [kernel.first for kernel in kernels]
        assert len(firsts) == len(set(firsts)), name
        for kernel in kernels:
            assert kernel.last is None or kernel.first <= kernel.last, name
            assert {dtype for allowed in kernel.types.values() for dtype in allowed} <= types, name


LIST = """
## Operators implemented by CPUExecutionProvider
|**Operator Domain:** *ai.onnx*||||
|Celu|*in* X:**T**<br> *out* Y:**T**|12+|**T** = tensor(float)|
## Operators implemented by CUDAExecutionProvider
|**Operator Domain:** *ai.onnx*||||
|Neg|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(double), tensor(float16)|
|||[6, 12]|**T** = tensor(float), seq(tensor(float))|
|**Operator Domain:** *com.microsoft*||||
|Both|*in* a:**T**<br> *in* b:**M**<br> *out* c:**T**<br><br>or<br><br>|1+|**M** = tensor(int8)<br/> **T** = tensor(float)|
## Operators implemented by DmlExecutionProvider
|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(float)|
"""


def test_the_list_is_read_as_onnxruntime_writes_it():
    spec = importlib.util.spec_from_file_location("write_cuda_kernels", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    later = LIST.replace("|13+|", "|[13, 24]|").replace("[6, 12]", "25+")
    found = tool.merged([LIST, later])
    assert {name: [tool.compact(name, kernel) for kernel in kernels] for name, kernels in found.items()} == {
        "ai.onnx::Neg": [
            [25, None, {"T": "float32"}], [13, 24, {"T": "float16 float64"}], [6, 12, {"T": "float32"}],
        ],
        "com.microsoft::Both": [[1, None, {"M": "int8", "T": "float32"}, "T M", "T"]],
    }  # fmt: skip
    assert "Celu" not in tool.expanded([LIST], found), "the CPU has a kernel of it"
