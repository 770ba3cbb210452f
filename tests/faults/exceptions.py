"""The behaviors that have no planted fault, or none that this project can try, each with the reason."""

from __future__ import annotations

#: Every behavior has two faults, one of them silent, but for these.
EXCEPTIONS = {
    "install.gpu-arch": "checks nothing without a CUDA device",
    "device.async": "checks nothing without an accelerator: work on the CPU is not queued",
    "device.parity": "compares an accelerator with the CPU; tests/test_conformance_parity.py tries its comparison "
    "with wrong results",
    "device.speedup": "times an accelerator against the CPU; tests/test_conformance_speed.py tries its verdict",
    "data.pin-memory": "checks nothing without an accelerator to copy to",
    "domain.torchtext": "the last torchtext was built for torch 2.3 and does not load beside a torch that is supported",
}
