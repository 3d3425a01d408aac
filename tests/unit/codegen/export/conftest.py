"""Packages of hand-made plans as the exports take them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cutset.codegen.export.source import Source
from cutset.graph.load import load
from tests.support import make_plan, write_package


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Source]:
    """Return a function that splits a model by a placement; `stages` changes entries of the plan, by index."""

    def make(path: Path, sample: Mapping[str, Any], placement: Mapping[str, str], **changes: Any) -> Source:
        graph = load(path)
        placement = {node.name: placement.get(node.name, "cpu") for node in graph.placeable}
        package = tmp_path / "package"
        package.mkdir()
        write_package(graph, make_plan(graph, placement), package)
        document = json.loads((package / "plan.json").read_text("utf-8"))
        for index, entry in changes.pop("stages", {}).items():
            document["stages"][index] |= entry
        document |= changes
        (package / "plan.json").write_text(json.dumps(document), "utf-8")
        return Source(package=package, document=document, graph=graph, sample=dict(sample))

    return make
