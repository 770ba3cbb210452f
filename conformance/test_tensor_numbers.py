"""One element of a tensor as a Python number: its truth, its value and the conversions of Python."""

import math
import operator

import pytest
import torch

from .support.tensor_dtypes import NUMERIC, of_build
from .support.tensor_inputs import has_dtype

#: name of a dtype -> Python numbers that it holds exactly, the least positive one and the ends of its range among them
FRACTIONS = [0.0, -0.0, 0.5, -0.5, 1.0, -1.75, 3.0]
NON_FINITE = [math.inf, -math.inf, math.nan]
NUMBERS = {
    "bool": [True, False],
    **{f"int{bits}": [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 64] for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": [0, 1, 2**bits - 1, 2 ** (bits - 1), 96] for bits in (8, 16, 32)},
    "uint64": [0, 1, 2**63 - 1, 96],  # of limited support: beyond this the truth of an element is refused
    "float16": [*FRACTIONS, *NON_FINITE, 2.0**-24, -65504.0, 2.0**-14],
    "bfloat16": [*FRACTIONS, *NON_FINITE, 2.0**-133, -(2.0**127), 2.0**-126],
    "float32": [*FRACTIONS, *NON_FINITE, 2.0**-149, -(2.0**127), 2.0**-126, 2.0**-24],
    "float64": [*FRACTIONS, *NON_FINITE, 2.0**-1074, -(2.0**1023), 2.0**-1022, 1 - 2.0**-53],
    **{name: [0.0, 0.5, -0.5, 1.0, -1.75, 3.0] for name in NUMERIC if "float8" in name},
    "float8_e8m0fnu": [0.5, 1.0, 2.0**-127, 2.0**127],
    **{name: [0j, 0.5j, 0.5 + 0j, -0.5 - 3j, complex(0, math.nan)] for name in NUMERIC if "complex" in name},
}
CONVERSIONS = {
    "bool": (bool, bool), "not": (operator.not_, operator.not_), "is_nonzero": (torch.is_nonzero, bool),
    "is_nonzero method": (torch.Tensor.is_nonzero, bool), "if": (lambda x: (1 if x else 0) == 1, bool),
    "and": (lambda x: (x and 5) is not x, bool), "or": (lambda x: (x or 5) is x, bool),
    "any": (lambda x: any([x]), bool), "all": (lambda x: all([x]), bool),
    "filter": (lambda x: len(list(filter(None, [x]))) == 1, bool),
    "int": (int, int), "float": (float, float), "complex": (complex, complex),
    "index": (lambda x: int(operator.index(x)), lambda x: int(operator.index(x))),
    "item": (torch.Tensor.item, lambda x: x), "tolist": (lambda x: x.reshape(1).tolist()[0], lambda x: x),
    "tolist of a scalar": (lambda x: x.reshape(()).tolist(), lambda x: x),
    "format": (lambda x: f"{x.reshape(()):.3e}", lambda x: f"{x:.3e}"),
}  # fmt: skip
#: what a Python number of that kind does not convert to; a tensor may refuse with another class of error
REFUSED = (TypeError, ValueError, OverflowError, RuntimeError)


def outcome(convert, value):
    """Return the text of what a conversion gives, so that zeros have signs and NaNs are alike; "refused" if it is."""
    try:
        return repr(convert(value))
    except REFUSED:
        return "refused"


@pytest.mark.behavior("tensor.ranks")
@pytest.mark.filterwarnings("ignore:.*support is experimental")
@pytest.mark.parametrize("name", of_build(NUMBERS))
def test_one_element_converts_as_its_python_number_does(name, device):
    """Truth, int, float, complex, index, item, tolist and format are the number's, in every shape and dtype."""
    dtype = getattr(torch, name)
    if not has_dtype(device, dtype) or (device.type == "mps" and "float8" in name):
        pytest.skip(f"{name} does not exist on mps: run this check on another device")
    for number in NUMBERS[name]:
        tensor = torch.tensor([number], dtype=dtype).to(device)
        for one in (tensor, tensor[0], tensor[None], tensor.expand(2, 1)[1:], torch.stack([tensor, tensor], 1)[:, 1]):
            for way, (convert, reference) in CONVERSIONS.items():
                wanted = outcome(reference, number)
                if isinstance(number, complex) and way in ("int", "float"):
                    continue  # torch converts those whose imaginary part is zero, Python none
                assert outcome(convert, one) == wanted, f"{way} of {number!r} in {name}, {tuple(one.shape)}"


@pytest.mark.behavior("tensor.ranks")
def test_large_and_fractional_numbers_become_integers_as_in_python(device):
    """int() cuts towards zero at any size, and complex numbers become real where nothing is lost."""
    for number in (2.75, -2.75, -0.9, 2.0**24 + 2, -(2.0**40), 2.0**70):
        assert int(torch.tensor([number], device=device)) == int(number)
    assert (int(torch.tensor(3 + 0j, device=device)), float(torch.tensor([2.5 + 0j], device=device))) == (3, 2.5)
    for convert in (int, float):
        with pytest.raises(RuntimeError, match="overflow"):
            convert(torch.tensor(1 + 2j, device=device))
    assert "abcd"[torch.tensor([2], device=device)] == "c"
    assert [*range(torch.tensor(3, device=device))] == [0, 1, 2]


@pytest.mark.behavior("tensor.ranks")
@pytest.mark.parametrize("tracked", [False, True], ids=["untracked", "tracked"])
def test_branches_and_loops_go_by_the_truth_of_an_element(tracked, device):
    """if, while, not and comparison chains read the element, down to the smallest one, and NaN compares false."""
    x = torch.tensor([4.0, 0.25, 0.0, math.nan], device=device, requires_grad=tracked)
    steps, rest = 0, x[0] * 1
    while rest:
        rest, steps = torch.where(rest > 2.0**-20, rest / 4, 0.0), steps + 1
    assert steps == 12, "4 = 2**2 becomes 2**-20 in eleven steps, and zero in one more"
    assert [0.1 < value < 0.5 for value in x] == [False, True, False, False]
    assert [bool(0 <= value <= 4) for value in x] == [True, True, True, False]
    assert [not value for value in x] == [False, False, True, False]
    assert [value.item() for value in (max(x[:3]), min(x[:3]), *sorted(x[:3]))] == [4.0, 0.0, 0.0, 0.25, 4.0]


COMPUTING = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
)
#: functions of several elements that take each for true or false, and the same of a list of Python truths
TRUTHS = {
    "bool": (lambda x: x.bool(), lambda t: t), "to": (lambda x: x.to(torch.bool), lambda t: t),
    "type": (lambda x: x.type(torch.bool), lambda t: t),
    "copy_": (lambda x: torch.zeros(x.shape, dtype=torch.bool, device=x.device).copy_(x), lambda t: t),
    "logical_not": (lambda x: x.logical_not(), lambda t: [not v for v in t]),
    "logical_and": (lambda x: torch.logical_and(x, x.flip(0)), lambda t: [*map(operator.and_, t, t[::-1])]),
    "logical_or": (lambda x: x.logical_or(x.flip(0)), lambda t: [*map(operator.or_, t, t[::-1])]),
    "logical_xor": (lambda x: torch.logical_xor(x, x.flip(0)), lambda t: [*map(operator.xor, t, t[::-1])]),
    "any": (lambda x: torch.stack([x.any(), x[-1:].any(), x[:1].any()]), lambda t: [any(t), t[-1], t[0]]),
    "all": (lambda x: torch.stack([x.all(), x[-1:].all(), x[:1].all()]), lambda t: [all(t), t[-1], t[0]]),
    "any of rows": (lambda x: torch.any(x[:, None], 1), lambda t: t),
    "all of rows": (lambda x: x[:, None].all(1), lambda t: t),
    "nonzero": (lambda x: x.nonzero()[:, 0], lambda t: [i for i, v in enumerate(t) if v]),
    "nonzero tuple": (lambda x: torch.nonzero(x, as_tuple=True)[0], lambda t: [i for i, v in enumerate(t) if v]),
    "argwhere": (lambda x: x.argwhere()[:, 0], lambda t: [i for i, v in enumerate(t) if v]),
    "where": (lambda x: torch.where(x)[0], lambda t: [i for i, v in enumerate(t) if v]),
    "count_nonzero": (lambda x: x.count_nonzero(), sum), "not equal": (lambda x: x != 0, lambda t: t),
    "sum of truths": (lambda x: x.bool().sum(), sum),
}  # fmt: skip


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("name", COMPUTING)
def test_functions_take_elements_for_true_as_python_does(name, device):
    """Everything but zero is true, fractions, denormals, NaN and imaginary numbers too, to every function of truths."""
    dtype = getattr(torch, name)
    if not has_dtype(device, dtype):
        pytest.skip(f"{name} does not exist on mps: run this check on another device")
    numbers = [number for number in NUMBERS[name] if device.type != "mps" or not 0 < abs(number) < 2.0**-120]
    for values in (numbers, numbers * 9, [number for number in numbers if number], [0] * 3):
        x = torch.tensor(values, dtype=dtype).to(device)
        for way, (function, reference) in TRUTHS.items():
            wanted = reference([bool(value) for value in values])
            assert function(x).tolist() == wanted, f"{way} of {values} in {name}"
            assert function(torch.stack([x, x], 1)[:, 1]).tolist() == wanted, f"{way} of strided {values} in {name}"
