"""Findings as JUnit XML, which every continuous-integration system shows: a suite a model, a test a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from cutset.codegen.report.text import visible


def junit(document: Mapping[str, Any]) -> str:
    """Return the JUnit XML of what `cutset ci` found.

    Args:
        document: From `document.document`; text in it may hold anything.
    """
    suites = ET.Element("testsuites", name="cutset ci")
    for model in document["models"]:
        findings = model["findings"]
        counts = {verdict: sum(finding["verdict"] == verdict for finding in findings) for verdict in ("worse", "skipped")}
        suite = ET.SubElement(
            suites, "testsuite", name=visible(model["name"]), tests=str(len(findings)), failures=str(counts["worse"]),
            errors="0", skipped=str(counts["skipped"]),
        )  # fmt: skip
        for finding in findings:
            _case(suite, model, finding)
        ET.SubElement(suite, "system-out").text = visible("; ".join([model["headline"], *model.get("notes", ())]))
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ET.Element, model: Mapping[str, Any], finding: Mapping[str, Any]) -> None:
    sentence = visible(finding["sentence"])
    case = ET.SubElement(suite, "testcase", classname=f"cutset.{visible(model['name'])}", name=finding["title"], time="0")
    if finding["verdict"] == "worse":
        failure = ET.SubElement(case, "failure", message=sentence, type="regression")
        failure.text = "\n".join([f"limit: {finding['limit']}", *(visible(cause) for cause in finding["causes"])])
    elif finding["verdict"] == "skipped":
        ET.SubElement(case, "skipped", message=sentence)
    else:
        ET.SubElement(case, "system-out").text = sentence
