"""What the parity helpers share: inputs that are made up, what may differ, warnings, and the gathered report."""

import random
import warnings

import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_trace_parity, state
from pytest_torchcheck.assertions.parity_inputs import Case, made_up_cases
from pytest_torchcheck.assertions.parity_numbers import Tolerance, largest, tolerance
from pytest_torchcheck.assertions.parity_report import Report, Run
from pytest_torchcheck.assertions.quiet import UsersWarnings, only_users_warnings

from .helpers import failure

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
RUN = Run("traced", "args", "eval", "look there")


def made_up(*args, free=None, **kwargs):
    """Return the made-up inputs, the first candidate of each group."""
    return [group[0] for group in made_up_cases(Case("args", args, kwargs), free) if group]


def test_other_values_stay_in_range_and_indices_valid():
    """Floats are drawn from those given and shrunk, integers of a matrix drawn, rows of lengths and masks rolled."""
    tokens, lengths, mask = torch.tensor([[7, 3], [5, 2]]), torch.tensor([2, 1]), torch.tensor([[True], [False]])
    case = made_up(X, tokens, lengths, mask=mask)[0]
    assert case.name == "other values, made up from args"
    x, others, rolled = case.args
    assert (x > 0).all()
    assert x.max() <= 6
    assert not torch.equal(x, X)
    assert set(others.flatten().tolist()) <= {7, 3, 5, 2}
    assert rolled.tolist() == [1, 2]
    assert case.kwargs["mask"].tolist() == [[False], [True]]


def test_negated_values_leave_integers_alone():
    """Floats change their sign; where that changes nothing, no input is made up."""
    case = made_up(X, torch.tensor([[1, 2]]))[1]
    assert case.name == "negated values, made up from args"
    assert torch.equal(case.args[0], -X)
    assert case.args[1].tolist() == [[1, 2]]
    assert [case.name for case in made_up(torch.zeros(()))] == []


def test_batch_is_the_dimension_that_tensors_share():
    """The first dimension of every tensor with the first one's size there grows and shrinks; rows repeat in order."""
    larger, smaller = made_up(X, torch.tensor([3, 2, 1]), torch.ones(2, 3))[-2:]
    assert larger.name == "sizes 3 -> 7, made up from args"
    assert [one.shape for one in larger.args] == [(7, 2), (7,), (2, 3)]
    assert larger.args[1].tolist() == [3, 3, 3, 2, 2, 1, 1]
    assert smaller.args[1].tolist() == [3, 2]


def test_second_dimension_is_tried_where_the_first_is_refused():
    """The candidates of a group are the first and then the second dimension; a batch of two does not shrink."""
    groups = list(made_up_cases(Case("args", (X,), {}), None))
    assert [one.name[:12] for one in groups[2]] == ["sizes 3 -> 7", "sizes 2 -> 5"]
    assert list(made_up_cases(Case("args", (X[:2],), {}), None))[3] == []


def test_only_free_dimensions_change():
    """Where an exporter left dimensions open, those alone change size."""
    assert [case.name[:5] for case in made_up(X, free=[set()])] == ["other", "negat"]
    assert made_up(X, free=[{1}])[2].args[0].shape == (3, 5)


def test_made_up_inputs_keep_what_the_given_ones_require():
    """requires_grad, dtype and the ties between arguments survive."""
    x = X.half().requires_grad_()
    for case in made_up(x, {"again": x}):
        first, second = case.args[0], case.args[1]["again"]
        assert first is second
        assert first.requires_grad
        assert first.dtype == torch.float16


