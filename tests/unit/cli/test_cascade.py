"""What a cascade is written to for a check is nobody's concern."""

import tempfile
from pathlib import Path

import onnx.parser
import pytest

from cutset.cascade.compose import Composed
from cutset.cli.cascade import check_composed
from cutset.errors import ModelError

CUSTOM = """<ir_version: 8, opset_import: ["" : 13, "acme" : 1]>
custom (float[2] x) => (float[2] y) { y = acme.Relu (x) }"""


def test_a_refusal_names_the_file_of_the_cascade():
    made = Composed(model=onnx.parser.parse_model(CUSTOM), hooks=None)
    with pytest.raises(ModelError) as caught:
        check_composed(made, Path("PIPELINE.yaml"))
    assert caught.value.where.startswith("PIPELINE.yaml, node")
    assert tempfile.gettempdir() not in str(caught.value)
