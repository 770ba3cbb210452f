"""torch.compile compiles again, or reads anew, where something changed that its result depends on."""

import pytest
import torch
from torch import nn

from .support import compiler_warnings, forms
from .support.compiling import LIGHT, Counting, fresh_cache
from .support.numeric import assert_matches

pytestmark = [pytest.mark.behavior("compile.parity"), *compiler_warnings.ALWAYS]

__all__ = ["fresh_cache"]

_global_scale = 1.0


def options(x, number=2, flag=False, name="add", pair=(1, 2), table=None, extra=None):
    """Depend on a value of every kind that Python code passes beside tensors."""
    x = x * number + pair[0] * 10 + pair[1] * 100 if flag else x - number
    x = x + 1000 if name == "add" else x - 1000
    for key in sorted(table or {}):
        x = x + table[key]
    return x if extra is None else x + extra


def expected(x, number=2, flag=False, name="add", pair=(1, 2), table=None, extra=None):
    """Return the same for one number, by arithmetic alone."""
    value = x * number + pair[0] * 10 + pair[1] * 100 if flag else x - number
    return value + (1000 if name == "add" else -1000) + sum((table or {}).values()) + (0 if extra is None else 7)


@torch._dynamo.config.patch(recompile_limit=64)  # beyond eight kinds of calls torch runs the others uncompiled
def test_arguments_beside_tensors_are_those_of_the_call(device):
    """Another int, float, bool, str, tuple, dict, None, or tensor dtype: each call computes with its own."""
    backend = Counting()
    compiled = torch.compile(options, backend=backend)
    seven = torch.tensor(7.0, device=device)
    calls = [
        {}, {"number": 3}, {"number": 4}, {"number": 0.5}, {"number": 0.25}, {"number": 1}, {"flag": True},
        {"flag": True, "pair": (3, 4)}, {"flag": True, "pair": (4, 3)}, {"name": "subtract"}, {"table": {"a": 5}},
        {"table": {"a": 6, "b": 8}}, {"table": {}}, {"extra": seven}, {"number": 2}, {},
    ]  # fmt: skip
    for _ in range(2):
        for call in calls:
            for dtype in (torch.float32, torch.float64):
                out = compiled(torch.full((3,), 6.0, dtype=dtype, device=device), **call)
                assert_matches(out, [expected(6.0, **call)] * 3, dtype=dtype, what=f"{call}")
    for number in (2, 3, 5, 2):
        assert_matches(compiled(torch.full((3,), 6.0, device=device), number), [1006.0 - number] * 3, what="positional")
    assert backend.runs == 2 * 2 * len(calls) + 4, "some calls did not come from the backend"


class Scaled(nn.Module):
    """Depends on attributes of several kinds and on a list of modules."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift, self.steps = 2.0, 1, nn.ModuleList([nn.Identity()])
        self.on = True

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return (x * self.scale if self.on else x) + self.shift


class Doubled(nn.Module):
    """Doubles."""

    def forward(self, x):
        return x * 2


@pytest.mark.parametrize("backend", LIGHT)
def test_changed_attributes_globals_and_closures_are_seen(device, backend):
    """A number or flag of the module, a submodule put in its place, a global and a closed-over value of the moment."""
    global _global_scale
    backend = Counting(backend)
    module = Scaled()
    compiled = torch.compile(module, backend=backend)
    x = torch.full((2,), 3.0, device=device)
    assert_matches(compiled(x), [7.0] * 2)
    module.scale = 4.0
    assert_matches(compiled(x), [13.0] * 2, what="changed float")
    module.shift = 5
    assert_matches(compiled(x), [17.0] * 2, what="changed int")
    module.on = False
    assert_matches(compiled(x), [8.0] * 2, what="changed flag")
    module.steps[0] = Doubled()
    assert_matches(compiled(x), [11.0] * 2, what="exchanged submodule")
    module.steps.append(Doubled())
    assert_matches(compiled(x), [17.0] * 2, what="another submodule")

    factor = 3.0

    def closed(x):
        return x * factor * _global_scale

    function = torch.compile(closed, backend=backend)
    assert_matches(function(x), [9.0] * 2)
    factor = 5.0
    assert_matches(function(x), [15.0] * 2, what="changed closure")
    _global_scale = 2.0
    try:
        assert_matches(function(x), [30.0] * 2, what="changed global")
    finally:
        _global_scale = 1.0
    assert backend.runs == 9, "some calls did not come from the backend"


@pytest.mark.parametrize("backend", LIGHT)
def test_grad_mode_layout_and_rank_of_the_call_count(device, backend):
    """Under no_grad no graph is kept; another rank, layout or requires_grad gives that call's own result."""
    backend = Counting(backend)
    compiled = torch.compile(lambda x: (x * 2).cumsum(0), backend=backend)
    x = torch.ones(3, device=device, requires_grad=True)
    assert compiled(x).requires_grad
    with torch.no_grad():
        assert not compiled(x).requires_grad
    assert not compiled(x.detach()).requires_grad
    out = compiled(x)
    out.sum().backward()
    assert_matches(x.grad, [6.0, 4.0, 2.0])
    table = torch.arange(6.0, device=device).reshape(2, 3)
    assert_matches(compiled(table), [[0.0, 2.0, 4.0], [6.0, 10.0, 14.0]])
    assert_matches(compiled(table.t()), [[0.0, 6.0], [2.0, 14.0], [6.0, 24.0]])
    assert_matches(compiled(torch.tensor([1, 2], device=device)), [2, 6], dtype=torch.int64)
    assert backend.runs == 7, "some calls did not come from the backend"


