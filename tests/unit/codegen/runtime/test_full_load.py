"""What a package reaches here: asked only where every stage runs as planned."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import helper

from cutset.codegen.full_load import callers_for, full_load
from cutset.codegen.runtime import DegradedWarning, Pipeline

SAMPLE = {"x": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(("device", "answers"), [("cpu", True), ("gpu", False)])
def test_a_rate_is_that_of_the_planned_devices(package, device, answers):
    tensors = {name: ("float32", [1, 2]) for name in "xhy"}
    stages = [
        ("cpu", [helper.make_node("Neg", ["x"], ["h"])], ["x"], ["h"]),
        (device, [helper.make_node("Abs", ["h"], ["y"])], ["h"], ["y"]),
    ]
    folder = package(tensors, stages, inputs=["x"], outputs=["y"]).folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)
        pipeline = Pipeline.load(folder)
    with pipeline:
        assert callers_for(pipeline) == pipeline.window + 2
        rate = full_load(pipeline, SAMPLE, 0.1)
        assert (rate is not None and rate > 0) is answers
        assert (pipeline.stats().stages[0].count > 10) is answers
