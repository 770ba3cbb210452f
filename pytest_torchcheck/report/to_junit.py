"""The report as JUnit XML, with the behavior and the device as properties of each test case."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from pytest_torchcheck.report.document import Report
from pytest_torchcheck.report.records import FAILURES, Result

#: Characters that XML 1.0 (section 2.2) has no way to write, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return the report as JUnit XML text."""
    outcomes = [result.outcome for result in report.results]
    suite = ElementTree.Element(
        "testsuite",
        name="torchcheck",
        tests=str(len(outcomes)),
        failures=str(outcomes.count("failed")),
        errors=str(sum(outcome in FAILURES - {"failed"} for outcome in outcomes)),
        skipped=str(sum(outcome in ("skipped", "known", "not_run") for outcome in outcomes)),
        time=f"{sum(result.duration_s for result in report.results):.3f}",
    )
    properties = {"verdict": report.verdict, "torch": str(report.environment.get("torch", ""))}
    for number, finding in enumerate(report.findings, 1):
        properties[f"problem.{number}"] = finding.text
    _add_properties(suite, properties)
    for result in report.results:
        suite.append(_case(result))
    root = ElementTree.Element("testsuites", name="torchcheck")
    root.append(suite)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def _case(result: Result) -> ElementTree.Element:
    name = result.nodeid.rpartition("::")[2] or (f"[{result.device}]" if result.device else "[not run]")
    case = ElementTree.Element(
        "testcase", classname=result.behavior, name=_plain(name), time=f"{result.duration_s:.3f}"
    )
    properties = {"behavior": result.behavior, "nodeid": result.nodeid, "outcome": result.outcome}
    if result.device is not None:
        properties["device"] = result.device
    _add_properties(case, properties)
    if result.outcome != "passed":
        element = _element(result.outcome)
        child = ElementTree.SubElement(case, element, type=result.outcome, message=_plain(result.reason))
        child.text = _plain(result.message)
    return case


def _element(outcome: str) -> str:
    if outcome == "failed":
        return "failure"
    return "error" if outcome in FAILURES else "skipped"


def _add_properties(parent: ElementTree.Element, properties: dict[str, str]) -> None:
    group = ElementTree.SubElement(parent, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(group, "property", name=name, value=_plain(value))


def _plain(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
