"""Manifests for Kubernetes: the serving package as a Deployment that grows with its own waiting line.

Source:
    Kubernetes API reference: apps/v1 Deployment, v1 Service, autoscaling/v2 HorizontalPodAutoscaler, policy/v1
    PodDisruptionBudget.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from cutset import __version__
from cutset.codegen.export.names import KUBERNETES, legal_name
from cutset.codegen.export.source import Source
from cutset.codegen.project import templates

PORT = 8000
GRACE_S = 30
MOST_REPLICAS = 8
BASE_MIB = 512
"""Memory of Python, onnxruntime and the requests; the weights come on top, twice for what onnxruntime repacks."""
SCRATCH_MIB = 1024
"""Room for temporary files where nothing is built; an engine build writes the weights and the engine on top."""
NEEDS_RUNTIME = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
UNPRIVILEGED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
SCRATCH = "/tmp"  # noqa: S108 - an empty folder of the pod's own
"""Where the server and the libraries below it write: nowhere but in the one folder that is mounted to be written."""


def write_kubernetes(source: Source, folder: Path) -> None:
    """Write the manifests, their kustomization and ``README.md`` into `folder`."""
    folder.mkdir(parents=True)
    name = legal_name(source.plan.name, KUBERNETES)
    image = f"{source.package.name.replace('_', '-')}:{__version__}"
    manifests = {
        "deployment": _deployment(source, name, image),
        "service": _service(source, name),
        "autoscaler": _autoscaler(source, name),
        "disruption": _disruption(source, name),
    }
    for file, manifest in manifests.items():
        _write(folder / f"{file}.yaml", manifest)
    resources = [f"{file}.yaml" for file in manifests]
    repository, _, tag = image.rpartition(":")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
        "images": [{"name": repository, "newName": repository, "newTag": tag}],  # where a registry and a digest go
    }
    _write(folder / "kustomization.yaml", kustomization)
    words = {"image": image, "repository": repository, "name": name, "waiting": source.plan.tokens, "gpu": _needs_gpu(source)}
    (folder / "README.md").write_text(templates().get_template("k8s_README.md.j2").render(words), "utf-8")


def _write(path: Path, manifest: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=False), "utf-8")


def _object(kind: str, version: str, source: Source, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return an object; the model's name as it is stands in an annotation, which takes any text."""
    metadata = {"name": name, "labels": _labels(name), "annotations": {"cutset/model": source.plan.name}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "cutset"}


def _deployment(source: Source, name: str, image: str) -> dict[str, Any]:
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    gpu = _needs_gpu(source)
    scratch_mib = SCRATCH_MIB + (2 * _weights_mib(source) if gpu else 0)
    pod = {
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,  # the server never asks the cluster for anything
        "enableServiceLinks": False,  # other services' names become variables, and a variable may be one that Python reads
        "securityContext": NEEDS_RUNTIME,
        "containers": [_container(source, image)],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": f"{scratch_mib}Mi"}}],
    }
    if gpu:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    spec = {
        "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": _labels(name), "annotations": scraped}, "spec": pod},
    }
    return _object("Deployment", "apps/v1", source, name, spec)


def _container(source: Source, image: str) -> dict[str, Any]:
    """Return the server's container, which can write to `SCRATCH` alone."""
    container = {
        "name": "server",
        "image": image,
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": _resources(source),
        # Loading and warming up may take minutes; only then does a missed check count.
        "startupProbe": {**_probe("ready"), "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**_probe("ready"), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_probe("live"), "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "securityContext": UNPRIVILEGED,
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
    }
    # CUDA keeps what it compiles in the home folder unless told otherwise.
    return container | ({"env": [{"name": "CUDA_CACHE_PATH", "value": f"{SCRATCH}/cuda"}]} if _needs_gpu(source) else {})


def _probe(what: str) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{what}", "port": "http"}, "timeoutSeconds": 3}


def _resources(source: Source) -> dict[str, Any]:
    """Return what the planned workers keep busy, and memory for the weights and as much again as a limit."""
    memory = BASE_MIB + 2 * _weights_mib(source)
    requests = {"cpu": str(source.plan.cpu_workers * source.plan.intra_op_threads), "memory": f"{memory}Mi"}
    limits = {"memory": f"{2 * memory}Mi"}
    return {"requests": requests, "limits": limits | ({"nvidia.com/gpu": 1} if _needs_gpu(source) else {})}


def _weights_mib(source: Source) -> int:
    files = {path for stage in source.plan.stages for path in source.files(stage)}
    return math.ceil(sum(path.stat().st_size for path in files) / 2**20)


def _needs_gpu(source: Source) -> bool:
    return any(stage.device == "gpu" for stage in source.plan.stages)


def _service(source: Source, name: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return _object("Service", "v1", source, name, {"selector": {"app.kubernetes.io/name": name}, "ports": ports})


def _autoscaler(source: Source, name: str) -> dict[str, Any]:
    """Return what adds pods while as many requests wait outside the pipelines as fit inside."""
    target = {"type": "AverageValue", "averageValue": str(source.plan.tokens)}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": 1,
        "maxReplicas": MOST_REPLICAS,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": "cutset_waiting"}, "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return _object("HorizontalPodAutoscaler", "autoscaling/v2", source, name, spec)


def _disruption(source: Source, name: str) -> dict[str, Any]:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": name}}}
    return _object("PodDisruptionBudget", "policy/v1", source, name, spec)
