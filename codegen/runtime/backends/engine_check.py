"""Are an engine's numbers those of the stage's ONNX file? Asked when an engine is first loaded, before it answers anyone.

The compiler proves the ONNX files; an engine that did not run there is compared here, on the stored sample, with what
onnxruntime computes on the CPU. What came out is remembered beside the engines, under all that it depends on, so that later
starts are quick, and another engine, library, GPU or driver is compared again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import StageConfig
from ..dtypes import Value
from ..engine_config import EngineConfig
from .base import BackendError, BackendOptions, StageBackend
from .device import as_array
from .engine_cache import Builder, part_digest
from .onnxruntime import OnnxRuntimeBackend

SCHEMA = "cutset.verdicts/1"
FILE = "verdicts.json"
_log = logging.getLogger(__name__)


class WrongNumbers(BackendError):  # noqa: N818 - what happened, as the other names of this kind
    """An engine computes something else than the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison found.

    Args:
        ok: Whether every output was within the tolerance.
        output: The output that differs most; empty for a stage without outputs.
        difference: Largest difference over the output's largest magnitude; of integers, the share that differ.
        tolerance: What was allowed.
    """

    ok: bool
    output: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        size = "in shape, or by infinities or not-a-numbers" if self.difference == np.inf else f"by {self.difference:.2g}"
        return f"output {self.output!r} differs from the stage's ONNX file {size} of its magnitude, {self.tolerance:g} allowed"


def confirm(loaded: StageBackend, stage: StageConfig, options: BackendOptions, plan: bytes, builder: Builder) -> None:
    """Check that the numbers of an engine are those of its stage; known verdicts are taken as they are.

    Args:
        loaded: The stage as an engine.
        stage: The stage; without a sample there is nothing to compare on.
        options: How to run the stage's ONNX file.
        plan: The engine.
        builder: Library and GPU of this machine.

    Raises:
        WrongNumbers: If they are not, by more than the plan's tolerance.
        BackendError: If the engine, or the ONNX file, does not run on the sample.
    """
    engine = stage.engine
    if engine is None or engine.sample is None:
        _log.info("stage %d: there is no sample to compare the engine's numbers on", stage.index)
        return
    key = _key(engine, engine.sample, stage, plan, builder)
    verdict = _read(engine.folder).get(key)
    if verdict is None:
        verdict = compare(loaded, stage, options, engine.sample, engine.tolerance)
        _remember(engine.folder, key, verdict)
        _log.info("stage %d: compared with the stage's ONNX file: %s", stage.index, verdict)
    if not verdict.ok:
        _log.error("stage %d: the engine's numbers are wrong: %s", stage.index, verdict)
        raise WrongNumbers(f"the engine's numbers are wrong: {verdict}")


def compare(loaded: StageBackend, stage: StageConfig, options: BackendOptions, sample: Path, tolerance: float) -> Verdict:
    """Return how far a loaded stage is from its ONNX file, which onnxruntime runs on the CPU.

    Args:
        loaded: The stage as an engine.
        stage: The stage.
        options: How to run the ONNX file.
        sample: One value for each input of the stage.
        tolerance: Largest difference over an output's largest magnitude.

    Raises:
        BackendError: If one of the two does not run on the sample.
    """
    with np.load(sample) as opened:
        feeds: dict[str, Value] = {name: opened[name] for name in stage.inputs}
    found = {name: as_array(value) for name, value in loaded.run(feeds).items()}
    reference = OnnxRuntimeBackend.load(stage, options)
    try:
        expected = reference.run(feeds)
    finally:
        reference.close()
    differences = {
        name: difference(np.asarray(expected[name]), np.asarray(found[name])) for name in found
    }  # those that somebody reads
    worst = max(differences, key=differences.__getitem__, default="")
    size = differences.get(worst, 0.0)
    return Verdict(ok=size <= tolerance, output=worst, difference=size, tolerance=tolerance)


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the largest difference over the largest magnitude; infinite where shapes or special values differ.

    Of integers and truth values it is the share of elements that differ.
    """
    if expected.shape != found.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    wanted, seen = _floats(expected), _floats(found)
    if wanted is None or seen is None:
        return float(np.mean(expected != found))
    special = ~np.isfinite(wanted)
    if not np.array_equal(wanted[special], seen[special], equal_nan=True) or not np.isfinite(seen[~special]).all():
        return float("inf")
    scale = float(np.abs(wanted[~special]).max(initial=0.0))
    worst = float(np.abs(wanted[~special] - seen[~special]).max(initial=0.0))
    return worst / scale if scale else worst


def _floats(array: np.ndarray) -> np.ndarray | None:
    """Return an array of floats as float64, None for one of anything else; bfloat16 travels as its bits in uint16."""
    if array.dtype == np.uint16:  # no engine has a type of 16 bits without a sign
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64) if array.dtype.kind == "f" else None


def _key(engine: EngineConfig, sample: Path, stage: StageConfig, plan: bytes, builder: Builder) -> str:
    """Return the digest of all that a verdict depends on."""
    made_of: Mapping[str, Any] = {
        "engine": hashlib.sha256(plan).hexdigest(),
        "stage": part_digest(stage.model),
        "sample": hashlib.sha256(sample.read_bytes()).hexdigest(),
        "tolerance": engine.tolerance,
        **asdict(builder),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Verdict]:
    """Return the verdicts that are remembered; none where there is no file of them, or none that can be read."""
    try:
        document = json.loads((folder / FILE).read_text("utf-8"))
        if document["schema"] != SCHEMA:
            return {}
        return {
            key: Verdict(
                ok=entry["ok"] is True, output=str(entry["output"]), difference=float(entry["difference"]),
                tolerance=float(entry["tolerance"]),
            )
            for key, entry in document["verdicts"].items()
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(folder: Path, key: str, verdict: Verdict) -> None:
    """Keep a verdict where the folder can be written; elsewhere the next start compares again."""
    verdicts = _read(folder) | {key: verdict}
    entries = {name: {**asdict(one), "difference": str(one.difference)} for name, one in verdicts.items()}
    text = json.dumps({"schema": SCHEMA, "verdicts": entries}, indent=1)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=FILE)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(folder / FILE)
