"""From PIPELINE.yaml to the model that every command takes."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cutset.cascade.compose import Composed, compose
from cutset.cascade.document import SUFFIXES, Document, read_document
from cutset.cascade.hooks import SUFFIX as ARCHIVE
from cutset.digest import sha256_bytes
from cutset.errors import CutsetError, UsageError
from cutset.files import write_atomic
from cutset.profilers.session import open_session
from cutset.sample_models.registry import build

MODEL_SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of a composed cascade.

    Args:
        model: The ONNX file.
        archive: Its Python functions, None where it has none.
    """

    model: Path
    archive: Path | None

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """What ``--custom-ops`` has to name."""
        return () if self.archive is None else (str(self.archive),)


def is_cascade(path: Path) -> bool:
    """Return whether a command was given a cascade and not a model."""
    return path.suffix.lower() in SUFFIXES


def compose_file(path: Path) -> tuple[Document, Composed]:
    """Return a cascade as it is written, and as one model.

    Raises:
        CutsetError: If it cannot be composed; the message names the line.
    """
    if not is_cascade(path):
        raise UsageError(f"{path} is not the file of a pipeline", hint="its name ends in .yaml")
    document = read_document(path)
    return document, compose(document, build, name=path.stem)


def write_composed(composed: Composed, model: Path) -> Written:
    """Write a composed model to `model`, and its Python functions beside it.

    Raises:
        UsageError: If the models together are over what one file holds.
    """
    archive = None if composed.hooks is None else write_atomic(model.with_suffix(ARCHIVE), composed.hooks.archive())
    return Written(model=write_atomic(model, _bytes(composed)), archive=archive)


def check_composed(composed: Composed, where: Path) -> None:
    """Check that onnxruntime takes the model with its Python functions.

    Raises:
        CutsetError: If it does not.
    """
    with tempfile.TemporaryDirectory(prefix="cutset-compose-") as folder:
        written = write_composed(composed, Path(folder) / f"model{MODEL_SUFFIX}")
        from cutset.graph.load import load, with_operators  # noqa: PLC0415

        try:
            graph = with_operators(load(written.model, custom_ops=written.custom_ops))
            open_session(written.model, custom_ops=graph.custom_ops, where=str(where))
        except CutsetError as error:
            raise error.reworded(lambda text: text.replace(str(written.model), str(where))) from error.__cause__


def composed_in_cache(path: Path, cache: Path | None) -> Written:
    """Return the files of a cascade, written where they stay: an output folder's manifest names the model for later.

    Args:
        path: The cascade.
        cache: Folder for them; None keeps them until this process ends.
    """
    _, composed = compose_file(path)
    if cache is None:
        folder = Path(tempfile.mkdtemp(prefix="cutset-compose-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder = cache / "composed"
    return write_composed(composed, folder / sha256_bytes(_bytes(composed))[:16] / f"{path.stem}{MODEL_SUFFIX}")


def _bytes(composed: Composed) -> bytes:
    try:
        data: bytes = composed.model.SerializeToString(deterministic=True)
    except ValueError as error:
        raise UsageError("the models together are over 2 GiB", hint="serve the largest one apart") from error
    return data
