"""Exports of torch after onnxruntime's tools: quantised, in float16, fused by the optimiser of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers import float16, optimizer

from benchmarks.exported import text, vision
from benchmarks.exported.subject import Arrays, Draw, Subject, Write

RESNET = next(subject.write for subject in vision.SUBJECTS if subject.name == "resnet18")
TOOLS = ("torchscript", "dynamo")


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, draw: Draw) -> None:
        self.rows: Iterator[Arrays] = iter([draw(index) for index in range(4)])

    def get_next(self) -> Arrays | None:
        return next(self.rows, None)


def _after(base: Write, change: Callable[[Path, Path, Draw], None]) -> Write:
    """Return the writer of what a tool makes of an export."""

    def write(exporter: str, path: Path) -> Draw:
        plain = path.with_suffix(".plain.onnx")
        draw = base(exporter, plain)
        change(plain, path, draw)
        plain.unlink()
        return draw

    return write


def _dynamic(plain: Path, path: Path, _draw: Draw) -> None:
    quantization.quantize_dynamic(plain, path)


def _static(form: quantization.QuantFormat, *, symmetric: bool) -> Callable[[Path, Path, Draw], None]:
    def change(plain: Path, path: Path, draw: Draw) -> None:
        ready = path.with_suffix(".ready.onnx")
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        kind = quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8
        quantization.quantize_static(
            ready, path, _Calibration(draw), quant_format=form, activation_type=kind, weight_type=quantization.QuantType.QInt8,
            per_channel=symmetric, extra_options={"ActivationSymmetric": symmetric},
        )  # fmt: skip
        ready.unlink()

    return change


def _half(plain: Path, path: Path, _draw: Draw) -> None:
    onnx.save(float16.convert_float_to_float16(onnx.load(plain), keep_io_types=False), path)


def _optimised(plain: Path, path: Path, _draw: Draw) -> None:
    made = optimizer.optimize_model(str(plain), model_type="bert", num_heads=text.HEADS, hidden_size=text.WIDTH)
    made.save_model_to_file(str(path))


def _as_half(base: Write) -> Write:
    """Return a writer whose floating inputs are float16, as those of a converted model."""

    def write(exporter: str, path: Path) -> Draw:
        draw = base(exporter, path)

        def narrow(index: int) -> Arrays:
            return {name: a.astype(np.float16) if a.dtype == np.float32 else a for name, a in draw(index).items()}

        return narrow

    return write


QDQ, QOPERATOR = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator
PICTURES = "pictures of 96"
SUBJECTS = (
    Subject(name="bert-dynamic-int8", size=text.SMALL, write=_after(text.write_bert, _dynamic)),
    Subject(name="resnet18-dynamic-int8", size=PICTURES, write=_after(RESNET, _dynamic)),
    Subject(name="resnet18-static-qdq", size=PICTURES, write=_after(RESNET, _static(QDQ, symmetric=True))),
    Subject(name="resnet18-static-uint8", size=PICTURES, write=_after(RESNET, _static(QDQ, symmetric=False))),
    Subject(name="resnet18-static-qoperator", size=PICTURES, write=_after(RESNET, _static(QOPERATOR, symmetric=False))),
    Subject(name="bert-static-qdq", size=text.SMALL, write=_after(text.write_bert, _static(QDQ, symmetric=True))),
    Subject(name="bert-fp16", size=text.SMALL, write=_as_half(_after(text.write_bert, _half))),
    Subject(name="resnet18-fp16", size=PICTURES, write=_as_half(_after(RESNET, _half))),
    Subject(name="bert-optimizer", size=text.SMALL, write=_after(text.write_bert, _optimised)),
)
