"""What the parity helpers share: run eager and another form on the same inputs, compare all that comes out, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_subject,
    fresh,
    modules_of,
    modules_untouched,
    name_of,
    seed_everything,
    untouched,
)
from pytest_torchcheck.assertions.close import EXACT, compare
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.parity_inputs import SEED, Case, FreeDimensions, given_cases, made_up_cases
from pytest_torchcheck.assertions.parity_numbers import largest, tolerance
from pytest_torchcheck.assertions.parity_report import Report, Run
from pytest_torchcheck.assertions.quiet import UsersWarnings

MODES = ("eval", "train")
#: For ``Form.ran`` and ``Form.when_idle`` of a form whose graph is empty: agreement would prove nothing.
EMPTY = "its graph has no operation: there is nothing that could differ"
Tensors = Mapping[str, torch.Tensor]


@dataclass
class Form:
    """One way to run the model: eager itself, or what a compiler made of it.

    parameters, buffers: return its own, by the names that the model gives them.
    ran: counts the runs of compiled code so far; None where the form cannot run anything else. ``when_idle`` says
        what that means where a call ran none.
    keeps_state: False where a call cannot change inputs and state (a file in another runtime).
    collect: brings what a run showed to where it is compared; it may raise.
    """

    name: str
    call: Callable[..., Any]
    parameters: Callable[[], Tensors] = dict
    buffers: Callable[[], Tensors] = dict
    ran: Callable[[], int] | None = None
    keeps_state: bool = True
    collect: Callable[[Outcome], Outcome] = lambda outcome: outcome
    next_step: str = ""
    when_idle: str = ""


@dataclass(frozen=True)
class Outcome:
    """All that one call showed, by kind: outputs, gradients, and what the call changed in place."""

    output: Any
    gradients: Mapping[str, torch.Tensor | None] = field(default_factory=dict)
    changed: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is asked of a parity check, beside the forms. ``free`` is for dimensions that an exporter left open."""

    subject: Subject
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    other_args: Iterable[Any] | None = None
    gradients: bool | None = None
    modes: tuple[str, ...] | None = None
    rtol: float | None = None
    atol: float | None = None
    free: FreeDimensions | None = None

    def __post_init__(self) -> None:
        as_subject(self.subject)
        if self.modes is not None and (not self.modes or not set(self.modes) <= set(MODES)):
            raise ValueError(f"modes must be None or a tuple of {' and '.join(map(repr, MODES))}, not {self.modes!r}")
        tolerance((), self.rtol, self.atol)

    def wants_gradients(self, mode: str) -> bool:
        """Return whether a run in ``mode`` records gradients.

        In eval a model runs as it is deployed, under no_grad, unless gradients are asked for: some layers take
        another path then (the fused one of TransformerEncoder), and some have no backward (cuDNN's recurrent ones).
        """
        if self.gradients is None and modules_of(self.subject):
            return mode == "train"
        return self.gradients is not False


def eager_form(subject: Subject) -> Form:
    """Return the form that everything else is compared with."""
    return Form("eager", subject, *state_of(subject))


def state_of(subject: Subject) -> tuple[Callable[[], Tensors], Callable[[], Tensors]]:
    """Return what reads the parameters and the buffers that the subject owns, by name."""
    owners = modules_of(subject)
    return (
        lambda: {name: one for owner in owners for name, one in owner.named_parameters()},
        lambda: {name: one for owner in owners for name, one in owner.named_buffers()},
    )


def renamed(tensors: Callable[[], Tensors], prefix: str) -> Callable[[], Tensors]:
    """Return what reads the same tensors by names without ``prefix``, which a wrapper put there."""
    return lambda: {name.removeprefix(prefix): one for name, one in tensors().items()}


def run(form: Form, case: Case, gradients: bool) -> Outcome:
    """Call ``form`` on copies of the inputs of ``case`` with a fixed seed; its own state is put back afterwards."""
    args, kwargs = fresh((case.args, dict(case.kwargs)))
    inputs = dict(_named_inputs(args, kwargs))
    watched = {**form.buffers(), **inputs}
    with _values_kept([*form.parameters().values(), *form.buffers().values()]):
        before = {name: _copy(one) for name, one in watched.items()}
        seed_everything(SEED)
        with torch.set_grad_enabled(gradients):
            output = form.call(*args, **kwargs)
            leaves = {**form.parameters(), **inputs} if gradients else {}
            grads = _gradients(output, {name: one for name, one in leaves.items() if one.requires_grad and one.is_leaf})
        watched.update(form.buffers())
        changed = {name: _copy(one) for name, one in watched.items() if not _same(one, before.get(name))}
        return Outcome(nests.map_tensors(_copy, output), grads, changed)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def _same(tensor: torch.Tensor, other: torch.Tensor | None) -> bool:
    if other is None or tensor.shape != other.shape or tensor.is_meta:
        return other is not None and tensor.shape == other.shape
    return bool(torch.equal(tensor.detach(), other))


