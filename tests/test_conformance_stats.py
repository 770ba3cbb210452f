"""The acceptance regions of random checks: what they pass, and what they must not."""

import numpy as np
import pytest
from scipy import stats as laws

from conformance.support.stats import assert_distribution, assert_tails

LAWS = {
    "normal": laws.norm(2, 0.02),
    "uniform": laws.uniform(-1, 4),
    "exponential": laws.expon(scale=3),
    "heavy": laws.cauchy(1, 2),
    "truncated": laws.truncnorm(-1, 2),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_samples_of_the_law_pass_rounded_or_not(name, dtype):
    """Healthy samples pass at every size, seed and precision, values rounded to the bounds included."""
    if name == "heavy" and dtype == np.float16:
        pytest.skip("float16 does not hold samples of this law: they overflow")
    rng = np.random.default_rng(7)
    for count in (50, 2000, 20000):
        for _ in range(20):
            samples = LAWS[name].rvs(count, random_state=rng).astype(dtype)
            assert_tails(np.sort(samples.astype(np.float64)), LAWS[name].cdf)


@pytest.mark.parametrize("outlier", [1.8, 2.2, -500.0])
def test_one_sample_far_from_the_law_fails(outlier):
    """Ten deviations off on either side, which no distribution function of 20000 samples shows."""
    samples = LAWS["normal"].rvs(20000, random_state=3)
    assert_distribution(samples, LAWS["normal"].cdf)
    samples[77] = outlier
    with pytest.raises(AssertionError, match=r"one of 20000 samples is .*, beyond which the law has a share of"):
        assert_distribution(samples, LAWS["normal"].cdf, what="weights")


def test_samples_of_another_law_fail():
    """A deviation a fifth too large is seen in 20000 samples."""
    samples = laws.norm(0, 1.2).rvs(20000, random_state=4)
    with pytest.raises(AssertionError, match=r"weights: 20000 samples stray from the law by 0\.0\d+ in distribution"):
        assert_distribution(samples, laws.norm(0, 1).cdf, what="weights")
