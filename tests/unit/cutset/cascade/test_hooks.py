"""Python functions in the graph: called with what was declared, never the end of the process."""

import gc
import threading

import numpy as np
import pytest

from cutset.cascade.document import read_document
from cutset.cascade.hooks import native_library, requirements_of, take_error
from cutset.errors import ModelError, ProfileError, UnavailableError, UsageError
from cutset.graph.load import load, with_operators
from cutset.profilers.session import run
from tests.cascades import composed, open_composed

pytest.importorskip("onnxruntime_extensions")

TEXT = """\
inputs:
  x: {type: float32, shape: [n, 3]}
  words: {type: string, shape: [n]}
stages:
  hook:
    python: mine:count
    inputs:
      values: {from: x, type: float32}
      words: {from: words, type: string}
    outputs:
      total: {type: float32, shape: [n]}
      shouted: {type: string, shape: [n]}
    requires: [numpy>=1.26]
  last: {part: topk, inputs: {values: hook.total}, with: {k: 1}}
outputs: {total: hook.total, shouted: hook.shouted, best: last.top}
"""
GOOD = """
import numpy as np
def count(values, words):
    if len(values) and values[0, 0] < 0:
        raise ValueError("negative")
    return values.sum(axis=1), np.array([word.upper() for word in words], object)
"""


def feed(rows, first=0.0):
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    values[:1, 0] = first
    return {"x": values, "words": np.array(["é"] * rows, object)}


@pytest.fixture
def session(write, tmp_path):
    return open_composed(composed(write(TEXT, mine__py=GOOD)), tmp_path)


@pytest.mark.parametrize("rows", [0, 1, 300])
def test_a_function_runs_in_the_graph(session, rows):
    found = run(session, feed(rows))
    np.testing.assert_array_equal(found["total"], feed(rows)["x"].sum(axis=1))
    assert found["shouted"].tolist() == ["É"] * rows


def test_an_error_stays_with_its_run(session):
    with pytest.raises(ProfileError, match="Python function") as caught:
        run(session, feed(2, first=-1.0))
    assert "mine:count failed: ValueError: negative (count, line 5)" in caught.value.cause
    assert take_error() is None
    assert run(session, feed(2))["total"].shape == (2,)


