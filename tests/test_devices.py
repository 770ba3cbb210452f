"""Devices: what a probe finds out, what it says, and how names select devices."""

import json
import warnings

import pytest
import torch

from pytest_torchcheck import device_facts, devices

VALID = (
    "valid are auto, all, cpu, cuda, xpu, mps, mtia, hpu, xla, "
    "and an index where there are several devices, for example cuda:1"
)
NO_CUDA = "torch 2.13.0+cpu is built without CUDA: install a build of torch that has it"


def test_cpu_is_usable_and_described():
    """The CPU passes its probe and is described by plain JSON values."""
    found = devices.probe("cpu")
    assert (found.name, found.usable, found.reason) == ("cpu", True, "")
    assert json.loads(json.dumps(found.details)) == found.details
    assert found.details["total_memory_bytes"] > 2**20
    assert {"name", "type", "hardware", "cores", "threads"} <= set(found.details)


def test_device_is_tried_once(monkeypatch, fake_cuda):
    """A device is tried once, however it is written; the CPU is not, because its tests tell more."""
    fake_cuda(count=2)
    tried = []
    monkeypatch.setattr(devices, "_kernel_fault", lambda device: tried.append(str(device)) or "")
    for name in ("cuda:1", torch.device("cuda:1"), "cpu", "cuda:0", "cuda:1"):
        assert devices.probe(name).usable
    assert tried == ["cuda:1", "cuda:0"]


def test_healthy_device_computes_what_arithmetic_says():
    """The computation that a device is tried with agrees with plain arithmetic on a healthy one."""
    assert devices._kernel_fault(torch.device("cpu")) == ""


def test_result_is_compared_after_waiting(monkeypatch):
    """The device is waited for before its result is looked at."""
    waited = []
    monkeypatch.setattr(devices, "synchronize", waited.append)
    devices._kernel_fault(torch.device("cpu"))
    assert waited == [torch.device("cpu")]


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("__matmul__", "it computes wrong values: a small matrix product is 0 at (0, 0), not -1"),
        ("__mul__", "it computes wrong values: a small sum is 7 at (0, 0), not 6"),
    ],
)
def test_wrong_value_is_shown(monkeypatch, operator, reason):
    """A kernel that runs and computes wrong values is noticed, and its first wrong value is shown."""
    real = getattr(torch.Tensor, operator)
    monkeypatch.setattr(torch.Tensor, operator, lambda left, right: real(left, right) + 1)
    assert devices._kernel_fault(torch.device("cpu")) == reason


def test_one_wrong_element_is_enough(monkeypatch):
    """A single wrong element, a NaN for one, is noticed wherever it is."""
    real = torch.Tensor.__matmul__

    def last_is_nan(left, right):
        result = real(left, right)
        result[-1, -1] = float("nan")
        return result

    monkeypatch.setattr(torch.Tensor, "__matmul__", last_is_nan)
    assert "a small matrix product is nan at (16, 16), not" in devices._kernel_fault(torch.device("cpu"))


def test_deterministic_mode_is_lifted_and_put_back(fake_cuda, monkeypatch):
    """Deterministic mode, in which cuBLAS may refuse to work, does not count against a device and stays set."""
    fake_cuda()
    during = []
    monkeypatch.setattr(devices, "_kernel_fault", lambda device: during.append(_deterministic()) or "")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert devices.probe("cuda:0").usable
        assert (during, _deterministic()) == ([(False, False)], (True, True))
    finally:
        torch.use_deterministic_algorithms(False)