def changing(items, table, box, x):
    """Change every container that it is given, and keep what it gives in one of them."""
    items.append(x * 2)
    items[0] = items[0] + 1
    first = items.pop(1)
    table["made"] = first - x
    table.pop("old", None)
    for name in list(table):
        table[name] = table[name] * 1
    box.value = x + len(items)
    box.calls += 1
    return items, table


class Box:
    """An object with attributes that a compiled function writes."""

    def __init__(self):
        self.value, self.calls = None, 0


@pytest.mark.parametrize("backend", LIGHT)
def test_containers_and_objects_are_changed_as_in_eager(device, backend):
    """Lists, dicts and attributes that a compiled function changes hold the same afterwards, call after call."""
    compiled = torch.compile(changing, backend=Counting(backend))
    box = Box()
    for call in range(1, 4):
        x = torch.tensor([1.0, 2.0], device=device) * call
        items, table = [x + 10, x * 10], {"old": x, "kept": x - 1}
        given = items, table
        made = compiled(items, table, box, x)
        assert made[0] is given[0]
        assert made[1] is given[1]
        wanted = [[11 + call, 11 + 2 * call], [2 * call, 4 * call]]
        assert len(items) == 2
        for found, values in zip(items, wanted, strict=True):
            assert_matches(found, values, device=device, what=f"list, call {call}")
        assert list(table) == ["kept", "made"]
        assert_matches(table["made"], [9.0 * call, 18.0 * call], what=f"dict, call {call}")
        assert_matches(table["kept"], [call - 1, 2 * call - 1], what=f"dict, call {call}")
        assert_matches(box.value, [call + 2, 2 * call + 2], what=f"attribute, call {call}")
        assert box.calls == call


@pytest.mark.parametrize("backend", LIGHT)
@pytest.mark.parametrize("dynamic", [None, True], ids=["as seen", "dynamic"])
def test_nests_keywords_and_dtypes_pass_through(device, rng, backend, dynamic):
    """Tuples, dicts, keywords and None come in and nests go out as in eager, for other sizes and another keyword."""
    if device.type == "mps":
        pytest.skip("one output is float64, which mps lacks")
    counting = Counting(backend)
    compiled = torch.compile(forms.Forms(), backend=counting, dynamic=dynamic)
    for sizes in ((3, 4), (2, 7), (6, 5), (1, 1), (3, 4)):
        arguments, keywords = forms.inputs(rng, *sizes)
        found = compiled(*forms.on(device, arguments), **forms.on(device, keywords))
        assert list(found) == ["y", "numbers", "nested", "picked", "flag"]
        forms.assert_forms(found, arguments, keywords, f"{sizes}")
        plain = compiled(*forms.on(device, arguments), **forms.on(device, keywords), doubled=False)["y"]
        assert_matches(plain * 2, next(forms.twin(*arguments, **keywords))[0], what=f"not doubled, {sizes}")
    assert counting.runs == 10, "some calls did not come from the backend"
