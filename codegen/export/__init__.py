"""The same split for other engines: Triton, Ray Serve, Kubernetes, one session of ONNX Runtime."""
