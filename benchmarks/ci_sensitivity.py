"""How often `cutset ci` cries wolf, and what it misses: unchanged models, and models with a planted regression.

usage: python -m benchmarks.ci_sensitivity -o FILE [--unchanged N] [--seconds S] [--markdown]

Each run is the command itself, at the default limits, with the machine as it is. The first runs take a baseline of each
model; then unchanged models and planted regressions come in turn. What ran is kept in FILE, so that the benchmark can be
stopped (after S seconds) and goes on where it was when it is started again. A plant counts as found if the command ends
with 5, a check that the plant is about has failed, and what it names is the plant.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.ci_plants import DETECTOR, ENCODER, ORIENTATION, PLANTS
from cutset import serde
from cutset.files import write_atomic
from cutset.profilers.environment import environment

MODELS = (ORIENTATION, DETECTOR, ENCODER)
UNCHANGED = 30
REGRESSION = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where the benchmark keeps things."""

    folder: Path

    @property
    def baseline(self) -> Path:
        """The baseline of all models."""
        return self.folder / "baseline.json"

    def original(self, model: str) -> Path:
        """Return a sample model, written if it is not there yet."""
        path = self.folder / "models" / f"{model}.onnx"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, "-m", "cutset", "samples", model, "-q", "-o", str(path)], check=True)
        return path

    def planted(self, number: int) -> tuple[Path, list[str]]:
        """Return a model with a regression under the name of the original, and what has to be named."""
        plant = PLANTS[number]
        path = self.folder / f"plant-{number}" / f"{plant.model}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        original = self.original(plant.model)
        model = onnx.load(original)
        names = list(plant.make(model))
        onnx.save(model, path)
        shutil.copyfile(original.with_suffix(".npz"), path.with_suffix(".npz"))
        return path, names

    def run(self, model: Path, *words: str) -> dict[str, Any]:
        """Return the exit code, what was found, and the seconds of one run of the command."""
        common = ["--target", "t4", "--baseline", str(self.baseline), "--cache", str(self.folder / "cache")]
        output = self.folder / "out"
        command = [sys.executable, "-m", "cutset", "ci", str(model), "-o", str(output), "--json", "-q", *common, *words]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode not in {0, REGRESSION}:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stdout[-2000:]}")
        (found,) = json.loads(done.stdout)["models"]
        return {
            "code": done.returncode,
            "seconds": seconds,
            "measured": found["measured"],
            "speed": found.get("speed", {}).get("factor"),
            "cost": next((f["change"] for f in found["findings"] if f["check"] == "cost"), None),
            "failed": {f["check"]: f["sentence"] for f in found["findings"] if f["verdict"] == "worse"},
        }


def tasks(bench: Bench, unchanged: int) -> Iterator[tuple[str, Any]]:
    """Yield each run that is still to be made: its name, and what makes it."""
    for model in MODELS:
        yield f"baseline {model}", lambda model=model: bench.run(bench.original(model), "--update")
    for number in range(max(unchanged, len(PLANTS))):
        if number < unchanged:
            model = MODELS[number % len(MODELS)]
            yield f"unchanged {number}", lambda model=model: {"model": model} | bench.run(bench.original(model))
        if number < len(PLANTS):
            yield f"plant {number}", lambda number=number: judge(bench, number)


def judge(bench: Bench, number: int) -> dict[str, Any]:
    """Return what came of a planted regression."""
    plant = PLANTS[number]
    path, names = bench.planted(number)
    result = bench.run(path)
    said = [result["failed"][check] for check in plant.checks if check in result["failed"]]
    named = any(name in sentence for name in names for sentence in said)
    fewer = plant.kind == "unfused" and "kernels" in result["failed"]
    return {
        "kind": plant.kind,
        "model": plant.model,
        "what": plant.what,
        "found": result["code"] == REGRESSION and bool(said),
        "named": named or fewer,
        **result,
    }


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    runs = [entry for name, entry in results.items() if name.startswith("unchanged")]
    lines = [
        "| unchanged model | runs | alarms | measured again | cost, largest change | machine's speed |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for model in MODELS:
        mine = [entry for entry in runs if entry["model"] == model]
        if mine:
            alarms, again = sum(entry["code"] == REGRESSION for entry in mine), sum(entry["measured"] > 1 for entry in mine)
            cost = max((entry["cost"] for entry in mine), key=abs)
            slow = f"{min(e['speed'] for e in mine):.2f} to {max(e['speed'] for e in mine):.2f}"
            lines.append(f"| {model} | {len(mine)} | {alarms} | {again} | {cost:+.1%} | {slow} |")
    lines += ["", "| planted | model | found | by | cost | speed |", "|---|---|---|---|--:|--:|"]
    for name, entry in results.items():
        if name.startswith("plant"):
            found = "yes" if entry["found"] and entry["named"] else "found, not named" if entry["found"] else "**no**"
            cost = "" if entry["cost"] is None else f"{entry['cost']:+.1%}"
            lines.append(
                f"| {entry['kind']}: {entry['what']} | {entry['model']} | {found} | {', '.join(entry['failed'])} "
                f"| {cost} | {entry['speed']:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is still to be run, or show what was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--unchanged", type=int, default=UNCHANGED)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"runs": {}}
    results = known["runs"]
    if arguments.markdown:
        print(table(results))
        return
    bench = Bench(folder=arguments.output.with_suffix(""))
    end = time.monotonic() + arguments.seconds
    for name, make in tasks(bench, arguments.unchanged):
        if name in results:
            continue
        if time.monotonic() > end:
            break
        results[name] = make()
        print(name, json.dumps(results[name]), flush=True)
        data = {"environment": serde.to_builtins(environment()), "runs": results}
        write_atomic(arguments.output, serde.dumps(data).encode())


if __name__ == "__main__":
    main()
