"""What the documents tell a reader to type is run, and what they say of the commands is compared with the commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.cli.main import COMMANDS, cli
from cutset.codegen.runtime.main import _parser
from tests.e2e.harness import onnx_file

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line of a shell block that starts cutset."""
    lines = [line for document in DOCUMENTS for block in blocks(document, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("cutset ")]


def test_the_command_reference_is_the_commands_own():
    """In a process of its own: click keeps the help option of the first context it was asked in."""
    code = "from tools.write_cli_reference import reference; print(reference(), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert (ROOT / "docs" / "cli.md").read_bytes() == done.stdout, "write it anew: make docs"


def test_there_are_commands_to_check():
    assert any(line.startswith("cutset partition") for line in commands())
    assert any(line.startswith("cutset serve") for line in commands())


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documents_parses(line):
    _, name, *words = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    command.make_context(name, words, resilient_parsing=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_and_commands_named_in_the_text_exist(document):
    text = document.read_text("utf-8")
    context = click.Context(cli)
    known = {option for name in COMMANDS for parameter in cli.get_command(context, name).params for option in parameter.opts}
    known |= {"--help", "--version", "--url", "--compute-capability"} | {
        word for action in _parser()._actions for word in action.option_strings
    }
    named = {match for code in re.findall(r"`([^`\n]+)`", text) for match in re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)}
    assert named - known <= OF_OTHER_TOOLS
    assert set(re.findall(r"`cutset ([a-z]+)", text)) <= set(COMMANDS)


OF_OTHER_TOOLS = {"--no-deps", "--target", "--only", "--markdown"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_make_verb_of_the_documents_exists():
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks(document, "sh")), re.MULTILINE))
        named |= set(re.findall(r"`make ([a-z]+)`", document.read_text("utf-8")))
        assert named <= rules, document.name


def test_every_function_in_how_it_works_can_be_imported():
    names = re.findall(r"`(cutset\.[a-z_.]+)`", (ROOT / "docs" / "how-it-works.md").read_text("utf-8"))
    assert len(names) >= 4
    for name in names:
        module, _, function = name.rpartition(".")
        assert callable(getattr(__import__(module, fromlist=[function]), function)), name


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package that the README's two commands make of a file called model.onnx."""
    folder = tmp_path_factory.mktemp("readme")
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    shape = ["n", 4]
    onnx_file(folder / "model.onnx", [node], [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)])
    words = ["partition", str(folder / "model.onnx"), "-o", str(folder / "out"), "--target", "t4"]
    words += ["--profile-seconds", "0.1", "--cache", "none", "-q", "--json"]
    subprocess.run([sys.executable, "-m", "cutset", *words], check=True, stdout=subprocess.DEVNULL)
    return folder / "out"


@pytest.mark.parametrize("document", ["README.md", "package"])
def test_the_python_of_the_documents_runs(document, package):
    """The snippet runs as it stands, where it says it does."""
    place = package / "serving"
    snippets = blocks(ROOT / "README.md" if document == "README.md" else place / "README.md", "python")
    snippet = next(text for text in snippets if "Pipeline.load" in text)
    environment = {**os.environ, "PYTHONPATH": "."}
    words = [sys.executable, "-c", snippet]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=True)
    with np.load(place / "sample.npz") as sample:
        first = f"{np.maximum(sample['x'], 0).flat[0]:.8f}"
    assert first[:6] in done.stdout, done.stdout


def test_the_packages_example_clients_answer(package):
    place = package / "serving"
    name = next(place.glob("*_serving")).name
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, "-m", name, "--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            url = server.stdout.readline().removeprefix("ready: ").strip()
            grpc = server.stdout.readline().removeprefix("grpc: ").strip()
            http = url.removeprefix("http://").partition("/")[0]
            examples = place / "examples"
            for call in (
                [sys.executable, examples / "client_triton.py", "http", http],
                [sys.executable, examples / "client_triton.py", "grpc", grpc],
                [sys.executable, examples / "client_requests.py", url],
                ["sh", examples / "client.sh", http],
            ):
                done = subprocess.run([str(word) for word in call], capture_output=True, text=True, timeout=60, check=False)
                if call[0] == "sh" and done.returncode == 127:
                    continue  # no curl here
                assert done.returncode == 0, done.stderr
                with np.load(place / "sample.npz") as sample:
                    first = f"{np.maximum(sample['x'], 0).flat[0]:.8f}"
                assert first[:6] in done.stdout, done.stdout
        finally:
            server.terminate()


def test_the_packages_own_client_snippet_is_whole(package):
    code = next(text for text in blocks(package / "serving" / "README.md", "python") if "tritonclient" in text)
    compile(code, "README.md", "exec")
    assert '"x"' in code or "'x'" in code
