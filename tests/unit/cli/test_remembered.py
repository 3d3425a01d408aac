"""A profile that was made before is found again without the model, and only if nothing that decides it has changed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from cutset.cli.main import run
from cutset.digest import sha256_bytes

REPORT = "import json, sys; sys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
LIBRARIES = {"onnx", "onnx_ir", "onnxruntime", "scipy", "networkx", "sympy"}
KNOWN = "nothing changed"


@pytest.fixture
def place(tmp_path, cnn_path):
    """Return a folder with a model, its inputs and an empty cache."""
    shutil.copy(cnn_path, tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=np.ones((1, 3, 16, 16), np.float32))
    return tmp_path


def words(place, *more):
    chosen = [] if "--profile-seconds" in more else ["--profile-seconds", "0.05"]
    return ["profile", str(place / "m.onnx"), "--json", "--cache", str(place / "cache"), *chosen, *more]


def profiled(capsys, place, *more):
    """Run the command; return its profile and whether it was known."""
    assert run(words(place, *more)) == 0
    written = capsys.readouterr()
    return json.loads(written.out), KNOWN in written.err


def test_the_second_time_nothing_is_loaded(capsys, place):
    first, known = profiled(capsys, place, "--target", "t4")
    assert not known
    code = f"from cutset.cli.main import run\nassert run({words(place, '--target', 't4')}) == 0\n{REPORT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == first
    assert KNOWN in done.stderr
    assert set(json.loads(done.stderr.splitlines()[-1])) & LIBRARIES == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda place: np.savez(place / "m.npz", x=np.zeros((1, 3, 16, 16), np.float32)),
        lambda place: (place / "m.npz").unlink(),
        lambda place: onnx.save(with_producer(onnx.load(place / "m.onnx")), place / "m.onnx"),
    ],
    ids=["inputs", "no inputs", "model"],
)
def test_a_changed_file_is_another_profile(capsys, place, change):
    profiled(capsys, place)
    change(place)
    assert not profiled(capsys, place)[1]


@pytest.mark.parametrize("option", ["--target t4", "--batch 2", "--optimization basic", "--cache none"])
def test_another_option_is_another_profile(capsys, place, option):
    profiled(capsys, place)
    assert not profiled(capsys, place, *option.split())[1]


def test_external_weights_are_looked_at(capsys, place):
    model = onnx.load(place / "m.onnx")
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, place / "m.onnx")
    profiled(capsys, place)
    assert profiled(capsys, place)[1]
    weights = bytearray((place / "w.bin").read_bytes())
    weights[5] ^= 1
    (place / "w.bin").write_bytes(weights)
    assert not profiled(capsys, place)[1]


def test_a_recorded_target_is_known_by_its_content(capsys, place, tmp_path):
    assert run(words(place, "--target", "t4", "-o", str(tmp_path / "t4.json"))) == 0
    capsys.readouterr()
    target = ["--target", str(tmp_path / "t4.json")]
    assert not profiled(capsys, place, *target)[1]
    assert profiled(capsys, place, *target)[1]
    (tmp_path / "t4.json").write_text((tmp_path / "t4.json").read_text().replace("e-0", "e-1"))
    assert not profiled(capsys, place, *target)[1]


def test_more_time_measures_what_had_not_settled(capsys, place):
    first, _ = profiled(capsys, place)
    settled = all(session["latency_s"]["settled"] for session in first["sessions"])
    assert profiled(capsys, place, "--profile-seconds", "0.06")[1] is settled
    assert profiled(capsys, place, "--profile-seconds", "0.05")[1]


def test_an_entry_of_another_version_is_passed_over(capsys, place):
    profiled(capsys, place)
    other = '{"files": {}, "table": {}}'
    connection = sqlite3.connect(place / "cache" / "costs.sqlite")
    with connection:
        connection.execute("UPDATE entries SET value = ?, digest = ?", (other, sha256_bytes(other.encode())))
    connection.close()
    assert not profiled(capsys, place)[1]


def with_producer(model):
    model.producer_name = "another exporter"
    return model
