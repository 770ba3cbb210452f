"""Train against eval mode, and eval mode against itself."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.alike import Runner, compare_outputs, largest_gap, require_values, runner
from pytest_torchcheck.assertions.backward import SEED
from pytest_torchcheck.assertions.calls import as_args, as_kwargs, as_module, fresh, modules_of, seed_everything
from pytest_torchcheck.assertions.close import EXACT, Rules, compare, explain
from pytest_torchcheck.assertions.wording import listed, matching, setting
from pytest_torchcheck.messages import failure_text, number

_DROPOUT = torch.nn.modules.dropout._DropoutNd
_NORM = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.instancenorm._InstanceNorm)
Part = Callable[[torch.nn.Module], bool]


def assert_modes_differ(
    model: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require train and eval mode to give different outputs, as is claimed of a model with dropout or BatchNorm.

    Both modes run from the same seed, so that random numbers drawn in either way are no difference.

    Args:
        model: the module; args, kwargs: its inputs, of which copies are used.
        rtol, atol: both or neither; what counts as no difference: by default rounding of the dtypes that take part.

    Raises:
        AssertionError: the outputs agree, or eval mode itself is random.
        VacuousCheckError: there is no output to compare.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with runner(as_module(model), args, kwargs) as runs:
        quiet = runs.output(False)
        allowed = runs.tolerance(quiet, rtol, atol)
        name = type(model).__name__
        noise = compare_outputs(runs.output(False, seed=SEED + 1), quiet, allowed, name)
        if noise.differences:
            rows = [("next", "find what is random in eval mode with assert_eval_deterministic")]
            raise AssertionError(explain(f"{name} is random in eval mode", noise.differences, rows))
        if compare_outputs(runs.output(True), quiet, allowed, name).differences:
            return
    rows = [
        *_inventory(model),
        ("allowed", allowed.text()),
        ("setting", setting(args, f"seed {SEED}")),
        ("next", "see whether the mode reaches every part: train() overridden, training= not handed on"),
    ]
    raise AssertionError(failure_text(f"train and eval mode of {name} give the same output", rows))


def assert_modes_agree(
    model: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require train and eval mode to give the same output, as is claimed of a model without dropout or BatchNorm.

    Each mode runs from a seed of its own, so that what is random in either way is a difference.

    Args:
        model: the module; args, kwargs: its inputs, of which copies are used.
        rtol, atol: both or neither; by default rounding of the dtypes that take part is allowed.

    Raises:
        AssertionError: the outputs differ; the text says how far dropout, BatchNorm and the rest move them alone.
        VacuousCheckError: there is no output to compare.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with runner(as_module(model), args, kwargs) as runs:
        quiet = runs.output(False)
        allowed = runs.tolerance(quiet, rtol, atol)
        name = type(model).__name__
        differences = compare_outputs(runs.output(True, seed=SEED + 1), quiet, allowed, name).differences
        rows = _shares(runs, model, quiet) if differences else []
    if differences:
        raise AssertionError(explain(f"train and eval mode of {name} differ", differences, rows))


def _inventory(model: torch.nn.Module) -> list[tuple[str, str]]:
    dropouts = [module for module in model.modules() if isinstance(module, _DROPOUT)]
    norms = [module for module in model.modules() if isinstance(module, _NORM)]
    p = ", ".join(sorted({f"p={number(module.p)}" for module in dropouts}))
    return [
        ("dropout", f"{len(dropouts)} modules, {p}" if dropouts else "no module"),
        ("BatchNorm", f"{len(norms)} modules" if norms else "no module"),
    ]


def _shares(runs: Runner, model: torch.nn.Module, quiet: Any) -> list[tuple[str, str]]:
    """Return how far the output moves when one kind of module alone is in train mode."""
    kinds: list[tuple[str, Part]] = [
        ("dropout", lambda module: isinstance(module, _DROPOUT)),
        ("BatchNorm", lambda module: isinstance(module, _NORM)),
        ("the rest", lambda module: not isinstance(module, (_DROPOUT, *_NORM))),
    ]
    return [(label, _share(runs, model, quiet, belongs)) for label, belongs in kinds]


def _share(runs: Runner, model: torch.nn.Module, quiet: Any, belongs: Part) -> str:
    chosen = [module for module in model.modules() if belongs(module)]
    if not chosen:
        return "no module"
    model.eval()
    for module in chosen:
        module.training = True
    gap = largest_gap(runs.output(None, seed=SEED + 1), quiet)
    return f"{len(chosen)} modules alone in train mode: |diff| up to {gap:.2g}"


# -- eval mode repeats itself ----------------------------------------------------------------------------------


def assert_eval_deterministic(
    model: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    runs: int = 2,
    rtol: float | None = None,
    atol: float | None = None,
    ignore: str | Iterable[str] = (),
) -> None:
    """Require eval mode to repeat itself and to change nothing: not its parameters, buffers, modes or inputs.

    The runs follow each other without seeding and without anything put back in between.

    Args:
        model: the module; args, kwargs: its inputs, of which every run gets copies.
        runs: how many runs are compared with the first, and the first itself; at least 2.
        rtol, atol: both or neither; by default the outputs must be equal bit for bit.
        ignore: names or patterns of buffers that may change, such as a counter of calls.

    Raises:
        AssertionError: an output differs from the first, or state or inputs changed; the text says which, whether
            random numbers are drawn, and in which submodule.
        VacuousCheckError: there is no output to compare.
        ValueError: fewer than two runs.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    if runs < 2:
        raise ValueError("runs must be at least 2: one run cannot differ from itself")
    rules = EXACT if rtol is None and atol is None else Rules(rtol, atol, equal_nan=True)
    with runner(as_module(model), args, kwargs) as held:
        seed_everything(SEED)
        watch = _Watch(held, ignore)
        first = watch.run()
        differences: list[str] = []
        for _ in range(runs - 1):
            seen = compare(watch.run(), first, rules, name="output")
            differences = differences or seen.differences
        if not differences:
            require_values(seen, first, f"the output of {type(model).__name__}")
        rows = watch.rows(bool(differences))
    if differences or watch.changed or watch.moved:
        raise AssertionError(_said(model, differences, watch, rows))


