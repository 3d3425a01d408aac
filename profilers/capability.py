"""Ask TensorRT, node by node, what it takes: its parser first, then its builder, which refuses things the parser accepts.

Each node is asked alone, as a model of its own, in a child process: one refusal makes the parser report every later node
as refused too, and some nodes end the process that asks. Answers are kept in the cost cache, keyed by everything that the
node's own model holds (the node, its constants and what makes them), by the library and by the GPU's compute capability,
so a model is asked about once and answers for nothing but itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from cutset.advisory import advisory, skip
from cutset.errors import CutsetError, EngineBuildError, UnavailableError, UnknownShapeError
from cutset.graph.extract import extract, give_ranks
from cutset.graph.model import ModelGraph, OpNode
from cutset.profilers.cache import CostCache
from cutset.profilers.child import Failure, Limits, map_in_child
from cutset.profilers.probed import MAX_SHAPE_ELEMENTS, Probed
from cutset.profilers.roofline import is_shape_arithmetic
from cutset.profilers.segments import Segment, boundary_values, segment_of
from cutset.profilers.session import Arrays
from cutset.profilers.signature import sign
from cutset.profilers.tensorrt import Library, compile_network
from cutset.profilers.tensorrt_library import open_library

Backend = Literal["tensorrt", "tensorrt-rtx"]
MODULES: Mapping[str, Library] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TITLES: Mapping[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

PORTABLE_CAPABILITY = "8.0"
"""Asked about when no GPU is named: engines for it run on every later one."""

PROBE_LIMITS = Limits(time_s=60.0)
MAX_PROBE_BYTES = 1 << 28
"""Nodes with more weights than this are not asked about one by one; building the engine has the last word anyway."""
_PROBE_FORMAT = 5  # part of every key: a new number makes every kept answer a stranger


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """A library that can be asked.

    Args:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Of the library.
        compute_capability: Of the GPU to build for, such as ``8.9``; empty for the GPU of this machine.
    """

    backend: Backend
    version: str
    compute_capability: str

    @property
    def title(self) -> str:
        """Who answers, for people."""
        where = f"for compute capability {self.compute_capability}, no GPU" if self.compute_capability else "on this GPU"
        return f"{TITLES[self.backend]} {self.version} {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the library said to one node; the reason is in its own words, empty when it takes the node."""

    ok: bool
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProbe:
    """One node as a model of its own.

    Args:
        model: The serialised ONNX model.
        shapes: Shape of each input.
        values: Elements of the inputs that are small integer vectors, in case the parser takes them for shapes.
        library: Module of the library.
        compute_capability: As in `Oracle`.
    """

    model: bytes = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[int, ...]]
    library: Library
    compute_capability: str


def ask(
    graph: ModelGraph,
    inputs: Arrays,
    nodes: Sequence[str],
    oracle: Oracle,
    cache: CostCache,
    progress: Callable[[str], None] = lambda _text: None,
) -> dict[str, Verdict]:
    """Return the library's verdict on each of `nodes`; those whose shapes are not known have none.

    Args:
        graph: The model, with the shapes of one run on `inputs`.
        inputs: One complete sample: small integer vectors of its run stand for the shapes they hold.
        nodes: Names of nodes that a placement is about.
        oracle: Whom to ask.
        cache: Where answers are kept.
        progress: Told what is being asked.

    Raises:
        UnavailableError: If the library fails instead of answering, whatever it is asked.
    """
    vectors = small_vectors(graph, inputs, [graph.by_name[name] for name in nodes])
    elements = {name: vector.tolist() for name, vector in vectors.items()}
    probed = Probed(graph)
    keys = _keys(probed, nodes, elements.get, oracle)
    kinds = {repr(key): name for name, key in reversed(keys.items())}
    answers = {kind: str(answer) for kind, name in kinds.items() if (answer := cache.get(keys[name])) is not None}
    unknown = [kind for kind in kinds if kind not in answers]
    if unknown:
        progress(f"asking {oracle.title} about {len(unknown)} kinds of node")
    made = {kind: _probe(graph, kinds[kind], vectors, oracle) for kind in unknown}
    probes = {kind: probe for kind, probe in made.items() if probe is not None}
    told = dict(zip(probes, map_in_child(try_node, probes.values(), limits=PROBE_LIMITS), strict=True))
    _check_library(told.values(), oracle)
    for kind, answer in told.items():
        answers[kind] = _words(answer) if isinstance(answer, Failure) else answer
        if isinstance(answer, Failure) and answer.kind == "raised":
            skip(f"asking {oracle.title}", f"node `{kinds[kind]}`", answer.detail)
        if not isinstance(answer, Failure) or answer.kind == "crashed":  # what took too long now may not on another day
            cache.put(keys[kinds[kind]], answers[kind])
    return {
        name: Verdict(ok=not answers[kind], reason=answers[kind], source=oracle.title)
        for name, key in keys.items()
        if (kind := repr(key)) in answers
    }


def _keys(probed: Probed, nodes: Sequence[str], given: Callable[[str], Any], oracle: Oracle) -> dict[str, Any]:
    """Return what the answer about each node depends on; a node of which that is not known is left out."""
    found = {}
    for name in nodes:
        with advisory(f"asking {oracle.title}", f"node `{name}`"):
            key = kind_of(probed, [name], given, oracle)
            if key is not None:
                found[name] = key
    return found


def _check_library(told: Collection[str | Failure], oracle: Oracle) -> None:
    """Check, where all that the library does is to raise errors, that it takes what every library takes.

    Raises:
        UnavailableError: If it does not, so that no node is at fault.
    """
    if not told or not all(isinstance(answer, Failure) and answer.kind == "raised" for answer in told):
        return
    (answer,) = map_in_child(try_node, [_plain_probe(oracle)], limits=PROBE_LIMITS)
    if isinstance(answer, Failure) and answer.kind == "raised":
        hint = "see `cutset doctor`, or use --gpu-backend onnxruntime-cuda"
        raise UnavailableError(f"{oracle.title} cannot be asked", cause=answer.detail, hint=hint)


