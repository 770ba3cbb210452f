"""torch.export with a dynamic batch: values, gradients, state, saved and loaded, and what it refuses."""

import contextlib
import copy
import functools
import io
import json

import numpy as np
import pytest
import torch
from torch import nn

from .support import compiler_warnings
from .support.conversions import assert_left_alone, mixed_modes
from .support.forward import assert_outputs, reference, weights_from
from .support.numeric import assert_matches, to_numpy
from .support.process import run_python

pytestmark = [*compiler_warnings.ALWAYS, compiler_warnings.READS_BYTES]

BATCHES = [2, 5, 33]

#: Loads an exported program and runs it on the inputs given, without any of the model's source.
CHILD = """
import json, sys, torch
path, device, batches = sys.argv[1:]
loaded = torch.export.load(path).module()
results = [loaded(torch.tensor(rows, device=device)) for rows in json.loads(batches)]
found = [[result[key].tolist() for key in ("scores", "features")] for result in results]
print(json.dumps(found))
"""


class Net(nn.Module):
    """A convolution with BatchNorm, dropout and a linear layer; the outputs are a dict."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.9)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        features = torch.tanh(self.norm(self.conv(x))).flatten(1)
        return {"scores": self.fc(self.drop(features)), "features": features}


class Counter(nn.Module):
    """Adds to its buffer in every call and returns its input scaled by it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x * self.calls


class Branch(nn.Module):
    """Looks at its data to choose a branch: nothing that a graph could hold."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


class Cond(nn.Module):
    """Chooses a branch by torch.cond, which a graph does hold."""

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 3, (x,))


class Holder(nn.Module):
    """Whole numbers in every place a model may keep them: its output is x w + 100 b + 1000 t + 10000 s, twice."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.tied = self.weight
        self.register_buffer("kept", torch.tensor([1.0, 2.0]))
        self.register_buffer("passing", torch.tensor([4.0, 5.0]), persistent=False)
        self.register_buffer("index", torch.tensor([1, 0]), persistent=False)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.plain = torch.tensor([6.0, 7.0])
        self.part = nn.Module()
        self.part.register_buffer("passing", torch.tensor([8.0, 9.0], dtype=torch.float64), persistent=False)
        self.factor, self.names = 3, {"a": [0.5, 2]}

    def forward(self, x):
        held = 100 * self.kept + 1000 * self.passing[self.index] + 10_000 * self.plain + self.part.passing.float()
        held = torch.where(self.flags, held, -held) * self.names["a"][1]
        return x * self.weight * self.tied + held, held + self.factor


def held(x):
    """Return what ``Holder`` gives, in whole numbers."""
    kept = np.array([2 * (100 * 1 + 1000 * 5 + 10_000 * 6 + 8), -2 * (100 * 2 + 1000 * 4 + 10_000 * 7 + 9)])
    return x * np.array([4, 9]) + kept, kept + 3


def batch_dim(max=1024, **limits):
    """Return dynamic_shapes for an open batch; without a bound, kernels of CUDA make the export fail."""
    return ({0: torch.export.Dim("batch", max=max, **limits)},)


@functools.cache
def exported(device):
    """Return the model on the CPU and its exported program, made on the device with a batch of 3."""
    model = weights_from(np.random.default_rng(30), Net()).eval()
    program = torch.export.export(
        copy.deepcopy(model).to(device), (torch.ones(3, 2, 2, 2, device=device),), dynamic_shapes=batch_dim()
    )
    return model, program


@functools.cache
def samples():
    """Return 33 inputs and the reference outputs; in eval mode, rows do not depend on each other."""
    x = torch.tensor(np.random.default_rng(31).uniform(-1, 1, (33, 2, 2, 2)), dtype=torch.float32)
    return x, reference(weights_from(np.random.default_rng(30), Net()).eval(), [x])


def assert_agrees(program, device, batch, what):
    """Run the first ``batch`` samples and require the eager outputs, on the device."""
    x, expected = samples()
    out = program.module()(x[:batch].to(device))
    assert list(out) == ["scores", "features"]
    assert {value.device.type for value in out.values()} == {device.type}
    assert_outputs(out, [(value[:batch], allowed[:batch]) for value, allowed in expected], what)


@pytest.mark.behavior("export.parity")
@pytest.mark.parametrize("batch", BATCHES)
def test_exported_program_agrees_on_every_batch_size(device, batch):
    """One program, exported with a batch of 3, gives eager outputs for other batches."""
    _, program = exported(device)
    assert len(program.range_constraints) == 1, "the batch is no symbol"
    assert_agrees(program, device, batch, f"batch {batch}")


@pytest.mark.behavior("export.parity")
@pytest.mark.parametrize("where", ["file", "buffer"])
@pytest.mark.parametrize("batch", BATCHES)
def test_saved_and_loaded_program_agrees(device, tmp_path, where, batch):
    """save() and load() keep values, names and the open batch, through a path and through a buffer."""
    target = tmp_path / "net.pt2" if where == "file" else io.BytesIO()
    torch.export.save(exported(device)[1], target)
    if where == "buffer":
        target.seek(0)
    loaded = torch.export.load(target)
    assert len(loaded.range_constraints) == 1, "the batch is no symbol any more"
    assert_agrees(loaded, device, batch, f"loaded, batch {batch}")


