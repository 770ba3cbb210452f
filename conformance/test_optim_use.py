"""Using an optimizer: groups, whose parameters move, resuming, reaching a minimum."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, rounding, to_numpy
from .support.optimizer_runs import KINDS
from .support.optimizers import sgd


@pytest.mark.behavior("optim.step-only-own")
@KINDS
@pytest.mark.parametrize("foreach", [False, True])
def test_only_given_parameters_with_a_gradient_move(device, rng, case, foreach):
    """Parameters not handed over, without a gradient or frozen stay bit for bit, weight decay or not; gradients too."""
    names = ["moved", "no-grad-yet", "frozen", "foreign"]
    tensors = {name: torch.tensor(rng.standard_normal((3, 4)), dtype=torch.float32, device=device) for name in names}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name != "frozen")
    before = {name: to_numpy(tensor) for name, tensor in tensors.items()}
    optimizer = case.build([tensors["moved"], tensors["no-grad-yet"], tensors["frozen"]], foreach=foreach)
    for _ in range(3):
        for name in ("moved", "foreign"):
            tensors[name].grad = torch.ones(3, 4, device=device)
        optimizer.step()
    assert (to_numpy(tensors["moved"]) != before["moved"]).all()
    for name in ("no-grad-yet", "frozen", "foreign"):
        assert_matches(tensors[name], before[name], what=name)
    for name in ("moved", "foreign") if not case.options.get("nesterov") else ("foreign",):
        assert_matches(tensors[name].grad, np.ones((3, 4)), what=f"gradient of {name}")


@pytest.mark.behavior("optim.step-only-own")
@KINDS
@pytest.mark.parametrize("late", [False, True], ids=["given at once", "group added"])
def test_frozen_parameters_train_once_they_are_thawed(device, case, late):
    """What was frozen at first follows the rule from its first gradient on, and stops when frozen again."""
    start, grad = np.array([1.0, 2.0, -3.0]), np.array([1.0, -2.0, 3.0])
    free, frozen = (torch.tensor(start, dtype=torch.float32, device=device) for _ in range(2))
    free.requires_grad_()
    optimizer = case.build([free] if late else [free, frozen])
    if late:
        optimizer.add_param_group({"params": [frozen]})

    def step(*parameters):
        for parameter in parameters:
            parameter.grad = torch.tensor(grad, dtype=torch.float32, device=device)
        optimizer.step()
        optimizer.zero_grad()

    step(free)
    assert_matches(frozen, start, what="the frozen parameter")
    frozen.requires_grad_()
    for _ in range(3):
        step(free, frozen)
    frozen.requires_grad_(False)
    step(free)
    for parameter, steps in ((free, 5), (frozen, 3)):
        wanted = list(case.rule(start, [grad] * steps, **case.options))[-1]
        assert_matches(parameter, wanted, atol=rounding(torch.float32, 50 * steps) * (1 + np.abs(wanted)))


@pytest.mark.behavior("optim.groups")
@KINDS
def test_zero_in_a_group_is_a_value_of_its_own(device, case):
    """A group that sets a rate, decay or momentum to zero has zero, and not the default."""
    start, grads = np.array([1.0, 2.0, -3.0]), [np.array([1.0, -2.0, 3.0])] * 3
    names = ("lr", "weight_decay", "dampening", "lr_decay", *([] if case.options.get("nesterov") else ["momentum"]))
    for name in [name for name in names if case.options.get(name)]:
        parameters = [torch.tensor(start, dtype=torch.float32, device=device).requires_grad_() for _ in range(2)]
        optimizer = case.build([{"params": parameters[:1], name: 0.0}, {"params": parameters[1:]}])
        for grad in grads:
            for parameter in parameters:
                parameter.grad = torch.tensor(grad, dtype=torch.float32, device=device)
            optimizer.step()
        for parameter, options in zip(parameters, ({**case.options, name: 0.0}, case.options), strict=True):
            wanted = list(case.rule(start, grads, **options))[-1]
            assert_matches(parameter, wanted, atol=rounding(torch.float32, 150) * (1 + np.abs(wanted)), what=name)


@pytest.mark.behavior("optim.groups")
@KINDS
def test_groups_use_their_own_settings(device, case):
    """A group's learning rate is its own, added early or late; what it leaves out comes from the defaults."""
    grad = [1.0, -2.0, 3.0]
    starts = [np.array([1.0, 2.0, -3.0]) * (i + 1) for i in range(3)]
    parameters = [torch.tensor(start, dtype=torch.float32, device=device).requires_grad_() for start in starts]
    lr = case.options["lr"]
    optimizer = case.build([{"params": [parameters[0]]}, {"params": parameters[1:2], "lr": lr / 4}])
    optimizer.add_param_group({"params": parameters[2:], "lr": lr * 2})
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.tensor(grad, device=device)
        optimizer.step()
    for parameter, start, rate in zip(parameters, starts, (lr, lr / 4, lr * 2), strict=True):
        wanted = list(case.rule(start, [np.array(grad)] * 3, **{**case.options, "lr": rate}))[-1]
        assert_matches(parameter, wanted, atol=rounding(torch.float32, 150) * (1 + np.abs(wanted)))


