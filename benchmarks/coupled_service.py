"""Detection and classification on one GPU: the coupled service that Meituan describes against the automatic split, simulated.

usage: python -m benchmarks.coupled_service [-o FILE] [--crops N] [--height N] [--cores N]

The article (Meituan, "Visual GPU inference service deployment architecture", 2023-02-09) has a detector and a ResNet-50
classifier on one T4 with 8 CPU cores, pre-processing, suppression and crops on the CPU between the networks; splitting CPU and
GPU parts into services of their own took the GPU from 40 % to 100 % and the throughput past three times. It gives neither
the pictures' size nor the number of crops: both are options here. What is assumed is in the output, under `assumptions`.

CPU costs are measured here, alone on a core; the T4 is *modelled*; the pipelines are simulated from these costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.utils import Extractor

from cutset import serde
from cutset.partitioner.simulate import Simulation, enough_tokens, saturated
from cutset.partitioner.steps import Step, demand_of
from cutset.profilers.environment import environment
from cutset.sample_models import classifier, detector, media

SIDE = 640
"""Of the detector's input: the YOLO family's usual one; the sample's own is half of it."""

HAND_MADE = (
    *(f"{glue}/*=cpu" for glue in ("decode", "surest", "boxes", "crops", "ready")),
    *(f"detect/{part}/*=cpu" for part in ("pre", "nms", "post")),
    *(f"detect/{part}=cpu" for part in ("boxes", "scores")),
    *(f"detect/{part}*=gpu" for part in ("stem", "stage", "pyramid", "neck", "head", "decode")),
    "classify/*=gpu",
)
"""Networks on the GPU, all else on the CPU: the division that the article's service has before and after it is split."""

CASCADE = """
inputs:
  photo: {{type: uint8, shape: [num_bytes]}}
stages:
  decode: {{part: decode, inputs: {{file: photo}}}}
  detect: {{model: detector.onnx, inputs: {{image: decode.image}}}}
  surest: {{part: topk, inputs: {{values: detect.scores}}, with: {{k: {crops}}}}}
  boxes: {{part: gather, inputs: {{rows: detect.boxes, indices: surest.indices}}}}
  crops: {{part: crop, inputs: {{image: decode.image, boxes: boxes.gathered}}, with: {{size: [224, 224]}}}}
  ready:
    part: normalize
    inputs: {{image: crops.crops}}
    with: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
  classify:
    model: classifier.onnx
    inputs: {{pre/normalise: ready.tensor}}
    shapes: {{pre/normalise: [n, 3, 224, 224]}}
outputs: {{boxes: boxes.gathered, scores: surest.top, logits: classify.head/logits}}
"""


def main() -> int:
    """Measure, plan, simulate, write the JSON and print it."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cascade = _write(Path(folder), options.crops, options.height)
        pins = [word for pin in HAND_MADE for word in ("--pin", pin)]
        plans = {
            "hand_fp32": _plan(cascade, options.cores, "fp32", *pins),
            "hand_fp16": _plan(cascade, options.cores, "fp16", *pins),
            "automatic_fp16": _plan(cascade, options.cores, "fp16"),
        }
        _, wide = _fed(_steps(plans["hand_fp16"]), options.cores)
        plans["automatic_fp16_wide"] = _plan(cascade, wide, "fp16")
    found = {"assumptions": _assumptions(options), "demands_s": _demands(plans), "cases": _cases(plans, options.cores)}
    found["gains"] = _gains(found["cases"])
    if options.output:
        options.output.write_text(serde.dumps({"environment": environment(), **found}), "utf-8")
    print(serde.dumps(found))
    return 0


def _write(folder: Path, crops: int, height: int) -> Path:
    """Write the cascade, its two networks (random weights, true sizes) and a photo of 4 to 3."""
    detector.SIDE = SIDE
    onnx.save(detector.build(seed=0), str(folder / "detector.onnx"))
    whole = onnx.shape_inference.infer_shapes(classifier.build(seed=0))
    network = Extractor(whole).extract_model(["pre/normalise"], ["head/logits"])
    onnx.save(network, str(folder / "classifier.onnx"))
    photo = media.resized(media.photo(0), height, height * 4 // 3).round().astype(np.uint8)
    np.savez(folder / "cascade.npz", photo=media.jpeg(photo))
    path = folder / "cascade.yaml"
    path.write_text(CASCADE.format(crops=crops), "utf-8")
    return path


def _plan(cascade: Path, cores: int, precision: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "cutset", "partition", str(cascade), "--plan-only", "--json", "-q", "--target", "t4"]
    command += ["--cache", str(cascade.parent / "cache")]  # measured anew in each run of this script, and once
    command += ["--cpu-workers", str(cores), "--precision", precision, "--max-stages", "5", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _steps(plan: Mapping[str, Any]) -> tuple[Step, ...]:
    return tuple(Step(**entry) for entry in plan["steps"])


def _demands(plans: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the seconds of each resource a request, by plan."""
    return {name: demand_of(_steps(plan), 1) for name, plan in plans.items()}


