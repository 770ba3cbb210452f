import pytest
import torch
from torch import nn

from .support.saved_bytes import counting_saved_bytes

#: Operations on x (and w, of the same shape), and how many tensors of that size each keeps for backward.
KEPT = {
    "exp": (lambda x, w: x.exp(), 1),  # its result
    "sin": (lambda x, w: x.sin(), 1),  # its operand
    "relu": (lambda x, w: torch.relu(x), 1),
    "x * w": (lambda x, w: x * w, 2),
    "x * x": (lambda x, w: x * x, 2),  # one tensor, packed once for each operand
    "x + w": (lambda x, w: x + w, 0),
    "3 * x": (lambda x, w: 3 * x, 0),
    "sum": (lambda x, w: x.sum(), 0),
    "x @ w": (lambda x, w: x @ w, 2),
    "chain": (lambda x, w: x.exp().sin().tanh(), 3),
}

MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), (5, 8)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()), (2, 1, 6, 6)),
    "pooling": (lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(2)), (2, 1, 8)),
    "lstm": (lambda: nn.LSTM(4, 3), (5, 2, 4)),
    "gru": (lambda: nn.GRU(4, 3, num_layers=2), (5, 2, 4)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 3, 4)),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.GELU()), (3, 4)),
}

OFF = {
    "no_grad": torch.no_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
}


@pytest.mark.behavior("gradmode.memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", KEPT)
def test_operation_keeps_what_its_derivative_needs_and_nothing_under_no_grad(name, dtype, device):
    """Bytes kept for backward: a known number of whole tensors with gradients on, zero under no_grad."""
    operation, count = KEPT[name]
    x = torch.ones(16, 16, dtype=dtype, device=device, requires_grad=True)
    w = torch.ones(16, 16, dtype=dtype, device=device, requires_grad=True)
    with counting_saved_bytes() as saved:
        operation(x, w)
    assert saved.bytes == count * 256 * dtype.itemsize
    with torch.no_grad(), counting_saved_bytes() as saved:
        operation(x, w)
    assert saved.tensors == []


def run(model, shape, device):
    """Run a forward pass and return what was kept for backward."""
    x = torch.linspace(-1, 1, torch.Size(shape).numel(), device=device).view(shape)
    with counting_saved_bytes() as saved:
        model(x)
    return saved


@pytest.mark.behavior("gradmode.memory")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_model_keeps_no_activations_under_no_grad(name, training, device):
    """A forward pass keeps activations in train and in eval mode, and none of them without gradients."""
    build, shape = MODELS[name]
    model = build().to(device).train(training)
    activations = torch.Size(shape).numel() * 4
    assert run(model, shape, device).bytes >= activations
    for off in OFF.values():
        with off():
            assert run(model, shape, device).tensors == []
    assert run(model, shape, device).bytes >= activations


@pytest.mark.behavior("gradmode.memory")
def test_frozen_model_keeps_nothing(device):
    """Where neither input nor parameter requires grad, nothing is kept although gradients are on."""
    model = MODELS["mlp"][0]().to(device).requires_grad_(False)
    assert run(model, (5, 8), device).tensors == []


@pytest.mark.behavior("gradmode.memory")
def test_kept_bytes_grow_with_the_batch(device):
    """Twice the batch keeps twice the activations; the weights kept do not grow."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False)).to(device)

    def activations(batch):
        saved = run(model, (batch, 8), device)
        return sum(size for shape, size in saved.tensors if shape[0] == batch)

    # the first input, tanh's result as its own derivative's operand and as the second layer's input
    assert activations(50) == 50 * (8 + 16 + 16) * 4
    assert activations(100) == 2 * activations(50)


@pytest.mark.behavior("gradmode.memory")
def test_only_the_tracked_part_keeps_activations(device):
    """A no_grad block in the middle of a forward pass keeps nothing for its own operations."""
    x = torch.ones(16, 16, device=device, requires_grad=True)
    with counting_saved_bytes() as saved:
        with torch.no_grad():
            y = x.exp().sin()
        with torch.enable_grad():
            z = (y + x).exp()
    assert saved.bytes == 256 * 4
    assert z.requires_grad


def bytes_held(context, x):
    """Return the bytes a chain of operations leaves allocated: by the allocator's count where there is one."""
    if x.device.type == "cuda":
        before = torch.cuda.memory_allocated(x.device)
        with context():
            y = x.exp().sin().exp()
        return torch.cuda.memory_allocated(x.device) - before
    with context(), counting_saved_bytes() as saved:
        y = x.exp().sin().exp()
    return saved.bytes + y.numel() * y.element_size()


@pytest.mark.behavior("gradmode.memory")
def test_no_grad_holds_the_result_alone(device):
    """After a chain of operations only its result is held under no_grad, what backward needs of it too without it."""
    x = torch.ones(256, 1024, device=device, requires_grad=True)
    assert bytes_held(torch.no_grad, x) == x.numel() * 4
    # the result of the first exp, which is sin's operand, beside that of the last
    assert bytes_held(torch.enable_grad, x) >= 2 * x.numel() * 4