def _deterministic():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def test_build_without_cuda_says_so(no_cuda):
    """Without CUDA in the build, that is the reason, with or without an index."""
    assert devices.probe("cuda") == devices.Probe("cuda", False, NO_CUDA)
    assert devices.probe("cuda:3").reason == NO_CUDA


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
            "no NVIDIA driver is loaded: install one, or start the container with access to the GPU",
        ),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 12040). Please update"),
            "the NVIDIA driver is too old: it supports CUDA 12.4, and torch 2.14.1+cu130 is built with CUDA 13.0; "
            "update the driver, or install a torch built with an older CUDA",
        ),
        (
            RuntimeError("No CUDA GPUs are available"),
            "no GPU is visible: give this machine or container one (nvidia-smi or rocminfo must list it)",
        ),
        (
            RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 803: unsupported combination\nmore"),
            "a small computation fails with RuntimeError: Unexpected error from cudaGetDeviceCount(). "
            "Error 803: unsupported combination",
        ),
    ],
    ids=["no-driver", "driver-too-old", "no-gpu", "other"],
)
def test_cuda_that_does_not_start_is_explained(fake_cuda, error, reason):
    """When a CUDA build sees no GPU, the reason is what stopped CUDA from starting."""
    fake_cuda(count=0, error=error)
    assert devices.probe("cuda") == devices.Probe("cuda", False, reason)


def test_cuda_that_starts_without_devices_is_explained(fake_cuda):
    """When CUDA starts and counts no device, no GPU is visible."""
    fake_cuda(count=0)
    assert devices.probe("cuda").reason.startswith("no GPU is visible: give this machine or container one")


def test_variable_that_hides_the_gpus_is_named(fake_cuda, monkeypatch):
    """With CUDA_VISIBLE_DEVICES set and no GPU to be seen, the variable is named."""
    fake_cuda(count=0, error=RuntimeError("No CUDA GPUs are available"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.probe("cuda").reason == (
        "no GPU is visible with CUDA_VISIBLE_DEVICES='': unset the variable, or name a GPU that exists"
    )


@pytest.mark.parametrize(
    ("count", "visible", "reason"),
    [
        (1, None, "it does not exist: torch sees cuda:0"),
        (2, None, "it does not exist: torch sees cuda:0 to cuda:1"),
        (2, "4,5", "it does not exist: torch sees cuda:0 to cuda:1 with CUDA_VISIBLE_DEVICES='4,5'"),
    ],
)
def test_index_out_of_range_says_what_there_is(fake_cuda, monkeypatch, count, visible, reason):
    """An index beyond the last GPU is answered with the GPUs that torch sees."""
    fake_cuda(count=count)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.probe("cuda:2") == devices.Probe("cuda:2", False, reason)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device"),
            "its compute capability 7.0 is not among those that torch 2.14.1+cu130 is built for (sm_80, sm_90): "
            "install a build that covers it",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
            "it is out of memory (0.5 of 16.0 GiB free): end the processes that hold it",
        ),
        (
            RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
            "another process holds it for itself alone: end that process, or allow shared use of the GPU",
        ),
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be"),
            "a small computation fails with RuntimeError: CUDA error: uncorrectable ECC error encountered",
        ),
    ],
    ids=["capability", "memory", "exclusive", "other"],
)
def test_gpu_that_runs_no_kernel_is_explained(fake_cuda, error, reason):
    """A GPU that is there and runs no kernel is unusable, for the reason that the kernel met."""
    fake_cuda(faults={"cuda:0": error})
    assert devices.probe("cuda:0") == devices.Probe("cuda:0", False, reason)


def test_gpu_that_computes_wrong_values_is_marked(fake_cuda):
    """A GPU whose results are wrong is unusable and marked as wrong."""
    fake_cuda(faults={"cuda:0": "it computes wrong values"})
    assert devices.probe("cuda:0") == devices.Probe("cuda:0", False, "it computes wrong values", wrong=True)


def test_memory_that_cannot_be_read_is_left_out(fake_cuda, monkeypatch):
    """Out of memory is said without figures where reading them fails too."""
    fake_cuda(faults={"cuda:0": torch.OutOfMemoryError("CUDA out of memory")})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: 1 / 0 if device is None else _raise())
    assert devices.probe("cuda:0").reason == "it is out of memory: end the processes that hold it"


def _raise():
    raise RuntimeError("CUDA error: initialization error")


@pytest.mark.parametrize(
    ("name", "title"), [("xpu", "XPU"), ("mps", "MPS"), ("mtia", "MTIA"), ("hpu", "HPU"), ("xla", "XLA")]
)
def test_other_backend_that_is_not_built_says_so(no_cuda, name, title):
    """A backend that this torch lacks is named, whichever of torch's errors stands for that."""
    assert devices.probe(name).reason == (
        f"torch 2.13.0+cpu is built without {title}: install a build of torch that has it"
    )


