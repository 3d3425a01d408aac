"""Cutset splits one ONNX model between CPU and GPU by measurement, and emits a running, pipelined deployment."""

import os

# onnxruntime 1.32 and later report to their maker unless told not to; say so before anything imports it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0.dev0"
