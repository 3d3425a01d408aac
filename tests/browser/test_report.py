"""The report in a real browser: it stands alone, is quick, is worked with mouse and keyboard, and is accessible."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.sample_models.registry import write
from tests.browser.conftest import ARTEFACTS
from tests.reports import Case, enlarged, planned

MODELS = ("classifier", "detector", "orientation-jpeg", "tagger")
QUICK_MS = 200
OPENED_MS = 2000
ZOOM = """(way) => new Promise((done) => {
    const begin = performance.now();
    document.getElementById("zoom-" + way).click();
    document.getElementById("lanes").getBoundingClientRect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin), 0));
})"""
"""Milliseconds from a click on a zoom button until its frame is drawn."""
Opener = Callable[..., "Opened"]


@dataclass
class Opened:
    """A page, and what it said or asked for since it was opened."""

    page: Any
    case: Case
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def choose_first(self) -> dict[str, Any]:
        """Click the first box of the graph and return what the page knows of it."""
        box = self.page.locator("#lanes [data-u]").first
        box.click()
        return self.units()[int(box.get_attribute("data-u"))]

    def units(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.page.locator("#data").text_content())["units"]
        return found


@pytest.fixture(scope="session")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    @functools.cache
    def made(name: str) -> Case:
        if name == "3000 nodes":
            return enlarged(made("tagger"), 3000)
        written = write(name, tmp_path_factory.mktemp("browser") / f"{name}.onnx")
        with np.load(written.inputs, allow_pickle=False) as arrays:
            return planned(written.model, dict(arrays), name=name)

    return made


@pytest.fixture
def opened(chromium: Any, case_of: Callable[[str], Case], tmp_path: Path) -> Iterator[Opener]:
    contexts = []

    def open_(name: str, width: int = 1280, **settings: Any) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(case_of(name).html(), "utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        found = Opened(context.new_page(), case_of(name))
        found.page.on("console", lambda message: found.said.append(message.text))
        found.page.on("pageerror", lambda error: found.said.append(str(error)))
        found.page.on("request", lambda request: found.asked.append(request.url))
        found.page.goto(file.as_uri())
        return found

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", MODELS)
def test_it_opens_alone_and_tells_of_a_group_that_is_clicked(opened: Opener, name: str) -> None:
    report = opened(name)
    unit = report.choose_first()
    panel = report.page.locator("#panel").inner_text()
    assert unit["w"] in panel
    assert all(node in panel for node in unit["n"])
    report.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)
    assert report.said == []
    assert [url.partition(":")[0] for url in report.asked] == ["file"]
    assert report.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_search_finds_a_node_and_enter_chooses_it(opened: Opener) -> None:
    report = opened("classifier")
    wanted = report.units()[-3]["n"][0]
    report.page.locator("#find").fill(wanted)
    report.page.keyboard.press("Enter")
    assert report.page.locator("#panel").inner_text().count(wanted) >= 1
    matching = [unit for unit in report.units() if any(wanted.lower() in name.lower() for name in unit["n"])]
    assert report.page.locator("#hits").inner_text() == f"{len(matching)} of {len(report.units())} groups"
    assert report.page.locator("tr[data-u]:not([hidden])").count() == len(matching)


def test_filters_by_device_operator_and_reason_leave_what_fits(opened: Opener) -> None:
    report = opened("classifier")
    units = report.units()

    def left() -> set[int]:
        return {int(box.get_attribute("data-u")) for box in report.page.locator("#lanes [data-u]:not(.off)").all()}

    everything = left()
    report.page.locator("#by-device").select_option("cpu")
    assert left() == {number for number in everything if units[number]["d"] == "cpu"}
    report.page.locator("#by-device").select_option("")
    report.page.locator("#by-op").select_option("Conv")
    assert left() == {number for number in everything if "Conv" in units[number]["o"]}
    report.page.locator("#by-op").select_option("")
    report.page.locator("#by-reason").select_option("1")
    assert left() == {number for number in everything if units[number]["r"] == 1} != set()


def test_neighbours_lead_through_the_graph_and_are_linked(opened: Opener) -> None:
    report = opened("classifier")
    units = report.units()
    number = next(number for number, unit in enumerate(units) if unit["p"] and unit["s"] == units[unit["p"][0]]["s"] >= 0)
    report.page.locator(f'#lanes [data-u="{number}"]').click()
    assert report.page.locator("#links path").count() >= 1
    report.page.locator("#panel ul").nth(1).locator("button").first.click()
    assert units[units[number]["p"][0]]["n"][0] in report.page.locator("#panel").inner_text()


def test_the_keyboard_alone_is_enough(opened: Opener) -> None:
    report = opened("detector")
    boxes = report.page.locator("#lanes .box")
    boxes.first.focus()
    report.page.keyboard.press("ArrowRight")
    report.page.keyboard.press("Enter")
    number = report.page.evaluate("document.activeElement.dataset.u")
    assert report.units()[int(number)]["n"][0] in report.page.locator("#panel").inner_text()
    report.page.keyboard.press("+")
    assert report.page.locator("#zoom-now").inner_text() == "1.5×"


def test_3000_nodes_open_and_answer_at_once(opened: Opener) -> None:
    report = opened("3000 nodes")
    timing = report.page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    assert timing < OPENED_MS
    report.page.locator("#unfold").click()
    assert report.page.locator("#lanes [data-u]:visible").count() == 3000
    zoomed = min(report.page.evaluate(ZOOM, way) for way in ("in", "in", "out", "out", "in"))
    report.page.screenshot(path=ARTEFACTS / "3000-nodes.png")
    print(f"opened in {timing:.0f} ms, zoomed in {zoomed:.0f} ms")
    assert zoomed < QUICK_MS
    assert report.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Opener, axe: str, scheme: str) -> None:
    report = opened("classifier", color_scheme=scheme)
    report.choose_first()
    report.page.evaluate(axe)
    found = report.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    serious = [
        (entry["id"], entry["help"], [node["html"][:200] for node in entry["nodes"][:3]])
        for entry in found["violations"]
        if entry["impact"] in {"serious", "critical"}
    ]
    assert serious == []


def test_it_prints_on_paper(opened: Opener) -> None:
    report = opened("orientation-jpeg")
    report.page.emulate_media(media="print")
    assert not report.page.locator("#tools").is_visible()
    pdf = report.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    (ARTEFACTS / "orientation-jpeg.pdf").write_bytes(pdf)
