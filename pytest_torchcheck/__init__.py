"""pytest-torchcheck: does this PyTorch really work?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_torchcheck.assertions.close import assert_close as assert_close
    from pytest_torchcheck.assertions.errors import InconclusiveTimingError as InconclusiveTimingError
    from pytest_torchcheck.assertions.errors import VacuousCheckError as VacuousCheckError
    from pytest_torchcheck.assertions.gradcheck import assert_gradcheck as assert_gradcheck
    from pytest_torchcheck.assertions.gradients import assert_gradients as assert_gradients
    from pytest_torchcheck.assertions.gradients import assert_gradients_flow as assert_gradients_flow
    from pytest_torchcheck.assertions.graphs import assert_no_graph as assert_no_graph
    from pytest_torchcheck.assertions.graphs import saved_bytes as saved_bytes
    from pytest_torchcheck.assertions.torchscript import assert_script_parity as assert_script_parity
    from pytest_torchcheck.assertions.torchscript import assert_trace_parity as assert_trace_parity

__version__ = "0.1.0"

#: Public name -> module that holds it, imported at first use (PEP 562): importing the package never imports torch.
_PUBLIC = {
    "VacuousCheckError": "assertions.errors",
    "InconclusiveTimingError": "assertions.errors",
    "assert_close": "assertions.close",
    "assert_gradients": "assertions.gradients",
    "assert_gradients_flow": "assertions.gradients",
    "assert_gradcheck": "assertions.gradcheck",
    "assert_no_graph": "assertions.graphs",
    "saved_bytes": "assertions.graphs",
    "assert_script_parity": "assertions.torchscript",
    "assert_trace_parity": "assertions.torchscript",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