@pytest.mark.behavior("optim.groups")
def test_changed_rate_holds_from_the_next_step(device):
    """Writing group["lr"] between steps changes the next step only."""
    weight = torch.zeros(1, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for rate, wanted in ((1.0, -1.0), (0.5, -1.5), (0.0, -1.5)):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones(1, device=device)
        optimizer.step()
        assert_matches(weight, [wanted])


@pytest.mark.behavior("optim.groups")
@KINDS
def test_wrong_groups_and_settings_raise(device, case):
    """A parameter in two groups, none at all, a negative rate, a non-leaf and a non-tensor each raise."""
    kind = getattr(torch.optim, case.kind)
    weight = torch.ones(2, device=device, requires_grad=True)
    with pytest.raises(ValueError, match="more than one parameter group"):
        kind([{"params": [weight]}, {"params": [weight]}])
    with pytest.raises(ValueError, match="empty parameter list"):
        kind([])
    with pytest.raises(ValueError, match=r"[Ll]earning rate"):
        kind([weight], lr=-0.1)
    with pytest.raises(ValueError, match="non-leaf"):
        kind([weight * 2])
    with pytest.raises(TypeError):
        kind([1.0])
    with pytest.raises(TypeError, match="iterable"):
        kind(weight)


def network(device, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(device)


def train(model, optimizer, batches):
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


@pytest.mark.behavior("optim.resume")
@KINDS
@pytest.mark.parametrize("through", ["file", "deepcopy"])
def test_resumed_run_equals_the_uninterrupted_one(device, rng, torchcheck_seed, case, through):
    """Five steps, save, load into a new model and optimizer with other settings, five more: the same bit for bit."""
    batches = [
        tuple(torch.tensor(rng.standard_normal((6, size)), dtype=torch.float32, device=device) for size in (4, 2))
        for _ in range(10)
    ]
    straight = network(device, torchcheck_seed)
    optimizer = case.build(straight.parameters())
    train(straight, optimizer, batches[:5])
    saved = {"model": straight.state_dict(), "optimizer": optimizer.state_dict()}
    if through == "file":
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file)
    else:
        saved = copy.deepcopy(saved)
    train(straight, optimizer, batches[5:])
    resumed = network(device, torchcheck_seed + 1)
    second = getattr(torch.optim, case.kind)(resumed.parameters(), lr=0.9)
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    train(resumed, second, batches[5:])
    for left, right in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert_matches(right, to_numpy(left), what="parameter of the resumed run")
    assert second.param_groups[0]["lr"] == case.options["lr"]


@pytest.mark.behavior("optim.resume")
def test_state_of_another_shape_is_refused(device):
    """A state dict with another number of groups or parameters raises."""
    one, two = torch.ones(2, device=device, requires_grad=True), torch.ones(3, device=device, requires_grad=True)
    saved = torch.optim.SGD([one], lr=0.1).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        torch.optim.SGD([{"params": [one]}, {"params": [two]}], lr=0.1).load_state_dict(saved)
    with pytest.raises(ValueError, match="doesn't match the size"):
        torch.optim.SGD([one, two], lr=0.1).load_state_dict(saved)


#: A convex quadratic (x - c)^T A (x - c) / 2 with eigenvalues 1, 4 and 10, and its minimum c.
ROTATION = np.linalg.qr(np.array([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]]))[0]
MATRIX, CENTER = ROTATION @ np.diag([1.0, 4.0, 10.0]) @ ROTATION.T, np.array([1.0, -2.0, 0.5])


