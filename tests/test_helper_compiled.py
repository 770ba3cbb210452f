"""assert_compile_parity: agreement on other inputs, and proof that compiled code ran."""

import warnings

import pytest
import torch
from torch import nn

from pytest_torchcheck import VacuousCheckError, assert_compile_parity, assert_export_parity

from . import parity_models as models
from .helpers import failure, vacuous

X = models.X
#: A check of one mode on the given input alone, for what is checked many times over.
SHORT = {"modes": ("eval",), "other_args": []}


@pytest.fixture(autouse=True)
def no_warnings():
    """Nothing that torch says about itself may reach a suite that turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def wrong(graph, example_inputs):
    """A backend that adds one to every floating result."""

    def run(*args):
        return [one + 1 if one.is_floating_point() else one for one in graph.forward(*args)]

    return run


@pytest.mark.parametrize("make", [models.Net, models.Counter, models.Branch, models.Broken])
def test_healthy_modules_agree(make):
    """Dropout, BatchNorm, ties, buffers, branches on data and graph breaks survive the compiler."""
    model = make()
    before = models.found(model)
    assert_compile_parity(model, X, backend="aot_eager")
    assert models.same(before, models.found(model))


def test_functions_keywords_and_own_outputs_agree():
    """Functions, tokens with a keyword-only mask, dataclasses and inputs written in place are compared."""
    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    assert_compile_parity(models.OwnOutput(), tokens, {"mask": mask}, backend="eager", gradients=True)
    assert_compile_parity(models.InPlace(), X, backend="eager", fullgraph=True, dynamic=True)
    assert_compile_parity(models.polynomial, X, backend="eager")
    assert torch.equal(X[0], torch.tensor([1.0, 2.0]))


def test_inductor_agrees_with_dropout():
    """The default backend draws random numbers as eager does while it is compared, in both modes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # before BatchNorm a bias has no gradient but noise, which some weights amplify
        model = models.Net()
    assert_compile_parity(model, X, gradients=True, other_args=[])


def test_wrong_backend_is_named_with_input_and_mode():
    """A backend that computes something else is caught, with the whole text."""
    assert failure(assert_compile_parity, models.polynomial, X, backend=wrong) == (
        "output of polynomial, compiled by wrong, differs from eager\n"
        "  mismatched  6 of 6 elements (100.0%)\n"
        "  worst       |diff| 1 at (0, 0); allowed 0.0025\n"
        "  actual      4    expected 3\n"
        "  setting     float32 (3, 2), cpu, torch X\n"
        "  input       args\n"
        "  form        compiled by wrong\n"
        "  tolerance   3.1e-05 of each value and of the largest in its tensor: 256 eps of float32\n"
        "  also        other values, made up from args (compiled by wrong)\n"
        "              negated values, made up from args (compiled by wrong)\n"
        "              sizes 3 -> 7, made up from args (compiled by wrong)\n"
        "              sizes 3 -> 2, made up from args (compiled by wrong)\n"
        "  next        backend='eager' tells whether the capture or the backend differs; "
        "fullgraph=True names what breaks the graph"
    )


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), models.Broken], ids=["whole", "broken"])
@pytest.mark.parametrize("used_up", [False, True], ids=["fresh", "limit used up"])
def test_wrong_backend_is_caught_forty_times_in_one_process(make, used_up):
    """40 checks of one class are caught in all 40, also where the class reached the recompile limit before."""
    torch._dynamo.reset()
    if used_up:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(torch._dynamo.config.recompile_limit + 1):
                torch.compile(make(), backend="eager")(X)
    said = [failure(assert_compile_parity, make(), X, backend=wrong, **SHORT) for _ in range(40)]
    assert all(text.startswith("output of ") for text in said)
    torch._dynamo.reset()


def test_compiled_code_of_the_users_survives():
    """A model that was compiled before a check runs on without being compiled again."""
    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    model = models.Broken()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend=counting)
        compiled(X)
        before = len(graphs)
        assert_compile_parity(models.Broken(), X, backend="eager", **SHORT)
        compiled(X)
    assert before == len(graphs) == 2


