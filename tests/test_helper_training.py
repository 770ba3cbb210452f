"""One step changes what it should and nothing else; one batch can be learned."""

import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_torchcheck import assert_fits, assert_training_step

from .helpers import failure, vacuous

SEEDED = torch.Generator().manual_seed(0)
X, Y = torch.randn(8, 4, generator=SEEDED), torch.randint(0, 3, (8,), generator=SEEDED)
BATCH = (X, Y)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


#: The bias of the first layer has no gradient: BatchNorm subtracts the mean.
BIAS = {"ignore": "0.bias"}


@dataclasses.dataclass
class Output:
    """What a model returns that computes its own loss."""

    loss: torch.Tensor


class OwnLoss(nn.Module):
    """A model with keyword inputs and a loss of its own."""

    def __init__(self, wrap):
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, *, x, labels):
        return self.wrap(F.cross_entropy(self.linear(x), labels))


OPTIMIZERS = {
    "SGD": sgd,
    "momentum": lambda model: sgd(model, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters()),
    "LBFGS": lambda model: torch.optim.LBFGS(model.parameters(), max_iter=3),
}


# -- one step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_healthy_step_passes_and_leaves_no_trace(make):
    """Every optimizer's step is seen, and model and optimizer are as before, momentum included."""
    model = network()
    optimizer = make(model)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    assert_training_step(model, optimizer, F.cross_entropy, BATCH, **BIAS)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not optimizer.state
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize(
    "wrap", [lambda loss: loss, lambda loss: {"loss": loss}, Output], ids=["bare", "dict", "object"]
)
def test_model_may_return_its_loss(wrap):
    """Without loss_fn the model's own loss is taken, inputs by keyword."""
    model = OwnLoss(wrap)
    assert_training_step(model, sgd(model), None, {"x": X, "labels": Y})


def test_lazy_model_and_trainable_loss_pass():
    """Parameters without a shape yet, and those of the loss itself, belong to the step."""
    model, loss = nn.Sequential(nn.LazyLinear(3)), Weighted()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    assert_training_step(model, optimizer, loss, (X, Y))
    assert isinstance(model[0].weight, nn.UninitializedParameter)


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output, target):
        return self.scale * F.cross_entropy(output, target)


