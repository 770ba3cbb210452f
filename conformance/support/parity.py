"""Run a module on a device and say how far rounding alone may take it from the CPU in float64.

The allowance comes from a simulation, not from tuning. In float64 on the CPU every operation of the forward and
backward pass gets its operands and results multiplied by 1 +- STEP with random signs: Monte Carlo arithmetic (D. S.
Parker, 1997, UCLA CSD-970002). The root mean square of what that changes in a result, scaled from STEP to the unit
roundoff of the dtype under test, is the typical rounding error of that result, and SAFETY times it is allowed. SAFETY
covers what the simulation does not: the order of the sums inside one kernel, and that a root mean square of 24 samples
is itself uncertain (it falls below a quarter of the true one with probability below 1e-10, by the chi-square
distribution). Elementary functions add their own error: at most 4 units in the last place on CUDA (CUDA C++ Programming
Guide, "Mathematical Functions"). cuDNN's recurrent kernels are the exception: in float32 they approximate tanh and the
sigmoid, for which the hardware's instruction errs by up to 2**-11 (PTX ISA, "tanh"), 2**-17 seen on an H100.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .numeric import UNIT_ROUNDOFF, rounding, to_numpy

SAMPLES = 24
SAFETY = 8.0
STEP = 2.0**-30
FUNCTION_STEPS = 8  # units in the last place are two unit roundoffs each

Results = dict[str, np.ndarray]
Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A module, what to feed it, and whether its results must agree to the last bit.

    build: makes the module; its parameters are overwritten with seeded values.
    inputs: makes the inputs from a seeded generator, by argument name; floating ones get gradients, but for "target".
    call: calls the module with the inputs, all as tensors, by name.
    exact: for modules that only select and copy numbers.
    positive_buffers: fill floating buffers with values of [0.5, 1.5] (running statistics of a module in eval mode).
    gated: for recurrent layers of tanh and sigmoids, which cuDNN approximates.
    held_by: the dtypes that hold every value drawn exactly. Values that narrower dtypes hold as well would hide that a
        kernel rounds its operands to one of them.
    """

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[np.random.Generator], Inputs]
    call: Callable[..., object] = lambda module, **inputs: module(*inputs.values())
    exact: bool = False
    positive_buffers: bool = False
    gated: bool = False
    held_by: tuple[torch.dtype, ...] = (torch.float32,)


def _precision_switches() -> list[tuple[object, str, object]]:
    """Return the settings that let CUDA compute with fewer bits than the dtype has, each with its strictest value."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: list[tuple[object, str, object]] = [
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    ]
    if hasattr(cudnn, "conv"):  # torch 2.9 and later
        return switches + [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return switches + [(owner, "allow_tf32", False) for owner in (matmul, cudnn)]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute with all the bits of the dtype for the time being."""
    switches = _precision_switches()
    former = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, strictest in switches:
            setattr(owner, name, strictest)
        yield
    finally:
        for (owner, name, _), value in zip(switches, former, strict=True):
            setattr(owner, name, value)


