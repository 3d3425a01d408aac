"""Export a torch module with one of torch's two exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.exported.subject import Draw

OPSETS = {"torchscript": 17, "dynamo": 18}
SPREAD = 30.0
EXAMPLE = 2
"""Index of the inputs that are traced: no free size of theirs is 1, for torch.export takes a 1 for a constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A module with all that its export takes.

    Args:
        module: Takes the inputs in their order.
        draw: Draws the inputs.
        free: Names of the axes that may change, by input and axis.
        outputs: Names of the outputs.
    """

    module: torch.nn.Module
    draw: Draw
    free: Mapping[str, Mapping[int, str]]
    outputs: Sequence[str]


def export(exported: Exported, exporter: str, path: Path) -> Draw:
    """Write the file, and return how to draw inputs."""
    inputs = exported.draw(EXAMPLE)
    arguments = tuple(torch.from_numpy(array) for array in inputs.values())
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(exported.outputs)}
    names["opset_version"] = OPSETS[exporter]
    module = exported.module.eval()
    with torch.no_grad():
        if exporter == "torchscript":
            torch.backends.mha.set_fastpath_enabled(False)  # the fused operator has no ONNX form
            free = {name: dict(axes) for name, axes in exported.free.items()}
            torch.onnx.export(module, arguments, str(path), dynamo=False, dynamic_axes=free, **names)
        else:
            shapes = tuple(dict(exported.free.get(name, {})) or None for name in inputs)
            torch.onnx.export(module, arguments, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
    return exported.draw


def seed() -> None:
    """Make the weights that are drawn next the same each time."""
    torch.manual_seed(0)


def settle(module: torch.nn.Module, *inputs: torch.Tensor) -> None:
    """Give every BatchNorm the statistics of some inputs: without them random weights answer the same to every input."""
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(*inputs)
    module.eval()
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum


def spread(*heads: torch.nn.Module) -> None:
    """Multiply the weights of heads that score boxes: random ones give every box the same score."""
    with torch.no_grad():
        for head in heads:
            head.weight *= SPREAD
