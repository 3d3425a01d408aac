"""The package's project files are valid whatever the model's names are."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import jinja2
import pytest

from cutset.codegen import runtime

EVIL = '"""\n`; rm -rf / #\'\\ {{ 7*7 }} \x00 é ```'


def toml_string(text: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, except that DEL must be escaped too."""
    return json.dumps(text).replace("\x7f", "\\u007f")


@pytest.fixture
def render():
    folder = Path(runtime.__file__).parents[1] / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters.update(toml=toml_string, pystr=ascii, json=json.dumps)
    variables = {
        "package": "m_serving",
        "name": EVIL,
        "version": "0.1",
        "summary": "Two stages.",
        "image": "m-serving",
        "url_name": "m",
        "requirements": ["numpy>=1.26"],
        "gpu_requirements": ["onnxruntime-gpu>=1.20"],
        "extras": {"grpc": ["grpcio>=1.60"]},
        "inputs": [{"name": EVIL, "datatype": "FP32"}],
        "outputs": [EVIL],
    }
    return lambda name: environment.get_template(name).render(variables)


def test_pyproject(render):
    document = tomllib.loads(render("pyproject.toml.j2"))
    assert document["project"]["name"] == "m_serving"
    assert document["project"]["description"] == f"The model {EVIL}, split into stages and served"
    assert document["project"]["dependencies"] == ["numpy>=1.26"]
    assert document["project"]["optional-dependencies"] == {
        "gpu": ["onnxruntime-gpu>=1.20"],
        "grpc": ["grpcio>=1.60"],
    }
    assert document["tool"]["setuptools"]["packages"] == ["m_serving", "m_serving.runtime", "m_serving.runtime.backends"]


def test_the_package_lists_every_folder_of_the_runtime(render):
    root = Path(runtime.__file__).parent
    folders = {
        "m_serving.runtime" + "".join(f".{part}" for part in path.parent.relative_to(root).parts)
        for path in root.rglob("__init__.py")
    }
    assert folders < set(tomllib.loads(render("pyproject.toml.j2"))["tool"]["setuptools"]["packages"])


def test_the_readmes_python_is_python_and_keeps_the_names(render):
    blocks = re.findall(r"^```python\n(.*?)^```$", render("README.md.j2"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    in_process, over_http = (
        {node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)} for block in blocks
    )
    assert "sample.npz" in in_process
    assert EVIL in over_http


def test_the_packages_modules_export_what_the_runtime_does(render):
    tree = ast.parse(render("package_init.py.j2"))
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == sorted(runtime.__all__)
    ast.parse(render("package_main.py.j2"))


def test_the_image_runs_as_a_user_and_checks_its_health(render):
    lines = render("Dockerfile.j2").splitlines()
    assert "USER 10001" in lines
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    words = json.loads(entry.removeprefix("ENTRYPOINT "))
    assert words == ["python", "-m", "m_serving", "--host", "0.0.0.0", "--port", "8000", "--grpc-port", "8001"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
