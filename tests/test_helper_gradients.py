"""assert_gradients holds autograd to a closed form; assert_gradients_flow wants every parameter to get something."""

import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_gradients, assert_gradients_flow

from .helpers import failure, vacuous

X = torch.tensor([1.0, 2.0, 3.0])
BATCH = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


# -- assert_gradients ------------------------------------------------------------------------------------------


def test_closed_form_of_an_input_holds():
    """The gradient of the sum of squares is twice the input; the caller's tensor keeps no gradient."""
    assert_gradients(lambda x: (x**2).sum(), X, (2 * X,))
    assert (X.requires_grad, X.grad) == (False, None)


def test_claims_may_name_parameters_positions_and_keywords():
    """A mapping claims gradients of parameters by name, of arguments by position, of keyword arguments by name."""
    layer = nn.Linear(3, 1)
    assert_gradients(layer, X[None], {"weight": X[None], "bias": torch.ones(1), 0: layer.weight.detach()})
    assert_gradients(lambda x, *, factor: (x * factor).sum(), X, {"factor": 6.0}, {"factor": torch.tensor(1.0)})
    assert all(one.grad is None for one in layer.parameters())


def test_nested_arguments_are_claimed_by_their_structure():
    """An argument that is a nest is claimed by one like it; None claims nothing."""
    assert_gradients(lambda pair: pair["a"] * pair["b"], ({"a": X[0], "b": X[1]},), ({"a": 2.0, "b": None},))


def test_output_of_many_elements_takes_a_grad_output():
    """The gradient of a nest of outputs starts from grad_output."""
    start = {"double": torch.ones(3), "square": torch.tensor([0.0, 0.0, 1.0])}
    assert_gradients(lambda x: {"double": 2 * x, "square": x * x}, X, (torch.tensor([2.0, 2, 8]),), grad_output=start)


@pytest.mark.parametrize("start", [torch.ones(2), {"x": torch.ones(3)}, ()])
def test_grad_output_of_another_form_is_refused(start):
    """A grad_output must be like the output."""
    with pytest.raises(
        ValueError, match="^grad_output must have the structure of the output, with a tensor of the shape"
    ):
        assert_gradients(torch.sin, X, (X,), grad_output=start)


def test_complex_gradient_follows_the_conjugate_convention():
    """The gradient of |z|**2 is 2 z."""
    z = torch.tensor([1 + 2j])
    assert_gradients(lambda z: (z * z.conj()).real.sum(), z, (2 * z,))


def test_lazy_and_frozen_parameters_can_be_claimed():
    """A parameter that is frozen or has no shape yet gets its gradient for the check alone."""
    layer = nn.LazyLinear(1, bias=False)
    layer.weight.requires_grad = False
    assert_gradients(layer, X[None], {"weight": X[None]})
    assert isinstance(layer.weight, nn.UninitializedParameter)
    assert not layer.weight.requires_grad


def test_other_gradient_is_shown_with_its_place():
    """The text names the argument, the worst element and the next step."""
    assert failure(assert_gradients, lambda x: (x**2).sum(), X, (torch.tensor([2.0, 4.0, 9.0]),)) == (
        "<lambda> has other gradients than expected: grad of args[0] differs\n"
        "  mismatched  1 of 3 elements (33.3%)\n"
        "  worst       |diff| 3 at (2,); allowed 2.2e-05\n"
        "  actual      6    expected 9\n"
        "  setting     float32 (3,), cpu, torch X\n"
        "  next        assert_gradcheck tells whether the backward or the expected value is wrong"
    )


def test_detached_way_is_said_to_be_missing():
    """An argument that no gradient reaches is not one with zeros."""
    text = failure(assert_gradients, lambda x, y: (x * y.detach()).sum(), (X, X.clone()), (X, X))
    assert text.splitlines()[:2] == [
        "<lambda> has other gradients than expected: grad of args[1] is missing",
        "  actual      no gradient reaches it: it is detached or unused",
    ]


