"""Many small layers and functions in one model, each with its twin in NumPy, for whatever turns a model into a program.

A compiler that takes one of them takes all of them at once, for little more than the price of one. TorchScript reads
the source of ``zoo_functions.py``; the layers are in ``zoo_layers.py``; the model and what is required of it are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from . import zoo_functions as functions
from . import zoo_layers as layers
from . import zoo_twins as twins
from .activations import ACTIVATIONS
from .forward import weights_from
from .numeric import assert_matches, require, rounding, to_numpy
from .parity import full_precision
from .zoo_layers import Array, State

#: Roundings on the way to one number, of intermediates that are no larger than LARGEST or the largest result.
STEPS = 128
LARGEST = 16.0
#: A step of the central difference, relative to directions of about 0.1: its square is far below float32's rounding.
STEP = 2.0**-17


LAYERS = {"series": layers.SERIES, "picture": layers.PICTURES, "words": layers.WORDS}
FUNCTIONS = {"series": functions.SERIES, "picture": functions.PICTURES, "words": functions.WORDS}
TWINS = {"series": twins.SERIES, "picture": twins.PICTURES, "words": twins.WORDS}


class Function(nn.Module):
    """A function as a module; TorchScript compiles it where it is an attribute."""

    def __init__(self, function: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.function(x)


class Zoo(nn.Module):
    """All layers and functions but those left out, side by side; ``forward`` returns what each makes of its input."""

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.names = {kind: [name for name in LAYERS[kind] if f"{kind}: {name}" not in without] for kind in LAYERS}
        self.calls = {kind: [name for name in FUNCTIONS[kind] if f"{kind}: {name}" not in without] for kind in LAYERS}
        make = lambda kind: nn.ModuleList(LAYERS[kind][name].make() for name in self.names[kind])  # noqa: E731
        call = lambda kind: nn.ModuleList(Function(FUNCTIONS[kind][name]) for name in self.calls[kind])  # noqa: E731
        self.series, self.picture, self.words = make("series"), make("picture"), make("words")
        self.of_series, self.of_picture, self.of_words = call("series"), call("picture"), call("words")

    def forward(self, series: Tensor, picture: Tensor, words: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for part in self.series:
            found.append(part(series))
        for part in self.of_series:
            found.extend(part(series))
        for part in self.picture:
            found.append(part(picture))
        for part in self.of_picture:
            found.extend(part(picture))
        for part in self.words:
            found.append(part(words))
        for part in self.of_words:
            found.extend(part(words))
        return found


#: Parts that cost exporters most, for what others check: recurrent networks, attention and most activations.
RECURRENT = ("series: rnn", "series: lstm", "series: gru")
COSTLY = (*RECURRENT, "series: attention", *(f"series: {row.name}" for row in ACTIVATIONS[4:]))


def left_out(device: torch.device) -> tuple[str, ...]:
    """Return the parts that are not compared here: cuDNN approximates tanh, and has no backward in eval mode."""
    return RECURRENT if device.type == "cuda" else ()


Inputs = tuple[Array, Array, Array]


def draw(rng: np.random.Generator, batch: int) -> Inputs:
    """Return series and pictures of float32 values off the places where a slope jumps, and words, as arrays."""
    floats = [
        rng.uniform(-2.5, 2.5, (batch, 4, *rest)).astype(np.float32).astype(np.float64) for rest in ((6,), (7, 6))
    ]
    words = rng.integers(0, 11, (batch, 5))
    words[0, 0] = 2  # the padding
    return floats[0], floats[1], words


def tensors(inputs: Inputs, device: torch.device) -> tuple[Tensor, ...]:
    """Return the inputs as tensors on the device, the floating ones in float32."""
    return tuple(
        torch.tensor(x.tolist(), dtype=torch.float32 if x.dtype.kind == "f" else torch.int64, device=device)
        for x in inputs
    )


def state_of(model: nn.Module) -> dict[str, Array]:
    """Return the floating parameters and buffers in float64, by name."""
    return {name: to_numpy(value) for name, value in model.state_dict().items() if value.is_floating_point()}


def expected(model: Zoo, state: State, inputs: Inputs, training: bool) -> dict[str, Array]:
    """Return what every part of the model makes of the inputs, by name."""
    found: dict[str, Array] = {}
    for kind, x in zip(LAYERS, inputs, strict=True):
        for place, name in enumerate(model.names[kind]):
            start = f"{kind}.{place}."
            own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            found[f"{kind}: {name}"] = LAYERS[kind][name].twin(own, x, training)
        for name in model.calls[kind]:
            for place, value in enumerate(TWINS[kind][name](x)):
                found[f"{kind}: {name}, output {place}"] = np.asarray(value)
    return found


def assert_zoo(outputs: object, wanted: Mapping[str, Array], what: str) -> None:
    """Require every output, in order, to have the twin's shape, kind and values; all that differ are named.

    Raises:
        AssertionError: with what is wrong about each part.
    """
    __tracebackhide__ = True
    outputs = list(outputs)
    require(len(outputs) == len(wanted), f"{what} has {len(outputs)} outputs, expected {len(wanted)}")
    wrong = []
    for out, (name, value) in zip(outputs, wanted.items(), strict=True):
        dtype = {"f": torch.float32, "i": torch.int64, "b": torch.bool}[value.dtype.kind]
        largest = float(np.abs(value).max(initial=LARGEST)) if value.dtype.kind == "f" else 0.0
        try:
            assert_matches(out, value, atol=rounding(torch.float32, STEPS) * largest, dtype=dtype, what=name)
        except AssertionError as error:
            wrong.append(str(error))
    require(not wrong, f"{what}: {len(wrong)} of {len(wanted)} outputs differ from their twins\n" + "\n".join(wrong))


def _weighted(values: Mapping[str, Array], weights: Sequence[Array | None]) -> float:
    """Return the weighted sum of all values but those without weights."""
    return sum(float((x * v).sum()) for x, v in zip(values.values(), weights, strict=True) if v is not None)


def assert_slope(
    model: Zoo, form: Callable[..., object], inputs: Inputs, rng: np.random.Generator, device: torch.device, what: str
) -> None:
    """Require the gradients that ``form`` leaves in ``model`` and its inputs to predict the twins' change.

    One number stands for all: the slope of a weighted sum of every output along a random direction of every input and
    parameter, by central differences of the twins. A gradient in float32 errs by STEPS roundings of its largest
    element, all elements at once.
    """
    __tracebackhide__ = True
    state, training = state_of(model), model.training
    given = tensors(inputs, device)
    leaves = {
        "series": given[0].requires_grad_(),
        "picture": given[1].requires_grad_(),
        **dict(model.named_parameters()),
    }
    for leaf in leaves.values():
        leaf.grad = None
    with full_precision():
        outputs = list(form(*given))
    cotangents = [rng.uniform(0.5, 1.5, tuple(out.shape)) * rng.choice([-1.0, 1.0]) for out in outputs]
    pairs = [(out, v) for out, v in zip(outputs, cotangents, strict=True) if out.requires_grad]
    with full_precision():
        torch.autograd.backward(
            [out for out, _ in pairs], [torch.tensor(v, dtype=out.dtype, device=device) for out, v in pairs]
        )
    directions = {name: rng.uniform(0.05, 0.15, tuple(leaf.shape)) for name, leaf in leaves.items()}
    directions["words.0.weight"][2] = 0.0  # the row of the padding has no gradient
    weights = [v if out.requires_grad else None for out, v in zip(outputs, cotangents, strict=True)]

    def total(step: float) -> float:
        series, picture = (x + step * directions[name] for x, name in zip(inputs, ("series", "picture"), strict=False))
        moved = {name: value + step * directions.get(name, 0.0) for name, value in state.items()}
        return _weighted(expected(model, moved, (series, picture, inputs[2]), training), weights)

    slope = (total(STEP) - total(-STEP)) / (2 * STEP)
    # a layer that no branch reaches has no gradient, and its twin no slope
    gradients = {name: np.zeros(tuple(x.shape)) if x.grad is None else to_numpy(x.grad) for name, x in leaves.items()}
    predicted = sum(float((gradients[name] * direction).sum()) for name, direction in directions.items())
    allowed = rounding(torch.float32, STEPS) * sum(
        float(np.abs(gradients[name]).max() * direction.sum()) for name, direction in directions.items()
    )
    require(
        abs(predicted - slope) <= allowed,
        f"{what}: the gradients predict a slope of {predicted!r}, the twins give {slope!r}, allowed {allowed:.3g}",
    )


def filled(without: tuple[str, ...] = (), *, training: bool = False) -> Zoo:
    """Return the zoo, but for some parts, with always the same weights, on the CPU."""
    return weights_from(np.random.default_rng(71), Zoo(without)).train(training)


def example(device: torch.device) -> tuple[Tensor, ...]:
    """Return inputs with a batch of 3 to trace and export with."""
    return tensors(draw(np.random.default_rng(72), 3), device)


def assert_agrees(
    form: Callable[..., object],
    model: Zoo,
    rng: np.random.Generator,
    device: torch.device,
    batches: tuple[int, ...],
    what: str,
) -> None:
    """Run the form on new inputs of each batch size and compare every output with its twin."""
    __tracebackhide__ = True
    state = state_of(model)
    for batch in batches:
        inputs = draw(rng, batch)
        with full_precision():
            outputs = form(*tensors(inputs, device))
        assert_zoo(outputs, expected(model, state, inputs, model.training), f"{what}, batch {batch}")
