import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch


def in_new_thread(function):
    """Run ``function`` in a thread of its own and return its result."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=60)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "set_grad_enabled": functools.partial(torch.set_grad_enabled, False),
    "inference_mode": torch.inference_mode,
}


def state_of_thread():
    result = torch.ones(2, requires_grad=True) * 2
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), result.requires_grad, result.is_inference()


@pytest.mark.behavior("gradmode.threads")
@pytest.mark.parametrize("name", CONTEXTS)
def test_new_thread_starts_with_gradients_on(name):
    """A thread started under no_grad, a plain switch or inference mode tracks all the same."""
    with CONTEXTS[name]():
        assert in_new_thread(state_of_thread) == (True, False, True, False)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.behavior("gradmode.threads")
def test_switch_by_a_call_stays_in_its_thread():
    """set_grad_enabled(False) as a call switches the calling thread alone."""
    before = torch.is_grad_enabled()
    try:
        torch.set_grad_enabled(False)
        assert in_new_thread(torch.is_grad_enabled)
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(before)

    def switch_off():
        torch.set_grad_enabled(False)
        return torch.is_grad_enabled()

    assert in_new_thread(switch_off) is False
    assert torch.is_grad_enabled()


@pytest.mark.behavior("gradmode.threads")
@pytest.mark.parametrize("name", CONTEXTS)
def test_threads_in_different_modes_run_side_by_side(name):
    """While one thread is inside no_grad, another tracks, and each sees its own mode throughout."""
    inside, checked = threading.Event(), threading.Event()
    x = torch.ones(3, requires_grad=True)

    def quiet():
        with CONTEXTS[name]():
            inside.set()
            assert checked.wait(60)
            y = x * 2
            return y.requires_grad, torch.is_grad_enabled()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(quiet)
        assert inside.wait(60)
        tracked_here = (x * 2).requires_grad, torch.is_grad_enabled()
        checked.set()
        assert future.result(timeout=60) == (False, False)
    assert tracked_here == (True, True)


@pytest.mark.behavior("gradmode.threads")
def test_thread_keeps_its_mode_between_tasks_and_after_errors():
    """In one worker thread a switch stays for the next task, and an exception inside no_grad restores."""

    def failing():
        with torch.no_grad():
            raise ValueError("in a thread")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="in a thread"):
            pool.submit(failing).result(timeout=60)
        assert pool.submit(torch.is_grad_enabled).result(timeout=60)
        pool.submit(torch.set_grad_enabled, False).result(timeout=60)
        assert not pool.submit(torch.is_grad_enabled).result(timeout=60)
    assert torch.is_grad_enabled()


@pytest.mark.behavior("gradmode.threads")
def test_many_threads_differentiate_at_once():
    """Graphs built and differentiated in several threads give each its own gradient."""

    def work(n):
        x = torch.full((4,), float(n), requires_grad=True)
        if n % 2:
            with torch.no_grad():
                x * x
        (x * x).sum().backward()
        return x.grad.tolist()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(16), timeout=60))
    assert results == [[2.0 * n] * 4 for n in range(16)]