@pytest.mark.behavior("export.parity")
def test_state_is_kept_through_saving(device):
    """The program's state dict is the model's, bit for bit, names, dtypes and device included; also once loaded."""
    model, program = exported(device)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    for state in (program.state_dict, torch.export.load(buffer).state_dict):
        wanted = model.state_dict()
        assert state.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_matches(state[name], to_numpy(value), dtype=value.dtype, device=device, what=name)


@pytest.mark.behavior("export.parity")
def test_program_runs_in_a_process_without_the_source(device, tmp_path):
    """Another process, which has no access to the model's class, loads the file and computes the same."""
    torch.export.save(exported(device)[1], tmp_path / "net.pt2")
    x, expected = samples()
    batches = json.dumps([x[:batch].tolist() for batch in (2, 4)])
    done = run_python(CHILD, str(tmp_path / "net.pt2"), str(device), batches, timeout_s=240)
    for batch, outputs in zip((2, 4), json.loads(done.stdout.splitlines()[-1]), strict=True):
        found = {name: torch.tensor(out) for name, out in zip(("scores", "features"), outputs, strict=True)}
        assert_outputs(
            found, [(value[:batch], allowed[:batch]) for value, allowed in expected], f"child, batch {batch}"
        )


@pytest.mark.behavior("export.parity")
def test_no_graph_is_recorded_under_no_grad(device):
    """Under no_grad the outputs need no gradient and are bit for bit those with gradients on."""
    module = exported(device)[1].module()
    x = samples()[0][:4].to(device)
    with torch.no_grad():
        silent = module(x)
    tracked = module(x)
    for name, out in silent.items():
        assert not out.requires_grad
        assert tracked[name].requires_grad
        assert_matches(out, to_numpy(tracked[name]), what=name)


@pytest.mark.behavior("export.parity")
def test_gradients_of_the_exported_module_are_exact(device):
    """Integer inputs: the gradients of weight, bias and input are the sums that arithmetic gives, on another batch."""
    linear = nn.Linear(2, 3, device=device)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    module = torch.export.export(linear, (torch.ones(3, 2, device=device),), dynamic_shapes=batch_dim()).module()
    values = np.arange(10.0).reshape(5, 2)
    x = torch.tensor(values, dtype=torch.float32, device=device, requires_grad=True)
    module(x).sum().backward()
    grads = {name.rpartition(".")[2]: parameter.grad for name, parameter in module.named_parameters()}
    assert_matches(grads["weight"], np.tile(values.sum(0), (3, 1)), device=device)
    assert_matches(grads["bias"], [5.0] * 3)
    assert_matches(x.grad, np.tile([9.0, 12.0], (5, 1)))


@pytest.mark.behavior("export.parity")
def test_buffer_written_in_forward_is_written_by_the_program(device):
    """A counter in a buffer counts the program's calls, and tracing does not count."""
    model = Counter().to(device)
    module = torch.export.export(model, (torch.ones(3, device=device),), dynamic_shapes=batch_dim()).module()
    assert model.calls.item() == 0, "tracing changed the model"
    for call in (1, 2, 3):
        assert_matches(module(torch.full((4,), 2.0, device=device)), [2.0 * call] * 4)
    assert dict(module.named_buffers())["calls"].item() == 3


@pytest.mark.behavior("export.parity")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_everything_a_model_holds_is_kept_through_saving(device, strict):
    """Buffers in and outside the state dict, plain tensors, ties and Python values count, also in a loaded program."""
    model = Holder()
    model.to(device).plain = model.plain.to(device)
    program = torch.export.export(model, (torch.ones(3, 2, device=device),), dynamic_shapes=batch_dim(), strict=strict)
    once, twice = reloaded(program), reloaded(reloaded(program))
    for rows in (2, 5):
        x = np.arange(2 * rows).reshape(rows, 2)
        for what, form in (("exported", program), ("loaded", once), ("loaded again", twice)):
            outputs = form.module()(torch.tensor(x, dtype=torch.float32, device=device))
            for out, wanted in zip(outputs, held(x), strict=True):
                assert_matches(out, wanted, dtype=torch.float32, device=device, what=f"{what}, batch {rows}")


