"""Models and functions that the checks of TorchScript compile. TorchScript reads this source: keep to what it knows."""

import math

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Two linear layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.second = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Convolution(nn.Module):
    """Convolution, BatchNorm, pooling and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(nn.functional.max_pool2d(y, 2).flatten(1))


class Recurrent(nn.Module):
    """An LSTM, which TorchScript takes only inside another module."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, (hidden, cell) = self.lstm(x)
        return out, (hidden + cell).transpose(0, 1)


class Attention(nn.Module):
    """Scaled dot-product attention and LayerNorm."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(6, 6)
        self.key = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-2, -1) / math.sqrt(6)
        return self.norm(x + torch.softmax(scores, dim=-1) @ x)


class Lookup(nn.Module):
    """The mean of embedded words."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x).mean(dim=1)


def shifted(x: Tensor, by: float) -> Tensor:
    """Return x + by: a function that the compiler has to find by itself."""
    return x + by


class Many(nn.Module):
    """A list of layers in a loop, a helper function, a buffer, an optional argument and a dict as output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6, bias=False)])
        self.register_buffer("scale", torch.tensor([0.5, -1.5, 2.0, 0.25, 3.0, -0.5]))
        self.shift = 0.25

    def forward(self, x: Tensor, other: Tensor | None = None) -> dict[str, Tensor]:
        outputs = {"input": shifted(x, self.shift)}
        for index, layer in enumerate(self.layers):
            x = torch.sigmoid(layer(x)) * self.scale
            outputs[f"layer{index}"] = x
        if other is not None:
            outputs["other"] = other
        return outputs


def polynomial(x: Tensor, y: Tensor, scale: int = 3) -> Tensor:
    """Return (x y + scale) x - y."""
    return (x * y + scale) * x - y


def branch(x: Tensor) -> Tensor:
    """Return 6 x where the sum is positive, x elsewhere."""
    if x.sum() > 0:
        y = x * 2
        return y * 3
    return x * 1


def grade(x: Tensor, strict: bool) -> Tensor:
    """Return x times the number of the branch that its sum and the flag choose."""
    total = x.sum()
    if total > 10 and not strict:
        y = x * 1
    elif total > 5:
        if strict:
            y = x * 2
        elif total > 7:
            y = x * 3
        else:
            y = x * 4
    elif total > 0:
        y = x * 5
    elif total < -5 or strict:
        y = x * 6
    else:
        y = x * 7
    return y


def repeat(x: Tensor, times: Tensor) -> Tensor:
    """Double and add, as often as a tensor says."""
    for step in range(int(times)):
        x = x * 2 + step
    return x


def grow(x: Tensor) -> Tensor:
    """Double until every element reaches 100."""
    while bool((x < 100).any()):
        x = x * 2
    return x


def collatz(x: Tensor) -> int:
    """Return how many steps lead from x to 1."""
    value, steps = int(x), 0
    while value != 1:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        steps += 1
    return steps


def select(rows: Tensor) -> Tensor:
    """Add the rows up to the first that starts above 9, without those that start below 0."""
    total = torch.zeros_like(rows[0])
    for row in rows:
        if bool(row[0] < 0):
            continue
        if bool(row[0] > 9):
            break
        total = total + row
    return total


def nested(x: Tensor, limit: int) -> list[int]:
    """Return the products i j below ``limit`` for which element i + j of x is not 0, as a list."""
    found: list[int] = []
    for i in range(len(x)):
        for j in range(i, len(x) - i):
            if i * j >= limit:
                break
            if bool(x[i + j] != 0):
                found.append(i * j)
    return found


def optional(x: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias if there is one."""
    return x if bias is None else x + bias


