"""assert_speedup and assert_device_speedup: simulated timers, messages, what is refused, what is left alone."""

from __future__ import annotations

import random
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_torchcheck import (
    InconclusiveTimingError,
    assert_device_speedup,
    assert_speedup,
)
from pytest_torchcheck.assertions.speedup import _placed

from .helpers import failure, vacuous


class Simulation:
    """A timer that only the two sides move: the slow one by ``ratio`` ms a call, the fast one by 1 ms, with noise."""

    def __init__(self, ratio, noise=0.0, seed=0, drift=0.0, unit=1e-3):
        self.now, self.calls = 0.0, 0
        self._random, self._ratio, self._noise = random.Random(seed), ratio, noise
        self._drift, self._unit = drift, unit

    def timer(self):
        return self.now

    def _take(self, cost):
        self.calls += 1
        speed = 1 + self._drift * self.calls
        self.now += cost * self._unit * speed * max(0.1, self._random.gauss(1, self._noise))

    def fast(self):
        self._take(1)

    def slow(self):
        self._take(self._ratio)

    def passes(self, at_least, **options):
        try:
            assert_speedup(self.fast, self.slow, at_least=at_least, timer=self.timer, **options)
        except AssertionError:
            return False
        return True


@pytest.mark.parametrize("unit", [1e-3, 0.2], ids=["30 rounds", "12 rounds"])
@pytest.mark.parametrize(
    ("ratio", "least", "most"), [(1.9, 0, 0.01), (2.0, 0, 0.08), (2.2, 0.95, 1)], ids=["1.9", "2.0", "2.2"]
)
def test_claim_of_two_passes_as_often_as_it_should(ratio, least, most, unit):
    """5% noise, at_least=2, 300 seeds: a true 1.9 passes in about none, 2.0 in at most 8%, 2.2 in at least 95%."""
    passed = sum(Simulation(ratio, 0.05, seed, unit=unit).passes(2) for seed in range(300)) / 300
    assert least <= passed <= most


def test_drift_hits_both_sides_alike():
    """A machine that slows down by 10% over the rounds makes neither of two equal sides faster."""
    simulation = Simulation(1, drift=0.1 / 400)
    with pytest.raises(AssertionError) as raised:
        assert_speedup(simulation.fast, simulation.slow, at_least=1.02, timer=simulation.timer)
    assert str(raised.value).startswith("speedup 1.00x, required 1.02x")


def test_one_stalled_round_fakes_nothing():
    """A call that stalls a thousandfold does not move the bound of the median."""
    simulation = Simulation(1.5, 0.01)
    stall = iter([*[0] * 130, 1.0])

    def slow():
        simulation.slow()
        simulation.now += next(stall, 0)

    with pytest.raises(AssertionError, match=r"speedup 1\.5"):
        assert_speedup(simulation.fast, slow, at_least=2, timer=simulation.timer)


def test_failure_says_everything():
    """The message of a speedup that is not there, whole."""
    simulation = Simulation(1.31)
    options = {"at_least": 2, "device": "cpu", "timer": simulation.timer}
    assert failure(assert_speedup, simulation.fast, simulation.slow, **options) == (
        "speedup 1.31x, required 2.00x\n"
        "  baseline    1.31 ms median, IQR 0 ns, 30 rounds (Simulation.slow)\n"
        "  candidate   1 ms median, IQR 0 ns, 30 rounds (Simulation.fast)\n"
        "  interval    1.31x to 1.31x, each bound at 95% confidence\n"
        f"  setting     cpu, torch X, {torch.get_num_threads()} threads\n"
        "  next        profile both sides; a side that compiles or copies in each call shows up there"
    )


def test_inconclusive_says_what_to_do():
    """A ratio that noise hides is an error of its own, with the noise marked and advice."""
    simulation = Simulation(2.0, 0.3, seed=3)
    with pytest.raises(InconclusiveTimingError) as raised:
        assert_speedup(simulation.fast, simulation.slow, at_least=2, device="cpu", timer=simulation.timer)
    first, *rows = str(raised.value).splitlines()
    assert first.endswith("x cannot be told from the required 2.00x")
    assert "<- noisy: IQR " in rows[0]
    assert rows[-1] == (
        "  next        leave the machine to this test alone, allow more rounds or max_time_s, or require less"
    )
    assert issubclass(InconclusiveTimingError, AssertionError)


