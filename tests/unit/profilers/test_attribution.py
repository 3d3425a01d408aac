"""Kernels of an optimised session find the nodes they do the work of, on kernel lists made by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.profilers.attribution import Group, Kernel, attribute, kernels_of

FLOAT = TensorProto.FLOAT


def chain(save_model, *nodes, weights=None, outputs=("y",)):
    """Load a model; each node is ``(name, inputs, outputs)`` of an operator that only has to have a place."""
    made = [helper.make_node("Sum", list(i), list(o), name=name) for name, i, o in nodes]
    path = save_model(made, [("x", FLOAT, [4])], [(name, FLOAT, [4]) for name in outputs], weights or {})
    return load(path)


def kernel(name, inputs, outputs, op="Sum"):
    return Kernel(name=name, op_type=op, inputs=tuple(inputs), outputs=tuple(outputs))


def run(graph, kernels):
    """Attribute kernels whose values are called like the model's, and check that the groups are a partition."""
    groups = attribute(graph, kernels, {name: name for name in graph.values} | {f"v{i}": n for i, n in enumerate(graph.values)})
    covered = [name for group in groups for name in group.nodes]
    assert sorted(covered) == sorted(node.name for node in graph.nodes)
    owned = [index for group in groups for index in group.kernels]
    assert sorted(owned) == list(range(len(kernels)))
    assert_acyclic(graph, groups)
    return groups


def assert_acyclic(graph, groups):
    home = {name: index for index, group in enumerate(groups) for name in group.nodes}
    after = {index: set() for index in range(len(groups))}
    for node in graph.placeable:
        for value in node.inputs:
            writer = graph.producer.get(value)
            if writer is not None and writer not in graph.unplaced and home[writer] != home[node.name]:
                after[home[node.name]].add(home[writer])
    while after:
        ready = [index for index, sources in after.items() if not sources & after.keys()]
        assert ready, f"a cycle among {after}"
        for index in ready:
            del after[index]


def shape(groups):
    return [(group.nodes, group.kernels) for group in groups]


@pytest.fixture
def three(save_model):
    return chain(save_model, ("a", "x", "p"), ("b", "p", "q"), ("c", "q", "y"))


def test_untouched_nodes_keep_their_kernels(three):
    kernels = [kernel("n0", "x", "p"), kernel("n1", "p", "q"), kernel("n2", "q", "y")]
    assert run(three, kernels) == [Group(nodes=(name,), kernels=(i,)) for i, name in enumerate("abc")]


def test_a_fusion_found_by_the_names_it_carries(three):
    kernels = [kernel("fused n0 and n1", "x", ["odd"]), kernel("n2", ["odd"], "y")]
    assert shape(run(three, kernels)) == [(("a", "b"), (0,)), (("c",), (1,))]


def test_a_fusion_found_by_the_value_it_writes(three):
    kernels = [kernel("made up", "x", "q"), kernel("n2", "q", "y")]
    assert shape(run(three, kernels)) == [(("a", "b"), (0,)), (("c",), (1,))]


def test_a_number_inside_another_is_no_name(save_model):
    graph = chain(save_model, *((f"s{i}", "x" if i == 0 else f"{i - 1}", f"{i}") for i in range(9)), ("z", "8", "y"))
    kernels = [kernel(f"n{i}", "x" if i == 0 else f"{i - 1}", f"{i}") for i in range(9)] + [kernel("n9/n90 min1 n1x", "8", "y")]
    groups = run(graph, kernels)
    assert shape(groups)[0] == (("s0",), (0,))
    assert shape(groups)[-1] == (("z",), (9,))


def test_a_blocked_kernel_is_named_after_its_value_and_a_reorder_belongs_to_what_it_feeds(three):
    names = list(three.values)
    kernels = [
        kernel("reorder_token_0", "x", ["t0"], "ReorderInput"),
        kernel(f"v{names.index('p')}_nchwc", ["t0"], ["t1"], "Conv"),
        kernel(f"v{names.index('q')}_nchwc", ["t1"], ["t2"], "Conv"),
        kernel("reorder_token_1", ["t2"], "q", "ReorderOutput"),
        kernel("n2", "q", "y"),
    ]
    assert shape(run(three, kernels)) == [(("a",), (0, 1)), (("b",), (2,)), (("c",), (3, 4))]


def test_a_last_layout_change_belongs_to_what_feeds_it(three):
    kernels = [kernel("made up", "x", ["t"], "Conv"), kernel("back", ["t"], "y", "ReorderOutput")]
    assert shape(run(three, kernels)) == [(("a", "b", "c"), (0, 1))]


