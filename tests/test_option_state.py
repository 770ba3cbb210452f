"""--torchcheck-state: what a test leaves changed is put back, named, and with ``fail`` a failure."""

import pytest
import torch
import torch._dynamo  # torch.manual_seed loads it, and like torch it cannot be loaded twice

LEAKS_DTYPE = """
    import torch

    def test_leaks(torchcheck_device):
        torch.set_default_dtype(torch.float64)

    def test_after(torchcheck_device):
        assert torch.get_default_dtype() is torch.float32
"""
NAMED = "default dtype: torch.float32 -> torch.float64"
MESSAGE = [
    "the test left torch's global state changed; it has been put back:",
    f"  {NAMED}",
]


@pytest.fixture(autouse=True)
def cpu_only(pytester, monkeypatch):
    """Run every inner test once, and leave the default dtype as it was whatever an unguarded one does."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "--torchcheck-devices=cpu")
    yield
    torch.set_default_dtype(torch.float32)


def test_state_is_restored_silently_by_default(run):
    """Without the option the next test finds the state as it was, and nothing is shown of a test that passed."""
    result = run(LEAKS_DTYPE)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*dtype*")


def test_state_is_restored_after_a_failure(run):
    """A test that fails half-way leaves no trace either, and its report names what it had changed."""
    result = run(LEAKS_DTYPE.replace("torch.float64)", "torch.float64); assert False"))
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*- Captured torch state teardown -*", *MESSAGE])


def test_warn_names_what_leaked(run):
    """With warn the run passes, and the summary of warnings names the test and what it left."""
    result = run(LEAKS_DTYPE, "--torchcheck-state=warn", "-W", "default")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        ["*::test_leaks[[]cpu]", f"*StateWarning: {MESSAGE[0]}", f"    {NAMED}"], consecutive=False
    )


def test_fail_makes_a_leak_an_error(run):
    """With fail the test that leaked has an error that names what, and the one after it passes."""
    result = run(LEAKS_DTYPE, "--torchcheck-state=fail")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaks[[]cpu]*",
            *MESSAGE,
            "  next   undo the change in the test that makes it, with a context manager or monkeypatch",
        ],
        consecutive=True,
    )


def test_ini_key_sets_the_default(run, pytester):
    """torchcheck_state in the configuration file does the same as the option."""
    pytester.makeini("[pytest]\ntorchcheck_state = fail")
    run(LEAKS_DTYPE).assert_outcomes(passed=2, errors=1)


def test_unknown_mode_is_a_usage_error(run):
    """A misspelt mode ends the run before any test and lists the valid ones."""
    result = run(LEAKS_DTYPE, "--torchcheck-state=ignore")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--torchcheck-state: invalid choice: 'ignore' (choose from *restore*warn*fail*)"])


def test_leak_is_a_property_of_the_report(run, pytester):
    """What leaked is recorded with the test in every mode, for the written reports."""
    run(LEAKS_DTYPE, "--junitxml=junit.xml", "-o", "junit_family=xunit1")
    text = (pytester.path / "junit.xml").read_text()
    assert text.count("torchcheck_state") == 1
    assert 'value="default dtype: torch.float32 -&gt; torch.float64"' in text


@pytest.mark.parametrize("fixture", ["torchcheck_seed", "torchcheck_generator", "torchcheck_state", "device"])
def test_every_fixture_of_ours_asks_for_the_guard(run, fixture):
    """A test is guarded when it uses any fixture of the plugin."""
    code = LEAKS_DTYPE.replace("torchcheck_device", fixture)
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=2, errors=1)


def test_marked_classes_and_unittest_tests_are_guarded(run):
    """usefixtures asks for the guard too, also in classes of unittest."""
    code = """
        import unittest, pytest, torch

        @pytest.mark.usefixtures("torchcheck_state")
        class TestLeaks(unittest.TestCase):
            def test_leaks(self):
                torch.set_default_dtype(torch.float64)
    """
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=1, errors=1)


def test_tests_without_our_fixtures_are_left_alone(run):
    """A test that uses no fixture of ours keeps what it changes, beside tests that do."""
    code = """
        import pytest, torch

        @pytest.fixture
        def device():
            return "theirs"

        def test_theirs(device):
            torch.set_default_dtype(torch.float64)

        def test_after():
            assert torch.get_default_dtype() is torch.float64

        def test_ours(torchcheck_state):
            assert torch.get_default_dtype() is torch.float64
    """
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=3)


def test_suite_without_our_fixtures_has_no_guard(run):
    """Without a test that uses a fixture of ours the guard is not even there."""
    code = """
        def test_no_guard(request):
            assert not request.config.pluginmanager.has_plugin("torchcheck-guard")
    """
    run(code).assert_outcomes(passed=1)


def test_random_numbers_are_no_leak(run):
    """A test may draw and seed as it likes: the next one finds the random state as the first one did."""
    code = """
        import torch
        first = []

        def draw():
            first.append(torch.rand(1).item())
            assert len(set(first)) == 1

        def test_one(torchcheck_state):
            draw()
            torch.manual_seed(1)

        def test_two(torchcheck_state):
            draw()
    """
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=2)


SCOPES = """
    import pytest, torch

    @pytest.fixture(scope="{scope}"{autouse})
    def double():
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    def test_one({arguments}):
        {ask}
        assert torch.get_default_dtype() is torch.float64

    def test_two({arguments}):
        {ask}
        assert torch.get_default_dtype() is torch.float64
