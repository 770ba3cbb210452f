"""What all helpers stand on: inputs of their own, subjects put back, nests walked."""

import functools
import random
import warnings
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import (
    as_args,
    as_kwargs,
    as_module,
    as_subject,
    fresh,
    in_mode,
    modules_of,
    name_of,
    run,
    seed_everything,
    untouched,
)

Pair = namedtuple("Pair", "left right")


@dataclass
class Record:
    """A dataclass with a field that its constructor does not take."""

    x: torch.Tensor
    made: int = field(init=False, default=3)


class Holder:
    """An object that holds data and a way back to itself."""

    def __init__(self):
        self.tensor, self.me = torch.ones(2), self

    @classmethod
    def of(cls, x):
        return x


# -- arguments -------------------------------------------------------------------------------------------------


def test_lone_tensor_counts_as_a_tuple():
    """A tensor is one argument; a tuple is all of them; a named tuple is no list of arguments."""
    x = torch.ones(1)
    assert as_args(x) == (x,)
    assert as_args((x, 1)) == (x, 1)
    for wrong in ([x], Pair(x, x), None):
        with pytest.raises(TypeError, match="^args must be a tuple of positional arguments or one tensor, not "):
            as_args(wrong)


def test_keyword_arguments_are_a_mapping():
    """None is no keyword argument; names are text."""
    assert as_kwargs(None) == {}
    assert as_kwargs(OrderedDict(x=1)) == {"x": 1}
    for wrong in ([1], {1: 2}):
        with pytest.raises(TypeError, match="^kwargs must be a mapping of argument names to values, or None$"):
            as_kwargs(wrong)


def test_subjects_can_be_called():
    """A module, a function and a bound method are subjects; a class and a number are not."""
    layer = nn.Linear(1, 1)
    assert as_subject(torch.sin) is torch.sin
    assert as_module(layer) is layer
    for wrong, said in ((nn.Linear, "the class Linear"), (3, "a int")):
        with pytest.raises(TypeError, match=f"^give a module or a function that can be called, not {said}$"):
            as_subject(wrong)
        with pytest.raises(TypeError, match=f"^give a torch.nn.Module, .* not {said}$"):
            as_module(wrong)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (nn.Linear(1, 1), "Linear"),
        (nn.Linear(1, 1).forward, "Linear.forward"),
        (torch.sin, "sin"),
        (Holder.of, "Holder.of"),
        (lambda x: x, "<lambda>"),
        (functools.partial(torch.sum, dim=0), "partial"),
    ],
)
def test_subjects_are_named_in_texts(subject, name):
    """A text names the module's class or the function."""
    assert name_of(subject) == name


def test_module_of_a_method_is_found():
    """A bound method belongs to its module; a function to none."""
    layer = nn.Linear(1, 1)
    assert modules_of(layer) == modules_of(layer.forward) == [layer]
    assert modules_of(torch.sin) == []


# -- copies of inputs ------------------------------------------------------------------------------------------

