"""Plant the fault named by TORCHCHECK_FAULT right after torch is imported, in this process and all its children.

The directory of this file goes on PYTHONPATH, so every interpreter that inherits the environment runs it.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path


class _PlantingLoader(importlib.abc.Loader):
    def __init__(self, loader, name):
        self.loader = loader
        self.name = name

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        from tests.faults.registry import find

        find(self.name).apply(module)


class _PlantingFinder(importlib.abc.MetaPathFinder):
    def __init__(self, name):
        self.name = name

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            spec.loader = _PlantingLoader(spec.loader, self.name)
        return spec


if os.environ.get("TORCHCHECK_FAULT"):
    root = str(Path(__file__).resolve().parents[3])
    if root not in sys.path:
        sys.path.append(root)
    sys.meta_path.insert(0, _PlantingFinder(os.environ["TORCHCHECK_FAULT"]))