def quadratic(device):
    """Return a starting point and the loss of the quadratic there."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    a, c = (torch.tensor(array, dtype=dtype, device=device) for array in (MATRIX, CENTER))
    x = torch.zeros(3, dtype=dtype, device=device, requires_grad=True)
    return x, lambda: (x - c) @ a @ (x - c) / 2


@pytest.mark.behavior("optim.converges")
@pytest.mark.parametrize(
    ("kind", "options", "steps", "within"),
    [
        ("SGD", {"lr": 0.1}, 200, 1e-6),  # the slowest direction shrinks by 0.9 a step: 0.9**200 = 7e-10
        ("SGD", {"lr": 0.05, "momentum": 0.8}, 200, 1e-6),  # by sqrt(0.8) = 0.894 a step at worst
        ("Adam", {"lr": 0.05}, 1000, 1e-4),
        ("RMSprop", {"lr": 0.01}, 600, 0.02),  # ends in a cycle of about the step size, 0.01
    ],
)
def test_minimum_of_a_quadratic_is_reached(device, kind, options, steps, within):
    """SGD, Adam and RMSprop come within the stated distance of the minimum in the stated number of steps."""
    x, loss = quadratic(device)
    optimizer = getattr(torch.optim, kind)([x], **options)
    start = loss().item()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert_matches(x, CENTER, atol=within)
    assert loss().item() < start * 1e-2


@pytest.mark.behavior("optim.converges")
def test_first_steps_on_a_quadratic_are_the_rule_s(device):
    """Gradients of the point just reached enter each step: ten steps of SGD against the same loop in NumPy."""
    x, loss = quadratic(device)
    optimizer = torch.optim.SGD([x], lr=0.05, momentum=0.9)
    point, buffer = np.zeros(3), None
    for _ in range(10):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        grad = MATRIX @ (point - CENTER)
        buffer = grad if buffer is None else 0.9 * buffer + grad
        point = point - 0.05 * buffer
        assert_matches(x, point, atol=rounding(x.dtype, 2000) * 10)


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_minimizes_a_quadratic(device, search):
    """LBFGS reaches the minimum within a few outer steps, and returns the loss of the first evaluation."""
    x, loss = quadratic(device)
    optimizer = torch.optim.LBFGS([x], lr=1.0, max_iter=40, line_search_fn=search)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    first = loss().item()
    assert optimizer.step(closure).item() == first
    for _ in range(9):
        optimizer.step(closure)
    assert_matches(x, CENTER, atol=1e-5)


@pytest.mark.behavior("optim.others")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_sparse_adam_moves_only_the_rows_with_a_gradient(device, rng):
    """Rows in the sparse gradient take Adam's step with their own moments; the others stay bit for bit."""
    if device.type == "mps":
        pytest.skip("sparse gradients do not exist on mps; run this variant on another device")
    table = torch.tensor(rng.standard_normal((6, 3)), dtype=torch.float64, device=device).requires_grad_()
    start, optimizer = to_numpy(table), torch.optim.SparseAdam([table], lr=0.1, betas=(0.8, 0.9), eps=1e-8)
    m, v, wanted = np.zeros((6, 3)), np.zeros((6, 3)), start.copy()
    for t in range(1, 6):
        rows = [1, 4] if t % 2 else [4, 5]
        grad = rng.standard_normal((2, 3))
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]), torch.tensor(grad), (6, 3), device=device, check_invariants=True
        )
        optimizer.step()
        m[rows] = 0.8 * m[rows] + 0.2 * grad
        v[rows] = 0.9 * v[rows] + 0.1 * grad**2
        wanted[rows] -= 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) * m[rows] / (np.sqrt(v[rows]) + 1e-8)
        assert_matches(table, wanted, atol=rounding(torch.float64, 400) * (1 + np.abs(wanted)))
    assert (to_numpy(table)[[0, 2, 3]] == start[[0, 2, 3]]).all()