class Modal(nn.Module):
    """BatchNorm, dropout and a branch on the mode. BatchNorm starts from mean 2 and variance 1; eps makes that 4."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.5, eps=3.0)
        self.norm.running_mean += 2
        self.drop = nn.Sequential(nn.Identity(), nn.Dropout(0.5))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mode = 1 if self.training else 2
        return self.norm(x), self.drop(noise), noise.new_full([1], mode)


class Preserved(nn.Module):
    """An attribute and a method that freezing may be told to keep."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.factor = 3

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.factor

    @torch.jit.export
    def twice(self, x: Tensor) -> Tensor:
        return self.linear(x) * 2


class Residual(nn.Module):
    """Sums of two branches, rectified: what graph rewriters fuse with the convolution before it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 2, 1, bias=False)
        self.third = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x) + x)
        z = self.second(y).add_(y).relu_()
        w = torch.relu(torch.add(x, self.third(z), alpha=0.5))
        return torch.relu(w + (x + y)) - torch.relu(self.first(w) - self.second(x))


class Settings(nn.Module):
    """Python values of every kind that TorchScript keeps as attributes, in two places."""

    extra: int | None

    def __init__(self):
        super().__init__()
        self.flag = True
        self.count = 3
        self.rate = 0.5
        self.name = "first"
        self.pair = (1, 2.5)
        self.numbers = [1, 2, 3]
        self.table = {"a": 1.0, "b": 2.0}
        self.extra = 4
        self.part = Inner()

    def forward(self, x: Tensor) -> list[Tensor]:
        extra = self.extra
        return [x * self.count + self.rate, x if self.flag else -x, x + len(self.name), x * self.pair[0] + self.pair[1],
                x + sum(self.numbers) + len(self.numbers), x * self.table["b"] + len(self.table),
                x if extra is None else x + extra, self.part(x)]  # fmt: skip


class Inner(nn.Module):
    """A number and a flag of a part."""

    def __init__(self):
        super().__init__()
        self.shift = 7
        self.negative = False

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift if not self.negative else x - self.shift


def ranges(a: int, b: int, step: int) -> list[int]:
    """Return the numbers of loops over every form of range, -99 between them."""
    found: list[int] = []
    for i in range(b):
        found.append(i)
    found.append(-99)
    for i in range(a, b):
        found.append(i)
    found.append(-99)
    for i in range(a, b, 2):
        found.append(i)
    found.append(-99)
    for i in range(b, a, -1):
        found.append(i)
    found.append(-99)
    for i in range(b - 1, -1, -1):
        found.append(i)
    found.append(-99)
    for i in range(b, a, -3):
        found.append(i)
    found.append(-99)
    for i in range(a, b, step):
        found.append(i)
    found.append(-99)
    for i in range(b, a, -step):
        found.append(i)
    return found


def backwards(x: Tensor) -> Tensor:
    """Return running sums of the rows from the last one on."""
    total, found = torch.zeros_like(x[0]), torch.zeros_like(x)
    for row in range(x.size(0) - 1, -1, -1):
        total = total + x[row]
        found[x.size(0) - 1 - row] = total
    return found


def loops(items: list[int]) -> list[int]:
    """Return the numbers of loops over lists, in pairs, counted, nested, and left early."""
    found: list[int] = []
    for place, item in enumerate(items):
        found.append(place * 100 + item)
    for item, other in zip(items, items[1:]):  # noqa: B905  (TorchScript knows no strict=)
        found.append(item - other)
    for place, (item, other) in enumerate(zip(items, items)):  # noqa: B905
        found.append(place + item * other)
    for i in range(len(items)):
        for j in range(i, len(items)):
            if items[j] < 0:
                break
            found.append(items[i] + items[j])
    while len(items) > 0:
        found.append(items.pop())
        if found[-1] > 5:
            break
    return found


class Folded(nn.Module):
    """A layer, its normalization, and a factor and a shift per channel."""

    def __init__(self, layer: nn.Module, norm: nn.Module, shape: list[int]):
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.register_buffer("factor", torch.ones(shape))
        self.register_buffer("shift", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.layer(x)) + self.shift) * self.factor - 0.75


def dropping() -> nn.Module:
    """Return linear layers with BatchNorm between them, and dropout that throws nearly everything away in training."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 3))