def test_an_inserted_cast_belongs_to_what_it_feeds(three):
    kernels = [
        kernel("n0", "x", "p"),
        kernel("InsertedCast", "p", ["t"], "Cast"),
        kernel("n1", ["t"], "q"),
        kernel("n2", "q", "y"),
    ]
    assert shape(run(three, kernels)) == [(("a",), (0,)), (("b",), (1, 2)), (("c",), (3,))]


def test_a_trailing_kernel_belongs_to_what_feeds_it(three):
    kernels = [kernel("n0", "x", "p"), kernel("n1", "p", "q"), kernel("n2", "q", "y"), kernel("debris", "y", ["t"])]
    assert shape(run(three, kernels))[-1] == (("c",), (2, 3))


def test_a_node_without_a_kernel_joins_its_reader(three):
    assert shape(run(three, [kernel("n0", "x", "p"), kernel("n2", "p", "y")])) == [(("a",), (0,)), (("b", "c"), (1,))]


def test_a_last_node_without_a_kernel_joins_its_writer(three):
    kernels = [kernel("n0", "x", "p"), kernel("n1", "p", ["elsewhere"])]
    assert shape(run(three, kernels)) == [(("a",), (0,)), (("b", "c"), (1,))]


def test_no_kernel_at_all(three):
    assert shape(run(three, [])) == [(("a",), ()), (("b",), ()), (("c",), ())]


def test_groups_that_would_form_a_cycle_are_one(save_model):
    """a and c are fused while b, which stays outside, reads a and feeds c."""
    graph = chain(save_model, ("a", "x", "p"), ("b", "p", "q"), ("c", ["p", "q"], "r"), ("d", "r", "y"))
    kernels = [kernel("n0 n2", "x", "r"), kernel("n1", "p", "q"), kernel("n3", "r", "y")]
    assert shape(run(graph, kernels)) == [(("a", "b", "c"), (0, 1)), (("d",), (2,))]


def test_a_longer_cycle_through_two_fusions(save_model):
    graph = chain(save_model, ("a", "x", "p"), ("b", "x", "q"), ("c", "q", "r"), ("d", "p", "s"), ("e", ["r", "s"], "y"))
    kernels = [kernel("n0 n2", ["x", "q"], ["p", "r"]), kernel("n1 n3", ["x", "p"], ["q", "s"]), kernel("n4", ["r", "s"], "y")]
    assert shape(run(graph, kernels)) == [(("a", "b", "c", "d"), (0, 1)), (("e",), (2,))]


def test_constant_nodes_join_their_reader_and_claim_no_kernel(save_model):
    weights = {"w": np.ones(4, np.float32)}
    graph = chain(save_model, ("k", "w", "f"), ("a", "x", "p"), ("b", ["p", "f"], "y"), weights=weights)
    kernels = [kernel("n0", "w", "f"), kernel("n1", "x", "p"), kernel("n2", ["p", "f"], "y")]
    assert shape(run(graph, kernels)) == [(("a",), (1,)), (("k", "b"), (0, 2))]


def test_dead_nodes_are_somewhere(save_model):
    graph = chain(save_model, ("a", "x", "p"), ("lost", "x", "z"), ("b", "p", "y"))
    assert shape(run(graph, [kernel("n0", "x", "p"), kernel("n2", "p", "y")])) == [(("a", "lost"), (0,)), (("b",), (1,))]


def test_a_model_of_constants_is_one_group(save_model):
    graph = chain(save_model, ("k", "w", "f"), ("l", "f", "y"), weights={"w": np.ones(4, np.float32)})
    assert attribute(graph, [], {}) == [Group(nodes=("k", "l"), kernels=())]


def test_a_model_without_nodes(save_model):
    graph = load(save_model([], [("x", FLOAT, [4])], [("x", FLOAT, [4])]))
    assert attribute(graph, [], {}) == []


def test_groups_are_in_graph_order(save_model):
    graph = chain(save_model, ("a", "x", "p"), ("b", "x", "q"), ("c", ["p", "q"], "y"))
    kernels = [kernel("n1", "x", "q"), kernel("n0", "x", "p"), kernel("n2", ["p", "q"], "y")]
    assert shape(run(graph, kernels)) == [(("a",), (1,)), (("b",), (0,)), (("c",), (2,))]


def test_kernels_leave_out_missing_optional_values():
    node = helper.make_node("Clip", ["x", "", "top"], ["y", ""], name="n0")
    assert kernels_of(onnx.GraphProto(node=[node])) == [kernel("n0", ["x", "top"], ["y"], "Clip")]
