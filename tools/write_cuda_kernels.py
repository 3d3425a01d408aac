"""Write partitioner/data/cuda_kernels.json: what onnxruntime's CUDA provider lists kernels for, by operator, opset and type.

The facts come from docs/OperatorKernels.md, which onnxruntime generates from the kernels that it registers:

    python tools/write_cuda_kernels.py 1.21.0=OperatorKernels.md [LABEL=MORE.md ...]

Later lists, or parts of lists, add to earlier ones, so that a model for which any of these versions has a kernel is not
refused; a kernel that a later list closes (`11+` becomes `[11, 21]`) is closed. The label is the version or the commit of a
list; the file says how many kernels were read from each.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

TARGET = Path(__file__).resolve().parent.parent / "partitioner" / "data" / "cuda_kernels.json"
SCHEMA = "cutset.cuda-kernels/1"
SECTION = "## Operators implemented by "
DOMAINS = ("ai.onnx", "com.microsoft")
RENAMED = {"float": "float32", "double": "float64"}

Kernel = dict[str, Any]


def rows_of(text: str, provider: str) -> Iterator[tuple[str, Kernel]]:
    """Yield the full name of each operator with one of its kernels: first and last opset, parameters, types."""
    section = text.partition(f"{SECTION}{provider}")[2].partition(SECTION)[0]
    domain = name = parameters = ""
    for line in section.splitlines():
        heading = re.search(r"\*\*Operator Domain:\*\* \*(.+?)\*", line)
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if heading is not None:
            domain = heading[1]
        elif len(cells) == 4 and domain in DOMAINS and re.fullmatch(r"\d+\+?|\[\d+, \d+\]", cells[2]):
            name, parameters = (cells[0], cells[1]) if cells[0] else (name, parameters)
            yield f"{domain}::{name}", _kernel(cells[2], parameters, cells[3])


def _kernel(versions: str, parameters: str, types: str) -> Kernel:
    numbers = [int(number) for number in re.findall(r"\d+", versions)]
    last = None if versions.endswith("+") else numbers[-1]
    constraints = re.findall(r"\*\*(\w+)\*\* = ((?:(?!\*\*).)+)", types)
    allowed = {variable: sorted(set(_tensors(listed))) for variable, listed in constraints}
    first = parameters.partition("<br><br>or<br><br>")[0]
    return {
        "first": numbers[0],
        "last": last,
        "types": {variable: listed for variable, listed in allowed.items() if listed},
        "inputs": re.findall(r"\*in\* [\w.]+:\*\*(.+?)\*\*", first),
        "outputs": re.findall(r"\*out\* [\w.]+:\*\*(.+?)\*\*", first),
    }


def _tensors(listed: str) -> Iterator[str]:
    return (RENAMED.get(name, name) for name in re.findall(r"(?<!\()tensor\((\w+)\)", listed))


def merged(texts: list[str]) -> dict[str, list[Kernel]]:
    """Return the kernels of every operator, the latest first; of kernels of one first opset the later list's."""
    found: dict[str, dict[int, Kernel]] = {}
    for text in texts:
        for name, kernel in rows_of(text, "CUDAExecutionProvider"):
            found.setdefault(name, {})[kernel["first"]] = kernel
    return {name: [kernels[first] for first in sorted(kernels, reverse=True)] for name, kernels in sorted(found.items())}


def expanded(texts: list[str], kernels: dict[str, list[Kernel]]) -> list[str]:
    """Return the operators without a kernel on any device whose definition consists of operators that CUDA has kernels of.

    onnxruntime replaces such a node by its definition.
    """
    hosted = {name for text in texts for name, _ in rows_of(text, "CPUExecutionProvider")}
    return sorted(
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if not schema.domain and f"ai.onnx::{schema.name}" not in hosted | set(kernels) and schema.has_function
        and all(node.op_type == "Constant" or f"ai.onnx::{node.op_type}" in kernels for node in schema.function_body.node)
    )  # fmt: skip


def compact(name: str, kernel: Kernel) -> list[Any]:
    """Return a kernel as the file holds it; parameters are left out where the ONNX schema says them."""
    row = [kernel["first"], kernel["last"], {variable: " ".join(listed) for variable, listed in kernel["types"].items()}]
    domain, _, op_type = name.partition("::")
    if domain != "ai.onnx" or not onnx.defs.has(op_type):
        row += [" ".join(kernel["inputs"]), " ".join(kernel["outputs"])]
    return row


def main(arguments: list[str]) -> None:
    """Write the file from lists given as LABEL=PATH."""
    sources, texts = [], []
    for argument in arguments:
        label, _, path = argument.partition("=")
        texts.append(Path(path).read_text("utf-8"))
        about = {"list": "onnxruntime docs/OperatorKernels.md", "version": label}
        about["sha256"] = hashlib.sha256(texts[-1].encode()).hexdigest()
        sources.append({**about, "kernels": len(list(rows_of(texts[-1], "CUDAExecutionProvider")))})
    kernels = merged(texts)
    lines = [f"  {json.dumps(name)}: {json.dumps([compact(name, one) for one in kernels[name]])}" for name in kernels]
    head = {"schema": SCHEMA, "sources": sources, "expanded": expanded(texts, kernels)}
    body = json.dumps(head, indent=1)[:-2]
    TARGET.write_text(f'{body},\n "kernels": {{\n' + ",\n".join(lines) + "\n }\n}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
