"""LitServe over the same ONNX files as the other servers; see serving_peers.py.

usage: python serving_litserve.py PORT FILE...

One worker process a core, each with all stages. The workers import this file again, so its class is at the top.
"""

import base64
import sys

import litserve
import numpy as np
from fastapi import Response
from serving_peers import CORES, SHAPE, run, session


class Api(litserve.LitAPI):
    """The model."""

    def setup(self, device: str) -> None:
        """Load the stages."""
        self.stages = [session(path) for path in sys.argv[2:]]

    def decode_request(self, request: dict) -> np.ndarray:
        """Return the photo; requests are JSON here, in which raw bytes travel as base64."""
        return np.frombuffer(base64.b64decode(request["photo"]), np.float32).reshape(SHAPE)

    def predict(self, value: np.ndarray) -> np.ndarray:
        """Return the output."""
        for stage in self.stages:
            value = run(stage, value)
        return value

    def encode_response(self, output: np.ndarray) -> Response:
        """Return raw bytes."""
        return Response(content=output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=CORES, timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
