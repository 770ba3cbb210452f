"""Build hook: the wheel carries the conformance suite as one archive (pytest_torchcheck/carried_suite.py says why)."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The oldest time a ZIP file can hold: the same sources give the same archive.
TIME = (1980, 1, 1, 0, 0, 0)


class SuiteArchive(BuildHookInterface):
    """Pack ``conformance`` for the wheel; an editable install finds it in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the archive and have it included."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        archive = Path(self._folder.name, "conformance.zip")
        pack(Path(self.root, "conformance"), archive)
        build_data["force_include"][str(archive)] = "pytest_torchcheck/conformance.zip"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the archive: it is in the wheel now."""
        if version != "editable":
            self._folder.cleanup()


def pack(folder: Path, archive: Path) -> None:
    """Write every source and data file in ``folder`` to ``archive``, under the folder's name."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in (".py", ".toml", ".json", ".pt"):
                name = path.relative_to(folder.parent).as_posix()
                packed.writestr(zipfile.ZipInfo(name, TIME), path.read_bytes(), zipfile.ZIP_DEFLATED)