@pytest.mark.parametrize(
    ("values", "relative", "why"),
    [
        ([torch.ones(1)], 256 * 2**-23, "256 eps of float32"),
        ([torch.ones(1).double()], 256 * 2**-52, "256 eps of float64"),
        ([torch.ones(1), torch.ones(1).bfloat16()], 8 * 2**-7, "8 eps of bfloat16"),
        ([torch.ones(1).half()], 8 * 2**-10, "8 eps of float16"),
        ([torch.ones(1, dtype=torch.complex64)], 256 * 2**-23, "256 eps of complex64"),
        ([torch.ones(1).to(torch.float8_e4m3fn)], 8 * 2**-3, "8 eps of float8_e4m3fn"),
        ([torch.ones(1, dtype=torch.int8)], 256 * 2**-23, "256 eps of float32"),
    ],
)
def test_coarsest_dtype_decides(values, relative, why):
    """The tolerance follows from the coarsest dtype that takes part, and says so."""
    found = tolerance(values, None, None)
    assert found.relative == relative
    assert found.text().endswith(f"of each value and of the largest in its tensor: {why}")


def test_reduced_precision_and_autocast_widen_the_tolerance():
    """Products that torch may round, by setting or by autocast, are allowed for."""
    with state.preserved():
        torch.set_float32_matmul_precision("medium")
        assert tolerance([X], None, None).why == "8 eps of bfloat16 products of float32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tolerance([X], None, None).why == "8 eps of bfloat16"


def test_rules_scale_with_the_tensor_and_integers_are_exact():
    """The largest finite magnitude of the expected leaf sets the absolute part; the caller's numbers replace both."""
    loose = Tolerance(0.01, "")
    assert loose.rules(torch.tensor([1.0, -4.0, float("inf"), float("nan")])).atol == pytest.approx(0.04)
    assert loose.rules(torch.tensor([0.0]), overall=8.0).atol == pytest.approx(0.01)
    assert (loose.rules(torch.tensor([3])).rtol, loose.rules(torch.tensor([3])).atol) == (0.0, 0.0)
    fixed = tolerance([X], 0.1, 0.2)
    assert (fixed.rules(X).rtol, fixed.rules(X).atol) == (0.1, 0.2)
    assert fixed.text() == "rtol 0.1, atol 0.2, as asked for"


def test_largest_sees_every_layout():
    """Sparse, complex, boolean, empty and meta tensors, and what is no tensor, have a magnitude."""
    assert largest(torch.tensor([[0.0, -2.0]]).to_sparse()) == 2
    assert largest(torch.tensor([3 + 4j])) == 5
    assert largest(torch.tensor([True])) == 1
    assert [largest(one) for one in (torch.ones(0), torch.ones(1, device="meta"), None, "x")] == [0, 0, 0, 0]


