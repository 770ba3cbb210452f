"""torch.export takes and gives nests of every kind, of every dtype, with several open dimensions."""

import io

import pytest
import torch

from .support import compiler_warnings, forms

pytestmark = [
    *compiler_warnings.ALWAYS,
    compiler_warnings.READS_BYTES,
    compiler_warnings.COPIES_TREES,
    pytest.mark.behavior("export.parity"),
]


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
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    programs = {"exported": program, "loaded": torch.export.load(buffer), "decomposed": program.run_decompositions()}
    for what, form in programs.items():
        module = form.module()
        for sizes in ((3, 4), (2, 7), (6, 5)):
            arguments, keywords = forms.inputs(rng, *sizes)
            found = module(*forms.on(device, arguments), **forms.on(device, keywords))
            assert list(found) == ["y", "numbers", "nested", "picked", "flag"], what
            forms.assert_forms(found, arguments, keywords, f"{what}, {sizes}")
