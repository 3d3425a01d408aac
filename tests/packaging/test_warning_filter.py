"""The filter of warnings in pyproject.toml: what our code causes is an error, what another's code causes is reported."""

from __future__ import annotations

import types
import warnings

import pytest

LIBRARY = """
import warnings
def old():
    warnings.warn("old is deprecated", DeprecationWarning, stacklevel=2)
"""
CALLER = "def call(function):\n    return function()\n"


def module(name, source):
    """Return a module of a name whose code really runs under the name."""
    made = types.ModuleType(name)
    exec(compile(source, f"{name.replace('.', '/')}.py", "exec"), made.__dict__)
    return made


@pytest.fixture
def old():
    return module("some_library", LIBRARY).old


OURS = ("cutset", "cutset.graph.load", "tests.unit.test_any", "benchmarks.runtime", "model_serving.replica")


@pytest.mark.parametrize("name", OURS)
def test_a_deprecated_call_of_our_own_is_an_error(name, old):
    with pytest.raises(DeprecationWarning, match="old is deprecated"):
        module(name, CALLER).call(old)


@pytest.mark.parametrize("name", ["onnx.numpy_helper", "onnx_tests.case", "cutset_plugin", "not_cutset.tests", "numpy"])
def test_a_deprecated_call_of_another_is_reported(name, old):
    with warnings.catch_warnings(record=True) as seen:
        module(name, CALLER).call(old)
    assert [str(warning.message) for warning in seen] == ["old is deprecated"]


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_the_warning_of_another_is_one_that_a_filter_could_have_raised(old):
    with pytest.raises(DeprecationWarning):
        module("onnx.numpy_helper", CALLER).call(old)


def test_what_is_left_open_is_an_error_whoever_left_it(tmp_path):
    with pytest.raises(ResourceWarning):
        warnings.warn_explicit("unclosed file", ResourceWarning, "any.py", 1, module="any_library")
    with pytest.raises(pytest.PytestUnraisableExceptionWarning):
        warnings.warn(pytest.PytestUnraisableExceptionWarning("in a finaliser"), stacklevel=1)