def _said(model: torch.nn.Module, differences: list[str], watch: _Watch, rows: list[tuple[str, str]]) -> str:
    name = type(model).__name__
    if differences:
        return explain(f"{name} in eval mode does not repeat itself", differences, rows)
    claim = "changes its own state" if watch.changed else "changes its inputs in place"
    return failure_text(f"{name} in eval mode {claim}", rows)


class _Watch:
    """Runs in eval mode, with what they change and whether they draw random numbers."""

    def __init__(self, held: Runner, ignore: str | Iterable[str]) -> None:
        self.held, [self.model] = held, modules_of(held.subject)
        held.set_mode(False)
        names = [name for name, _ in (*self.model.named_buffers(), *self.model.named_parameters())]
        self.excused = matching(ignore, names, "buffer or parameter")
        self.before, self.modes = self._state(), self._modes()
        self.changed: list[str] = []
        self.moved: list[str] = []
        self.drawn = False

    def run(self) -> Any:
        """Run once on fresh inputs, note what changed, and return a copy of the output."""
        inputs, found = fresh((self.held.args, dict(self.held.kwargs))), _random_state()
        given = fresh(inputs)
        output = self.held.subject(*given[0], **given[1])
        self.drawn = self.drawn or _random_state() != found
        self.moved = self.moved or _changed_inputs(given, inputs)
        self.changed = self.changed or self._changes()
        return nests.map_tensors(lambda one: one.detach().clone(), output)

    def _state(self) -> dict[str, torch.Tensor]:
        named = [("buffer", self.model.named_buffers()), ("parameter", self.model.named_parameters())]
        return {
            f"{kind} {name!r}": one.detach().clone()
            for kind, pairs in named
            for name, one in pairs
            if name not in self.excused
        }

    def _modes(self) -> dict[str, bool]:
        return {name: module.training for name, module in self.model.named_modules()}

    def _changes(self) -> list[str]:
        now, modes = self._state(), self._modes()
        # A buffer that is made at the first call, as tables of positions are, changes nothing that was there.
        tensors = [name for name, found in self.before.items() if _differ(found, now.get(name))]
        return tensors + [f"mode of {name!r}" for name, found in self.modes.items() if modes.get(name) != found]

    def rows(self, differ: bool) -> list[tuple[str, str]]:
        """Return what explains a failure."""
        culprit = first_change(self.held) if differ else ""
        state = ", ".join(self.changed[:4]) + (f" and {len(self.changed) - 4} more" if self.changed[4:] else "")
        random_text = "drawn in eval mode: dropout without training=self.training?" if self.drawn and differ else ""
        return [
            ("random", random_text),
            ("begins in", culprit),
            ("state", f"{state} changed" if state else ""),
            ("inputs", f"{listed(self.moved)} changed in place" if self.moved else ""),
            ("setting", "" if differ else setting(self.held.args)),  # which a difference shows already
            ("next", _advice(differ, self)),
        ]


def _advice(differ: bool, watch: _Watch) -> str:
    if watch.changed:
        return "update state only if self.training"
    if watch.moved:
        return "use the operation that returns a new tensor (relu instead of relu_), or clone the input"
    return "" if watch.drawn or not differ else "assert_deterministic tells which operation differs"


def _differ(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    return left is None or right is None or bool(compare(left, right, EXACT).differences)


def _changed_inputs(given: Any, found: Any) -> list[str]:
    after, before = nests.tensors(given), dict(nests.tensors(found))
    return [_input_name(path) for path, one in after if path not in before or _differ(one, before[path])]


def _input_name(path: str) -> str:
    return ("args" if path.startswith("[0]") else "kwargs") + path[3:]


def _random_state() -> tuple[Any, ...]:
    """Return the state of the global generators on the CPU and the started devices, to be compared."""
    from pytest_torchcheck import state

    numpy = sys.modules.get("numpy")
    devices = [one for device in state._devices().values() for one in device.random]
    tensors = [torch.default_generator.get_state(), *devices]
    numpy_state = None if numpy is None else str(numpy.random.get_state())
    return random.getstate(), numpy_state, *(bytes(one.cpu().numpy()) for one in tensors)


def first_change(held: Runner) -> str:
    """Return the submodule whose output is the first to differ between two runs from one state, or nothing."""
    traces = [_trace(held) for _ in range(2)]
    for (name, one), (_, other) in zip(traces[0], traces[1], strict=False):
        if compare(one, other, EXACT).differences:
            return name
    return ""


def _trace(held: Runner) -> list[tuple[str, Any]]:
    outputs: list[tuple[str, Any]] = []
    handles = []
    for module in modules_of(held.subject):
        for name, part in module.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):
                handles.append(part.register_forward_hook(_remember(_title(name, part), outputs)))
    try:
        given = fresh((held.args, dict(held.kwargs)))
        held.subject(*given[0], **given[1])
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _title(name: str, part: torch.nn.Module) -> str:
    return f"{name!r} ({type(part).__name__})" if name else f"{type(part).__name__} itself"


def _remember(name: str, outputs: list[tuple[str, Any]]) -> Callable[..., None]:
    def remember(module: torch.nn.Module, args: Any, output: Any) -> None:
        outputs.append((name, nests.map_tensors(lambda one: one.detach().clone(), output)))

    return remember