def test_real_time_is_measured():
    """A sleep of 1 ms is at least twice as fast as one of 4 ms, and not four times as fast as one of 2 ms."""
    assert_speedup(time.sleep, lambda seconds: time.sleep(4 * seconds), at_least=2, args=(1e-3,), rounds=9)
    with pytest.raises(AssertionError, match="required 4.00x"):
        assert_speedup(time.sleep, lambda seconds: time.sleep(2 * seconds), at_least=4, args=(1e-3,), rounds=9)


def test_first_calls_are_not_measured():
    """A side that compiles for 5 s at its first call is not slower for it."""
    simulation = Simulation(3)
    first = iter([5.0])

    def fast():
        simulation.fast()
        simulation.now += next(first, 0)

    assert_speedup(fast, simulation.slow, at_least=2.9, timer=simulation.timer)


def test_modules_are_called_with_the_arguments_and_left_as_they_were():
    """Modules, their buffers and the inputs are as before, also when a side changes them in each call."""
    norm, x, simulation = nn.BatchNorm1d(3), torch.ones(4, 3), Simulation(3)
    before = {name: value.clone() for name, value in norm.state_dict().items()}

    def slow(x):
        norm(x)
        x.add_(1)
        simulation.slow()

    norm.register_forward_hook(lambda *_: simulation.fast())
    assert_speedup(norm, slow, at_least=2, args=x, rounds=7, timer=simulation.timer)
    assert torch.equal(x, torch.ones(4, 3))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_build_for_an_accelerator_that_is_not_there_waits_for_the_cpu(monkeypatch):
    """On a CUDA build without a GPU there is nothing to wait for."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    simulation = Simulation(3)
    assert_speedup(simulation.fast, simulation.slow, at_least=2.9, timer=simulation.timer)


def test_random_state_is_left_alone():
    """Sides that draw random numbers leave the generator as it was, on failure too."""
    before = torch.get_rng_state()
    with pytest.raises(AssertionError):
        assert_speedup(lambda: [torch.rand(9) for _ in range(99)], lambda: torch.rand(9), at_least=2, rounds=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_timer_that_stands_still_is_vacuous():
    """A timer that does not move has measured nothing."""
    text = vacuous(assert_speedup, lambda: 0, lambda: 0, at_least=2, timer=lambda: 1.0)
    assert text.startswith("nothing was measured: the host clock did not move during ")
    assert text.endswith(" calls; check the timer")


def test_perf_counter_is_the_timer(monkeypatch):
    """Without a timer it is time.perf_counter, as it is at that moment."""
    simulation = Simulation(3)
    monkeypatch.setattr("time.perf_counter", simulation.timer)
    assert_speedup(simulation.fast, simulation.slow, at_least=2.9)


MISUSE = {
    "at_least": ({"at_least": 0}, ValueError, "at_least is 0; give a number above zero"),
    "at_least nan": ({"at_least": float("nan")}, ValueError, "at_least is nan; give a number above zero"),
    "at_least text": ({"at_least": "2x"}, ValueError, "at_least is '2x'; give a number above zero"),
    "rounds": (
        {"at_least": 2, "rounds": 4},
        ValueError,
        "rounds is 4; give at least 5, fewer bound nothing with 95% confidence",
    ),
    "max_time_s": ({"at_least": 2, "max_time_s": -1}, ValueError, "max_time_s is -1; give a number above zero"),
    "args": (
        {"at_least": 2, "args": [1]},
        TypeError,
        "args must be a tuple of positional arguments or one tensor, not list",
    ),
}


@pytest.mark.parametrize(("options", "kind", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_names_the_input(options, kind, message):
    """What cannot be is refused by name, before anything is timed."""
    with pytest.raises(kind) as raised:
        assert_speedup(lambda: 0, lambda: 0, **options)
    assert str(raised.value) == message


def test_what_cannot_be_called_is_refused():
    """A time instead of a function is a TypeError."""
    with pytest.raises(TypeError, match="give a module or a function that can be called, not a float"):
        assert_speedup(0.5, lambda: 0, at_least=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "device and baseline are both cpu: name two devices"),
        ({"device": "cuda"}, "device='cuda': cuda cannot be used: *"),
        ({"device": "meta"}, "device='meta' holds no values and computes none: name a device that does"),
        ({"device": "tpu"}, "*"),
    ],
)
def test_devices_that_cannot_be_compared_are_refused(no_cuda, options, message):
    """Twice the same device, one that is not there and one that computes nothing are ValueErrors or name errors."""
    with pytest.raises((ValueError, RuntimeError)) as raised:
        assert_device_speedup(nn.Linear(2, 2), torch.ones(1, 2), at_least=2, **options)
    assert str(raised.value).startswith(message.partition("*")[0])


def test_work_with_gradients_runs_backward_on_a_copy():
    """gradients=True makes the backward pass a part of the work, on a copy: the model itself gets no gradients."""
    seen = []
    model, x = nn.Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    model.register_full_backward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        _placed(model, (x,), {}, torch.device("cpu"), gradients=True)()
    assert seen == [1]
    assert model.weight.grad is None
    assert x.grad is None


@pytest.fixture
def on_a_second_device(pytester):
    """Return a function that runs tests in a process where ``fakenpu`` is a device that a simulated timer knows."""
    pytester.makepyfile(fake_backend=Path(__file__).with_name("fake_backend.py").read_text(encoding="utf-8"))

    def run(code):
        start = """
            import pytest, torch
            pytest.importorskip("fake_backend", reason="needs a torch that takes backends in Python",
                exc_type=ImportError)
            from torch import nn
            from pytest_torchcheck import InconclusiveTimingError, VacuousCheckError, assert_device_speedup

            class Model(nn.Module):
                now, cost = 0.0, {"cpu": 3e-3, "fakenpu": 1e-3}

                def __init__(self):
                    super().__init__()
                    self.register_buffer("weight", torch.full((2, 2), 2.0))

                def forward(self, x):
                    Model.now += Model.cost[x.device.type]
                    return torch.mm(x, self.weight)

            def timer():
                return Model.now

            X = torch.ones(2, 2)
        """
        pytester.makepyfile(textwrap.dedent(start) + textwrap.dedent(code))
        return pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider", timeout=120)

    return run


def test_speedup_of_a_device_is_measured_on_copies(on_a_second_device):
    """A device that is three times as fast passes at 2.9, fails at 4 with the devices named, and moves nothing."""
    result = on_a_second_device(
        """
        def test_passes():
            model = Model()
            before = model.weight
            assert_device_speedup(model, X, device="fakenpu", at_least=2.9, timer=timer)
            assert model.weight is before
            assert model.weight.device.type == "cpu"

        def test_fails():
            with pytest.raises(AssertionError) as raised:
                assert_device_speedup(Model(), X, device="fakenpu", at_least=4, timer=timer)
            first, baseline, candidate, *_ = str(raised.value).splitlines()
            assert first == "speedup 3.00x, required 4.00x"
            assert baseline.endswith("30 rounds (Model on cpu)")
            assert candidate.endswith("30 rounds (Model on fakenpu:0)")

        def test_bound_method():
            assert_device_speedup(Model().forward, X, device="fakenpu", at_least=2.9, timer=timer)

        def test_moves_elsewhere():
            def model(x):
                Model.now += 1e-3
                return torch.ones(2, 2) @ torch.ones(2, 2)

            with pytest.raises(VacuousCheckError) as raised:
                assert_device_speedup(model, X, device="fakenpu", at_least=1, timer=timer)
            assert str(raised.value) == "nothing was computed on fakenpu:0: the model moves its inputs elsewhere"
        """
    )
    if result.parseoutcomes().get("skipped"):
        pytest.skip("needs a torch that takes backends in Python")
    result.assert_outcomes(passed=4)


def test_backward_pass_needs_something_to_learn(on_a_second_device):
    """gradients=True without anything that requires grad has nothing to time."""
    result = on_a_second_device(
        """
        def test_vacuous():
            with pytest.raises(VacuousCheckError, match="no output depends on a parameter"):
                assert_device_speedup(Model(), X, device="fakenpu", at_least=1, timer=timer, gradients=True)
        """
    )
    if result.parseoutcomes().get("skipped"):
        pytest.skip("needs a torch that takes backends in Python")
    result.assert_outcomes(passed=1)
