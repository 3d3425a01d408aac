"""The manifests are what Kubernetes' own schemas allow, of any model's name."""

import re

import kubernetes_validate
import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from cutset.codegen.export.kubernetes import write_kubernetes

VERSION = "1.31"
CHECKED = ("deployment", "service", "autoscaler", "disruption")


@pytest.fixture
def make(make_source, save_model, tmp_path):
    def write(name="m", device="cpu", **changes):
        info = TensorProto.FLOAT, [2]
        path = save_model([helper.make_node("Neg", ["x"], ["y"], name="neg")], [("x", *info)], [("y", *info)])
        source = make_source(path, {"x": np.zeros(2, np.float32)}, {"neg": device}, name=name, **changes)
        write_kubernetes(source, tmp_path / "k8s")
        return {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (tmp_path / "k8s").glob("*.yaml")}

    return write


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["m", "ResNet 50", "yes: {no} é", "1"])
def test_they_satisfy_the_published_schemas(make, name, device):
    found = make(name, device)
    assert found["kustomization"]["resources"] == [f"{kind}.yaml" for kind in CHECKED]
    for kind in CHECKED:
        kubernetes_validate.validate(found[kind], VERSION, strict=True)
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", found[kind]["metadata"]["name"])
        assert found[kind]["metadata"]["annotations"] == {"cutset/model": name}


def test_the_schemas_would_object(make):
    wrong = make()["deployment"]
    wrong["spec"]["template"]["spec"]["containers"][0]["port"] = 8000
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_what_the_plan_decides(make):
    found = make(device="gpu", cpu_workers=3, intra_op_threads=2, tokens=5)
    (container,) = found["deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "6"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    (metric,) = found["autoscaler"]["spec"]["metrics"]
    assert metric["pods"]["target"]["averageValue"] == "5"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_pod_can_do_nothing_but_serve(make, device):
    pod = make(device=device)["deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    volumes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert list(mounts.values()) == ["/tmp"]
    assert all(entry["value"].startswith("/tmp/") for entry in container.get("env", []))
    assert ("env" in container) == (device == "gpu")


def test_the_image_is_named_in_one_place_where_a_digest_fits(make, tmp_path):
    found = make("A model")
    (container,) = found["deployment"]["spec"]["template"]["spec"]["containers"]
    (image,) = found["kustomization"]["images"]
    assert container["image"] == f"{image['name']}:{image['newTag']}"
    readme = (tmp_path / "k8s" / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    assert [entry["name"] for entry in yaml.safe_load(block)["images"]] == [image["name"]]


def test_the_parts_find_each_other(make):
    found = make("A")
    labels = found["deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["deployment"]["spec"]["selector"]["matchLabels"],
        found["service"]["spec"]["selector"],
        found["disruption"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert found["autoscaler"]["spec"]["scaleTargetRef"]["name"] == found["deployment"]["metadata"]["name"]
    assert "nvidia.com/gpu" not in str(found["deployment"])
