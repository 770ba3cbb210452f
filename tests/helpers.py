"""What the tests of the helpers share: the text of a failure, and models with one bug each."""

import re

import pytest

from pytest_torchcheck import VacuousCheckError


def failure(helper, *args, **options):
    """Return the text with which a helper fails, torch's version made equal; emptiness is no failure."""
    with pytest.raises(AssertionError) as raised:
        helper(*args, **options)
    assert not isinstance(raised.value, VacuousCheckError), raised.value
    return re.sub(r"torch \d+\.\d+\.\d+[^\s,]*", "torch X", str(raised.value))


def vacuous(helper, *args, **options):
    """Return the text with which a helper refuses to have looked at nothing."""
    with pytest.raises(VacuousCheckError) as raised:
        helper(*args, **options)
    return str(raised.value)
