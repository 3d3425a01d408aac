"""Write the files around the runtime that make the serving package a project of its own.

Templates hold everything but names and versions; whatever comes from a model passes through a filter that quotes it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from cutset import __version__
from cutset.advisory import advisory
from cutset.cascade.hooks import SUFFIX, requirements_of
from cutset.codegen.report.text import counted
from cutset.codegen.runtime.bench import encode_request
from cutset.codegen.runtime.config import TensorConfig
from cutset.codegen.runtime.dtypes import ELEMENT_TYPES
from cutset.partitioner.plan import Plan
from cutset.profilers.inputs import SampleInputs, write_npz

TEMPLATES = Path(__file__).with_name("templates")
GPU_RUNTIME = "onnxruntime-gpu[cuda,cudnn]>=1.25,<2"
"""With the CUDA and cuDNN that it was built for. Its releases come after those of onnxruntime, so not at least the same."""
REQUIREMENTS = ("numpy", "onnxruntime", "uvicorn", "httptools", "uvloop")
"""What the runtime imports, or uvicorn where it is there: on uvloop it served half as many large requests again."""
EXTRAS = {
    "grpc": ("grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf"),
    "metrics": ("prometheus-client",),
    "tracing": ("opentelemetry-api", "opentelemetry-distro", "opentelemetry-exporter-otlp"),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
}
"""What it imports where it is there, by the extra that brings it."""
GPU_TOOLS = ("nvidia-ml-py",)
"""What the GPU extra brings beside `GPU_RUNTIME`."""
KNOWN_RANGES = {
    "numpy": ">=1.26,<3",
    "onnxruntime": ">=1.25,<2",
    "onnxruntime-extensions": ">=0.13,<1",
    "uvicorn": ">=0.30,<1",
    "httptools": ">=0.6,<1",
    "uvloop": ">=0.19,<1",
    "grpcio": ">=1.67.1,<2",
    "grpcio-health-checking": ">=1.67.1,<2",
    "grpcio-reflection": ">=1.67.1,<2",
    "protobuf": ">=5.26,<7",
    "prometheus-client": ">=0.20,<1",
    "opentelemetry-api": ">=1.27,<2",
    "opentelemetry-distro": ">=0.48b0,<1",
    "opentelemetry-exporter-otlp": ">=1.27,<2",
    "tensorrt": ">=10.13,<11",
    "tensorrt-rtx": ">=1.4,<2",
    "nvidia-ml-py": ">=12.535,<14",
}
"""Releases that are known to work, for what is not installed where a package is compiled."""
EXAMPLES = ("client_triton.py", "client_requests.py", "client.sh")


def write_project(
    plan: Plan, samples: SampleInputs, serving: Path, package: str, custom_ops: Sequence[Mapping[str, str]]
) -> None:
    """Write pyproject.toml, README.md, the container files, the example clients and the package's two modules.

    Args:
        plan: The plan that is served.
        samples: Inputs that were verified; the first becomes ``sample.npz``, which the examples use.
        serving: Folder of the project.
        package: Importable name of the package inside it.
        custom_ops: Entries of the plan's ``custom_ops``.
    """
    environment = templates()
    archives = [serving / package / entry["file"] for entry in custom_ops if Path(entry.get("file", "")).suffix == SUFFIX]
    variables = _variables(plan, package, custom_ops, [wanted for path in archives for wanted in requirements_of(path)])
    files = {
        serving / "pyproject.toml": "pyproject.toml.j2",
        serving / "README.md": "README.md.j2",
        serving / "Dockerfile": "Dockerfile.j2",
        serving / "Dockerfile.gpu": "Dockerfile.gpu.j2",
        serving / "compose.yaml": "compose.yaml.j2",
        serving / ".dockerignore": "dockerignore.j2",
        serving / package / "__init__.py": "package_init.py.j2",
        serving / package / "__main__.py": "package_main.py.j2",
    }
    if plan.inputs and len(variables["inputs"]) == len(plan.inputs):
        examples = serving / "examples"
        with advisory("writing example clients"):
            body, variables["request_header_length"] = encode_request(_signature(plan), samples.samples[0], binary_output=False)
            examples.mkdir()
            (examples / "request.bin").write_bytes(body)
            files |= {examples / name: f"{name}.j2" for name in EXAMPLES}
    for path, template in files.items():
        path.write_text(environment.get_template(template).render(variables), "utf-8")
    write_npz(serving / "sample.npz", samples.samples[0])
    shutil.copyfile(serving / "sample.npz", serving / package / "sample.npz")  # what the installed server warms up with


def _variables(plan: Plan, package: str, custom_ops: Sequence[Mapping[str, str]], of_hooks: Sequence[str]) -> dict[str, Any]:
    """Return what the templates show."""
    modules = [entry["module"].replace("_", "-") for entry in custom_ops if "module" in entry]
    runtime = [*(requirement(name) for name in [*REQUIREMENTS, *modules]), *of_hooks]
    return {
        "package": package,
        "name": plan.name,
        "url_name": quote(plan.name, safe=""),
        "image": package.replace("_", "-"),
        "version": __version__,
        "summary": f"Serves a model in {len(plan.stages)} stage(s): {' -> '.join(s.device for s in plan.stages)}.",
        "requirements": runtime,
        "gpu_runtime": GPU_RUNTIME,
        "gpu_requirements": [GPU_RUNTIME, *(requirement(name) for name in GPU_TOOLS)],
        "extras": {extra: [requirement(name) for name in names] for extra, names in EXTRAS.items()},
        "inputs": _inputs(plan),
        "outputs": [spec.name for spec in plan.outputs if spec.is_tensor],
    }


def _signature(plan: Plan) -> list[TensorConfig]:
    """Return the inputs as the runtime knows them."""
    return [TensorConfig(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in plan.inputs]


@cache
def templates() -> jinja2.Environment:
    """Return the templates, compiled once in a process, with filters that quote for each language they are written in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - these are not HTML; each filter quotes for its own language
    )
    environment.filters |= {"pystr": _python_string, "toml": _toml_string, "json": json.dumps}
    environment.filters |= {"sh": shlex.quote, "counted": counted}
    return environment


def requirement(name: str) -> str:
    """Return a requirement bounded on both sides: at least the installed release, below the next that may break with it.

    What may break is the next major release, or below 1.0 the next minor one: the server builds on parts of uvicorn that
    change between those. What is not installed here is bounded by `KNOWN_RANGES`.

    Source:
        Semantic Versioning 2.0.0, sections 4 and 8.
    """
    try:
        found = re.match(r"(\d+)(?:\.(\d+))?(?:\.\d+)*(?:(?:a|b|rc)\d+)?", version(name))
    except PackageNotFoundError:
        found = None
    if found is None:
        return name + KNOWN_RANGES.get(name, "")
    major, minor = int(found[1]), int(found[2] or 0)
    return f"{name}>={found[0]},<{major + 1}" if major else f"{name}>={found[0]},<0.{minor + 1}"


def _inputs(plan: Plan) -> list[dict[str, str]]:
    """Return the name and protocol type of the inputs."""
    kinds = [(spec.name, ELEMENT_TYPES.get(spec.dtype)) for spec in plan.inputs]
    return [{"name": name, "datatype": kind.datatype} for name, kind in kinds if kind is not None]


def _python_string(text: str) -> str:
    """Return a Python literal of any text, safe inside a Markdown code block too."""
    return ascii(text).replace("`", "\\x60")


def _toml_string(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's too, but for the surrogate pairs of ASCII-only JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
