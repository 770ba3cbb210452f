"""Snapshot and restore of torch's global state: every piece is named when it changed, and put back."""

import contextvars
import os
import random
import time
import warnings

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_torchcheck import state, state_flags, state_parts, state_precision, state_process


class Watching(TorchFunctionMode):
    """A function mode that changes nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Counting(TorchDispatchMode):
    """A dispatch mode that changes nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def log_call(*args):
    """Be a hook that does nothing."""


def pack(tensor):
    """Be a saved-tensor hook that changes nothing."""
    return tensor


KEPT = []


def enter(context):
    """Enter a context and forget to leave it; some leave by themselves when nothing refers to them any more."""
    KEPT.append(context)
    context.__enter__()


MODULE = torch.nn.modules.module
BACKENDS = torch.backends

# What a test may do and forget to undo, and what is said about it: all of it, in this order.
LEAKS = {
    "default dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        ["default dtype: torch.float32 -> torch.float64"],
    ),
    "default device": (lambda: torch.set_default_device("meta"), ["default device: None -> meta"]),
    "device context": (lambda: enter(torch.device("meta")), ["torch function modes: none -> DeviceContext"]),
    "device context on default device": (
        lambda: (torch.set_default_device("cpu"), enter(torch.device("meta"))),
        ["torch function modes: none -> DeviceContext", "default device: None -> cpu"],
    ),
    "function mode": (lambda: enter(Watching()), ["torch function modes: none -> Watching"]),
    "function mode on default device": (
        lambda: (enter(Watching()), torch.set_default_device("meta")),
        ["torch function modes: none -> Watching", "default device: None -> meta"],
    ),
    "dispatch modes": (
        lambda: (enter(Counting()), enter(Counting())),
        ["torch dispatch modes: none -> Counting, Counting"],
    ),
    "grad mode": (lambda: torch.set_grad_enabled(False), ["grad mode: True -> False"]),
    "no_grad": (lambda: enter(torch.no_grad()), ["grad mode: True -> False"]),
    "inference mode": (lambda: enter(torch.inference_mode()), ["inference mode: False -> True"]),
    "multithreaded backward": (
        lambda: torch.autograd.set_multithreading_enabled(False),
        ["multithreaded backward: True -> False"],
    ),
    "forward-mode gradients": (
        lambda: torch._C._set_fwd_grad_enabled(False),
        ["forward-mode gradients: True -> False"],
    ),
    "view replay": (lambda: torch._C._set_view_replay_enabled(True), ["view replay: False -> True"]),
    "anomaly detection": (
        lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
        ["anomaly detection: False -> True", "anomaly detection, check_nan: True -> False"],
    ),
    "saved tensor hooks disabled": (
        lambda: enter(torch.autograd.graph.disable_saved_tensors_hooks("not here")),
        ["saved tensor hooks disabled: None -> 'not here'"],
    ),
    "deterministic": (
        lambda: torch._C._set_deterministic_algorithms(True, warn_only=True),
        ["deterministic algorithms: False -> True", "deterministic algorithms, warn_only: False -> True"],
    ),
    "fill": (
        lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
        ["torch.utils.deterministic.fill_uninitialized_memory: True -> False"],
    ),
    "autocast": (
        lambda: enter(torch.autocast("cpu", dtype=torch.float16, cache_enabled=False)),
        [
            "autocast on cpu: False -> True",
            "autocast on cpu, dtype: torch.bfloat16 -> torch.float16",
            "autocast cache: True -> False",
        ],
    ),
    "denormals": (lambda: torch.set_flush_denormal(True), ["denormals flushed to zero: False -> True"]),
    "cudnn": (
        lambda: [
            setattr(BACKENDS.cudnn, name, name != "enabled") for name in ("enabled", "benchmark", "deterministic")
        ],
        [
            "torch.backends.cudnn.enabled: True -> False",
            "torch.backends.cudnn.benchmark: False -> True",
            "torch.backends.cudnn.deterministic: False -> True",
        ],
    ),
    "onednn": (
        lambda: (setattr(BACKENDS.mkldnn, "enabled", False), setattr(BACKENDS.mkldnn, "deterministic", True)),
        [
            "torch.backends.mkldnn.enabled: True -> False",
            "torch.backends.mkldnn.deterministic: False -> True",
        ],
    ),
    "attention kernels": (
        lambda: enter(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)),
        [
            "torch.backends.cuda.flash_sdp_enabled: True -> False",
            "torch.backends.cuda.mem_efficient_sdp_enabled: True -> False",
            "torch.backends.cuda.cudnn_sdp_enabled: True -> False",
        ],
    ),
    "fast path of attention": (
        lambda: torch.backends.mha.set_fastpath_enabled(False),
        ["torch.backends.mha.fastpath_enabled: True -> False"],
    ),
    "threads": (
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        [f"intra-op threads: {torch.get_num_threads()} -> {torch.get_num_threads() + 1}"],
    ),
    "print options": (
        lambda: torch.set_printoptions(precision=2, sci_mode=True),
        [
            "print options (precision, threshold, edgeitems, linewidth, sci_mode): "
            "(4, 1000, 3, 80, None) -> (2, 1000, 3, 80, True)"
        ],
    ),
    "warn always": (lambda: torch.set_warn_always(True), ["torch.is_warn_always_enabled: False -> True"]),
    "sparse invariants": (
        torch.sparse.check_sparse_tensor_invariants.enable,
        ["torch.sparse.check_sparse_tensor_invariants: False -> True"],
    ),
    "swapped parameters": (
        lambda: torch.__future__.set_swap_module_params_on_conversion(True),
        ["torch.__future__.swap_module_params_on_conversion: False -> True"],
    ),
    "forward hook": (
        lambda: MODULE.register_module_forward_hook(log_call, always_call=True),
        ["forward hooks of every module: none -> log_call"],
    ),
    "backward hook": (
        lambda: MODULE.register_module_full_backward_hook(log_call),
        ["backward hooks of every module: none -> log_call"],
    ),
    "optimizer hook": (
        lambda: register_optimizer_step_post_hook(log_call),
        ["post hooks of every optimizer: none -> log_call"],
    ),
    "profiler": (
        lambda: enter(torch.autograd.profiler.profile(use_kineto=False)),
        ["profiler running: False -> True"],
    ),
    "environment variable set": (
        lambda: os.environ.__setitem__("NCCL_DEBUG", "INFO"),
        ["environment variable NCCL_DEBUG: not set -> 'INFO'"],
    ),
    "environment variable changed": (
        lambda: os.environ.__setitem__("OMP_TEST_SETTING", "two"),
        ["environment variable OMP_TEST_SETTING: 'one' -> 'two'"],
    ),
    "environment variable removed": (
        lambda: os.environ.__delitem__("OMP_TEST_SETTING"),
        ["environment variable OMP_TEST_SETTING: 'one' -> not set"],
    ),
}


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    """Give every test a watched variable, and keep what a failing test leaks from the others."""
    monkeypatch.setenv("OMP_TEST_SETTING", "one")
    with state.preserved():
        yield


