"""Heavy libraries are imported when they are needed: `--help` is quick, and optional ones are optional."""

import json
import subprocess
import sys

import pytest

HEAVY = {"onnx", "onnx_ir", "onnxruntime", "numpy", "scipy", "networkx", "msgspec", "jinja2"}
OPTIONAL = {"tensorrt", "ray", "tritonclient", "onnxruntime_extensions", "skimage", "starlette", "uvicorn", "matplotlib"}

REPORT = "import json, sys; sys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


def imported(code):
    """Run code in a process of its own and return the top-level modules that it left imported."""
    command = [sys.executable, "-c", f"{code}\n{REPORT}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stderr)), done.stdout


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    modules, printed = imported(f"from cutset.cli.main import run\nassert run({words}) == 0")
    assert modules & (HEAVY | OPTIONAL) == set()
    assert "cutset" in printed


def test_importing_the_package_imports_nothing():
    modules, _ = imported("import cutset")
    assert modules & (HEAVY | OPTIONAL | {"click", "rich"}) == set()


def test_partition_needs_no_optional_library():
    modules, _ = imported("import cutset.cli.commands.partition")
    assert {"onnx", "onnxruntime"} <= modules
    assert modules & OPTIONAL == set()


def test_asking_whether_tensorrt_is_there_imports_nothing_else():
    """`partition` asks in a process of its own, each time."""
    modules, _ = imported("import cutset.profilers.child, cutset.profilers.tensorrt_library")
    assert modules & (HEAVY | OPTIONAL) == set()


COMMANDS = ["doctor", "inspect", "profile", "compose", "partition", "serve", "samples"]


def test_every_command_imports_without_the_optional_libraries():
    """With the optional libraries forbidden, each command's module still imports."""
    forbid = f"import sys\nfor name in {sorted(OPTIONAL)}: sys.modules[name] = None"
    load = "\n".join(f"import cutset.cli.commands.{name}" for name in COMMANDS)
    check = "from cutset.cli.main import COMMANDS\nassert set(COMMANDS) >= " + repr(set(COMMANDS))
    imported(f"{forbid}\n{load}\n{check}")