TENSORS = {
    "contiguous": torch.randn(2, 3),
    "strided": torch.randn(4, 6)[::2, 1::2],
    "expanded": torch.randn(1, 3).expand(2, 3),
    "overlapping": torch.arange(6.0).unfold(0, 3, 1),
    "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "requires grad": torch.ones(2, requires_grad=True),
    "result": torch.ones(2, requires_grad=True) * 2,
    "parameter": nn.Parameter(torch.ones(2)),
    "conjugated": torch.tensor([1 + 2j, 3j]).conj(),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(1.0),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "bool": torch.tensor([True]),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_copy_is_alike_and_apart(tensor):
    """A copy has the values, strides, class and requires_grad, and no memory and no graph in common."""
    copied = fresh(tensor)
    assert torch.equal(copied, tensor)
    assert (copied.stride(), copied.requires_grad, type(copied)) == (
        tensor.stride(),
        tensor.requires_grad,
        type(tensor),
    )
    assert copied.is_leaf
    assert copied.numel() == 0 or copied.data_ptr() != tensor.data_ptr()


def test_copies_keep_ties_and_structure():
    """Two uses of one tensor are one tensor again; containers keep their kind, objects are followed in circles."""
    x, holder = torch.ones(2), Holder()
    nest = (Pair(x, [x]), OrderedDict(a=x), Record(x), defaultdict(list, b=[x]), deque([x]), holder, holder)
    copied = fresh(nest)
    one = copied[0].left
    assert one is not x
    others = (copied[0].right[0], copied[1]["a"], copied[2].x, copied[3]["b"][0], copied[4][0])
    assert all(other is one for other in others)
    assert [type(part) for part in copied] == [type(part) for part in nest]
    assert copied[3].default_factory is list
    assert copied[5] is copied[6] is copied[5].me is not holder


def test_generators_and_arrays_are_copied_and_modules_are_not():
    """What a call may draw from or write to is copied; what it is asked about is not."""
    layer, generator, array, numbers = nn.Linear(1, 1), torch.Generator(), np.ones(2), random.Random(3)
    same, drawn, written, other = fresh((layer, generator, array, numbers))
    assert same is layer
    assert drawn is not generator
    assert torch.equal(drawn.get_state(), generator.get_state())
    written[0] = 5
    assert array[0] == 1
    assert other.random() == random.Random(3).random() == numbers.random()


def test_run_hands_over_copies_and_seeds():
    """The function may do what it likes to its inputs, and draws the same with the same seed."""
    x = torch.ones(2)
    results = [
        run(lambda x: x.add_(torch.rand(2)) + random.random() + np.random.rand(), (x,), {}, seed=3) for _ in "ab"
    ]
    assert torch.equal(*results)
    assert torch.equal(x, torch.ones(2))


# -- putting back ----------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """A module with a bit of everything that a call could change."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(2), nn.Dropout()
        self.items, self.table, self.names, self.queue = [1], {"a": torch.ones(1)}, {"x"}, deque([1])
        self.generator, self.numbers, self.random = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.holder, self.plain = Holder(), torch.zeros(2)
        self.drop.eval()


def change_everything(model):
    model.train()
    model.norm.weight.data.fill_(9)
    model.norm.bias = nn.Parameter(torch.ones(2))
    model.norm.running_mean.add_(1)
    model.norm.weight.grad = torch.ones(2)
    model.norm.weight.register_hook(print)
    model.norm.weight.requires_grad_(False)
    model.norm.register_forward_hook(print)
    model.items.append(2), model.table.clear(), model.names.add("y"), model.queue.append(2)
    model.generator.seed(), model.numbers.random(), model.random.random()
    model.holder.tensor.add_(1)
    model.holder.extra = 1
    model.plain.add_(1)
    model.new = 1
    del model.drop
    model.__class__ = nn.Module
    model.double()


@pytest.mark.parametrize("error", [False, True], ids=["passing", "raising"])
def test_everything_is_put_back(error):
    """Attributes, containers, tensors, modes, hooks, generators and the class of a module are as before."""
    model = Everything()
    table = model.table["a"]
    generator, numbers = model.generator.get_state(), model.numbers.bit_generator.state
    weight, bias = model.norm.weight, model.norm.bias
    try:
        with untouched(model):
            change_everything(model)
            if error:
                raise KeyError
    except KeyError:
        pass
    assert type(model) is Everything
    assert (model.items, model.names, list(model.queue)) == ([1], {"x"}, [1])
    assert model.table == {"a": table}
    assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
    assert model.norm.weight is weight
    assert model.norm.bias is bias
    assert (weight.tolist(), weight.dtype, weight.requires_grad, weight.grad) == ([1, 1], torch.float32, True, None)
    assert model.norm.running_mean.tolist() == [0, 0]
    assert not model.norm._forward_hooks
    assert not weight._backward_hooks
    assert torch.equal(model.generator.get_state(), generator)
    assert model.numbers.bit_generator.state == numbers
    assert model.random.random() == random.Random(0).random()
    assert model.holder.tensor.tolist() == [1, 1]
    assert not hasattr(model.holder, "extra")
    assert not hasattr(model, "new")
    assert model.plain.tolist() == [0, 0]


def test_optimizer_and_scheduler_are_put_back():
    """Their state, groups and steps are as before."""
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with untouched(layer, scheduler):
        layer(torch.ones(1, 2)).backward()
        optimizer.step()
        scheduler.step()
        optimizer.param_groups[0]["betas"] = (0, 0)
    assert (dict(optimizer.state), scheduler.last_epoch) == ({}, 0)
    assert (optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["lr"]) == ((0.9, 0.999), 1e-3)


def test_what_a_function_closes_over_is_put_back():
    """Modules, tensors and generators that a function closes over are subjects; lists of the caller's are not."""
    layer, seen, generator = nn.BatchNorm1d(2), [], torch.Generator().manual_seed(0)
    state = generator.get_state()

    def function(x):
        seen.append(1)
        return layer(x) + torch.rand(2, generator=generator)

    with untouched(functools.partial(function)):
        function(torch.randn(3, 2))
    assert layer.running_mean.tolist() == [0, 0]
    assert torch.equal(generator.get_state(), state)
    assert seen == [1]


def test_modules_among_inputs_are_put_back_and_large_inputs_not_copied():
    """A module that is handed over as an input is a subject; a tensor there is not looked at."""
    layer, x = nn.BatchNorm1d(2), torch.zeros(2)
    with untouched(torch.sin, (layer, [x]), {"layer": layer}):
        layer(torch.randn(3, 2))
        x.add_(1)
    assert layer.num_batches_tracked == 0
    assert x.tolist() == [1, 1]


def test_objects_of_other_libraries_are_left_alone():
    """What another package holds, a logger with a thread of its own say, is none of the model's state."""
    model = Everything()
    foreign = type("Logger", (), {"__module__": "another.library"})()
    foreign.lines, model.logger = [], foreign
    with untouched(model):
        foreign.lines.append("logged")
        foreign.step = 1
    assert (foreign.lines, foreign.step) == (["logged"], 1)


def test_record_puts_back_in_the_middle():
    """The record that the block gets puts its subjects back as often as asked."""
    layer = nn.BatchNorm1d(2)
    with untouched(layer) as kept:
        for _ in range(2):
            layer(torch.randn(3, 2))
            assert layer.num_batches_tracked == 1
            kept.restore()
            assert layer.num_batches_tracked == 0


def test_scripted_module_is_put_back():
    """Mode and buffers of a scripted module are not among its attributes, and come back all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that torch.jit is deprecated
        layer = torch.jit.script(nn.BatchNorm1d(2))
    with untouched(layer):
        layer(torch.randn(3, 2))
        layer.eval()
    assert layer.training
    assert layer.running_mean.tolist() == [0, 0]


def test_global_generators_are_put_back():
    """torch, Python and NumPy draw next as if nothing had been."""
    seed_everything(5)
    expected = torch.rand(1), random.random(), np.random.rand()
    seed_everything(5)
    with untouched():
        torch.rand(3), random.random(), np.random.rand()
        torch.set_default_dtype(torch.float64)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert torch.get_default_dtype() == torch.float32


def test_modes_of_a_block_are_put_back():
    """Each submodule returns to its own mode."""
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with in_mode(model, False):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False]


# -- nests -----------------------------------------------------------------------------------------------------


def test_paths_read_as_python():
    """A leaf's path is what gets there."""
    nest = {"a": (torch.ones(1), Pair(1, None)), "b": Record(torch.ones(1))}
    assert [path for path, _ in nests.leaves(nest)] == [
        "['a'][0]",
        "['a'][1].left",
        "['a'][1].right",
        "['b'].x",
        "['b'].made",
    ]
    assert [path for path, _ in nests.tensors(nest)] == ["['a'][0]", "['b'].x"]


def test_circles_end():
    """An object that leads back to itself is walked once."""
    assert [path for path, _ in nests.leaves(Holder())] == [".tensor"]


def test_text_and_classes_are_leaves():
    """Text, exceptions, classes and functions are not taken apart."""
    for leaf in ("text", b"bytes", ValueError("x"), Holder, torch.sin, torch.float32, 3):
        assert nests.children(leaf) is None
