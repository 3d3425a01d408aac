"""The launcher's arguments and failures, and what a copied runtime needs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cutset.codegen import runtime
from cutset.codegen.runtime.allocator import keep_freed_memory
from cutset.codegen.runtime.main import main


@pytest.mark.parametrize(
    "argument",
    [["--port", "70000"], ["--port", "x"], ["--grace", "-1"], ["--grace", "nan"], ["--tokens", "0"], ["--port", "9" * 5000]],
)
def test_a_bad_argument_is_refused(capsys, argument):
    with pytest.raises(SystemExit) as caught:
        main(argument)
    assert caught.value.code == 2
    assert argument[0] in capsys.readouterr().err


def test_a_bad_folder_is_one_message(tmp_path, capsys):
    assert main([], tmp_path) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: cannot read the plan")


def test_a_bound_in_common_below_one_request_is_one_message(chain, capsys):
    assert main(["--max-held-mb", "10", "--max-body-mb", "11"], chain(1).folder) == 1
    assert "--max-held-mb 10 is less" in capsys.readouterr().err


def test_a_taken_port_is_one_message(chain, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["--port", str(taken.getsockname()[1])], chain(1).folder) == 1
    assert capsys.readouterr().err.startswith("error: cannot listen on 127.0.0.1:")


def test_the_allocator_setting_is_guarded():
    has_glibc = "glibc" in os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else False
    assert keep_freed_memory() is has_glibc


def test_a_copy_runs_without_cutset(chain, tmp_path):
    """The folder is copied into packages as it is: it may import nothing but its own and the declared libraries."""
    package = chain(2)
    target = tmp_path / "copy" / "m_serving"
    shutil.copytree(Path(runtime.__file__).parent, target / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package.folder, target, dirs_exist_ok=True)
    templates = Path(runtime.__file__).parents[1] / "templates"
    shutil.copy(templates / "package_init.py.j2", target / "__init__.py")
    shutil.copy(templates / "package_main.py.j2", target / "__main__.py")
    code = (
        "import sys, m_serving, m_serving.runtime.main\n"
        "with m_serving.Pipeline.load() as p: print(p.run({'t0': [1.0]})['t2'].tolist())\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('cutset', 'onnx', 'jinja2', 'msgspec')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=target.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3.0]\n", "")
    shown = subprocess.run(
        [sys.executable, "-m", "m_serving", "--help"],
        cwd=target.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.stdout.startswith("usage: python -m m_serving")