def _plain_probe(oracle: Oracle) -> NodeProbe:
    """Return a probe of one Relu."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "plain", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return NodeProbe(
        model=model.SerializeToString(), shapes={"x": (1,)}, values={}, library=MODULES[oracle.backend],
        compute_capability=oracle.compute_capability,
    )  # fmt: skip


def _words(failure: Failure) -> str:
    """Return the reason against a node of which the library said nothing, but failed."""
    return f"asked about it, the library {'raised ' if failure.kind == 'raised' else ''}{failure.detail}"


def try_node(probe: NodeProbe) -> str:
    """Return why the library refuses the node, empty when it builds; meant to run in a child process."""
    library = open_library(probe.library)
    try:
        compile_network(library, probe.model, _shape_ranges(probe), probe.compute_capability)
    except EngineBuildError as error:
        return f"{error.what.removesuffix(' the part')}: {error.cause}"
    return ""


def _shape_ranges(probe: NodeProbe) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {name: (shape, probe.values.get(name, ())) for name, shape in probe.shapes.items()}


def kind_of(
    probed: Probed, nodes: Sequence[str], given: Callable[[str], Any], oracle: Oracle, builder: str = "probe"
) -> Any | None:
    """Return all that the library's answer about nodes depends on, as plain JSON, or None where some of it is not known.

    Args:
        probed: What probes hold of the model, which has the shapes of one run.
        nodes: Names, in graph order.
        given: Returns what is said of a value that they read besides its type and shape.
        oracle: The library.
        builder: What asks, where it is not the probe: each configures the library in its own way.
    """
    graph = probed.graph
    signature = sign(graph, nodes)
    if not signature.digest:
        return None
    members = [graph.by_name[name] for name in signature.canonical]
    return [
        "tensorrt", _PROBE_FORMAT, builder, oracle.backend, oracle.version, oracle.compute_capability,
        sorted(graph.opset_imports.items()), graph.source.ir_version, signature.digest, _declared(graph, members),
        [[probed.node(node), [given(name) for name in node.inputs]] for node in members],
    ]  # fmt: skip


def _declared(graph: ModelGraph, nodes: Sequence[OpNode]) -> list[Any]:
    """Return the shapes of what the nodes read and write as the probe declares them; symbols by their order of appearance."""
    symbols: dict[str, str] = {}
    found: list[Any] = []
    for name in (name for node in nodes for name in (*node.inputs, *node.outputs)):
        shape, measured = graph.values[name].shape, graph.measured.get(name)
        if shape is None or (measured is not None and len(measured) != len(shape)):
            found.append(None)
            continue
        wrong = [measured is not None and isinstance(dim, int) and dim != measured[axis] for axis, dim in enumerate(shape)]
        found.append([
            dim if isinstance(dim, int) and not wrong[axis]
            else symbols.setdefault(dim, f"s{len(symbols)}") if isinstance(dim, str) else "?"
            for axis, dim in enumerate(shape)
        ])  # fmt: skip
    return found


def small_vectors(graph: ModelGraph, inputs: Arrays, nodes: Iterable[OpNode]) -> dict[str, np.ndarray]:
    """Return the elements that small integer vectors that `nodes` read, which may be shapes, have in one run on `inputs`."""
    reads = dict.fromkeys(name for node in nodes for name in node.inputs if name not in graph.constant_values)
    wanted = tuple(name for name in reads if _may_be_shape(graph, name))
    if not wanted:
        return {}
    with advisory("reading the sizes that nodes are given"), contextlib.suppress(CutsetError):
        values = boundary_values(graph, inputs, [Segment(nodes=(), inputs=wanted, outputs=())])
        return {name: np.asarray(value) for name, value in values.items()}
    return {}


def _may_be_shape(graph: ModelGraph, name: str) -> bool:
    try:
        shape = graph.shape(name)
    except UnknownShapeError:
        return False
    return graph.values[name].dtype in {"int64", "int32"} and len(shape) <= 1 and sum(shape) <= MAX_SHAPE_ELEMENTS


def _probe(graph: ModelGraph, name: str, vectors: Mapping[str, np.ndarray], oracle: Oracle) -> NodeProbe | None:
    """Return the node as a model, the shapes it is given as weights of it, or None if it cannot be asked about alone."""
    with advisory(f"asking {oracle.title}", f"node `{name}`"), contextlib.suppress(CutsetError):
        segment = segment_of(graph, [name])
        if sum(graph.nbytes(value) for value in graph.by_name[name].inputs if value in graph.constant_values) > MAX_PROBE_BYTES:
            return None
        model = extract(graph, segment.inputs, segment.outputs, name="probe")
        fixed = () if is_shape_arithmetic(graph, graph.by_name[name]) else [n for n in segment.inputs if n in vectors]
        _fix(model, {value: vectors[value] for value in fixed})
        give_ranks(model, {value.name: graph.shape(value.name) for value in model.graph.input}, sizes=True)
        return NodeProbe(
            model=model.SerializeToString(),
            shapes={value.name: graph.shape(value.name) for value in model.graph.input},
            values={n: tuple(int(e) for e in vectors[n].ravel()) for n in segment.inputs if n in vectors and n not in fixed},
            library=MODULES[oracle.backend],
            compute_capability=oracle.compute_capability,
        )
    return None


def _fix(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Turn inputs into weights."""
    kept = [value for value in model.graph.input if value.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
