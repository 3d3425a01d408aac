"""The command `python -m <package> build`: build the engines of a package for this machine, or ahead of time for another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config import StageConfig, read_plan
from ..engine_config import EngineConfig
from ..errors import PipelineError
from .base import BackendError
from .cuda import Gpu
from .engine_cache import Builder, EngineCache, ingredients, key_of
from .tensorrt import builder_here, open_library, rebuild


def main(argv: Sequence[str], folder: Path) -> int:
    """Build what is missing and return the exit code: 0, or 1 where an engine could not be built.

    Args:
        argv: The arguments after ``build``.
        folder: The package.
    """
    options = _parser().parse_args(argv)
    try:
        stages = [stage for stage in read_plan(folder).stages if stage.engine is not None]
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not stages:
        print("no stage of this package runs as an engine: there is nothing to build")
    done = [_build(stage, options.compute_capability, force=options.force) for stage in stages]
    return 0 if all(done) else 1


def _build(stage: StageConfig, compute_capability: str, *, force: bool) -> bool:
    """Build the engine of a stage if it is missing, say what happened, and return whether there is one now."""
    assert stage.engine is not None
    try:
        builder = _builder(stage.engine, compute_capability)
        cache = EngineCache(stage.engine.folder)
        made_of = ingredients(stage.engine, builder)
        if not force and any(cache.find(key_of(one)) for one in (made_of, {**made_of, "gpu": "", "driver": ""})):
            print(f"stage {stage.index}: there is an engine for {builder}")
            return True
        print(f"stage {stage.index}: {cache.why_none(stage.index, made_of)}; building", flush=True)
        plan = rebuild(stage.index, stage.engine, builder)
    except BackendError as error:
        print(f"error: stage {stage.index}: {error}", file=sys.stderr)
        return False
    print(f"stage {stage.index}: built for {builder}, {len(plan) / 1e6:.1f} MB")
    return True


def _builder(engine: EngineConfig, compute_capability: str) -> Builder:
    trt = open_library(engine.backend)
    if compute_capability:
        if engine.backend != "tensorrt-rtx":
            raise BackendError("TensorRT builds for the GPU of this machine only; leave --compute-capability out")
        return Builder(backend=engine.backend, version=trt.__version__, compute_capability=compute_capability)
    return builder_here(engine, trt, Gpu())


def _parser() -> argparse.ArgumentParser:
    package = __name__.split(".", maxsplit=1)[0]
    parser = argparse.ArgumentParser(
        prog=f"python -m {package} build",
        description="Build the engines of the GPU stages for the GPU of this machine. Those that fit already are kept.",
    )
    parser.add_argument("--force", action="store_true", help="build those that fit already, too")
    parser.add_argument(
        "--compute-capability", default="", metavar="N.N",
        help="build for another GPU, which need not be here (TensorRT-RTX only), such as 8.9",
    )  # fmt: skip
    return parser
