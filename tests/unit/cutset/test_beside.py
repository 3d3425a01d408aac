"""A file that another names is found in the folder of the other alone, whatever the name and whatever the links."""

from __future__ import annotations

import pytest

from cutset.beside import find_beside


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, links of every kind, and a secret beside the folder."""
    place = tmp_path / "place"
    (place / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (place / "file").write_text("file")
    for name, target in {
        "inner": "file", "outer": "../secret", "nowhere": "../gone", "circle": "circle", "up": "..", "two": "outer",
    }.items():  # fmt: skip
        (place / name).symlink_to(target)
    return place


@pytest.mark.parametrize("name", ["file", "inner", "sub/../file", "absent", "sub/absent"])
def test_what_lies_in_the_folder_is_found(folder, name):
    found = find_beside(folder / "document", name)
    assert found is not None
    assert found.is_relative_to(folder.resolve())
    assert found.exists() == ("absent" not in name)


@pytest.mark.parametrize("name", ["../secret", "outer", "two", "nowhere", "circle", "up/secret", "a\0b", "/etc/hostname"])
def test_what_lies_elsewhere_is_not(folder, name):
    assert find_beside(folder / "document", name) is None


def test_where_the_document_is_a_link_the_folder_behind_counts_too(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "file")
    (tmp_path / "inner").symlink_to(folder / "inner")
    assert find_beside(tmp_path / "link", "inner") == (folder / "file").resolve()
    assert find_beside(tmp_path / "link", "secret") == (tmp_path / "secret").resolve()
    (tmp_path / "out").symlink_to("/etc/hostname")
    assert find_beside(tmp_path / "link", "out") is None
