"""The project around the runtime is valid Python, TOML and Markdown, whatever the model and its tensors are called."""

import ast
import re
import tomllib
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset import __version__
from cutset.codegen.package import package_name
from cutset.codegen.project import REQUIREMENTS, write_project
from cutset.graph.load import load
from cutset.profilers.inputs import SampleInputs, read_npz
from tests.support import make_plan

HOSTILE = [
    "plain", '"""', "'; import os; os.abort()  #", "a\nb = 1", "```\n# heading", "{{ 7 * 7 }}{% raw %}", "\\", "\\u0022",
    "\x01\x1b\x7f",
    "$(reboot)", "`id`", "</script>", "日本 語", "\U0001f600", "../../etc", "x" * 300, "a.npy", "[project]\nname='z'", " ",
]  # fmt: skip


@pytest.fixture(scope="module")
def graph(save_model):
    """A model with a tensor of every hostile name, in and out."""
    ins, outs = [f"{name}<in" for name in HOSTILE], [f"{name}<out" for name in HOSTILE]
    nodes = [helper.make_node("Relu", [i], [o]) for i, o in zip(ins, outs, strict=True)]
    info = TensorProto.FLOAT, [2]
    return load(save_model(nodes, [(name, *info) for name in ins], [(name, *info) for name in outs]))


def write(graph, folder, name="model", custom_ops=()):
    package = package_name(name)
    (folder / package).mkdir(parents=True)
    plan = replace(make_plan(graph, {node.name: "cpu" for node in graph.placeable}), name=name)
    sample = {spec.name: np.arange(2, dtype=np.float32) for spec in graph.inputs}
    write_project(plan, SampleInputs(samples=(sample,), origin="test"), folder, package, custom_ops)
    return package


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_every_name_of_a_model(graph, tmp_path, name):
    package = write(graph, tmp_path, name)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["name"] == package
    assert project["project"]["version"] == __version__
    assert name in project["project"]["description"]
    assert project["tool"]["setuptools"]["packages"] == [package, f"{package}.runtime", f"{package}.runtime.backends"]
    assert set(project["tool"]) == {"setuptools"}
    readme = (tmp_path / "README.md").read_text("utf-8")
    blocks = code_blocks(readme, "python")
    assert len(blocks) == 2
    literals = [n.value for block in blocks for n in ast.walk(ast.parse(block)) if isinstance(n, ast.Constant)]
    assert name in literals
    urls = [word for block in code_blocks(readme, "sh") for word in block.split() if word.startswith("http")]
    assert [unquote(url.rpartition("/")[2]) for url in urls] == [name]
    for module in ("__init__.py", "__main__.py"):
        compile((tmp_path / package / module).read_text("utf-8"), module, "exec")


def test_every_name_of_a_tensor(graph, tmp_path):
    write(graph, tmp_path)
    blocks = code_blocks((tmp_path / "README.md").read_text("utf-8"), "python")
    literals = {n.value for block in blocks for n in ast.walk(ast.parse(block)) if isinstance(n, ast.Constant)}
    assert {spec.name for spec in (*graph.inputs, *graph.outputs)} <= literals
    assert {"7 * 7", "49"}.isdisjoint(literals)


def test_the_sample_can_be_read_back(graph, tmp_path):
    write(graph, tmp_path)
    sample = read_npz(tmp_path / "sample.npz", graph.inputs)
    assert len(sample) == len(HOSTILE)
    with np.load(tmp_path / "sample.npz") as opened:
        assert sorted(opened.files) == sorted(sample)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pyproject.toml",
        "README.md",
        "Dockerfile",
        "sample.npz",
        "model_serving",
    }


def test_the_dockerfile_names_the_package(graph, tmp_path):
    package = write(graph, tmp_path, "a\nRUN reboot")
    lines = (tmp_path / "Dockerfile").read_text("utf-8").splitlines()
    assert package == "a_run_reboot_serving"
    assert f"COPY {package} ./{package}" in lines
    assert not any("reboot" in line and line.startswith("RUN") for line in lines)
    assert "USER serve" in lines


def test_requirements(graph, tmp_path):
    write(graph, tmp_path, custom_ops=[{"module": "onnxruntime_extensions"}, {"file": "custom_ops/00.so"}])
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[>=]", entry)[0] for entry in project["dependencies"]]
    assert names == [*REQUIREMENTS, "onnxruntime-extensions"]
    assert all(re.fullmatch(r"[a-z-]+(>=[\d.]+)?", entry) for entry in project["dependencies"])
    (gpu,) = [entry for entry in project["optional-dependencies"]["gpu"] if entry.startswith("onnxruntime-gpu")]
    assert gpu.replace("-gpu", "") in project["dependencies"]
