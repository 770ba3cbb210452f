"""A sample's result depends neither on its batch nor on the memory layout of the inputs."""

import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_batch_independent, assert_layout_invariant

from .helpers import failure, vacuous

SEEDED = torch.Generator().manual_seed(0)
X = torch.randn(5, 4, generator=SEEDED)
IMAGES = torch.randn(3, 2, 6, 6, generator=SEEDED)


class Dictionary(nn.Module):
    """Inputs by keyword, outputs by name, one of them without a batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, *, x, mask):
        return {"logits": self.linear(x) * mask[:, None], "weight": self.linear.weight, "count": 3}


# -- batches ---------------------------------------------------------------------------------------------------

INDEPENDENT = {
    "BatchNorm in eval mode": (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), X, {}),
    "convolution": (nn.Conv2d(2, 4, 3), IMAGES, {}),
    "transformer": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.randn(3, 5, 4, generator=SEEDED), {}),
    "LSTM": (nn.LSTM(4, 3), torch.randn(6, 5, 4, generator=SEEDED), {"batch_dim": 1}),
    "LSTM with a state": (
        nn.LSTM(4, 3),
        (torch.randn(6, 5, 4, generator=SEEDED), (torch.ones(1, 5, 3), torch.ones(1, 5, 3))),
        {"batch_dim": {"args[0]": 1, "args[1][0]": 1, "args[1][1]": 1}},
    ),
    "by keyword": (Dictionary(), (), {"kwargs": {"x": X, "mask": torch.arange(5)}}),
    "function": (torch.softmax, (X, -1), {}),
    "embedding": (nn.Embedding(9, 2), torch.arange(5), {}),
}


@pytest.mark.parametrize(("model", "args", "options"), INDEPENDENT.values(), ids=INDEPENDENT)
def test_independent_samples_pass(model, args, options):
    """Models that treat each sample alone pass, whichever dimension holds the samples."""
    assert_batch_independent(model, args, **options)


DEPENDENT = {
    "softmax over the batch": (lambda x: x.softmax(0), X, {}),
    "BatchNorm in train mode": (nn.BatchNorm1d(2), torch.randn(3, 2, 4, generator=SEEDED), {"training": True}),
    "view(-1)": (lambda x: x.transpose(0, 1).reshape(x.shape), torch.randn(3, 4, generator=SEEDED), {}),
    "first sample": (lambda x: x + x[:1], X, {}),
}


@pytest.mark.parametrize(("model", "args", "options"), DEPENDENT.values(), ids=DEPENDENT)
def test_dependence_is_found(model, args, options):
    """Each way of mixing samples shows in one that is run alone."""
    assert "gives another result alone than in its batch" in failure(assert_batch_independent, model, args, **options)


def test_dependence_is_shown():
    """The sample, the worst element and the setting are named."""
    assert failure(assert_batch_independent, lambda x: x - x.mean(0), torch.tensor([[1.0], [2.0], [6.0]])) == (
        "sample 0 of <lambda> gives another result alone than in its batch: output differs\n"
        "  mismatched  1 of 1 elements (100.0%)\n"
        "  worst       |diff| 2 at (0, 0); allowed 0.00012\n"
        "  actual      0    expected -2\n"
        "  setting     float32 (1, 1), cpu, torch X\n"
        "  batch       3 samples\n"
        "  next        look for reductions and softmax over the batch, view(-1) or squeeze(), and BatchNorm in train"
        " mode"
    )


def test_order_of_samples_is_checked():
    """A model that treats places differently, and a sample alone like the first and the last, is found."""

    def place(x):
        return x + (torch.arange(len(x))[:, None] == 1)

    text = failure(assert_batch_independent, place, X)
    assert text.startswith("samples of place give other results in another order: output")


def test_batch_of_one_that_fails_is_found():
    """squeeze() drops the batch when it holds one sample."""
    text = failure(assert_batch_independent, lambda x: nn.functional.linear(x.squeeze(), torch.ones(2, 4)).sum(1), X)
    assert text.splitlines()[:2] == [
        "<lambda> cannot take a batch of one",
        "  error       IndexError: Dimension out of range (expected to be in range of [-1, 0], but got 1)",
    ]
    text = failure(assert_batch_independent, lambda x: x.squeeze(), X)
    assert text.startswith("sample 0 of <lambda> gives another result alone than in its batch: output has another str")


def test_nothing_to_tell_apart_is_no_pass():
    """Equal samples, and outputs without a batch, prove nothing."""
    assert vacuous(assert_batch_independent, torch.sin, torch.ones(3, 2)) == (
        "all samples of the batch are equal: none could be told from another"
    )
    assert vacuous(assert_batch_independent, torch.zeros_like, X) == (
        "all samples give one result in zeros_like: none could be told from another"
    )
    assert vacuous(assert_batch_independent, lambda x: x * float("nan"), X).endswith("NaN and infinity say nothing")
    assert vacuous(assert_batch_independent, torch.sum, X) == "no output of sum follows the size of the batch"


@pytest.mark.parametrize(
    ("args", "options", "text"),
    [
        (X[:1], {}, "give a batch of at least two samples along batch_dim, not 1"),
        (torch.tensor(1.0), {}, "give a batch of at least two samples along batch_dim, not 0"),
        (X, {"batch_dim": {"x": 0}}, "batch_dim names x, which is no tensor; there are args[0]"),
    ],
)
def test_misuse_of_batches_names_the_remedy(args, options, text):
    """A batch of one and a misspelt path are refused."""
    with pytest.raises(ValueError) as raised:
        assert_batch_independent(torch.sin, args, **options)
    assert str(raised.value) == text


class OverRaggedRows(nn.Module):
    """A layer on sequences of several lengths, which come padded and are nested inside, as the refusal advises."""

    def __init__(self, mixes=False):
        super().__init__()
        self.linear, self.mixes = nn.Linear(4, 3), mixes

    def forward(self, padded, lengths):
        rows = [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)]
        nested = self.linear(torch.nested.as_nested_tensor(rows, layout=torch.jagged))
        if self.mixes:
            nested = nested / nested.values().norm()
        return torch.nested.to_padded_tensor(nested, 0.0, output_size=(len(rows), 6, 3))


PADDED, LENGTHS = torch.randn(3, 6, 4, generator=SEEDED), torch.tensor([2, 6, 3])
JAGGED = torch.nested.nested_tensor([PADDED[0, :2], PADDED[1], PADDED[2, :3]], layout=torch.jagged)
ADVICE = (
    " is a nested tensor, of which no sample can be taken alone here: check a function that takes padded inputs and"
    " their lengths, nests them inside and returns what comes out padded to a fixed size (torch.nested.to_padded_tensor"
    " with output_size)"
)


@pytest.mark.parametrize(
    ("model", "args", "kwargs", "name"),
    [
        (nn.Linear(4, 3), JAGGED, {}, "args[0]"),
        (lambda x, *, rows: x * 2, PADDED, {"rows": [JAGGED]}, "kwargs['rows'][0]"),
        (
            lambda x: {"rows": torch.nested.as_nested_tensor(x, layout=torch.jagged)},
            X,
            {},
            "output['rows'] of <lambda>",
        ),
    ],
    ids=["input", "beside another", "output"],
)
def test_nested_tensor_is_refused_by_name(model, args, kwargs, name):
    """A batch of rows of several lengths is neither handed over whole without a word nor taken for something else."""
    with pytest.raises(TypeError) as raised:
        assert_batch_independent(model, args, kwargs)
    assert str(raised.value) == name + ADVICE


def test_rows_of_several_lengths_are_checked_as_advised():
    """What the refusal advises works, and so does to hand over a nested tensor that is no batch."""
    assert_batch_independent(OverRaggedRows(), (PADDED, LENGTHS))
    text = failure(assert_batch_independent, OverRaggedRows(mixes=True), (PADDED, LENGTHS))
    assert text.startswith("sample 0 of OverRaggedRows gives another result alone than in its batch: output differs")
    assert_batch_independent(
        lambda x, rows: x + rows.values().sum(), (X, JAGGED), batch_dim={"args[0]": 0, "args[1]": None}
    )


# -- layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), IMAGES),
        (nn.LSTM(4, 3), torch.randn(3, 2, 4, generator=SEEDED)),
        (torch.sin, torch.ones(3)),
        (nn.Conv3d(1, 1, 2), torch.randn(1, 1, 3, 3, 3, generator=SEEDED)),
    ],
    ids=["convolution", "LSTM", "vector", "volume"],
)
def test_layout_that_does_not_matter_passes(model, args):
    """torch's own modules give one result for all layouts."""
    assert_layout_invariant(model, args)


