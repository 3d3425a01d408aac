"""Models whose names try to break out: the package builds, installs, serves, and writes nothing outside its folder."""

from __future__ import annotations

import ast
import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.profilers.inputs import write_npz
from tests.e2e.harness import (
    PATIENCE_S,
    QUICK,
    ask,
    assert_equal,
    child,
    load_inputs,
    onnx_file,
    package_of,
    ready_url,
    stop,
    whole_model,
)

FLOAT = TensorProto.FLOAT
STEM = "{{7*7}} $(touch pwned) `id` '\"<script>alert(1)</script> ..%2f ünï"
FILES = {"graph.json", "manifest.json", "plan.json", "problem.json", "profile.json", "report.html", "serving"}
HOSTILE = [
    "../../../tmp/escaped",
    "'\"; import os; os.abort() #",
    "<script>alert('x')</script><img src=x onerror=alert(2)>",
    "`touch pwned` $(touch pwned)",
    "line\nbreak\r\n\tand tab",
    "{{7*7}} {% raw %} ${7*7} %s %d {0}",
    "]]> --> */ \\ \\n \\u0000",
    "long " * 80,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A chain of matrix products through strings of hostile names, split by a pin."""
    source, text, label = HOSTILE[0], HOSTILE[1], HOSTILE[2]
    nodes, value = [], source
    for index, name in enumerate(HOSTILE[3:]):
        nodes.append(helper.make_node("MatMul", [value, f"w {name}"], [name], name=f"node {name}"))
        value = HOSTILE[3 + index]
    nodes.append(helper.make_node("StringConcat", [text, text], [label], name=f"strings {label}"))
    inputs = [(source, FLOAT, ["batch'\"<b>\n", 32]), (text, TensorProto.STRING, ["../n"])]
    outputs = [(value, FLOAT, ["batch'\"<b>\n", 32]), (label, TensorProto.STRING, ["../n"])]
    rng = np.random.default_rng(0)
    weights = {f"w {name}": rng.normal(size=(32, 32)).astype(np.float32) / 8 for name in HOSTILE[3:]}
    folder = tmp_path_factory.mktemp("hostile") / "models"
    folder.mkdir()
    path = onnx_file(folder / f"{STEM.replace('/', '')}.onnx", nodes, inputs, outputs, weights=weights, name="g <b>\n../x")
    write_npz(path.with_suffix(".npz"), {source: rng.random((2, 32), np.float32), text: np.array(["a", "<b>"], object)})
    return path


@pytest.fixture(scope="module")
def package(model, long_cutset):
    """The output folder, and the names of the files around it before and after."""
    target = model.parents[1] / "out" / "package"
    target.parent.mkdir()
    done = long_cutset.partition(model, target, "--pin", "op:MatMul=gpu")
    assert done.code == 0, done.err
    return target


def test_nothing_is_written_outside_the_folder(package, model, long_cutset):
    assert [path.name for path in package.parent.iterdir()] == ["package"]
    assert len(list(model.parent.iterdir())) == 2
    assert long_cutset.left_in_tmp() == []
    assert list(long_cutset.folder.iterdir()) == [long_cutset.tmp]
    assert {path.name for path in package.iterdir()} == FILES
    known = json.loads((package / "manifest.json").read_text())["files"]
    assert all(Path(name).name.replace(".", "").replace("_", "").isalnum() for name in known), list(known)
    assert package_of(package / "serving").name.isidentifier()


def test_the_written_files_parse_and_run_nothing(package):
    serving = package / "serving"
    assert tomllib.loads((serving / "pyproject.toml").read_text("utf-8"))["project"]["name"] == package_of(serving).name
    for path in serving.rglob("*.py"):
        ast.parse(path.read_text("utf-8"))
    readme = (serving / "README.md").read_text("utf-8")
    blocks = [block.removeprefix("python\n") for block in readme.split("```")[1::2] if block.startswith("python\n")]
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)
    assert "{{7*7}}" in readme, "the name is shown, not computed"
    assert "<script>" not in (serving / "Dockerfile").read_text("utf-8")


class Elements(html.parser.HTMLParser):
    """Collects what a browser would run."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.data: list[str] = []
        self.handlers: list[str] = []
        self.images: list[str] = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        if self._inside:
            self._texts = self.data if ("type", "application/json") in attrs else self.scripts
            self._texts.append("")
        self.images += [tag] if tag == "img" else []
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self._texts[-1] += data


def test_the_report_shows_the_names_and_runs_none(package):
    text = (package / "report.html").read_text("utf-8")
    page = Elements()
    page.feed(text)
    assert page.scripts
    assert all("alert(" not in script for script in page.scripts)
    assert all("<" not in data and json.loads(data) for data in page.data), "data could end its element early"
    assert page.handlers == []
    assert page.images == []
    assert "&lt;script&gt;" in text


def test_the_server_answers_under_the_hostile_name(package, model, alone, cutset):
    inputs = load_inputs(model)
    expected = whole_model(model, inputs)
    assert len(json.loads((package / "plan.json").read_text())["stages"]) > 1
    assert_equal(alone.answers(package / "serving", package / "serving" / "sample.npz"), expected)
    with alone.served(package / "serving") as (process, url):
        assert_equal(ask(url, inputs), expected)
        assert stop(process, signal.SIGTERM)[0] == 0
    with cutset.started("serve", package, "--port", "0") as process:
        assert_equal(ask(ready_url(process), inputs), expected)
        assert stop(process, signal.SIGTERM)[0] == 0
    assert list(alone.where.glob("pwned")) == []


def test_the_package_installs_and_serves_from_where_pip_puts_it(package, model, alone, without_cutset, tmp_path):
    site = tmp_path / "site"
    copy = tmp_path / "checkout"
    shutil.copytree(package / "serving", copy)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--root-user-action", "ignore", "--target", str(site), str(copy)],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = package_of(package / "serving").name
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {name}
    wanted = {path.relative_to(package / "serving") for path in package_of(package / "serving").rglob("*") if path.is_file()}
    found = {path.relative_to(site) for path in (site / name).rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path for path in wanted if path.suffix != ".pyc"} == found
    inputs = load_inputs(model)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(without_cutset), str(site)])}
    with child([sys.executable, "-m", name, "--port", "0"], cwd=tmp_path, env=environment) as process:
        assert_equal(ask(ready_url(process), inputs), whole_model(model, inputs))
        assert stop(process, signal.SIGTERM)[0] == 0


def test_hostile_names_are_shown_by_every_command(model, long_cutset):
    for command in (("inspect",), ("profile", "--target", "t4", *QUICK)):
        shown = long_cutset(*command, model)
        assert shown.code == 0, shown.err
        assert "{{7*7}}" in shown.out
        assert any(HOSTILE[2] in text for text in strings_in(long_cutset(*command, model, "--json").json))


def strings_in(value: object) -> list[str]:
    """Return every string of a JSON document."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *strings_in(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in strings_in(inner)]
    return [value] if isinstance(value, str) else []
