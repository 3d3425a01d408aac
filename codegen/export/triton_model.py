"""One stage of a split model as a model of Triton's Python backend; the same file for every stage.

It lies beside `plan.json`, which holds this stage alone, and `cutset_runtime/`, which loads and runs it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

FOLDER = Path(__file__).resolve().parent


class TritonPythonModel:
    """What the backend makes one instance of a process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the stage, on the GPU of this instance where Triton gives it one."""
        if args["model_instance_kind"] == "GPU":
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        sys.path.insert(0, str(FOLDER))
        from cutset_runtime.config import read_plan  # noqa: PLC0415 - CUDA must not be loaded before it is told its GPU
        from cutset_runtime.replica import StageReplica  # noqa: PLC0415
        from cutset_runtime.validation import check_inputs  # noqa: PLC0415

        plan = read_plan(FOLDER)
        self._inputs, self._outputs = plan.inputs, plan.outputs
        self._check = check_inputs
        self._replica = StageReplica.load(FOLDER)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response a request; those that can share a run do."""
        feeds, places = [], []
        responses: list[Any] = [None] * len(requests)
        for place, request in enumerate(requests):
            try:
                feeds.append(self._check(self._inputs, self._read(request)))
                places.append(place)
            except Exception as error:
                responses[place] = _failed(error)
        for place, outcome in zip(places, self._replica.run(feeds), strict=True):
            responses[place] = _failed(outcome) if isinstance(outcome, Exception) else self._write(outcome)
        return responses

    def finalize(self) -> None:
        """Release the stage."""
        self._replica.close()

    def _read(self, request: Any) -> dict[str, Any]:
        found = {}
        for tensor in self._inputs:
            value = triton.get_input_tensor_by_name(request, tensor.name).as_numpy()
            found[tensor.name] = value.reshape(()) if tensor.shape == () else value
        return found

    def _write(self, outputs: dict[str, Any]) -> Any:
        """Return a response; Triton has no tensors without dimensions, so a scalar has one of size one."""
        tensors = [triton.Tensor(tensor.name, np.atleast_1d(outputs[tensor.name])) for tensor in self._outputs]
        return triton.InferenceResponse(output_tensors=tensors)


def _failed(error: Exception) -> Any:
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
