"""What serve.yaml says is what the plan says, in names that the application knows."""

import ast

import numpy as np
import yaml

from cutset.codegen.export.ray import write_ray


def test_the_configuration(make_source, cnn_path, tmp_path):
    sample = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    source = make_source(cnn_path, sample, {"dense": "gpu"}, name="a: {b}", cpu_workers=2, tokens=6, queue_limit=32)
    write_ray(source, tmp_path / "ray")
    (application,) = yaml.safe_load((tmp_path / "ray" / "serve.yaml").read_text("utf-8"))["applications"]
    assert application["args"] == {"package": source.package.name}
    ingress, first, gpu, last = application["deployments"]
    assert [entry["name"] for entry in (ingress, first, gpu, last)] == [
        "Ingress",
        "stage-00-cpu",
        "stage-01-gpu",
        "stage-02-cpu",
    ]
    assert (ingress["max_ongoing_requests"], ingress["max_queued_requests"]) == (38, 32)
    assert gpu["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 1}
    assert first["ray_actor_options"] == {"num_cpus": 1}
    assert first["autoscaling_config"]["min_replicas"] == 1
    ast.parse((tmp_path / "ray" / "app.py").read_text("utf-8"))
    assert "--num-gpus 1" in (tmp_path / "ray" / "README.md").read_text("utf-8")
