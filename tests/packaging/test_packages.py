"""What is installed is what is in the tree: every package is listed, and a wheel holds every module and data file."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"__pycache__", ".mypy_cache", ".ruff_cache"}


@pytest.fixture(scope="module")
def settings():
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["tool"]["setuptools"]


def installed_files(settings):
    """Every file below the package folders, by the path it is installed at."""
    found = set()
    for package, folder in settings["package-dir"].items():
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            if path.is_file() and not GENERATED & set(inside.parts):
                found.add("/".join([*package.split("."), *inside.parts]))
    return found


def test_packages_are_the_folders_with_an_init(settings):
    found = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in settings["package-dir"].items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(settings["packages"]) == sorted(found)


def test_no_module_lies_outside_a_package(settings):
    for folder in settings["package-dir"].values():
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path} is in no package, so it would not be installed"


def test_every_data_file_matches_a_pattern(settings):
    listed = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / settings["package-dir"][package]).glob(pattern)
    }
    for folder in settings["package-dir"].values():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".py" and not GENERATED & set(path.parts):
                assert path in listed, f"{path} would be missing from the wheel"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is left in the tree, with the installed build backend: no network."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        (backend,) = tomllib.load(file)["build-system"]["requires"]
    if not Requirement(backend).specifier.contains(version("setuptools")):
        pytest.skip(f"the wheel is built by {backend}, and {version('setuptools')} is installed")
    copy = tmp_path_factory.mktemp("source") / "cutset"
    copy.mkdir()
    with (ROOT / "pyproject.toml").open("rb") as file:
        folders = tomllib.load(file)["tool"]["setuptools"]["package-dir"].values()
    for name in ("pyproject.toml", "README.md", "LICENSE", *folders):
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True, timeout=60)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(copy)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_file(wheel, settings):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == installed_files(settings)
    assert {"cutset/py.typed", "cutset/codegen/templates/README.md.j2", "cutset/profilers/data/datasheets.json"} <= held


def test_the_wheel_brings_the_command_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        assert "cutset = cutset.__main__:main" in archive.read(entry).decode()
        assert any(name.endswith("/LICENSE") for name in names)
