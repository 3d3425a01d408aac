"""A folder appears whole or not at all, and what was there before is only replaced when it is ours."""

import errno
from pathlib import Path

import pytest

from cutset.codegen.atomic import check_target, new_folder
from cutset.errors import CutsetError, UsageError


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


MANIFEST = '{"schema": "cutset.manifest/1"}'


def emitted(folder):
    """Make a folder as cutset leaves it."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(MANIFEST)
    return folder


def test_a_new_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "er" / "out"
    with new_folder(target, force=False) as work:
        assert work.is_relative_to(target.parent), "a rename must not cross file systems"
        assert list(work.iterdir()) == []
        (work / "a").write_text("1")
        assert not target.exists()
    assert tree(tmp_path) == ["deep", "deep/er", "deep/er/out", "deep/er/out/a"]
    assert target.stat().st_mode & 0o700 == 0o700


def test_a_relative_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("out"), force=False) as work:
        (work / "a").touch()
    assert tree(tmp_path) == ["out", "out/a"]


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", force=False) as work:
        (work / "a").touch()
    assert tree(tmp_path) == ["out", "out/a"]


class DiskFullError(OSError):
    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, DiskFullError, GeneratorExit])
@pytest.mark.parametrize("before", ["nothing", "ours", "empty"])
def test_a_failure_leaves_everything_as_it_was(tmp_path, failure, before):
    target = tmp_path / "up" / "out"
    if before == "ours":
        emitted(target)
    elif before == "empty":
        target.mkdir(parents=True)
    was = tree(tmp_path)
    with pytest.raises(failure), new_folder(target, force=True) as work:  # noqa: PT012
        (work / "half").write_text("x")
        (work / "sub").mkdir()
        raise failure
    assert tree(tmp_path) == was


def test_a_parent_that_someone_else_uses_by_then_stays(tmp_path):
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "up" / "out", force=False):  # noqa: PT012
        (tmp_path / "up" / "theirs").touch()
        raise ValueError("stop")
    assert tree(tmp_path) == ["up", "up/theirs"]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_while_replacing_brings_the_old_folder_back(tmp_path, monkeypatch, failure):
    target = emitted(tmp_path / "out")
    real = Path.rename

    def rename(self, other):
        if other == target and self.parent != target.parent and (self / "new.txt").exists():
            raise failure
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(failure), new_folder(target, force=True) as work:
        (work / "new.txt").touch()
    assert tree(tmp_path) == ["out", "out/manifest.json"]
    assert (target / "manifest.json").read_text() == MANIFEST


def test_an_existing_folder_needs_force(tmp_path):
    target = emitted(tmp_path / "out")
    with pytest.raises(UsageError, match="already exists") as caught:
        check_target(target, force=False)
    assert "--force" in caught.value.hint
    with new_folder(target, force=True) as work:
        (work / "new.txt").touch()
    assert tree(tmp_path) == ["out", "out/new.txt"]


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"schema": null}', '{"schema": "webapp/3"}', "\udcff"])
def test_a_foreign_folder_is_never_replaced(tmp_path, manifest):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (tmp_path / "home" / "manifest.json").write_bytes(manifest.encode("utf-8", "surrogateescape"))
    was = tree(tmp_path)
    with pytest.raises(UsageError, match="was not written by cutset"), new_folder(tmp_path / "home", force=True):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == was


def test_a_long_name(tmp_path):
    target = tmp_path / ("x" * 250)
    with new_folder(target, force=False) as work:
        (work / "a").touch()
    assert tree(target) == ["a"]


@pytest.mark.parametrize("kind", ["file", "link to a folder", "dangling link"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_folder_is_never_replaced(tmp_path, kind, force):
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("x")
    else:
        other = emitted(tmp_path / "other") if kind == "link to a folder" else tmp_path / "gone"
        target.symlink_to(other)
    was = tree(tmp_path)
    with pytest.raises(UsageError, match="exists and is not a folder"):
        check_target(target, force=force)
    assert tree(tmp_path) == was


def test_a_parent_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CutsetError, match="cannot write into"):
        check_target(tmp_path / "file" / "out", force=False)
    with pytest.raises(CutsetError, match="cannot write into"), new_folder(Path("/proc/self/cutset-out"), force=False):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("came", ["their folder", "their file", "their link"])
def test_what_comes_to_lie_at_the_target_meanwhile_is_kept(tmp_path, came, force):
    target = tmp_path / "out"
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError) as caught, new_folder(target, force=force) as work:  # noqa: PT012
        (work / "a").touch()
        if came == "their folder":
            target.mkdir()
            (target / "thesis.txt").write_text("a day's work")
        elif came == "their file":
            target.write_text("a day's work")
        else:
            target.symlink_to(tmp_path / "other")
        was = tree(tmp_path)
    assert str(target) in caught.value.what
    assert caught.value.hint
    assert tree(tmp_path) == [name for name in was if not name.startswith(".")]


def test_of_two_runs_without_force_the_second_to_end_loses(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(UsageError, match="came to be while this run worked"), new_folder(target, force=False) as second:  # noqa: PT012
        with new_folder(target, force=False) as first:
            (first / "of_the_first").touch()
        (second / "of_the_second").touch()
    assert tree(tmp_path) == ["out", "out/of_the_first"]


def test_with_force_the_last_run_replaces_what_another_run_wrote_meanwhile(tmp_path):
    target = tmp_path / "out"
    with new_folder(target, force=True) as last:
        with new_folder(target, force=True) as first:
            (first / "manifest.json").write_text(MANIFEST)
        (last / "of_the_last").touch()
    assert tree(tmp_path) == ["out", "out/of_the_last"]


def test_a_foreign_folder_that_takes_the_place_just_before_the_move_comes_back(tmp_path, monkeypatch):
    target = emitted(tmp_path / "out")
    real = Path.rename

    def rename(self, other):
        if self == target:
            (target / "manifest.json").write_text("{}")
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UsageError, match=f"{target} was not written by cutset"), new_folder(target, force=True):
        pass
    assert (target / "manifest.json").read_text() == "{}"
    assert tree(tmp_path) == ["out", "out/manifest.json"]


def test_a_path_that_is_not_utf8(tmp_path):
    with pytest.raises(UsageError, match="not UTF-8"):
        check_target(tmp_path / "o\udcff", force=False)
