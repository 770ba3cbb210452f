"""Gather what the runs of a parity check showed, and raise once: which input, mode, form and value differ."""

from __future__ import annotations

import cmath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.close import compare
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.parity_numbers import Tolerance, dense, largest
from pytest_torchcheck.messages import failure_text

#: So many differing values of one run are shown in full.
SHOWN = 5
_UNSTEADY = "eager does not repeat itself on this input, with every generator seeded: make it deterministic first"


@dataclass(frozen=True)
class Run:
    """One run that is compared with eager: the form, the input, the mode, and what to try when it differs."""

    form: str
    case: str
    mode: str
    next_step: str = ""

    def text(self) -> str:
        """Return the run in a few words."""
        return f"{self.case} ({', '.join(part for part in (self.mode, self.form) if part)})"


@dataclass(frozen=True)
class Failure:
    """What went wrong in one run: a text per value, and how much was allowed."""

    run: Run
    texts: list[str]
    allowed: str = ""


class Report:
    """What has been seen so far, and whether it was anything at all."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.failures: list[Failure] = []
        self.idle: list[Run] = []
        self.repeats: bool | None = None
        self.finite = 0
        self.gradients = 0
        self.moving_gradients = 0

    def compare(self, run: Run, name: str, actual: Any, expected: Any, allowed: Tolerance) -> None:
        """Compare two nests leaf by leaf; containers need the same leaves, not the same type."""
        self.finite += sum(_finite(one) for _, one in nests.leaves(expected))
        left, right = dict(nests.leaves(actual)), dict(nests.leaves(expected))
        if left.keys() != right.keys():
            left, right = _by_place(actual, expected), _by_place(expected, expected)
        texts = [
            self._leaf(f"{name}{path}", run, left.get(path), right.get(path), allowed) for path in {**right, **left}
        ]
        self._enter(run, texts, allowed)

    def _leaf(self, name: str, run: Run, actual: Any, expected: Any, allowed: Tolerance, overall: float = 0.0) -> str:
        actual, expected = _comparable(actual), _comparable(expected)
        name = f"{name} of {self.subject}, {run.form},"
        seen = compare(actual, expected, allowed.rules(expected, overall), name=name)
        text = "\n".join(seen.differences)
        return text.replace(f"{name} differs\n", f"{name} differs from eager\n")

    def _enter(self, run: Run, texts: list[str], allowed: Tolerance) -> None:
        texts = [text for text in texts if text]
        if texts:
            self.failures.append(Failure(run, texts, allowed.text()))

    def compare_gradients(
        self,
        run: Run,
        actual: Mapping[str, torch.Tensor | None],
        expected: Mapping[str, torch.Tensor | None],
        allowed: Tolerance,
        overall: float,
    ) -> None:
        """Compare gradients by name; none at all counts as zero, which is what it means to an optimizer."""
        self.gradients += sum(one is not None for one in expected.values())
        self.moving_gradients += sum(largest(one) > 0 for one in expected.values())
        texts = []
        for name in {**expected, **actual}:
            got, want = (
                _zero_like(actual.get(name), expected.get(name)),
                _zero_like(expected.get(name), actual.get(name)),
            )
            texts.append(self._leaf(f"grad of {name!r}", run, got, want, allowed, overall))
        self._enter(run, texts, allowed)

    def compare_changed(
        self, run: Run, actual: Mapping[str, Any], expected: Mapping[str, Any], allowed: Tolerance
    ) -> None:
        """Compare what the call changed in place: buffers and inputs, both ways."""
        texts = []
        for name in {**expected, **actual}:
            if name in actual and name in expected:
                texts.append(self._leaf(f"{name!r} after the call", run, actual[name], expected[name], allowed))
            else:
                who = "eager" if name in expected else run.form
                other = run.form if name in expected else "eager"
                texts.append(f"{name!r} of {self.subject} is changed by the call in {who}, not in {other}")
        self._enter(run, texts, allowed)

    def raised(self, run: Run, error: Exception) -> None:
        """Enter that the form raised where eager did not."""
        text = failure_text(
            f"{self.subject}, {run.form}, raises where eager does not",
            [("error", f"{type(error).__name__}: {brief(error)}")],
        )
        self.failures.append(Failure(run, [text]))

    def nothing_ran(self, run: Run) -> None:
        """Enter that a call went by without any compiled code being run."""
        self.idle.append(run)

    def conclude(self, *, gradients: bool | None) -> None:
        """Raise what was gathered, or that nothing was.

        Raises:
            AssertionError: something differs.
            VacuousCheckError: nothing could have differed.
        """
        __tracebackhide__ = True
        if self.failures:
            raise AssertionError(self._text())
        if self.idle:
            raise VacuousCheckError(
                failure_text(
                    f"{self.subject}, {self.idle[0].form}, ran nothing of what was to be tested",
                    [
                        ("input", "\n".join(run.text() for run in self.idle[:SHOWN])),
                        ("next", self.idle[0].next_step),
                    ],
                )
            )
        if not self.finite:
            raise VacuousCheckError(f"nothing was compared: {self.subject} returns no finite value in eager")
        if gradients and not self.moving_gradients:
            what = "every gradient is zero" if self.gradients else "no output has a gradient"
            raise VacuousCheckError(f"no gradient of {self.subject} was compared: {what} in eager")

    def _text(self) -> str:
        first = self.failures[0]
        mine = [one for one in self.failures if one.run == first.run]
        texts = [text for one in mine for text in one.texts]
        blocks = texts[:SHOWN] + ([f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else [])
        others = list(dict.fromkeys(one.run.text() for one in self.failures if one.run != first.run))
        also = others[:SHOWN] + ([f"and {len(others) - SHOWN} more"] if len(others) > SHOWN else [])
        footer = failure_text(
            "",
            [
                ("input", first.run.case),
                ("mode", first.run.mode),
                ("form", first.run.form),
                ("tolerance", first.allowed),
                ("also", "\n".join(also)),
                ("next", first.run.next_step if self.repeats is not False else _UNSTEADY),
            ],
        )
        return "\n".join(blocks) + footer


def cannot(what: str, name: str, error: Exception, next_step: str) -> str:
    """Return the failure text for a form that could not be made."""
    cause: BaseException = error
    while type(cause).__module__.startswith("torch.onnx") and cause.__cause__ is not None:
        cause = cause.__cause__  # the exporter's own error is a page about the exporter
    rows = [("error", f"{type(cause).__name__}: {brief(cause)}"), ("next", next_step)]
    return failure_text(f"{name} cannot be {what}", rows)


def brief(error: BaseException) -> str:
    """Return the lines of an error that say what is wrong, shortened: TorchScript puts a call stack before them."""
    lines = [line.strip()[:200] for line in str(error).splitlines() if line.strip()] or ["(no message)"]
    return lines[-1] if "in the TorchScript interpreter" in lines[0] else "\n".join(lines[:3])


def _by_place(nest: Any, expected: Any) -> dict[str, Any]:
    """Return the tensors of a nest by their order, under the paths of ``expected`` as far as these go.

    Compilers turn containers of the user's into tuples and dicts.
    """
    paths = [path for path, _ in nests.tensors(expected)]
    found = [one for _, one in nests.tensors(nest)]
    paths += [f"<{at}>" for at in range(len(paths), len(found))]
    return dict(zip(paths, found, strict=False))


def _comparable(value: Any) -> Any:
    return dense(value) if isinstance(value, torch.Tensor) and not value.is_meta else value


def _zero_like(value: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    return torch.zeros_like(other) if value is None and other is not None else value


def _finite(value: Any) -> int:
    if not isinstance(value, torch.Tensor):
        return int(isinstance(value, int | float | complex) and cmath.isfinite(value))
    if value.is_meta or not value.numel():
        return 0
    plain = dense(value)
    return int(torch.isfinite(plain).sum()) if plain.is_floating_point() or plain.is_complex() else plain.numel()
