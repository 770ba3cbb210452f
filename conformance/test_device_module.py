"""Does a module move as a whole, and do its optimizers go on working?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


class Net(nn.Module):
    """Every place where a tensor can hide: nested, tied, frozen, listed, integer and non-persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3, bias=False)
        self.decoder.weight = self.encoder.weight
        self.body = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"norm": nn.BatchNorm1d(3)}))
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2), requires_grad=False)])
        self.register_buffer("table", torch.arange(4), persistent=False)
        self.register_buffer("nothing", None)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape).add(index).div(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.body[1]["norm"](self.body[0](self.encoder(x)))) * self.scales[0]


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer by name, the tied ones under each of their names."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def wider(device: torch.device) -> torch.dtype:
    """Return a floating dtype other than float32 that the device has."""
    return torch.float16 if device.type == "mps" else torch.float64


def keeps_parameter_objects(device: torch.device) -> torch.device:
    """Return the device unless it belongs to an out-of-tree backend, for which torch makes new parameters."""
    if device.type == torch._C._get_privateuse1_backend_name():
        pytest.skip(f"a move to the out-of-tree backend {device.type} makes new parameters; tie them again after it")
    return device


@pytest.mark.behavior("device.module")
@pytest.mark.parametrize("route", ["cpu to device", "device to meta"])
def test_every_parameter_and_buffer_moves(device, route):
    """to(device) moves every parameter and buffer, nested, listed and unsaved ones too, and returns the module."""
    start, end = ("cpu", device) if route == "cpu to device" else (device, torch.device("meta"))
    net = Net().to(start)
    assert net.to(end) is net
    left = {name for name, tensor in tensors_of(net).items() if tensor.device.type != end.type}
    assert not left, f"left behind on {start}: {sorted(left)}"
    assert len(tensors_of(net)) == 13


@pytest.mark.behavior("device.module")
@pytest.mark.parametrize("with_dtype", [False, True], ids=["device", "device and dtype"])
def test_values_dtypes_and_modes_are_kept(device, with_dtype):
    """The values stay equal; integer buffers keep their dtype; flags and modes stay."""
    net, fresh = Net().eval(), Net()
    dtype = wider(device) if with_dtype else torch.float32
    net.to(device, dtype) if with_dtype else net.to(device)
    for name, tensor in tensors_of(net).items():
        before = tensors_of(fresh)[name]
        expected = dtype if before.is_floating_point() else before.dtype
        assert_matches(tensor, before.tolist(), dtype=expected, device=device, what=name)
        assert tensor.requires_grad == before.requires_grad
    assert (net.training, net.body[1]["norm"].training, net.nothing) == (False, False, None)


@pytest.mark.behavior("device.module")
def test_ties_are_kept(device):
    """A parameter shared by two submodules is still one parameter after moves and conversions, on the same object."""
    net = Net()
    weight = net.encoder.weight
    for move in (keeps_parameter_objects(device), "cpu", device):
        net.to(move)
        assert net.decoder.weight is net.encoder.weight is weight
    net.to(device, wider(device))
    assert net.decoder.weight is net.encoder.weight
    with torch.no_grad():
        net.encoder.weight.fill_(5)
    assert_matches(net.decoder.weight, [[5.0] * 3] * 3, device=device)


@pytest.mark.behavior("device.module")
def test_gradients_move_with_their_parameters(device):
    """A gradient that is there moves and converts with its parameter, and the graph goes on adding to it."""
    net = nn.Linear(2, 1)
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    net.to(device, wider(device))
    assert_matches(net.weight.grad, [[3.0, 4.0]], dtype=wider(device), device=device)
    net(torch.ones(1, 2, device=device, dtype=wider(device))).sum().backward()
    assert_matches(net.weight.grad, [[4.0, 5.0]], dtype=wider(device), device=device)


@pytest.mark.behavior("device.module")
def test_moving_a_submodule_leaves_the_others(device):
    """Moving one submodule moves its tensors alone."""
    net = Net().to(device)
    net.body.to("meta")
    away = {name for name, tensor in tensors_of(net).items() if tensor.device.type == "meta"}
    assert away == {name for name in tensors_of(net) if name.startswith("body.")}


@pytest.mark.behavior("device.module")
def test_moving_again_changes_nothing(device):
    """A second to() the same device keeps every tensor object and its memory."""
    net = Net().to(device)
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in tensors_of(net).items()}
    net.to(device)
    assert all(tensors_of(net)[name] is tensor for name, (tensor, _) in before.items())
    assert {name: t.data_ptr() for name, t in tensors_of(net).items()} == {n: p for n, (_, p) in before.items()}


@pytest.mark.behavior("device.module")
def test_forward_and_backward_run_where_the_module_is(device):
    """After the move, the forward and backward results are on the device and right."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]))
        net[0].bias.fill_(0.5)
    out = net.to(device)(torch.tensor([[1.0, 0.0, 2.0]], device=device))
    out.sum().backward()
    assert_matches(out, [[7.5, 0.0]], device=device)
    assert_matches(net[0].weight.grad, [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]], device=device)


@pytest.mark.behavior("device.module")
@pytest.mark.parametrize("built", ["before the move", "after the move"])
def test_optimizer_updates_the_moved_parameters(device, built):
    """An optimizer updates the module's parameters on the device, whether it was built before or after the move."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 2.0]])
    if built == "before the move":
        keeps_parameter_objects(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5) if built == "before the move" else None
    net.to(device, wider(device))
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.tensor([[2.0, 4.0]], device=device, dtype=wider(device))).sum().backward()
        optimizer.step()
    # gradient (2, 4) twice with momentum 1/2: the steps are 0.5 * g and 0.5 * 1.5 * g
    assert_matches(net.weight, [[-1.5, -3.0]], dtype=wider(device), device=device)