def test_gradients_that_are_all_zero_prove_nothing():
    """Zero everywhere, as expected, is no pass, with and without a graph."""
    said = "every gradient of <lambda> that was compared is zero: expect one that is not"
    assert vacuous(assert_gradients, lambda x: (0 * x).sum(), X, (torch.zeros(3),)) == said
    assert vacuous(assert_gradients, lambda x: x.detach().sum(), X, (torch.zeros(3),)) == said
    assert vacuous(assert_gradients, torch.sum, X, {}) == "no gradient was compared: expected claims nothing"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.sum, X, [X]), TypeError, "expected must be a tuple with one entry per argument or a mapping of names"),
        (
            (torch.sum, X, {"w": X}),
            ValueError,
            "expected names 'w', which is no argument and no parameter; there are 0",
        ),
        ((torch.sum, X, {1: X}), ValueError, "expected names 1, which is no argument and no parameter; there are 0"),
        ((torch.sin, X, (X,)), ValueError, "the output is more than one number: give grad_output"),
        ((lambda x: x.float().sum(), torch.arange(3), (X,)), ValueError, "args[0] is no floating or complex tensor"),
        ((torch.nn.Linear, X, (X,)), TypeError, "give a module or a function that can be called, not the class Linear"),
        ((torch.sum, [X], (X,)), TypeError, "args must be a tuple of positional arguments or one tensor, not list"),
    ],
)
def test_misuse_names_the_remedy(arguments, error, text):
    """What cannot be claimed, called or differentiated is refused with the reason."""
    with pytest.raises(error) as raised:
        assert_gradients(*arguments)
    assert str(raised.value).startswith(text)


# -- assert_gradients_flow -------------------------------------------------------------------------------------


class Branches(nn.Module):
    """A model with a branch that some bug cuts off."""

    def __init__(self, cut=lambda hidden: hidden):
        super().__init__()
        self.body, self.side, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.cut = cut

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)) + self.cut(self.side(x)))


ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "model",
    [
        Branches(),
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),
        nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)),
        nn.Sequential(nn.Linear(3, 4, dtype=torch.bfloat16)),
        nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)),
    ],
    ids=["branches", "LayerNorm last", "softmax last", "bfloat16", "lazy"],
)
def test_healthy_model_passes(model):
    """Models whose summed output is constant are healthy, too."""
    x = ROWS.to(next(p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)).dtype)
    assert_gradients_flow(model, x)


def test_detached_branch_is_named():
    """A branch that is detached has parameters that get no gradient at all."""
    assert failure(assert_gradients_flow, Branches(torch.detach), ROWS) == (
        "2 of 6 trainable parameters of Branches get no usable gradient\n"
        "  missing     'side.weight', 'side.bias'\n"
        "  setting     float32 (5, 3), cpu, torch X, train mode\n"
        "  next        look for detach(), no_grad, .data or .item() on the way, or a part that forward never calls"
    )


def test_zero_gradient_is_named():
    """A branch times zero gets a gradient, and it is zero."""
    assert failure(assert_gradients_flow, Branches(lambda hidden: 0 * hidden), ROWS) == (
        "2 of 6 trainable parameters of Branches get no usable gradient\n"
        "  all zero    'side.weight', 'side.bias'\n"
        "  setting     float32 (5, 3), cpu, torch X, train mode\n"
        "  next        look for saturated or dead activations, and for a factor of zero on the way to the loss"
    )


def test_gradient_that_is_not_finite_is_named():
    """The gradient of the square root at zero is infinite."""
    text = failure(assert_gradients_flow, Branches(lambda hidden: (0 * hidden).sqrt()), ROWS)
    assert "  not finite  'side.weight', 'side.bias'\n" in text


