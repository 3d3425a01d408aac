"""Digests are those of everyone else, and do not depend on the order of keys."""

import hashlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from cutset.digest import sha256_bytes, sha256_file, sha256_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def test_bytes_and_files(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_the_order_of_keys_does_not_count(value):
    assert sha256_json(value) == sha256_json(dict(reversed(value.items())))


def test_different_values_differ():
    values = [{}, [], "", 0, None, False, {"a": 1}, {"a": "1"}, ["a", 1], "a1"]
    assert len({sha256_json(value) for value in values}) == len(values)


def test_another_process_agrees():
    code = "from cutset.digest import sha256_json; print(sha256_json({'b': ['é', 1.5], 'a': None}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == sha256_json({"a": None, "b": ["é", 1.5]})
