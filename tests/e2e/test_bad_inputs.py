"""Wrong files, inputs and options: one clear error each, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.cli.main import run
from cutset.codegen import package
from tests.e2e.harness import QUICK, onnx_file

FLOAT = TensorProto.FLOAT
USAGE, FAILED, UNAVAILABLE = 2, 1, 3


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A refusal: its exit code, what was written to stderr, and the same as JSON."""

    code: int
    text: str
    error: dict[str, object]


class Refusals:
    """Runs commands in this process, where each takes milliseconds, and checks what every refusal must hold."""

    def __init__(self, folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.target = folder / "parent" / "out"
        self.cache = cache
        self.capfd = capfd

    def __call__(self, *words: str | Path) -> Refused:
        """Run a command twice, for people and with ``--json``, and return its refusal."""
        before = self.files()
        self.capfd.readouterr()
        code = run([str(word) for word in words])
        out, text = self.capfd.readouterr()
        assert out == "", out
        assert "Traceback" not in text, text
        lines = text.splitlines()
        errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        assert len(errors) == 1, text  # before it: progress, and notices about this machine
        assert all(line.startswith(("  at: ", "  cause: ", "hint: ")) for line in lines[errors[0] + 1 :]), text
        assert run([*map(str, words), "--json"]) == code
        out, _ = self.capfd.readouterr()
        (error,) = json.loads(out).values()
        assert error["exit_code"] == code
        assert f"error: {error['what']}" in text
        assert error.get("hint") or error.get("cause") or error.get("where"), error
        assert self.files() == before
        return Refused(code=code, text=text, error=error)

    def partition(self, model: str | Path, *words: str | Path) -> Refused:
        """Run the main job towards a folder whose parent does not exist either."""
        return self("partition", model, "-o", self.target, "--target", "t4", "--cache", self.cache, *QUICK, *words)

    def files(self) -> list[str]:
        return sorted(str(path) for path in self.folder.rglob("*"))


@pytest.fixture
def refuse(tmp_path, cost_cache, capfd, monkeypatch):
    """Every temporary file would lie in the folder that is checked."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("NO_COLOR", "1")
    handlers, level = list(logging.root.handlers), logging.root.level
    yield Refusals(tmp_path, cost_cache, capfd)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    assert list((tmp_path / "tmp").iterdir()) == []


def relu(path: Path, shape: list[int | str], *, operator: str = "Relu", domain: str = "", **extra: object) -> Path:
    node = helper.make_node(operator, ["x"], ["y"], name="it", domain=domain)
    opsets = {"": 20} | ({domain: 1} if domain else {})
    return onnx_file(path, [node], [("x", FLOAT, shape)], [("y", FLOAT, shape)], opsets=opsets, **extra)


def write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def truncated(folder: Path) -> Path:
    path = onnx_file(
        folder / "truncated.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, [1, 64])],
        [("y", FLOAT, [1, 64])],
        weights={"w": np.ones((64, 64), np.float32)},
    )
    path.write_bytes(path.read_bytes()[:5000])
    return path


def cyclic(folder: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return onnx_file(folder / "cyclic.onnx", nodes, [("x", FLOAT, [1])], [("b", FLOAT, [1])])


def dangling(folder: Path) -> Path:
    node = helper.make_node("Add", ["x", "nowhere"], ["y"])
    return onnx_file(folder / "dangling.onnx", [node], [("x", FLOAT, [1])], [("y", FLOAT, [1])])


def external(location: str, *, there: int | None = None) -> Callable[[Path], Path]:
    """A model with one weight of 4096 bytes in another file, of which `there` bytes exist."""

    def make(folder: Path) -> Path:
        home = folder / "home"
        home.mkdir()
        path = onnx_file(
            home / "external.onnx",
            [helper.make_node("Add", ["x", "w"], ["y"])],
            [("x", FLOAT, [1024])],
            [("y", FLOAT, [1024])],
            weights={"w": np.ones(1024, np.float32)},
        )
        model = onnx.load(path)
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "4096")):
            weight.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())
        if there is not None:
            (home / location).write_bytes(bytes(there))
        return path

    return make


FILES = {
    "missing": (lambda folder: folder / "missing.onnx", FAILED, "there is no file"),
    "a folder": (lambda folder: folder, FAILED, "is a folder"),
    "empty": (write("empty.onnx", b""), FAILED, "is not an ONNX model"),
    "text": (write("text.onnx", b"weights and biases\n" * 40), FAILED, "cannot be read as ONNX"),
    "another format": (write("other.onnx", b"PK\x03\x04" + bytes(range(256)) * 8), FAILED, "ONNX"),
    "truncated": (truncated, FAILED, "cannot be read as ONNX"),
    "cyclic": (cyclic, FAILED, "cycle"),
    "dangling": (dangling, FAILED, "which nothing writes"),
    "unknown operator": (lambda f: relu(f / "m.onnx", [1], operator="Teleport"), FAILED, "operator .*Teleport.* not known"),
    "custom domain": (lambda f: relu(f / "m.onnx", [1], operator="Warp", domain="my.ops"), FAILED, "my.ops::Warp .*custom"),
    "missing external data": (external("weights.bin"), FAILED, "`weights.bin` is missing"),
    "short external data": (external("weights.bin", there=100), FAILED, "too short"),
    "external data outside": (external("../weights.bin", there=4096), FAILED, "outside the model's folder"),
    "external data by absolute path": (external("/etc/hostname"), FAILED, "outside the model's folder"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_usable_model(case, refuse, tmp_path):
    make, code, what = FILES[case]
    refused = refuse.partition(make(tmp_path))
    assert refused.code == code, refused.text
    assert_says(refused, what)


def assert_says(refused: Refused, pattern: str) -> None:
    assert re.search(pattern, str(refused.error["what"])), refused.text


def test_an_external_link_out_of_the_folder_is_refused(refuse, tmp_path):
    path = external("weights.bin")(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(4096))
    (path.parent / "weights.bin").symlink_to(tmp_path / "secret")
    assert_says(refuse.partition(path), "outside the model's folder")


def test_custom_operator_libraries(refuse, tmp_path):
    model = relu(tmp_path / "m.onnx", [1], operator="Warp", domain="my.ops")
    assert "--custom-ops" in str(refuse.partition(model).error["hint"])
    missing = refuse.partition(model, "--custom-ops", tmp_path / "missing.so")
    assert missing.code == USAGE
    assert_says(missing, "there is no custom-operator library")
    (tmp_path / "text.so").write_text("not a library")
    unloadable = refuse.partition(model, "--custom-ops", tmp_path / "text.so")
    assert unloadable.code == UNAVAILABLE
    assert_says(unloadable, "text.so cannot be loaded")
    assert unloadable.error["cause"]


@pytest.fixture
def image(tmp_path):
    """A model of free height and width, with no inputs beside it."""
    return relu(tmp_path / "image.onnx", ["n", 3, "height", "width"])


def test_a_free_size_that_nothing_gives(refuse, image):
    refused = refuse.partition(image)
    assert refused.code == FAILED
    assert_says(refused, "`x` has no known size on dimension 2 .`height`")
    assert "--shape" in str(refused.error["hint"]) or "--inputs" in str(refused.error["hint"])


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ("x=1x3xfour", "not of the form"),
        ("x", "not of the form"),
        ("1x3x4x4", "not of the form"),
        ("x=1x3x-4x4", "not of the form"),
        ("x=", "not of the form"),
        ("x=1x3x4x4:1x3x8x8", "not of the form"),
        ("y=1x3x4x4", "`y`, which is not an input"),
        ("x=1x4x8x8", r"gives `x` \[1, 4, 8, 8\], but the model declares"),
        ("x=1x3x8", r"gives `x` \[1, 3, 8\], but the model declares"),
    ],
)
def test_wrong_shapes(shape, what, refuse, image):
    refused = refuse.partition(image, "--shape", shape)
    assert refused.code == USAGE, refused.text
    assert_says(refused, what)


def float_image(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


INPUTS = {
    "missing name": ({}, "lacks input `x`"),
    "extra name": ({"x": float_image(1, 3, 4, 4), "z": np.zeros(1)}, "holds `z`, which is not an input"),
    "wrong type": ({"x": np.zeros((1, 3, 4, 4), np.float64)}, "type float64, expected float32"),
    "wrong rank": ({"x": float_image(3, 4, 4)}, r"float32 \[3, 4, 4\], expected float32 \[n, 3, height, width\]"),
    "wrong size": ({"x": float_image(1, 4, 4, 4)}, r"\[1, 4, 4, 4\], expected"),
    "objects": ({"x": np.array([{}, {}], object)}, "cannot read sample inputs"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs(case, refuse, image, tmp_path):
    arrays, what = INPUTS[case]
    np.savez(tmp_path / "inputs.npz", **arrays)
    refused = refuse.partition(image, "--inputs", tmp_path / "inputs.npz")
    assert refused.code == USAGE, refused.text
    assert_says(refused, what)


def test_input_files_that_cannot_be_read(refuse, image, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "single.npy", float_image(1, 3, 4, 4))
    np.savez(tmp_path / "half.npz", x=float_image(1, 3, 64, 64))
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:2000])
    for name in ("text.npz", "single.npy", "half.npz", "missing.npz", "."):
        refused = refuse.partition(image, "--inputs", tmp_path / name)
        assert refused.code == USAGE, refused.text
        assert_says(refused, "cannot read sample inputs from")


def test_wrong_inputs_beside_the_model_name_the_file(refuse, image, tmp_path):
    np.savez(tmp_path / "image.npz", z=np.zeros(1))
    assert_says(refuse.partition(image), "image.npz lacks input `x`")


def test_inputs_that_the_model_rejects_when_it_runs(refuse, tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"], name="reshape")]
    model = onnx_file(
        tmp_path / "m.onnx", nodes, [("x", FLOAT, ["n"])], [("y", FLOAT, [2, 3])], weights={"to": np.array([2, 3], np.int64)}
    )
    np.savez(tmp_path / "inputs.npz", x=np.zeros(5, np.float32))
    refused = refuse.partition(model, "--inputs", tmp_path / "inputs.npz")
    assert refused.code == FAILED
    assert_says(refused, "cannot run the model on the sample inputs")
    assert "float32[5]" in str(refused.error["where"])


@pytest.mark.parametrize(
    ("pins", "code", "what"),
    [
        (["concat=gpu"], FAILED, "`concat`"),
        (["op:StringConcat=gpu"], FAILED, "`concat`"),
        (["dense=cpu", "op:MatMul=gpu"], FAILED, "`dense` is pinned to both devices"),
        (["nothing*=cpu"], USAGE, "matches no node"),
        (["op:Conv=cpu"], USAGE, "matches no node"),
        (["dense"], USAGE, "not of the form"),
        (["dense=tpu"], USAGE, "not of the form"),
        (["=gpu"], USAGE, "not of the form"),
    ],
)
def test_pins_that_cannot_be(pins, code, what, refuse, mixed):
    refused = refuse.partition(mixed, *(word for pin in pins for word in ("--pin", pin)))
    assert refused.code == code, refused.text
    assert_says(refused, what)


def test_more_stages_needed_than_allowed(refuse, mixed):
    refused = refuse.partition(mixed, "--pin", "dense=gpu", "--max-stages", "1")
    assert refused.code == FAILED, refused.text
    assert "--max-stages" in refused.text


def test_targets_that_are_not_there(refuse, mixed, tmp_path):
    unknown = refuse.partition(mixed, "--target", "gtx1")
    assert unknown.code == USAGE
    assert "t4" in unknown.text
    assert refuse.partition(mixed, "--target", "cuda:0").code == UNAVAILABLE
    assert_says(refuse.partition(mixed, "--target", tmp_path / "missing.json"), "cannot read")
    (tmp_path / "text.json").write_text("no JSON")
    assert_says(refuse.partition(mixed, "--target", tmp_path / "text.json"), "is not JSON")
    (tmp_path / "other.json").write_text('{"schema": "cutset.profile/99"}')
    assert_says(refuse.partition(mixed, "--target", tmp_path / "other.json"), "cutset.profile/99")
    (tmp_path / "bare.json").write_text('{"schema": "cutset.profile/1"}')
    bare = refuse.partition(mixed, "--target", tmp_path / "bare.json")
    assert bare.code == USAGE
    assert "missing required field" in str(bare.error["cause"])


def test_recorded_profiles_that_hold_no_gpu(refuse, mixed, cost_cache, tmp_path, capfd):
    without_gpu = tmp_path / "cpu.json"
    costs = ["--cache", str(cost_cache), *QUICK]
    assert run(["profile", str(mixed), "-o", str(without_gpu), "--target", "cpu", *costs]) == 0
    capfd.readouterr()
    bare = refuse.partition(mixed, "--target", without_gpu)
    assert bare.code == USAGE
    assert_says(bare, "no GPU")
    assert refuse.partition(mixed, "--target", f"{without_gpu}#7").code == USAGE


def test_folders_that_must_not_be_replaced(refuse, mixed, tmp_path):
    refuse.target = tmp_path / "mine"
    refuse.target.mkdir()
    (refuse.target / "thesis.txt").write_text("years of work")
    existing = refuse.partition(mixed)
    assert existing.code == USAGE
    assert "--force" in str(existing.error["hint"])
    foreign = refuse.partition(mixed, "--force")
    assert foreign.code == USAGE
    assert_says(foreign, "was not written by cutset")
    assert (refuse.target / "thesis.txt").read_text() == "years of work"


def test_a_foreign_manifest_does_not_make_a_folder_ours(refuse, mixed, tmp_path):
    refuse.target = tmp_path / "extension"
    refuse.target.mkdir()
    (refuse.target / "manifest.json").write_text('{"manifest_version": 3, "name": "a browser extension"}')
    assert_says(refuse.partition(mixed, "--force"), "was not written by cutset")


def test_targets_that_are_no_folder(refuse, mixed, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        refuse.target = tmp_path / name
        refused = refuse.partition(mixed, "--force")
        assert refused.code == USAGE
        assert_says(refused, "exists and is not a folder")
    refuse.target = tmp_path / "file" / "out"
    assert refuse.partition(mixed).code == FAILED


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder here refuses to be written to, whoever asks")
def test_a_parent_that_cannot_be_written(refuse, mixed):
    refuse.target = Path("/proc/self/out")
    refused = refuse.partition(mixed)
    assert refused.code == FAILED
    assert "/proc" in refused.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_without_permission(refuse, mixed, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    refuse.target = locked / "out"
    assert_says(refuse.partition(mixed), "cannot write into")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--batch", "0"], "--batch '0'"),
        (["--batch", "many"], "--batch 'many'"),
        (["--batch", "4"], "cannot be batched"),
        (["--cpu-workers", "0"], "--cpu-workers '0'"),
        (["--cpu-workers", "-1"], "--cpu-workers '-1'"),
        (["--cpu-workers", "two"], "--cpu-workers 'two'"),
        (["--name", "a/b"], "'a/b' cannot be a served model's name"),
        (["--name", ""], "cannot be a served model's name"),
        (["--name", "a\nb"], "cannot be a served model's name"),
        (["--max-stages", "0"], "--max-stages"),
        (["--threads", "0"], "--threads"),
        (["--threads", "100000"], "--threads"),
        (["--cpu-workers", "100000"], "--cpu-workers"),
        (["--rtol", "-1"], "--rtol"),
        (["--atol", "nan"], "--atol"),
        (["--profile-seconds", "inf"], "--profile-seconds"),
        (["--seed", "-1"], "--seed"),
        (["--objective", "beauty"], "beauty"),
        (["--teleport"], "No such option"),
        (["one", "two"], "unexpected extra argument"),
    ],
)
def test_wrong_options(words, what, refuse, mixed):
    refused = refuse.partition(mixed, *words)
    assert refused.code == USAGE, refused.text
    assert what in str(refused.error["what"])


def test_a_batch_that_no_memory_holds(refuse, cnn_file):
    refused = refuse.partition(cnn_file, "--batch", "100000000000")
    assert refused.code == FAILED
    assert_says(refused, "out of memory")


def test_a_profile_cannot_be_written_over_a_folder(refuse, mixed, tmp_path):
    assert_says(refuse("profile", mixed, "-o", tmp_path), "is a folder")


def test_unknown_commands_and_missing_arguments(refuse):
    assert_says(refuse("teleport"), "No such command 'teleport'")
    assert refuse("partition").code == USAGE
    assert_says(refuse("serve", refuse.folder), "holds no serving package")
    assert_says(refuse("samples", "teleporter"), "no sample is called")


def test_numbers_that_differ_emit_nothing(refuse, tmp_path, monkeypatch):
    """The pipeline is made to answer wrongly: no model is known whose parts do."""

    pipeline = package.Pipeline.run
    monkeypatch.setattr(
        package.Pipeline, "run", lambda self, inputs: {name: value + 1 for name, value in pipeline(self, inputs).items()}
    )
    model = relu(tmp_path / "m.onnx", [4])
    refused = refuse.partition(model)
    assert refused.code == 4
    assert_says(refused, "output `y` of the parts differs")
    assert "nothing was emitted" in str(refused.error["hint"])
