import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.errors import UsageError
from tests.cascades import composed, open_composed

HEAD = """\
inputs:
  x: {type: float32, shape: [n, 3]}
"""


def run(document, tmp_path, **arrays):
    made = composed(document)
    onnx.checker.check_model(made.model, full_check=True)
    session = open_composed(made, tmp_path)
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, arrays), strict=True))


def test_branches_go_anywhere_and_may_be_outputs_twice(write, tmp_path):
    document = write(
        HEAD
        + """
stages:
  c: {part: concat, inputs: {left: a.y, right: b.y}, with: {axis: 1}}
  b: {model: double.onnxtxt, inputs: {x: a.y}}
  a: {model: double.onnxtxt, inputs: {x: x}}
outputs: {both: c.joined, a: a.y, again: a.y, same: x}
"""
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = run(document, tmp_path, x=x)
    np.testing.assert_array_equal(found["both"], np.concatenate([2 * x, 4 * x], axis=1))
    for name, wanted in {"a": 2 * x, "again": 2 * x, "same": x}.items():
        np.testing.assert_array_equal(found[name], wanted)


def test_equal_work_is_done_once(write):
    text = (
        "inputs:\n  image: {type: uint8, shape: [h, w, 3]}\nstages:\n"
        "  one: {part: resize, inputs: {image: image}, with: {size: [8, 8]}}\n"
        "  two: {part: resize, inputs: {image: image}, with: {size: [8, 8]}}\n"
        "  a: {part: normalize, inputs: {image: one.resized}}\n"
        "  b: {part: normalize, inputs: {image: two.resized}, with: {mean: [0.5]}}\n"
        "outputs: {a: a.tensor, b: b.tensor}\n"
    )
    operators = [node.op_type for node in composed(write(text)).model.graph.node]
    assert operators.count("Resize") == 1
    assert operators.count("Transpose") == 1
    assert operators.count("Mul") == 1  # the same factor, and one of them is shifted after it


def test_models_of_several_opsets_are_aligned(write, save_model, tmp_path):
    old = save_model(
        [helper.make_node("Squeeze", ["x"], ["y"], axes=[0])],
        [("x", TensorProto.FLOAT, [1, "n", 3])], [("y", TensorProto.FLOAT, ["n", 3])], opsets={"": 11}, ir_version=6,
    )  # fmt: skip
    new = save_model(
        [helper.make_node("Gelu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 3])], [("y", TensorProto.FLOAT, ["n", 3])], opsets={"": 20},
    )  # fmt: skip
    document = write(
        f"""
        inputs:
          x: {{type: float32, shape: [1, rows, 3]}}
        stages:
          old: {{model: {old}, inputs: {{x: x}}}}
          new: {{model: {new}, inputs: {{x: old.y}}}}
        outputs: {{y: new.y}}
        """
    )
    made = composed(document)
    assert {entry.domain: entry.version for entry in made.model.opset_import} == {"": 20}
    assert [dim.dim_param or dim.dim_value for dim in made.model.graph.output[0].type.tensor_type.shape.dim] == ["rows", 3]
    assert run(document, tmp_path, x=np.zeros((1, 4, 3), np.float32))["y"].shape == (4, 3)


def test_weights_that_are_inputs_too_are_weights(write, save_model, tmp_path):
    """As every file before IR version 4 has them."""
    info = [("x", TensorProto.FLOAT, [3]), ("w", TensorProto.FLOAT, [3])], [("y", TensorProto.FLOAT, [3])]
    path = save_model(
        [helper.make_node("Add", ["x", "w"], ["y"])], *info, {"w": np.ones(3, np.float32)}, opsets={"": 9}, ir_version=3
    )
    text = (
        f"inputs:\n  v: {{type: float32, shape: [3]}}\nstages:\n  s: {{model: {path}, inputs: {{x: v}}}}\noutputs: {{y: s.y}}\n"
    )
    assert run(write(text), tmp_path, v=np.ones(3, np.float32))["y"].tolist() == [2, 2, 2]


def test_names_in_bodies_follow(write, save_model, tmp_path):
    def branch(name, source):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Add", [source, "w"], [name])], name, [], [out])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["positive"], to=TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("t", "x"), else_branch=branch("e", "w")),
    ]
    path = save_model(nodes, [("x", TensorProto.FLOAT, [3])], [("y", TensorProto.FLOAT, [3])], {"w": np.ones(3, np.float32)})
    text = (
        f"inputs:\n  v: {{type: float32, shape: [3]}}\nstages:\n  s: {{model: {path}, inputs: {{x: v}}}}\noutputs: {{y: s.y}}\n"
    )
    document = write(text)
    assert run(document, tmp_path, v=np.ones(3, np.float32))["y"].tolist() == [2, 2, 2]
    assert run(document, tmp_path, v=np.zeros(3, np.float32))["y"].tolist() == [2, 2, 2]


def test_a_frozen_shape_can_be_opened(write, save_model, tmp_path):
    weights = {"w": np.ones((1, 1, 3, 3), np.float32)}
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    path = save_model([conv], [("x", TensorProto.FLOAT, [10, 1, 4, 4])], [("y", TensorProto.FLOAT, [10, 1, 4, 4])], weights)
    text = (
        f"inputs:\n  x: {{type: float32, shape: [1, 1, h, 8]}}\nstages:\n  s:\n    model: {path}\n    inputs: {{x: x}}\n"
        "    shapes: {x: [1, 1, height, 8]}\noutputs: {y: s.y}\n"
    )
    assert run(write(text), tmp_path, x=np.ones((1, 1, 5, 8), np.float32))["y"].shape == (1, 1, 5, 8)
    with pytest.raises(UsageError, match=r"`x` is float32 \[1, 1, h, 8\]; `x` of `s` takes float32 \[10, 1, 4, 4\]"):
        composed(write(text.replace("    shapes: {x: [1, 1, height, 8]}\n", "")))


def test_sizes_that_inference_makes_up_are_not_shared_by_stages(write, tmp_path):
    """Every model's inference calls its first unknown size the same; onnxruntime reuses memory between equal sizes."""
    document = write(
        """
        inputs:
          image: {type: uint8, shape: [h, w, 3]}
        stages:
          one: {part: letterbox, inputs: {image: image}, with: {size: [64, 64]}}
          two: {part: letterbox, inputs: {image: image}, with: {size: [80, 60]}}
        outputs: {a: one.boxed, b: two.boxed}
        """
    )
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    found = run(document, tmp_path, image=image)
    assert (found["a"].shape, found["b"].shape) == ((64, 64, 3), (80, 60, 3))


FAILS_ON_NONE = """<ir_version: 8, opset_import: ["" : 18]>
flat (float[rows, 3, 2] x) => (float[rows, 6] y) <int64[2] shape = {0, -1}> { y = Reshape (x, shape) }"""


@pytest.mark.parametrize("rows", [0, 1, 300])
def test_a_model_that_fails_on_no_rows_runs_on_none(write, tmp_path, rows):
    document = write(
        """
        inputs:
          scores: {type: float32, shape: [n]}
          things: {type: float32, shape: [n, 3, 2]}
        stages:
          good: {part: filter, inputs: {by: scores}, with: {above: 0.5}}
          kept: {part: gather, inputs: {rows: things, indices: good.indices}}
          flat: {model: flat.onnxtxt, inputs: {x: kept.gathered}}
        outputs: {y: flat.y}
        """,
        flat__onnxtxt=FAILS_ON_NONE,
    )
    things = np.random.default_rng(0).random((300, 3, 2)).astype(np.float32)
    scores = (np.arange(300) < rows).astype(np.float32)
    found = run(document, tmp_path, scores=scores, things=things)["y"]
    np.testing.assert_array_equal(found, things[:rows].reshape(rows, 6))


def test_a_model_that_takes_no_rows_is_left_alone(write):
    document = write(
        HEAD
        + """
stages:
  good: {part: filter, inputs: {by: scores}, with: {above: 0.5}}
  kept: {part: gather, inputs: {rows: x, indices: good.indices}}
  s: {model: double.onnxtxt, inputs: {x: kept.gathered}}
outputs: {y: s.y}
""".replace("stages:", "  scores: {type: float32, shape: [n]}\nstages:", 1)
    )
    assert "Slice" not in [node.op_type for node in composed(document).model.graph.node if node.name.startswith("s/")]


def test_names_of_sizes_of_two_stages_never_meet(write, tmp_path):
    """`a` with a size `b_c` and `a_b` with a size `c`."""
    one = '<ir_version: 8, opset_import: ["" : 18]> m (float[b_c] x) => (float[b_c] y) { y = Abs (x) }'
    document = write(
        """
        inputs:
          p: {type: float32, shape: [n]}
          q: {type: float32, shape: [m]}
        stages:
          f: {part: filter, inputs: {by: p}, with: {above: 0}}
          g: {part: filter, inputs: {by: q}, with: {above: 0}}
          a: {part: gather, inputs: {rows: p, indices: f.indices}}
          a_b: {model: one.onnxtxt, inputs: {x: q}}
        outputs: {y: a.gathered, z: a_b.y, i: g.indices}
        """,
        one__onnxtxt=one,
    )
    made = composed(document)
    names = [dim.dim_param for value in made.model.graph.output for dim in value.type.tensor_type.shape.dim]
    assert len(set(names)) == 3
    found = run(document, tmp_path, p=np.ones(3, np.float32), q=np.ones(5, np.float32))
    assert [len(found[name]) for name in "yzi"] == [3, 5, 5]


@pytest.mark.parametrize(
    ("key", "words"), [("joined", "cannot be made"), ("a b", "is not a name"), ("x) => (y", "is not a name")]
)
def test_names_that_onnx_text_cannot_take_are_refused(write, key, words):
    text = f"{HEAD}stages:\n  c: {{part: concat, inputs: {{'{key}': x, other: x}}}}\noutputs: {{y: c.joined}}\n"
    with pytest.raises(UsageError, match=words):
        composed(write(text))


BASE = (
    HEAD
    + """\
stages:
  a:
    model: double.onnxtxt
    inputs: {x: x}
  b:
    part: topk
    inputs: {values: a.y}
    with: {k: 1}
outputs:
  y: b.top
"""
)

BAD = {
    "no such reference": ("values: a.y", "values: a.z", 9, "`a.z` is neither", "did you mean `a.y`"),
    "no such stage": ("values: a.y", "values: q.y", 9, "`q.y` is neither", "`a.y`"),
    "no such output": ("y: b.top", "y: b.tip", 12, "`b.tip` is neither", "did you mean `b.top`"),
    "no such input of a model": ("{x: x}", "{z: x}", 6, "has no input `z`", "`x`"),
    "no such input of a part": ("values: a.y", "rows: a.y", 9, "has no input `rows`", "`values`"),
    "no such file": ("double.onnxtxt", "no.onnx", 5, "there is no file", "relative to the folder"),
    "no such sample": ("double.onnxtxt", "no_sample", 5, "no sample is called", ""),
    "not ONNX": ("double.onnxtxt", "p.onnxtxt", 5, "is not a valid ONNX model", ""),
    "a circle": ("inputs: {x: x}", "inputs: {x: b.top}", 6, "stages wait for each other", ""),
    "a stage of no use": ("y: b.top", "y: a.y", 7, "no output of the pipeline depends on `b`", "remove it"),
    "an input of no use": ("stages:", "  z: {type: float32, shape: []}\nstages:", 3, "depends on `z`", "remove it"),
    "another element type": ("float32", "float64", 6, "`x` is float64 [n, 3]; `x` of `a` takes float32 [rows, 3]", ""),
    "another rank": ("[n, 3]", "[n, 3, 1]", 6, "takes float32 [rows, 3]", "shapes"),
    "another size": ("[n, 3]", "[n, 4]", 6, "takes float32 [rows, 3]", "shapes"),
    "an output that is an input": ("  y: b.top", "  x: b.top", 12, "`x` is an input and an output", "another name"),
    "a stage that is an input": ("a:\n", "x:\n", 4, "`x` is an input and a stage", "rename"),
}


@pytest.mark.parametrize(("old", "new", "line", "words", "hint"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_with_its_line(write, old, new, line, words, hint):
    with pytest.raises(UsageError) as caught:
        composed(write(BASE.replace(old, new, 1), p__onnxtxt="this is no model"))
    assert words in caught.value.what
    assert caught.value.where.endswith(f"p.yaml:{line}")
    assert hint in (caught.value.hint or "")


def test_a_model_that_cannot_be_converted_names_its_stage(write, save_model):
    """Onnx's converter knows no way from the recurrent operators of opset 6."""
    nodes = [helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=2)]
    weights = {name: np.ones((1, 2, 2), np.float32) for name in "wr"}
    info = [("x", TensorProto.FLOAT, [4, 1, 2])], [("y", TensorProto.FLOAT, [4, 1, 1, 2])]
    path = save_model(nodes, *info, weights, opsets={"": 6}, ir_version=4)
    inputs = "inputs:\n  x: {type: float32, shape: [4, 1, 2]}\n"
    document = write(f"{inputs}stages:\n  s: {{model: {path}, inputs: {{x: x}}}}\noutputs: {{y: s.y}}\n")
    with pytest.raises(UsageError, match="opset 6 to 18") as caught:
        composed(document)
    assert caught.value.where.endswith(":4")


def test_the_height_of_a_picture_is_no_number_of_rows(write):
    """A model that fails on no pixels is not padded with a row of them."""
    head = '<ir_version: 8, opset_import: ["" : 18]> m (uint8[h, w, 3] image) => (float[1, 3] y)'
    body = "real = Cast <to = 1> (image) mean = ReduceMean <keepdims = 0> (real, axes) y = Reshape (mean, shape)"
    text = f"{head} <int64[2] axes = {{0, 1}}, int64[2] shape = {{1, 3}}> {{ {body} }}"
    document = write(
        """
        inputs:
          file: {type: uint8, shape: [bytes]}
        stages:
          decode: {part: decode, inputs: {file: file}}
          mean: {model: mean.onnxtxt, inputs: {image: decode.image}}
        outputs: {y: mean.y}
        """,
        mean__onnxtxt=text,
    )
    assert "ConstantOfShape" not in [node.op_type for node in composed(document).model.graph.node]


def test_the_same_cascade_gives_the_same_bytes(write):
    made = [composed(write(BASE)).model.SerializeToString(deterministic=True) for _ in range(2)]
    assert made[0] == made[1]