def test_nothing_compiled_is_no_pass():
    """No operation, a stance that runs eager, and a function kept from the compiler are vacuous."""
    assert vacuous(assert_compile_parity, nn.Identity(), X, backend="eager", **SHORT) == (
        "Identity, compiled by eager, ran nothing of what was to be tested\n"
        "  input       args (eval, compiled by eager)\n"
        "  next        it fell back to eager: fullgraph=True tells why there was nothing to compile; else look for the "
        "recompile limit\n"
        "              (torch._dynamo.config.recompile_limit), a stance, TORCH_COMPILE_DISABLE, torch.compiler.disable"
    )
    with torch.compiler.set_stance("force_eager"):
        assert "args (eval, compiled by eager)" in vacuous(
            assert_compile_parity, nn.Linear(2, 1), X, backend="eager", **SHORT
        )
    vacuous(assert_compile_parity, torch.compiler.disable(models.polynomial), X, backend="eager")


def test_model_that_is_compiled_already_is_refused():
    """The backend of what was compiled before would go untested: the plain model is asked for."""
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="the model is compiled already: give the plain module"):
        assert_compile_parity(torch.compile(model, backend=wrong), X, backend="eager")
    model[0].compile(backend=wrong)
    with pytest.raises(TypeError, match="the part '0' of the model is compiled already"):
        assert_compile_parity(model, X, backend="eager")


def test_eager_is_not_what_was_compiled_in_place():
    """A model that is compiled in place is run as plain Python where it stands for eager."""
    model = models.Broken()
    model.forward = models.polynomial
    program = torch.export.export(model, (X,))
    model.compile(backend=wrong)
    assert torch.equal(model(X), models.polynomial(X) + 1)
    assert_export_parity(model, X, form=program, other_args=[])
    torch._dynamo.reset()


def test_lstm_is_not_compiled_unless_asked_for():
    """The compiler leaves an LSTM to eager without a word, which is no pass; allow_rnn has it compiled."""
    model, x = models.Recurrent(), X.unsqueeze(0)
    assert "ran nothing" in vacuous(assert_compile_parity, model, x, backend="eager", **SHORT)
    with torch._dynamo.config.patch(allow_rnn=True):
        assert_compile_parity(model, x, backend="eager", **SHORT)


def test_recompile_limit_is_no_pass():
    """Where an input is one recompilation too many, the fall-back to eager is told and not passed."""
    sizes = [torch.ones(size, 2) for size in range(4, 9)]
    with torch._dynamo.config.patch(recompile_limit=2):
        text = vacuous(assert_compile_parity, models.polynomial, X, backend="eager", dynamic=False, other_args=sizes)
    assert "other_args[4] (compiled by eager)" in text
    assert "args (compiled by eager)\n" not in text.splitlines()[1]


def test_what_cannot_be_compiled_whole_fails_with_the_reason():
    """fullgraph=True passes through: a graph break is an error that says where."""
    said = failure(assert_compile_parity, models.Broken(), X, backend="eager", fullgraph=True, **SHORT)
    assert said.startswith("Broken, compiled by eager, raises where eager does not\n  error       Unsupported: ")


def test_misuse_names_the_argument():
    """A backend that does not exist, mode with options, and arguments in a list are told apart from failures."""
    with pytest.raises(
        ValueError, match=r"backend 'egaer' is none of torch's \(.*eager.*\); a function may be given too"
    ):
        assert_compile_parity(models.polynomial, X, backend="egaer")
    with pytest.raises(ValueError, match="give mode or options, not both"):
        assert_compile_parity(models.polynomial, X, mode="max-autotune", options={"max_autotune": True})
    with pytest.raises(TypeError, match="args must be a tuple"):
        assert_compile_parity(models.polynomial, [X])


def test_options_of_a_backend_pass_through():
    """mode and options reach a backend of the caller's own."""
    seen = {}

    def backend(graph, example_inputs, **options):
        seen.update(options)
        return graph.forward

    assert_compile_parity(models.polynomial, X, backend=backend, options={"speed": 2})
    assert seen == {"options": {"speed": 2}}


def test_model_is_left_alone_when_the_check_fails():
    """After a failure modes, state, gradients and random state are as before, and nothing stays compiled."""
    torch._dynamo.reset()
    model = models.Net()
    model.norm.eval()
    before = models.found(model)
    with pytest.raises(AssertionError) as raised:
        assert_compile_parity(model, X, backend=wrong)
    assert not isinstance(raised.value, VacuousCheckError)
    assert models.same(before, models.found(model))
    assert not list(torch._dynamo.convert_frame.input_codes.seen)
