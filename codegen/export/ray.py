"""An application of Ray Serve over the serving package: the code, and the numbers a person changes.

Source:
    Ray Serve, Serve configuration files and autoscaling.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from cutset.codegen.export.source import Source
from cutset.codegen.project import templates
from cutset.codegen.runtime.config import StageConfig

APP = Path(__file__).with_name("ray_app.py")
MOST_REPLICAS = 8
"""Where a CPU stage stops growing until a person says otherwise."""


def write_ray(source: Source, folder: Path) -> None:
    """Write ``app.py``, ``serve.yaml`` and ``README.md`` into `folder`."""
    folder.mkdir(parents=True)
    shutil.copyfile(APP, folder / "app.py")
    config = yaml.safe_dump(_config(source), sort_keys=False, allow_unicode=False)
    (folder / "serve.yaml").write_text(config, "utf-8")
    words = {"package": source.package.name, "gpus": sum(stage.device == "gpu" for stage in source.plan.stages)}
    (folder / "README.md").write_text(templates().get_template("ray_README.md.j2").render(words), "utf-8")


def _config(source: Source) -> dict[str, Any]:
    """Return serve.yaml."""
    ingress = {
        "name": "Ingress",
        "num_replicas": 1,
        "max_ongoing_requests": source.plan.tokens + source.plan.queue_limit,
        "max_queued_requests": source.plan.queue_limit,
        "ray_actor_options": {"num_cpus": 0},
    }
    application = {
        "name": source.package.name,
        "route_prefix": "/",
        "import_path": "app:build",
        "args": {"package": source.package.name},
        "deployments": [ingress, *(_deployment(source, stage) for stage in source.plan.stages)],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "logging_config": {"enable_access_log": False},
        "applications": [application],
    }


def _deployment(source: Source, stage: StageConfig) -> dict[str, Any]:
    """Return the settings of a stage: CPU stages grow with the load, a GPU stage has a GPU of its own."""
    threads = source.plan.intra_op_threads
    common = {
        "name": f"stage-{stage.index:02d}-{stage.device}",
        "max_ongoing_requests": max(4, source.plan.tokens),
        "max_queued_requests": source.plan.queue_limit,
        "graceful_shutdown_timeout_s": 20.0,
        "health_check_period_s": 5.0,
    }
    if stage.device == "gpu":
        return common | {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0, "num_gpus": 1}}
    scaling = {"min_replicas": 1, "max_replicas": max(MOST_REPLICAS, source.workers(stage)), "target_ongoing_requests": 2}
    return common | {"autoscaling_config": scaling, "ray_actor_options": {"num_cpus": threads}}
