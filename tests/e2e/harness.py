"""Running the command line as a user does, and looking at what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.http as triton
from onnx import helper

from cutset.codegen.verify import NOISE_FACTOR
from cutset.errors import UnavailableError
from cutset.sample_models import classifier, registry
from tests.e2e import in_process

READY = "ready: "
QUICK = ("--profile-seconds", "0.2")
PATIENCE_S = 120


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a child ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command that was run with ``--json``, after checking that it is all there is on stdout."""
        document = self.json
        assert list(document) == ["error"], document
        assert "Traceback" not in self.err, self.err
        assert document["error"]["exit_code"] == self.code
        return document["error"]


class Cutset:
    """Runs commands with a cost cache that the whole session shares, and a TMPDIR of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.tmp = folder / "tmp"
        self.tmp.mkdir()

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "PYTHONPATH"}}
        return kept | {"XDG_CACHE_HOME": str(self.cache), "TMPDIR": str(self.tmp), "NO_COLOR": "1"} | extra

    def words(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "cutset", *map(str, words)]

    def __call__(self, *words: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Done:
        """Run one command to its end: in this process, or in one of its own where that is given an environment or options."""
        if env is None and not options:
            code, out, err = in_process.call(list(map(str, words)), folder=self.folder, environment=self.environment())
            return Done(code=code, out=out, err=err)
        return self.process(*words, env=env, **options)

    def process(self, *words: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Done:
        """Run one command to its end in a process of its own."""
        options = {"cwd": self.folder, "env": self.environment(**(env or {})), "stdin": subprocess.DEVNULL} | options
        done = subprocess.run(
            self.words(*words), capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE_S, check=False, **options
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def partition(self, model: Path, target: Path, *words: str | Path, **options: Any) -> Done:
        """Run the main job for a T4, with JSON on stdout."""
        return self("partition", model, "-o", target, "--target", "t4", "--json", *QUICK, *words, **options)

    @contextlib.contextmanager
    def started(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """Yield the running command; it is killed if it is still there at the end."""
        settings = {"cwd": self.folder, "env": self.environment(**(env or {}))}
        with child(self.words(*words), preexec_fn=_interruptible, **settings) as process:
            yield process

    def left_in_tmp(self) -> list[str]:
        return sorted(str(path.relative_to(self.tmp)) for path in self.tmp.rglob("*"))


def _interruptible() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def child(words: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def write_sample(name: str, folder: Path) -> Path:
    """Write a sample and its inputs, or skip the test where its package cannot be had."""
    try:
        return registry.write(name, folder / f"{name}.onnx").model
    except UnavailableError as error:
        pytest.skip(f"{error.what}: {error.cause}")


def write_model(name: str, folder: Path) -> Path:
    """Write a sample, or ``classifier-quarter``: the classifier a quarter as wide, for tests that need not its size."""
    if name != "classifier-quarter":
        return write_sample(name, folder)
    path = folder / f"{name}.onnx"
    path.write_bytes(classifier.build(seed=0, width=0.25).SerializeToString())
    np.savez(path.with_suffix(".npz"), **classifier.sample_inputs(seed=0))
    return path


def load_inputs(model: Path) -> dict[str, np.ndarray]:
    with np.load(model.with_suffix(".npz")) as arrays:
        return {name: arrays[name].astype(object) if arrays[name].dtype.kind == "U" else arrays[name] for name in arrays}


def whole_model(model: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what plain onnxruntime gives for the original file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    imports = onnx.load(model, load_external_data=False).opset_import
    if any(entry.domain in {"com.microsoft.extensions", "ai.onnx.contrib"} for entry in imports):
        extensions = pytest.importorskip("onnxruntime_extensions")
        options.register_custom_ops_library(extensions.get_library_path())
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def assert_equal(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], noise: float = 0.0) -> None:
    """Floats may differ as reordered sums do; everything else is exact."""
    assert sorted(actual) == sorted(expected)
    for name, array in expected.items():
        found, wanted = np.asarray(actual[name]), np.asarray(array)
        assert found.shape == wanted.shape, name
        if wanted.dtype.kind == "f":
            assert found.dtype == wanted.dtype
            scale = float(np.abs(wanted).max(initial=0))
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=max(1e-4 * scale, NOISE_FACTOR * noise), err_msg=name)
        else:
            np.testing.assert_array_equal(found.astype(str), wanted.astype(str), err_msg=name)


class Alone:
    """Runs Python with one emitted package on its path and without cutset."""

    def __init__(self, without_cutset: Path, where: Path) -> None:
        self.blocker = without_cutset
        self.where = where

    def environment(self, serving: Path) -> dict[str, str]:
        path = os.pathsep.join([str(self.blocker), str(serving)])
        return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def python(self, serving: Path, code: str, *arguments: str | Path) -> Done:
        words = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            words,
            cwd=self.where,
            env=self.environment(serving),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def answers(self, serving: Path, inputs: Path) -> dict[str, np.ndarray]:
        """Return what `Pipeline.run` of the package gives for an ``.npz`` file."""
        code = (
            "import sys, warnings, importlib, numpy as np\n"
            "assert sys.modules['cutset'] is None\n"
            "module = importlib.import_module(sys.argv[1])\n"
            "warnings.simplefilter('ignore', module.DegradedWarning)\n"
            "with module.Pipeline.load() as pipeline, np.load(sys.argv[2]) as sample:\n"
            "    outputs = pipeline.run(dict(sample))\n"
            "names = list(outputs)\n"
            "arrays = [np.asarray(outputs[name]) for name in names]\n"
            "np.savez(sys.argv[3], *[a.astype(str) if a.dtype.kind == 'O' else a for a in arrays], names=np.array(names))\n"
        )
        out = self.where / "answers.npz"
        done = self.python(serving, code, package_of(serving).name, inputs, out)
        assert done.code == 0, done.err
        with np.load(out) as arrays:
            return {str(name): arrays[f"arr_{index}"] for index, name in enumerate(arrays["names"])}

    @contextlib.contextmanager
    def served(self, serving: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """Yield the server process of a package and its URL."""
        command = [sys.executable, "-m", package_of(serving).name, "--port", "0", *words]
        with child(command, cwd=self.where, env=self.environment(serving)) as process:
            yield process, ready_url(process)


def package_of(serving: Path) -> Path:
    (found,) = serving.glob("*_serving/plan.json")
    return found.parent


def ready_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith(READY), process.stderr.read()
    return line.removeprefix(READY).strip()


def ask(url: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the server's answer through Triton's client, tensors as raw bytes."""
    parts = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(parts.path.removeprefix("/v2/models/"))
    with contextlib.closing(triton.InferenceServerClient(parts.netloc)) as client:
        assert client.is_server_ready()
        types = {entry["name"]: entry["datatype"] for entry in client.get_model_metadata(name)["inputs"]}
        tensors = []
        for key, array in inputs.items():
            tensors.append(triton.InferInput(key, list(array.shape), types[key]))
            tensors[-1].set_data_from_numpy(array)
        reply = client.infer(name, tensors)
        outputs = {entry["name"]: reply.as_numpy(entry["name"]) for entry in reply.get_response()["outputs"]}
    return {
        key: np.array([v.decode() for v in a.flat]).reshape(a.shape) if a.dtype == object else a for key, a in outputs.items()
    }


def stop(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Signal a server and return its exit code and what it wrote to stderr."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, errors


def onnx_file(path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[Any], outputs: Sequence[Any], **extra: Any) -> Path:
    """Write a model; an input or output is ``(name, element type, shape)``, `weights` are arrays by name."""
    weights = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in extra.pop("weights", {}).items()]
    sides = [[helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)]
    opsets = [helper.make_opsetid(d, v) for d, v in extra.pop("opsets", {"": 20}).items()]
    graph = helper.make_graph(list(nodes), extra.pop("name", "g"), *sides, weights)
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path
