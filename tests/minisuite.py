"""A conformance suite of a few rows, for the tests of what the plugin makes of one."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conformance" / "conftest.py"

ROW = """\
[[behavior]]
id = "{id}"
kind = "{kind}"
statement = "{id} holds."
reference = "https://docs.pytorch.org/{id}"
question = "+"
{extra}
"""

ROWS = {"tensor.ranks": "device", "tensor.rand": "device", "data.batches": "host"}

#: A check per row, all of which pass.
PASSING = """
    import pytest
    import torch

    @pytest.mark.behavior("tensor.ranks")
    def test_ranks(device):
        assert torch.zeros(2, device=device).ndim == 1

    @pytest.mark.behavior("tensor.rand")
    def test_rand(device):
        assert torch.rand(3, device=device).shape == (3,)

    @pytest.mark.behavior("data.batches")
    def test_batches():
        assert len(list(range(0, 100, 10))) == 10
"""


class MiniSuite:
    """The suite under ``directory``; runs write their report to report.json."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.directory = pytester.mkdir("conformance")
        self.report_path = pytester.path / "report.json"
        (self.directory / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"))
        self.rows(**{name: "" for name in ROWS})
        self.checks(PASSING)

    def rows(self, **extra: str) -> None:
        """Write the catalogue: the given rows, each with the text that is added to its table."""
        tables = [
            ROW.format(id=name, kind=ROWS.get(name, "device"), extra=textwrap.dedent(text))
            for name, text in extra.items()
        ]
        (self.directory / "behaviors.toml").write_text("\n".join(tables))

    def checks(self, code: str, name: str = "test_checks") -> None:
        """Write a file of checks."""
        (self.directory / f"{name}.py").write_text(textwrap.dedent(code))

    def known(
        self, behavior: str = "tensor.ranks", device: str = "cpu", torch: str = "", name: str = "", tests: str = "*"
    ) -> Path:
        """Write a file of one known failure; by default the suite's own."""
        path = self.directory / "known-failures.toml" if not name else self.pytester.path / name
        path.write_text(
            f'[[known]]\nid = "{behavior}"\ndevice = "{device}"\ntorch = "{torch}"\ntests = "{tests}"\n'
            'link = "https://example.org/7"\nreason = "known to be wrong"\n'
        )
        return path

    def run(self, *arguments: str, isolate: str = "no", target: str = "conformance") -> pytest.RunResult:
        """Run the suite in this process."""
        return self.pytester.runpytest_inprocess(*self._arguments(arguments, isolate, target))

    def run_apart(self, *arguments: str, isolate: str = "no", target: str = "conformance") -> pytest.RunResult:
        """Run the suite in a process of its own."""
        return self.pytester.runpytest_subprocess(*self._arguments(arguments, isolate, target), timeout=180)

    def report(self) -> dict[str, Any]:
        """Return the report that the last run wrote."""
        document: dict[str, Any] = json.loads(self.report_path.read_text(encoding="utf-8"))
        return document

    def outcomes(self) -> dict[tuple[str, str | None], list[str]]:
        """Return the outcomes in the last report by behavior and device, without the variants for other devices."""
        found: dict[tuple[str, str | None], list[str]] = {}
        for entry in self.report()["results"]:
            if entry["device"] in ("cpu", None):
                found.setdefault((entry["behavior"], entry["device"]), []).append(entry["outcome"])
        return found

    def _arguments(self, arguments: tuple[str, ...], isolate: str, target: str) -> list[str]:
        fixed = ["-p", "no:randomly", "-p", "no:cacheprovider", f"--torchcheck-isolate={isolate}"]
        return [*fixed, f"--torchcheck-report={self.report_path}", target, *arguments]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> MiniSuite:
    """A small conformance suite in the folder of the test."""
    return MiniSuite(pytester)
