"""The cost cache keeps what was put, survives other writers, and is silent where it cannot work."""

import contextlib
import json
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cutset.advisory import SkippedSteps, recording
from cutset.profilers.cache import CostCache, default_folder

KEY = {"model": "ab", "shapes": {"x": [1, 2]}}


def test_a_value_comes_back(tmp_path):
    cache = CostCache(tmp_path / "new" / "folder")
    assert cache.get(KEY) is None
    cache.put(KEY, {"seconds": [0.5, None], "名": "`"})
    assert cache.get(dict(reversed(KEY.items()))) == {"seconds": [0.5, None], "名": "`"}
    assert cache.get({**KEY, "model": "cd"}) is None
    cache.put(KEY, 2)
    assert CostCache(tmp_path / "new" / "folder").get(KEY) == 2


def test_no_folder_keeps_nothing():
    cache = CostCache(None)
    cache.put(KEY, 1)
    assert cache.get(KEY) is None


def test_looking_makes_no_file(tmp_path):
    CostCache(tmp_path / "c").get(KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 300], ids=["empty", "garbage"])
def test_a_file_that_is_no_database(tmp_path, content, caplog):
    (tmp_path / "costs.sqlite").write_bytes(content)
    cache = CostCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
        cache.put(KEY, 1)
    assert (cache.get(KEY) == 1) is (content == b"")
    assert ("cannot be used" in caplog.text) is (content != b"")


DAMAGE = [
    "'[1, '",
    "'[1, 3]'",
    "'[NaN, -1]'",
    f"'{'[' * 100_000}'",
    f"'{'9' * 5000}'",
    "''",
    "5",
    "X'00ff00'",
    "CAST(X'ff5b315d' AS TEXT)",
    "zeroblob(50000000)",
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_entry_is_dropped_named_and_measured_again(tmp_path, damage):
    cache = CostCache(tmp_path)
    cache.put(KEY, [1, 2])
    cache.put("other", "whole")
    with contextlib.closing(sqlite3.connect(tmp_path / "costs.sqlite")) as connection, connection:
        connection.execute(f"UPDATE entries SET value = {damage} WHERE value LIKE '[%'")
    with recording(SkippedSteps()) as skipped:
        assert cache.get(KEY) is None
        assert cache.get(KEY) is None
        assert cache.get("other") == "whole"
    (told,) = skipped.as_json()
    assert "damaged entry" in told["reason"]
    assert "costs.sqlite" in told["reason"]
    cache.put(KEY, [3])
    assert cache.get(KEY) == [3]


@pytest.mark.parametrize("place", ["file/below", "x" * 300, "../file"])
def test_a_folder_that_cannot_be_is_silent(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "base").mkdir()
    cache = CostCache(tmp_path / "base" / place if place.startswith("..") else tmp_path / place)
    cache.put(KEY, 1)
    assert cache.get(KEY) is None
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_read_only_folder_is_silent(tmp_path, caplog):
    """`/proc` refuses new files even to root."""
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    cache = CostCache(Path("/proc/self"))
    cache.put(KEY, 1)
    assert cache.get(KEY) is None
    assert "cannot be used" in caplog.text


WRITER = """
import sys
from pathlib import Path
from cutset.profilers.cache import CostCache
folder, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
cache = CostCache(folder)
for number in range(20):
    cache.put([name, number], {"by": name, "number": number})
    cache.put("shared", {"by": name, "number": number})
    assert cache.get("shared")["by"] in {"a", "b", "c"}
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    commands = [[sys.executable, "-c", WRITER, str(tmp_path / "cache"), name] for name in "abc"]
    writers = [subprocess.Popen(c, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], errors
    assert errors == ["", "", ""]
    cache = CostCache(tmp_path / "cache")
    missing = [(name, n) for name in "abc" for n in range(20) if cache.get([name, n]) != {"by": name, "number": n}]
    assert missing == []
    assert cache.get("shared")["number"] == 19


def test_the_default_folder_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder().name == "cutset"
    assert default_folder().is_relative_to(tmp_path)


def test_entries_are_json(tmp_path):
    CostCache(tmp_path).put(KEY, {"a": 1})
    connection = sqlite3.connect(tmp_path / "costs.sqlite")
    try:
        assert [json.loads(value) for (value,) in connection.execute("SELECT value FROM entries")] == [{"a": 1}]
    finally:
        connection.close()


ENDLESS = """
import sys
from pathlib import Path
from cutset.profilers.cache import CostCache
cache, number = CostCache(Path(sys.argv[1])), 0
while True:
    cache.put(number, {"number": number, "text": "x" * 20_000})
    print(number, flush=True)
    number += 1
"""


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_had_put(tmp_path):
    for patience in (1, 7, 20):
        folder = tmp_path / str(patience)
        with subprocess.Popen([sys.executable, "-c", ENDLESS, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
            last = [int(writer.stdout.readline()) for _ in range(patience)][-1]
            writer.kill()
            last = max([last, *(int(line) for line in writer.stdout)])
        cache = CostCache(folder)
        assert [cache.get(number)["number"] for number in range(last + 1)] == list(range(last + 1))
        cache.put("after", 1)
        assert cache.get("after") == 1
        with contextlib.closing(sqlite3.connect(folder / "costs.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


FULL = """
import resource, signal, sys
from pathlib import Path
from cutset.profilers.cache import CostCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
cache = CostCache(Path(sys.argv[1]))
for number in range(8):
    cache.put(["new", number], "x" * 100_000)
assert cache.get("old") == "kept"
"""


def test_files_that_cannot_grow_cost_new_entries_and_no_old_one(tmp_path):
    cache = CostCache(tmp_path)
    cache.put("old", "kept")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be used" in done.stderr
    found = [cache.get(["new", number]) for number in range(8)]
    assert {"x" * 100_000, None} == set(found), "some fit and some did not"
    assert cache.get("old") == "kept"
    cache.put("later", 2)
    assert cache.get("later") == 2