def reloaded(program):
    """Return what ``torch.export.load`` makes of the program's file."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return torch.export.load(io.BytesIO(buffer.getvalue()))


class Constants(nn.Module):
    """Numbers of every kind as arguments of operators."""

    def forward(self, x):
        inf, nan = float("inf"), float("nan")
        return (
            x.masked_fill(x > 1, -inf), x.masked_fill(x > 1, inf), x.masked_fill(x > 1, nan), x.clamp(-inf, 1.5),
            torch.full_like(x, inf), x.nan_to_num(0.5, posinf=inf), x * 1e-45, x.double() * 1e300, x * -0.0,
            x.long() + (2**62 + 1), x.to(torch.float64) + 0.1, x.to(torch.int8), x.sum(1, dtype=torch.float64),
            torch.arange(-3, 9, 4, device=x.device), torch.full((2,), True, device=x.device), x.flip([-1]),
            x.permute(1, 0), torch.where(x > 1, 2.0, -inf), x.new_full((2,), -7, dtype=torch.int16),
        )  # fmt: skip


@pytest.mark.behavior("export.parity")
def test_constants_of_every_kind_are_kept_through_saving(device):
    """Infinities, NaN, the smallest and largest numbers, signs of zero, dtypes and lists are loaded as they were."""
    if device.type == "mps":
        pytest.skip("the constants include float64, which mps lacks")
    program = torch.export.export(Constants(), (torch.ones(3, 2, device=device),), dynamic_shapes=batch_dim())
    x = np.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 4.0]])
    big, inf, nan = x > 1, np.inf, np.nan
    tiny = np.float32(1e-45).astype(float)
    wanted = (
        np.where(big, -inf, x), np.where(big, inf, x), np.where(big, nan, x), np.minimum(x, 1.5),
        np.full_like(x, inf), x, x * tiny, x * 1e300, x * 0, x.astype(np.int64) + (2**62 + 1), x + 0.1,
        x.astype(np.int8), x.sum(1), np.array([-3, 1, 5]), np.array([True, True]), x[:, ::-1], x.T,
        np.where(big, 2.0, -inf), np.array([-7, -7]),
    )  # fmt: skip
    dtypes = dict(zip((7, 9, 10, 11, 12, 13, 14, 18), WIDE, strict=True))
    for what, form in (("exported", program), ("loaded", reloaded(program))):
        outputs = form.module()(torch.tensor(x, dtype=torch.float32, device=device))
        for place, (out, value) in enumerate(zip(outputs, wanted, strict=True)):
            dtype = dtypes.get(place, torch.float32)
            assert_matches(out, value, dtype=dtype, device=device, what=f"{what}, output {place}")
        zeros = outputs[8][0].signbit().tolist(), outputs[8][2].signbit().tolist()
        assert zeros == ([True, True], [False, True]), f"{what}: signs of zero"


#: The dtypes of those of its outputs that are not float32.
WIDE = (
    torch.float64, torch.int64, torch.float64, torch.int8, torch.float64, torch.int64, torch.bool, torch.int16
)  # fmt: skip


@pytest.mark.behavior("export.parity")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_exporting_leaves_the_model_alone(device, training):
    """Modes of all parts, parameters, buffers, gradients and flags are those from before; the program likewise runs."""
    model = mixed_modes(training, device)
    with assert_left_alone(model, "exporting"):
        reloaded(torch.export.export(model, (torch.ones(3, 3, device=device),), dynamic_shapes=batch_dim()))


#: What a program becomes on its way to its user.
LATER_FORMS = {
    "exported": lambda program: program,
    "loaded": reloaded,
    "loaded twice": lambda program: reloaded(reloaded(program)),
    "copied": copy.deepcopy,
    "decomposed": lambda program: program.run_decompositions(),
}


@compiler_warnings.COPIES_TREES
@pytest.mark.behavior("export.parity")
def test_sizes_outside_what_was_declared_raise(device):
    """In every form of the program a batch beyond the declared range, or another width, is refused."""
    layer = nn.Linear(2, 3, device=device)
    example = (torch.ones(4, 2, device=device),)
    program = torch.export.export(layer, example, dynamic_shapes=batch_dim(min=3, max=8))
    for what, form in LATER_FORMS.items():
        module = form(program).module()
        for batch in (3, 8):
            assert module(torch.ones(batch, 2, device=device)).shape == (batch, 3), f"{what}, batch {batch}"
        for shape in ((2, 2), (9, 2), (4, 4), (4, 1)):
            with pytest.raises((RuntimeError, AssertionError)):
                pytest.fail(f"{what}: took {shape} and gave {module(torch.ones(shape, device=device)).shape}")


@contextlib.contextmanager
def hooks_kept():
    """Put back the hooks of every module that an export leaves, up to torch 2.11, when it raises."""
    hooks = nn.modules.module._global_buffer_registration_hooks
    former = dict(hooks)
    yield
    hooks.clear()
    hooks.update(former)


@pytest.mark.behavior("export.parity")
def test_branch_on_data_raises(device):
    """An if on a tensor's value cannot be exported and raises, instead of keeping one branch."""
    with hooks_kept(), pytest.raises(Exception, match="data-dependent|control flow|dynamic control") as caught:
        torch.export.export(Branch(), (torch.ones(3, device=device),), strict=False)
    assert not isinstance(caught.value, AssertionError)


@pytest.mark.behavior("export.parity")
def test_cond_keeps_both_branches(device):
    """torch.cond takes, in the exported program, the branch that the data asks for."""
    module = torch.export.export(Cond(), (torch.ones(3, device=device),)).module()
    assert_matches(module(torch.full((3,), 2.0, device=device)), [3.0] * 3)
    assert_matches(module(torch.full((3,), -2.0, device=device)), [-6.0] * 3)
