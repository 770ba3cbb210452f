"""The built wheel carries the suite and validates an environment in which there is no checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("pytest_torchcheck", "__editable__", "_pytest_torchcheck", "_editable_impl_pytest")


def run(*command: str, cwd: Path, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built in an environment that already has the build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("pytest_torchcheck-*.whl"))


@pytest.fixture(scope="module")
def fresh_python(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; the packages it needs are those of this one, linked, ours left out."""
    folder = tmp_path_factory.mktemp("fresh")
    done = run(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
    assert done.returncode == 0, done.stderr
    python = folder / "venv" / "bin" / "python"
    links = folder / "links"
    links.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(OURS) and entry.suffix != ".pth":
            (links / entry.name).symlink_to(entry)
    done = run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder)
    Path(site.stdout.strip(), "linked.pth").write_text(f"{links}\n")
    return python


def test_wheel_holds_the_suite_its_catalogue_and_its_data(wheel):
    """Every file of the conformance suite is in the wheel's archive, and nothing of the plugin's own tests."""
    with zipfile.ZipFile(wheel) as built, built.open("pytest_torchcheck/conformance.zip") as archive:
        names, carried = built.namelist(), zipfile.ZipFile(archive)
        packed = {name: carried.read(name) for name in carried.namelist()}
    suite = [path for path in (ROOT / "conformance").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in suite}
    assert not [name for name in names if name.startswith("tests/") or "faults" in name]


def test_wheel_lists_few_files(wheel):
    """Pytest reads the list of a plugin's files at every start, so the suite is not in it file by file."""
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) < 120
    assert [name for name in names if "conformance" in name] == ["pytest_torchcheck/conformance.zip"]


def test_installed_suite_runs_from_an_empty_folder(fresh_python, tmp_path):
    """``pytest --pyargs pytest_torchcheck.conformance`` checks this torch where there is no checkout."""
    report = tmp_path / "report.json"
    done = run(
        *(str(fresh_python), "-m", "pytest", "--pyargs", "pytest_torchcheck.conformance"),
        *("-p", "no:randomly", "--torchcheck-behaviors=gradmode,tensor.ranks", f"--torchcheck-report={report}"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(report.read_text())["results"]
    passed = {record["behavior"] for record in results if record["outcome"] == "passed"}
    assert {"tensor.ranks", "gradmode.no-grad"} <= passed
