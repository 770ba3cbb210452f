"""The bugs that people make in models, each caught by the helper meant for it, which passes once the bug is mended."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

import pytest_torchcheck as tc

from .helpers import failure

SEEDED = torch.Generator().manual_seed(0)
X, Y = torch.randn(8, 4, generator=SEEDED), torch.randint(0, 3, (8,), generator=SEEDED)
IMAGES = torch.randn(3, 2, 6, 6, generator=SEEDED)


class Net(nn.Module):
    """A small classifier whose forward has a bug, or has it not."""

    def __init__(self, bug=False):
        super().__init__()
        self.bug = bug
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.set_up()

    def set_up(self):
        """Add what a model needs besides."""

    def forward(self, x):
        return self.head(self.between(torch.tanh(self.body(x))))

    def between(self, hidden):
        return hidden


class DropoutForgotten(Net):
    def between(self, hidden):
        return F.dropout(hidden) if self.bug else F.dropout(hidden, training=self.training)


class StatisticUpdatedInEval(Net):
    def set_up(self):
        self.register_buffer("mean", torch.zeros(6))

    def between(self, hidden):
        if self.training or self.bug:
            self.mean.mul_(0.9).add_(0.1 * hidden.detach().mean(0))
        return hidden - self.mean


class ModeForgotten(Net):
    def set_up(self):
        self.drop = nn.Dropout(0.5)

    def train(self, mode=True):
        super().train(mode)
        if self.bug:
            self.drop.eval()
        return self

    def between(self, hidden):
        return self.drop(hidden)


class PartHiddenFromMode(Net):
    def set_up(self):
        drop = nn.Dropout(0.5)
        self.parts = [drop] if self.bug else nn.ModuleList([drop])

    def between(self, hidden):
        return self.parts[0](hidden)


class InPlaceOnInput(Net):
    def forward(self, x):
        return super().forward(x.sub_(1) if self.bug else x - 1)


class DetachedBranch(Net):
    def set_up(self):
        self.gate = nn.Linear(6, 6)

    def between(self, hidden):
        gate = self.gate(hidden).sigmoid()
        return hidden * (gate.detach() if self.bug else gate)


class NumpyOnTheWay(Net):
    def between(self, hidden):
        return torch.from_numpy(np.tanh(hidden.detach().numpy())) if self.bug else hidden.tanh()


class UnusedPart(Net):
    def set_up(self):
        self.extra = nn.Linear(6, 6)

    def between(self, hidden):
        return hidden if self.bug else self.extra(hidden)


class SoftmaxOverTheBatch(Net):
    def between(self, hidden):
        return hidden.softmax(0 if self.bug else -1)


class Squeezed(Net):
    def forward(self, x):
        output = super().forward(x[:, None])
        return output.squeeze() if self.bug else output.squeeze(1)


class ViewOfImages(nn.Module):
    def __init__(self, bug=False):
        super().__init__()
        self.bug, self.head = bug, nn.Linear(72, 3)

    def forward(self, x):
        return self.head(x.view(len(x), -1) if self.bug else x.flatten(1))


class ScaleFunction(torch.autograd.Function):
    """x * w; with the bug the gradient of w forgets the rows but the first."""

    @staticmethod
    def forward(ctx, x, w, bug):
        ctx.save_for_backward(x, w)
        ctx.bug = bug
        return x * w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        per_row = grad * x
        return grad * w, per_row[0] if ctx.bug else per_row.sum(0), None


class CustomBackward(Net):
    def set_up(self):
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))

    def between(self, hidden):
        return ScaleFunction.apply(hidden, self.scale, self.bug)


class FreshGenerator(Net):
    def between(self, hidden):
        generator = torch.Generator()
        if self.bug:
            generator.seed()
        return hidden + 0.1 * torch.rand(hidden.shape, generator=generator)


class PoorStart(Net):
    def set_up(self):
        init = nn.init.normal_ if self.bug else nn.init.xavier_normal_
        self.body = nn.Linear(4, 100)
        self.head = nn.Linear(100, 3)
        init(self.body.weight, generator=torch.Generator().manual_seed(0))


#: model, helper, inputs, what the text says.
BUGS = {
    "dropout forgotten in eval": (DropoutForgotten, tc.assert_eval_deterministic, X, "drawn in eval mode"),
    "statistic updated in eval": (StatisticUpdatedInEval, tc.assert_eval_deterministic, X, "buffer 'mean' changed"),
    "train() that leaves a part out": (ModeForgotten, tc.assert_modes_differ, X, "dropout     1 modules, p=0.5"),
    "part hidden in a list": (PartHiddenFromMode, tc.assert_eval_deterministic, X, "drawn in eval mode"),
    "in place on the input": (InPlaceOnInput, tc.assert_eval_deterministic, X, "'args[0]' changed in place"),
    "detached branch": (DetachedBranch, tc.assert_gradients_flow, X, "missing     'gate.weight', 'gate.bias'"),
    "NumPy on the way": (NumpyOnTheWay, tc.assert_gradients_flow, X, "missing     'body.weight', 'body.bias'"),
    "part that is never called": (UnusedPart, tc.assert_gradients_flow, X, "missing     'extra.weight', 'extra.bias'"),
    "softmax over the batch": (
        SoftmaxOverTheBatch,
        tc.assert_batch_independent,
        X,
        "another result alone than in its b",
    ),
    "squeeze of a batch of one": (Squeezed, tc.assert_batch_independent, X, "output has another structure"),
    "view of strided images": (ViewOfImages, tc.assert_layout_invariant, IMAGES, "refuses transposed inputs"),
    "custom backward wrong for a parameter": (CustomBackward, tc.assert_gradcheck, X, "grad of 'scale' differs"),
    "generator that starts anew": (FreshGenerator, tc.assert_deterministic, X, "random numbers differ: operation"),
}


@pytest.mark.parametrize(("model", "helper", "inputs", "said"), BUGS.values(), ids=BUGS)
def test_bug_is_caught_and_its_absence_passes(model, helper, inputs, said):
    """The helper fails for the model with the bug, says what it is, and passes for the same model without it."""
    torch.manual_seed(0)
    assert said in failure(helper, model(bug=True), inputs)
    helper(model(bug=False), inputs)


# -- bugs of a training script ---------------------------------------------------------------------------------


def step(model, optimizer, **options):
    return model, optimizer, nn.CrossEntropyLoss(), (X, Y)


def test_parameter_missing_from_the_optimizer_is_caught():
    """A part that is added after the optimizer was built is never trained."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tc.assert_training_step(*step(model, optimizer))
    model.head = nn.Linear(6, 3)
    text = failure(tc.assert_training_step, *step(model, optimizer))
    assert "not handed  'head.weight', 'head.bias' missing from the optimizer" in text
    assert "strangers   2 parameters in the optimizer are not the model's" in text


