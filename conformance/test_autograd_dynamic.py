import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, rounding

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def leaf(values, device, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype, device=device, requires_grad=True)


def branch_on_sum(x):
    """The primer's example: y = 2x, then 3y if the sum of y exceeds 5, else y / 2."""
    y = x * 2
    return y * 3 if y.sum() > 5 else y / 2


class BranchOnSum(nn.Module):
    def forward(self, x):
        return branch_on_sum(x)


def branch_with_where(x):
    y = x * 2
    return torch.where(y.sum() > 5, y * 3, y / 2)


HIGH, LOW = [1.0, 2.0, 3.0], [0.5, 0.25, 1.0]


@pytest.mark.behavior("autograd.dynamic-branch")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("form", [branch_on_sum, BranchOnSum(), branch_with_where], ids=["function", "module", "where"])
def test_gradient_is_that_of_the_branch_taken(form, dtype, device):
    """It is 6 where the sum exceeds 5 and 1 where it does not, called in turn with one function."""
    for values, slope in ((HIGH, 6.0), (LOW, 1.0), (HIGH, 6.0), ([2.5, 0.0, 0.0], 1.0), ([2.5, 0.25, 0.0], 6.0)):
        x = leaf(values, device, dtype)
        z = form(x)
        assert_matches(z, np.array(values) * slope, dtype=dtype, device=device, what="z")
        z.backward(torch.ones_like(z))
        assert_matches(x.grad, [slope] * 3, dtype=dtype, device=device, what=f"gradient at {values}")


@pytest.mark.behavior("autograd.dynamic-branch")
def test_branches_taken_at_one_leaf_accumulate(device):
    """Both branches on the same leaf, after it was changed in between, add 6 and 1."""
    x = leaf(HIGH, device)
    branch_on_sum(x).sum().backward()
    with torch.no_grad():
        x.copy_(torch.tensor(LOW))
    branch_on_sum(x).sum().backward()
    assert_matches(x.grad, [7.0] * 3, device=device)


@pytest.mark.behavior("autograd.dynamic-branch")
def test_the_branch_not_taken_gets_no_gradient(device):
    """Of two layers behind an if, only the one used has a gradient; the other keeps None."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.high, self.low = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.high(x) if x.sum() > 5 else self.low(x)

    gate = Gate().to(device)
    gate(torch.tensor(HIGH, device=device)).backward()
    assert_matches(gate.high.weight.grad, [HIGH], device=device)
    assert gate.low.weight.grad is None
    gate(torch.tensor(LOW, device=device)).backward()
    assert_matches(gate.low.weight.grad, [LOW], device=device)
    assert_matches(gate.high.weight.grad, [HIGH], device=device)


@pytest.mark.behavior("autograd.dynamic-branch")
def test_graphs_of_both_branches_live_side_by_side(device):
    """Two graphs of one function, differentiated in reverse order, do not mix."""
    high, low = leaf(HIGH, device), leaf(LOW, device)
    results = branch_on_sum(high), branch_on_sum(low)
    for z in reversed(results):
        z.sum().backward()
    assert_matches(high.grad, [6.0] * 3, device=device)
    assert_matches(low.grad, [1.0] * 3, device=device)
    names = [z.grad_fn.name() for z in results]
    assert names[0].startswith("Mul")
    assert names[1].startswith("Div")


@pytest.mark.behavior("autograd.dynamic-branch")
def test_branch_per_element_and_on_strided_data(device):
    """Elements chosen by a mask or by item() have the slope of their own side, also through a strided view."""
    values = np.array([[-1.0, 4.0, -3.0], [2.0, -5.0, 6.0]])
    x = torch.tensor(values.T, dtype=torch.float32, device=device).t().requires_grad_()
    pieces = [x[i, j] * 3 if x[i, j].item() > 0 else x[i, j] ** 2 for i in range(2) for j in range(3)]
    torch.stack(pieces).sum().backward()
    expected = np.where(values > 0, 3.0, 2 * values)
    assert_matches(x.grad, expected, device=device)


#: More steps than any loop here takes: one that torch never lets end must fail, not hang.
ENOUGH = 100


def doubled_until_large(x):
    """Double x until its norm reaches 1000; return it and how often it was doubled."""
    y, steps = x * 2, 1
    while y.norm() < 1000:
        y, steps = y * 2, steps + 1
        assert steps < ENOUGH, "the loop goes on beyond its condition"
    return y, steps


@pytest.mark.behavior("autograd.dynamic-loop")
@pytest.mark.parametrize("start", [[3.0, 4.0], [30.0, 40.0], [600.0, 800.0], [0.375, 0.5]], ids=str)
def test_loop_of_data_dependent_length(start, device):
    """A while loop on the data has the gradient 2^n of the n steps it took."""
    x = leaf(start, device)
    y, steps = doubled_until_large(x)
    expected_steps = 1
    while np.hypot(*start) * 2.0**expected_steps < 1000:
        expected_steps += 1
    assert steps == expected_steps
    y.backward(torch.tensor([1.0, -3.0], device=device))
    assert_matches(x.grad, [2.0**steps, -3 * 2.0**steps], device=device)


@pytest.mark.behavior("autograd.dynamic-loop")
def test_loop_count_read_from_a_tensor(device):
    """x to the n-th power by n multiplications, n an integer tensor, has the derivative n x^(n-1)."""
    for n in (1, 2, 5, 3, 0):
        x = leaf([2.0, 3.0], device)
        y = torch.ones(2, device=device) + 0 * x
        for _ in range(int(torch.tensor(n, device=device))):
            y = y * x
        y.sum().backward()
        assert_matches(x.grad, [n * 2.0 ** (n - 1), n * 3.0 ** (n - 1)], device=device, what=f"n = {n}")


@pytest.mark.behavior("autograd.dynamic-loop")
def test_recursion_differentiates(device):
    """A recursive power by squaring has the derivative of x^n, for every n."""

    def power(x, n):
        if n == 0:
            return torch.ones_like(x)
        half = power(x, n // 2)
        return half * half * x if n % 2 else half * half

    for n in range(1, 9):
        x = leaf([1.0, 2.0], device)
        power(x, n).sum().backward()
        assert_matches(x.grad, [n, n * 2.0 ** (n - 1)], device=device, what=f"n = {n}")


@pytest.mark.behavior("autograd.dynamic-loop")
def test_tree_shaped_recursion(device):
    """Over a nested list each leaf's gradient is the product of the weights on its path."""
    w = leaf(3.0, device)

    def total(tree):
        return w * sum(total(branch) for branch in tree) if isinstance(tree, list) else tree

    leaves = [leaf(float(n), device) for n in range(1, 5)]
    a, b, c, d = leaves
    total([a, [b, [c]], d]).backward()
    for tensor, depth in zip(leaves, (1, 2, 3, 1), strict=True):
        assert_matches(tensor.grad, 3.0**depth, device=device)
    # total = w (a + d) + w^2 b + w^3 c
    assert_matches(w.grad, 5 + 2 * 3 * 2 + 3 * 9 * 3, device=device)


