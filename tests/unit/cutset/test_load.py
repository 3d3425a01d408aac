"""Files that exporters really write load; broken and hostile ones are refused in one sentence, never with a traceback."""

import os
import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.errors import ModelError, UnavailableError
from cutset.graph import load as load_module
from cutset.graph.external_data import read_whole
from cutset.graph.extract import extract
from cutset.graph.load import load, with_operators

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
X, Y = ("x", FLOAT, [4]), ("y", FLOAT, [4])


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def refusal(path):
    with pytest.raises(ModelError) as caught:
        load(path)
    return caught.value


# What is not a model


@pytest.mark.parametrize("name", ["absent.onnx", "x" * 300, "nul\0.onnx", "file/inside.onnx"])
def test_a_path_without_a_file(tmp_path, name):
    (tmp_path / "file").touch()
    error = refusal(str(tmp_path / name))
    assert error.what.startswith(("there is no file", f"{tmp_path}"))


def test_a_folder(tmp_path):
    assert "is a folder" in refusal(tmp_path).what


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"import torch\n",
        b"hello " * 500,
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"PK\x03\x04" + bytes(64),
        b'{"schema": 1}',
        bytes(1000),
        "caf\u00e9 ".encode() * 30,
    ],
    ids=["empty", "newline", "python", "text", "png", "zip", "json", "zeros", "utf8"],
)
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    error = refusal(path)
    assert str(path) in error.what
    assert "truncated" in error.hint


def test_a_truncated_model_never_escapes_as_another_error(tmp_path, if_path):
    whole = if_path.read_bytes()
    path = tmp_path / "cut.onnx"
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        refusal(path)


def test_damaged_bytes_are_refused_or_read_but_never_a_traceback(tmp_path, if_path):
    whole = if_path.read_bytes()
    path = tmp_path / "damaged.onnx"
    rng = random.Random(1)
    refused = 0
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except ModelError:
            refused += 1
    assert refused > 100


def test_no_operator_set(tmp_path, if_path):
    model = onnx.load(if_path)
    del model.opset_import[:]
    onnx.save(model, tmp_path / "m.onnx")
    assert "names no operator set" in refusal(tmp_path / "m.onnx").what


# Graphs that are none


def test_a_cycle(save_model):
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Abs", ["b"], ["y"])]
    assert "has a cycle" in refusal(save_model(nodes, [X], [Y])).what


def test_a_value_that_nothing_writes(save_model):
    error = refusal(save_model([node("Add", ["x", "ghost"], ["y"], name="sum")], [X], [Y]))
    assert error.what == "node `sum` reads `ghost`, which nothing writes"


def test_a_value_that_nothing_writes_inside_a_body(save_model):
    body = helper.make_graph(
        [node("Neg", ["ghost"], ["q"], name="inner")], "b", [], [helper.make_tensor_value_info("q", FLOAT, [4])]
    )
    path = save_model([node("If", ["c"], ["y"], then_branch=body, else_branch=body)], [("c", BOOL, [])], [Y])
    assert "reads `ghost`, which nothing writes" in refusal(path).what


def test_an_output_that_nothing_writes(save_model):
    assert refusal(save_model([node("Relu", ["x"], ["z"])], [X], [Y])).what == "graph output `y` is written by no node"


def test_a_value_written_twice(save_model):
    error = refusal(save_model([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])], [X], [Y]))
    assert "not a valid ONNX model" in error.what
    assert "'y'" in error.cause


def test_two_inputs_of_one_name(save_model):
    assert refusal(save_model([node("Relu", ["x"], ["y"])], [X, X], [Y])).what == "two graph inputs are called `x`"


def test_a_weight_without_a_type(save_model, tmp_path):
    model = onnx.load(save_model([node("Add", ["x", "w"], ["y"])], [X], [Y], {"w": np.ones(4, np.float32)}))
    model.graph.initializer[0].data_type = 0
    onnx.save(model, tmp_path / "m.onnx")
    error = refusal(tmp_path / "m.onnx")
    assert (error.what, "`w`" in error.where) == ("a weight has no element type", True)


# External data


def external(path, location, *, length=16, in_constant=False):
    """Save x + w, whose w lies in another file."""
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    nodes = [node("Add", ["x", "w"], ["y"], name="sum")]
    if in_constant:
        nodes.insert(0, node("Constant", [], ["w"], value=tensor, name="held"))
    infos = [helper.make_tensor_value_info(*value) for value in (X, Y)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [] if in_constant else [tensor])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize("in_constant", [False, True], ids=["initializer", "attribute"])
