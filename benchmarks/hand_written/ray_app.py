"""A split model in Ray Serve as one writes it by hand: raw bytes of one image in, JSON out, no protocol and no checks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from ray import serve
from starlette.requests import Request


class Part:
    """One stage."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [entry.name for entry in self._session.get_outputs()]

    def __call__(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))


@serve.deployment(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=64)
class Front:
    """Reads an image, asks one stage after the other."""

    def __init__(self, *parts: serve.handle.DeploymentHandle) -> None:
        self._parts = parts

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Return the outputs as lists."""
        shape = json.loads(request.headers["x-shape"])
        found: Any = {request.headers["x-name"]: np.frombuffer(await request.body(), np.uint8).reshape(shape)}
        for part in self._parts:
            found = part.remote(found)
        return {name: value.tolist() for name, value in (await found).items()}


def build(_args: dict[str, str]) -> serve.Application:
    """Return the application over the ONNX files of a folder."""
    models = sorted(Path(os.environ["STAGES"]).glob("*.onnx"))
    part = serve.deployment(Part)
    parts = [part.options(name=model.stem, ray_actor_options={"num_cpus": 1}).bind(str(model)) for model in models]
    return Front.bind(*parts)  # type: ignore[attr-defined,no-any-return]
