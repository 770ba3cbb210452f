"""Do the packages built on torch, where installed, import and run their compiled operators beside this torch?"""

from __future__ import annotations

import pytest
import torch

from .support.companions import COMPANIONS, declared_torch, installed_version, troubles


@pytest.mark.behavior("install.companions")
@pytest.mark.parametrize("name", COMPANIONS)
def test_installed_companion_works_beside_this_torch(name):
    """An installed companion imports, and a compiled operator of it gives the right answer."""
    version = installed_version(name)
    if version is None:
        pytest.skip(f"{name} is not installed; install the release that goes with torch {torch.__version__} to use it")
    trouble = troubles()[name]
    if trouble is not None:
        pytest.fail(
            f"{name} {version} does not work beside torch {torch.__version__} ({declared_torch(name)}): {trouble}",
            pytrace=False,
        )