def test_accelerator_without_a_device_says_so(monkeypatch, fresh_probes):
    """A build for another accelerator on a machine without it says so, with the variable that may hide it."""
    monkeypatch.setattr(torch, "__version__", "2.13.0+xpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    monkeypatch.setenv("ZE_AFFINITY_MASK", "9")
    assert devices.select(["auto"])[1] == devices.Probe(
        "xpu", False, "torch 2.13.0+xpu supports xpu but sees no such device with ZE_AFFINITY_MASK='9'"
    )


def test_warnings_of_a_probe_do_not_raise(fake_cuda, monkeypatch):
    """What torch warns about while it looks for devices does not raise, even where warnings are errors."""
    fake_cuda(count=1)

    def warn():
        warnings.warn("CUDA initialization: the driver is odd", UserWarning, stacklevel=1)
        return 1

    monkeypatch.setattr(torch.accelerator, "device_count", warn)
    assert devices.count("cuda") == 1
    assert devices.probe("cuda:0").usable


def test_count_is_zero_where_counting_fails(fake_cuda, monkeypatch):
    """A backend that cannot count its devices has none; the probe tells why."""
    fake_cuda()
    monkeypatch.setattr(torch.accelerator, "device_count", _raise)
    assert devices.count("cuda") == 0
    assert devices.count("cpu") == 1
    assert devices.count("hpu") == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["auto"], ["cpu", "cuda:0", "cuda:1"]),
        (["all"], ["cpu", "cuda:0", "cuda:1"]),
        (["cuda"], ["cuda:0", "cuda:1"]),
        (["cuda:1"], ["cuda:1"]),
        (["cuda:1", "cpu"], ["cuda:1", "cpu"]),
        (["cuda:1", "cuda"], ["cuda:1", "cuda:0"]),
        (["cpu:0", "cpu", "auto"], ["cpu", "cuda:0", "cuda:1"]),
        ([], []),
    ],
)
def test_names_select_devices_in_order_and_once(fake_cuda, names, expected):
    """Groups and types stand for all their devices; each device comes once, where it is first named."""
    fake_cuda(count=2)
    assert [found.name for found in devices.select(names)] == expected


def test_auto_keeps_a_broken_gpu_with_its_reason(fake_cuda):
    """A GPU that does not work stays in the selection, unusable, beside one that does."""
    fake_cuda(count=2, faults={"cuda:1": "it computes wrong values"})
    assert [(found.name, found.usable) for found in devices.select(["auto"])] == [
        ("cpu", True),
        ("cuda:0", True),
        ("cuda:1", False),
    ]


def test_auto_without_accelerator_shows_cuda_and_all_does_not(no_cuda):
    """On a machine without accelerator, auto has an unusable cuda with the reason; all has the CPU alone."""
    assert devices.select(["auto"]) == [devices.probe("cpu"), devices.Probe("cuda", False, NO_CUDA)]
    assert devices.select(["all"]) == [devices.probe("cpu")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cud", f"there is no device named 'cud' (did you mean 'cuda'?); {VALID}"),
        ("CUDA:1", f"there is no device named 'CUDA:1' (did you mean 'cuda'?); {VALID}"),
        ("autp", f"there is no device named 'autp' (did you mean 'auto'?); {VALID}"),
        ("gpu", f"there is no device named 'gpu' (did you mean 'cuda'?); {VALID}"),
        ("gpu99x", f"there is no device named 'gpu99x'; {VALID}"),
        ("", f"there is no device named ''; {VALID}"),
        ("cuda:", "'cuda:' has no valid index: write cuda:0 for the first cuda device"),
        ("cuda:one", "'cuda:one' has no valid index: write cuda:0 for the first cuda device"),
        ("cuda:-1", "'cuda:-1' has no valid index: write cuda:0 for the first cuda device"),
        ("cpu:1", "cpu:1 does not exist: the host is one device, cpu"),
        ("meta", "meta is no device to run on: its tensors have a shape and no data; name another"),
    ],
)
def test_name_that_is_no_device_is_refused(no_cuda, name, message):
    """A name that is no device's raises DeviceError with what is valid."""
    with pytest.raises(devices.DeviceError) as caught:
        devices.select([name])
    assert str(caught.value) == message