def test_parameter_missing_from_the_optimizer_is_named():
    """The optimizer was built from one layer alone."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    assert (
        failure(assert_training_step, model, sgd(model[1]), nn.CrossEntropyLoss(), BATCH)
        .replace("loss 1.0", "loss 1.")
        .startswith(
            "a training step of Sequential does not change exactly what it should\n"
            "  not handed  '0.weight', '0.bias' missing from the optimizer\n"
            "  setting     float32 (8, 4), cpu, torch X, loss 1."
        )
    )


def test_whole_text_of_a_faulty_step():
    """Everything that is wrong has a row, with the reason why a parameter stands still."""
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    assert failure(assert_training_step, model, sgd(model, lr=0.0), F.cross_entropy, BATCH) == (
        "a training step of Linear does not change exactly what it should\n"
        "  unchanged   'weight' (its step is zero or lost in rounding)\n"
        "              'bias' (its step is zero or lost in rounding)\n"
        f"  setting     float32 (8, 4), cpu, torch X, loss {math.log(3):.6g}\n"
        "  next        see assert_gradients_flow, and the learning rate of its group"
    )


def test_reasons_for_standing_still_are_told_apart():
    """A detached part has no gradient, a part times zero has one of zeros."""
    model = network()
    text = failure(assert_training_step, model, sgd(model), lambda out, y: F.cross_entropy(out * 0, y), BATCH)
    assert "'0.weight' (its gradient is all zero)" in text
    text = failure(assert_training_step, model, sgd(model), lambda out, y: F.cross_entropy(out.detach(), y), BATCH)
    assert "'0.weight' (no gradient reaches it)" in text


def test_infinite_step_is_found():
    """A loss and parameters that are not finite are named."""
    model = nn.Linear(4, 3)
    text = failure(assert_training_step, model, sgd(model), lambda out, y: (out * math.inf).sum(), BATCH)
    assert "  loss        " in text
    assert "  not finite  'bias', 'weight'\n" in text


def test_frozen_parameter_that_moves_is_found():
    """A forward that changes a frozen parameter is seen."""
    model = network()
    model[3].requires_grad_(False)
    assert_training_step(model, sgd(model), F.cross_entropy, BATCH, **BIAS)

    def loss(output, target):
        model[3].weight.data.mul_(0.5)
        return F.cross_entropy(output, target)

    text = failure(assert_training_step, model, sgd(model), loss, BATCH, **BIAS)
    assert "  frozen      '3.weight' changed\n" in text


def test_statistics_of_a_frozen_module_are_found():
    """BatchNorm that is frozen but left in train mode still moves its statistics; in eval mode it does not."""
    model = network()
    model[1].requires_grad_(False)
    text = failure(assert_training_step, model, sgd(model), F.cross_entropy, BATCH, **BIAS)
    assert "statistics  '1.running_mean', '1.running_var', '1.num_batches_tracked' of frozen modules changed\n" in text
    assert text.endswith("next        put frozen normalization in eval mode")
    model[1].eval()
    assert_training_step(model, sgd(model), F.cross_entropy, BATCH)


def test_optimizer_of_another_model_is_found():
    """Parameters that were replaced after the optimizer was built are strangers to the model."""
    text = failure(assert_training_step, network(), sgd(network()), F.cross_entropy, BATCH)
    assert "  strangers   6 parameters in the optimizer are not the model's\n" in text


def test_nothing_trainable_is_no_pass():
    """A model that is frozen as a whole has no step to look at."""
    model = nn.Linear(4, 3)
    optimizer = sgd(model)
    model.requires_grad_(False)
    assert vacuous(assert_training_step, model, optimizer, F.cross_entropy, BATCH) == (
        "Linear has no trainable parameter to look at"
    )


@pytest.mark.parametrize(
    ("optimizer", "loss", "batch", "error", "text"),
    [
        ("sgd", F.cross_entropy, BATCH, TypeError, "give a torch.optim.Optimizer, not a str"),
        (
            None,
            F.cross_entropy,
            X,
            ValueError,
            "batch must be (inputs, target), where inputs is a tensor, a tuple or a m",
        ),
        (None, "mse", BATCH, TypeError, "loss_fn must be called with (output, target), or None, not a str"),
        (None, lambda out, y: out, BATCH, ValueError, "the loss must be one number, not a tensor of shape (8, 3)"),
        (
            None,
            F.cross_entropy,
            ([X], Y),
            TypeError,
            "args must be a tuple of positional arguments or one tensor, not l",
        ),
    ],
)
def test_misuse_names_the_remedy(optimizer, loss, batch, error, text):
    """What is no optimizer, no batch and no loss is refused."""
    model = network()
    with pytest.raises(error) as raised:
        assert_training_step(model, optimizer or sgd(model), loss, batch)
    assert str(raised.value).startswith(text)


def test_output_without_a_loss_is_refused():
    """A model that returns no loss needs a loss_fn."""
    with pytest.raises(TypeError, match="^the model returns no loss but a tuple: give loss_fn$"):
        assert_training_step(model := OwnLoss(lambda loss: (loss,)), sgd(model), None, {"x": X, "labels": Y})


# -- with a scaler of gradients --------------------------------------------------------------------------------


class HalfInside(nn.Linear):
    """A layer that computes in float16, as under autocast: its gradients overflow beyond 65504."""

    def forward(self, x):
        return F.linear(x.half(), self.weight.half(), self.bias.half()).float()


def scaler_of(scale, **options):
    return torch.amp.GradScaler("cpu", init_scale=scale, **options)


def half_layer():
    torch.manual_seed(0)
    return HalfInside(4, 3)


@pytest.mark.parametrize("make", [one for name, one in OPTIMIZERS.items() if name != "LBFGS"])
@pytest.mark.parametrize("enabled", [True, False])
def test_scaled_step_passes(make, enabled):
    """A step is seen through a scaler, and through one that is disabled, whatever the optimizer."""
    model = half_layer()
    assert_training_step(model, make(model), F.cross_entropy, BATCH, scaler=scaler_of(1024.0, enabled=enabled))


def test_step_is_taken_on_gradients_without_the_scale():
    """The optimizer gets the gradients that there would be without a scaler: powers of two lose nothing."""
    model, steps = nn.Linear(4, 3), []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            steps.append(model.weight.grad.clone())
            return super().step(closure)

    for scaler in (None, scaler_of(1024.0)):
        assert_training_step(model, Recording(model.parameters(), lr=0.1), F.cross_entropy, BATCH, scaler=scaler)
    assert len(steps) == 2
    assert torch.equal(*steps)


@pytest.mark.parametrize("scale", [8.0, 2.0**30], ids=["stepped", "skipped"])
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_scaler_is_left_as_it_was(scale, used):
    """Scale, growth and what the scaler keeps per optimizer are as before, also after a step that was skipped."""
    model, scaler = half_layer(), scaler_of(scale, growth_interval=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if used:
        scaler.scale(model(X).sum() * 0).backward()
        scaler.step(optimizer)
        scaler.update(scale)
    before, attributes = scaler.state_dict(), dict(vars(scaler))
    with pytest.raises(AssertionError, match="skipped") if scale > 8 else nullcontext():
        assert_training_step(model, optimizer, F.cross_entropy, BATCH, scaler=scaler)
    assert scaler.state_dict() == before
    assert vars(scaler).keys() == attributes.keys()
    assert all(one is attributes[name] for name, one in vars(scaler).items())
    assert not scaler._per_optimizer_states


def test_whole_text_of_a_skipped_step():
    """A step that the scaler skipped is called that, with the gradients that overflowed and what is to blame."""
    model = half_layer()
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    assert failure(assert_training_step, model, sgd(model), F.cross_entropy, BATCH, scaler=scaler_of(2.0**30)) == (
        "a training step of HalfInside does not change exactly what it should\n"
        "  skipped     by the scaler: at scale 1.07374e+09 gradients are infinite or NaN\n"
        "              of 'weight', 'bias'\n"
        f"  setting     float32 (8, 4), cpu, torch X, loss {math.log(3):.6g}, scale 1.07374e+09\n"
        "  next        without the scaler they are finite: give it a smaller init_scale"
    )


def test_autocast_around_the_check_reaches_the_step():
    """A plain layer computes in float16 where the check runs under autocast, and its gradients overflow there."""
    model = nn.Linear(4, 3)
    check = (assert_training_step, model, sgd(model), F.cross_entropy, BATCH)
    check[0](*check[1:], scaler=scaler_of(2.0**30))
    with torch.autocast("cpu", torch.float16):
        assert "  skipped     by the scaler: at scale 1.07374e+09" in failure(*check, scaler=scaler_of(2.0**30))


def test_model_is_blamed_where_its_gradients_are_infinite_anyway():
    """The root of zero has an infinite slope, and no scale helps."""
    model = nn.Linear(4, 3)

    def loss(output, target):
        return (output * 0).abs().sqrt().sum()

    text = failure(assert_training_step, model, sgd(model), loss, BATCH, scaler=scaler_of(1.0))
    assert text.endswith(
        "next        without the scaler they are not finite either: look for log(0), division by zero and overflow"
    )


def test_gradients_that_overflow_outside_the_model_are_told():
    """The scale of the loss is a parameter that overflows by itself, and has no name in the model."""
    model, loss = nn.Linear(4, 3), Weighted()
    loss.scale.register_hook(lambda grad: grad * math.inf)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    text = failure(assert_training_step, model, optimizer, loss, BATCH, scaler=scaler_of(2.0))
    assert "gradients are infinite or NaN\n              of parameters that are not the model's\n" in text


def test_other_faults_show_through_a_scaler():
    """No gradient at all, which a scaler itself refuses, and a parameter that was not handed over."""
    model = network()
    scaler = scaler_of(2.0)
    detached = (assert_training_step, model, sgd(model), lambda out, y: F.cross_entropy(out.detach(), y), BATCH)
    assert "'0.weight' (no gradient reaches it)" in failure(*detached, scaler=scaler)
    text = failure(assert_training_step, model, sgd(model[3]), F.cross_entropy, BATCH, scaler=scaler)
    assert "  not handed  '0.weight'" in text
    text = failure(assert_training_step, model, sgd(model, lr=0.0), F.cross_entropy, BATCH, scaler=scaler)
    assert "'0.weight' (its step is zero or lost in rounding)" in text
    text = failure(*detached, scaler=scaler_of(2.0, enabled=False))
    assert ", scaler disabled\n" in text


def test_misuse_of_a_scaler_names_the_remedy():
    """What is no scaler, and an optimizer or gradients that a scaler does not take, are refused."""
    model = nn.Linear(4, 3)
    with pytest.raises(TypeError, match="^scaler must be a torch.amp.GradScaler or None, not a float$"):
        assert_training_step(model, sgd(model), F.cross_entropy, BATCH, scaler=2.0)
    with pytest.raises(ValueError, match="^LBFGS evaluates the loss itself, which a torch.amp.GradScaler cannot scale"):
        assert_training_step(model, OPTIMIZERS["LBFGS"](model), F.cross_entropy, BATCH, scaler=scaler_of(2.0))
    model.half()
    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        assert_training_step(model, sgd(model), F.cross_entropy, (X.half(), Y), scaler=scaler_of(2.0))


# -- a batch that is learned -----------------------------------------------------------------------------------


def test_batch_that_can_be_learned_passes():
    """A small network learns eight labels by heart, and is as before afterwards."""
    model = network()
    before = model[0].weight.clone()
    assert_fits(model, sgd(model, lr=1.0), F.cross_entropy, BATCH, below=0.05, steps=200)
    assert torch.equal(model[0].weight, before)


def test_batch_that_is_not_learned_shows_its_course():
    """The text shows the course of the loss and what to do next."""
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    assert failure(assert_fits, model, sgd(model, lr=0.0), F.cross_entropy, BATCH, below=0.1, steps=8) == (
        "Linear does not fit the batch: loss 1.09861 after 8 steps\n"
        "  required    below 0.1\n"
        "  course      0: 1.09861, 2: 1.09861, 4: 1.09861, 6: 1.09861, 8: 1.09861\n"
        "  lowest      1.09861 at step 0\n"
        "  setting     float32 (8, 4), cpu, torch X, seed 20240229\n"
        "  next        it does not fall: check with assert_training_step and assert_gradients_flow what is trained"
    )


def test_advice_depends_on_the_course():
    """A loss that falls too slowly and one that explodes get other advice."""
    model = network()
    assert failure(assert_fits, model, sgd(model), F.cross_entropy, BATCH, below=0.01, steps=3).endswith(
        "next        it falls: allow more steps or raise the learning rate"
    )
    text = failure(assert_fits, model, sgd(model, lr=1e30), lambda out, y: out.square().mean(), BATCH, below=0, steps=9)
    assert text.endswith("next        lower the learning rate, and look for log(0), division by zero and overflow")


def test_loss_that_is_low_already_is_no_pass():
    """A loss below the bound before the first step proves nothing."""
    model = network()
    assert vacuous(assert_fits, model, sgd(model), F.cross_entropy, BATCH, below=100.0).startswith(
        "nothing had to be learned: the loss is "
    )


def test_no_steps_are_refused():
    """At least one step must be taken."""
    with pytest.raises(ValueError, match="^steps must be at least 1$"):
        assert_fits(model := network(), sgd(model), F.cross_entropy, BATCH, below=1.0, steps=0)
