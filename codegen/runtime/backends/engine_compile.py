"""Turn one ONNX model into one engine: the only place that makes a network and configures a builder.

Who times engines, who asks what the library takes, who builds a package's engines and ``python -m <package> build`` all come
here, so that what is measured is what is deployed. Written against what TensorRT 10, TensorRT 11 and TensorRT-RTX have in
common. Engines are strongly typed: their precision is that of the ONNX file, and tf32 is off unless it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine_config import EngineInput

ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
"""How the parser notes in a layer's metadata the nodes that the layer came from."""


class Refusal(Exception):  # noqa: N818 - what happened, as the other names of this kind
    """The library does not take a model.

    Args:
        step: ``parser`` or ``builder``.
        words: What the library said, in one line; empty where it said nothing.
    """

    def __init__(self, step: str, words: str) -> None:
        super().__init__(f"the {step} refuses: {words}")
        self.step, self.words = step, words


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """All that decides, besides the model, what engine comes out.

    Args:
        inputs: Shapes, and elements of inputs that are shapes, which the engine must take.
        compute_capability: GPU to build for, such as ``8.9``, without one (TensorRT-RTX); empty for this machine's.
        tf32: Whether float32 products may be computed in tf32.
        timing_cache: File in which full TensorRT keeps what it measured of kernels, None for none.
    """

    inputs: tuple[EngineInput, ...]
    compute_capability: str = ""
    tf32: bool = False
    timing_cache: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A serialised engine and the names of the ONNX nodes that its network's layers came from."""

    plan: bytes = field(repr=False)
    nodes: frozenset[str]


def compile_engine(trt: Any, logger: Any, model: str | bytes, settings: BuildSettings) -> Compiled:
    """Return the engine of a model.

    Args:
        trt: The library.
        logger: An ``ILogger`` of the library; see `Errors`.
        model: A file, whose weights may lie beside it, or a serialised model with its weights inside.
        settings: What the engine must be.

    Raises:
        Refusal: If the parser or the builder refuses; without words, which the logger has.
    """
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model) if isinstance(model, bytes) else parser.parse_from_file(model)
    if not parsed:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise Refusal("parser", _line("; ".join(f"{error.node_operator()}: {error.desc()}" for error in errors)))
    config = configure(trt, builder, network, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refusal("builder", "")
    if settings.timing_cache is not None and not _is_rtx(trt):
        _keep_timings(config, Path(settings.timing_cache))
    layers = (network.get_layer(index) for index in range(network.num_layers))
    nodes = frozenset(name for layer in layers for name in ONNX_NODE.findall(layer.metadata))
    return Compiled(plan=bytes(plan), nodes=nodes)


def configure(trt: Any, builder: Any, network: Any, settings: BuildSettings) -> Any:
    """Return the builder's configuration for a network.

    Raises:
        Refusal: If the library does not build for the GPU.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    change = config.set_flag if settings.tf32 else config.clear_flag  # TensorRT's own default is on
    change(trt.BuilderFlag.TF32)
    if _is_rtx(trt):
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, settings.compute_capability), 0)
    elif settings.timing_cache is not None:
        before = _bytes_of(Path(settings.timing_cache))
        config.set_timing_cache(config.create_timing_cache(before), ignore_mismatch=True)
    _add_profile(builder, network, config, settings.inputs)
    return config


def _is_rtx(trt: Any) -> bool:
    return hasattr(trt, "ComputeCapability")


def _capability(trt: Any, wanted: str) -> Any:
    name = "SM" + wanted.replace(".", "") if wanted else "CURRENT"
    if not hasattr(trt.ComputeCapability, name):
        raise Refusal("builder", f"compute capability {wanted} ({name}) not supported by this TensorRT-RTX version")
    return getattr(trt.ComputeCapability, name)


def _add_profile(builder: Any, network: Any, config: Any, inputs: tuple[EngineInput, ...]) -> None:
    """Give every input that is open in shape, or whose elements are a shape, the range that is said of it."""
    given = {entry.name: entry for entry in inputs}
    profile = builder.create_optimization_profile()
    used = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, *given[tensor.name].values)
            used = True
        elif -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *given[tensor.name].shapes)
            used = True
    if used:
        config.add_optimization_profile(profile)


def _bytes_of(file: Path) -> bytes:
    with contextlib.suppress(OSError):
        return file.read_bytes()
    return b""


def _keep_timings(config: Any, file: Path) -> None:
    """Write what was measured of kernels beside what another build may have written since; the last one wins whole."""
    measured = config.get_timing_cache()
    others = _bytes_of(file)
    if others:
        measured.combine(config.create_timing_cache(others), ignore_mismatch=True)
    with contextlib.suppress(OSError):  # a folder that cannot be written keeps nothing
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        with os.fdopen(handle, "wb") as opened:
            opened.write(bytes(measured.serialize()))
        Path(name).replace(file)


class Errors:
    """What a library said through its logger, which prints nothing.

    Args:
        trt: The library.
    """

    def __init__(self, trt: Any) -> None:
        said: list[str] = []
        self._said = said

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                    said.append(message)

        self.logger = Logger()

    def last(self) -> str:
        """Return the last error in one line; of several the last that has a reason."""
        said = self._said
        return _line(
            next((text for text in reversed(said) if "In node" in text or "Error Code" in text), said[-1] if said else "")
        )


def _line(text: str) -> str:
    return " ".join(text.split())