@pytest.mark.behavior("autograd.dynamic-loop")
def test_newton_iteration_until_converged(device):
    """Iterating to a square root until it settles gives the derivative of the square root."""
    a = leaf([2.0, 9.0, 0.25], device)
    root, change, steps = a * 1, 1.0, 0
    while change > 1e-6:
        following = (root + a / root) / 2
        change, root, steps = (following - root).abs().max().item(), following, steps + 1
        assert steps < ENOUGH, "the iteration does not settle"
    root.sum().backward()
    # At the fixed point the iteration forgets its past: the derivative of one step, within a few roundings.
    expected = 0.5 / np.sqrt([2.0, 9.0, 0.25])
    assert_matches(a.grad, expected, rtol=rounding(torch.float32, 16), device=device)


class Repeated(nn.Module):
    """One linear layer applied as often as the input says."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)

    def forward(self, x, times):
        for _ in range(times):
            x = self.layer(x)
        return x


def nodes(result):
    """Count the nodes of a graph."""
    seen, pending = set(), [result.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [parent for parent, _ in node.next_functions]
    return len(seen)


@pytest.mark.behavior("autograd.dynamic-loop")
def test_one_module_gives_different_graphs_for_different_inputs(device):
    """Each call builds its own graph, as deep as the loop ran, and all of them can be differentiated later."""
    module = Repeated().to(device)
    with torch.no_grad():
        module.layer.weight.fill_(2.0)
    x = torch.full((1, 1), 3.0, device=device)
    results = {times: module(x, times) for times in (1, 4, 2)}
    sizes = {times: nodes(result) for times, result in results.items()}
    assert sizes[1] < sizes[2] < sizes[4]
    assert sizes[4] - sizes[2] == 2 * (sizes[2] - sizes[1])
    for times in (2, 1, 4):
        module.zero_grad()
        results[times].backward()
        assert_matches(module.layer.weight.grad, [[times * 2.0 ** (times - 1) * 3]], device=device, what=f"{times}")


@pytest.mark.behavior("autograd.dynamic-loop")
def test_zero_steps_and_early_exit(device):
    """A loop that does not run passes the input on; a break ends the graph where it happened."""
    x = leaf([5.0], device)
    y = x * 1
    for _ in range(0):
        y = y * 100
    y.backward()
    assert_matches(x.grad, [1.0], device=device)
    x.grad = None
    y = x
    for factor in (2.0, 3.0, 100.0):
        if y.item() > 20:
            break
        y = y * factor
    y.backward()
    assert_matches(x.grad, [6.0], device=device)
