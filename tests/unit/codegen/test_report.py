"""The report of real plans of a small model whose names are as hostile as ONNX allows."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset import serde
from cutset.codegen.report import read_material, render_report, write_report
from cutset.codegen.report.chart import axis_of
from cutset.codegen.report.page import BASELINES
from cutset.codegen.report.picture import LETTER, draw
from cutset.codegen.report.spent import shares, sources
from cutset.codegen.report.text import MAX_TEXT, counted, rate, seconds, size, visible
from cutset.codegen.report.timeline import simulated
from cutset.codegen.report.topology import dump_topology
from cutset.codegen.report.units import placed_s, refusals, units
from cutset.codegen.report.whatif import charts
from cutset.digest import sha256_file
from cutset.errors import UsageError
from cutset.graph.load import load, with_operators
from cutset.partitioner.reasons import kind_of_reason
from cutset.partitioner.support import Support, gpu_support
from tests.reports import Case, enlarged, planned

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = "\"]]>--></title></style></svg><img src='x' onerror=alert(2)>"
TEMPLATE = "{{ 7 * 7 }}{% endraw %}"
REVERSED = "safe\u202egnp.exe"
FIRST, SECOND, CONV, TAIL = f"first{SCRIPT}", f"second{BREAKOUT}", f"conv{TEMPLATE}", f"tail{REVERSED}"
SECTIONS = [
    "pipeline", "graph", "time", "timeline", "whatif", "baselines", "robustness", "measured", "refusals", "engines",
    "placement", "verification", "environment",
]  # fmt: skip
VOID = {"meta", "input", "img", "br", "hr", "link"}


def _model() -> onnx.ModelProto:
    """Two uint8 nodes that TensorRT refuses, a convolution, a softmax, and a constant node."""
    nodes = [
        helper.make_node("Max", ["image", "dark"], ["a<b>"], name=FIRST),
        helper.make_node("Min", ["a<b>", "light"], ["c&d"], name=SECOND),
        helper.make_node("Cast", ["c&d"], ["real"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Neg", ["raw"], ["weight"], name="weights"),
        helper.make_node("Conv", ["real", "weight"], ["features"], name=CONV),
        helper.make_node("Relu", ["features"], ["positive"], name="relu"),
        helper.make_node("Softmax", ["positive"], [SCRIPT], name=TAIL),
    ]
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(np.array(3, np.uint8), "dark"),
        numpy_helper.from_array(np.array(250, np.uint8), "light"),
        numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "raw"),
    ]
    graph = helper.make_graph(
        nodes,
        BREAKOUT,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(SCRIPT, TensorProto.FLOAT, [1, 8, 30, 30])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _plan(path: Path, target: str | None, pins: dict[str, str]) -> Case:
    image = {"image": np.zeros((1, 3, 32, 32), np.uint8)}
    return planned(path, image, target=target, pins=pins, name="small<b>", outputs=[SCRIPT])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "small & <hostile>.onnx"
    onnx.save(_model(), file)
    return file


@pytest.fixture(scope="module")
def split(path: Path) -> Case:
    """A plan that its pins make a split, so that no timing can change it."""
    return _plan(path, "t4", {"op:Max": "cpu", "op:Conv": "gpu", "op:Softmax": "cpu"})


@pytest.fixture(scope="module")
def whole(path: Path) -> Case:
    """A plan for the CPU alone."""
    return _plan(path, None, {})


class Page(HTMLParser):
    """What a parser sees of a page: start tags with attributes, text by innermost element, balance of explicit tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        # HTML ends a row or a cell where the next one begins.
        for ended in {"tr": ("td", "th", "tr"), "td": ("td", "th"), "th": ("td", "th")}.get(tag, ()):
            if self.open[-1] == ended:
                self.open.pop()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] != tag and self.open[-1] in {"td", "th", "tr"}:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return "".join(data for element, data in self.texts if element not in {"script", "style"})

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def page(case: Case) -> Page:
    return Page(case.html())


@pytest.mark.parametrize("name", ["split", "whole"])
def test_every_section_is_there_and_has_a_heading(name: str, request: pytest.FixtureRequest) -> None:
    found = page(request.getfixturevalue(name))
    sections = list(found.all("section"))
    assert [section["id"] for section in sections] == SECTIONS
    headings = {heading.get("id") for heading in found.all("h2")}
    assert {section["aria-labelledby"] for section in sections} == headings
    assert found.open == []
    assert len(list(found.all("h1"))) == 1
    targets = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert {link["href"] for link in found.all("a")} <= {f"#{target}" for target in targets}