@pytest.mark.behavior("optim.others")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_sparse_adam_keeps_groups_and_changed_rates_apart(device, rng):
    """Each group has its rate, also after a change; a table without a gradient and its state stay as they are."""
    if device.type == "mps":
        pytest.skip("sparse gradients do not exist on mps; run this variant on another device")
    tables = [torch.ones(4, 2, dtype=torch.float64, device=device, requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.SparseAdam([{"params": tables[:1]}, {"params": tables[1:], "lr": 0.5}], lr=0.1)
    m, v, wanted = np.zeros((2, 2)), np.zeros((2, 2)), [np.ones((4, 2)), np.ones((4, 2))]
    for t in range(1, 6):
        rates = (0.1, 0.5) if t < 3 else (0.7, 0.05)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        grad = rng.standard_normal((2, 2))
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        for table, values, rate in zip(tables, wanted, rates, strict=False):
            table.grad = torch.sparse_coo_tensor(
                torch.tensor([[0, 2]]), torch.tensor(grad), (4, 2), device=device, check_invariants=True
            )
            values[[0, 2]] -= rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        optimizer.step()
        for table, values in zip(tables, wanted, strict=False):
            assert_matches(table, values, atol=rounding(torch.float64, 400) * (1 + np.abs(values)))
    assert_matches(tables[2], np.ones((4, 2)))
    assert not optimizer.state.get(tables[2])


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("kind", ["LBFGS", "Muon"])
def test_parameter_without_a_gradient_stays_beside_one_that_moves(device, rng, kind):
    """LBFGS and Muon too leave a parameter whose grad is None as it is, bit for bit, from the start or later."""
    if not hasattr(torch.optim, kind):
        pytest.skip("needs torch >= 2.9: Muon is not in this release")
    idle, moving, later = (
        torch.tensor(rng.standard_normal((3, 2)), dtype=torch.float32, device=device).requires_grad_() for _ in "abc"
    )
    optimizer = getattr(torch.optim, kind)([idle, moving, later], lr=0.1)
    before = [to_numpy(parameter) for parameter in (idle, moving, later)]

    def closure():
        optimizer.zero_grad()
        loss = (moving**2).sum() + (0 if frozen else (later**2).sum())
        loss.backward()
        return loss

    frozen = False
    optimizer.step(closure)
    assert (to_numpy(moving) != before[1]).any()
    assert (to_numpy(later) != before[2]).any()
    assert_matches(idle, before[0])
    if kind == "Muon":  # LBFGS keeps directions of all parameters as one
        frozen, stays = True, to_numpy(later)
        optimizer.step(closure)
        assert_matches(later, stays)
        assert_matches(idle, before[0])


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("shape", [(6, 6), (8, 5), (5, 8)], ids=str)
def test_muon_steps_along_the_orthogonal_factor(device, rng, shape):
    """Muon's step is lr times a matrix with the gradient's singular vectors and singular values near one."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("needs torch >= 2.9: Muon is not in this release")
    start = rng.standard_normal(shape)
    weight = torch.tensor(start, dtype=torch.float32, device=device).requires_grad_()
    optimizer = torch.optim.Muon([weight], lr=0.1, weight_decay=0.0)
    left, _, right = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    grad = left @ np.diag(np.linspace(1, 2, min(shape))) @ right
    weight.grad = torch.tensor(grad, dtype=torch.float32, device=device)
    optimizer.step()
    scale = 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5
    inner = left.T @ (start - to_numpy(weight)) @ right.T / scale
    # Five Newton-Schulz steps map singular values into [0.68, 1.13] (Jordan 2024); bfloat16 adds under a tenth.
    assert (np.abs(np.diag(inner) - 0.9) < 0.35).all()
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.1


@pytest.mark.behavior("optim.sgd")
def test_closure_is_run_with_gradients_and_its_loss_returned(device):
    """step(closure) evaluates the closure under gradients, steps, and returns its loss."""
    weight = torch.tensor([2.0], device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 4.0
    assert_matches(weight, list(sgd(np.array([2.0]), [np.array([4.0])], 0.25))[0])