@pytest.mark.parametrize("bias", [True, False])
def test_bias_before_batchnorm_is_recognised(bias):
    """A bias right before BatchNorm has a zero gradient by mathematics, and the text says so."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU())
    if not bias:
        assert_gradients_flow(model, BATCH)
        return
    assert failure(assert_gradients_flow, model, BATCH) == (
        "1 of 4 trainable parameters of Sequential get no usable gradient\n"
        "  by maths    '0.bias': the normalization right after it subtracts the mean\n"
        "  setting     float32 (4, 3, 6, 6), cpu, torch X, train mode\n"
        "  next        use bias=False there, or excuse it: ignore=('0.bias',)"
    )
    assert_gradients_flow(model, BATCH, ignore="0.bias")
    assert_gradients_flow(model.eval(), BATCH)


class Attention(nn.Module):
    """Attention with a bias on its keys."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return torch.softmax(self.query(x) @ self.key(x).mT, -1) @ self.value(x)


def test_bias_of_attention_keys_may_be_without():
    """Softmax does not see a shift that all keys share; a detached key is found all the same."""
    model = Attention()
    assert_gradients_flow(model, ROWS)
    assert_gradients_flow(Attention().double(), ROWS.double())
    model.key.register_forward_hook(lambda module, given, output: output.detach())
    assert "missing     'key.weight', 'key.bias'" in failure(assert_gradients_flow, model, ROWS)


def test_zero_weight_that_blocks_is_named():
    """What lies behind a weight that starts at zero gets nothing before that weight moves."""
    model = Branches()
    nn.init.zeros_(model.head.weight)
    text = failure(assert_gradients_flow, model, ROWS)
    assert "behind      'head.weight', all zero: nothing passes back through it until it moves" in text
    assert text.startswith("4 of 6 trainable parameters")


def test_loss_of_ones_own_is_used():
    """A loss that uses one output leaves the parameters of the other without a gradient."""
    model = Branches()
    assert_gradients_flow(model, ROWS, loss=lambda output: output.square().mean())
    assert "5 of 6" in failure(
        assert_gradients_flow, model, ROWS, loss=lambda output: (output * 0 + model.head.bias).sum()
    )


def test_frozen_parameter_that_gets_a_gradient_is_named():
    """A forward that unfreezes what was frozen is seen."""
    model = Branches(lambda hidden: hidden)
    model.side.requires_grad_(False)
    assert_gradients_flow(model, ROWS)
    model.cut = lambda hidden: hidden + model.side.bias.requires_grad_(True)
    assert failure(assert_gradients_flow, model, ROWS) == (
        "1 frozen parameters of Branches get a gradient\n"
        "  frozen      'side.bias'\n"
        "  setting     float32 (5, 3), cpu, torch X, train mode"
    )


def test_nothing_trainable_is_no_pass():
    """A model whose parameters are all frozen, or all ignored, has nothing to look at."""
    said = "Linear has no trainable parameter to look at"
    assert vacuous(assert_gradients_flow, nn.Linear(3, 2).requires_grad_(False), ROWS) == said
    assert vacuous(assert_gradients_flow, nn.Linear(3, 2), ROWS, ignore="*") == said
    assert vacuous(assert_gradients_flow, nn.Linear(3, 2, device="meta"), ROWS.to("meta")) == (
        "Linear is on meta: its gradients have no values"
    )


@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (torch.sin, {}, TypeError, "give a torch.nn.Module, whose parameters and modes can be seen, not a builtin"),
        (
            nn.Linear(3, 2),
            {"ignore": "head.*"},
            ValueError,
            "ignore='head.*' matches no parameter; there are 'weight', 'b",
        ),
        (nn.Linear(3, 2), {"ignore": [3]}, TypeError, "ignore takes names of parameters or patterns such as '*.bias'"),
        (
            nn.Linear(3, 2),
            {"loss": lambda y: y},
            ValueError,
            "the loss must be one number, not a tensor of shape (5, 2)",
        ),
        (nn.Linear(3, 2), {"loss": lambda y: 1.0}, TypeError, "the loss must be a tensor, not a float"),
    ],
)
def test_misuse_of_flow_names_the_remedy(model, options, error, text):
    """A function without parameters, a pattern without a match and a loss that is no number are refused."""
    with pytest.raises(error) as raised:
        assert_gradients_flow(model, ROWS, **options)
    assert str(raised.value).startswith(text)