def test_backend_from_outside_torch_is_a_valid_name(monkeypatch, no_cuda):
    """A renamed private backend is a valid device type without being named in the code."""
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "mychip")
    assert devices.device_types()[-1] == "mychip"
    assert devices.device_types().count("mychip") == 1


def test_torch_26_without_accelerator_is_understood(monkeypatch, fresh_probes):
    """torch 2.6 raises where later releases return None for a build without accelerator."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", _raise)
    assert devices.accelerator() is None


def test_require_returns_a_device_that_works(no_cuda):
    """require() hands out a torch.device or raises with the probe's reason."""
    assert devices.require("cpu:0") == torch.device("cpu")
    with pytest.raises(devices.DeviceError) as caught:
        devices.require("cuda")
    assert str(caught.value) == f"cuda cannot be used: {NO_CUDA}"


def test_synchronize_waits_for_the_device_asked_for(fake_cuda, monkeypatch):
    """The accelerator is waited for by device, another backend by its own module, the CPU not at all."""
    fake_cuda()
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    monkeypatch.setattr(torch.xpu, "synchronize", lambda: waited.append("xpu"))
    for name in ("cpu", "meta", "cuda:1", "xpu", "hpu"):
        devices.synchronize(name)
    assert waited == [torch.device("cuda:1"), "xpu"]


def test_backend_without_queues_needs_no_waiting(fake_cuda, monkeypatch):
    """A backend that says it cannot synchronize has queued nothing; any other error is one."""
    fake_cuda()

    def fail(device):
        raise RuntimeError(text)

    monkeypatch.setattr(torch.accelerator, "synchronize", fail)
    text = "Backend doesn't support synchronizing all streams on device."
    devices.synchronize("cuda:0")
    text = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        devices.synchronize("cuda:0")


def test_late_error_that_passes_is_a_fault(fake_cuda, monkeypatch):
    """An error that surfaces on waiting, once, is a fault of a device that is not lost."""
    fake_cuda()
    errors = [RuntimeError("CUDA error: invalid configuration argument\nmore")]
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: _raise_next(errors))
    with pytest.raises(devices.DeviceFault) as caught:
        devices.settle("cuda:0")
    assert not caught.value.lost
    assert str(caught.value) == (
        "work that this test queued on cuda:0 failed there: CUDA error: invalid configuration argument\n"
        "  cuda:0 still answers; later tests are not affected"
    )


def test_late_error_that_stays_means_a_lost_device(fake_cuda, monkeypatch):
    """An error that every wait repeats means that the device is lost to the process."""
    fake_cuda()
    errors = [RuntimeError("CUDA error: device-side assert triggered")] * 2
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: _raise_next(errors))
    with pytest.raises(devices.DeviceFault) as caught:
        devices.settle("cuda:0")
    assert caught.value.lost
    assert str(caught.value) == (
        "work that this test queued on cuda:0 failed there: CUDA error: device-side assert triggered\n"
        "  cuda:0 is lost to this process: whatever uses it from now on fails too\n"
        "  next: rerun this test alone with CUDA_LAUNCH_BLOCKING=1 to see the line, "
        "and the others with --torchcheck-isolate=yes"
    )


def _raise_next(errors):
    if errors:
        raise errors.pop()


def test_settle_is_silent_on_a_healthy_device():
    """Waiting for a device without errors returns nothing and raises nothing."""
    assert devices.settle("cpu") is None


def test_gpu_is_described_with_units_and_versions(fake_cuda, monkeypatch, tmp_path):
    """A GPU's description holds hardware, memory in bytes, compute capability, runtime and driver."""
    fake_cuda()
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n", encoding="utf-8")
    monkeypatch.setattr(device_facts, "NVIDIA_DRIVER", driver)
    assert devices.describe("cuda:0") == {
        "name": "cuda:0",
        "type": "cuda",
        "hardware": "Fake V100",
        "total_memory_bytes": 2**34,
        "compute_capability": "7.0",
        "runtime_version": "13.0",
        "driver_version": "550.54.15",
    }