def test_order_that_torch_itself_gives_attention_stays():
    """On a GPU that cuDNN's attention is fast on, torch puts it first at its first use; any other change is a leak."""
    order = [1, 2, 0, 3, 4]

    def put(new):
        order[:] = new

    part = state_flags.AttentionOrder("order of attention kernels", lambda: list(order), put)
    before = list(order)
    put([3, 1, 2, 0, 4])
    assert [part.restore(before, list(order)) for _ in range(2)] == [[], []]
    assert order == [3, 1, 2, 0, 4]
    put([0, 3, 1, 2, 4])
    assert part.restore([3, 1, 2, 0, 4], list(order)) == [
        "order of attention kernels: [3, 1, 2, 0, 4] -> [0, 3, 1, 2, 4]"
    ]
    assert order == [3, 1, 2, 0, 4]


@pytest.mark.parametrize(("leak", "expected"), LEAKS.values(), ids=LEAKS)
def test_leak_is_named_and_put_back(leak, expected):
    """A change that was not undone is named in full, and afterwards everything reads as before."""
    found = state.snapshot()
    leak()
    assert state.restore(found) == expected
    assert state.snapshot().values == found.values
    assert state.restore(found) == []


@pytest.mark.parametrize("name", [name for name in LEAKS if name != "profiler"])
def test_state_that_was_found_changed_is_found_again(name):
    """What a test undoes too far is put back too: the state that was found counts, not torch's defaults."""
    pristine = state.snapshot()
    LEAKS[name][0]()
    found = state.snapshot()
    state.restore(pristine)
    state.restore(found)
    assert state.snapshot().values == found.values


def test_nothing_changed_is_nothing_said():
    """A block that undoes what it does leaves nothing to say."""
    found = state.snapshot()
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu"), torch.enable_grad():
        torch.ones(2)
    assert state.restore(found) == []


def test_every_change_is_named_at_once():
    """Several changes of one block are all named and all put back."""
    found = state.snapshot()
    torch.set_default_dtype(torch.float64)
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    assert state.restore(found) == [
        "default dtype: torch.float32 -> torch.float64",
        "environment variable CUDA_LAUNCH_BLOCKING: not set -> '1'",
    ]


