"""Under ``--dist loadfile`` the files of the suite that share costly work go to one worker; other modes are as ever."""

from __future__ import annotations

import pytest

from conformance import conftest

pytest.importorskip("xdist", reason="needs pytest-xdist: it runs the tests in several processes")


def scheduler(pytester: pytest.Pytester, *arguments: str) -> object | None:
    config = pytester.parseconfigure("--tx", "2*popen", *arguments)
    return conftest.pytest_xdist_make_scheduler(config, log=None)


def test_files_that_share_work_are_one_group(pytester):
    """All distributed files are one scope, all ONNX files another; each other file is its own."""
    split = scheduler(pytester, "--dist", "loadfile")._split_scope
    files = ["test_distributed_ddp.py", "test_distributed_store.py", "test_onnx_export.py", "test_onnx_model.py"]
    scopes = [split(f"conformance/{file}::test_a[cpu]") for file in files]
    assert scopes == ["test_distributed_", "test_distributed_", "test_onnx_", "test_onnx_"]
    alone = ["conformance/test_optim_adam.py", "conformance/test_optim_sgd.py", "elsewhere/test_distribution.py"]
    assert [split(f"{file}::test_a") for file in alone] == alone


@pytest.mark.parametrize("dist", ["load", "loadscope", "worksteal", "no"])
def test_other_modes_are_left_to_xdist(pytester, dist):
    """Whoever asks for another distribution gets it."""
    assert scheduler(pytester, "--dist", dist) is None
