"""What a killed run leaves goes with the next run; what a living run works in stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutset.claims import ASIDE, OWNER, SUFFIX, claimed_folder, own_temporary_folder, remove_abandoned
from cutset.files import write_atomic

HOLD = """
import sys
from pathlib import Path
from cutset.claims import claimed_folder
with claimed_folder(Path(sys.argv[1]), prefix=".out.", replaces="out") as folder:
    (folder / "half").write_text("x")
    if len(sys.argv) > 2:
        Path(sys.argv[1], "out").rename(folder / "old")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path]]]:
    """Return a function that starts a process with a claimed folder, and gives the process and the folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", HOLD, str(tmp_path), *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_claimed_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    with claimed_folder(tmp_path, prefix=".a.") as folder:
        (folder / "b").mkdir()
        remove_abandoned(tmp_path, prefix=".a.")
        assert folder.is_dir(), "this process is there still"
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_process_held_is_swept(
    tmp_path: Path, hold: Callable[..., tuple[subprocess.Popen[str], Path]]
) -> None:
    (dead, left), (_, held) = hold(), hold()
    remove_abandoned(tmp_path, prefix=".out.")
    assert left.is_dir()
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    remove_abandoned(tmp_path, prefix=".other.")
    assert left.is_dir()
    remove_abandoned(tmp_path, prefix=".out.")
    assert not left.exists()
    assert (held / "half").is_file()


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_killed_process_had_moved_aside_comes_back(
    tmp_path: Path, hold: Callable[..., tuple[subprocess.Popen[str], Path]], taken: bool
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("of before")
    dead, left = hold("moved")
    assert (left / ASIDE / "file").is_file()
    dead.kill()
    dead.wait()
    if taken:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("of another")
    remove_abandoned(tmp_path, prefix=".")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == ("of another" if taken else "of before")


def test_what_was_never_claimed_stays(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / OWNER).touch()
    names = [f".out.{'a' * 8}{SUFFIX}", ".out.swp", ".out.short.partial", "out.abcdefgh.partial"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").touch()
    (tmp_path / f".out.{'l' * 8}{SUFFIX}").symlink_to(beside)
    os.mkfifo(tmp_path / f".out.{'p' * 8}{SUFFIX}")
    remove_abandoned(tmp_path, prefix=".")
    assert all((tmp_path / name / "thesis.txt").exists() for name in names)
    assert (beside / OWNER).exists()


def test_a_file_half_written_by_a_killed_process_goes_with_the_next_write(tmp_path: Path) -> None:
    half = tmp_path / f".plan.json.abcd_123{SUFFIX}"
    half.write_text('{"half":')
    swap = tmp_path / ".plan.json.swp"
    swap.write_text("of an editor")
    write_atomic(tmp_path / "other.json", b"{}")
    assert half.exists()
    write_atomic(tmp_path / "plan.json", b"{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".plan.json.swp", "other.json", "plan.json"]


def test_temporary_files_lie_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_temporary_folder():
        inner = Path(tempfile.mkdtemp())
        assert inner.parent != tmp_path
        assert inner.parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == str(tmp_path)


def test_no_folder_for_temporary_files_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with own_temporary_folder():
        assert tempfile.gettempdir() == str(tmp_path / "gone")
