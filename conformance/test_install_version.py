"""Is the torch that Python imports the one that was installed, all of it of one release?

Nothing here imports NumPy: these checks must run where it is missing or broken.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
import torch
from packaging.version import Version


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    """The installed distribution named torch."""
    try:
        return importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        pytest.fail(f"no distribution named torch is installed, yet {torch.__file__} was imported")


def build_setting(name: str) -> str | None:
    """Return what the compiled library says it was built with, or None where it does not say."""
    found = re.search(rf"\b{name}=([^,\s]+)", torch.__config__.show())
    return found.group(1) if found else None


@pytest.mark.behavior("install.version")
def test_version_is_that_of_the_installed_distribution(distribution):
    """torch.__version__ names the release of the installed distribution."""
    assert Version(torch.__version__).public == Version(distribution.version).public


@pytest.mark.behavior("install.version")
def test_build_tag_agrees_with_the_installed_distribution(distribution):
    """Where the distribution's version has a local part (cpu, cu130), torch.__version__ has the same."""
    local = Version(distribution.version).local
    # Wheels of the main registry carry the tag in torch.__version__ alone.
    assert local in (None, Version(torch.__version__).local)


@pytest.mark.behavior("install.version")
def test_version_module_repeats_the_version():
    """torch.version.__version__ and torch.__version__ are one string."""
    assert isinstance(torch.__version__, str)
    assert str(torch.version.__version__) == str(torch.__version__)


@pytest.mark.behavior("install.version")
def test_compiled_library_is_of_the_same_release():
    """The compiled library was built as the release that the Python files name."""
    compiled = build_setting("TORCH_VERSION")
    assert compiled is not None, "torch.__config__.show() names no TORCH_VERSION"
    assert Version(compiled).release == Version(torch.__version__).release


@pytest.mark.behavior("install.version")
def test_compiled_library_is_of_the_same_commit():
    """torch.version.git_version is a commit, the one that the compiled library was built from."""
    commit = torch.version.git_version
    if commit == "Unknown":
        pytest.skip("this torch was built outside a git checkout; an official wheel names its commit")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert build_setting("COMMIT_SHA") in (None, commit)  # releases before 2.13 do not record it


@pytest.mark.behavior("install.version")
def test_only_one_torch_is_installed():
    """No second torch distribution is left over on the import path."""
    names = {"torch", "torch-nightly", "pytorch"}
    found = {
        (dist.metadata["Name"], dist.version)
        for dist in importlib.metadata.distributions()
        if (dist.metadata["Name"] or "").lower() in names
    }
    assert len(found) == 1, f"several torch distributions are installed: {sorted(found)}"


@pytest.mark.behavior("install.version")
def test_torch_is_imported_from_its_distribution(distribution):
    """The imported package is the installed one; no directory named torch shadows it."""
    installed = Path(str(distribution.locate_file("torch/__init__.py")))
    if not installed.exists():
        pytest.skip("torch is an editable install; install a built wheel to have its location checked")
    assert Path(torch.__file__).samefile(installed)


@pytest.mark.behavior("install.version")
def test_compiled_extension_lies_within_the_package():
    """The compiled extension was loaded from the same package as the Python files."""
    assert Path(torch._C.__file__).resolve().parent == Path(torch.__file__).resolve().parent
