"""Other servers over the same ONNX files, each written as its own documentation shows, to compare with.

usage: python serving_peers.py KIND PORT FILE...
       KIND is fastapi or kserve (LitServe is in serving_litserve.py); each FILE is a stage: one for the whole model, two
       for the split one.

Runs without cutset, in an environment that holds these servers. An answer is the raw float32 of the output; requests are
the raw float32 of the input, in KServe's case within the protocol's binary form.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort

SHAPE = (1, 3, 224, 224)
CORES = 2


def session(path: str) -> ort.InferenceSession:
    """Return a session as ours are: one thread, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(stage: ort.InferenceSession, value: np.ndarray) -> np.ndarray:
    """Return the output of one stage."""
    return stage.run(None, {stage.get_inputs()[0].name: value})[0]


class Stages:
    """The stages behind an asyncio server: replicas of the whole on both cores, or one thread a stage."""

    def __init__(self, paths: list[str]) -> None:
        self._stages = [session(path) for path in paths]
        threads = CORES if len(paths) == 1 else 1
        self._pools = [ThreadPoolExecutor(threads) for _ in paths]

    async def __call__(self, value: np.ndarray) -> np.ndarray:
        """Return the model's output."""
        loop = asyncio.get_running_loop()
        for pool, stage in zip(self._pools, self._stages, strict=True):
            value = await loop.run_in_executor(pool, run, stage, value)
        return value


def fastapi(port: int, paths: list[str]) -> None:
    """A plain FastAPI server."""
    import uvicorn  # noqa: PLC0415
    from fastapi import FastAPI, Request, Response  # noqa: PLC0415

    app, stages = FastAPI(), Stages(paths)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        value = np.frombuffer(await request.body(), np.float32).reshape(SHAPE)
        return Response(content=(await stages(value)).tobytes(), media_type="application/octet-stream")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def kserve(port: int, paths: list[str]) -> None:
    """KServe's Python server."""
    import kserve as sdk  # noqa: PLC0415

    class Model(sdk.Model):
        """The model."""

        def __init__(self) -> None:
            super().__init__("m")
            self.stages = Stages(paths)
            self.ready = True

        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            """Return the output in the protocol's form."""
            result = await self.stages(payload.inputs[0].as_numpy().reshape(SHAPE))
            output = sdk.InferOutput("y", list(result.shape), "FP32")
            output.set_data_from_numpy(result, binary_data=True)
            return sdk.InferResponse(response_id=payload.id or "", model_name="m", infer_outputs=[output])

    sys.argv = ["server", f"--http_port={port}", "--enable_grpc=false", "--access_log_format=", "--log_config_file="]
    sdk.ModelServer(http_port=port, enable_grpc=False, access_log_format=None).start([Model()])


if __name__ == "__main__":
    {"fastapi": fastapi, "kserve": kserve}[sys.argv[1]](int(sys.argv[2]), sys.argv[3:])
