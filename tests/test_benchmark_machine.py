"""What is recorded of a GPU, from a made-up torch and a made-up management library; peaks and clocks of it."""

from __future__ import annotations

import os
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pytest_torchcheck import state
from pytest_torchcheck.benchmark import clocks, machine, nvml, peaks

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that makes cuda:0 a device with these properties."""

    def fake(**properties):
        found = SimpleNamespace(**{"name": H100, "uuid": "1234", **properties})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)

    return fake


@pytest.fixture
def library(monkeypatch):
    """A management library that knows one GPU; tests change what it says."""
    module = ModuleType("pynvml")
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda name: {"GPU-1234": 7}[name],
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1755, 2: 2619}[kind],
        "nvmlDeviceGetEccMode": lambda handle: (1, 1),
        "nvmlDeviceGetMigMode": lambda handle: (0, 0),
        "nvmlSystemGetDriverVersion": lambda: b"570.1",
        "nvmlDeviceGetPowerUsage": lambda handle: 612_300,
        "nvmlDeviceGetTemperature": lambda handle, kind: 64,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x04,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=os.getpid())],
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_static_facts_of_a_gpu(library):
    """Power limit in watts, largest clocks, ECC, MIG and driver are read."""
    assert nvml.static("1234") == {
        "power_limit_w": 700.0,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
        "ecc": True,
        "mig": False,
        "driver_version": "570.1",
    }


def test_state_of_a_gpu(library):
    """Clocks, power, temperature and company are read; running at the power cap is not being throttled."""
    assert nvml.volatile("1234") == {
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619,
        "power_w": 612.3,
        "temperature_c": 64,
        "throttle_reasons": [],
        "power_capped": True,
        "other_processes": 0,
    }


def test_throttling_is_named(library):
    """Each bit that slows a device down is told by name."""
    library.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x08 | 0x20 | 0x40 | 0x80 | 0x01
    assert nvml.volatile("1234")["throttle_reasons"] == [
        "hardware slowdown",
        "software thermal slowdown",
        "hardware thermal slowdown",
        "power brake",
    ]


@pytest.mark.parametrize(
    ("pids", "others"), [([], 0), ([os.getpid()], 0), ([os.getpid(), 1], 1), ([99999], 0), ([99998, 99999], 1)]
)
def test_own_process_is_no_company(library, pids, others):
    """Our own process does not count, also where a container shows it under another number."""
    library.nvmlDeviceGetComputeRunningProcesses = lambda handle: [SimpleNamespace(pid=pid) for pid in pids]
    assert nvml.volatile("1234")["other_processes"] == others


def test_what_cannot_be_read_is_left_out(library):
    """An error of the library, an old library and an unknown GPU cost their fact, not the run."""

    def unsupported(*_):
        raise RuntimeError("Not Supported")

    library.nvmlDeviceGetEccMode = library.nvmlDeviceGetMigMode = unsupported
    del library.nvmlDeviceGetCurrentClocksEventReasons
    library.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x40
    assert not nvml.static("1234").keys() & {"ecc", "mig"}
    assert nvml.volatile("1234")["throttle_reasons"] == ["hardware thermal slowdown"]
    assert nvml.static("other") == nvml.volatile("other") == nvml.static(None) == {}


def test_without_the_library_nothing_is_known(monkeypatch):
    """Where nvidia-ml-py is not installed there are no such facts."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.static("1234") == nvml.volatile("1234") == {}


def test_facts_of_a_device_are_torch_and_library_together(gpu, library, fake_cuda):
    """The machine's facts have what torch and the management library know of a GPU; of the CPU what reports have."""
    from pytest_torchcheck.devices import probe

    fake_cuda()
    gpu(multi_processor_count=132, L2_cache_size=52428800, total_memory=2**36, major=9, minor=0)
    cpu, found = machine.static_facts([probe("cpu"), probe("cuda:0")])["devices"]
    assert "uuid" not in cpu
    assert (found["hardware"], found["uuid"], found["multiprocessors"]) == (H100, "1234", 132)
    assert (found["l2_cache_bytes"], found["power_limit_w"], found["mig"]) == (52428800, 700.0, False)
    assert machine.volatile_facts("cuda:0")["temperature_c"] == 64
    assert machine.volatile_facts("cpu") == {}


