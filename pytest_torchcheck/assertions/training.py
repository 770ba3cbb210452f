"""One step of training changes what it should; one batch can be learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions.backward import SEED, give_shapes, scalar_loss, values_of
from pytest_torchcheck.assertions.calls import (
    as_args,
    as_module,
    fresh,
    recording_gradients,
    seed_everything,
    untouched,
)
from pytest_torchcheck.assertions.close import EXACT, compare
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.wording import listed, matching, setting
from pytest_torchcheck.messages import failure_text, number

LossFunction = Callable[..., torch.Tensor] | None


def assert_training_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFunction,
    batch: Any,
    *,
    scaler: torch.amp.GradScaler | None = None,
    ignore: str | Iterable[str] = (),
) -> None:
    """Require one step to change every trainable parameter by a finite amount, and nothing that is frozen.

    The step is ``zero_grad``, forward, ``backward``, ``step`` in the modes the model is found in, with a scaler
    ``zero_grad``, forward, ``scale``, ``backward``, ``unscale_``, ``step``, ``update``; model, optimizer and scaler are
    put back afterwards.

    Args:
        model: the module; optimizer: the one that was given its parameters.
        loss_fn: called as ``loss_fn(model(inputs), target)``; None where the model returns its loss, as a number, or
            as ``.loss`` or ``["loss"]`` of its output.
        batch: ``(inputs, target)``, or the inputs alone where loss_fn is None. Inputs are a tensor, a tuple of
            positional arguments or a mapping of keyword arguments.
        scaler: the one that scales the loss in training with mixed precision; one that is disabled scales nothing.
            The autocast belongs to the model's forward, or around the check.
        ignore: names or patterns of trainable parameters that need not change.

    Raises:
        AssertionError: a trainable parameter is not in the optimizer, does not change or becomes infinite or NaN; a
            frozen one changes, or a buffer of a module that is frozen as a whole; the loss is not finite; the scaler
            skipped the step, since gradients are infinite or NaN; or the optimizer holds parameters that are not the
            model's.
        VacuousCheckError: the model has no trainable parameter to look at.
        TypeError, ValueError: no module, no optimizer, no scaler, a batch of another form, a loss that is not one
            number; an optimizer (LBFGS) or gradients (of float16 parameters) that a scaler does not take.
    """
    __tracebackhide__ = True
    step = _Step(model, optimizer, loss_fn, batch, scaler)
    with untouched(model, optimizer, loss_fn, batch, scaler), recording_gradients():
        give_shapes(model, step.args, step.kwargs)
        excused = matching(ignore, [name for name, _ in model.named_parameters()], "parameter")
        seen = _Changes(model, optimizer, loss_fn, excused)
        seed_everything(SEED)
        loss = step.take()
        faults = seen.faults(loss, step)
        rows = [("setting", setting((step.args, step.kwargs), f"loss {number(loss)}", *step.scaling()))]
        if faults:
            rows.append(("next", _next(faults[0][0], step)))
    if faults:
        raise AssertionError(failure_text(seen.claim(), [*faults, *rows]))


def assert_fits(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFunction,
    batch: Any,
    *,
    below: float,
    steps: int = 100,
) -> None:
    """Require one batch to be learned: the loss falls below a bound within so many steps.

    The model runs in the modes it is found in, from a fixed seed; model and optimizer are put back afterwards.

    Args:
        model, optimizer, loss_fn, batch: as for assert_training_step.
        below: the loss to fall below.
        steps: how many steps may be taken.

    Raises:
        AssertionError: the loss stays above, or becomes infinite or NaN; the text shows its course.
        VacuousCheckError: the loss is below the bound before the first step.
        ValueError: steps is not positive.
    """
    __tracebackhide__ = True
    if steps < 1:
        raise ValueError("steps must be at least 1")
    step = _Step(model, optimizer, loss_fn, batch)
    course: list[float] = []
    with untouched(model, optimizer, loss_fn, batch), recording_gradients():
        give_shapes(model, step.args, step.kwargs)
        seed_everything(SEED)
        for _ in range(steps):
            course.append(step.take())  # the loss before this step
            if course[-1] < below or not math.isfinite(course[-1]):
                break
        else:
            with torch.no_grad():
                course.append(float(step.loss()))
    if course[0] < below:
        raise VacuousCheckError(f"nothing had to be learned: the loss is {number(course[0])} before the first step")
    if not course[-1] < below:
        name = type(model).__name__
        claim = f"{name} does not fit the batch: loss {number(course[-1])} after {len(course) - 1} steps"
        raise AssertionError(failure_text(claim, _course_rows(course, below, step)))


def _course_rows(course: list[float], below: float, step: _Step) -> list[tuple[str, str]]:
    finite = [loss for loss in course if math.isfinite(loss)]
    places = sorted({round(part * (len(course) - 1) / 4) for part in range(5)})
    lowest = f"{number(min(finite))} at step {course.index(min(finite))}" if finite else "none"
    if not math.isfinite(course[-1]):
        advice = "lower the learning rate, and look for log(0), division by zero and overflow"
    elif len(finite) > 1 and min(finite) < course[0]:
        advice = "it falls: allow more steps or raise the learning rate"
    else:
        advice = "it does not fall: check with assert_training_step and assert_gradients_flow what is trained"
    return [
        ("required", f"below {number(below)}"),
        ("course", ", ".join(f"{place}: {number(course[place])}" for place in places)),
        ("lowest", lowest),
        ("setting", setting((step.args, step.kwargs), f"seed {SEED}")),
        ("next", advice),
    ]


class _Step:
    """One step of training on one batch."""

    def __init__(self, model: Any, optimizer: Any, loss_fn: Any, batch: Any, scaler: Any = None) -> None:
        self.model, self.optimizer, self.loss_fn = as_module(model), optimizer, loss_fn
        if not (hasattr(optimizer, "step") and hasattr(optimizer, "param_groups")):
            raise TypeError(f"give a torch.optim.Optimizer, not a {type(optimizer).__name__}")
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"loss_fn must be called with (output, target), or None, not a {type(loss_fn).__name__}")
        self.scaler = _as_scaler(scaler, optimizer)
        self.scale, self.skipped = 1.0, False
        self.target: Any
        inputs, self.target = (batch, None) if loss_fn is None else _pair(batch)
        self.kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
        self.args = () if isinstance(inputs, Mapping) else as_args(inputs)

    def loss(self) -> torch.Tensor:
        """Return the loss on copies of the batch."""
        args, kwargs, target = fresh((self.args, self.kwargs, self.target))
        output = self.model(*args, **kwargs)
        if self.loss_fn is None:
            return scalar_loss(_own_loss, output)
        return scalar_loss(self.loss_fn, output, target)

    def take(self) -> float:
        """Take the step and return the loss before it."""
        losses: list[float] = []

        def closure() -> float:
            losses.append(self.backward(self.scaler))
            return losses[-1]

        if isinstance(self.optimizer, torch.optim.LBFGS):  # the one that evaluates the loss itself
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
            return losses[0]
        closure()
        if self.scaler is None:
            self.optimizer.step()
        else:
            self._step_scaled(self.scaler)
        return losses[0]

    def backward(self, scaler: torch.amp.GradScaler | None) -> float:
        """Put the gradients of the loss, scaled where there is a scaler, in place of those that are there."""
        self.optimizer.zero_grad()
        loss = self.loss()
        if loss.requires_grad:
            scaled = loss if scaler is None else scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _step_scaled(self, scaler: torch.amp.GradScaler) -> None:
        if all(one.grad is None for one in self.parameters()):  # which a scaler refuses, and the changes show
            return
        self.scale = scaler.get_scale()
        scaler.unscale_(self.optimizer)
        scaler.step(self.optimizer)
        scaler.update()
        self.skipped = scaler.get_scale() < self.scale  # it shrinks when a step is skipped, and then alone

    def parameters(self) -> list[torch.Tensor]:
        """Return what the optimizer was given."""
        return [one for group in self.optimizer.param_groups for one in group["params"]]

    def scaling(self) -> list[str]:
        """Return what the setting says of the scaler."""
        if self.scaler is None:
            return []
        return [f"scale {number(self.scale)}" if self.scaler.is_enabled() else "scaler disabled"]


def _as_scaler(scaler: Any, optimizer: Any) -> torch.amp.GradScaler | None:
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"scaler must be a torch.amp.GradScaler or None, not a {type(scaler).__name__}")
    if scaler is not None and scaler.is_enabled() and isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS evaluates the loss itself, which a torch.amp.GradScaler cannot scale: leave scaler out")
    return scaler


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError("batch must be (inputs, target), where inputs is a tensor, a tuple or a mapping by keyword")
    return batch[0], batch[1]


def _own_loss(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    if hasattr(output, "loss"):
        return output.loss
    raise TypeError(f"the model returns no loss but a {type(output).__name__}: give loss_fn")


class _Changes:
    """What a step changes, of what it may, must and must not change."""

    def __init__(self, model: torch.nn.Module, optimizer: Any, loss_fn: Any, excused: set[str]) -> None:
        self.model, self.excused = model, excused
        self.parameters = dict(model.named_parameters())
        self.trainable = {name for name, one in self.parameters.items() if one.requires_grad and name not in excused}
        if not self.trainable:
            raise VacuousCheckError(f"{type(model).__name__} has no trainable parameter to look at")
        self.handed = {id(one) for group in optimizer.param_groups for one in group["params"]}
        extra = loss_fn.parameters() if isinstance(loss_fn, torch.nn.Module) else ()
        known = {id(one) for one in (*self.parameters.values(), *extra)}
        self.strangers = len(self.handed - known)
        self.frozen_buffers = _frozen_buffers(model)
        self.before = {name: one.detach().clone() for name, one in (self.parameters | self.frozen_buffers).items()}

    def claim(self) -> str:
        """Return the first line of a failure."""
        return f"a training step of {type(self.model).__name__} does not change exactly what it should"

    def faults(self, loss: float, step: _Step) -> list[tuple[str, str]]:
        """Return a labelled row for each kind of fault; of a step that was skipped nothing need change."""
        missing = [name for name in self.parameters if name in self.trainable and not self._is_handed(name)]
        still = [
            f"{name!r} ({self._why(name)})"
            for name in self.parameters
            if name in self.trainable and self._is_handed(name) and not self._has_changed(name) and not step.skipped
        ]
        infinite = [
            name for name in self.trainable if not torch.isfinite(values_of(self.parameters[name].detach())).all()
        ]
        frozen = [name for name, one in self.parameters.items() if not one.requires_grad and self._has_changed(name)]
        statistics = [name for name in self.frozen_buffers if self._has_changed(name)]
        rows = [
            ("loss", "" if math.isfinite(loss) else f"{loss} is not finite"),
            ("skipped", self._skipped(step) if step.skipped else ""),
            ("not handed", f"{listed(missing)} missing from the optimizer" if missing else ""),
            ("unchanged", "\n".join(still[:8]) + (f"\nand {len(still) - 8} more" if still[8:] else "")),
            ("not finite", listed(sorted(infinite))),
            ("frozen", f"{listed(frozen)} changed" if frozen else ""),
            ("statistics", f"{listed(statistics)} of frozen modules changed" if statistics else ""),
            (
                "strangers",
                f"{self.strangers} parameters in the optimizer are not the model's" if self.strangers else "",
            ),
        ]
        return [row for row in rows if row[1]]

    def _skipped(self, step: _Step) -> str:
        infinite = {id(one) for one in step.parameters() if not _is_finite(one.grad)}
        names = [name for name, one in self.parameters.items() if id(one) in infinite]
        whose = listed(names) or "parameters that are not the model's"
        return f"by the scaler: at scale {number(step.scale)} gradients are infinite or NaN\nof {whose}"

    def _is_handed(self, name: str) -> bool:
        return id(self.parameters[name]) in self.handed

    def _has_changed(self, name: str) -> bool:
        now = (self.parameters | self.frozen_buffers)[name]
        return not now.numel() or bool(compare(now, self.before[name], EXACT).differences)

    def _why(self, name: str) -> str:
        gradient = self.parameters[name].grad
        if gradient is None:
            return "no gradient reaches it"
        if not torch.count_nonzero(values_of(gradient)):
            return "its gradient is all zero"
        return "its step is zero or lost in rounding"


def _frozen_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers of modules whose own parameters are all frozen."""
    found: dict[str, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(one.requires_grad for one in own):
            found |= dict(module.named_buffers(prefix, recurse=False))
    return found


def _is_finite(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(values_of(gradient)).all())


def _next(label: str, step: _Step) -> str:
    if label == "skipped":
        return _next_after_skipping(step)
    advice = {
        "loss": "look for log(0), division by zero and overflow in the loss",
        "not handed": "build the optimizer from all of model.parameters(), after every part is in place",
        "unchanged": "see assert_gradients_flow, and the learning rate of its group",
        "not finite": "lower the learning rate, or clip the gradients",
        "frozen": "keep frozen parameters out of the optimizer: weight decay and momentum move them",
        "statistics": "put frozen normalization in eval mode",
        "strangers": "build the optimizer after the model has its final parameters",
    }
    return advice[label]


def _next_after_skipping(step: _Step) -> str:
    """Say whether the scale or the model is to blame: a step that was skipped has left the parameters as they were."""
    seed_everything(SEED)
    step.backward(None)
    if all(_is_finite(one.grad) for one in step.parameters()):
        return "without the scaler they are finite: give it a smaller init_scale"
    return "without the scaler they are not finite either: look for log(0), division by zero and overflow"
