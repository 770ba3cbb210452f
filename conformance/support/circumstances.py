"""Run a module in circumstances that must not matter: gradient modes, layouts, parts that are frozen, batches, copies.

The expected values are those of the contiguous float64 pass on the CPU, which other checks hold against formulas. They
are compared by norm: the error of a whole result, 2-norm over its elements, may be SAFETY times what the simulation of
``support/parity.py`` finds in three samples, plus STEPS roundings of the result itself.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from . import layers
from .numeric import require, rounding, to_numpy
from .parity import Case, Pass, Results, full_precision, reference, unit_of

SAMPLES = 3
STEPS = 16
#: In half precision kernels round what goes in and comes out, and the simulation every operation between as well.
SAFETY = {torch.float32: 16.0, torch.float64: 16.0, torch.float16: 4.0, torch.bfloat16: 4.0}
COPIES = 33  # of the batch: a size that no vector width divides
SEED = 20241107

Circumstance = Callable[[Pass], Results]


def backward(trial: Pass, place: Callable[[torch.Tensor], torch.Tensor] = lambda x: x, times: int = 1) -> Results:
    """Return the results of a forward pass and of ``times`` backward passes, gradients divided by ``times``."""
    outputs = trial.outputs()
    cotangents = [place(cotangent) for cotangent in trial.cotangents(outputs)]
    if any(out.requires_grad for out in outputs):
        for _ in range(times):
            torch.autograd.backward(outputs, cotangents, retain_graph=times > 1)
    return {
        name: value / times if name.startswith("gradient") else value for name, value in trial.results(outputs).items()
    }


def no_grad(trial: Pass) -> Results:
    with torch.no_grad():
        outputs = trial.outputs()
    require(not any(out.requires_grad for out in outputs), "an output requires gradients under no_grad")
    return without_gradients(outputs, trial)


def inference_mode(trial: Pass) -> Results:
    with torch.inference_mode():
        return without_gradients(trial.outputs(), trial)


def without_gradients(outputs: list[torch.Tensor], trial: Pass) -> Results:
    buffers = {f"buffer {name}": to_numpy(buffer) for name, buffer in trial.module.named_buffers()}
    return buffers | {f"output {index}": to_numpy(out) for index, out in enumerate(outputs)}


def second_call(trial: Pass) -> Results:
    trial.outputs()
    return {name: value for name, value in backward(trial).items() if not name.startswith("buffer")}


def frozen_parameters(trial: Pass) -> Results:
    trial.module.requires_grad_(False)
    results = backward(trial)
    require(all(parameter.grad is None for parameter in trial.module.parameters()), "a frozen parameter has a gradient")
    return results


def constant_inputs(trial: Pass) -> Results:
    trial.inputs = {name: x.detach() for name, x in trial.inputs.items()}
    results = backward(trial)
    require(all(x.grad is None for x in trial.inputs.values()), "an input that asked for none has a gradient")
    return results


def placed(layout: str, x: torch.Tensor) -> torch.Tensor:
    """Return a leaf with the values of ``x`` in the layout; integers stay as they are, and what has no such layout."""
    dimensions = 2 if layout == "channels-last" else 1
    return layers.laid_out(x, layout) if x.is_floating_point() and x.ndim >= dimensions else x


def inputs_laid_out(layout: str, trial: Pass) -> Results:
    trial.inputs = {name: placed(layout, x) for name, x in trial.inputs.items()}
    return backward(trial)


def parameters_laid_out(layout: str, trial: Pass) -> Results:
    for part in trial.module.modules():
        for name, value in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(placed(layout, value.detach())))
    return backward(trial)


def cotangents_laid_out(layout: str, trial: Pass) -> Results:
    return backward(trial, place=functools.partial(placed, layout))


def graph_of_the_gradient(trial: Pass) -> Results:
    outputs = trial.outputs()
    wanted = [*trial.leaves.values(), *trial.module.parameters()]
    if wanted:
        gradients = torch.autograd.grad(outputs, wanted, trial.cotangents(outputs), create_graph=True)
        for x, gradient in zip(wanted, gradients, strict=True):
            x.grad = gradient.detach()
    return trial.results(outputs)


def copied(trial: Pass) -> Results:
    trial.module = copy.deepcopy(trial.module)
    return backward(trial)


def two_backward_passes(trial: Pass) -> Results:
    return backward(trial, times=2)


def there_and_back(trial: Pass) -> Results:
    """Convert the module to a wider dtype, change its modes and flags, and change all back."""
    training = [part.training for part in trial.module.modules()]
    if trial.device.type != "mps":  # which has no float64
        trial.module.to(torch.float64).to(trial.dtype)
    trial.module.train().eval().requires_grad_(False).requires_grad_(True)
    for part, mode in zip(trial.module.modules(), training, strict=True):
        part.training = mode
    return backward(trial)


def in_a_thread(trial: Pass) -> Results:
    def run() -> Results:
        if trial.device.type == "cuda":  # torch warns of a thread that begins with cuBLAS
            torch.cuda.set_device(trial.device)
        return backward(trial)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def functional(trial: Pass) -> Results:
    """Call the module with parameters that are not its own."""
    module = trial.module
    others = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}
    outputs = replaced(trial, lambda *args: torch.func.functional_call(module, others, args))
    torch.autograd.backward(outputs, trial.cotangents(outputs))
    for name, parameter in module.named_parameters():
        require(parameter.grad is None, f"{name} has a gradient although another tensor took its place")
        parameter.grad = others[name].grad
    return trial.results(outputs)


def checkpointed(trial: Pass) -> Results:
    """Compute the forward pass again in backward; running statistics move twice and are left out."""
    module = trial.module
    outputs = replaced(trial, lambda *args: checkpoint(module, *args, use_reentrant=False))
    torch.autograd.backward(outputs, trial.cotangents(outputs))
    return {name: value for name, value in trial.results(outputs).items() if not name.startswith("buffer")}


def replaced(trial: Pass, form: Callable[..., object]) -> list[torch.Tensor]:
    """Return the outputs of the pass with ``form`` called in the module's place."""
    return [out for out in tree_leaves(trial.case.call(form, **trial.inputs)) if isinstance(out, torch.Tensor)]


