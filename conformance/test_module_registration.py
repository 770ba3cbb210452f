"""What a module registers, under which name and in which order."""

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


class Block(nn.Module):
    """A module with something of every kind, in a mixed order."""

    def __init__(self, device):
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 2.0, device=device))
        self.body = nn.Linear(3, 3, device=device)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.plain = torch.ones(4, device=device)
        self.loose = [nn.Linear(1, 1, device=device)]
        self.shift = nn.Parameter(torch.zeros(3, device=device))
        self.register_buffer("cache", torch.ones(2, device=device), persistent=False)
        self.tail = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, device=device))
        self.size = 7


@pytest.mark.behavior("module.registration")
def test_parameters_are_registered_in_order_of_assignment(device):
    """A module's own parameters come first, then those of its children, each in order of assignment."""
    block = Block(device)
    names = ["scale", "shift", "body.weight", "body.bias", "tail.1.weight", "tail.1.bias"]
    assert [name for name, _ in block.named_parameters()] == names
    assert [id(p) for p in block.parameters()] == [id(block.get_parameter(name)) for name in names]
    assert [name for name, _ in block.named_parameters(prefix="net", recurse=False)] == ["net.scale", "net.shift"]


@pytest.mark.behavior("module.registration")
def test_registered_parameters_are_leaves_that_require_grad(device):
    """An assigned Parameter stays the same object: a leaf on its device that requires grad."""
    block = Block(device)
    assert block.scale is dict(block.named_parameters())["scale"]
    for parameter in block.parameters():
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.device.type == device.type
    assert_matches(block.scale, [2.0, 2.0, 2.0], device=device)


@pytest.mark.behavior("module.registration")
def test_buffers_are_registered_and_are_not_parameters(device):
    """register_buffer registers a tensor that no optimizer sees, persistent or not."""
    block = Block(device)
    names = ["steps", "cache", "tail.1.running_mean", "tail.1.running_var", "tail.1.num_batches_tracked"]
    assert [name for name, _ in block.named_buffers()] == names
    assert [name for name, _ in block.named_buffers(recurse=False)] == ["steps", "cache"]
    assert [id(b) for b in block.buffers()] == [id(block.get_buffer(name)) for name in names]
    assert not any(buffer.requires_grad for buffer in block.buffers())


@pytest.mark.behavior("module.registration")
def test_an_assigned_buffer_object_registers_itself(device):
    """nn.Buffer registers by assignment, persistent unless it says otherwise."""
    model = nn.Module()
    model.kept = nn.Buffer(torch.ones(2, device=device))
    model.passing = nn.Buffer(torch.zeros(3, device=device), persistent=False)
    assert [name for name, _ in model.named_buffers()] == ["kept", "passing"]
    assert list(model.state_dict()) == ["kept"]
    assert list(model.parameters()) == []
    assert_matches(model.kept, [1.0, 1.0], device=device)


@pytest.mark.behavior("module.registration")
def test_a_parameter_shares_memory_with_its_tensor(device):
    """Parameter wraps a tensor without copying, and requires_grad=False is kept."""
    tensor = torch.ones(2, device=device)
    model = nn.Module()
    model.weight = nn.Parameter(tensor)
    model.fixed = nn.Parameter(tensor.long(), requires_grad=False)
    tensor[1] = 5.0
    assert_matches(model.weight, [1.0, 5.0], device=device)
    assert not model.fixed.requires_grad
    assert not tensor.requires_grad


@pytest.mark.behavior("module.registration")
def test_submodules_are_registered_in_order_of_assignment(device):
    """children, named_children, modules and named_modules walk the tree in order, the module itself first."""
    block = Block(device)
    assert [name for name, _ in block.named_children()] == ["body", "tail"]
    assert list(block.children()) == [block.body, block.tail]
    assert [name for name, _ in block.named_modules()] == ["", "body", "tail", "tail.0", "tail.1"]
    assert [id(m) for m in block.modules()] == [
        id(m) for m in (block, block.body, block.tail, block.tail[0], block.tail[1])
    ]


