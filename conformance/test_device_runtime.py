"""The runtime around tensors: the current device, queued work, and memory."""

from __future__ import annotations

import gc

import pytest
import torch

from .support.numeric import assert_matches

MIB = 2**20


@pytest.fixture
def runtime(device: torch.device):
    """The module of the device's backend (torch.cuda, torch.xpu, torch.mps, ...)."""
    if device.type == "cpu":
        pytest.skip("the cpu has no queue, no index and no statistics; select an accelerator to have it checked")
    return torch.get_device_module(device)


def index_context(runtime, index: int):
    """Return the backend's own context that selects a device by index."""
    if not hasattr(runtime, "device"):
        pytest.skip(f"{runtime.__name__} has a single device and no context to select one")
    return runtime.device(index)


@pytest.mark.behavior("device.context")
def test_context_selects_and_restores(device, runtime):
    """Inside device(i) device i is current and bare names mean it; afterwards the former one is current again."""
    former = runtime.current_device()
    for index in range(runtime.device_count()):
        with index_context(runtime, index):
            assert runtime.current_device() == index
            assert torch.zeros(1, device=device.type).device.index == index
        assert runtime.current_device() == former
    assert torch.ones(1, device=device).add(1).item() == 2


def wander(runtime, device: torch.device) -> None:
    """Change the current device within nested contexts and leave them by an exception."""
    last = runtime.device_count() - 1
    with index_context(runtime, last):
        with index_context(runtime, 0):
            assert torch.zeros(1, device=device.type).device.index == 0
        assert runtime.current_device() == last
        runtime.set_device(0)
        raise ZeroDivisionError


@pytest.mark.behavior("device.context")
def test_contexts_nest_and_undo_what_was_set_inside(device, runtime):
    """Nested contexts, a set_device inside one, and an exception: leaving restores the device that was current."""
    former = runtime.current_device()
    with pytest.raises(ZeroDivisionError):
        wander(runtime, device)
    assert runtime.current_device() == former


@pytest.mark.behavior("device.context")
def test_negative_index_selects_nothing(device):
    """torch.cuda.device(-1) changes nothing, with CUDA or without: tensors go where they would have gone."""
    with torch.cuda.device(-1), torch.cuda.device(torch.device("cuda", 0) if torch.cuda.is_available() else -1):
        x = torch.arange(3, device=device)
        assert torch.zeros(1).device.type == "cpu"
    assert_matches(x + 1, [1, 2, 3], device=device)
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.behavior("device.context")
def test_exceptions_pass_through_the_context(device):
    """The context does not swallow an exception raised inside it."""
    with pytest.raises(RuntimeError, match="3 and 2|shape|size"):
        with torch.cuda.device(-1):
            torch.zeros(3, device=device) + torch.zeros(2, device=device)


def queue_work(device: torch.device) -> torch.Tensor:
    """Queue some tenths of a second of work; every element of the result is 2.0."""
    ones = torch.ones(4096, 4096, device=device)
    half = torch.full_like(ones, 0.5 / 4096)
    for _ in range(60):
        ones = (ones @ half) * 2  # a matrix of ones again, exactly
    return ones + 1


@pytest.mark.behavior("device.async")
def test_work_is_queued_and_synchronize_waits(device, runtime):
    """Calls return while work is pending: an event after it is not done at once, and is done after synchronize()."""
    queue_work(device)  # load the kernels first
    runtime.synchronize()
    after = torch.Event(device)
    result = queue_work(device)
    after.record()
    pending = not after.query()
    runtime.synchronize()
    assert pending, "the device had finished before the call that queued the work returned"
    assert after.query()
    assert_matches(result[::1000, ::1000], [[2.0] * 5] * 5, device=device)


@pytest.mark.behavior("device.async")
def test_reading_a_value_waits_for_it(device, runtime):
    """item() and cpu() return the finished result without an explicit synchronize()."""
    for read in (lambda x: x[-1, -1].item(), lambda x: x.cpu()[-1, -1].item()):
        assert read(queue_work(device)) == 2.0


