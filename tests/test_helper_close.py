"""assert_close: nests of anything that holds numbers, by dtype-aware tolerances, with texts that find the place."""

import dataclasses
import time
import warnings
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch

from pytest_torchcheck import VacuousCheckError, assert_close
from pytest_torchcheck.assertions.close import Rules, compare, explain, require_compared

TORCH = f"torch {torch.__version__}"
Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Output:
    """What a model may return."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Cache:
    """An object that holds tensors, as a cache of keys and values does."""

    def __init__(self, keys):
        self.keys = [keys]
        self.owner = self


def coo(values):
    return torch.sparse_coo_tensor([[0, 2]], values, (3,), check_invariants=True)


def quantized(scale):
    return quietly(torch.quantize_per_tensor, torch.ones(3), scale, 0, torch.qint8)


def quietly(make, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of several kinds of tensor that they are a prototype
        return make(*arguments, **options)


def nested(*sizes, layout=torch.strided):
    return quietly(torch.nested.nested_tensor, [torch.ones(size, 2) for size in sizes], layout=layout)


def message(actual, expected, **options):
    with pytest.raises(AssertionError) as raised:
        assert_close(actual, expected, **options)
    assert not isinstance(raised.value, VacuousCheckError)
    return str(raised.value)


EQUAL = {
    "float": torch.tensor([1.0, 2.0]),
    "bool": torch.tensor([True, False]),
    "integers": torch.tensor([2**53 + 1]),
    "uint16": torch.tensor([1, 2]).to(torch.uint16),
    "complex": torch.tensor([1 + 2j]),
    "complex32": quietly(torch.tensor([1 + 2j]).to, torch.complex32),
    "conjugated": torch.tensor([1 + 2j]).conj(),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "float8": torch.ones(2).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(3.0),
    "no elements": torch.empty(0, 3),
    "meta": torch.empty(2, device="meta"),
    "COO": coo([1.0, 2.0]),
    "CSR": quietly(torch.eye(3).to_sparse_csr),
    "CSC": quietly(torch.eye(3).to_sparse_csc),
    "BSR": quietly(torch.eye(4).to_sparse_bsr, (2, 2)),
    "nested": nested(1, 3),
    "jagged": nested(1, 3, layout=torch.jagged),
    "mkldnn": torch.ones(2, 2).to_mkldnn(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "expanded": torch.ones(1, 3).expand(2, 3),
    "array": np.array([1.0, 2.0]),
    "array read backwards": np.array([1.0, 2.0])[::-1],
    "NumPy number": np.float32(1.5),
    "number": 0.5,
    "complex number": 1j,
    "large number": 2**70,
    "tuple": (torch.ones(2), 1, None),
    "mapping": OrderedDict(a=torch.ones(2), b=[torch.zeros(1)]),
    "named tuple": Pair(torch.ones(2), "text"),
    "dataclass": Output(torch.ones(2)),
    "object": Cache(torch.ones(2)),
    "torch.max": torch.ones(2, 2).max(0),
    "distribution": torch.distributions.Normal(torch.zeros(2), torch.ones(2)),
}


@pytest.mark.parametrize("value", EQUAL.values(), ids=EQUAL)
def test_a_value_agrees_with_itself(value):
    """Every kind of leaf and container can be compared; a value without a number in it is no exception."""
    if value == 2**70 if isinstance(value, int) else False:
        value = (value, 1)  # beyond every dtype: equal as a Python number, beside one that can be compared
    assert_close(value, value)


DIFFERENT = {
    "COO": (coo([1.0, 2.0]), coo([1.0, 3.0]), "value.values() differs"),
    "indices": (
        coo([1.0, 2.0]),
        torch.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (3,), check_invariants=True),
        "value.indices() differs",
    ),
    "CSR": (quietly(torch.eye(3).to_sparse_csr), quietly((2 * torch.eye(3)).to_sparse_csr), "value.values() differs"),
    "nested": (nested(1, 3), nested(1, 2), "value.unbind()[1] has shape (3, 2), expected (2, 2)"),
    "rows": (
        nested(1),
        nested(1, 2),
        "value has .unbind()[0], expected .unbind()[0], .unbind()[1]",
    ),
    "mkldnn": (torch.ones(2, 2).to_mkldnn(), torch.zeros(2, 2).to_mkldnn(), "value.to_dense() differs"),
    "layout": (torch.eye(3).to_sparse(), torch.eye(3), "value has layout torch.sparse_coo, expected torch.strided"),
    "meta": (
        torch.empty(2, device="meta"),
        torch.ones(2),
        "value has device meta, expected cpu",
    ),
    "dtype": (torch.ones(2), torch.ones(2).double(), "value has dtype torch.float32, expected torch.float64"),
    "shape": (torch.ones(2), torch.ones(2, 1), "value has shape (2,), expected (2, 1)"),
    "bool": (torch.tensor([True]), torch.tensor([False]), "value differs"),
    "complex": (torch.tensor([1 + 2j]), torch.tensor([1 - 2j]), "value differs"),
    "NaN": (torch.tensor([float("nan")]), torch.tensor([float("nan")]), "value differs"),
    "infinity": (torch.tensor([float("inf")]), torch.tensor([1.0]), "value differs"),
    "kind": (torch.ones(2), "text", "value is a Tensor, expected a str"),
    "container": ([torch.ones(2)], torch.ones(2), "value is a list, expected a Tensor"),
    "text": ((torch.ones(1), "a"), (torch.ones(1), "b"), "value[1] is 'a', expected 'b'"),
    "None": ((torch.ones(1), None), (torch.ones(1), torch.ones(1)), "value[1] is a NoneType, expected a Tensor"),
    "number": (1.0, 1.1, "value differs"),
    "large number": ((2**70, 1), (2**70 + 1, 1), f"value[0] is {2**70}, expected {2**70 + 1}"),
    "text in an array": (
        (np.array(["a"]), 1),
        (np.array(["b"]), 1),
        "value[0] is array(['a'], dtype='<U1'), expected array(['b'], dtype='<U1')",
    ),
    "structure": (
        {"a": 1, "b": 2},
        {"b": 2, "c": 3},
        "value has another structure: ['a'] too much, ['c'] missing",
    ),
    "object": (Cache(torch.ones(1)), Cache(torch.zeros(1)), "value.keys[0] differs"),
}


@pytest.mark.parametrize(("actual", "expected", "first_line"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_difference_is_found_and_named(actual, expected, first_line):
    """Each kind of difference is seen, and the first line of the text says which it is and where."""
    assert message(actual, expected).partition("\n")[0] == first_line


def test_quantized_tensors_are_compared_by_scale_and_integers():
    """A quantized tensor differs from one that has another scale."""
    assert_close(quantized(0.5), quantized(0.5))
    assert message(quantized(0.5), quantized(0.25)).startswith("value.q_scale() differs")


def test_text_names_place_size_and_allowance():
    """The worst element is named by its index, with its distance and what was allowed."""
    actual = torch.zeros(4, 8)
    actual[1, 2], actual[3, 7] = 0.25, -0.5
    assert message({"logits": actual}, {"logits": torch.zeros(4, 8)}) == (
        "value['logits'] differs\n"
        "  mismatched  2 of 32 elements (6.2%)\n"
        "  worst       |diff| 0.5 at (3, 7); allowed 1e-05\n"
        "  actual      -0.5    expected 0\n"
        f"  setting     float32 (4, 8), cpu, {TORCH}"
    )


def test_all_leaves_that_differ_are_named():
    """Ten leaves are shown in full and the others by name; the caller's words are added at the end."""
    nest = {f"layer{index}": torch.ones(()) for index in range(12)}
    text = message(nest, {name: torch.zeros(()) for name in nest}, msg="after loading")
    assert text.splitlines()[:2] == ["12 values differ", "  value['layer0'] differs"]
    assert text.count("mismatched") == 10
    assert text.splitlines()[-3:] == [
        "  and also    value['layer10'] differs",
        "              value['layer11'] differs",
        "  note        after loading",
    ]


