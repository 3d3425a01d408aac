"""Sample inputs for measuring and verifying: given by the user, found beside the model, or drawn at random."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cutset.errors import UnknownShapeError, UsageError
from cutset.files import check_regular
from cutset.graph.types import TensorSpec

SAMPLES_TO_DRAW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleInputs:
    """Complete inputs of a model, one mapping a request, and where they came from (for people)."""

    samples: tuple[Mapping[str, np.ndarray], ...]
    origin: str


Shape = tuple[int, ...]


def parse_shape(text: str) -> tuple[str, Shape]:
    """Return the name and sizes of ``name=1x3x224x224``; of ``min:opt:max`` the middle one.

    Raises:
        UsageError: If the text has another form; the message shows one that is right.
    """
    name, (_, usual, _) = parse_shape_range(text)
    return name, usual


def parse_shape_range(text: str) -> tuple[str, tuple[Shape, Shape, Shape]]:
    """Return the name, and least, usual and largest sizes, of ``name=MIN:OPT:MAX``; all the same without a range.

    Raises:
        UsageError: If the text has another form; the message shows one that is right.
    """
    name, _, sizes = text.rpartition("=")
    found = [_parse_sizes(part) for part in sizes.split(":")]
    shapes = found * 3 if len(found) == 1 else found
    valid = len(shapes) == 3 and all(shapes) and len({len(shape) for shape in shapes}) == 1
    if not name or not valid or any(size < 0 for shape in shapes for size in shape):
        raise UsageError(f"--shape {text!r} is not of the form name=1x3x224x224", hint="for a range: name=MIN:OPT:MAX")
    least, usual, most = shapes
    if not all(low <= middle <= high for low, middle, high in zip(least, usual, most, strict=True)):
        raise UsageError(f"--shape {text!r} does not rise from MIN over OPT to MAX")
    return name, (least, usual, most)


def _parse_sizes(text: str) -> Shape:
    try:
        return tuple(int(size) for size in text.lower().split("x")) if text else ()
    except ValueError:
        return ()


def collect(
    specs: Sequence[TensorSpec],
    *,
    model: Path,
    file: Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> SampleInputs:
    """Return inputs for a model: from `file`, else from ``<model>.npz`` beside the model, else drawn at random.

    Args:
        specs: The model's inputs.
        model: Path of the model file.
        file: An ``.npz`` with one array an input.
        shapes: Sizes that win over the declared ones, for drawing.
        seed: Seed for drawing.

    Raises:
        UsageError: If a file cannot be read, or names, types or shapes do not fit.
        UnknownShapeError: If an input has a free dimension that `draw` has no size for, and nothing says how large it is.
    """
    shapes = dict(shapes or {})
    unknown = sorted(set(shapes) - {spec.name for spec in specs})
    if unknown:
        raise UsageError(f"--shape names `{unknown[0]}`, which is not an input", hint=f"the inputs are {_names(specs)}")
    beside = model.with_suffix(".npz")
    if file is None and beside.is_file() and not shapes:
        file = beside
    if file is not None:
        return SampleInputs(samples=(read_npz(file, specs),), origin=file.name)
    samples = tuple(draw(specs, shapes, seed=seed + index, vary=index > 0) for index in range(SAMPLES_TO_DRAW))
    return SampleInputs(samples=samples, origin=f"drawn at random (seed {seed})")


def read_npz(file: Path, specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Return the arrays of `file`, checked against the model's inputs; an input with a default may be left out.

    Raises:
        UsageError: If the file cannot be read or an array is missing, unknown, or of the wrong type or shape.
    """
    arrays = _read_arrays(file, specs)
    return _checked(arrays, specs, file)


def _checked(arrays: Mapping[str, np.ndarray], specs: Sequence[TensorSpec], file: Path) -> dict[str, np.ndarray]:
    """Return one array an input: that of the file if there is one, else the default."""
    given = ((spec, arrays.get(spec.name, spec.default)) for spec in specs)
    return {spec.name: check(array, spec, where=str(file)) for spec, array in given if array is not None}