def saved_elsewhere(trial: Pass) -> Results:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
        return backward(trial)


def eval_mode(trial: Pass) -> Results:
    trial.module.eval()
    return backward(trial)


def eval_mode_no_grad(trial: Pass) -> Results:
    trial.module.eval()
    return no_grad(trial)


def one_by_one(trial: Pass) -> Results:
    """Hand the samples over in batches of one."""
    whole = dict(trial.inputs)
    cotangents = trial.cotangents(sized(trial))
    rows: list[list[torch.Tensor]] = []
    for row in range(len(next(iter(whole.values())))):
        trial.inputs = {name: x[row : row + 1] for name, x in whole.items()}
        rows.append(trial.outputs())
        torch.autograd.backward(rows[-1], [cotangent[row : row + 1] for cotangent in cotangents])
    trial.inputs = whole
    return trial.results([torch.cat(parts) for parts in zip(*rows, strict=True)])


def many_copies(trial: Pass) -> Results:
    """Hand the batch over COPIES times in one; the last copy gives what the batch gives, parameters get the sum."""
    once = trial.inputs
    cotangents = trial.cotangents(sized(trial))
    trial.inputs = {name: torch.cat([x.detach()] * COPIES).requires_grad_(x.requires_grad) for name, x in once.items()}
    outputs = trial.outputs()
    torch.autograd.backward(outputs, [torch.cat([cotangent] * COPIES) for cotangent in cotangents])
    results = trial.results(outputs)
    for name, value in results.items():
        if name.startswith(("output", "gradient of input")):
            results[name] = value[-len(value) // COPIES :]
        elif name.startswith("gradient"):
            results[name] = value / COPIES
    return results


def sized(trial: Pass) -> list[torch.Tensor]:
    """Return outputs of the right shapes; no gradient and no buffer is touched."""
    with torch.no_grad():
        return copy.deepcopy(trial).outputs()


EVERYWHERE: Mapping[str, Circumstance] = {
    "under no_grad": no_grad,
    "in inference mode": inference_mode,
    "in a second call": second_call,
    "with frozen parameters": frozen_parameters,
    "with inputs that need no gradient": constant_inputs,
    **{f"with {name} inputs": functools.partial(inputs_laid_out, name) for name in layers.LAYOUTS},
    **{f"with {name} parameters": functools.partial(parameters_laid_out, name) for name in layers.LAYOUTS},
    **{f"with {name} gradients put in": functools.partial(cotangents_laid_out, name) for name in layers.LAYOUTS},
    "with a graph of the gradient": graph_of_the_gradient,
    "as a copy": copied,
    "in two backward passes": two_backward_passes,
    "converted there and back": there_and_back,
    "in a thread": in_a_thread,
    "with the parameters of another": functional,
    "with a checkpoint": checkpointed,
    "with what is saved for backward elsewhere": saved_elsewhere,
}
#: For modules that do in training what they do in evaluation.
IN_EITHER_MODE: Mapping[str, Circumstance] = {
    "in eval mode": eval_mode,
    "in eval mode under no_grad": eval_mode_no_grad,
}
#: For modules whose first dimension is the batch, in inputs and outputs, and whose samples do not see each other.
BY_SAMPLE: Mapping[str, Circumstance] = {"in batches of one": one_by_one, "in a batch of many copies": many_copies}


#: Which dtypes are tried on values that which dtypes hold.
DTYPES = {(torch.float32,): (torch.float64,), (torch.bfloat16, torch.float16): (torch.float16, torch.bfloat16)}


def assert_the_same_in_every_circumstance(
    name: str,
    case: Case,
    device: torch.device,
    *,
    by_sample: bool = True,
    either_mode: bool = True,
    without: Collection[str] = (),
) -> None:
    """Require the module's float32 results to be those of the float64 reference in each circumstance but ``without``.

    Raises:
        AssertionError: naming the first circumstance that makes a difference, and the result.
    """
    __tracebackhide__ = True
    expected = reference(case, SEED, SAMPLES)
    tried = EVERYWHERE | (BY_SAMPLE if by_sample else {}) | (IN_EITHER_MODE if either_mode else {})
    for circumstance, run in tried.items():
        if circumstance in without:
            continue
        trial = Pass(case, device, torch.float32, SEED)
        given = dict(trial.inputs)
        former = {key: to_numpy(x) for key, x in given.items()}
        with full_precision():
            results = run(trial)
        _assert_near(results, expected, trial, f"{name} {circumstance}")
        for key, x in given.items():
            require(np.array_equal(to_numpy(x), former[key]), f"{name} {circumstance} writes to its input {key}")


def assert_the_same_in_every_dtype(name: str, case: Case, device: torch.device) -> None:
    """Require the module's results in float64 and in the half precisions that the device has for it.

    Raises:
        AssertionError: naming the first dtype whose results are off, and the result.
    """
    __tracebackhide__ = True
    for held_by, dtypes in DTYPES.items():
        case = dataclasses.replace(case, held_by=held_by)
        expected = reference(case, SEED, SAMPLES)
        for dtype in dtypes if device.type != "mps" else dtypes[1:]:
            trial = Pass(case, device, dtype, SEED)
            try:
                results = backward(trial)
            except RuntimeError as error:
                if dtype != torch.float64 and "not implemented for" in str(error):
                    continue
                raise
            _assert_near(results, expected, trial, f"{name} in {dtype}")


def _assert_near(results: Results, expected: tuple[Results, Results], trial: Pass, what: str) -> None:
    __tracebackhide__ = True
    exact, errors = expected
    require(results, f"{what} has no result")
    for key, value in results.items():
        require(value.shape == exact[key].shape, f"{what}: {key} has shape {value.shape}, expected {exact[key].shape}")
        gap = np.linalg.norm(value.astype(np.float64) - exact[key])
        allowed = _allowed(trial, exact[key], errors[key])
        require(gap <= allowed, f"{what}: {key} is off by {gap:.3g} (2-norm), allowed {allowed:.3g}")


def _allowed(trial: Pass, exact: np.ndarray, errors: np.ndarray) -> float:
    if trial.case.exact:
        return 0.0
    unit = unit_of(trial.dtype, trial.device, gated=trial.case.gated)
    noise = SAFETY[trial.dtype] * unit * np.linalg.norm(errors)
    return float(noise + rounding(trial.dtype, STEPS) * np.linalg.norm(exact.astype(np.float64)))
