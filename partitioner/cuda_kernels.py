"""What onnxruntime's CUDA provider has kernels for, by the list that onnxruntime publishes, and what its kernels leave out.

A session takes a node without a kernel, too, and runs it on the CPU in its midst, with copies around it. Inputs that
kernels read on the host, such as shapes, cost no node its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx

from cutset.graph.load import KNOWN_DOMAINS
from cutset.partitioner.case import NodeCase, Rule

KERNELS = Path(__file__).parent / "data" / "cuda_kernels.json"
KERNELS_SCHEMA = "cutset.cuda-kernels/1"
PROVIDER = "onnxruntime's CUDA provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel of an operator.

    Args:
        first: First version of the operator that the kernel computes.
        last: Last version, None for `first` alone: onnxruntime takes no open end for what a later opset changed.
        types: Element types that each type variable of the operator may have.
        inputs: Type variable of each input; empty where the ONNX schema of the operator says so.
        outputs: Type variable of each output; empty likewise.
    """

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def computes(self, version: int) -> bool:
        """Return whether the kernel computes a version of its operator."""
        return self.first == version or (self.last is not None and self.first <= version <= self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelList:
    """The kernels by full operator name, the operators that become others, and the version of the list, for people."""

    kernels: Mapping[str, tuple[Kernel, ...]]
    expanded: frozenset[str]
    version: str


@cache
def kernel_list() -> KernelList:
    """Return the kernels of the CUDA provider."""
    document = json.loads(KERNELS.read_text("utf-8"))
    assert document["schema"] == KERNELS_SCHEMA
    kernels = {name: tuple(_kernel(*row) for row in rows) for name, rows in document["kernels"].items()}
    versions = [source["version"] for source in document["sources"]]
    return KernelList(kernels=kernels | _UNLISTED, expanded=frozenset(document["expanded"]), version=" and ".join(versions))


def _kernel(first: int, last: int | None, types: Mapping[str, str], inputs: str = "", outputs: str = "") -> Kernel:
    return Kernel(
        first=first,
        last=last,
        types={variable: frozenset(allowed.split()) for variable, allowed in types.items()},
        inputs=tuple(inputs.split()),
        outputs=tuple(outputs.split()),
    )


_UNLISTED = {"ai.onnx::NonMaxSuppression": (_kernel(10, 10, {}), _kernel(11, 11, {}))}
"""Kernels that the published list leaves out and the provider registers (its `cuda_execution_provider.cc`)."""


def cuda_source() -> str:
    """Return who says what the CUDA provider has kernels for, for people."""
    return f"onnxruntime {kernel_list().version}, list of CUDA kernels"


def _plain(case: NodeCase) -> str | None:
    for name in (*case.node.inputs, *case.node.outputs):
        spec = case.graph.values[name]
        if spec.dtype == "undefined":
            return f"`{name}` is undefined: its type is not known"
        if not spec.is_tensor or spec.dtype == "string":
            return f"`{name}` is {spec.dtype}: strings and sequences never leave the host"
    return None


def _missing_kernel(case: NodeCase) -> str | None:
    """Return what the list lacks for the node: the operator, its version, or a kernel for the node's types."""
    op, listed = case.node.op, kernel_list()
    if op.domain not in KNOWN_DOMAINS or op.standard_type in listed.expanded:
        return None
    kernels = listed.kernels.get(str(op))
    name = str(op).removeprefix("ai.onnx::")
    if kernels is None:
        return f"{PROVIDER} has no kernel of {name} (onnxruntime {listed.version})"
    schema = _schema(case)
    version = 1 if schema is None else int(schema.since_version)
    fitting = [kernel for kernel in kernels if kernel.computes(version)]
    if not fitting:
        return f"{PROVIDER} has no kernel of {name} as opset {case.opset} has it (onnxruntime {listed.version})"
    bad = [_wrong_type(case, kernel, schema) for kernel in fitting]
    if all(bad):
        return f"{PROVIDER} has no kernel of {name} for {bad[0]} (onnxruntime {listed.version})"
    return None


def _schema(case: NodeCase) -> onnx.defs.OpSchema | None:
    """Return the ONNX schema of the node's operator at the model's opset, None for operators of onnxruntime."""
    try:
        return onnx.defs.get_schema(case.op_type, case.opset, "") if case.op_type else None
    except onnx.defs.SchemaError:
        return None


def _wrong_type(case: NodeCase, kernel: Kernel, schema: onnx.defs.OpSchema | None) -> str:
    """Return the first value whose type the kernel does not take, empty where there is none."""
    inputs, outputs = case.positions
    formal = (kernel.inputs, kernel.outputs) if schema is None else (_variables(schema.inputs), _variables(schema.outputs))
    for names, variables in zip((inputs, outputs), formal, strict=True):
        for index, name in enumerate(names):
            variable = variables[min(index, len(variables) - 1)] if variables else ""
            dtype = case.graph.values[name].dtype if name else ""
            if name and variable in kernel.types and dtype not in kernel.types[variable]:
                return f"{dtype} (`{name}`)"
    return ""


def _variables(parameters: Sequence[onnx.defs.OpSchema.FormalParameter]) -> tuple[str, ...]:
    return tuple(parameter.type_str for parameter in parameters)


_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
"""What cuDNN's recurrent layers compute, for one direction."""


def _recurrent(case: NodeCase) -> str | None:
    known = _ACTIVATIONS[case.op_type]
    wanted = [text.lower() for text in case.texts("activations")]
    odd = next((name for name in ("activation_alpha", "activation_beta", "clip") if case.has(name)), None)
    if odd is None and wanted and wanted != [known[index % len(known)] for index in range(len(wanted))]:
        odd = f"activations {', '.join(wanted)}"
    if odd is None and case.op_type == "LSTM":
        odd = "input_forget" if case.integer("input_forget", 0) else "a peephole" if case.operand(7) is not None else None
    if odd is None and case.op_type == "GRU" and not case.integer("linear_before_reset", 0):
        odd = "linear_before_reset 0"
    return None if odd is None else f"{case.op_type} with {odd}: {PROVIDER} leaves it to the CPU"


def _transposed_convolution(case: NodeCase) -> str | None:
    pads = case.integers("pads")
    half = len(pads) // 2
    if case.text("auto_pad", "NOTSET").startswith("SAME") or pads[:half] != pads[half:]:
        return f"ConvTranspose with pads that differ between the ends: {PROVIDER} leaves it to the CPU"
    return None


def _resize(case: NodeCase) -> str | None:
    """Seen on an H100 with onnxruntime 1.31: the kernel is claimed, and the run fails."""
    data, result = (case.node.inputs[0], case.node.outputs[0])
    if not case.integer("antialias", 0) or case.dtype(0) not in {"uint8", "int8"}:
        return None
    if not case.graph.knows_shape(data) or not case.graph.knows_shape(result):
        return None
    before, after = case.graph.shape(data), case.graph.shape(result)
    channels_last = len(before) == 4 and before[1] != after[1] and before[3] == after[3]
    return "NHWC antialias resize is not supported for 8-bit integer types on CUDA" if channels_last else None


_ATTRIBUTE_RULES: Mapping[str, Rule] = {
    "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent, "ConvTranspose": _transposed_convolution, "Resize": _resize,
}  # fmt: skip


def _attributes(case: NodeCase) -> str | None:
    rule = _ATTRIBUTE_RULES.get(case.op_type)
    return None if rule is None else rule(case)


CUDA_RULES: tuple[Rule, ...] = (_plain, _missing_kernel, _attributes)
"""In this order; the first refusal is the answer."""