def _read_arrays(file: Path, specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, one an input without a default, and others of inputs."""
    try:
        check_regular(file)
        with zipfile.ZipFile(file) as archive:
            arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in archive.namelist()}
    except Exception as error:  # numpy reads headers with Python's own tokenizer and parser, and passes their errors on
        raise UsageError(
            f"cannot read sample inputs from {file}", cause=str(error)[:200], hint="numpy.savez writes such a file"
        ) from error
    names = {spec.name for spec in specs}
    needed = {spec.name for spec in specs if spec.default is None}
    missing, extra = sorted(needed - set(arrays)), sorted(set(arrays) - names)
    if missing or extra:
        what = f"lacks input `{missing[0]}`" if missing else f"holds `{extra[0]}`, which is not an input"
        raise UsageError(f"{file} {what}", hint=f"the inputs are {_names(specs)}")
    return arrays


def read_samples(file: Path, specs: Sequence[TensorSpec]) -> list[dict[str, np.ndarray]]:
    """Return the samples of a file whose arrays have the shapes of the inputs, or one axis more, along which the samples lie.

    Raises:
        UsageError: As `read_npz`, or if the arrays hold different numbers of samples.
    """
    arrays = _read_arrays(file, specs)
    given = [spec for spec in specs if spec.name in arrays]
    several = bool(given) and all(spec.shape is not None and arrays[spec.name].ndim == len(spec.shape) + 1 for spec in given)
    if not several:
        return [_checked(arrays, specs, file)]
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or not counts - {0}:
        raise UsageError(f"the arrays of {file} hold {sorted(counts)} samples", hint="give every input the same number")
    samples = ({name: array[index] for name, array in arrays.items()} for index in range(counts.pop()))
    return [_checked(sample, specs, file) for sample in samples]


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as entry:
        return np.lib.format.read_array(entry, allow_pickle=False)


def write_npz(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, any name, so that `read_npz` reads them; the bits of bfloat16 are kept as uint16."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            plain = array.astype(np.str_) if array.dtype.kind == "O" else array
            plain = plain.view(np.uint16) if plain.dtype == ml_dtypes.bfloat16 else plain
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(plain), allow_pickle=False)


def check(array: np.ndarray, spec: TensorSpec, *, where: str) -> np.ndarray:
    """Return `array` in the type that onnxruntime takes for `spec`.

    Raises:
        UsageError: If type, rank or a fixed size differs.
    """
    expected = f"{spec.dtype} {_shape_text(spec)}"
    found = f"{array.dtype} {list(array.shape)}"
    if spec.dtype == "string":
        fits = array.dtype.kind in "UO"
        array = array.astype(object) if fits else array
    else:
        array = array.view(ml_dtypes.bfloat16) if spec.dtype == "bfloat16" and array.dtype == np.uint16 else array
        fits = array.dtype == spec.numpy_dtype
    if not fits:
        raise UsageError(
            f"input `{spec.name}` has type {array.dtype}, expected {spec.dtype}",
            where=where,
            hint=f"expected {expected}",
        )
    if spec.shape is not None:
        same = len(spec.shape) == array.ndim and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, array.shape, strict=True)
        )
        if not same:
            hint = "names stand for any size, numbers are fixed; write such an array with numpy.savez"
            raise UsageError(f"input `{spec.name}` is {found}, expected {expected}", where=where, hint=hint)
    return np.ascontiguousarray(array) if array.ndim else array


def draw(
    specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], *, seed: int, vary: bool = False
) -> dict[str, np.ndarray]:
    """Return seeded random arrays that fit the input specs; a free first dimension counts as one.

    The only dimension of an input has no default, for it is rarely a number of samples (a sound, say); that of strings is.

    Args:
        specs: The inputs.
        shapes: Sizes by input that win over the declared ones.
        seed: Other seeds draw other values.
        vary: Whether inputs with a default get values near the default, as far as they are floats, and not the default.

    Raises:
        UnknownShapeError: If another dimension is free.
    """
    rng = np.random.default_rng(seed)
    bindings: dict[str, int] = {}
    defaults = {spec.name: spec.default for spec in specs if spec.default is not None and spec.name not in shapes}
    for spec in specs:
        known = defaults[spec.name].shape if spec.name in defaults else shapes.get(spec.name, ())
        for dim, size in zip(spec.shape or (), known, strict=False):
            if isinstance(dim, str):
                bindings.setdefault(dim, size)
    for spec in specs:
        counts = len(spec.shape or ()) > 1 or spec.dtype == "string"
        if spec.shape and counts and isinstance(spec.shape[0], str):
            bindings.setdefault(spec.shape[0], 1)
    arrays = {}
    for spec in specs:
        if spec.name in defaults:
            arrays[spec.name] = _near(defaults[spec.name], rng) if vary else defaults[spec.name]
        else:
            arrays[spec.name] = _draw_one(spec, _sizes(spec, shapes, bindings), rng)
    return arrays


def _near(default: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return values that are not those of a default but of its kind: half as much again at most. Only floats differ."""
    if default.dtype.kind != "f":
        return default
    factor, offset = rng.uniform(0.5, 1.5, default.shape), rng.uniform(0, 0.1, default.shape)
    return np.asarray(np.where(default == 0, offset, default * factor), dtype=default.dtype)


def _sizes(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]], bindings: Mapping[str, int]) -> tuple[int, ...]:
    if spec.name in shapes:
        given = shapes[spec.name]
        if spec.shape is not None and (
            len(given) != len(spec.shape)
            or any(isinstance(dim, int) and dim != size for dim, size in zip(spec.shape, given, strict=True))
        ):
            raise UsageError(
                f"--shape gives `{spec.name}` {list(given)}, but the model declares {_shape_text(spec)}",
                hint="give as many sizes as the model declares; those it declares as numbers are fixed",
            )
        return given
    try:
        return spec.sizes(bindings)
    except UnknownShapeError as error:
        raise UnknownShapeError(f"input {error.what.removeprefix('tensor ')}", hint=error.hint) from error


def _draw_one(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if not spec.is_tensor:
        raise UsageError(f"input `{spec.name}` is a {spec.dtype}: only plain tensors can be drawn or served")
    if spec.dtype == "string":
        words = np.array(["the", "quick", "brown", "fox", "jumps", "over", "Lazy", "dogs", ""], dtype=object)
        return np.asarray(rng.choice(words, shape), dtype=object)
    dtype = spec.numpy_dtype
    if dtype == np.bool_:
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        high = 256 if dtype.itemsize == 1 and dtype.kind == "u" else 2
        return np.asarray(rng.integers(0, high, shape), dtype=dtype)
    return np.asarray(rng.random(shape), dtype=dtype)


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}` ({spec.dtype} {_shape_text(spec)})" for spec in specs)


def _shape_text(spec: TensorSpec) -> str:
    return "of any shape" if spec.shape is None else "[" + ", ".join(str(dim) for dim in spec.shape) + "]"


def sizes_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array; sequences and maps have none and are left out."""
    return {name: array.shape for name, array in arrays.items() if isinstance(array, np.ndarray)}