@pytest.mark.behavior("module.registration")
def test_plain_tensors_numbers_and_lists_are_not_registered(device):
    """A tensor that is no Parameter, a list of modules and a number are ordinary attributes."""
    block = Block(device)
    registered = {name.split(".")[0] for name, _ in [*block.named_parameters(), *block.named_buffers()]}
    assert registered.isdisjoint({"plain", "loose", "size"})
    assert block.loose[0] not in list(block.modules())
    assert_matches(block.plain, [1.0] * 4)
    assert block.size == 7


@pytest.mark.behavior("module.registration")
def test_shared_parameters_and_modules_are_listed_once(device):
    """A tensor or module under two names appears once, under its first name; remove_duplicate=False lists both."""
    model = nn.Module()
    model.first = nn.Linear(2, 2, device=device)
    model.second = nn.Linear(2, 2, device=device)
    model.second.weight = model.first.weight
    model.again = model.first
    once = ["first.weight", "first.bias", "second.bias"]
    assert [name for name, _ in model.named_parameters()] == once
    assert len(list(model.parameters())) == 3
    assert [name for name, _ in model.named_modules()] == ["", "first", "second"]
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert every == ["first.weight", "first.bias", "second.weight", "second.bias", "again.weight", "again.bias"]
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == ["", "first", "second", "again"]
    assert [name for name, _ in model.named_children()] == ["first", "second"]
    assert len(list(model.children())) == 2


@pytest.mark.behavior("module.registration")
def test_shared_buffers_are_listed_once(device):
    """A buffer under two names appears once unless duplicates are asked for."""
    model, tensor = nn.Module(), torch.ones(2, device=device)
    model.register_buffer("a", tensor)
    model.child = nn.Module()
    model.child.register_buffer("b", tensor)
    assert [name for name, _ in model.named_buffers()] == ["a"]
    assert [name for name, _ in model.named_buffers(remove_duplicate=False)] == ["a", "child.b"]


@pytest.mark.behavior("module.registration")
@pytest.mark.parametrize(
    "make",
    [
        lambda device: nn.Parameter(torch.ones(1, device=device)),
        lambda device: nn.Linear(1, 1, device=device),
    ],
    ids=["parameter", "module"],
)
def test_assigning_before_super_init_raises(make, device):
    """Assigning a parameter or module before Module.__init__ ran raises AttributeError and says so."""

    class Early(nn.Module):
        def __init__(self):
            self.part = make(device)
            super().__init__()

    with pytest.raises(AttributeError, match="before Module.__init__"):
        Early()


@pytest.mark.behavior("module.registration")
def test_registering_a_buffer_before_super_init_raises(device):
    """register_buffer before Module.__init__ ran raises AttributeError."""

    class Early(nn.Module):
        def __init__(self):
            self.register_buffer("part", torch.ones(1, device=device))

    with pytest.raises(AttributeError, match="before Module.__init__"):
        Early()


@pytest.mark.behavior("module.registration")
def test_reassigning_a_name_replaces_what_was_registered(device):
    """A new parameter, module or buffer under an old name takes its place, and the old one is gone."""
    model = nn.Module()
    model.a = nn.Parameter(torch.zeros(1, device=device))
    model.b = nn.Linear(1, 1, bias=False, device=device)
    model.register_buffer("c", torch.zeros(1, device=device))
    model.a = newest = nn.Parameter(torch.ones(2, device=device))
    model.b = nn.Identity()
    model.c = torch.full((3,), 5.0, device=device)
    assert [(n, p is newest) for n, p in model.named_parameters()] == [("a", True)]
    assert [type(m) for m in model.children()] == [nn.Identity]
    assert_matches(dict(model.named_buffers())["c"], [5.0, 5.0, 5.0], device=device)


@pytest.mark.behavior("module.registration")
def test_a_parameter_takes_over_the_name_of_a_module_or_buffer(device):
    """A Parameter assigned over a module's or buffer's name moves that name to the parameters."""
    model = nn.Module()
    model.part = nn.Linear(1, 1, device=device)
    model.register_buffer("mask", torch.ones(1, device=device))
    model.part = nn.Parameter(torch.zeros(1, device=device))
    model.mask = nn.Parameter(torch.zeros(2, device=device))
    assert [name for name, _ in model.named_parameters()] == ["part", "mask"]
    assert list(model.children()) == []
    assert list(model.buffers()) == []