def test_large_whole_numbers_show_how_far_they_are_apart():
    """A distance that a float64 cannot tell is shown all the same."""
    text = message(torch.tensor([2**60 + 1]), torch.tensor([2**60]))
    assert "|diff| 1 at (0,); allowed 0" in text
    assert f"actual      {2**60 + 1}    expected {2**60}" in text


@pytest.mark.parametrize(("dtype", "within", "beyond"), [
    (torch.float16, 9e-4, 2e-3),
    (torch.bfloat16, 1.5e-2, 4e-2),
    (torch.float32, 1e-5, 3e-5),
    (torch.float64, 1.9e-7, 3e-7),
    (torch.complex64, 1e-5, 3e-5),
])  # fmt: skip
def test_tolerance_follows_the_dtype(dtype, within, beyond):
    """What torch.testing.assert_close allows for a dtype is allowed, and no more."""
    one = torch.ones(1, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    assert_close((one + within).to(dtype), one.to(dtype))
    assert "mismatched  1 of 1" in message((one + beyond).to(dtype), one.to(dtype))


def test_a_number_agrees_with_a_tensor_of_any_dtype():
    """A Python number has no dtype: the tensor's tolerance holds."""
    assert_close(torch.tensor(0.1), 0.1)
    assert_close([torch.tensor(3), np.float64(0.5)], [3, 0.5])


def test_a_meta_tensor_has_no_values_to_agree():
    """A meta tensor agrees with none that has values, also where the device does not matter."""
    text = message(torch.empty(2, device="meta"), torch.ones(2), check_device=False)
    assert text == "value is on meta on one side only: it has no values"


def test_options_loosen_what_they_name_and_no_more():
    """equal_nan, check_dtype, check_stride and the tolerances each do what their name says."""
    nan = torch.tensor([float("nan"), 1.0])
    assert_close(nan, nan.clone(), equal_nan=True)
    assert_close(torch.ones(2), torch.ones(2).double(), check_dtype=False)
    assert_close(torch.tensor([1.0]), torch.tensor([1.1]), rtol=0, atol=0.11)
    assert_close(torch.tensor([10]), torch.tensor([11]), rtol=0.1, atol=0)
    turned = torch.ones(2, 3).t()
    assert_close(turned, torch.ones(3, 2))
    assert message(turned, torch.ones(3, 2), check_stride=True) == "value has stride (1, 3), expected (2, 1)"


@pytest.mark.parametrize("nothing", [(), {}, None, (None, "text"), [[]]])
def test_nothing_to_compare_is_no_pass(nothing):
    """Nests without a tensor or a number prove nothing."""
    with pytest.raises(VacuousCheckError, match="^nothing was compared: there is no tensor and no number on either"):
        assert_close(nothing, nothing)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rtol": 1e-3}, "give both rtol and atol, or neither: one alone leaves the other to chance"),
        ({"atol": 1e-3}, "give both rtol and atol, or neither: one alone leaves the other to chance"),
        ({"rtol": -1.0, "atol": 0.0}, "rtol must be zero or more, not -1.0"),
        ({"rtol": 0.0, "atol": float("nan")}, "atol must be zero or more, not nan"),
    ],
)
def test_misused_tolerances_are_refused(options, text):
    """A tolerance that is alone, negative or no number is a ValueError that says so."""
    with pytest.raises(ValueError) as raised:
        assert_close(torch.ones(1), torch.ones(1), **options)
    assert str(raised.value) == text


