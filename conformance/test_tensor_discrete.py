"""Samplers of whole numbers and masks: bernoulli, geometric, poisson, binomial, multinomial, random_ and dropout."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from .support.numeric import UNIT_ROUNDOFF, assert_matches, to_numpy
from .support.tensor_inputs import floats_of
from .support.tensor_random import SHARE, assert_count, assert_counts, strided

MANY = 20001
PROBABILITIES = (0.0, 0.03, 0.5, 0.9, 1.0)

BERNOULLI = {
    "bernoulli_(p)": lambda p, like: torch.full_like(like, 7).bernoulli_(p),
    "bernoulli_(tensor)": lambda p, like: torch.full_like(like, 7).bernoulli_(torch.full_like(like, p)),
    "bernoulli(tensor)": lambda p, like: torch.bernoulli(torch.full_like(like, p)),
    "bernoulli(p)": lambda p, like: torch.full_like(like, 7).bernoulli(p),
    "bernoulli(out=)": lambda p, like: _bernoulli_out(p, like),
}


def _bernoulli_out(p, like):
    out = torch.full_like(like, 7)
    assert torch.bernoulli(torch.full_like(like, p), out=out) is out
    return out


def held(p, dtype):
    """Return the range of probabilities that ``p`` may have become in ``dtype``."""
    return p * (1 - UNIT_ROUNDOFF[dtype]), min(1.0, p * (1 + UNIT_ROUNDOFF[dtype]))


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("form", BERNOULLI)
def test_bernoulli_is_one_with_its_probability(form, device, torchcheck_seed):
    """A Bernoulli sample is 1 with probability p and else 0, exactly so at p = 0 and p = 1, in every dtype."""
    torch.manual_seed(torchcheck_seed)
    for dtype, p in itertools.product(floats_of(device), PROBABILITIES):
        samples = BERNOULLI[form](p, torch.empty(MANY, dtype=dtype, device=device))
        assert samples.dtype == dtype
        ones, zeros = int((samples == 1).sum()), int((samples == 0).sum())
        assert ones + zeros == MANY, f"{form} in {dtype} gave something else than 0 and 1"
        low, high = held(p, dtype)
        assert stats.binom.ppf(SHARE / 2, MANY, low) <= ones <= stats.binom.isf(SHARE / 2, MANY, high), (
            f"{form}, {dtype}, {p}: {ones}"
        )
        halves = int((samples[: MANY // 2] == samples[-(MANY // 2) :]).sum())
        if dtype in (torch.float64, torch.float32):
            assert_count(halves, MANY // 2, p * p + (1 - p) ** 2, what="equal pairs of independent samples")


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.int16], ids=str)
def test_bernoulli_fills_integer_tensors(dtype, device, torchcheck_seed):
    """bernoulli_ fills integer and bool tensors too, from a number or a tensor of probabilities."""
    torch.manual_seed(torchcheck_seed)
    for p in (0.3, torch.full((MANY,), 0.3, device=device)):
        samples = torch.ones(MANY, dtype=dtype, device=device).bernoulli_(p)
        assert samples.dtype == dtype
        assert int((samples > 1).sum()) == 0
        assert_count(int(samples.sum()), MANY, 0.3, what=f"bernoulli_, {dtype}")


@pytest.mark.behavior("tensor.distributions")
def test_bernoulli_uses_the_probability_of_each_element(device, torchcheck_seed):
    """Each element follows its own probability, through strided probabilities and into strided outputs."""
    torch.manual_seed(torchcheck_seed)
    row = torch.tensor([0.0, 0.2, 1.0, 0.7], device=device)
    probabilities = row.repeat_interleave(2).expand(5001, 8)[:, ::2]
    base, view = strided(20004, torch.float32, device, -5)
    view.t().bernoulli_(probabilities)
    for samples in (torch.bernoulli(probabilities), torch.bernoulli(probabilities.t()).t(), view.t()):
        for column, p in enumerate((0.0, 0.2, 1.0, 0.7)):
            assert_count(int(samples[:, column].sum()), 5001, p, what=f"column {column}")
    assert_matches(base[:, 1::2], np.full((5001, 4), -5.0), what="the gaps")
    if device.type == "cpu":  # elsewhere a kernel looks at them, and ends the process's use of the device
        for wrong in (1.0001, -0.1):
            with pytest.raises(RuntimeError):
                torch.bernoulli(torch.tensor([0.5, wrong], device=device))


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8], ids=str)
def test_geometric_counts_trials_from_one(dtype, device, torchcheck_seed):
    """geometric_(p) is the number of trials up to the first success: k with probability p (1 - p)^(k - 1), k >= 1."""
    torch.manual_seed(torchcheck_seed)
    base = torch.zeros(MANY, 2, dtype=dtype, device=device)
    for tensor in (torch.zeros(MANY, dtype=dtype, device=device), base[:, 1]):
        values = to_numpy(tensor.geometric_(0.4)).astype(np.int64)
        assert values.min() >= 1
        counts = np.bincount(np.minimum(values, 6), minlength=7)[1:]
        assert_counts(counts, [*(0.4 * 0.6 ** np.arange(5)), 0.6**5], what=f"geometric_, {dtype}")
    assert int((base[:, 0] != 0).sum()) == 0, "the gaps"


def binned(values, law, edges):
    """Return the counts of whole-number samples below and between ``edges``, and their probabilities."""
    bounds = [-np.inf, *edges, np.inf]
    counts = [int(((values > low) & (values <= high)).sum()) for low, high in itertools.pairwise(bounds)]
    return counts, np.diff([0.0, *law.cdf(np.asarray(edges)), 1.0])


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("rate", [0.0, 0.3, 4.0, 9.9, 30.0, 400.0])
def test_poisson_follows_the_rate_of_each_element(rate, device, torchcheck_seed):
    """poisson draws from the Poisson law of each element's rate, small and large, strided rates included."""
    torch.manual_seed(torchcheck_seed)
    law = stats.poisson(rate)
    edges = sorted({float(law.ppf(q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}) if rate else [0.0]
    dtypes = [
        dtype for dtype in floats_of(device) if dtype.itemsize > 2 or rate in (0.0, 4.0, 30.0)
    ]  # rates exact there
    for dtype in dtypes:
        rates = torch.full((6001, 2), rate + 50, dtype=dtype, device=device)
        rates[:, 0] = rate
        samples = torch.poisson(rates[:, 0])
        values = to_numpy(samples)
        assert samples.dtype == dtype
        assert (values >= 0).all()
        assert np.array_equal(values, np.floor(values))
        if dtype.itemsize == 2:
            values, bins = np.minimum(values, 200), [edge for edge in edges if edge < 200]
        else:
            bins = edges
        assert_counts(*binned(values, law, bins), what=f"poisson({rate}), {dtype}")


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize(("trials", "p"), [(0, 0.5), (7, 0.0), (7, 1.0), (7, 0.3), (40, 0.9), (1000, 0.25), (30, 0.02)])
def test_binomial_follows_the_count_and_probability_of_each_element(trials, p, device, torchcheck_seed):
    """binomial draws from the binomial law of each element's count and probability."""
    torch.manual_seed(torchcheck_seed)
    law = stats.binom(trials, p)
    edges = sorted({float(law.ppf(q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)})
    for dtype in [dtype for dtype in floats_of(device) if dtype.itemsize > 2]:
        counts = torch.full((6001, 2), float(trials), dtype=dtype, device=device)[:, 0]
        samples = torch.binomial(counts, torch.full((6001,), p, dtype=dtype, device=device))
        values = to_numpy(samples)
        assert samples.dtype == dtype
        assert ((values >= 0) & (values <= trials) & (values == np.floor(values))).all()
        assert_counts(*binned(values, law, edges), what=f"binomial({trials}, {p}), {dtype}")


FULL_RANGES = {
    torch.bool: (0, 1), torch.uint8: (0, 255), torch.int8: (0, 127), torch.int16: (0, 2**15 - 1),
    torch.int32: (0, 2**31 - 1), torch.int64: (0, 2**63 - 1), torch.float16: (0, 2**11), torch.bfloat16: (0, 2**8),
    torch.float32: (0, 2**24), torch.float64: (0, 2**53),
}  # fmt: skip


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("dtype", FULL_RANGES, ids=str)
def test_random_fills_the_documented_range(dtype, device, torchcheck_seed):
    """random_() is uniform over the integers that the dtype holds, random_(from, to) over [from, to)."""
    if dtype == torch.float64 and dtype not in floats_of(device):
        pytest.skip("float64 does not exist on mps: run this check on another device")
    torch.manual_seed(torchcheck_seed)
    low, high = FULL_RANGES[dtype]
    base = torch.zeros(MANY, 2, dtype=dtype, device=device)
    values = to_numpy(base[:, 0].random_())
    assert int((base[:, 1] != 0).sum()) == 0, "the gaps"
    assert low <= values.min() <= values.max() <= high
    if dtype == torch.bool:
        assert_count(int(values.sum()), MANY, 0.5, what="random_, bool")
        return
    quarter = (high + 1) // 4
    counts = np.bincount(np.minimum(values // quarter, 3).astype(np.int64), minlength=4)
    share = np.array([quarter, quarter, quarter, high + 1 - 3 * quarter]) / (high + 1)
    assert_counts(counts, share, what=f"quarters of random_, {dtype}")
    for arguments, least, most in (((3, 8), 3, 8), ((5,), 0, 5)):
        values = to_numpy(base[:, 0].random_(*arguments)).astype(np.int64)
        assert least <= values.min() <= values.max() < most
        assert_counts(
            np.bincount(values - least, minlength=5), [0.2] * 5, what=f"random_ from {least} to {most}, {dtype}"
        )


WEIGHTS = (0.0, 1.0, 3.0, 0.0, 4.0, 0.0)


@pytest.mark.behavior("tensor.distributions")
def test_multinomial_with_replacement_follows_its_weights(device, torchcheck_seed):
    """With replacement a category comes with its share of the weights, one of weight zero never, in every dtype."""
    torch.manual_seed(torchcheck_seed)
    for dtype in floats_of(device):
        weights = torch.tensor(WEIGHTS, dtype=dtype, device=device)
        spread = torch.stack([weights, torch.ones_like(weights)], dim=1)[:, 0]
        for source in (weights, spread):
            samples = torch.multinomial(source, MANY, replacement=True)
            assert (samples.dtype, tuple(samples.shape)) == (torch.int64, (MANY,))
            counts = np.bincount(to_numpy(samples), minlength=6)
            assert_counts(counts, np.array(WEIGHTS) / 8, what=f"multinomial, {dtype}")
    assert_matches(weights, np.array(WEIGHTS), what="the weights")


@pytest.mark.behavior("tensor.distributions")
def test_multinomial_treats_rows_apart(device, torchcheck_seed):
    """Each row of a matrix follows its own weights, transposed weights included, with one draw or many."""
    torch.manual_seed(torchcheck_seed)
    rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 6.0], [5.0, 0.0, 0.0]], device=device)
    shares = to_numpy(rows) / to_numpy(rows).sum(axis=1, keepdims=True)
    for samples in (
        torch.multinomial(rows, 6001, True),
        torch.multinomial(rows.t().contiguous().t(), 6001, True),
        torch.multinomial(rows.repeat(6001, 1), 1).reshape(6001, 3).t(),
    ):
        assert tuple(samples.shape) == (3, 6001)
        for row in range(3):
            assert_counts(np.bincount(to_numpy(samples[row]), minlength=3), shares[row], what=f"row {row}")


@pytest.mark.behavior("tensor.distributions")
def test_multinomial_without_replacement_draws_each_category_once(device, torchcheck_seed):
    """Without replacement no category repeats, and an ordered pair i, j has probability p_i p_j / (1 - p_i)."""
    torch.manual_seed(torchcheck_seed)
    p = np.array([0.1, 0.0, 0.6, 0.3])
    for dtype in (torch.float32, floats_of(device)[0]):
        weights = torch.tensor((10 * p).tolist(), dtype=dtype, device=device).expand(6001, 4)
        pairs = to_numpy(torch.multinomial(weights, 2))
        assert (pairs[:, 0] != pairs[:, 1]).all()
        wanted = [p[i] * p[j] / (1 - p[i]) * (i != j) for i in range(4) for j in range(4)]
        counts = np.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16)
        assert_counts(counts, wanted, what=f"pairs without replacement, {dtype}")
        whole = to_numpy(torch.multinomial(weights[:50], 3))
        assert np.array_equal(np.sort(whole, axis=1), np.tile([0, 2, 3], (50, 1)))


@pytest.mark.behavior("tensor.distributions")
def test_multinomial_refuses_impossible_weights(device):
    """Negative, infinite, NaN and all-zero weights raise, and so do more distinct draws than categories."""
    if device.type == "cuda":
        pytest.skip("a device-side assert would poison this process: run on cpu")
    for weights in ([1.0, -1.0], [1.0, float("inf")], [float("nan"), 1.0], [0.0, 0.0]):
        for replacement in (True, False):
            with pytest.raises(RuntimeError):
                torch.multinomial(torch.tensor(weights, device=device), 1, replacement)
    with pytest.raises(RuntimeError):
        torch.multinomial(torch.ones(3, device=device), 4)
    with pytest.raises(RuntimeError):
        torch.multinomial(torch.ones(3, device=device), 0)


DROPOUTS = {
    "dropout": (lambda x, p: torch.nn.functional.dropout(x, p), (100, 101)),
    "dropout in place": (lambda x, p: torch.nn.functional.dropout(x.clone(), p, inplace=True), (100, 101)),
    "torch.dropout": (lambda x, p: torch.dropout(x, p, True), (10101,)),
    "dropout strided": (lambda x, p: torch.nn.functional.dropout(x.t(), p).t(), (100, 101)),
    "feature dropout": (lambda x, p: torch.nn.functional.dropout2d(x, p), (60, 51, 2, 2)),
    "feature dropout 3d": (lambda x, p: torch.nn.functional.dropout3d(x, p), (60, 51, 2, 1, 2)),
}


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_mask_keeps_with_probability_one_minus_p(name, device, torchcheck_seed):
    """A dropout mask keeps an element (or a whole channel) with probability 1 - p and scales it by 1 / (1 - p)."""
    apply, shape = DROPOUTS[name]
    features = shape[0] * shape[1] if name.startswith("feature") else np.prod(shape)
    torch.manual_seed(torchcheck_seed)
    for dtype, p in itertools.product(floats_of(device), (0.25, 0.5)):
        x = torch.full(shape, 3.0, dtype=dtype, device=device)
        first, second = apply(x, p).reshape(features, -1), apply(x, p).reshape(features, -1)
        kept = to_numpy(first.t()) != 0
        allowed = 4 * UNIT_ROUNDOFF[dtype]  # the scale is rounded, then the product
        assert_matches(first.t(), 3.0 / (1 - p) * kept, rtol=allowed, dtype=dtype, what=f"{name}, {dtype}")
        assert (kept == kept[0]).all(), "a channel is kept or dropped whole"
        assert_count(int(kept[0].sum()), features, 1 - p, what=f"{name}, {dtype}, kept")
        same = p * p + (1 - p) ** 2
        alike = int(((to_numpy(second[:, 0]) != 0) == kept[0]).sum())
        assert_count(alike, features, same, what=f"{name}, {dtype}, kept alike in two masks")
        half = features // 2
        alike = int((kept[0, :half] == kept[0, features - half :]).sum())
        assert_count(alike, half, same, what=f"{name}, {dtype}, kept alike in two halves")
    assert_matches(apply(x, 0.0).flatten(), np.full(x.numel(), 3.0))
    assert_matches(apply(x, 1.0).flatten(), np.zeros(x.numel()))
    assert_matches(x.flatten(), np.full(x.numel(), 3.0), what="the input")


@pytest.mark.behavior("tensor.distributions")
def test_alpha_dropout_keeps_mean_and_variance(device, torchcheck_seed):
    """alpha_dropout maps kept x to a x + b and dropped ones to a alpha' + b, with the published a, b and alpha'."""
    torch.manual_seed(torchcheck_seed)
    p, alpha = 0.3, -1.7580993408473766
    a = ((1 - p) * (1 + p * alpha**2)) ** -0.5
    b = -a * alpha * p
    x = torch.full((MANY,), 2.0, device=device)
    values = to_numpy(torch.nn.functional.alpha_dropout(x, p, training=True))
    kept, dropped = np.isclose(values, 2 * a + b, rtol=1e-6), np.isclose(values, a * alpha + b, rtol=1e-6)
    assert (kept ^ dropped).all(), "two values, ten roundings in float32 away at most"
    assert_count(int(kept.sum()), MANY, 1 - p, what="alpha_dropout, kept")


@pytest.mark.behavior("tensor.distributions")
def test_gumbel_softmax_draws_categories_with_softmax_probability(device, torchcheck_seed):
    """gumbel_softmax(hard=True) is one-hot, with category i as often as softmax(logits) says."""
    torch.manual_seed(torchcheck_seed)
    logits = torch.tensor([0.1, 0.6, 0.3], device=device).log().expand(MANY, 3)
    samples = to_numpy(torch.nn.functional.gumbel_softmax(logits, hard=True))
    assert np.array_equal(samples.sum(axis=1), np.ones(MANY))
    assert_counts(samples.sum(axis=0).astype(int), [0.1, 0.6, 0.3], what="gumbel_softmax")
