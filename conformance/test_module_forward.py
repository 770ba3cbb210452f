"""Calling a module, and how it prints."""

import textwrap

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


class Recorder(nn.Module):
    """Return what forward received."""

    def forward(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.behavior("module.forward")
def test_calling_a_module_runs_its_forward_once(device):
    """model(x) runs forward exactly once per call, on that very tensor."""
    seen = []

    class Model(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x * 2

    x = torch.ones(2, device=device)
    model = Model()
    for calls in (1, 2):
        assert_matches(model(x), [2.0, 2.0], device=device)
        assert len(seen) == calls
    assert all(item is x for item in seen)


@pytest.mark.behavior("module.forward")
def test_positional_and_keyword_arguments_reach_forward(device):
    """Every argument arrives as it was given: the same objects, in order, under their names."""
    a, b = torch.ones(1, device=device), torch.zeros(1, device=device)
    args, kwargs = Recorder()(a, 3, None, scale=b, flag=True)
    assert args[0] is a
    assert args[1:] == (3, None)
    assert list(kwargs) == ["scale", "flag"]
    assert kwargs["scale"] is b
    assert Recorder()() == ((), {})


@pytest.mark.behavior("module.forward")
def test_defaults_and_keyword_only_arguments_work(device):
    """forward's own defaults apply, and a missing or unknown argument raises TypeError."""

    class Model(nn.Module):
        def forward(self, x, factor=3.0, *, shift=0.0):
            return x * factor + shift

    x, model = torch.ones(1, device=device), Model()
    assert_matches(model(x), [3.0])
    assert_matches(model(x, 2.0, shift=5.0), [7.0])
    assert_matches(model(x=x, shift=1.0), [4.0])
    for call in (lambda: model(), lambda: model(x, other=1), lambda: model(x, 1.0, 2.0)):
        with pytest.raises(TypeError):
            call()


@pytest.mark.behavior("module.forward")
@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "none", "number"])
def test_outputs_of_any_kind_pass_through(kind, device):
    """Whatever forward returns comes out unchanged, with the same tensors in it."""
    x = torch.ones(1, device=device)
    result = {"tuple": (x, x + 1), "list": [x], "dict": {"out": x, "aux": (x,)}, "none": None, "number": 3}[kind]

    class Model(nn.Module):
        def forward(self, x):
            return result

    assert Model()(x) is result


@pytest.mark.behavior("module.forward")
def test_the_document_network_computes_two_layers_and_a_relu(device):
    """Linear, ReLU, Linear: with weights of 1 and -1 the value is what arithmetic says."""

    class SimpleNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(10, 50)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(50, 1)

        def forward(self, x):
            return self.fc2(self.relu(self.fc1(x)))

    model = SimpleNet().to(device)
    with torch.no_grad():
        model.fc1.weight[:25], model.fc1.weight[25:] = 1.0, -1.0
        model.fc1.bias.fill_(0.5)
        model.fc2.weight.fill_(2.0)
        model.fc2.bias.fill_(-3.0)
    x = torch.stack([torch.ones(10), -torch.ones(10)]).to(device)
    # one half of the hidden units is 10.5, the other 0: 25 * 10.5 * 2 - 3
    assert_matches(model(x), [[522.0], [522.0]], device=device)


@pytest.mark.behavior("module.forward")
def test_a_module_without_forward_says_so(device):
    """Calling a module that defines no forward raises NotImplementedError that names the class."""

    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty"):
        Empty()(torch.ones(1, device=device))


@pytest.mark.behavior("module.forward")
def test_an_inherited_or_replaced_forward_is_used(device):
    """A subclass's forward may call its parent's, and a forward set on the instance wins."""

    class Parent(nn.Module):
        def forward(self, x):
            return x + 1

    class Child(Parent):
        def forward(self, x):
            return super().forward(x) * 10

    x, model = torch.ones(1, device=device), Child()
    assert_matches(model(x), [20.0])
    model.forward = lambda value: value - 1
    assert_matches(model(x), [0.0])
    assert_matches(Child()(x), [20.0])


