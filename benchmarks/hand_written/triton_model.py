"""A stage of a split model in Triton's Python backend as one writes it by hand: a session, and the requests one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One session."""

    def initialize(self, _args: dict[str, str]) -> None:
        """Open the only ONNX file of the folder."""
        (model,) = Path(__file__).parent.glob("stages/*.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._outputs = [entry.name for entry in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        responses = []
        for request in requests:
            feeds = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            outputs = zip(self._outputs, self._session.run(self._outputs, feeds), strict=True)
            responses.append(triton.InferenceResponse([triton.Tensor(name, value) for name, value in outputs]))
        return responses
