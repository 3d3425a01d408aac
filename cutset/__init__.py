"""Cutset splits one ONNX model between CPU and GPU by measurement, and emits a running, pipelined deployment."""

__version__ = "0.1.0.dev0"