def test_tolerance_of_the_callers_is_stated():
    """A form that is off by 1 passes with a tolerance that allows it, and fails with one that does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        off = torch.jit.trace(lambda x: x * 2 + 1, X)
    assert_trace_parity(lambda x: x * 2, X, form=off, rtol=0.0, atol=1.5)
    said = failure(assert_trace_parity, lambda x: x * 2, X, form=off, rtol=0.0, atol=0.5)
    assert "  tolerance   rtol 0, atol 0.5, as asked for\n" in said


def test_report_gathers_and_names_other_runs():
    """All differing leaves of the first run are shown, five in full; other runs are named, five of them."""
    report, exact = Report("Net"), Tolerance(0.0, "nothing")
    outputs = {str(at): torch.ones(1) for at in range(7)}
    wrong = {name: one + 1 for name, one in outputs.items()}
    report.compare(RUN, "output", wrong, outputs, exact)
    for at in range(7):
        report.compare(Run("traced", f"other_args[{at}]", "eval"), "output", wrong, outputs, exact)
    with pytest.raises(AssertionError) as raised:
        report.conclude(gradients=None)
    text = str(raised.value)
    assert text.count("of Net, traced, differs from eager") == 5
    assert "\nand 2 more\n  input       args\n" in text
    assert text.count("other_args[") == 5
    assert "              and 2 more\n  next        look there" in text


def test_missing_and_superfluous_outputs_differ():
    """Another number of outputs is told by path, whatever containers a compiler made of them."""
    for actual, expected, said in [
        ((X,), {"a": X, "b": X}, "output['b'] of Net, traced, is a NoneType, expected a Tensor"),
        ([X, X], (X,), "output<1> of Net, traced, is a Tensor, expected a NoneType"),
    ]:
        report = Report("Net")
        report.compare(RUN, "output", actual, expected, Tolerance(0.0, ""))
        assert report.failures[0].texts == [said]


def test_no_gradient_counts_as_zero():
    """None and zeros are the same to an optimizer, None and anything else are not."""
    report, loose = Report("Net"), Tolerance(1e-6, "")
    report.compare_gradients(RUN, {"a": None, "b": torch.zeros(2)}, {"a": torch.zeros(2), "b": None}, loose, 0.0)
    assert not report.failures
    report.compare_gradients(RUN, {"a": None}, {"a": torch.ones(2)}, loose, 0.0)
    assert report.failures[0].texts[0].startswith("grad of 'a' of Net, traced, differs from eager\n")


def test_noise_beside_large_gradients_is_allowed():
    """A gradient that is zero by mathematics holds rounding alone, measured by the largest gradient."""
    report, loose = Report("Net"), Tolerance(1e-5, "")
    noise, other = torch.tensor([1e-7]), torch.tensor([-1e-7])
    report.compare_gradients(RUN, {"bias": noise}, {"bias": other}, loose, overall=1.0)
    assert not report.failures
    report.compare_gradients(RUN, {"bias": noise}, {"bias": other}, loose, overall=0.0)
    assert report.failures


def test_only_warnings_about_the_users_code_are_repeated():
    """What points into torch is dropped, what points elsewhere given again when the block ends well."""

    @only_users_warnings()
    def warn():
        warnings.warn_explicit("theirs", DeprecationWarning, torch.jit.__file__, 1)
        warnings.warn("mine", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="mine") as seen:
        warn()
    assert [str(one.message) for one in seen] == ["mine"]


def test_warnings_of_a_block_that_raises_are_kept_for_the_text():
    """A failing block gives no warning, and its warnings can be shown."""
    held = UsersWarnings()

    @held.collected()
    def fail():
        warnings.warn_explicit("first. second", UserWarning, "/somewhere/net.py", 3)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert held.texts == ["UserWarning at net.py:3: first"]


def test_mode_in_which_the_model_does_not_run_is_left_out_unless_asked_for():
    """BatchNorm refuses a batch of one in training: eval is checked alone, and training is an error where named."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert_trace_parity(model, X[:1], other_args=[])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        assert_trace_parity(model, X[:1], modes=("train",), other_args=[])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        assert_trace_parity(model, torch.ones(2, 3))


def test_eval_runs_as_it_is_deployed():
    """Unless gradients are asked for eval runs under no_grad, where a path of its own may differ."""

    class Fused(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y if torch.is_grad_enabled() or torch.jit.is_tracing() else y + 1

    assert "mode        eval" in failure(assert_trace_parity, Fused(2, 2), X, other_args=[])
    assert_trace_parity(Fused(2, 2), X, other_args=[], gradients=True)
    assert_trace_parity(Fused(2, 2), X, other_args=[], modes=("train",))


def test_eager_that_does_not_repeat_itself_is_told():
    """Where eager varies from call to call the form is not blamed."""
    source = random.SystemRandom()

    class Noisy(nn.Module):
        def forward(self, x):
            return x + source.random()

    said = failure(assert_trace_parity, Noisy(), X, other_args=[])
    assert said.endswith(
        "  next        eager does not repeat itself on this input, with every generator seeded: "
        "make it deterministic first"
    )


def test_gradients_are_compared_under_no_grad_too():
    """Whatever the caller switched off around the helper, training records gradients."""
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    other.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        form = torch.jit.trace(other, X)
    form.weight.requires_grad_(False)
    with torch.no_grad():
        assert_trace_parity(model, X, gradients=True)
        said = failure(assert_trace_parity, model, X, form=form, gradients=True)
    assert said.startswith("grad of 'weight' of Linear, traced, differs from eager\n")
