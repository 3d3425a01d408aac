from __future__ import annotations

from pathlib import Path

import click
import pytest

from cutset.cli.commands.serve import find_package
from cutset.cli.options import Number
from cutset.cli.output import Output
from cutset.cli.plan_arguments import parse_workers, served_name
from cutset.cli.workflow import ModelArguments, cache_folder, choose_target, parse_batch, read_model
from cutset.errors import UnavailableError, UsageError
from cutset.profilers.cache import default_folder
from cutset.profilers.datasheets import Datasheet


@pytest.mark.parametrize(("text", "value"), [("auto", 1), ("1", 1), ("64", 64)])
def test_batches(text, value):
    assert parse_batch(text) == value


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", "", " 2"])
def test_batches_that_are_none(text):
    with pytest.raises(UsageError, match="--batch"):
        parse_batch(text)


@pytest.mark.parametrize(("text", "value"), [("auto", None), ("1", 1), ("1024", 1024)])
def test_workers(text, value):
    assert parse_workers(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1025", "two", ""])
def test_workers_that_are_none(text):
    with pytest.raises(UsageError, match="--cpu-workers"):
        parse_workers(text)


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "1e9", "x"])
def test_numbers_outside_the_limits(text):
    with pytest.raises(click.BadParameter):
        Number(min=0, max=100).convert(text, None, None)


def test_where_costs_are_kept():
    assert cache_folder("none") is None
    assert cache_folder(None) == default_folder()
    assert cache_folder("some/where") == Path("some/where")


def test_targets():
    output = Output(quiet=True)
    assert choose_target("cpu", output) is None
    assert choose_target("auto", output) is None
    sheet = choose_target("t4", output)
    assert isinstance(sheet, Datasheet)
    assert "T4" in sheet.name
    with pytest.raises(UnavailableError, match="cuda:0"):
        choose_target("cuda:0", output)
    with pytest.raises(UsageError, match="gtx1"):
        choose_target("gtx1", output)


@pytest.mark.parametrize(
    ("name", "model", "served"), [(None, "a/resnet 50.onnx", "resnet 50"), ("x", "m.onnx", "x"), ("ü?#%", "m.onnx", "ü?#%")]
)
def test_names_of_served_models(name, model, served):
    assert served_name(name, Path(model)) == served


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("", "m.onnx"),
        ("a/b", "m.onnx"),
        ("a\nb", "m.onnx"),
        (None, "a\tb.onnx"),
        (".", "m.onnx"),
        ("..", "m.onnx"),
        (None, "\udcff.onnx"),
    ],
)
def test_names_that_cannot_be_served(name, model):
    with pytest.raises(UsageError, match="served model's name"):
        served_name(name, Path(model))


def test_libraries_become_absolute(cnn_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ops.so").write_text("")
    graph = read_model(ModelArguments(model=cnn_path, custom_ops=("ops.so",)))
    assert graph.custom_ops == (str(tmp_path / "ops.so"),)
    with pytest.raises(UsageError, match=r"no custom-operator library other\.so"):
        read_model(ModelArguments(model=cnn_path, custom_ops=("other.so",)))


def test_the_package_of_a_folder(tmp_path):
    with pytest.raises(UsageError, match="holds no serving package"):
        find_package(tmp_path)
    package = tmp_path / "serving" / "m_serving"
    package.mkdir(parents=True)
    (package / "plan.json").write_text("{}")
    assert find_package(tmp_path) == package.resolve()
