"""Every layer and function of the zoo, which other files hand to compilers, as Python runs it."""

import pytest

from .support import zoo


@pytest.mark.behavior("module.forward")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_the_zoo_agrees_with_its_twins(device, rng, training):
    """Run as it is, every layer and function gives what NumPy gives, and its gradients the slope of that."""
    model = zoo.filled(zoo.left_out(device), training=training).to(device)
    zoo.assert_agrees(model, model, rng, device, (3,) if training else (3, 1, 7), "the zoo")
    zoo.assert_slope(model, model, zoo.draw(rng, 3), rng, device, "the zoo")
