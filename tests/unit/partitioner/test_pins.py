"""Pins say what they are about, and are refused when they are about nothing or contradict."""

import pytest
from onnx import TensorProto, helper

from cutset.errors import PlanError, UsageError
from cutset.graph.load import load
from cutset.partitioner.pins import Pin, parse_pin, resolve

NAMES = ["blk/0/conv", "blk/0/relu", "blk/1/conv", "a[0]", "a0", "x=y", "op"]


@pytest.fixture(scope="module")
def graph(save_model):
    values = ["x", *(f"v{i}" for i in range(len(NAMES))), "y"]
    ops = ["Abs", "Relu", "Abs", "Neg", "Neg", "Exp", "Relu", "Sigmoid"]
    nodes = [
        helper.make_node(o, [i], [j], name=n) for o, i, j, n in zip(ops, values[:-1], values[1:], [*NAMES, "end"], strict=True)
    ]
    nodes.append(helper.make_node("Exp", ["x"], ["nowhere"], name="dead"))
    return load(save_model(nodes, [("x", TensorProto.FLOAT, [4])], [("y", TensorProto.FLOAT, [4])]))


@pytest.mark.parametrize(
    ("text", "pattern", "device"),
    [
        ("nms=cpu", "nms", "cpu"),
        ("op:Resize=gpu", "op:Resize", "gpu"),
        ("blk/*=gpu", "blk/*", "gpu"),
        ("x=y=cpu", "x=y", "cpu"),
        ("日本 語=cpu", "日本 語", "cpu"),
    ],
)
def test_a_pin(text, pattern, device):
    pin = parse_pin(text)
    assert pin == Pin(pattern=pattern, device=device)
    assert str(pin) == f"--pin {text}"


@pytest.mark.parametrize("text", ["", "nms", "=cpu", "nms=", "nms=tpu", "nms=CPU", "nms=cpu ", "nms:cpu", "cpu"])
def test_what_is_no_pin(text):
    with pytest.raises(UsageError) as caught:
        parse_pin(text)
    assert repr(text) in caught.value.what
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("blk/0/conv=gpu", ["blk/0/conv"]),
        ("blk/*=gpu", ["blk/0/conv", "blk/0/relu", "blk/1/conv"]),
        ("*/conv=cpu", ["blk/0/conv", "blk/1/conv"]),
        ("op:Relu=cpu", ["blk/0/relu", "op"]),
        ("op:Re*=cpu", ["blk/0/relu", "op"]),
        ("a[0]=cpu", ["a[0]"]),
        ("a[01]=cpu", ["a0"]),
        ("a0=cpu", ["a0"]),
        ("x=y=cpu", ["x=y"]),
        ("*=gpu", [*NAMES, "end"]),
    ],
)
def test_what_a_pin_is_about(graph, text, nodes):
    assert list(resolve(graph, [parse_pin(text)])) == nodes


@pytest.mark.parametrize("text", ["conv=cpu", "BLK/0/CONV=cpu", "op:relu=cpu", "op:Conv=gpu", "dead=cpu", "blk/2/*=cpu"])
def test_a_pin_about_nothing(graph, text):
    with pytest.raises(UsageError) as caught:
        resolve(graph, [parse_pin(text)])
    assert caught.value.what == f"--pin {text} matches no node"
    assert ("Relu" if text.startswith("op:") else "`cutset inspect`") in caught.value.hint


def test_two_devices_for_one_node(graph):
    with pytest.raises(PlanError, match="`blk/0/relu` is pinned to both devices") as caught:
        resolve(graph, [parse_pin("blk/0/*=cpu"), parse_pin("op:Relu=gpu")])
    assert caught.value.where == "--pin blk/0/*=cpu and --pin op:Relu=gpu"


def test_agreeing_pins_and_graph_order(graph):
    found = resolve(graph, [parse_pin("op:Relu=cpu"), parse_pin("blk/0/*=cpu")])
    assert list(found) == ["blk/0/conv", "blk/0/relu", "op"]
    assert {pin.device for pin in found.values()} == {"cpu"}


def test_no_pins(graph):
    assert resolve(graph, []) == {}
