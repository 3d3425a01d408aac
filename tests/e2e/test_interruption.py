"""Ctrl-C, SIGTERM, a full disk and a cache that cannot be used: whatever ends the job, nothing half-made stays."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cutset.codegen.atomic import new_folder
from cutset.sample_models import classifier
from tests.e2e.harness import PATIENCE_S, QUICK, Cutset

LONG = ("--profile-seconds", "2", "--cache", "none")
OLD = '{"schema": "cutset.manifest/1", "of": "the run before"}'
MOMENTS = [
    ("loading", signal.SIGINT, LONG),
    ("running the model unfused", signal.SIGTERM, LONG),
    ("timing", signal.SIGINT, LONG),
    ("timing", signal.SIGTERM, LONG),
    ("profiling its kernels", signal.SIGINT, LONG),
    ("planning", signal.SIGTERM, QUICK),
    ("writing", signal.SIGINT, QUICK),
    ("verifying", signal.SIGTERM, QUICK),  # Ctrl-C: below, over the folder of the last run
]


@pytest.fixture(scope="module")
def model(tmp_path_factory, long_cutset):
    """A network of 6 MB that is for the GPU; its costs are in the session's cache."""
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    path.write_bytes(classifier.build(seed=1, width=0.5).SerializeToString())
    np.savez(path.with_suffix(".npz"), **classifier.sample_inputs(seed=1))
    done = long_cutset.partition(path, path.parent / "unused", "--plan-only")
    assert done.code == 0, done.err
    assert done.json["decision"] in {"split", "unsplit-gpu"}
    return path


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted_at(cutset, moment: str, number: int, *words: str | Path) -> tuple[int, str, str]:
    """Run `partition`, send a signal when the progress line of a moment appears, and return how it ended."""
    with cutset.started("partition", *words, "--target", "t4") as process:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith(f"... {moment}"):
                process.send_signal(number)
                break
        else:
            pytest.fail(f"no line of `{moment}`: {''.join(seen)}")
        out, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, errors


@pytest.mark.parametrize(("moment", "number", "words"), MOMENTS)
def test_a_signal_leaves_nothing_behind(moment, number, words, cutset, model, tmp_path):
    parent = tmp_path / "not-there-before"
    code, out, errors = interrupted_at(cutset, moment, number, model, "-o", parent / "out", *words)
    assert code == 130, errors
    assert out == ""
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert not parent.exists()


@pytest.mark.parametrize(("moment", "number"), [("writing", signal.SIGTERM), ("verifying", signal.SIGINT)])
def test_a_signal_leaves_the_folder_of_the_last_run_untouched(moment, number, cutset, model, mixed, tmp_path):
    parent = tmp_path / "parent"
    assert cutset.partition(mixed, parent / "out").code == 0
    before = files_under(parent)
    code, _, errors = interrupted_at(cutset, moment, number, model, "-o", parent / "out", "--force", *QUICK)
    assert code == 130, errors
    assert files_under(parent) == before


@pytest.mark.parametrize("moment", ["timing", "profiling its kernels"])
def test_a_kill_leaves_a_cache_that_works(moment, cutset, model, tmp_path):
    """Only the work files stay, until the next run; that one measures, and the one after not."""
    (tmp_path / "doomed").mkdir()
    doomed = Cutset(tmp_path / "doomed", tmp_path / "unused")
    words = ("-o", tmp_path / "out", "--profile-seconds", "2")
    cache = ("--cache", tmp_path / "cache")
    code, _, errors = interrupted_at(doomed, moment, signal.SIGKILL, model, *words, *cache)
    assert code == -signal.SIGKILL, errors
    assert not (tmp_path / "out").exists()
    assert doomed.left_in_tmp() != []
    for found in (False, True):
        done = doomed("partition", model, "--target", "t4", "--plan-only", *cache, *QUICK)
        assert doomed.left_in_tmp() == []
        assert done.code == 0, done.err
        assert ("from the cache" in done.err) == found, "half a measurement must not be taken for a whole one"