@pytest.mark.parametrize("case", ["missing", "parent", "absolute", "symlink", "short", "folder", "zero", "long"])
def test_external_data_that_is_refused(tmp_path, case, in_constant):
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(16))
    location, what = {
        "missing": ("w.bin", "is missing"),
        "parent": ("../secret.bin", "lies outside the model's folder"),
        "absolute": (str(secret), "lies outside the model's folder"),
        "symlink": ("link.bin", "lies outside the model's folder"),
        "short": ("short.bin", "is too short"),
        "folder": ("sub", "is missing"),
        "zero": ("a\0b", "a name that no file can have"),
        "long": ("l" * 300, ""),
    }[case]
    (folder / "link.bin").symlink_to(secret)
    (folder / "short.bin").write_bytes(bytes(15))
    (folder / "sub").mkdir()
    error = refusal(external(folder / "m.onnx", location, in_constant=in_constant))
    assert what in error.what
    assert location in error.what or case in {"zero", "long"}
    assert ("node `held`, attribute `value`" if in_constant else "initializer `w`") in error.where


@pytest.mark.parametrize("in_constant", [False, True], ids=["initializer", "attribute"])
def test_external_data_beside_the_model_counts_for_the_digest(tmp_path, in_constant):
    path = external(tmp_path / "m.onnx", "w.bin", in_constant=in_constant)
    (tmp_path / "w.bin").write_bytes(np.ones(4, np.float32).tobytes())
    first = load(path)
    (tmp_path / "w.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    second = load(path)
    assert first.sha256 == second.sha256
    assert len({first.digest, second.digest, first.sha256}) == 3


@pytest.fixture
def hub_path(tmp_path):
    """Return a model of a hub's cache: it and its weights are links into a folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs / "aaa111", "m.onnx_data")
    (blobs / "bbb222").write_bytes(np.full(4, 3, np.float32).tobytes())
    for name, blob in (("m.onnx", "aaa111"), ("m.onnx_data", "bbb222")):
        (snapshot / name).symlink_to(f"../../../blobs/{blob}")
    return snapshot / "m.onnx"


def test_weights_beside_the_file_that_a_link_leads_to(hub_path):
    graph = load(hub_path)
    assert graph.files == (hub_path, hub_path.resolve().with_name("bbb222"))
    part = extract(graph, ["x"], ["y"], name="part")
    assert numpy_helper.to_array(part.graph.initializer[0]).tolist() == [3, 3, 3, 3]
    whole = read_whole(hub_path)
    assert numpy_helper.to_array(whole.graph.initializer[0]).tolist() == [3, 3, 3, 3]
    onnx.checker.check_model(whole)


def test_weights_elsewhere_than_the_file_that_a_link_leads_to(hub_path, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (hub_path.parent / "m.onnx_data").unlink()
    (hub_path.parent / "m.onnx_data").symlink_to(tmp_path / "secret.bin")
    assert "lies outside the model's folder" in refusal(hub_path).what


@pytest.mark.parametrize("in_constant", [False, True], ids=["initializer", "attribute"])
def test_weights_with_a_second_hard_link(tmp_path, in_constant):
    path = external(tmp_path / "m.onnx", "w.bin", in_constant=in_constant)
    (tmp_path / "w.bin").write_bytes(np.full(4, 3, np.float32).tobytes())
    os.link(tmp_path / "w.bin", tmp_path / "backup.bin")
    part = extract(load(path), ["x"], ["y"], name="part")
    feeds = {"x": np.ones(4, np.float32)}
    (answer,) = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert answer.tolist() == [4, 4, 4, 4]


# Quirks of real files


def test_an_old_file_lists_its_weights_as_inputs(save_model):
    inputs = [("x", FLOAT, [2, 4]), ("w", FLOAT, [4, 3])]
    path = save_model(
        [node("MatMul", ["x", "w"], ["y"])], inputs, [("y", FLOAT, [2, 3])], {"w": np.ones((4, 3), np.float32)},
        ir_version=3, opsets={"": 8},
    )  # fmt: skip
    graph = load(path)
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert graph.initializers == {"w"}
    assert graph.source.ir_version >= 8
    assert graph.shape("w") == (4, 3)


def test_unnamed_and_repeated_node_names_become_unique_in_bodies_too(save_model):
    def body(label):
        infos = [helper.make_tensor_value_info("q", FLOAT, [4])]
        return helper.make_graph([node("Neg", ["x"], ["p"], name="same"), node("Abs", ["p"], ["q"])], label, [], infos)

    nodes = [
        node("Relu", ["x"], ["a"], name="same"),
        node("Relu", ["a"], ["b"], name="same"),
        node("Relu", ["b"], ["d"]),
        node("Relu", ["d"], ["e"], name="Relu_2"),
        node("If", ["c"], ["y"], then_branch=body("t"), else_branch=body("f")),
    ]
    graph = load(save_model(nodes, [X, ("c", BOOL, [])], [Y]))
    every = [str(found.name) for found in graph.source.graph.all_nodes()]
    assert len(every) == 9
    assert len(set(every)) == 9
    assert "" not in every
    assert [found.name for found in graph.nodes if found.name in {"same", "Relu_2"}] == ["same", "Relu_2"]
    assert set(graph.ir_nodes) == {found.name for found in graph.nodes}


def test_naming_is_repeatable(save_model):
    path = save_model([node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"])], [X], [Y])
    assert [n.name for n in load(path).nodes] == [n.name for n in load(path).nodes]


@pytest.mark.parametrize("dim", ["-1", "?", "", -1, None, " "])
def test_unknown_sizes_become_symbols_of_their_own(save_model, dim):
    inputs = [("a", FLOAT, [dim, 3]), ("b", FLOAT, [dim, 3])]
    graph = load(save_model([node("Concat", ["a", "b"], ["y"], axis=0)], inputs, [("y", FLOAT, None)]))
    first, second = (spec.shape for spec in graph.inputs)
    assert first == ("a_dim0", 3)
    assert second == ("b_dim0", 3)


def test_named_sizes_are_kept_and_carried(save_model):
    path = save_model(
        [node("Relu", ["x"], ["h"]), node("Abs", ["h"], ["y"])], [("x", FLOAT, ["batch", 3])], [("y", FLOAT, None)]
    )
    assert load(path).values["h"].shape == ("batch", 3)


def test_a_sequence_of_maps(zipmap_path):
    graph = load(zipmap_path)
    assert [(spec.name, spec.dtype) for spec in graph.outputs] == [
        ("label", "int64"),
        ("probabilities", "seq(map(int64,float32))"),
    ]
    assert not graph.outputs[1].is_tensor
    assert set(graph.opaque_types) == {"probabilities"}


def test_local_functions_are_inlined(save_model):
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    nodes = [node("Twice", ["x"], ["h"], domain="local"), node("Twice", ["h"], ["y"], domain="local")]
    graph = load(save_model(nodes, [X], [Y], functions=[function], opsets={"": 20, "local": 1}))
    assert [found.op.op_type for found in graph.nodes] == ["Add", "Add"]
    assert set(graph.opset_imports) == {""}
    with_operators(graph)


def test_a_function_that_calls_itself(save_model):
    imports = [helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "Loop", ["a"], ["b"], [node("Loop", ["a"], ["b"], domain="local")], imports)
    path = save_model([node("Loop", ["x"], ["y"], domain="local")], [X], [Y], functions=[function], opsets={"local": 1})
    assert "cannot be inlined" in refusal(path).what


def nested(levels, *, calls=2, plain=1):
    """Functions of which each calls the next several times, and a node that calls the first."""
    imports = [helper.make_opsetid("local", 1), helper.make_opsetid("", 20)]
    functions = []
    for level in range(levels):
        names = ["a", *(f"v{index}" for index in range(calls + plain))]
        kinds = [("Neg", "")] * plain + [(f"F{level + 1}", "local")] * (calls if level < levels - 1 else 0)
        inner = [node(kind, [names[i]], [names[i + 1]], domain=domain) for i, (kind, domain) in enumerate(kinds)]
        functions.append(helper.make_function("local", f"F{level}", ["a"], [names[len(inner)]], inner, imports))
    return functions, [node("F0", ["x"], ["y"], domain="local")]


@pytest.mark.parametrize(("levels", "calls", "plain"), [(40, 2, 1), (40, 2, 0), (3, 1000, 1)])
def test_functions_that_multiply_are_counted_before_they_are_inlined(save_model, levels, calls, plain):
    functions, nodes = nested(levels, calls=calls, plain=plain)
    path = save_model(nodes, [X], [Y], functions=functions, opsets={"": 20, "local": 1})
    error = refusal(path)
    assert "would become" in error.what
    assert "nodes" in error.what
    assert "`local::F0`" in error.where


def test_many_copies_of_one_name_get_names_of_their_own(save_model):
    """Trying every number from the start for each copy would take minutes here."""
    functions, nodes = nested(3, calls=150)
    names = [found.name for found in load(save_model(nodes, [X], [Y], functions=functions, opsets={"": 20, "local": 1})).nodes]
    assert len(set(names)) == len(names) == 1 + 150 + 150**2
    same = [node("Neg", [f"v{index}"], [f"v{index + 1}"], name="same") for index in range(20_000)]
    graph = load(save_model(same, [("v0", TensorProto.FLOAT, [1])], [("v20000", TensorProto.FLOAT, [1])]))
    assert [found.name for found in graph.nodes[:3]] == ["same", "same_1", "same_2"]


def test_calls_nested_deeper_than_any_exporter_does(save_model):
    functions, nodes = nested(2000, calls=1, plain=2)
    error = refusal(save_model(nodes, [X], [Y], functions=functions, opsets={"": 20, "local": 1}))
    assert "cannot be inlined" in error.what
    assert "depth" in error.cause


def test_a_function_of_other_operator_versions(save_model):
    imports = [helper.make_opsetid("", 13)]
    function = helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], imports)
    path = save_model(
        [node("Twice", ["x"], ["y"], domain="local")], [X], [Y], functions=[function], opsets={"": 20, "local": 1}
    )
    assert "cannot be inlined" in refusal(path).what


def test_unsorted_nodes_are_sorted(save_model):
    nodes = [node("Abs", ["b"], ["y"], name="3"), node("Neg", ["a"], ["b"], name="2"), node("Relu", ["x"], ["a"], name="1")]
    assert [found.name for found in load(save_model(nodes, [X], [Y])).nodes] == ["1", "2", "3"]


def test_missing_optional_inputs_and_outputs(save_model):
    nodes = [node("Clip", ["x", "", "top"], ["h"]), node("Dropout", ["h"], ["y", ""])]
    graph = load(save_model(nodes, [X], [Y], {"top": np.float32(6)}))
    assert [(found.inputs, found.outputs) for found in graph.nodes] == [(("x", "top"), ("h",)), (("h",), ("y",))]


@pytest.mark.parametrize("nodes", [[], [("Relu", ["x"], ["h"])]])
def test_an_output_that_is_an_input(save_model, nodes):
    graph = load(save_model([node(*found) for found in nodes], [X], [X]))
    assert graph.outputs == graph.inputs


# Custom operators


def test_an_unknown_domain_needs_a_library(save_model):
    path = save_model([node("Magic", ["x"], ["y"], domain="acme", name="wand")], [X], [Y], opsets={"": 20, "acme": 1})
    with pytest.raises(ModelError, match="acme::Magic is a custom operator") as caught:
        with_operators(load(path))
    assert "`wand`" in caught.value.where
    assert "--custom-ops" in caught.value.hint
    assert with_operators(load(path, custom_ops=("lib.so",))).custom_ops == ("lib.so",)


def extension_model(save_model):
    nodes = [node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")]
    strings = [(name, TensorProto.STRING, [4]) for name in ("x", "y")]
    return load(save_model(nodes, strings[:1], strings[1:], opsets={"": 20, "ai.onnx.contrib": 1}))


def test_the_extensions_library_is_found_once(save_model):
    pytest.importorskip("onnxruntime_extensions")
    graph = with_operators(extension_model(save_model))
    (library,) = graph.custom_ops
    assert os.path.isfile(library)  # noqa: PTH113
    assert with_operators(graph).custom_ops == (library,)


def test_the_extensions_package_missing(save_model, monkeypatch):
    monkeypatch.setattr(load_module, "EXTENSIONS_MODULE", "no_such_package_of_extensions")
    with pytest.raises(UnavailableError, match="not installed") as caught:
        with_operators(extension_model(save_model))
    assert caught.value.exit_code == 3


def test_what_is_no_file_is_refused_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero"), Path("/dev/null")):
        assert "a pipe, a device or a socket" in refusal(path).cause


def test_a_name_that_is_not_utf8(tmp_path):
    error = refusal(tmp_path / "m\udcff.onnx")
    assert "not UTF-8" in error.what
    assert error.hint