def test_what_torch_cannot_put_back_is_said():
    """A change that torch offers no way to undo (the number of inter-op threads) is named with a note."""
    part = state_parts.Part("inter-op threads", lambda: 3)
    assert part.restore(2, 3) == ["inter-op threads: 2 -> 3 (cannot be put back)"]


def test_profiler_that_was_stopped_cannot_be_put_back():
    """The guard stops a profiler that a test left running; one that a test stopped is only named."""
    pristine = state.snapshot()
    enter(torch.autograd.profiler.profile(use_kineto=False))
    found = state.snapshot()
    state.restore(pristine)
    assert state.restore(found) == ["profiler running: True -> False (cannot be put back)"]


@pytest.mark.parametrize("value", ["x" * 200, torch.device("cuda", 1), 1.5])
def test_values_are_shown_short(value):
    """A value takes at most 80 characters; a device is written as users write it."""
    shown = {"x": "'" + "x" * 76 + "...", "c": "cuda:1", "1": "1.5"}
    assert state_parts.text(value) == shown[str(value)[0]]


# -- random state ------------------------------------------------------------------------------------------


def test_random_state_is_put_back_and_not_named():
    """A test that draws numbers or seeds did nothing wrong; the next one draws what it would have drawn anyway."""
    found = state.snapshot()
    first = torch.rand(3)
    torch.manual_seed(7)
    torch.randn(5)
    assert state.restore(found) == []
    assert torch.equal(torch.rand(3), first)


def test_state_between_normal_numbers_is_put_back():
    """The second of a pair of normal numbers, which torch keeps for later, is part of the random state."""
    torch.normal(0.0, 1.0, (1,))
    found = state.snapshot()
    first = torch.normal(0.0, 1.0, (3,))
    state.restore(found)
    assert torch.equal(torch.normal(0.0, 1.0, (3,)), first)


def test_other_random_state_is_put_back_on_request():
    """Helpers may put back the random state of Python and NumPy too; the guard of tests leaves it alone."""
    with state.preserved(other_random=True):
        first = random.random(), np.random.random()
    with state.preserved():
        assert (random.random(), np.random.random()) == first
    assert (random.random(), np.random.random()) != first


class FakeDevices:
    """An accelerator of two devices, as torch's device modules look."""

    def __init__(self):
        self.is_started, self.index, self.states = True, 0, [torch.tensor([1]), torch.tensor([2])]

    def is_initialized(self):
        return self.is_started

    def device_count(self):
        assert self.is_started, "reading would start the device"
        return 2

    def current_device(self):
        assert self.is_started, "reading would start the device"
        return self.index

    def set_device(self, index):
        self.index = index

    def get_rng_state(self, index):
        return self.states[index].clone()

    def set_rng_state(self, state, index):
        self.states[index] = state


@pytest.fixture
def devices(monkeypatch):
    """Put a made-up accelerator where torch keeps those from outside."""
    module = FakeDevices()
    monkeypatch.setattr(torch, torch._C._get_privateuse1_backend_name(), module, raising=False)
    return module


def test_random_state_of_every_device_is_put_back(devices):
    """Each device of an accelerator has a random state of its own; it is put back and not named."""
    found = state.snapshot()
    devices.states = [torch.tensor([5]), torch.tensor([6])]
    assert state.restore(found) == []
    assert [int(value) for value in devices.states] == [1, 2]


def test_current_device_is_put_back_and_named(devices):
    """A test that selects another device and leaves it selected is told so."""
    found = state.snapshot()
    devices.index = 1
    assert state.restore(found) == ["current privateuseone device: 0 -> 1"]
    assert devices.index == 0


def test_accelerator_that_was_not_started_stays_so(devices):
    """Neither snapshot nor restore starts an accelerator."""
    devices.is_started = False
    assert state.restore(state.snapshot()) == []


def test_accelerator_started_meanwhile_goes_to_its_first_device(devices):
    """An accelerator that the test started would have started at its first device."""
    devices.is_started = False
    found = state.snapshot()
    devices.is_started, devices.index = True, 1
    assert state.restore(found) == ["current privateuseone device: 0 -> 1"]


