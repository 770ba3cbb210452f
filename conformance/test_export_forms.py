"""torch.export takes and gives nests of every kind, of every dtype, with several open dimensions."""

import io
import itertools

import pytest
import torch
from torch import nn

from .support import compiler_warnings, forms
from .support.numeric import assert_matches

pytestmark = [
    *compiler_warnings.ALWAYS,
    compiler_warnings.READS_BYTES,
    compiler_warnings.COPIES_TREES,
    pytest.mark.behavior("export.parity"),
]


def modules(program):
    """Return what runs a program as it is, after it was saved and loaded, and decomposed."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    forms_of = {"exported": program, "loaded": torch.export.load(buffer), "decomposed": program.run_decompositions()}
    return {what: form.module() for what, form in forms_of.items()}


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_nests_keywords_and_dtypes_pass_through(device, rng, strict):
    """Tuples, dicts, keywords and None come in and nests go out as in eager, for other sizes, loaded too."""
    if device.type == "mps":
        pytest.skip("one output is float64, which mps lacks")
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=64)
    shapes = {
        "x": {0: batch},
        "pair": (None, {0: length}),
        "table": dict.fromkeys(("bias", "whole", "names", "flag")),
        "shift": {0: batch},
    }
    arguments, keywords = forms.inputs(rng, 3, 4)
    program = torch.export.export(
        forms.Forms(), forms.on(device, arguments), forms.on(device, keywords), dynamic_shapes=shapes, strict=strict
    )
    for what, module in modules(program).items():
        for sizes in ((3, 4), (2, 7), (6, 5)):
            arguments, keywords = forms.inputs(rng, *sizes)
            found = module(*forms.on(device, arguments), **forms.on(device, keywords))
            assert list(found) == ["y", "numbers", "nested", "picked", "flag"], what
            forms.assert_forms(found, arguments, keywords, f"{what}, {sizes}")


class Digits(nn.Module):
    """Three inputs of one shape, each with a weight of its own: which of them came in where is seen in the result."""

    def forward(self, x, y, z):
        return x + 10 * y + 100 * z


@pytest.mark.parametrize("positional", [0, 1, 2])
def test_keywords_are_taken_by_name(device, positional):
    """However many arguments are given by place, keywords may come in any order, and go to the names they have."""
    names = ["x", "y", "z"]
    given = {name: torch.full((2,), float(digit), device=device) for digit, name in enumerate(names, 1)}
    placed, named = names[:positional], names[positional:]
    program = torch.export.export(Digits(), tuple(given[n] for n in placed), {n: given[n] for n in named})
    for what, module in modules(program).items():
        for order in itertools.permutations(named):
            result = module(*(given[n] for n in placed), **{n: given[n] for n in order})
            assert_matches(result, [321.0] * 2, device=device, what=f"{what}, keywords {order}")
