"""The report's view of a difference: what was compared, moved nodes, and every group then and now."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.report import Material, render_report
from cutset.codegen.report.diff import SHOWN, diff_view
from tests.ci_records import costs, documented, plan, record
from tests.reports import planned

HOSTILE = "<img src=x onerror=alert(1)>\u202e"


class Texts(HTMLParser):
    """The text of a page's table cells, by the caption of their table, and its tags."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.tags, self.inside = {}, [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in {"caption", "th", "td"}:
            self.inside.append("")

    def handle_data(self, data):
        if self.inside:
            self.inside[-1] += data

    def handle_endtag(self, tag):
        if tag == "caption":
            self.caption = self.inside.pop()
            self.tables[self.caption] = [[]]
        elif tag in {"th", "td"}:
            self.tables[self.caption][-1].append(re.sub(r"\s+", " ", self.inside.pop()).strip())
        elif tag == "tr" and self.tables:
            self.tables[self.caption].append([])


@pytest.fixture(scope="module")
def case(save_model):
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    path = save_model(nodes, [("x", TensorProto.FLOAT, [1, 4])], [("y", TensorProto.FLOAT, [1, 4])])
    return planned(path, {"x": np.zeros((1, 4), np.float32)})


def page(case, diff):
    return Texts(render_report(Material(plan=case.document, table=case.table, topology=case.topology, diff=diff)))


@pytest.fixture(scope="module")
def diff():
    now = costs(c=4.5e-3, b=None, **{HOSTILE: 3e-3}, factor=1.5, sha256="b" * 64)
    moved = plan({"c": "cpu"}, forced={"c": f"no {HOSTILE}"})
    return documented(record(), record(now, plan=moved))["models"][0]


def test_what_it_says(case, diff):
    tables = page(case, diff).tables
    checks = tables["What was compared; a regression is beyond its limit and beyond noise"]
    assert ["CPU cost", "regression", "10.00 ms", "12.50 ms", "+25.0 %", "5%"] in checks
    (moves,) = [rows for caption, rows in tables.items() if caption.startswith("Where they ran")]
    assert moves[1] == ["c", "GPU", "CPU", "no <img src=x onerror=alert(1)>\\u202e"]
    (groups,) = [rows for caption, rows in tables.items() if caption.startswith("Groups of nodes then")]
    assert [row[0] for row in groups[1:6]] == ["<img src=x onerror=alert(1)>\\u202e", "b", "c", "a", "d"]
    assert groups[1][3:] == ["–", "3.00 ms", "", "new"]
    assert groups[2][3:] == ["2.00 ms", "–", "", "gone"]
    assert groups[3][3:] == ["3.00 ms", "4.50 ms", "1.50×", "dearer"]
    assert groups[4][6] == "within noise"


def test_names_stay_text(case, diff):
    assert "img" not in page(case, diff).tags


def test_without_a_baseline_there_is_no_such_section(case):
    assert not any("compared" in caption for caption in page(case, None).tables)


def test_the_rest_is_folded():
    group = {"nodes": 1, "device": "cpu", "ratio": 1.0, "verdict": "same", "source": "measured", "same_work": True}
    many = [{"what": f"n{index}", "then_s": 1.0, "now_s": 1.0 + index, **group} for index in range(SHOWN + 5)]
    view = diff_view({"groups": many})
    assert (len(view["rows"]), len(view["more_rows"])) == (SHOWN, 5)
    assert view["rows"][0].what == f"n{SHOWN + 4}", "the largest change comes first"
    assert view["longest"] == SHOWN + 5
