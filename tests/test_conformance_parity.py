"""The comparison behind device.parity, tried with the CPU in each dtype as the other device and with planted errors."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from conformance.support.parity import (
    Case,
    Roundings,
    _precision_switches,
    allowance,
    assert_parity,
    full_precision,
    representable,
    run,
)
from conformance.support.parity import reference as simulated
from conformance.support.parity_cases import CASES

CPU = torch.device("cpu")
SEED = 7
# Every kind of rounding: sums, products of parameters, statistics, recurrence, softmax, functions, and none at all.
NAMES = ["Linear", "Conv2d, grouped and dilated", "BatchNorm2d", "LayerNorm", "GRU", "MultiheadAttention", "GELU"]
NAMES += ["CrossEntropyLoss", "Embedding", "MaxPool2d"]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
#: The cases with values that every dtype holds.
HELD = {name: dataclasses.replace(case, held_by=(torch.bfloat16, torch.float16)) for name, case in CASES.items()}


reference = functools.cache(simulated)


@pytest.mark.parametrize("name", CASES)
def test_every_case_runs_and_computes_something(name):
    """Every case gives results that are finite and not all zero, the same ones each time."""
    results = run(CASES[name], CPU, torch.float64, SEED)
    assert all(np.isfinite(value).all() for value in results.values())
    assert all(np.abs(results[key]).max() > 0 for key in results if key.startswith(("output", "gradient of input")))
    again = run(CASES[name], CPU, torch.float64, SEED)
    assert all(np.array_equal(again[key], value) for key, value in results.items())


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_cpu_lies_within_the_allowance(name):
    """Every case passes with the CPU in each dtype as the device: rounding alone raises no alarm."""
    exact, errors = reference(HELD[name], SEED)
    for dtype in DTYPES:
        measured = run(HELD[name], CPU, dtype, SEED)
        assert_parity(measured, exact, allowance(HELD[name], exact, errors, dtype, CPU), f"{name} in {dtype}")


@pytest.mark.parametrize("name", NAMES)
def test_allowance_is_small_against_the_result(name):
    """In float32 the allowance of the middle element is below 1e-4 of the largest: the comparison means something."""
    case = CASES[name]
    exact, errors = reference(case, SEED)
    allowed = allowance(case, exact, errors, torch.float32, CPU)
    compared = [key for key, value in exact.items() if np.abs(value).max() > 0]
    assert compared
    for key in compared:
        assert np.median(allowed[key]) <= 1e-4 * np.abs(exact[key]).max(), key


@pytest.fixture(scope="module")
def lstm():
    """A case, its results and its float32 allowance."""
    case = CASES["LSTM"]
    exact, errors = reference(case, SEED)
    return exact, allowance(case, exact, errors, torch.float32, CPU)


@pytest.mark.parametrize("key", ["output 0", "gradient of input x", "gradient of weight_hh_l0_reverse"])
@pytest.mark.parametrize("error", ["one element by 1e-3", "swapped rows", "a NaN", "all zero"])
def test_a_wrong_result_is_named(lstm, key, error):
    """An error in a single result, output or gradient, is found and named with its place."""
    exact, allowed = lstm
    wrong = {name: value.copy() for name, value in exact.items()}
    last = (-1,) * wrong[key].ndim
    if error == "one element by 1e-3":
        wrong[key][last] += 1e-3 * np.abs(wrong[key]).max()
    elif error == "swapped rows":
        wrong[key] = wrong[key][::-1]
    elif error == "a NaN":
        wrong[key][last] = np.nan
    else:
        wrong[key][:] = 0
    with pytest.raises(AssertionError, match=f"LSTM differs from the cpu.*\n  {key}: .* worst at"):
        assert_parity(wrong, exact, allowed, "LSTM")
    assert_parity(exact, exact, allowed, "LSTM")


def test_a_missing_or_reshaped_result_is_named(lstm):
    """A result that is missing or has another shape is an error, not left out of the comparison."""
    exact, allowed = lstm
    with pytest.raises(AssertionError, match="the results are"):
        assert_parity({name: exact[name] for name in list(exact)[1:]}, exact, allowed, "LSTM")
    with pytest.raises(AssertionError, match="shape"):
        assert_parity(exact | {"output 0": exact["output 0"][:1]}, exact, allowed, "LSTM")


def test_ten_bits_in_place_of_24_are_found():
    """A product computed with 10 significand bits, as TF32 has, is outside the float32 allowance."""
    case = CASES["Linear, long sums"]
    exact, errors = reference(case, SEED)
    coarse = run(case, CPU, torch.float16, SEED)
    with pytest.raises(AssertionError, match="output 0"):
        assert_parity(coarse, exact, allowance(case, exact, errors, torch.float32, CPU), "Linear")


def test_simulated_roundings_are_of_the_size_of_real_ones():
    """The simulated error of a float32 layer is within a factor of four of the real one, in root mean square."""
    case = CASES["GRU"]
    exact, errors = reference(case, SEED)
    measured = run(case, CPU, torch.float32, SEED)
    real = np.sqrt(np.mean((measured["output 0"] - exact["output 0"]) ** 2))
    simulated = 2.0**-24 * np.sqrt(np.mean(errors["output 0"] ** 2))
    assert simulated / 4 <= real <= 4 * simulated


def test_simulation_leaves_views_and_integers_alone():
    """Under the simulation views stay views and integers exact, while results and gradients are perturbed."""
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    sums, gradients = set(), set()
    for seed in range(8):
        with Roundings(seed):
            view = x.view(2, 2)
            (gradient,) = torch.autograd.grad((total := (view * 3).sum()), x)
            assert (torch.tensor([1, 2]) * 3).tolist() == [3, 6]
        assert view.data_ptr() == x.data_ptr()
        sums.add(total.item())
        gradients.update(gradient.tolist())
    assert len(sums) > 1
    assert len(gradients) > 1
    assert x.tolist() == [1.0] * 4


def test_inputs_are_the_same_numbers_in_every_dtype_that_holds_them():
    """Values drawn for a case survive a conversion to each dtype that shall hold them, and not to narrower ones."""
    drawn = np.random.default_rng(1).uniform(-0.9, 0.9, 1000)
    for held_by, narrower in [((torch.bfloat16, torch.float16), ()), ((torch.float32,), DTYPES[1:3])]:
        values = representable(drawn, held_by)
        for dtype in DTYPES:
            assert torch.equal(values.to(dtype).to(torch.float64), values) is (dtype not in narrower)


def test_full_precision_restores_the_switches():
    """The switches are off inside and as before afterwards."""
    before = [getattr(owner, name) for owner, name, _ in _precision_switches()]
    with full_precision():
        inside = [getattr(owner, name) for owner, name, _ in _precision_switches()]
    assert inside == [strictest for *_, strictest in _precision_switches()]
    assert [getattr(owner, name) for owner, name, _ in _precision_switches()] == before


class Product(torch.nn.Module):
    """One product, elementwise."""

    def forward(self, x, y):
        return x * y


def test_one_product_errs_by_its_three_roundings():
    """Of a product only both operands and the result are rounded: not what the values are drawn and converted by.

    The root mean square of three signs is the square root of three; 24 samples of 1000 elements are within 3% of it,
    eight standard deviations.
    """
    draw = lambda rng: {name: rng.uniform(0.5, 2.0, 1000) for name in "xy"}  # noqa: E731
    exact, errors = simulated(Case(Product, draw), SEED)
    relative = errors["output 0"] / np.abs(exact["output 0"])
    assert np.sqrt(np.mean(relative**2)) == pytest.approx(np.sqrt(3), rel=0.03)
