"""torchvision's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import boxes
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.exported.subject import Arrays, Draw, Subject, Write, batches, generator, images, pictures
from benchmarks.exported.torch_export import Exported, export, seed, settle, spread

CLASSES = 11
DETECTOR = "ResNet-18 instead of 50, 11 classes, pictures of 128 to 256"
LIMITS: Mapping[str, Any] = {"min_size": 128, "max_size": 256}
OF_SSD: Mapping[str, Any] = {"num_classes": CLASSES, "score_thresh": 0.05, "detections_per_img": 50}


class OnePicture(nn.Module):
    """A detector of torchvision for one picture, with named outputs."""

    def __init__(self, detector: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.detector, self.outputs = detector, outputs

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what was found in the picture."""
        found = self.detector([image])
        found = found[1] if isinstance(found, tuple) else found
        return tuple(found[0][name] for name in self.outputs)


class Pixels(nn.Module):
    """A classifier that takes bytes of any size: normalised, resized and cropped inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the five best classes and their scores."""
        picture = pixels.permute(0, 3, 1, 2).float() / 255.0
        picture = nn.functional.interpolate(picture, size=(128, 128), mode="bilinear", align_corners=False)
        scores = self.network((picture - self.mean) / self.std).softmax(1)
        return torch.topk(scores, 5)


class Output(nn.Module):
    """The entry `out` of a segmentation network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the scores of each pixel."""
        return self.network(image)["out"]


def _backbone() -> nn.Module:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    settle(backbone, torch.rand(4, 3, 160, 192))
    return backbone


def _mobile_backbone() -> nn.Module:
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, norm_layer=nn.BatchNorm2d)
    settle(backbone, torch.rand(4, 3, 160, 192))
    return backbone


def _joint_nms(found: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Return torchvision's `batched_nms` without the two questions about the number of boxes, which torch.export cannot ask."""
    offsets = classes.to(found) * (found.max() + 1)
    return boxes.nms(found + offsets[:, None], scores, overlap)


def _detector(make: Callable[[], nn.Module], *more: str) -> Write:
    outputs = ("boxes", "scores", "labels", *more)

    def write(exporter: str, path: Path) -> Draw:
        seed()
        if exporter == "dynamo":
            boxes.batched_nms = _joint_nms
        module = OnePicture(make(), outputs)
        free = {"image": {1: "height", 2: "width"}}
        draw = images("image", pictures())
        return export(Exported(module=module, draw=draw, free=free, outputs=outputs), exporter, path)

    return write


def _ssd() -> nn.Module:
    made = detection.ssd300_vgg16(weights=None, weights_backbone=None, **OF_SSD)
    spread(*made.head.classification_head.module_list)
    return made


def _ssdlite() -> nn.Module:
    made = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, **OF_SSD)
    settle(made.backbone, torch.rand(4, 3, 320, 320))
    for part in made.head.classification_head.module_list:
        spread(part[1])
    return made


def _retinanet() -> nn.Module:
    made = detection.RetinaNet(_backbone_of_retinanet(), CLASSES, score_thresh=0.02, detections_per_img=50, **LIMITS)
    spread(made.head.classification_head.cls_logits)
    return made


def _backbone_of_retinanet() -> nn.Module:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )  # fmt: skip
    settle(backbone, torch.rand(4, 3, 160, 192))
    return backbone


def _of_regions(kind: type[nn.Module], backbone: nn.Module, **options: Any) -> nn.Module:
    made = kind(
        backbone, num_classes=CLASSES, box_score_thresh=0.05, box_detections_per_img=20, rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=50, **LIMITS, **options,
    )  # fmt: skip
    spread(made.roi_heads.box_predictor.cls_score, made.rpn.head.cls_logits)
    return made


def _mobile_faster() -> nn.Module:
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return _of_regions(detection.FasterRCNN, _mobile_backbone(), rpn_anchor_generator=anchors)


def _plain(make: Callable[[], nn.Module], sizes: Mapping[int, tuple[int, ...]] | None = None) -> Write:
    """Return the writer of a network that takes a batch of pictures and gives one tensor."""

    def write(exporter: str, path: Path) -> Draw:
        seed()
        module = make()
        free = {"image": {0: "batch"} | ({2: "height", 3: "width"} if sizes else {})}
        draw = images("image", sizes or batches((3, 96, 96)), spread=2.0)
        settle(module, torch.from_numpy(draw(3)["image"]))
        return export(Exported(module=module, draw=draw, free=free, outputs=("scores",)), exporter, path)

    return write


def _bytes(exporter: str, path: Path) -> Draw:
    seed()
    network = torchvision.models.resnet18(weights=None)
    settle(network, torch.randn(4, 3, 128, 128))
    sizes = {0: (1, 240, 320, 3), 1: (1, 200, 200, 3), 2: (2, 300, 180, 3), 3: (3, 128, 256, 3)}

    def draw(index: int) -> Arrays:
        return {"pixels": generator(index).integers(0, 256, sizes[index]).astype("uint8")}

    free = {"pixels": {0: "batch", 1: "height", 2: "width"}}
    return export(Exported(module=Pixels(network), draw=draw, free=free, outputs=("scores", "classes")), exporter, path)


def _vit() -> nn.Module:
    made = torchvision.models.VisionTransformer(
        image_size=96, patch_size=16, num_layers=3, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=CLASSES
    )
    with torch.no_grad():
        made.heads.head.weight.normal_(std=0.1)  # torchvision begins with zeros
    return made


def _swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=48, depths=[2, 2], num_heads=[2, 4], window_size=[6, 6], num_classes=CLASSES
    )


def _keypoint() -> nn.Module:
    return _of_regions(detection.KeypointRCNN, _backbone(), num_keypoints=5)


SEGMENTED = {0: (1, 3, 96, 128), 1: (1, 3, 128, 128), 2: (2, 3, 160, 96), 3: (4, 3, 128, 192)}


def _deeplab() -> nn.Module:
    make = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    return Output(make(weights=None, weights_backbone=None, num_classes=CLASSES))


SUBJECTS = (
    Subject(name="ssd300", size="11 classes", write=_detector(_ssd)),
    Subject(name="ssdlite320", size="11 classes", write=_detector(_ssdlite)),
    Subject(name="retinanet", size=DETECTOR, write=_detector(_retinanet)),
    Subject(name="faster-rcnn", size=DETECTOR, write=_detector(lambda: _of_regions(detection.FasterRCNN, _backbone()))),
    Subject(name="faster-rcnn-mobilenet", size="11 classes, pictures of 128 to 256", write=_detector(_mobile_faster)),
    Subject(name="mask-rcnn", size=DETECTOR, write=_detector(lambda: _of_regions(detection.MaskRCNN, _backbone()), "masks")),
    Subject(name="keypoint-rcnn", size=DETECTOR + ", 5 points", write=_detector(_keypoint, "keypoints", "keypoints_scores")),
    Subject(name="deeplab", size="11 classes, pictures of 96 to 192", write=_plain(_deeplab, SEGMENTED)),
    Subject(name="resnet18", size="pictures of 96", write=_plain(lambda: torchvision.models.resnet18(weights=None))),
    Subject(name="resnet18-uint8", size="resized to 128", write=_bytes),
    Subject(name="vit", size="3 layers of 128, pictures of 96", write=_plain(_vit)),
    Subject(name="swin", size="4 layers of 48 and 96, pictures of 96", write=_plain(_swin)),
)