def test_values_stay_as_they_are():
    """Neither side is changed, and no graph is kept."""
    left = torch.ones(2, requires_grad=True)
    right = left * 1
    assert_close(left, right)
    assert (left.grad, right.requires_grad, left._version) == (None, True, 0)


def test_explained_difference_joins_the_claim():
    """One difference becomes part of the claim it breaks, with the helper's own rows below."""
    [text] = compare(torch.ones(1), torch.zeros(2), Rules(), name="output").differences
    assert explain("the copy differs", [text], [("next", "look")], "mine") == (
        "the copy differs: output has shape (1,), expected (2,)\n  next        look\n  note        mine"
    )


@pytest.mark.parametrize(("nest", "said"), [
    ((torch.empty(0),), "only tensors without values"),
    (("text",), "no tensor and no number"),
])  # fmt: skip
def test_helpers_refuse_a_comparison_of_nothing(nest, said):
    """What the other helpers compare must hold an element."""
    with pytest.raises(VacuousCheckError, match=f"^nothing was compared: the output holds {said}$"):
        require_compared(compare(nest, nest, Rules()), "the output")


# -- what a passing comparison costs ---------------------------------------------------------------------------

TENSOR = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
NEST = {f"layer{index}": torch.full((8, 4), float(index)) for index in range(100)}
COSTS = {
    "one tensor": (TENSOR, TENSOR.clone(), 1.1),
    "one tensor with rounding": (TENSOR, TENSOR * (1 + 2e-7), 1.1),
    "small tensor": (TENSOR[0, :4], TENSOR[0, :4].clone(), 1.1),
    "nest of 100": (NEST, {name: value.clone() for name, value in NEST.items()}, 1.3),
}


@pytest.mark.parametrize(("actual", "expected", "bar"), COSTS.values(), ids=COSTS)
def test_passing_costs_no_more_than_torch_testing(actual, expected, bar):
    """A comparison that passes takes at most 1.1 times as long as torch's own on a tensor, 1.3 times on a nest."""

    def seconds(compared):
        start = time.process_time()  # not the clock on the wall: other processes must not count
        for _ in range(10):
            compared(actual, expected)
        return time.process_time() - start

    rounds = [(seconds(assert_close), seconds(torch.testing.assert_close)) for _ in range(40)]
    ours, theirs = (min(times) for times in zip(*rounds, strict=True))
    assert ours / theirs <= bar
