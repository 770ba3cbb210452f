"""pytest-torchcheck: does this PyTorch really work?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_torchcheck.assertions.batches import assert_batch_independent as assert_batch_independent
    from pytest_torchcheck.assertions.batches import assert_layout_invariant as assert_layout_invariant
    from pytest_torchcheck.assertions.clipping import assert_clipped as assert_clipped
    from pytest_torchcheck.assertions.clipping import assert_clipped_value as assert_clipped_value
    from pytest_torchcheck.assertions.close import assert_close as assert_close
    from pytest_torchcheck.assertions.compiled import assert_compile_parity as assert_compile_parity
    from pytest_torchcheck.assertions.determinism import assert_deterministic as assert_deterministic
    from pytest_torchcheck.assertions.device_parity import assert_device_parity as assert_device_parity
    from pytest_torchcheck.assertions.errors import InconclusiveTimingError as InconclusiveTimingError
    from pytest_torchcheck.assertions.errors import VacuousCheckError as VacuousCheckError
    from pytest_torchcheck.assertions.exported import assert_export_parity as assert_export_parity
    from pytest_torchcheck.assertions.gradcheck import assert_gradcheck as assert_gradcheck
    from pytest_torchcheck.assertions.gradients import assert_gradients as assert_gradients
    from pytest_torchcheck.assertions.gradients import assert_gradients_flow as assert_gradients_flow
    from pytest_torchcheck.assertions.graphs import assert_no_graph as assert_no_graph
    from pytest_torchcheck.assertions.graphs import saved_bytes as saved_bytes
    from pytest_torchcheck.assertions.initialization import assert_initialized as assert_initialized
    from pytest_torchcheck.assertions.loaders import assert_loader as assert_loader
    from pytest_torchcheck.assertions.modes import assert_eval_deterministic as assert_eval_deterministic
    from pytest_torchcheck.assertions.modes import assert_modes_agree as assert_modes_agree
    from pytest_torchcheck.assertions.modes import assert_modes_differ as assert_modes_differ
    from pytest_torchcheck.assertions.onnx import assert_onnx_parity as assert_onnx_parity
    from pytest_torchcheck.assertions.resuming import RandomState as RandomState
    from pytest_torchcheck.assertions.resuming import assert_resume_equivalent as assert_resume_equivalent
    from pytest_torchcheck.assertions.schedules import assert_learning_rates as assert_learning_rates
    from pytest_torchcheck.assertions.serialization import assert_state_dict_roundtrip as assert_state_dict_roundtrip
    from pytest_torchcheck.assertions.speedup import assert_device_speedup as assert_device_speedup
    from pytest_torchcheck.assertions.speedup import assert_speedup as assert_speedup
    from pytest_torchcheck.assertions.torchscript import assert_script_parity as assert_script_parity
    from pytest_torchcheck.assertions.torchscript import assert_trace_parity as assert_trace_parity
    from pytest_torchcheck.assertions.training import assert_fits as assert_fits
    from pytest_torchcheck.assertions.training import assert_training_step as assert_training_step

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
    "assert_modes_differ": "assertions.modes",
    "assert_modes_agree": "assertions.modes",
    "assert_eval_deterministic": "assertions.modes",
    "assert_batch_independent": "assertions.batches",
    "assert_layout_invariant": "assertions.batches",
    "assert_training_step": "assertions.training",
    "assert_fits": "assertions.training",
    "assert_clipped": "assertions.clipping",
    "assert_clipped_value": "assertions.clipping",
    "assert_learning_rates": "assertions.schedules",
    "assert_initialized": "assertions.initialization",
    "assert_loader": "assertions.loaders",
    "assert_deterministic": "assertions.determinism",
    "assert_script_parity": "assertions.torchscript",
    "assert_trace_parity": "assertions.torchscript",
    "assert_compile_parity": "assertions.compiled",
    "assert_export_parity": "assertions.exported",
    "assert_onnx_parity": "assertions.onnx",
    "assert_device_parity": "assertions.device_parity",
    "assert_state_dict_roundtrip": "assertions.serialization",
    "assert_resume_equivalent": "assertions.resuming",
    "RandomState": "assertions.resuming",
    "assert_speedup": "assertions.speedup",
    "assert_device_speedup": "assertions.speedup",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
