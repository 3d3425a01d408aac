"""A split model in LitServe: one API that runs both parts, the image in base64."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Both(litserve.LitAPI):
    """Both parts, one after the other."""

    def setup(self, _device: str) -> None:
        """Open the ONNX files of a folder."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        models = sorted(Path(os.environ["STAGES"]).glob("*.onnx"))
        self._sessions = [onnxruntime.InferenceSession(str(m), options, providers=["CPUExecutionProvider"]) for m in models]

    def decode_request(self, request) -> dict[str, Any]:  # LitServe reads an annotation as a parameter of the URL
        """Return the image by its name."""
        return {request["name"]: np.frombuffer(base64.b64decode(request["data"]), np.uint8).reshape(request["shape"])}

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Return what the last part makes."""
        for session in self._sessions:
            names = [entry.name for entry in session.get_outputs()]
            feeds = dict(zip(names, session.run(names, feeds), strict=True))
        return feeds

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs as lists."""
        return {name: value.tolist() for name, value in output.items()}


if __name__ == "__main__":
    server = litserve.LitServer(Both(), accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
