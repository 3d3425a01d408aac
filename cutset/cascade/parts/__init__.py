"""The glue library: pieces of standard ONNX, written as ONNX text, that stand between the models of a cascade."""