def test_what_cannot_be_read_is_left_out(fake_cuda, monkeypatch, tmp_path):
    """A backend that tells nothing about its device is described by name and type."""
    fake_cuda()
    monkeypatch.setattr(device_facts, "NVIDIA_DRIVER", tmp_path / "missing")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: _raise())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: _raise())
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices.describe("cuda:0") == {"name": "cuda:0", "type": "cuda"}


def test_free_memory_is_read_where_a_backend_tells_it(fake_cuda, monkeypatch):
    """Free memory comes in bytes, from the host, the backend or torch.accelerator, and is None elsewhere."""
    fake_cuda()
    assert 0 < devices.free_memory_bytes("cpu") <= devices.describe("cpu")["total_memory_bytes"]
    assert devices.free_memory_bytes("cuda:0") == 2**29
    monkeypatch.delattr(torch.cuda, "mem_get_info")
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (7, 9), raising=False)
    assert devices.free_memory_bytes("cuda:0") == 7
    monkeypatch.delattr(torch.accelerator, "get_memory_info")
    assert devices.free_memory_bytes("cuda:0") is None


def test_host_memory_is_estimated_without_proc(monkeypatch, tmp_path):
    """Without /proc the host's free pages count, and without those nothing is said."""
    monkeypatch.setattr(device_facts, "MEMINFO", tmp_path / "missing")
    monkeypatch.setattr(device_facts.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 5, "SC_PAGE_SIZE": 4096}[name])
    assert devices.free_memory_bytes("cpu") == 20480
    monkeypatch.delattr(device_facts.os, "sysconf")
    assert devices.free_memory_bytes("cpu") is None


def test_cpu_is_named_without_proc(monkeypatch, tmp_path):
    """Where there is no /proc/cpuinfo, the platform's own word for the CPU has to do."""
    monkeypatch.setattr(device_facts, "CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(device_facts.platform, "processor", lambda: "")
    monkeypatch.setattr(device_facts.platform, "machine", lambda: "arm64")
    assert devices.describe("cpu")["hardware"] == "arm64"


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "float8_e4m3fn", "complex64", "int8", "bool"])
def test_dtype_that_computes_has_no_reason_against_it(name):
    """A dtype that converts, and multiplies where it can, works on the CPU."""
    assert devices.why_no_dtype(name, "cpu") is None


def test_dtype_that_does_not_compute_is_explained(monkeypatch):
    """A dtype may be unknown to torch, refused by the device, or compute wrong values."""
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    assert devices.why_no_dtype("float3", "cpu") == "torch 2.13.0 has no dtype float3"
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda left, right: left)
    assert devices.why_no_dtype("bfloat16", "cpu") == (
        "bfloat16 computes wrong values on cpu: [0.0, 1.0, 2.0, 4.0] instead of [2.0, 4.0, 8.0, 18.0]"
    )
    monkeypatch.setattr(torch.Tensor, "__matmul__", _refuse)
    assert devices.why_no_dtype("float64", "cpu") == "float64 does not work on cpu: no float64 here"


def _refuse(left, right):
    raise TypeError("no float64 here\nreally")


def test_process_group_that_is_missing_is_explained(fake_cuda, monkeypatch):
    """A backend is missing from the build, lacks the device that it needs, or torch.distributed is not there."""
    fake_cuda(count=0, error=RuntimeError("No CUDA GPUs are available"))
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda name: name != "mpi", raising=False)
    assert devices.why_no_process_group("gloo") is None
    assert devices.why_no_process_group("mpi") == ("torch 2.14.1+cu130 is built without the process-group backend mpi")
    assert devices.why_no_process_group("nccl") == (
        "nccl needs a cuda device: no GPU is visible: give this machine or container one "
        "(nvidia-smi or rocminfo must list it)"
    )
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    assert devices.why_no_process_group("gloo") == "torch 2.14.1+cu130 is built without torch.distributed"