def test_an_error_stays_with_its_thread(session):
    failures = []

    def work(first):
        for _ in range(30):
            try:
                run(session, feed(2, first))
            except ProfileError:
                failures.append(first)

    threads = [threading.Thread(target=work, args=(first,)) for first in (-1.0, 1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [-1.0] * 30


WRONG = {
    "a wrong number of results": ("return values", "1 results, 2 are declared"),
    "a wrong element type": ("return values.sum(axis=1).astype('f8'), words", "`total` is float64, float32 is declared"),
    "a wrong number of dimensions": ("return values, words", "`total` has 2 dimensions, 1 are declared"),
    "a missing name": ("return {'total': values.sum(axis=1)}", "the result lacks `shouted`"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "nothing": ("pass", "1 results"),
}


@pytest.mark.parametrize(("body", "words"), WRONG.values(), ids=WRONG)
def test_a_result_that_was_not_declared_is_an_error(write, tmp_path, body, words):
    session = open_composed(composed(write(TEXT, mine__py=f"def count(values, words):\n    {body}\n")), tmp_path)
    with pytest.raises(ProfileError) as caught:
        run(session, feed(2))
    assert words in caught.value.cause


def test_names_in_a_dictionary_are_taken_by_name(write, tmp_path):
    body = "def count(values, words):\n    return {'shouted': words, 'total': values[:, 0]}\n"
    session = open_composed(composed(write(TEXT, mine__py=body)), tmp_path)
    assert run(session, feed(2))["total"].tolist() == [0, 3]


def test_many_archives_live_and_die_in_one_process(write, tmp_path):
    """Registering operators while sessions on others live must not move them; it did in one domain."""
    alive = []
    for index in range(24):
        text = f"def count(values, words):\n    return values[:, 0] + {index}, words\n"
        made = composed(write(TEXT, mine__py=text))
        alive.append((index, open_composed(made, tmp_path)))
        (tmp_path / "p.pyz").unlink()
        if index % 3 == 2:
            del alive[0]
            gc.collect()
        for number, session in alive:
            assert run(session, feed(2))["total"].tolist() == [number, number + 3]


def test_the_archive_is_repeatable_and_follows_the_source(write, tmp_path):
    one, two = (composed(write(TEXT, mine__py=GOOD)) for _ in range(2))
    other = composed(write(TEXT, mine__py=GOOD + "# changed\n"))
    assert one.hooks.archive() == two.hooks.archive()
    assert one.hooks.operator("hook") == two.hooks.operator("hook") != other.hooks.operator("hook")
    (tmp_path / "a.pyz").write_bytes(one.hooks.archive())
    assert requirements_of(tmp_path / "a.pyz") == ["numpy>=1.26"]


def test_composing_runs_no_code_of_the_user(write, tmp_path):
    composed(write(TEXT, mine__py=f"open({str(tmp_path / 'ran')!r}, 'w')\n{GOOD}"))
    assert not (tmp_path / "ran").exists()


BAD = {
    "no module": ({}, "cannot read", 6),
    "no function": ({"mine__py": "def other(): pass"}, "defines no function `count`", 6),
    "no Python": ({"mine__py": "def count(:"}, "is not Python", 6),
}


@pytest.mark.parametrize(("files", "words", "line"), BAD.values(), ids=BAD)
def test_a_module_that_cannot_be_used_is_refused(write, files, words, line):
    with pytest.raises(UsageError) as caught:
        composed(write(TEXT, **files))
    assert words in caught.value.what
    assert caught.value.where.endswith(f"p.yaml:{line}")


@pytest.mark.parametrize("target", ["secret.py", "no_such_file.py", "mine.py"])
def test_a_module_that_is_a_link_out_of_the_folder_is_refused(write, tmp_path, target):
    """Also where the link leads nowhere, or to itself."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.py").write_text(GOOD)
    (tmp_path / "cascade").mkdir()
    moved = write(TEXT).path.rename(tmp_path / "cascade" / "p.yaml")
    folder = moved.parent if target == "mine.py" else tmp_path / "elsewhere"
    (moved.parent / "mine.py").symlink_to(folder / target)
    with pytest.raises(UsageError, match="leads out of the folder") as caught:
        composed(read_document(moved))
    assert caught.value.where == f"{moved}:6"
    assert "beside p.yaml" in caught.value.hint


def test_a_module_that_is_a_link_within_the_folder_is_read(write, tmp_path):
    document = write(TEXT, other__py=GOOD)
    (tmp_path / "mine.py").symlink_to(tmp_path / "other.py")
    assert composed(document).hooks.sources == {"mine": GOOD}


def test_a_module_of_a_hub_is_read(write, tmp_path):
    """In a hub's cache, the file of the cascade and its modules are links into one folder of blobs."""
    write(TEXT, mine__py=GOOD)
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("p.yaml", "mine.py", "double.onnxtxt"):
        (snapshot / name).symlink_to(f"../../{name}")
    assert composed(read_document(snapshot / "p.yaml")).hooks.sources == {"mine": GOOD}


def test_a_declared_type_must_be_the_given_one(write):
    with pytest.raises(UsageError, match="`x` is float32, and `values` is declared as int64") as caught:
        composed(write(TEXT.replace("from: x, type: float32", "from: x, type: int64"), mine__py=GOOD))
    assert caught.value.where.endswith(":8")


def test_a_module_that_fails_when_it_is_imported_says_so(write, tmp_path):
    archive = tmp_path / "bad.pyz"
    archive.write_bytes(composed(write(TEXT, mine__py="import no_such_module\n" + GOOD)).hooks.archive())
    with pytest.raises(UnavailableError, match="cannot be loaded") as caught:
        native_library(str(archive))
    assert "no_such_module" in caught.value.cause


def test_a_model_without_its_archive_says_which_option_brings_it(write, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(composed(write(TEXT, mine__py=GOOD)).model.SerializeToString())
    with pytest.raises(ModelError, match="is a Python function") as caught:
        with_operators(load(path))
    assert ".pyz" in caught.value.hint