def test_an_interruption_is_json_when_json_is_asked_for(cutset, model, tmp_path):
    code, out, _ = interrupted_at(cutset, "loading", signal.SIGTERM, model, "-o", tmp_path / "out", "--json", *QUICK)
    assert code == 130
    assert out == '{"error": {"kind": "Interrupted", "what": "interrupted", "exit_code": 130}}\n'


def test_a_kill_while_writing_leaves_nothing_that_the_next_run_does_not_remove(cutset, model, mixed, tmp_path):
    (tmp_path / "doomed").mkdir()
    doomed = Cutset(tmp_path / "doomed", cutset.cache)
    parent = tmp_path / "parent"
    code, _, errors = interrupted_at(doomed, "verifying", signal.SIGKILL, model, "-o", parent / "killed", *QUICK)
    assert code == -signal.SIGKILL, errors
    assert [path.suffix for path in parent.iterdir()] == [".partial"]
    done = doomed.partition(mixed, parent / "out")
    assert done.code == 0, done.err
    assert [path.name for path in parent.iterdir()] == ["out"]
    assert doomed.left_in_tmp() == []


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_what_comes_to_lie_at_the_output_while_it_is_written_is_kept(words, cutset, mixed, tmp_path):
    target = tmp_path / "parent" / "out"
    with cutset.started("partition", mixed, "-o", target, "--target", "t4", *QUICK, *words) as process:
        for line in process.stderr:
            if line.startswith("... writing"):
                target.mkdir()
                (target / "thesis.txt").write_text("a day's work")
                break
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, errors
    assert f"error: {target} " in errors
    assert files_under(target.parent) == {"out/thesis.txt": b"a day's work"}


@pytest.mark.parametrize("ending", [KeyboardInterrupt, OSError(errno.ENOSPC, "full"), ValueError])
@pytest.mark.parametrize("moves", [1, 2])
def test_an_end_while_the_folders_change_places_keeps_the_old_one(ending, moves, tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "manifest.json").write_text(OLD)
    rename, calls = Path.rename, []

    def breaking(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == moves:
            raise ending
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", breaking)
    kind = ending if isinstance(ending, type) else type(ending)
    with pytest.raises(kind), new_folder(target, force=True) as work:
        (work / "manifest.json").write_text("new")
    assert files_under(tmp_path) == {"out/manifest.json": OLD.encode()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("limit", [10_000, 500_000, 3_000_000])
def test_a_file_that_cannot_grow_is_a_full_disk(limit, cutset, model, tmp_path):
    parent = tmp_path / "parent"
    done = cutset.partition(
        model,
        parent / "out",
        *("--cache", "none"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.code == 1, done.err
    assert "disk is full" in done.error["what"]
    assert "-o" in done.error["hint"]
    assert not parent.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB."""
    place = tmp_path / "small-disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0:
            yield place
            subprocess.run(["umount", str(place)], check=True)
            return
    pytest.skip("a small file system cannot be mounted here")


def test_a_full_disk_for_the_output(cutset, model, small_disk):
    done = cutset.partition(model, small_disk / "parent" / "out")
    assert done.code == 1, done.err
    assert "disk is full" in done.error["what"]
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_for_the_work_files(cutset, model, small_disk, tmp_path):
    done = cutset.partition(model, tmp_path / "parent" / "out", "--cache", "none", env={"TMPDIR": str(small_disk)})
    assert done.code == 1, done.err
    assert "disk is full" in done.error["what"]
    assert "TMPDIR" in done.error["hint"]
    assert list(small_disk.iterdir()) == []
    assert not (tmp_path / "parent").exists()


def test_a_full_disk_for_the_cache_is_no_reason_to_stop(cutset, mixed, small_disk, tmp_path):
    with (small_disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"0" * 65536)
            filler.flush()
    done = cutset.partition(mixed, tmp_path / "out", "--cache", small_disk)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize("cache", ["/proc/nothing/here", "{file}", "{damaged}"])
def test_a_cache_that_cannot_be_used_is_no_reason_to_stop(cache, cutset, mixed, tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "costs.sqlite").write_bytes(b"no database" * 1000)
    place = cache.format(file=tmp_path / "file", damaged=tmp_path / "damaged")
    done = cutset.partition(mixed, tmp_path / "out", "--cache", place)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert "Traceback" not in done.err