@pytest.mark.parametrize("name", ["split", "whole"])
def test_tables_have_captions_and_heads_say_their_scope(name: str, request: pytest.FixtureRequest) -> None:
    found = page(request.getfixturevalue(name))
    assert len(list(found.all("table"))) == len(list(found.all("caption")))
    assert all(head.get("scope") in {"row", "col"} for head in found.all("th"))


@pytest.mark.parametrize("against", [None, "all_cpu", "within_limits"])
def test_robustness_names_the_plan_that_is_compared_with(split: Case, against: str | None) -> None:
    document = copy.deepcopy(split.document)
    for end in document["robustness"].values():
        end |= {"against": against, "gain": None if against is None else 1.25}
    text = page(split._replace(document=document)).text()
    ends = document["robustness"].values()
    assert ends
    for end in ends:
        assert ("there is none" if end["gain"] is None else BASELINES[end["against"]]) in text
    for kind, baseline in document["baselines"].items():
        assert baseline is None or (f"{BASELINES[kind]} (no package can)" in text) == (not baseline["deployable"])


def test_the_split_is_what_the_page_says(split: Case) -> None:
    document = split.document
    text = page(split).text()
    assert document["decision"] == "split"
    assert document["verdict"][1:] in text
    for stage in document["stages"]:
        assert f"Stage {stage['index']} on the {stage['device'].upper()}" in text
    for tensor in document["boundary"]:
        assert size(tensor["bytes"]) in text
    assert document["model"]["sha256"] in text
    assert seconds(document["prediction"]["latency_s"]) in text
    assert "drawn with seed 0" in text
    assert "1.5e-06" in text


def test_numbers_of_a_gpu_that_was_not_measured_are_marked(split: Case) -> None:
    document, html = split.document, split.html()
    for label in ("Predicted throughput", "Predicted latency", "Bottleneck", "Gap to the proven bound"):
        card = html[html.index(f"<dt>{label}</dt>") :].split("</div>")[0]
        assert '<span class="tag">modelled</span>' in card
    picture = draw(document, "modelled")
    assert all("modelled" in box.time for box in picture.boxes if box.device == "gpu")
    assert all("modelled" in arrow.label for arrow in picture.arrows if arrow.crosses)


def test_a_recorded_gpu_is_called_recorded_and_a_measured_one_is_not_marked(split: Case) -> None:
    document, table = copy.deepcopy(split.document), split.table
    document["target"] |= {"source": "recorded", "gpu": document["target"]["gpu"] | {"source": "recorded"}}
    assert '<span class="tag">recorded</span>' in Case(document, table).html()
    document["target"] |= {"source": "measured", "gpu": document["target"]["gpu"] | {"source": "measured"}}
    assert 'class="tag"' not in Case(document, table).html()


def test_a_plan_without_a_gpu_has_nothing_marked_and_no_gpu_column(whole: Case) -> None:
    document = whole.document
    found = page(whole)
    assert document["decision"] == "unsplit-cpu"
    assert not any(span.get("class") == "tag" for span in found.all("span"))
    assert "No GPU cost went into this plan" in found.text()
    assert "whole model on the GPU" not in found.text()


@pytest.mark.parametrize("name", ["split", "whole"])
def test_hostile_names_stay_text(name: str, request: pytest.FixtureRequest) -> None:
    html = request.getfixturevalue(name).html()
    found = Page(html)
    assert [script.get("type") for script in found.all("script")] == ["application/json", None]
    data_of(request.getfixturevalue(name))
    assert not list(found.all("img"))
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    code = html[html.rindex("<script>") :] + html[html.index("<style>") : html.index("</style>")]
    assert "alert" not in code
    text = found.text()
    for shown in (FIRST, SECOND, CONV, "safe\\u202egnp.exe", "small & <hostile>.onnx", "small<b>"):
        assert shown in text
    assert "\u202e" not in html


