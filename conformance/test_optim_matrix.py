"""L-BFGS and Muon step by step against NumPy: every option of the one, the history of the other."""

import copy

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, to_numpy

SHAPES = ((3,), (), (2, 2))
SIZES = (3, 1, 4)


def lbfgs(point, loss_and_grad, rounds, iterations, lr, history):
    """Yield the point after every round of ``iterations`` (Nocedal 1980; two loops; first step scaled by |g|_1)."""
    pairs, former, direction, taken = [], None, None, 0.0
    for _ in range(rounds):
        for _ in range(iterations):
            grad = loss_and_grad(point)
            if former is None:
                direction, taken = -grad, min(1.0, 1 / np.abs(grad).sum()) * lr
            else:
                y, s = grad - former, direction * taken
                if y @ s > 1e-10:
                    pairs = [*pairs, (y, s)][-history:]
                q, factors = -grad, []
                for y, s in reversed(pairs):
                    factors.append(s @ q / (y @ s))
                    q = q - factors[-1] * y
                y, s = pairs[-1]
                q = q * (y @ s) / (y @ y)
                for (y, s), factor in zip(pairs, reversed(factors), strict=True):
                    q = q + s * (factor - y @ q / (y @ s))
                direction, taken = q, lr
            former, point = grad, point + taken * direction
        yield point


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("history", [1, 3, 100])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_lbfgs_follows_the_two_loop_recursion(device, rng, history, lr):
    """Over several parameters and calls each iteration is the recursion's, from as much history as was asked for."""
    if device.type == "mps":
        pytest.skip("the comparison needs float64, which mps lacks")
    matrix = rng.standard_normal((8, 8))
    matrix = matrix @ matrix.T / 8 + np.eye(8)
    start, center = rng.standard_normal(8), rng.standard_normal(8)

    def gradient(point):
        away = point - center
        return matrix @ away + 0.1 * away**3

    a, c = (torch.tensor(array, device=device) for array in (matrix, center))
    parts = np.split(start, np.cumsum(SIZES)[:-1])
    tensors = [torch.tensor(v.reshape(s), device=device).requires_grad_() for v, s in zip(parts, SHAPES, strict=True)]
    options = {"lr": lr, "max_iter": 4, "history_size": history, "tolerance_grad": 0, "tolerance_change": 0}
    optimizer, calls = torch.optim.LBFGS(tensors, **options), []

    def closure():
        optimizer.zero_grad()
        away = torch.cat([tensor.reshape(-1) for tensor in tensors]) - c
        loss = away @ a @ away / 2 + 0.025 * (away**4).sum()
        calls.append(loss.item())
        loss.backward()
        return loss

    for count, wanted in enumerate(lbfgs(start, gradient, 3, 4, lr, history), 1):
        if count == 3:  # in a second optimizer, from the state dict
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = torch.optim.LBFGS(tensors)
            optimizer.load_state_dict(saved)
        first = optimizer.step(closure)
        assert first.item() == calls[-4], "step() returns the loss of its first evaluation"
        assert len(calls) == 4 * count, "one evaluation for each iteration"
        got = np.concatenate([to_numpy(tensor).ravel() for tensor in tensors])
        # some hundred float64 roundings, each enlarged by the conditions of at most 12 divisions by y s
        assert np.abs(got - wanted).max() < 1e-9, f"after round {count}"


@pytest.mark.behavior("optim.others")
def test_lbfgs_stops_when_told_to(device):
    """max_iter, max_eval and tolerance_grad each end a step; at the minimum nothing moves."""
    x = torch.tensor([3.0, -2.0], device=device, requires_grad=True)
    for options, wanted in (
        ({"max_iter": 1}, 1),
        ({"max_iter": 6, "max_eval": 3}, 3),
        ({"max_iter": 6, "tolerance_grad": 1e9}, 1),
    ):
        optimizer, calls = torch.optim.LBFGS([x], lr=0.01, **options), []

        def closure(optimizer=optimizer, calls=calls):
            optimizer.zero_grad()
            loss = (x**2).sum()
            loss.backward()
            calls.append(loss.item())
            return loss

        optimizer.step(closure)
        assert len(calls) == wanted, options
    rest = torch.zeros(2, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([rest])

    def flat():
        optimizer.zero_grad()
        loss = (rest**2).sum()
        loss.backward()
        return loss

    optimizer.step(flat)
    assert_matches(rest, [0.0, 0.0])


def newton_schulz(grad, coefficients, steps, eps):
    """Return the iteration of Jordan (2024) on a matrix of Frobenius norm one, in float64."""
    a, b, c = coefficients
    x = grad.T if grad.shape[0] > grad.shape[1] else grad
    x = x / max(np.linalg.norm(x), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.shape[0] > grad.shape[1] else x


JORDAN = (3.4445, -4.775, 2.0315)
MUON = [
    {},
    {"weight_decay": 0.0, "nesterov": False},
    {"momentum": 0.5, "nesterov": False, "weight_decay": 0.5},
    {"momentum": 0.5, "ns_steps": 1, "adjust_lr_fn": "match_rms_adamw"},
    {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 2, "adjust_lr_fn": "original", "weight_decay": 2.0},
    {"momentum": 0.0, "ns_steps": 2, "adjust_lr_fn": "match_rms_adamw"},
]


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("options", MUON, ids=str)
def test_muon_follows_its_rule(device, rng, options):
    """Momentum, Nesterov's form, decoupled decay, iteration and rate adjustment, for tall, wide and square weights."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("needs torch >= 2.9: Muon is not in this release")
    full = {"weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "ns_coefficients": JORDAN, "ns_steps": 5,
            "adjust_lr_fn": None, **options}  # fmt: skip
    shapes, lr = ((6, 6), (9, 4), (4, 9)), 0.05
    values = [rng.standard_normal(shape) for shape in shapes]
    weights = [torch.tensor(v, dtype=torch.float32, device=device).requires_grad_() for v in values]
    optimizer = torch.optim.Muon(weights, lr=lr, **options)
    bases = [np.linalg.svd(rng.standard_normal(shape), full_matrices=False) for shape in shapes]
    buffers = [np.zeros(shape) for shape in shapes]
    for t in range(4):
        for i, (weight, (left, _, right)) in enumerate(zip(weights, bases, strict=True)):
            # spectra that change and stay within a factor of three: the iteration, in bfloat16, is well conditioned
            grad = left @ np.diag(rng.uniform(1, 3, min(shapes[i]))) @ right
            weight.grad = torch.tensor(grad, dtype=torch.float32, device=device)
            buffers[i] = full["momentum"] * buffers[i] + grad
            update = grad + full["momentum"] * buffers[i] if full["nesterov"] else buffers[i]
            rows, columns = shapes[i]
            ratio = (
                0.2 * max(rows, columns) ** 0.5
                if full["adjust_lr_fn"] == "match_rms_adamw"
                else max(1.0, rows / columns) ** 0.5
            )
            step = newton_schulz(update, full["ns_coefficients"], full["ns_steps"], 1e-7)
            values[i] = values[i] * (1 - lr * full["weight_decay"]) - lr * ratio * step
        optimizer.step()
        for weight, wanted, shape in zip(weights, values, shapes, strict=True):
            # entries of the step err by a few bfloat16 roundings for each of up to 15 products
            size = lr * max(1.0, 0.2 * max(shape) ** 0.5, (shape[0] / shape[1]) ** 0.5)
            assert_matches(weight, wanted, atol=(t + 1) * size * 15 * 2.0**-8, what=f"step {t + 1}")