def test_frozen_batchnorm_that_still_learns_is_caught():
    """requires_grad_(False) does not freeze running statistics; eval() does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert "'1.running_mean'" in failure(tc.assert_training_step, *step(model, optimizer), ignore="0.bias")
    model[1].eval()
    tc.assert_training_step(*step(model, optimizer))


def test_loss_that_cannot_be_learned_is_caught():
    """Softmax before cross_entropy keeps the loss high."""
    torch.manual_seed(0)

    def fit(loss):
        model = Net()
        return model, torch.optim.Adam(model.parameters(), lr=0.05), loss, (X, Y)

    tc.assert_fits(*fit(F.cross_entropy), below=0.1, steps=150)
    text = failure(tc.assert_fits, *fit(lambda out, y: F.cross_entropy(out.softmax(-1), y)), below=0.1, steps=150)
    assert text.startswith("Net does not fit the batch: loss 0.5")


def test_loss_kept_with_its_graph_is_caught():
    """A running sum of losses that is never detached keeps the graph of every step."""
    total = [torch.zeros(())]

    def keep(x, read):
        total[0] = total[0] + read(x.square().sum())

    tc.assert_no_graph(lambda x: keep(x, torch.Tensor.item), X)
    assert "bytes in 1 saved tensors" in failure(tc.assert_no_graph, lambda x: keep(x, lambda loss: loss), X)


def test_clipping_before_backward_is_caught():
    """Gradients that are clipped before the next backward adds to them exceed the bound."""
    model = Net()
    for late in (True, False):
        model.zero_grad()
        F.cross_entropy(100 * model(X), Y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not late:
            F.cross_entropy(100 * model(X), Y).backward()
    assert "exceeds 1" in failure(tc.assert_clipped, model, 1.0)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    tc.assert_clipped(model, 1.0)


def test_scheduler_stepped_per_batch_is_caught():
    """A schedule meant for epochs that is stepped for batches runs ahead."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    tc.assert_learning_rates(scheduler, [1.0, 0.5, 0.25])
    assert "gives other learning rates" in failure(tc.assert_learning_rates, scheduler, [1.0, 1.0, 0.5, 0.5, 0.25])


def test_wrong_initialization_is_caught():
    """A standard normal is no Xavier normal."""
    tc.assert_initialized(PoorStart().body, "xavier_normal")
    text = failure(tc.assert_initialized, PoorStart(bug=True).body, "xavier_normal")
    assert text.endswith("next        it would fit normal")


class Augmented(Dataset):
    """Samples with noise from NumPy."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return X[index] + np.float32(np.random.rand())


class Shards(IterableDataset):
    """A stream that every worker gives whole, or shares."""

    def __init__(self, bug):
        self.bug = bug

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        return iter(range(8) if self.bug or info is None else range(info.id, 8, info.num_workers))


def same_seed(worker):
    np.random.seed(0)


def test_workers_that_repeat_each_other_are_caught():
    """A seed for NumPy that is one number in all workers, and a stream that none of them shares."""
    tc.assert_loader(DataLoader(Augmented(), num_workers=2))
    text = failure(tc.assert_loader, DataLoader(Augmented(), num_workers=2, worker_init_fn=same_seed))
    assert "shared      NumPy: workers 0, 1" in text
    tc.assert_loader(DataLoader(Shards(bug=False), num_workers=2))
    text = failure(tc.assert_loader, DataLoader(Shards(bug=True), num_workers=2))
    assert "repeated    8 samples" in text


# -- bugs of a checkpoint --------------------------------------------------------------------------------------


class StatisticNotRegistered(Net):
    def set_up(self):
        if self.bug:
            self.mean = torch.randn(6)
        else:
            self.register_buffer("mean", torch.randn(6))

    def between(self, hidden):
        return hidden - self.mean


def test_buffer_that_is_not_registered_is_caught():
    """A tensor in a plain attribute does not survive a state dict: the round trip into a fresh instance shows it."""
    for bug in (False, True):
        torch.manual_seed(0)
        arguments = (StatisticNotRegistered(bug), X)
        options = {"make_model": lambda bug=bug: StatisticNotRegistered(bug)}
        if bug:
            assert failure(tc.assert_state_dict_roundtrip, *arguments, **options)
        else:
            tc.assert_state_dict_roundtrip(*arguments, **options)
