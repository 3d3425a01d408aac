from __future__ import annotations

from pathlib import Path

import pytest

from cutset.files import write_atomic


def test_makes_the_folder_and_the_file(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a" / "b.bin", b"content")
    assert path.read_bytes() == b"content"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.bin"]


def test_replaces_the_file_and_lets_others_read_it(tmp_path: Path) -> None:
    path = tmp_path / "b.bin"
    path.write_bytes(b"old and longer")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")

    def refuse(self: Path, target: Path) -> Path:
        raise error

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.bin"]


def test_a_long_name(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / ("y" * 250), b"new").read_bytes() == b"new"