@pytest.mark.behavior("device.async")
def test_events_measure_the_time_between_them(device, runtime):
    """Events around work measure a positive time, and the longer work the longer time."""
    queue_work(device)
    marks = [torch.Event(device, enable_timing=True) for _ in range(3)]
    marks[0].record()
    torch.ones(1, device=device).add_(1)
    marks[1].record()
    queue_work(device)
    marks[2].record()
    marks[2].synchronize()
    short, long = marks[0].elapsed_time(marks[1]), marks[1].elapsed_time(marks[2])
    assert 0 <= short < long
    assert marks[0].elapsed_time(marks[2]) == pytest.approx(short + long, rel=0.01, abs=0.05)


@pytest.mark.behavior("device.async")
def test_streams_wait_for_one_another(device, runtime):
    """A stream told to wait for another reads what the other wrote."""
    if not hasattr(runtime, "Stream"):
        pytest.skip(f"{runtime.__name__} has a single stream")
    side, main = runtime.Stream(device), runtime.current_stream(device)
    source = queue_work(device)
    side.wait_stream(main)
    with runtime.stream(side):
        doubled = source * 2
    main.wait_stream(side)
    assert_matches(doubled[::2000, ::2000], [[4.0] * 3] * 3, device=device)


def allocated(runtime) -> int:
    """Return the bytes that live tensors hold on the device."""
    count = getattr(runtime, "memory_allocated", None) or getattr(runtime, "current_allocated_memory", None)
    if count is None:
        pytest.skip(f"{runtime.__name__} keeps no allocation statistics")
    gc.collect()
    runtime.synchronize()
    return count()


@pytest.mark.behavior("device.memory")
def test_statistics_rise_and_fall_with_a_tensor(device, runtime):
    """Allocated memory rises by a tensor's size when it is made and returns to the former value when it goes."""
    before = allocated(runtime)
    tensor = torch.empty(64 * MIB, dtype=torch.uint8, device=device)
    # allocators round sizes up: the CUDA allocator to blocks of at most 2 MiB
    assert 64 * MIB <= allocated(runtime) - before <= 66 * MIB
    view = tensor[:10]
    del tensor
    assert allocated(runtime) - before >= 64 * MIB, "a view must keep its storage alive"
    del view
    assert allocated(runtime) == before


@pytest.mark.behavior("device.memory")
def test_peak_statistics_keep_the_highest_value(device, runtime):
    """max_memory_allocated() keeps the peak after the tensor is gone, until it is reset."""
    if not hasattr(runtime, "reset_peak_memory_stats"):
        pytest.skip(f"{runtime.__name__} keeps no peak statistics")
    before = allocated(runtime)
    runtime.reset_peak_memory_stats()
    torch.empty(32 * MIB, dtype=torch.uint8, device=device)
    assert runtime.max_memory_allocated() >= before + 32 * MIB
    runtime.reset_peak_memory_stats()
    assert runtime.max_memory_allocated() == before


@pytest.mark.behavior("device.memory")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64], ids=str)
def test_an_impossible_allocation_raises(device, dtype):
    """Asking for more memory than any machine has raises (OutOfMemoryError on accelerators) in every factory."""
    expected = RuntimeError if device.type in ("cpu", "mps") else torch.OutOfMemoryError
    keywords = {"dtype": dtype, "device": device}
    for make in (torch.empty, torch.zeros, torch.ones):
        with pytest.raises(expected, match="memory|alloc|buffer size"):
            make(2**56, **keywords)
    with pytest.raises(expected, match="memory|alloc|buffer size"):
        torch.zeros(1, **keywords).expand(2**56).contiguous()


@pytest.mark.behavior("device.memory")
def test_the_device_works_after_a_failed_allocation(device):
    """After the error the device computes as before, and tensors made earlier are intact."""
    earlier = torch.arange(1000, device=device)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            torch.empty(2**56, device=device)
    later = torch.ones(1000, dtype=torch.int64, device=device).cumsum(0)
    assert_matches(earlier + later, (2 * torch.arange(1000) + 1).tolist(), device=device)


@pytest.mark.behavior("device.memory")
def test_a_failed_allocation_leaks_nothing(device, runtime):
    """A failed allocation leaves the statistics where they were."""
    before = allocated(runtime)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            torch.empty(2**56, dtype=torch.uint8, device=device)
    assert allocated(runtime) == before