def _cases(plans: Mapping[str, Mapping[str, Any]], cores: int) -> dict[str, dict[str, Any]]:
    """Return what each way of deploying the same two networks does when it is saturated."""
    hand_32, hand_16, automatic, wide = (_steps(plan) for plan in plans.values())
    one = {"cpu": 1}
    more_32, more_16, more_auto = (_fed(steps, cores) for steps in (hand_32, hand_16, wide))
    return {
        "coupled, one request at a time, fp32": _case(saturated(hand_32, one, 1), 1),
        "coupled, a thread a core, fp32": _case(saturated(hand_32, {"cpu": cores}, cores), cores),
        "coupled, a thread a core, fp16 engines": _case(saturated(hand_16, {"cpu": cores}, cores), cores),
        "split by hand, same cores, fp16 engines": _case(enough_tokens(hand_16, {"cpu": cores})[1], cores),
        "split automatically, same cores, fp16 engines": _case(enough_tokens(automatic, {"cpu": cores})[1], cores),
        "split by hand, CPU replicated, fp32": _case(*more_32),
        "split by hand, CPU replicated, fp16 engines": _case(*more_16),
        "split automatically, CPU replicated, fp16 engines": _case(*more_auto),
    }


def _fed(steps: Sequence[Step], least: int) -> tuple[Simulation, int]:
    """Return what the fewest cores do, from `least` on, that keep the GPU busy, and how many they are."""
    demands = demand_of(steps, 1)
    cores = max(least, int(np.ceil(demands["cpu"] / demands["gpu"])))
    while True:
        found = enough_tokens(steps, {"cpu": cores})[1]
        if found.utilisation["gpu"] >= 0.97 or cores > 1000:
            return found, cores
        cores += 1


def _case(found: Simulation, cores: int) -> dict[str, Any]:
    return {
        "cores": cores,
        "throughput_per_s": found.throughput_per_s,
        "gpu": found.utilisation["gpu"],
        "cpu": found.utilisation["cpu"],
        "latency_p50_s": found.latency_p50_s,
    }


def _gains(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the factors whose product is the whole gain over the coupled service."""
    rate = {name: case["throughput_per_s"] for name, case in cases.items()}
    chain = [
        ("engine", "coupled, a thread a core, fp32", "coupled, a thread a core, fp16 engines"),
        ("overlap", "coupled, a thread a core, fp16 engines", "split by hand, same cores, fp16 engines"),
        ("placement", "split by hand, same cores, fp16 engines", "split automatically, same cores, fp16 engines"),
        (
            "cpu_replication",
            "split automatically, same cores, fp16 engines",
            "split automatically, CPU replicated, fp16 engines",
        ),
    ]
    found = {name: rate[after] / rate[before] for name, before, after in chain}
    before = rate["coupled, a thread a core, fp32"]
    return found | {
        "together": rate[chain[-1][2]] / before,
        "on_the_same_cores": rate[chain[-1][1]] / before,
        "together_by_hand": rate["split by hand, CPU replicated, fp16 engines"] / before,
    }


def _assumptions(options: argparse.Namespace) -> list[str]:
    height, width = options.height, options.height * 4 // 3
    return [
        f"a photo is a JPEG file of {width} x {height}; {options.crops} boxes of it are classified (the article says neither)",
        f"the detector is the sample's of 4.3 million weights at {SIDE} x {SIDE}, the classifier ResNet-50; weights are random",
        "CPU costs are those of this machine's cores, measured alone, and the same for each of the cores that are simulated",
        "the T4 is modelled from its data sheet, once in fp32 (the service's framework) and once in fp16 (engines)",
        "a coupled service is a thread a core that takes a request from its bytes to its answer, batch 1",
        "with replicated cores the automatic split is planned for as many as feed the GPU when split by hand",
        "replicated cores sit beside the GPU: the network between services, which the article's replicas have, is left out",
        "the simulation has no noise and no other load",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--height", type=int, default=1200)
    parser.add_argument("--cores", type=int, default=8)
    return parser


if __name__ == "__main__":
    sys.exit(main())
