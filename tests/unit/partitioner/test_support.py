"""Each rule of the static support table, on real one-node models; the table itself is checked as data."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.load import load
from cutset.partitioner.support import (
    CERTIFIED_SOURCE,
    DEFAULT_SOURCE,
    gpu_support,
    open_questions,
)
from cutset.partitioner.tensorrt_table import TABLE_SOURCE, support_table
from cutset.profilers.capability import Verdict
from tests.support import needs_newest_onnx

FLOAT, DOUBLE, INT64, INT32 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32
UINT8, INT8, BOOL, STRING = TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.STRING
IMAGE = ("x", FLOAT, [1, 3, 8, 8])


def build(tmp_path, nodes, inputs, outputs, weights=None, opset=20):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    domains = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return load(path)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=op, **attributes)


def verdict(tmp_path, *args, **kwargs):
    graph = build(tmp_path, *args, **kwargs)
    return gpu_support(graph)[graph.placeable[-1].name]


SUPPORTED = {
    "conv": ([node("Conv", "xw")], [IMAGE], ("y", FLOAT, None), {"w": np.zeros((4, 3, 3, 3), "f")}),
    "average pool": ([node("AveragePool", "x", kernel_shape=[2, 2])], [IMAGE], ("y", FLOAT, None), {}),
    "resize, constant scales": (
        [node("Resize", ["x", "", "s"], mode="linear")], [IMAGE], ("y", FLOAT, None),
        {"s": np.array([1, 1, 2, 2], "f")},
    ),
    "resize to the size of another tensor": (
        [helper.make_node("Shape", ["z"], ["s"]), node("Resize", ["x", "", "", "s"])],
        [IMAGE, ("z", FLOAT, [1, 3, "h", "w"])], ("y", FLOAT, None), {},
    ),
    "top-k, constant k": ([node("TopK", "xk", "yi")], [("x", FLOAT, [9])], ("y", FLOAT, None), {"k": [3]}),
    "cast from uint8": ([node("Cast", "x", to=FLOAT)], [("x", UINT8, [4])], ("y", FLOAT, [4]), {}),
    "symmetric quantisation": (
        [node("QuantizeLinear", "xsz")], [("x", FLOAT, [4])], ("y", INT8, [4]), {"s": np.float32(1), "z": np.int8(0)},
    ),
    "symmetric dequantisation": (
        [node("DequantizeLinear", "xsz")], [("x", INT8, [4])], ("y", FLOAT, [4]), {"s": np.float32(1), "z": np.int8(0)},
    ),
    "reshape by the shape of a tensor": (
        [helper.make_node("Shape", ["z"], ["s"]), node("Reshape", "xs")],
        [("x", FLOAT, [6]), ("z", FLOAT, ["a", "b"])], ("y", FLOAT, ["a", "b"]), {},
    ),
    "dropout at inference": ([node("Dropout", "xrt")], [("x", FLOAT, [4])], ("y", FLOAT, [4]),
                             {"r": np.float32(0.5), "t": np.array(False)}),
    "integer remainder": ([node("Mod", "xx")], [("x", INT64, [4])], ("y", INT64, [4]), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", SUPPORTED)
def test_supported(tmp_path, case):
    nodes, inputs, output, weights = SUPPORTED[case]
    got = verdict(tmp_path, nodes, inputs, [output], weights)
    assert (got.ok, got.reason) == (True, "")


VECTOR = ("x", FLOAT, [4])
QUANTISED = {"s": np.float32(1), "z": np.int8(3)}
ROIS = [IMAGE, ("r", FLOAT, [2, 4]), ("i", INT64, [2])]
REFUSED = {
    "custom domain": ([node("Blur", "x", domain="my.ops")], [VECTOR], ("y", FLOAT, [4]), {}, "my.ops", CERTIFIED_SOURCE),
    "contributed": ([node("Gelu", "x", domain="com.microsoft")], [VECTOR], ("y", FLOAT, [4]), {}, "com.microsoft",
                    CERTIFIED_SOURCE),
    "machine learning": ([node("Binarizer", "x", domain="ai.onnx.ml")], [VECTOR], ("y", FLOAT, [4]), {}, "plugin",
                         CERTIFIED_SOURCE),
    "random": ([node("RandomNormalLike", "x")], [VECTOR], ("y", FLOAT, [4]), {}, "random", CERTIFIED_SOURCE),
    "untested": ([node("GlobalLpPool", "x")], [IMAGE], ("y", FLOAT, None), {}, "not in the table", TABLE_SOURCE),
    "double": ([node("Relu", "x")], [("x", DOUBLE, [4])], ("y", DOUBLE, [4]), {}, "float32", TABLE_SOURCE),
    "string": ([node("Identity", "x")], [("x", STRING, [4])], ("y", STRING, [4]), {}, "host", TABLE_SOURCE),
    "int16": ([node("Add", "xx")], [("x", TensorProto.INT16, [4])], ("y", TensorProto.INT16, [4]), {}, "int16",
              TABLE_SOURCE),
    "uint8 arithmetic": ([node("Concat", "xx", axis=0)], [("x", UINT8, [4])], ("y", UINT8, [8]), {}, "Cast",
                         TABLE_SOURCE),
    "nine dimensions": ([node("Relu", "x")], [("x", FLOAT, [1] * 9)], ("y", FLOAT, [1] * 9), {}, "9 dim", TABLE_SOURCE),
    "non-zero": ([node("NonZero", "x")], [VECTOR], ("y", INT64, [1, "n"]), {}, "depends on the data", DEFAULT_SOURCE),
    "region pooling": ([node("RoiAlign", "xri")], ROIS, ("y", FLOAT, None), {}, "depends on the data", DEFAULT_SOURCE),
    "run-time k": ([node("TopK", "xk", "yi")], [("x", FLOAT, [9]), ("k", INT64, [1])], ("y", FLOAT, None), {},
                   "K of TopK", DEFAULT_SOURCE),
    "large k": ([node("TopK", "xk", "yi")], [("x", FLOAT, [9000])], ("y", FLOAT, None), {"k": [3841]}, "3840",
                TABLE_SOURCE),
    "run-time reshape": ([node("Reshape", "xs")], [VECTOR, ("s", INT64, [2])], ("y", FLOAT, None), {}, "`s`",
                         DEFAULT_SOURCE),
    "run-time sizes": ([node("Resize", ["x", "", "", "s"])], [IMAGE, ("s", INT64, [4])], ("y", FLOAT, None), {}, "`s`",
                       DEFAULT_SOURCE),
    "antialias": ([node("Resize", ["x", "", "s"], antialias=1, mode="linear")], [IMAGE], ("y", FLOAT, None),
                  {"s": np.array([1, 1, 0.5, 0.5], "f")}, "Antialiasing", TABLE_SOURCE),
    "symmetric half pixels": (
        [node("Resize", ["x", "", "s"], coordinate_transformation_mode="half_pixel_symmetric")], [IMAGE],
        ("y", FLOAT, None), {"s": np.array([1, 1, 2, 2], "f")}, "half_pixel_symmetric", TABLE_SOURCE,
    ),
    "crop and resize": (
        [node("Resize", ["x", "r", "s"], coordinate_transformation_mode="tf_crop_and_resize")], [IMAGE],
        ("y", FLOAT, None), {"r": np.zeros(8, "f"), "s": np.array([1, 1, 2, 2], "f")}, "tf_crop", TABLE_SOURCE,
    ),
    "aspect ratio": (
        [node("Resize", ["x", "", "", "s"], keep_aspect_ratio_policy="not_larger")], [IMAGE], ("y", FLOAT, None),
        {"s": [1, 3, 4, 6]}, "stretch", TABLE_SOURCE,
    ),
    "dilated pooling": ([node("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 2])], [IMAGE], ("y", FLOAT, None),
                        {}, "dilations", TABLE_SOURCE),
    "pooling indices": ([node("MaxPool", "x", "yi", kernel_shape=[2, 2])], [IMAGE], ("i", INT64, None), {}, "output",
                        TABLE_SOURCE),
    "training": ([node("BatchNormalization", "xabcd", "ymv", training_mode=1)], [IMAGE], ("y", FLOAT, None),
                 {n: np.ones(3, "f") for n in "abcd"}, "training_mode", TABLE_SOURCE),
    "dropout in training": ([node("Dropout", "xrt")], [VECTOR], ("y", FLOAT, [4]),
                            {"r": np.float32(0.5), "t": np.array(True)}, "random", CERTIFIED_SOURCE),
    "asymmetric": ([node("QuantizeLinear", "xsz")], [VECTOR], ("y", INT8, [4]), QUANTISED, "zero point", TABLE_SOURCE),
    "asymmetric back": ([node("DequantizeLinear", "xsz")], [("x", INT8, [4])], ("y", FLOAT, [4]), QUANTISED,
                        "zero point", TABLE_SOURCE),
    "uint8 quantisation": ([node("QuantizeLinear", "xsz")], [VECTOR], ("y", UINT8, [4]),
                           {"s": np.float32(1), "z": np.uint8(0)}, "symmetric int8", TABLE_SOURCE),
    "zero point of the run": ([node("DequantizeLinear", "xsz")], [("x", INT8, [4]), ("z", INT8, [])], ("y", FLOAT, [4]),
                              {"s": np.float32(1)}, "zero point", TABLE_SOURCE),
    "dynamic quantisation": ([node("DynamicQuantizeLinear", "x", "ysz")], [VECTOR], ("y", UINT8, [4]), {},
                             "no importer", TABLE_SOURCE),
    "integer product": ([node("MatMulInteger", "xx")], [("x", INT8, [2, 2])], ("y", INT32, [2, 2]), {}, "no importer",
                        TABLE_SOURCE),
    "matmul of integers": ([node("MatMul", "xx")], [("x", INT32, [2, 2])], ("y", INT32, [2, 2]), {}, "int32",
                           TABLE_SOURCE),
    "reduction of booleans": ([node("ReduceMax", "x")], [("x", BOOL, [4])], ("y", BOOL, [1]), {}, "bool", TABLE_SOURCE),
    "float remainder": ([node("Mod", "xx")], [VECTOR], ("y", FLOAT, [4]), {}, "fmod", TABLE_SOURCE),
    "adding scatter": (
        [node("ScatterND", "xiu", reduction="add")], [VECTOR, ("u", FLOAT, [1])], ("y", FLOAT, [4]), {"i": [[1]]},
        "reduction", TABLE_SOURCE,
    ),
    "high norm pooling": ([node("LpPool", "x", kernel_shape=[2, 2], p=3)], [IMAGE], ("y", FLOAT, None), {}, "L1 and L2",
                          TABLE_SOURCE),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_reason(tmp_path, case):
    nodes, inputs, output, weights, reason, source = REFUSED[case]
    opset = 22 if case == "reduction of booleans" else 20
    got = verdict(tmp_path, nodes, inputs, [output], weights, opset=opset)
    assert not got.ok
    assert reason in got.reason
    assert "\n" not in got.reason
    assert got.source == source


def test_sequences_are_refused(tmp_path):
    nodes = [
        node("SequenceConstruct", "x", "s"),
        helper.make_node("SequenceAt", ["s", "i"], ["y"], name="at"),
    ]
    graph = build(tmp_path, nodes, [VECTOR], [("y", FLOAT, [4])], {"i": np.array(0)})
    assert {name: got.ok for name, got in gpu_support(graph).items()} == {"SequenceConstruct": False, "at": False}


def test_control_flow_is_refused_and_its_surroundings_are_not(tmp_path):
    branch = [
        helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [helper.make_tensor_value_info(op, FLOAT, [4])])
        for op in ("Relu", "Abs")
    ]
    nodes = [node("If", "c", "z", then_branch=branch[0], else_branch=branch[1]), node("Neg", "z")]
    got = gpu_support(build(tmp_path, nodes, [("c", BOOL, []), VECTOR], [("y", FLOAT, [4])]))
    assert (got["If"].ok, got["Neg"].ok) == (False, True)
    assert "control flow" in got["If"].reason


def test_constant_nodes_have_no_verdict(tmp_path):
    nodes = [node("Cast", "w", "v", to=FLOAT), node("Add", "xv")]
    graph = build(tmp_path, nodes, [VECTOR], [("y", FLOAT, [4])], {"w": np.zeros(4, np.float64)})
    assert gpu_support(graph) == {"Add": gpu_support(graph)["Add"]}
    assert gpu_support(graph)["Add"].ok


def test_a_type_that_only_a_run_shows_is_refused_until_then(tmp_path):
    nodes = [node("Blur", "x", "z", domain="my.ops"), node("Relu", "z")]
    graph = build(tmp_path, nodes, [VECTOR], [("y", FLOAT, [4])])
    assert "not known" in gpu_support(graph)["Relu"].reason
    assert gpu_support(graph.with_measured({"z": (4,)}, {"z": "float32"}))["Relu"].ok


def test_the_table_is_whole():
    table = support_table()
    assert len(table) == 197
    assert {row.verdict for row in table.values()} == {"supported", "partial", "rejected", "unknown"}
    for name, row in table.items():
        assert 0 <= row.passed <= row.tests, name
        assert row.verdict not in {"rejected", "unknown", "partial"} or row.reason, name


@needs_newest_onnx
def test_every_operator_of_the_table_exists_in_onnx():
    table = support_table()
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert {name.split("::")[-1] for name in table} <= known


def test_a_library_is_asked_after_policy_and_before_the_table(tmp_path):
    nodes = [node("Erf", "x", "e"), node("NonZero", "e", "n"), node("Relu", "e")]
    graph = build(tmp_path, nodes, [VECTOR], [("y", FLOAT, [4]), ("n", INT64, None)])
    assert open_questions(graph) == ["Erf", "Relu"]
    takes = Verdict(ok=True, reason="", source="TensorRT 99")
    verdicts = {"Erf": Verdict(ok=False, reason="no", source="TensorRT 99"), "Relu": takes}
    got = gpu_support(graph, verdicts)
    assert {name: (one.ok, one.reason, one.source) for name, one in got.items() if name != "NonZero"} == {
        "Erf": (False, "no", "TensorRT 99"), "Relu": (True, "", "TensorRT 99"),
    }  # fmt: skip
    assert got["NonZero"].source == DEFAULT_SOURCE
    assert open_questions(graph, {"NonZero"}) == ["Erf", "NonZero", "Relu"], "a pin to the GPU overrules the default"
    insisted = gpu_support(graph, {"NonZero": takes}, {"NonZero"})
    assert insisted["NonZero"].ok