@pytest.mark.parametrize("name", ["split", "whole"])
def test_it_refers_to_nothing_outside_itself(name: str, request: pytest.FixtureRequest) -> None:
    html = request.getfixturevalue(name).html()
    assert set(re.findall(r"(?:https?:)?//[\w.]+\.[a-z]+[^\s\"]*", html)) == {"http://www.w3.org/2000/svg"}
    found = Page(html)
    for _, attributes in found.tags:
        assert not {"src", "srcset", "action", "data"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {"#head"}


def test_equal_plans_give_equal_pages_and_the_file_is_the_page(split: Case, tmp_path: Path) -> None:
    assert copy.deepcopy(split).html() == split.html()
    (tmp_path / "plan.json").write_text(serde.dumps(split.document), "utf-8")
    (tmp_path / "profile.json").write_text(serde.dumps(split.table), "utf-8")
    (tmp_path / "graph.json").write_text(dump_topology(split.topology), "utf-8")
    before = sorted(tmp_path.iterdir())
    path = write_report(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*before, path])
    material = read_material(tmp_path)
    assert path.read_text("utf-8") == render_report(material)
    assert material.topology == split.topology
    assert material.files == (
        ("profile.json", (tmp_path / "profile.json").stat().st_size, sha256_file(tmp_path / "profile.json")),
    )


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no plan"):
        write_report(tmp_path)