def representable(array: np.ndarray, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
    """Return a float64 tensor of the array's values rounded so that each of ``dtypes`` holds them exactly."""
    values = torch.from_numpy(array)
    for dtype in dtypes:
        values = values.to(dtype)
    return values.to(torch.float64)


class Pass:
    """One forward and backward pass of a case; what is drawn from ``seed`` are the same numbers for every dtype.

    module, inputs: the module with its parameters filled, and the tensors it is called with; leaves: those that get a
    gradient.
    """

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        self.rng = np.random.default_rng(seed)
        self.module = case.build().to(device, dtype)
        _fill(self.module, case, self.rng, self.tensor)
        self.inputs = {name: self.tensor(array) for name, array in case.inputs(self.rng).items()}
        for name, x in self.inputs.items():
            x.requires_grad_(x.is_floating_point() and name != "target")

    @property
    def leaves(self) -> dict[str, torch.Tensor]:
        return {name: x for name, x in self.inputs.items() if x.requires_grad}

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Return the array's values, as all dtypes of the case hold them, in the pass's dtype on its device."""
        if array.dtype.kind != "f":
            return torch.from_numpy(array).to(self.device)
        return representable(array, self.case.held_by).to(self.dtype).to(self.device)

    def outputs(self) -> list[torch.Tensor]:
        """Call the module and return its tensors in order."""
        return [out for out in tree_leaves(self.case.call(self.module, **self.inputs)) if isinstance(out, torch.Tensor)]

    def cotangents(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Draw the gradients put in."""
        return [self.tensor(self.rng.uniform(-0.9, 0.9, tuple(out.shape))) for out in outputs]

    def results(self, outputs: list[torch.Tensor]) -> Results:
        """Return outputs, gradients and buffers by name; those of parameters that need none are left out."""
        found = {f"output {index}": out for index, out in enumerate(outputs)}
        found |= {f"gradient of input {name}": x.grad for name, x in self.leaves.items()}
        found |= {f"gradient of {name}": p.grad for name, p in self.module.named_parameters() if p.requires_grad}
        found |= {f"buffer {name}": b for name, b in self.module.named_buffers()}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise AssertionError(f"there is no {missing[0]} on {self.device}")
        return {name: to_numpy(value) for name, value in found.items()}


def run(
    case: Case,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    within: contextlib.AbstractContextManager = contextlib.nullcontext(),  # noqa: B008  (it has no state)
) -> Results:
    """Return outputs, gradients and buffers of one forward and backward pass in ``dtype`` on ``device``.

    Both passes run within the context; what they are given is drawn and rounded to what the dtypes hold outside it.
    """
    once = Pass(case, device, dtype, seed)
    with within:
        outputs = once.outputs()
    cotangents = once.cotangents(outputs)
    with within:
        torch.autograd.backward(outputs, cotangents)
    return once.results(outputs)


def _fill(module: torch.nn.Module, case: Case, rng: np.random.Generator, tensor: Callable) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(tensor(rng.uniform(-0.9, 0.9, tuple(parameter.shape))))
        for buffer in module.buffers() if case.positive_buffers else []:
            if buffer.is_floating_point():
                buffer.copy_(tensor(rng.uniform(0.5, 1.5, tuple(buffer.shape))))


class Roundings(TorchDispatchMode):
    """Multiply operands and results of every operation by 1 +- STEP with random signs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def factor(self, value: object) -> torch.Tensor | None:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return None
        signs = torch.randint(0, 2, value.shape, generator=self.generator)
        return 1 + STEP * (2 * signs.to(value.dtype) - 1)

    def rounded(self, value: object) -> object:
        factor = self.factor(value)
        return value if factor is None else value * factor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.is_view or func.namespace != "aten":
            return func(*args, **kwargs)
        if not func._schema.is_mutable:
            # batch norm writes its running statistics although its schema does not say so: hand them over as they are
            names = [argument.name for argument in func._schema.arguments]
            args = [
                arg if name.startswith("running_") else tree_map(self.rounded, arg)
                for name, arg in zip(names, args, strict=False)
            ]
        results = func(*args, **kwargs)
        for result in tree_leaves(results):
            factor = self.factor(result)
            if factor is not None:
                result.mul_(factor)
        return results


def reference(case: Case, seed: int, samples: int = SAMPLES) -> tuple[Results, Results]:
    """Return the results of the CPU in float64, and the typical rounding error of each per unit roundoff."""
    cpu = torch.device("cpu")
    exact = run(case, cpu, torch.float64, seed)
    squares = {name: np.zeros(value.shape) for name, value in exact.items()}
    for sample in range(0 if case.exact else samples):
        noisy = run(case, cpu, torch.float64, seed, Roundings(seed + sample))
        for name, value in noisy.items():
            squares[name] += (value.astype(np.float64) - exact[name]) ** 2
    return exact, {name: np.sqrt(total / samples) / STEP for name, total in squares.items()}


def unit_of(dtype: torch.dtype, device: torch.device, *, gated: bool) -> float:
    """Return the relative error of one operation on the device: that of tanh where cuDNN approximates it."""
    approximate = gated and device.type == "cuda" and dtype == torch.float32
    return 2.0**-11 if approximate else UNIT_ROUNDOFF[dtype]


def allowance(case: Case, exact: Results, errors: Results, dtype: torch.dtype, device: torch.device) -> Results:
    """Return the difference from ``exact`` that rounding in ``dtype`` explains: none for a case that is exact."""
    if case.exact:
        return errors
    tiny = torch.finfo(dtype).tiny * UNIT_ROUNDOFF[dtype]  # half the spacing below the normal numbers
    unit = unit_of(dtype, device, gated=case.gated)
    return {
        name: SAFETY * (unit * error + tiny) + rounding(dtype, FUNCTION_STEPS) * np.abs(exact[name])
        for name, error in errors.items()
    }


def assert_parity(measured: Results, expected: Results, allowed: Results, what: str) -> None:
    """Require every result to lie within what rounding explains; all that do not are named.

    Raises:
        AssertionError: with the worst element of each result that is off.
    """
    __tracebackhide__ = True
    if measured.keys() != expected.keys():
        raise AssertionError(f"{what}: the results are {sorted(measured)}, expected {sorted(expected)}")
    problems = [
        f"  {name}: {problem}"
        for name in expected
        if (problem := _difference(measured[name], expected[name], allowed[name]))
    ]
    if problems:
        raise AssertionError(f"{what} differs from the cpu in float64 by more than rounding\n" + "\n".join(problems))


def _difference(measured: np.ndarray, expected: np.ndarray, allowed: np.ndarray) -> str | None:
    if measured.shape != expected.shape:
        return f"shape {measured.shape}, expected {expected.shape}"
    gap = np.abs(measured.astype(np.float64) - expected.astype(np.float64))
    excess = np.where(np.isnan(gap), np.inf, gap) - allowed
    if not (excess > 0).any():
        return None
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    return (
        f"{int((excess > 0).sum())} of {excess.size} elements, worst at {place}: "
        f"{measured[place]} against {expected[place]}, allowed {allowed[place]:.3g}"
    )