"""


@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
@pytest.mark.parametrize("arguments", ["double, torchcheck_device", "torchcheck_device, double"])
def test_fixtures_that_clean_up_are_no_leak(run, scope, arguments):
    """What a fixture sets up and takes back is its own business, whatever its scope and place among the arguments."""
    code = SCOPES.format(scope=scope, autouse="", arguments=arguments, ask="pass")
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["function", "module"])
def test_autouse_fixtures_that_clean_up_are_no_leak(run, scope):
    """The same holds for fixtures that apply to every test."""
    code = SCOPES.format(scope=scope, autouse=", autouse=True", arguments="torchcheck_device", ask="pass")
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=2)


def test_wide_fixture_asked_for_during_the_test_is_no_leak(run):
    """A fixture of wider scope that a test asks for late is taken in: it stays as long as its scope says."""
    code = SCOPES.format(
        scope="module", autouse="", arguments="torchcheck_device, request", ask="request.getfixturevalue('double')"
    )
    run(code, "--torchcheck-state=fail").assert_outcomes(passed=2)


@pytest.mark.parametrize("arguments", ["double, torchcheck_device", "torchcheck_device, double"])
def test_fixture_that_does_not_clean_up_is_a_leak(run, arguments):
    """A function-scoped fixture that leaves something behind is part of the test, wherever it stands."""
    code = SCOPES.format(scope="function", autouse="", arguments=arguments, ask="pass")
    code = code.replace("yield\n        torch.set_default_dtype(torch.float32)", "")
    result = run(code, "--torchcheck-state=fail")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines([f"  {NAMED}"])


def test_item_marked_to_fail_always_fails(run, pytester):
    """A suite may have every leak fail whatever the option says, and guard tests that use no fixture of ours."""
    pytester.makeconftest(
        """
        from pytest_torchcheck import guard

        def pytest_collection_modifyitems(items):
            for item in items:
                item.stash[guard.ALWAYS_FAIL_KEY] = True
        """
    )
    code = "import torch\ndef test_leaks(): torch.set_default_dtype(torch.float64)"
    result = run(code, "--torchcheck-state=restore")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"  {NAMED}"])


def test_leak_does_not_hide_an_error_of_the_teardown(run):
    """A fixture that fails to clean up and the leak are both shown."""
    code = SCOPES.format(scope="function", autouse="", arguments="double, torchcheck_device", ask="pass")
    code = code.replace("        torch.set_default_dtype(torch.float32)", "        raise LookupError('no way back')")
    result = run(code, "--torchcheck-state=fail", "-k", "test_one")
    result.stdout.fnmatch_lines([f"*{NAMED}*"])
    result.stdout.fnmatch_lines(["*LookupError: no way back*"])


def test_each_test_is_guarded_under_xdist(run_apart):
    """Workers guard their tests, and what leaked reaches the report."""
    pytest.importorskip("xdist", reason="needs pytest-xdist: it runs the tests in workers")
    result = run_apart(LEAKS_DTYPE, "-n", "1", "--torchcheck-state=fail")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"  {NAMED}"])


def test_compiler_loaded_and_set_by_one_test_is_named(run_apart):
    """The first test that loads a part of the compiler is told what it left set in it."""
    code = """
        import torch

        def test_leaks(torchcheck_state):
            torch.set_num_interop_threads(torch.get_num_interop_threads() + 1)
            from torch._functorch import config
            config.activation_memory_budget = 0.5

        def test_after(torchcheck_state):
            from torch._functorch import config
            assert config.activation_memory_budget == 1.0
    """
    result = run_apart(code, "--torchcheck-state=fail")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            MESSAGE[0],
            "  inter-op threads: * (cannot be put back)",
            "  torch._functorch.config.activation_memory_budget: 1.0 -> 0.5",
        ],
        consecutive=True,
    )


def test_suite_that_needs_no_torch_runs_without_it(run_apart, pytester, monkeypatch):
    """Where torch is not installed the guard stands back: a test that only uses the seed runs."""
    monkeypatch.delenv("PYTEST_ADDOPTS")
    (pytester.path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    pytester.makeini("[pytest]\npythonpath = .")
    result = run_apart("def test_seed(torchcheck_seed): assert torchcheck_seed")
    result.assert_outcomes(passed=1)
