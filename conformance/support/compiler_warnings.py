"""Warnings that torch.compile gives about itself or about the Python it runs on, and not about what is checked."""

from __future__ import annotations

import pytest

#: Dynamo itself reads .grad of what crosses a graph break.
READS_GRAD = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
#: Inductor imports a module that uses torch.jit; where there is CUDA, every backend imports it.
USES_JIT = pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
#: Python 3.13.0, of all releases, makes dynamo's guards slower.
SLOW_PYTHON = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
#: torch.export.load, up to torch 2.11, makes tensors of bytes that it does not mean to write.
READS_BYTES = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
#: torch.export, in torch 2.13, makes objects that it has deprecated itself when it copies a program.
COPIES_TREES = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
#: Inductor recommends a setting on GPUs that have it.
RECOMMENDS_TF32 = pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32:UserWarning")
#: For every check that compiles or exports.
ALWAYS = [SLOW_PYTHON, USES_JIT, RECOMMENDS_TF32]