@pytest.mark.behavior("device.module")
def test_optimizer_state_follows_the_parameters_when_loaded(device):
    """load_state_dict brings floating state to the device and dtype of the parameters."""
    parameter = nn.Parameter(torch.ones(3, device=device, dtype=wider(device)))
    optimizer = torch.optim.SGD([parameter], lr=0.5, momentum=0.5)
    state = {"state": {0: {"momentum_buffer": torch.tensor([1.0, 2.0, 4.0])}}}
    optimizer.load_state_dict(state | {"param_groups": optimizer.state_dict()["param_groups"]})
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert_matches(buffer, [1.0, 2.0, 4.0], dtype=wider(device), device=device)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_matches(parameter, [0.25, 0.0, -0.5], dtype=wider(device), device=device)


@pytest.mark.behavior("device.module")
def test_meta_module_takes_shape_on_the_device(device):
    """A meta module refuses to() with the way out, and to_empty() gives it storage on the device."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(NotImplementedError, match="to_empty"):
        net.to(device)
    assert net.to_empty(device=device) is net
    places = {(tensor.device.type, tensor.is_meta) for tensor in tensors_of(net).values()}
    assert places == {(device.type, False)}
    assert net[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.behavior("device.module")
def test_shorthand_methods_move_there_and_back(device):
    """cuda(), xpu() and cpu() move a module and return it, with its values."""
    net = Net()
    there = getattr(net, device.type, None)
    if there is None:
        pytest.skip(f"modules have no {device.type}() method; to() is checked instead")
    assert there() is net
    assert {tensor.device.type for tensor in tensors_of(net).values()} == {device.type}
    assert net.cpu() is net
    assert_matches(net.table, [0, 1, 2, 3], dtype=torch.int64, device=torch.device("cpu"))


HALF = torch.float16
#: Forms of Module.to and its kin: the device type that results (None: where the module is) and the floating dtype.
FORMS = {
    "to(str)": (lambda net: net.to("meta"), "meta", torch.float32),
    "to(device=)": (lambda net: net.to(device=torch.device("meta")), "meta", torch.float32),
    "to(device, dtype)": (lambda net: net.to("meta", HALF), "meta", HALF),
    "to(device, dtype, non_blocking)": (lambda net: net.to("meta", HALF, True), "meta", HALF),
    "to(device=, dtype=)": (lambda net: net.to(device="meta", dtype=HALF, non_blocking=True), "meta", HALF),
    "to(tensor)": (lambda net: net.to(torch.empty(0, dtype=HALF, device="meta")), "meta", HALF),
    "to(tensor) of its dtype": (lambda net: net.to(torch.empty(0, device="meta")), "meta", torch.float32),
    "to(tensor=)": (lambda net: net.to(tensor=torch.empty(0, dtype=HALF, device="meta")), "meta", HALF),
    "to(dtype)": (lambda net: net.to(HALF), None, HALF),
    "to(dtype=)": (lambda net: net.to(dtype=HALF), None, HALF),
    "to(dtype, non_blocking)": (lambda net: net.to(HALF, True), None, HALF),
    "to()": (lambda net: net.to(), None, torch.float32),
    "half": (lambda net: net.half(), None, HALF),
    "bfloat16": (lambda net: net.bfloat16(), None, torch.bfloat16),
    "to_empty": (lambda net: net.to_empty(device="meta"), "meta", torch.float32),
}


@pytest.mark.behavior("device.module")
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_call_moves_and_converts_as_it_says(device, name):
    """Each form takes device and floating dtype from its arguments, and touches nothing else of any tensor."""
    call, kind, dtype = FORMS[name]
    net, before = Net().to(device), tensors_of(Net())
    assert call(net) is net
    assert tensors_of(net).keys() == before.keys()
    for key, tensor in tensors_of(net).items():
        expected = dtype if before[key].is_floating_point() else before[key].dtype
        assert (tensor.device.type, tensor.dtype) == (kind or device.type, expected), key
        assert (type(tensor), tensor.shape, tensor.stride()) == (
            type(before[key]),
            before[key].shape,
            before[key].stride(),
        )
        assert tensor.requires_grad == before[key].requires_grad
        if kind is None and dtype != torch.bfloat16:
            assert_matches(tensor, before[key].to(expected).tolist(), dtype=expected, device=device, what=key)


@pytest.mark.behavior("device.module")
def test_memory_format_and_refused_dtypes(device):
    """to(memory_format=) reorders four-dimensional weights alone; a dtype that is not floating raises."""
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Linear(3, 3)).to(device)
    weight = net[0].weight.detach().clone()
    assert net.to(memory_format=torch.channels_last) is net
    assert (net[0].weight.stride(), net[1].weight.stride()) == ((8, 1, 4, 2), (3, 1))
    assert_matches(net[0].weight, weight, device=device)
    for dtype in (torch.int32, torch.bool):
        with pytest.raises(TypeError, match="floating"):
            net.to(dtype)
    assert net[0].weight.dtype == torch.float32