@pytest.mark.behavior("module.forward")
def test_an_exception_in_forward_reaches_the_caller(device):
    """An exception passes through unchanged, and the module works afterwards."""

    class Picky(nn.Module):
        def forward(self, x):
            if x.sum() < 0:
                raise LookupError("negative")
            return x

    model, x = Picky(), torch.ones(1, device=device)
    with pytest.raises(LookupError, match="negative"):
        model(-x)
    assert model(x) is x


@pytest.mark.behavior("module.repr")
def test_the_document_network_prints_its_layers():
    """print(model) lists every child by name with its settings."""

    class SimpleNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(10, 50)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(50, 1)

    expected = """\
    SimpleNet(
      (fc1): Linear(in_features=10, out_features=50, bias=True)
      (relu): ReLU()
      (fc2): Linear(in_features=50, out_features=1, bias=True)
    )"""
    assert repr(SimpleNet()) == str(SimpleNet()) == textwrap.dedent(expected)


@pytest.mark.behavior("module.repr")
@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (nn.Linear(3, 4, bias=False), ["in_features=3", "out_features=4", "bias=False"]),
        (
            nn.Conv2d(2, 4, (3, 5), stride=2, padding=1, dilation=3, groups=2, bias=False, padding_mode="circular"),
            ["2, 4", "kernel_size=(3, 5)", "stride=(2, 2)", "padding=(1, 1)", "dilation=(3, 3)", "groups=2",
             "bias=False", "padding_mode=circular"],
        ),
        (nn.ConvTranspose1d(2, 3, 4, stride=2, output_padding=1), ["kernel_size=(4,)", "output_padding=(1,)"]),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), ["kernel_size=3", "stride=2", "padding=1", "ceil_mode=True"]),
        (nn.BatchNorm2d(5, eps=0.5, momentum=None, affine=False), ["5", "eps=0.5", "momentum=None", "affine=False"]),
        (nn.LayerNorm((3, 4), eps=0.25), ["(3, 4)", "eps=0.25", "elementwise_affine=True"]),
        (nn.GroupNorm(2, 6), ["2, 6", "affine=True"]),
        (nn.Dropout(0.25), ["p=0.25"]),
        (nn.Embedding(7, 3, padding_idx=2), ["7, 3", "padding_idx=2"]),
        (nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True),
         ["3, 5", "num_layers=2", "batch_first=True", "bidirectional=True"]),
        (nn.LeakyReLU(0.125), ["negative_slope=0.125"]),
        (nn.Softmax(dim=1), ["dim=1"]),
        (nn.Flatten(2), ["start_dim=2", "end_dim=-1"]),
        (nn.Upsample(scale_factor=2.0, mode="nearest"), ["scale_factor=2.0", "mode='nearest'"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_a_layer_prints_its_settings(module, settings):
    """Each layer's line holds its class and the settings that differ from the defaults."""
    text = repr(module)
    assert text.startswith(f"{type(module).__name__}(")
    assert [setting for setting in settings if setting not in text] == []


@pytest.mark.behavior("module.repr")
def test_nested_children_are_indented():
    """Children of children are indented by two more spaces, with extra_repr on a line of its own."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.ReLU(), nn.ModuleDict({"last": nn.Tanh()}))

        def extra_repr(self):
            return "depth=2"

    expected = """\
    Named(
      depth=2
      (inner): Sequential(
        (0): ReLU()
        (1): ModuleDict(
          (last): Tanh()
        )
      )
    )"""
    assert repr(Named()) == textwrap.dedent(expected)


@pytest.mark.behavior("module.repr")
def test_the_text_follows_the_model():
    """A child that is replaced or removed shows in the next repr."""
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    model[1] = nn.Sigmoid()
    model.append(nn.Linear(1, 1))
    assert "Tanh" not in repr(model)
    assert "(1): Sigmoid()" in repr(model)
    assert "(2): Linear(in_features=1, out_features=1, bias=True)" in repr(model)
    del model[0]
    assert "ReLU" not in repr(model)


@pytest.mark.behavior("module.repr")
def test_equal_neighbours_of_a_list_are_counted():
    """ModuleList folds a run of equal children into one line with their number, and loses none."""
    layers = nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.ReLU()])
    assert repr(layers) == "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Tanh()\n  (3): ReLU()\n)"
