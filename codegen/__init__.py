"""Turn a plan into ONNX parts, verified numbers and a serving package."""
