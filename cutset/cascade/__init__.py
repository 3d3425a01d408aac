"""Cascades: several models and the glue between them, described in a YAML file and composed into one ONNX model."""