def data_of(case: Case) -> list[dict[str, Any]]:
    """What the page's script reads, as the browser would parse it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', case.html(), re.DOTALL)
    assert found is not None
    assert "<" not in found[1]
    units_: list[dict[str, Any]] = json.loads(found[1])["units"]
    return units_


def test_the_script_knows_operators_costs_reasons_and_neighbours_of_every_group(split: Case) -> None:
    data = data_of(split)
    at = {name: number for number, unit in enumerate(data) for name in unit["n"]}
    assert sorted(at) == sorted(visible(name) for name in split.document["placement"])
    conv, cast, tail = (data[at[name]] for name in (CONV, "cast", visible(TAIL)))
    assert conv["o"][conv["n"].index(CONV)] == "Conv"
    assert conv["c"] > 0
    assert conv["f"] == ["measured", "modelled"]
    assert conv["w"] == split.document["reasons"][CONV]
    assert at["cast"] in conv["p"] or at["cast"] == at[CONV]
    assert at[CONV] in tail["p"] or at["relu"] in tail["p"]
    assert {unit["d"] for unit in (conv, tail)} == {"cpu", "gpu"}
    assert cast["s"] >= 0
    assert data[at["weights"]]["s"] == -1


def test_every_group_of_a_stage_has_one_box_as_wide_as_its_time(split: Case) -> None:
    found = units(split.document, split.table)
    boxes = {int(box["data-u"] or -1): box["style"] or "" for box in page(split).all("button") if "data-u" in box}
    assert sorted(boxes) == [number for number, unit in enumerate(found) if unit.stage is not None]
    widths = {number: float(style.removeprefix("--w:")) for number, style in boxes.items()}
    times = {number: placed_s(found[number]) or 0.0 for number in boxes}
    longest = max(times, key=lambda number: times[number])
    for number in boxes:
        assert widths[number] == pytest.approx(widths[longest] * times[number] / times[longest], abs=0.11)


def test_the_shares_of_the_time_add_up(split: Case) -> None:
    found = units(split.document, split.table)
    assert sum(row.share for row in shares(found)) == pytest.approx(1)
    assert sum(row.units for row in shares(found)) == sum(unit.stage is not None for unit in found)
    assert sum(value for _, value in sources(found)) == pytest.approx(1)
    assert {word for word, _ in sources(found)} == {"measured", "modelled"}


def test_the_timeline_shows_the_simulated_servers(split: Case) -> None:
    line = simulated(split.document)
    assert line is not None
    resources = {step["resource"] for step in split.document["steps"]}
    assert len(line.rows) >= len(resources & {"cpu", "gpu"})
    assert all(0 <= float(busy.removesuffix(" %")) <= 100 for _, busy, _ in line.rows)
    by_row: dict[float, list[Any]] = {}
    for bar in line.bars:
        by_row.setdefault(bar.y, []).append(bar)
    for bars in by_row.values():
        for one, next_ in itertools.pairwise(bars):
            assert one.x + one.width <= next_.x + 1.1


def test_what_if_has_the_deployed_size_on_every_curve(split: Case) -> None:
    for chart in charts(split.document, split.table):
        assert any(mark.chosen for mark in chart.marks), chart.title
        assert len(chart.rows) == len(chart.marks)


@given(st.lists(st.floats(1e-9, 1e15), min_size=1, max_size=20), st.booleans())
def test_axes_hold_their_values_and_ticks(values: list[float], log: bool) -> None:
    axis = axis_of(values, 50, 300, log=log)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(50 <= place <= 300 for place in places)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(50 <= place <= 300 for _, place in ticks)


def test_every_node_is_listed_once_with_its_times(split: Case) -> None:
    document, table, _ = split
    found = units(document, table)
    assert sorted(name for unit in found for name in unit.nodes) == sorted(document["placement"])
    homes = {name: stage["index"] for stage in document["stages"] for name in stage["nodes"]}
    for unit in found:
        assert {homes.get(name) for name in unit.nodes} == {unit.stage}
        assert {document["placement"][name] for name in unit.nodes} == {unit.device}
    for stage in document["stages"]:
        times = [unit.cpu_s if unit.device == "cpu" else unit.gpu_s for unit in found if unit.stage == stage["index"]]
        assert sum(value or 0.0 for value in times) == pytest.approx(stage["service_s"])


def test_nodes_without_a_choice_are_told_from_those_placed_by_cost(path: Path) -> None:
    document, table, _ = _plan(path, "t4", {})
    support: dict[str, Support] = gpu_support(with_operators(load(path)))
    free = {name for unit in units(document, table) if not unit.reason for name in unit.nodes}
    assert free == {name for name, verdict in support.items() if verdict.ok}
    assert free
    kinds = refusals(units(document, table))
    assert "`…` is uint8" in next(kind.text for kind in kinds if len(kind.nodes) == 2)
    assert {name for kind in kinds for name in kind.nodes} == set(document["placement"]) - free
    assert sum(kind.seconds for kind in kinds) > 0


def test_times_are_of_a_request_when_a_run_holds_several(split: Case) -> None:
    document, table, _ = split
    batched = units(document | {"batch": 4}, table)
    for one, four in zip(units(document, table), batched, strict=True):
        assert (four.cpu_s or 0.0) == pytest.approx((one.cpu_s or 0.0) / 4)


def test_a_plan_that_was_not_emitted_says_so(split: Case) -> None:
    document = {key: value for key, value in split[0].items() if key != "verification"}
    assert "Nothing was verified" in page(split._replace(document=document)).text()
    failed = split[0] | {"verification": split[0]["verification"] | {"passed": False, "unrepeatable": [BREAKOUT]}}
    text = page(split._replace(document=failed)).text()
    assert "Failed:" in text
    assert BREAKOUT in text


def test_thousands_of_nodes_stay_small_and_folded(split: Case) -> None:
    html = enlarged(split, 3000).html()
    assert len(html.encode()) < 3_000_000
    found = Page(html)
    folds = [details for details in found.all("details") if details.get("class") == "chapter"]
    assert len(folds) == 1
    assert not any("open" in details for details in folds)
    assert len([button for button in found.all("button") if "data-u" in button]) == 3000
    assert sum("fold" in (button.get("class") or "") for button in found.all("button")) < 200
    assert "/encoder/layer.2999/attention/output/dense/MatMul" in found.text()


@st.composite
def _pipelines(draw_: st.DrawFn) -> dict[str, Any]:
    """Draw stages of any times and tensors between any two of them."""
    times = draw_(st.lists(st.floats(0, 10), min_size=1, max_size=12))
    first = draw_(st.integers(0, 1))
    stages = [
        {"index": index, "device": ("cpu", "gpu")[(index + first) % 2], "nodes": ["n"], "service_s": value,
         "source": "measured"}
        for index, value in enumerate(times)
    ]  # fmt: skip
    pairs = [(a, b) for a in range(len(times)) for b in range(a + 1, len(times))]
    chosen = draw_(st.lists(st.sampled_from(pairs), max_size=12)) if pairs else []
    sizes = draw_(st.lists(st.none() | st.integers(0, 2**40), min_size=len(chosen), max_size=len(chosen)))
    boundary = [
        {"tensor": f"t{number}", "bytes": size_, "from": a, "to": [b], "transfer_s": 1e-5}
        for number, ((a, b), size_) in enumerate(zip(chosen, sizes, strict=True))
    ]
    return {"stages": stages, "boundary": boundary}


@settings(max_examples=60, deadline=None)
@given(_pipelines())
def test_nothing_in_the_picture_overlaps_or_leaves_it(document: dict[str, Any]) -> None:
    picture = draw(document, "modelled")
    edge = 0.0
    for box in picture.boxes:
        assert box.x >= edge
        edge = box.x + box.width
        assert box.y >= 0
        assert box.y + 78 <= picture.height
    assert edge <= picture.width
    labels = [(arrow.x, arrow.x + LETTER * len(arrow.label), arrow.y) for arrow in picture.arrows]
    for number, (left, right, y) in enumerate(labels):
        assert left >= 0
        assert right <= picture.width + 0.1
        assert 12 <= y <= picture.height
        for other_left, other_right, other_y in labels[:number]:
            assert abs(y - other_y) >= 12 or right <= other_left or other_right <= left
    assert {(arrow.source, arrow.target) for arrow in picture.arrows} == {
        (tensor["from"], target) for tensor in document["boundary"] for target in tensor["to"]
    }


def test_a_tensor_read_twice_is_paid_once() -> None:
    stages = [
        {"index": index, "device": device, "nodes": ["n"], "service_s": 1.0, "source": "measured"}
        for index, device in enumerate(["cpu", "gpu", "cpu", "gpu"])
    ]
    boundary = [{"tensor": "t", "bytes": 4, "from": 0, "to": [1, 3], "transfer_s": 2e-3}]
    labels = [arrow.label for arrow in draw({"stages": stages, "boundary": boundary}, "").arrows]
    assert labels == ["1 tensor · 4 B · 2.00 ms", "1 tensor · 4 B · 0.0 µs"]


@given(st.text(max_size=2 * MAX_TEXT))
def test_visible_text_has_no_hidden_letters_and_bounded_length(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * MAX_TEXT
    assert visible(shown) == shown or len(shown) > MAX_TEXT
    shown.encode("utf-8")


def test_lone_surrogates_can_be_written() -> None:
    assert visible("a\udc80b") == "a\\udc80b"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (seconds(None), "–"), (seconds(0.0), "0.0 µs"), (seconds(0.0012345), "1.23 ms"), (seconds(2), "2.00 s"),
        (size(None), "–"), (size(1023), "1023 B"), (size(602112), "588.0 KiB"), (size(3 * 2**40), "3072.0 GiB"),
        (rate(12.34), "12.3"), (rate(12345.6), "12,346"), (counted(1, "node"), "1 node"), (counted(0, "node"), "0 nodes"),
        (kind_of_reason("`a` is uint8, `b` too"), "`…` is uint8, `…` too"),
    ],
)  # fmt: skip
def test_formats(shown: str, expected: str) -> None:
    assert shown == expected


def test_engines_their_errors_and_what_did_not_build(split: Case) -> None:
    document = split.document
    hostile = "<script>alert(1)</script>"

    def error(name: str, share: float) -> dict[str, Any]:
        return {"name": name, "max_abs": 1.0, "max_rel": share, "mean_abs": 0.001, "top1": 0.5}

    stage = {
        "stage": 1,
        "precision": "fp16",
        "tolerance": 0.01,
        "modelled_gain": 1.75,
        "refused": "",
        "errors": [error(hostile, 0.0042)],
        "reduced_nodes": 7,
        "clean_ups": [],
        "kept_in_fp32": ["a", "b"],
        "compared": [
            {"precision": name, "errors": errors, "reduced": 7, "kept": 2, "gain": gain, "note": note}
            for name, errors, gain, note in (
                ("tf32", [error(hostile, 0.0007)], 1.25, ""), ("fp16", [error(hostile, 0.0042), error("b", 0.001)], 1.75, ""),
                ("bf16", [], 1.875, "leaves the range of bf16"), ("int8", [error(hostile, 0.0)], None, hostile),
            )
        ],
    }  # fmt: skip
    engines = {
        "backend": "tensorrt-rtx", "answered_by": "TensorRT-RTX 9", "built": [1], "deployed": True, "stages": [stage],
        "refusals": {hostile: {"reason": "the builder refuses: no", "source": "TensorRT-RTX 9"}},
    }  # fmt: skip
    page = split._replace(document={**document, "engines": engines}).html()
    assert hostile not in page
    section = page[page.index('id="engines"') : page.index('id="placement"')]
    for words in ("TensorRT-RTX 9", "0.0042", "0.01 allowed", "2 of 9 nodes", "1.75x", "the builder refuses: no", "50"):
        assert words in section, words
    for words in ("leaves the range of bf16", "1.25x", "0.0007", "what the others are compared with", "7, 2 went back"):
        assert words in section, words
    assert section.count(">chosen<") == 1
    assert "fp16: error 0.0042, 1.75x" in section, "the worse output of the two is in the chart"
    assert section.count("<figure") == 1
    trial = split._replace(document={**document, "engines": {**engines, "deployed": False}}).html()
    assert "built as a trial" in trial