def test_device_lost_meanwhile_is_left_alone(devices, monkeypatch):
    """After a device is lost, every call about it fails; the guard of a test on the CPU does not."""

    def fail(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    found = state.snapshot()
    for name in ("get_rng_state", "set_rng_state", "set_device"):
        monkeypatch.setattr(devices, name, fail)
    torch.set_default_dtype(torch.float64)
    assert state.restore(found) == ["default dtype: torch.float32 -> torch.float64"]
    assert state.restore(state.snapshot()) == []


def test_backend_without_random_state_is_guarded(devices, monkeypatch):
    """A backend from outside torch need not have random state; its current device is put back all the same."""
    monkeypatch.delattr(FakeDevices, "get_rng_state")
    found = state.snapshot()
    devices.index = 1
    assert state.restore(found) == ["current privateuseone device: 0 -> 1"]


# -- the functions around it -------------------------------------------------------------------------------


def test_preserved_puts_back_what_a_failing_block_changed():
    """A helper may fail at any point; the state is put back all the same, and the error goes through."""

    @state.preserved()
    def helper():
        torch.set_default_dtype(torch.float64)
        raise LookupError

    with pytest.raises(LookupError):
        helper()
    assert torch.get_default_dtype() is torch.float32


def test_adopted_changes_belong_to_the_found_state():
    """What a fixture of wider scope changed in between is kept; what the test changed is put back."""
    found = state.snapshot()
    torch.set_default_dtype(torch.float64)
    before = state.snapshot()
    torch.set_printoptions(precision=2)
    found = state.adopt(found, before, state.snapshot())
    assert state.restore(found) == ["default dtype: torch.float32 -> torch.float64"]
    assert torch._tensor_str.PRINT_OPTS.precision == 2


def test_context_variables_that_do_not_compare_are_left_alone():
    """What others keep in context variables may hold tensors: two of them have no single answer to ``==``."""
    variable = contextvars.ContextVar("somebody's")

    def change():
        variable.set(torch.zeros(2))
        found = state.snapshot()
        variable.set(torch.ones(2))
        return state.restore(found), variable.get().tolist()

    assert contextvars.copy_context().run(change) == ([], [1.0, 1.0])


def test_restoring_does_not_warn(monkeypatch):
    """Setters that warn about being old are used to put things back; the test did not call them."""
    loud = state_parts.Part("old setting", lambda: 2, lambda value: warnings.warn("old", stacklevel=1))
    monkeypatch.setattr(state, "_PARTS", (loud,))
    assert state._restore_values([1], [2]) == ["old setting: 1 -> 2 (cannot be put back)"]


# -- coverage and cost -------------------------------------------------------------------------------------


def test_no_setting_of_this_torch_is_missed():
    """A getter that torch renames would drop its piece from the guard in silence; what came later is known."""
    newer = {
        (2, 8): {"torch.backends.cuda.matmul.allow_fp16_accumulation", "saved tensor hooks"},
        (2, 9): {part.name for part in state_precision.newer_parts()},
        (2, 13): {"torch.backends.cudnn.depthwise_kernel"},
        (2, 14): {"torch.backends.cuda.matmul.prefer_cublaslt_grouped_gemm"},
    }
    release = tuple(int(number) for number in torch.__version__.split(".")[:2])
    to_come = {name for since, names in newer.items() if release < since for name in names}
    wanted = {part.name for part in (*state_flags.candidates(), *state_precision.newer_parts())}
    groups = [getattr(part, "parts", [part]) for part in state._PARTS]
    there = {part.name for group in groups for part in group}
    assert wanted - there <= to_come


def _best_time_s(function, batches=200, rounds=20):
    """Return the time of one call in the fastest batch: what other processes take away shows in the slower ones."""
    best = float("inf")
    for _ in range(batches):
        start = time.perf_counter()
        for _ in range(rounds):
            function()
        best = min(best, (time.perf_counter() - start) / rounds)
    return best


def _slowness():
    """Return how many times slower than a current machine this one is now, at the kind of work that a snapshot is."""
    reads = [torch.is_grad_enabled] * 500
    return max(1.0, _best_time_s(lambda: [read() for read in reads]) / 40e-6)


def _set_context_variables():
    """Leave what a compiler leaves that has run: a value in the context for every setting it once patched."""
    for number in range(1300):
        contextvars.ContextVar(f"setting {number}").set(object())


@pytest.mark.parametrize("compiler", ["not loaded", "loaded", "used"])
def test_guarding_a_test_takes_less_than_100_microseconds(compiler):
    """A snapshot and a restore with nothing to put back cost under 100 microseconds.

    The fastest of 200 short batches is taken, so other processes do not disturb; where the machine itself is
    slower than 80 nanoseconds for the cheapest call into torch, the allowance grows with it.
    """
    context = contextvars.copy_context()
    if compiler != "not loaded":
        if not state_process._IN_CONTEXT:
            pytest.skip(
                "needs a torch that keeps its configuration in context variables: older ones are read one by one"
            )
        import torch._inductor.config  # noqa: F401
    if compiler == "used":
        context.run(_set_context_variables)
    assert context.run(_best_time_s, lambda: state.restore(state.snapshot())) < 100e-6 * _slowness()
