"""The ONNX graph as Cutset sees it: load, shapes, sizes, extraction."""
