"""Warnings that torch.compile gives about itself or about the Python it runs on, and not about what is checked."""

from __future__ import annotations

import pytest

#: Dynamo itself reads .grad of what crosses a graph break.
READS_GRAD = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
#: Inductor imports a module that uses torch.jit.
USES_JIT = pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
#: Python 3.13.0, of all releases, makes dynamo's guards slower.
SLOW_PYTHON = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
