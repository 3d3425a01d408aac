"""plan.json is checked before anything is opened."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.codegen.runtime import ConfigError, Pipeline
from cutset.codegen.runtime.config import parse_plan, read_plan


def test_a_good_plan_is_read(chain):
    plan = chain(2, queue_limit=0).plan()
    assert [stage.model.name for stage in plan.stages] == ["00.onnx", "01.onnx"]
    assert plan.inputs[0].element.datatype == "FP32"
    assert (plan.tokens, plan.queue_limit) == (4, 0)


def _set(path, value):
    def change(document):
        *parents, last = path
        for key in parents:
            document = document[key]
        document[last] = value

    return change


BAD = {
    "schema": (_set(["schema"], "cutset.plan/2"), "the schema is"),
    "missing": (lambda d: d.pop("tokens"), "`tokens` is missing"),
    "type": (_set(["tokens"], "4"), "expected int"),
    "bool is no number": (_set(["tokens"], True), "expected int"),
    "zero tokens": (_set(["tokens"], 0), "at least 1"),
    "negative queue": (_set(["queue_limit"], -1), "at least 0"),
    "decision": (_set(["decision"], "maybe"), "`decision`"),
    "name": (_set(["name"], "a/b"), "served model's name"),
    "no stage": (_set(["stages"], []), "no stage"),
    "device": (_set(["stages", 0, "device"], "tpu"), "`device`"),
    "index": (_set(["stages", 1, "index"], 5), "expected 1"),
    "order": (_set(["stages", 0, "inputs"], ["t1"]), "made by no earlier stage"),
    "twice made": (_set(["stages", 1, "outputs"], ["t1"]), "exists already"),
    "overwrites an input": (_set(["stages", 1, "outputs"], ["t0"]), "exists already"),
    "nothing made": (_set(["stages", 1, "outputs"], []), "makes nothing"),
    "output unknown": (_set(["outputs", 0, "name"], "zz"), "made by no stage"),
    "input twice": (lambda d: d["inputs"].append(dict(d["inputs"][0])), "listed twice"),
    "dtype": (_set(["inputs", 0, "dtype"], "float8"), "unknown element type"),
    "dimension": (_set(["inputs", 0, "shape"], [-1]), "no dimension"),
    "least size": (_set(["inputs", 0, "least"], [-1]), "expected sizes"),
    "least rank": (_set(["inputs", 0, "least"], [1, 1]), "another rank"),
    "least of a stage": (_set(["stages", 0, "least"], {"t0": "1"}), "expected sizes"),
    "names": (_set(["stages", 0, "inputs"], [3]), "list of tensor names"),
    "service": (_set(["stages", 0, "service_s"], -1), "expected seconds"),
    "absolute": (_set(["stages", 0, "model"], "/etc/passwd"), "leaves the package"),
    "upwards": (_set(["stages", 0, "model"], "../../etc/passwd"), "leaves the package"),
    "nul": (_set(["stages", 0, "model"], "a\0b"), "leaves the package"),
    "absent": (_set(["stages", 0, "model"], "stages/99.onnx"), "no file"),
    "module": (_set(["custom_ops"], [{"module": "os"}]), "`module` is 'os'"),
    "library": (_set(["custom_ops"], [{"file": "../x.so"}]), "leaves the package"),
    "both": (_set(["custom_ops"], [{"file": "x.so", "module": "onnxruntime_extensions"}]), "exactly one"),
    "metadata": (_set(["metadata"], {"names": 3}), "no text"),
    "metadata of another kind": (_set(["metadata"], [3]), "expected an object"),
    "not an object": (_set(["stages"], [3]), "expected an object"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_plan_is_refused_and_the_place_named(chain, change, message):
    package = chain(2)
    change(package.document)
    with pytest.raises(ConfigError, match=message) as caught:
        parse_plan(package.document, package.folder)
    assert caught.value.where.startswith("plan.json")


def test_a_link_out_of_the_package_is_refused(chain):
    package = chain(2)
    (package.folder / "stages" / "link.py").symlink_to("/etc/hostname")
    package.document["stages"][0]["model"] = "stages/link.py"
    with pytest.raises(ConfigError, match="leaves the package"):
        parse_plan(package.document, package.folder)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\xff"])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        read_plan(tmp_path)


def test_a_missing_plan_says_where(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the plan") as caught:
        Pipeline.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_overrides_replace_sizes_and_are_checked(chain):
    plan = chain(1).plan()
    assert plan.override({"tokens": 9}).tokens == 9
    with pytest.raises(ConfigError, match="unknown setting 'token'"):
        plan.override({"token": 9})
    with pytest.raises(ConfigError, match="at least 1"):
        plan.override({"cpu_workers": 0})


def test_defaults_are_read_and_without_their_file_the_input_is_needed(chain):
    package = chain(1)
    package.document["inputs"][0]["optional"] = True
    package.write()
    assert package.plan().inputs[0].default is None
    np.savez(package.folder / "defaults.npz", **{package.document["inputs"][0]["name"]: np.ones(3, np.float32)})
    assert package.plan().inputs[0].default.tolist() == [1, 1, 1]
    (package.folder / "defaults.npz").write_bytes(b"PK no archive")
    with pytest.raises(ConfigError, match="cannot read the defaults"):
        package.plan()