@pytest.mark.behavior("module.registration")
def test_assigning_a_plain_tensor_to_a_parameter_raises(device):
    """A parameter's name takes a Parameter or None; a plain tensor raises TypeError and changes nothing."""
    layer = nn.Linear(2, 2, device=device)
    before = layer.weight
    with pytest.raises(TypeError, match="torch.nn.Parameter or None"):
        layer.weight = torch.ones(2, 2, device=device)
    assert layer.weight is before
    with pytest.raises(TypeError):
        nn.Sequential(layer).__setattr__("0", "not a module")
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


@pytest.mark.behavior("module.registration")
def test_deleting_an_attribute_unregisters_it(device):
    """del removes a parameter, buffer or module from its register."""
    block = Block(device)
    del block.scale, block.steps, block.tail
    assert [name for name, _ in block.named_parameters()] == ["shift", "body.weight", "body.bias"]
    assert [name for name, _ in block.named_buffers()] == ["cache"]
    with pytest.raises(AttributeError, match="scale"):
        _ = block.scale


@pytest.mark.behavior("module.registration")
@pytest.mark.parametrize(
    ("name", "error"),
    [("a.b", KeyError), ("", KeyError), ("forward", KeyError), (3, TypeError)],
    ids=["dot", "empty", "taken", "number"],
)
@pytest.mark.parametrize("kind", ["parameter", "buffer", "module"])
def test_names_that_cannot_be_registered_raise(kind, name, error, device):
    """A name with a dot, an empty one, one that is taken and one that is no string are refused."""
    tensor = torch.ones(1, device=device)
    part = {"parameter": nn.Parameter(tensor), "buffer": tensor, "module": nn.ReLU()}[kind]
    with pytest.raises(error):
        getattr(nn.Module(), f"register_{kind}")(name, part)


@pytest.mark.behavior("module.registration")
def test_a_computed_tensor_cannot_be_a_parameter(device):
    """register_parameter refuses a tensor with a history, and what is no Parameter."""
    model, leaf = nn.Module(), torch.ones(1, device=device, requires_grad=True)
    with pytest.raises(TypeError, match="Parameter"):
        model.register_parameter("a", leaf * 2)
    with pytest.raises(TypeError):
        model.register_buffer("b", "text")
    with pytest.raises(TypeError):
        model.register_module("c", torch.nn.functional.relu)


@pytest.mark.behavior("module.registration")
def test_parts_are_found_by_their_dotted_name(device):
    """get_submodule, get_parameter and get_buffer follow the dots; an unknown name raises AttributeError."""
    block = Block(device)
    assert block.get_submodule("tail.1") is block.tail[1]
    assert block.get_submodule("") is block
    assert block.get_parameter("body.bias") is block.body.bias
    assert block.get_buffer("tail.1.running_var") is block.tail[1].running_var
    for find in (block.get_submodule, block.get_parameter, block.get_buffer):
        with pytest.raises(AttributeError):
            find("tail.9")


@pytest.mark.behavior("module.registration")
def test_a_parameter_may_be_registered_later_or_as_none(device):
    """None reserves a name that is listed nowhere until a Parameter is assigned."""
    model = nn.Module()
    model.register_parameter("late", None)
    model.register_buffer("mask", None)
    assert list(model.parameters()) == []
    assert list(model.buffers()) == []
    model.late = nn.Parameter(torch.ones(2, device=device))
    assert [name for name, _ in model.named_parameters()] == ["late"]


@pytest.mark.behavior("module.registration")
def test_parameters_of_two_instances_are_apart(device):
    """Two modules of one class register tensors of their own."""
    first, second = Block(device), Block(device)
    with torch.no_grad():
        first.scale.fill_(9.0)
    assert_matches(second.scale, [2.0, 2.0, 2.0])
    assert {id(p) for p in first.parameters()}.isdisjoint({id(p) for p in second.parameters()})
