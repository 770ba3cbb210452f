"""Import a domain library, or say why not: absent is a skip, installed but broken a failure."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

from .companions import declared_torch, installed_version


def domain_library(name: str, *submodules: str) -> ModuleType:
    """Return the imported library with its submodules."""
    __tracebackhide__ = True
    version = installed_version(name)
    if version is None:
        pytest.skip(f"{name} is not installed; install the release that goes with torch {torch.__version__} to use it")
    try:
        module = importlib.import_module(name)
        for submodule in submodules:
            importlib.import_module(f"{name}.{submodule}")
    except (ImportError, RuntimeError, OSError) as error:
        pytest.fail(
            f"{name} {version} is installed but does not import beside torch {torch.__version__} "
            f"({declared_torch(name)}): {type(error).__name__}: {error}",
            pytrace=False,
        )
    return module
