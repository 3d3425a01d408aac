"""A detector of ultralytics with its suppression inside."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from ultralytics.engine.exporter import NMSModel
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

from benchmarks.exported.subject import Draw, Subject, images
from benchmarks.exported.torch_export import Exported, export, seed, settle, spread

CLASSES = 11


def _yolo(exporter: str, path: Path) -> Draw:
    seed()
    network = DetectionModel("yolo11n.yaml", nc=CLASSES, verbose=False)
    network.task = "detect"
    sizes = {0: (1, 3, 160, 160), 1: (1, 3, 128, 160), 2: (1, 3, 192, 128), 3: (1, 3, 224, 224)}
    draw = images("images", sizes)
    settle(network, torch.from_numpy(draw(3)["images"]))
    for part in network.modules():
        if isinstance(part, Detect):
            part.export, part.dynamic, part.format = True, True, "onnx"
            spread(*(branch[-1] for branch in part.cv3))
    choices = SimpleNamespace(
        format="onnx", dynamic=True, batch=1, conf=0.01, iou=0.5, max_det=50, agnostic_nms=False, nms=True, task="detect"
    )
    module = NMSModel(network.fuse(verbose=False), choices)
    free = {"images": {2: "height", 3: "width"}}
    return export(Exported(module=module, draw=draw, free=free, outputs=("output0",)), exporter, path)


SUBJECTS = (Subject(name="yolo11n-nms", size="11 classes, pictures of 128 to 224", write=_yolo),)
