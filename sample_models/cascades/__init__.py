"""Cascades as a user writes them: a YAML file, ONNX text for what the glue library lacks, and a Python function."""
