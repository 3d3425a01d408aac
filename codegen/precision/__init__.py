"""GPU stages in less than fp32: rewriting them, and checking on onnxruntime how far the numbers move."""