def test_every_peak_has_a_source():
    """Each row of the table names its source, and no device's name matches two rows."""
    for row in peaks.TABLE:
        assert row.source
        assert all(value > 0 for value in row.tflop_per_s.values())
    names = [H100, "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "NVIDIA L40S"]
    names += ["NVIDIA L4", "NVIDIA A10", "Tesla V100-SXM2-32GB", "Tesla T4"]
    for name in names:
        assert sum(bool(re.fullmatch(row.name, name)) for row in peaks.TABLE) == 1, name


@pytest.mark.parametrize("name", ["NVIDIA H100 NVL", "NVIDIA L40", "NVIDIA A10G", "Fake V100", None])
def test_unknown_device_has_no_peak(name):
    """A name that is not on record has no peak, however much it looks like one that is."""
    assert peaks.arithmetic(name, "float16") is None


def test_dtype_without_a_published_rate_has_no_peak():
    """A T4 computes in bfloat16 without a published rate; nothing is guessed."""
    assert peaks.arithmetic("Tesla T4", "bfloat16") is None
    assert peaks.arithmetic(H100, "bfloat16").per_s == 989.4e12


def test_bandwidth_is_bus_width_times_clock(gpu):
    """5120 bits at 2619 MHz, twice per cycle, are 3.35 TB/s; unknown parts make it unknown."""
    gpu(memory_bus_width=5120, memory_clock_rate=2619000)
    assert peaks.bandwidth("cuda:0").per_s == pytest.approx(3.352e12, rel=1e-3)
    gpu()
    assert peaks.bandwidth("cuda:0") is None
    assert peaks.bandwidth("cpu") is None


def test_share_is_that_of_the_nearer_peak(gpu):
    """Of arithmetic and bandwidth the larger share counts, with its source."""
    gpu(memory_bus_width=5120, memory_clock_rate=2619000)
    share, source = peaks.share("cuda:0", "bfloat16", 989.4e12 / 2, 1e12)
    assert share == pytest.approx(0.5)
    assert "whitepaper" in source
    share, source = peaks.share("cuda:0", "bfloat16", 1e12, 3e12)
    assert share == pytest.approx(0.895, abs=1e-3)
    assert "bus width" in source
    assert peaks.share("cuda:0", "bfloat16", None, None) == (None, None)


@pytest.mark.parametrize(("precision", "tflops"), [("highest", 66.9), ("high", 494.7)])
def test_float32_has_the_peak_of_its_mode(gpu, precision, tflops):
    """float32 products are measured against TF32 where torch may use it, and only there."""
    gpu()
    with state.preserved():
        torch.set_float32_matmul_precision(precision)
        share, _ = peaks.share("cuda:0", "float32", tflops * 1e12, None)
    assert share == pytest.approx(1)


@pytest.mark.parametrize(("allowed", "expected"), [(True, 94.6 / 494.7), (False, 94.6 / 66.9)])
def test_float32_that_outruns_its_units_ran_on_those_for_tf32(gpu, allowed, expected):
    """A convolution at 94.6 TFLOP/s, as an H100 does, is no impossible result where cuDNN may use TF32."""
    gpu()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
        assert peaks.share("cuda:0", "float32", 94.6e12, None)[0] == pytest.approx(expected)
        assert peaks.share("cuda:0", "float32", 33.45e12, None)[0] == pytest.approx(0.5)


class FakeEvent:
    """Stands for torch.Event: counts up by 2 ms from event to event."""

    ticks = 0

    def __init__(self, device=None, enable_timing=False):
        assert enable_timing
        self.device = device

    def record(self):
        FakeEvent.ticks += 2
        self.time_ms = FakeEvent.ticks

    def elapsed_time(self, end):
        return float(end.time_ms - self.time_ms)


def test_event_clock_reads_seconds(monkeypatch):
    """Two events that are 2 ms apart are 0.002 s apart, and the write before each round has twice the cache's size."""
    monkeypatch.setattr(torch, "Event", FakeEvent)
    monkeypatch.setattr(clocks.machine, "properties", lambda device: SimpleNamespace(L2_cache_size=1000))
    clock = clocks.device_clock(torch.device("cpu"))
    assert clock.time_rounds(lambda: None, 3, 1) == pytest.approx([0.002] * 3)
    assert clocks.flush_bytes(torch.device("cpu")) == 2000
    assert clock.flush().numel() == 2000


def test_event_clock_is_chosen_for_a_device_with_events(monkeypatch):
    """A device whose events tell times gets the device clock; one whose events raise the host's."""
    monkeypatch.setattr(torch, "Event", FakeEvent)
    monkeypatch.setattr(clocks, "synchronize", lambda device: None)
    monkeypatch.setattr(clocks, "device_clock", lambda device: "the device's clock")
    assert clocks.clock_of(torch.device("cuda:0")) == "the device's clock"
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda *_: (_ for _ in ()).throw(NotImplementedError))
    assert clocks.clock_of(torch.device("cuda:0")).name == "host"