def test_refused_layout_is_found():
    """view() refuses memory that is not contiguous."""
    assert failure(assert_layout_invariant, lambda x: x.view(-1), X) == (
        "<lambda> refuses transposed inputs\n"
        "  error       view size is not compatible with input tensor's size and stride (at least one dimension spans"
        " across two contiguous subspaces). Use .reshape(...) instead.\n"
        "  setting     float32 (5, 4), cpu, torch X\n"
        "  next        use reshape instead of view, and no raw memory access"
    )


@pytest.mark.parametrize(
    ("read", "layout", "x"),
    [
        (lambda x: x.as_strided(x.shape, torch.empty(x.shape).stride()), "strided", X),
        (lambda x: x.as_strided(x.shape, x.stride()).clone() + float(x.stride(-1) > 2), "transposed", X),
        (lambda x: x + float(x.is_contiguous(memory_format=torch.channels_last)), "channels_last", IMAGES),
    ],
)
def test_layout_that_is_read_wrong_is_found(read, layout, x):
    """Code that reads memory as if it were contiguous gives other values."""
    text = failure(assert_layout_invariant, read, x)
    assert text.startswith(
        f"<lambda> gives another result for {layout} inputs than for contiguous ones: output differs"
    )


def test_inputs_of_one_layout_are_no_pass():
    """A number has but one layout."""
    assert vacuous(assert_layout_invariant, torch.sin, torch.tensor(1.0)) == (
        "no input of sin can be laid out in another way: give a tensor with more elements"
    )
    assert vacuous(assert_layout_invariant, lambda x: x * float("nan"), X).endswith("NaN and infinity say nothing")
