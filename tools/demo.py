"""The whole road on one page: a real model with JPEG decoding inside becomes a running pipeline that answers a photo.

usage: python tools/demo.py [FOLDER]

The GPU is an NVIDIA T4 whose costs are modelled; without one here, the emitted server runs its stages on the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from cutset.sample_models.registry import answer

SAMPLE = "orientation-jpeg"
TARGET = "t4"
READY = "ready: "
STOP_S = 30


def main() -> int:
    """Run the demonstration and return the exit code."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")
    model, package = folder / "orientation.onnx", folder / "package"
    cutset("samples", SAMPLE, "-o", str(model))
    cutset("partition", str(model), "-o", str(package), "--target", TARGET, "--force")
    words = [sys.executable, "-m", "cutset", "serve", str(package), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            assert server.stdout is not None
            line = next((line for line in server.stdout if line.startswith(READY)), "")
            if not line:
                return server.wait() or 1
            print(line.strip())
            ask(line.removeprefix(READY).strip(), model.with_suffix(".npz"))
        finally:
            server.terminate()
            server.wait(STOP_S)
    print(f"the report: {package / 'report.html'}")
    return 0


def cutset(*words: str) -> None:
    """Run one command of Cutset, shown as a person would type it."""
    print(f"\n$ cutset {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "cutset", *words], check=True)  # noqa: S603


def ask(url: str, inputs: Path) -> None:
    """Send the sample photo through Triton's own client and print what the model says of it."""
    host, _, name = url.removeprefix("http://").partition("/v2/models/")
    with np.load(inputs) as arrays:
        photo = arrays["image"]
    client = triton.InferenceServerClient(host)
    tensor = triton.InferInput("image", list(photo.shape), "UINT8")
    tensor.set_data_from_numpy(photo)
    reply = client.infer(name, [tensor])
    outputs = {entry["name"]: reply.as_numpy(entry["name"]) for entry in reply.get_response()["outputs"]}
    print(f"sent a real photo ({photo.size} bytes of JPEG): {answer(SAMPLE, outputs)}")
    client.close()


if __name__ == "__main__":
    sys.exit(main())
