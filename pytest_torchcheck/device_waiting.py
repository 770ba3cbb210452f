"""Waiting for a device, where the errors of what was queued on it surface."""

from __future__ import annotations

import torch

from pytest_torchcheck.capabilities import first_line
from pytest_torchcheck.device_facts import accelerator


class DeviceFault(RuntimeError):
    """Work that was queued on a device failed there, after the code that queued it had moved on."""

    def __init__(self, text: str, *, lost: bool) -> None:
        super().__init__(text)
        self.lost = lost


def synchronize(device: str | torch.device) -> None:
    """Wait until everything queued on ``device`` is done; on the CPU nothing is ever queued."""
    device = torch.device(device)
    if device.type in ("cpu", "meta"):
        return
    if device.type == accelerator():
        _synchronize_accelerator(device)
    elif wait := getattr(getattr(torch, device.type, None), "synchronize", None):
        wait()


def settle(device: str | torch.device) -> None:
    """Wait for ``device`` and turn an error that surfaces only now into one that says what happened.

    Raises:
        DeviceFault: when work queued earlier failed; ``lost`` says that the device is lost to this process.
    """
    try:
        synchronize(device)
    except RuntimeError as error:
        lost = _still_fails(device)
        raise DeviceFault(_fault_text(device, error, lost=lost), lost=lost) from error


def _synchronize_accelerator(device: torch.device) -> None:
    try:
        torch.accelerator.synchronize(device)
    except RuntimeError as error:
        if "doesn't support synchronizing" not in str(error):  # a backend that queues nothing
            raise


def _still_fails(device: str | torch.device) -> bool:
    """Return whether the device goes on failing, as a CUDA context does after a device-side assert."""
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def _fault_text(device: str | torch.device, error: BaseException, *, lost: bool) -> str:
    text = f"work that this test queued on {device} failed there: {first_line(error)}"
    if not lost:
        return f"{text}\n  {device} still answers; later tests are not affected"
    return (
        f"{text}\n  {device} is lost to this process: whatever uses it from now on fails too"
        "\n  next: rerun this test alone with CUDA_LAUNCH_BLOCKING=1 to see the line, and the others with "
        "--torchcheck-isolate=yes"
    )