@contextmanager
def _values_kept(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Put the values of a form's own tensors back: each run starts from the same state."""
    saved = [(one.data, _copy(one)) for one in tensors if not one.is_meta]
    try:
        yield
    finally:
        for data, values in saved:
            if not torch.equal(data, values):
                data.copy_(values)


def _named_inputs(args: Any, kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, nest in (("args", args), ("kwargs", kwargs)):
        yield from ((f"{name}{path}", one) for path, one in nests.tensors(nest))


def _gradients(output: Any, wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Return d(loss)/d(wanted) for a loss with fixed random weights: a plain sum is blind to softmax and LayerNorm."""
    reached = [dense_or_real(one) for _, one in nests.tensors(output) if one.requires_grad]
    if not reached or not wanted:
        return {}
    generator = torch.Generator().manual_seed(SEED)
    weights = [torch.randn(one.shape, generator=generator).to(one.device, one.dtype) for one in reached]
    loss = torch.stack(
        [(one * weight).sum().to(reached[0].device) for one, weight in zip(reached, weights, strict=True)]
    )
    grads = torch.autograd.grad(loss.sum(), list(wanted.values()), allow_unused=True)
    return {name: None if one is None else _copy(one) for name, one in zip(wanted, grads, strict=True)}


def dense_or_real(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in a form that a weighted sum can be taken of: strided and real."""
    plain = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain


def form_of(name: str, made: Any, *, empty: bool, next_step: str) -> Form:
    """Return the form for a module or function that a compiler made; ``empty`` tells that its graph does nothing."""
    parameters, buffers = state_of(made)
    ran = (lambda: 0) if empty else None
    return Form(name, made, parameters, buffers, ran, next_step=next_step, when_idle=EMPTY)


def set_mode(subject: Subject, mode: str) -> None:
    """Put the module that the subject is, or belongs to, in ``mode``; a plain function has none."""
    for module in modules_of(subject):
        module.train(mode == "train")


@contextmanager
def prepared(plan: Plan) -> Iterator[None]:
    """Leave the subject and torch as they were found, and give lazy modules their shapes meanwhile."""
    lazy = (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)
    held = [one for module in modules_of(plan.subject) for one in (*module.parameters(), *module.buffers())]
    with untouched(plan.subject), torch.inference_mode(False):
        if any(isinstance(one, lazy) for one in held):
            args, kwargs = fresh((plan.args, dict(plan.kwargs)))
            set_mode(plan.subject, "eval")
            with torch.no_grad():
                plan.subject(*args, **kwargs)
        yield


def expected_by_mode(plan: Plan) -> dict[str, list[tuple[Case, Outcome]]]:
    """Return what eager gives for every input, per mode; a mode in which ``args`` cannot be run does not apply.

    Raises:
        VacuousCheckError: when no other input could be made up.
        Exception: what eager itself raises on ``args`` where it does so in every mode.
    """
    modes = plan.modes or MODES
    if not modules_of(plan.subject):
        return {modes[0]: _expected(plan, modes[0])}
    found: dict[str, list[tuple[Case, Outcome]]] = {}
    errors: list[Exception] = []
    for mode in modes:
        try:
            found[mode] = _expected(plan, mode)
        except VacuousCheckError:
            raise
        except Exception as error:  # BatchNorm refuses a batch of one in training, for one
            errors.append(error)
    if errors and (plan.modes or not found):
        raise errors[0]
    return found


def _expected(plan: Plan, mode: str) -> list[tuple[Case, Outcome]]:
    cases = given_cases(plan.args, plan.kwargs, plan.other_args)
    found = [(case, _run_eager(plan, mode, case)) for case in cases]
    if plan.other_args is None:
        for group in made_up_cases(cases[0], plan.free):
            found += _first_that_runs(plan, mode, group, found[0][1])
        if len(found) == 1:
            raise VacuousCheckError(
                f"no other input than the given one could be made up for {name_of(plan.subject)}: "
                "pass other_args=[...], or other_args=[] to check the given one alone"
            )
    return found


def _run_eager(plan: Plan, mode: str, case: Case) -> Outcome:
    with modules_untouched(plan.subject), _truly_eager():
        set_mode(plan.subject, mode)
        return run(eager_form(plan.subject), case, plan.wants_gradients(mode))


def _truly_eager() -> AbstractContextManager[Any]:
    """Run what was compiled before (``module.compile()``, a compiled part) as plain Python for a block."""
    if "torch._dynamo.eval_frame" not in sys.modules:  # nothing can have been compiled, and loading it takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _first_that_runs(plan: Plan, mode: str, group: list[Case], given: Outcome) -> list[tuple[Case, Outcome]]:
    for case in group:
        try:
            with UsersWarnings().collected():
                outcome = _run_eager(plan, mode, case)
        except Exception:  # any model may refuse an input that nobody gave, in any way
            continue
        if _is_finite(outcome) or not _is_finite(given):
            return [(case, outcome)]
    return []


def _is_finite(outcome: Outcome) -> bool:
    return all(bool(torch.isfinite(_plain(one)).all()) for _, one in nests.tensors(outcome.output) if not one.is_meta)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.layout == torch.strided and not tensor.is_quantized else torch.zeros(())


def assert_parity(plan: Plan, build: Callable[[str], Iterable[Form]]) -> None:
    """Require every form that ``build(mode)`` gives to agree with eager on every input, in every mode.

    Raises:
        AssertionError: by input, mode, form and path.
        VacuousCheckError: no other input, no value, no gradient where asked for, or no compiled code run.
    """
    __tracebackhide__ = True
    report = Report(name_of(plan.subject))
    with prepared(plan):
        for mode, expected in expected_by_mode(plan).items():
            with modules_untouched(plan.subject), torch.set_grad_enabled(plan.wants_gradients(mode)):
                set_mode(plan.subject, mode)
                for form in build(mode):
                    for case, outcome in expected:
                        check_form(report, plan, form, mode, case, outcome)
                        if report.failures and report.repeats is None:
                            report.repeats = _repeats(plan, mode, case, outcome)
    report.conclude(gradients=plan.gradients)


def _repeats(plan: Plan, mode: str, case: Case, outcome: Outcome) -> bool:
    """Return whether eager gives the same once more: diagnosis only, once something differs."""
    return not compare(_run_eager(plan, mode, case).output, outcome.output, EXACT).differences


def check_form(report: Report, plan: Plan, form: Form, mode: str, case: Case, expected: Outcome) -> None:
    """Run one form on one input and enter what differs from ``expected`` into the report."""
    __tracebackhide__ = True
    where = Run(form.name, case.name, mode if modules_of(plan.subject) else "", form.next_step)
    ran = form.ran() if form.ran else 0
    warned = UsersWarnings()
    try:
        with modules_untouched(plan.subject), warned.collected():
            actual = form.collect(run(form, case, plan.wants_gradients(mode)))
    except Exception as error:
        report.raised(where, error)
        return
    if not case.made_up:  # nobody asked for the others
        warned.repeat()
    if form.ran and form.ran() == ran:
        report.nothing_ran(replace(where, next_step=form.when_idle))
    params = list(eager_form(plan.subject).parameters().values())
    allowed = tolerance([params, case.args, dict(case.kwargs), expected.output], plan.rtol, plan.atol)
    report.compare(where, "output", actual.output, expected.output, allowed)
    noise = max((largest(one) for one in expected.gradients.values()), default=0.0)
    summed = _summed_over_ties(plan.subject, actual.gradients)
    report.compare_gradients(where, summed, expected.gradients, allowed, noise)
    if form.keeps_state:
        report.compare_changed(where, actual.changed, expected.changed, allowed)


def _summed_over_ties(subject: Subject, gradients: Mapping[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """Return one gradient per parameter of eager: a form may keep several for one that has several names."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for owner in modules_of(subject):
        for name, one in owner.named_parameters(remove_duplicate=False):
            names[name] = first.setdefault(id(one), name)
    total: dict[str, torch.Tensor | None] = {}
    for name, grad in gradients.items():
        key = names.get(name, name)
        before = total.get(key)
        total[key] = grad if before is None else before if grad is None else before + grad
    return total
