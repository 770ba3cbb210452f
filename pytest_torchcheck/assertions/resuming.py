"""Does training go on from a checkpoint as if it had never stopped?"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import seed_everything, untouched
from pytest_torchcheck.assertions.close import EXACT, compare
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.parity_report import SHOWN, brief
from pytest_torchcheck.messages import failure_text

_SEED, _ANOTHER_SEED = 20240229, 20240301


class Stateful(Protocol):
    """What a checkpoint is made of: models, optimizers, schedulers, scalers, loaders, a trainer of one's own."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take over a state."""


#: One training step, and by name what the checkpoint holds.
Training = tuple[Callable[[], Any], Mapping[str, Stateful]]


class RandomState:
    """The random state of torch (every device), Python and NumPy, as a part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every generator."""
        numpy = sys.modules.get("numpy")
        return {
            "torch": torch.get_rng_state(),
            "devices": [module.get_rng_state_all() for module in _accelerators()],
            "python": random.getstate(),
            "numpy": numpy.random.get_state() if numpy is not None else None,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Set every generator to what ``state_dict()`` returned."""
        torch.set_rng_state(state_dict["torch"])
        for module, states in zip(_accelerators(), state_dict["devices"], strict=True):
            module.set_rng_state_all(states)
        random.setstate(state_dict["python"])
        if state_dict["numpy"] is not None:
            sys.modules["numpy"].random.set_state(state_dict["numpy"])


def _accelerators() -> list[Any]:
    modules = [getattr(torch, kind, None) for kind in ("cuda", "xpu")]
    return [module for module in modules if module is not None and module.is_available()]


def assert_resume_equivalent(make_training: Callable[[], Training], *, steps: int = 3) -> None:
    """Require training that stops, saves, loads and goes on to equal training that never stopped, bit for bit.

    ``make_training()`` builds everything anew, as the start of the program does, and returns two things: a function
    that runs one training step and returns what is to be compared (the loss, a nest, or None), and a mapping of names
    to what goes into the checkpoint, each with ``state_dict`` and ``load_state_dict``::

        def make_training():
            model = Net()
            optimizer = torch.optim.Adam(model.parameters())
            def step():
                ...
                return loss
            return step, {"model": model, "optimizer": optimizer, "random": RandomState()}

    Run 1 takes ``steps`` steps, saves, and takes as many again. Run 2 is built with other random numbers, loads, and
    takes ``steps`` steps. What they return, and the states in the end, have to be equal.

    Args:
        make_training: builds a training run; called two or three times.
        steps: how many steps before the stop, and after it.

    Raises:
        AssertionError: results or states differ, or saving or loading fails. The text says which parts came back
            whole, and whether the uninterrupted run repeats itself at all.
        VacuousCheckError: no step changes any part of the checkpoint.
        TypeError: ``make_training`` does not return the pair, or a part has no state.
        ValueError: ``steps`` is below one, there is no part, or a part is the same object in both runs.
    """
    __tracebackhide__ = True
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least one, not {steps!r}")
    with untouched(make_training):
        texts = _differences(make_training, steps)
    if texts:
        raise AssertionError("\n".join(texts))


def _differences(make_training: Callable[[], Training], steps: int) -> list[str]:
    __tracebackhide__ = True
    step, parts = _built(make_training, _SEED)
    initial = _saved(parts)
    first = [_copied(step()) for _ in range(steps)]
    drawn = torch.get_rng_state()
    saved = _saved(parts)
    if _equal(_loaded(saved), _loaded(initial)):
        raise VacuousCheckError(
            f"{steps} steps change no part of the checkpoint ({', '.join(parts)}): nothing to resume"
        )
    expected = [_copied(step()) for _ in range(steps)]
    draws = not torch.equal(drawn, torch.get_rng_state())
    final = _loaded(_saved(parts))

    other_step, others = _built(make_training, _ANOTHER_SEED)
    _check_anew(parts, others)
    damaged = _resume(others, _loaded(saved))
    actual = [_copied(other_step()) for _ in range(steps)]
    texts = [*_step_differences(actual, expected, steps), *_state_differences(_loaded(_saved(others)), final)]
    if not texts:
        return []
    repeats = _repeats(make_training, steps, first + expected)
    shown = texts[:SHOWN] + ([f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else [])
    return [*shown[:-1], shown[-1] + failure_text("", _advice(others, damaged, draws, repeats))]


def _built(make_training: Callable[[], Training], seed: int) -> tuple[Callable[[], Any], dict[str, Stateful]]:
    """Build a run from a seed.

    Raises:
        TypeError: it is no pair of a function and a mapping of parts with state.
        ValueError: there is no part.
    """
    seed_everything(seed)
    made = make_training()
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0]) and isinstance(made[1], Mapping)):
        raise TypeError("make_training must return (step, parts): a function, and a mapping of names to stateful parts")
    step, parts = made[0], dict(made[1])
    for name, part in parts.items():
        if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            raise TypeError(f"part {name!r} needs state_dict and load_state_dict; a {type(part).__name__} has them not")
    if not parts:
        raise ValueError("make_training returned no parts: name what the checkpoint holds")
    return step, parts


def _check_anew(parts: Mapping[str, Stateful], others: Mapping[str, Stateful]) -> None:
    if parts.keys() != others.keys():
        raise ValueError(f"make_training returned other parts the second time: {', '.join(others)}")
    same = [name for name, part in parts.items() if part is others[name]]
    if same:
        raise ValueError(f"make_training returned the same {', '.join(same)} twice: it must build everything anew")


def _saved(parts: Mapping[str, Stateful]) -> bytes:
    __tracebackhide__ = True
    file = io.BytesIO()
    try:
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    except Exception as error:
        rows = [("error", f"{type(error).__name__}: {brief(error)}")]
        raise AssertionError(failure_text("the checkpoint cannot be saved", rows)) from error
    return file.getvalue()


def _loaded(saved: bytes) -> dict[str, Any]:
    # weights_only=False: these bytes were written a moment ago, and a checkpoint may hold any object
    loaded: dict[str, Any] = torch.load(io.BytesIO(saved), weights_only=False)
    return loaded


def _resume(others: Mapping[str, Stateful], saved: dict[str, Any]) -> list[str]:
    """Load every part, and return the names of those that do not give back what they were given."""
    __tracebackhide__ = True
    for name, part in others.items():
        try:
            part.load_state_dict(saved[name])
        except Exception as error:
            rows = [("error", f"{type(error).__name__}: {brief(error)}")]
            raise AssertionError(failure_text(f"part {name!r} of the checkpoint cannot be loaded", rows)) from error
    again = _loaded(_saved(others))
    return [name for name in others if not _equal(again[name], saved[name])]


def _copied(result: Any) -> Any:
    return nests.map_tensors(lambda one: one.detach().clone(), result)


def _equal(actual: Any, expected: Any) -> bool:
    return not compare(actual, expected, EXACT).differences


def _step_differences(actual: list[Any], expected: list[Any], steps: int) -> Iterator[str]:
    """Yield what differs in the first step that differs at all: the later ones follow from it."""
    for at, (got, want) in enumerate(zip(actual, expected, strict=True)):
        name = f"result of step {steps + at + 1}, {at + 1} after resuming,"
        differences = compare(got, want, EXACT, name=name).differences
        if differences:
            yield from differences
            return


def _state_differences(actual: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Yield, per part, the first value that differs, and how many more do."""
    for name, want in expected.items():
        differences = compare(actual[name], want, EXACT, name=f"final state of {name!r} at ").differences
        if differences:
            more = f"\nand {len(differences) - 1} more of {name!r}" if len(differences) > 1 else ""
            yield differences[0] + more


def _repeats(make_training: Callable[[], Training], steps: int, expected: list[Any]) -> bool:
    step, _ = _built(make_training, _SEED)
    return _equal([_copied(step()) for _ in range(2 * steps)], expected)


def _advice(parts: Mapping[str, Stateful], damaged: list[str], draws: bool, repeats: bool) -> list[tuple[str, str]]:
    if not repeats:
        return [("next", "the uninterrupted run does not repeat itself either: make it deterministic first")]
    if damaged:
        return [("parts", f"{', '.join(damaged)}: state_dict() after loading is not what was loaded")]
    has_random = any(isinstance(part, RandomState) for part in parts.values())
    missing = "random numbers are drawn, and no RandomState() is among the parts" if draws and not has_random else ""
    advice = missing or "what else changes while training goes on: a step count, the position in the data, an average?"
    return [("parts", f"{', '.join(parts)}: all came back as they were saved"), ("next", advice)]
