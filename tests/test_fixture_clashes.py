"""Suites and plugins that have a ``device`` of their own: theirs wins, and nothing of theirs changes."""

import importlib.util

import pytest

OURS = """
    import torch

    def test_ours(device):
        assert isinstance(device, torch.device)
"""
THEIRS = """
    def test_theirs(device):
        assert device == "theirs"
"""
DEVICE_FIXTURE = """
    import pytest

    @pytest.fixture
    def device():
        return "theirs"
"""


@pytest.fixture
def outcomes(run, pytester):
    """Return a function that runs code with and without our plugin, and returns the test lines of both runs."""

    def both(code, *arguments):
        with_us, without_us = (run(code, "-v", *arguments, *more) for more in ((), ("-p", "no:torchcheck")))
        return _test_lines(with_us), _test_lines(without_us)

    return both


def _test_lines(result):
    """Return "test id OUTCOME" of every test that ran, in order."""
    words = (line.split() for line in result.outlines if "::" in line and "%" in line)
    return [" ".join(line[:2]) for line in words]


def test_conftest_with_option_and_fixture_wins(outcomes, pytester):
    """A conftest's --device option and device fixture work as they do without us."""
    pytester.makeconftest(
        """
        import pytest

        def pytest_addoption(parser):
            parser.addoption("--device", default="cpu")

        @pytest.fixture
        def device(request):
            return request.config.getoption("--device")
        """
    )
    ours, alone = outcomes("def test_theirs(device): assert device == 'tpu'", "--device=tpu")
    assert ours == alone == ["test_conftest_with_option_and_fixture_wins.py::test_theirs PASSED"]


def test_conftest_with_a_parametrized_fixture_wins(outcomes, pytester):
    """A device fixture with parameters keeps them, and gets none of ours."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(params=["a", "b"], scope="module")
        def device(request):
            return request.param
        """
    )
    ours, alone = outcomes("def test_theirs(device): assert device in ('a', 'b')")
    assert ours == alone
    assert [line.partition("::")[2] for line in ours] == ["test_theirs[a] PASSED", "test_theirs[b] PASSED"]


def test_conftest_of_a_subfolder_wins_there_only(run, pytester, no_cuda):
    """A subfolder's device fixture counts in the subfolder; elsewhere the name is ours."""
    folder = pytester.mkdir("sub")
    folder.joinpath("conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef device(): return 'theirs'\n", encoding="utf-8"
    )
    folder.joinpath("test_sub.py").write_text("def test_sub(device): assert device == 'theirs'", encoding="utf-8")
    run(OURS).assert_outcomes(passed=2, skipped=1)


def test_fixture_of_a_test_module_wins(outcomes):
    """A device fixture in the test's own file is left alone."""
    ours, alone = outcomes(DEVICE_FIXTURE + THEIRS)
    assert ours == alone == ["test_fixture_of_a_test_module_wins.py::test_theirs PASSED"]


@pytest.mark.parametrize("how", ["-p", "PYTEST_PLUGINS", "pytest_plugins"])
def test_plugin_with_a_device_fixture_wins(outcomes, pytester, monkeypatch, how):
    """A plugin's device fixture wins, whether the plugin is loaded before ours or after."""
    pytester.makepyfile(other_plugin=DEVICE_FIXTURE)
    pytester.syspathinsert()
    arguments = ["-p", "other_plugin"] if how == "-p" else []
    if how == "PYTEST_PLUGINS":
        monkeypatch.setenv("PYTEST_PLUGINS", "other_plugin")
    if how == "pytest_plugins":
        pytester.makeconftest("pytest_plugins = ['other_plugin']")
    ours, alone = outcomes(THEIRS, *arguments)
    assert ours == alone == ["test_plugin_with_a_device_fixture_wins.py::test_theirs PASSED"]


def test_plugin_that_names_its_fixture_device_wins(outcomes, pytester):
    """A fixture whose function has another name, in an object registered as plugin, is found too."""
    pytester.makeconftest(
        """
        import pytest

        class Plugin:
            @pytest.fixture(name="device")
            def make_device(self):
                return "theirs"

        def pytest_addoption(parser, pluginmanager):
            pluginmanager.register(Plugin())
        """
    )
    ours, alone = outcomes(THEIRS)
    assert ours == alone == ["test_plugin_that_names_its_fixture_device_wins.py::test_theirs PASSED"]


def test_long_name_works_beside_their_device(run, pytester, no_cuda):
    """Where device is someone else's, torchcheck_device is still ours and parametrized."""
    pytester.makeconftest(DEVICE_FIXTURE)
    result = run(
        """
        def test_both(device, torchcheck_device):
            assert (device, torchcheck_device.type) == ("theirs", "cpu")
        """
    )
    result.assert_outcomes(passed=1, skipped=1)


def test_their_device_may_be_built_on_ours(run, pytester, no_cuda):
    """A suite's device fixture may ask for torchcheck_device, and then runs once per device."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def device(torchcheck_device):
            return str(torchcheck_device)
        """
    )
    run("def test_theirs(device): assert device == 'cpu'").assert_outcomes(passed=1, skipped=1)


def test_their_device_may_extend_ours(run, pytester, no_cuda):
    """A suite's device fixture may ask for the device that it overrides."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def device(device):
            return str(device)
        """
    )
    result = run("def test_theirs(device): assert device == 'cpu'")
    assert result.parseoutcomes()["passed"] == 1
    assert result.ret == 0


@pytest.mark.parametrize("where", ["function", "class", "module"])
def test_marked_parameters_are_left_alone(outcomes, where):
    """device that a mark parametrizes, on the test, its class or its module, gets none of our devices."""
    mark = "pytest.mark.parametrize('device', ['theirs', 'mine'])"
    code = {
        "function": f"@{mark}\ndef test_theirs(device): assert device in ('theirs', 'mine')",
        "class": f"@{mark}\nclass TestIt:\n    def test_theirs(self, device): assert device in ('theirs', 'mine')",
        "module": f"pytestmark = {mark}\ndef test_theirs(device): assert device in ('theirs', 'mine')",
    }[where]
    ours, alone = outcomes(f"import pytest\n{code}")
    assert ours == alone
    assert [line.rpartition("[")[2] for line in ours] == ["theirs] PASSED", "mine] PASSED"]


def test_parameters_from_a_hook_are_left_alone(outcomes, pytester):
    """device that a conftest's pytest_generate_tests parametrizes gets none of our devices."""
    pytester.makeconftest(
        """
        def pytest_generate_tests(metafunc):
            if "device" in metafunc.fixturenames:
                metafunc.parametrize("device", ["theirs", "mine"])
        """
    )
    ours, alone = outcomes("def test_theirs(device): assert device in ('theirs', 'mine')")
    assert ours == alone
    assert [line.rpartition("[")[2] for line in ours] == ["theirs] PASSED", "mine] PASSED"]


def test_parameters_from_a_hook_go_with_the_long_name(run, pytester, no_cuda):
    """Where a hook parametrizes device, torchcheck_device gets our devices still."""
    pytester.makeconftest(
        """
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("device", ["theirs", "mine"])
        """
    )
    result = run("def test_both(device, torchcheck_device): assert torchcheck_device.type == 'cpu'")
    result.assert_outcomes(passed=2, skipped=2)


def test_indirect_parameters_choose_our_devices(run, no_cuda):
    """device parametrized with indirect=True is ours, on the devices that the mark names."""
    result = run(
        """
        import pytest
        import torch

        @pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cuda", "tpu"], indirect=True)
        def test_chosen(device):
            assert device == torch.device("cpu")
        """,
        "-rs",
    )
    result.assert_outcomes(passed=2, skipped=1, errors=1)
    result.stdout.no_fnmatch_line("*another exception*")
    result.stdout.fnmatch_lines(
        ["there is no device named 'tpu' (did you mean 'xpu'?); valid are*", "*cuda cannot be used: torch*"]
    )


def test_other_mistakes_in_parametrization_are_still_reported(run, pytester, no_cuda):
    """Only a clash over device is passed over: any other duplicate stops collection as ever."""
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("size", [1])
        @pytest.mark.parametrize("size", [2])
        def test_twice(size, device):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*duplicate parametrization of 'size'*"])


def test_plugin_like_pytest_torch_is_not_disturbed(outcomes, pytester):
    """A plugin with --torch-* options, its own device and seed fixtures and autouse fixtures works as before."""
    pytester.makepyfile(
        other_plugin="""
        import pytest

        def pytest_addoption(parser):
            parser.getgroup("torch").addoption("--torch-device", action="append", default=None)
            parser.addoption("--torch-seed", type=int, default=0)

        def pytest_generate_tests(metafunc):
            if "torch_device" in metafunc.fixturenames:
                devices = metafunc.config.getoption("--torch-device") or ["cpu"]
                metafunc.parametrize("torch_device", devices, indirect=True)

        @pytest.fixture
        def torch_device(request):
            return request.param

        @pytest.fixture(autouse=True)
        def torch_seed(request):
            return request.config.getoption("--torch-seed")
        """
    )
    pytester.syspathinsert()
    code = "def test_theirs(torch_device, torch_seed): assert (torch_device, torch_seed) == ('x', 7)"
    ours, alone = outcomes(code, "-p", "other_plugin", "--torch-device=x", "--torch-seed=7")
    assert ours == alone == ["test_plugin_like_pytest_torch_is_not_disturbed.py::test_theirs[x] PASSED"]


@pytest.mark.parametrize(
    ("name", "plugin", "arguments"),
    [
        ("randomly", "pytest_randomly", ["--randomly-seed=3"]),
        ("xdist", "xdist.plugin", ["-n1"]),
        ("benchmark", "pytest_benchmark.plugin", ["--benchmark-disable"]),
    ],
    ids=["randomly", "xdist", "benchmark"],
)
def test_plugin_beside_ours_works(pytester, monkeypatch, no_cuda, name, plugin, arguments):
    """pytest-randomly, pytest-xdist and pytest-benchmark run device tests with us."""
    if importlib.util.find_spec(plugin.partition(".")[0]) is None:
        pytest.skip(f"needs pytest-{name}: pip install pytest-{name}")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(OURS)
    loaded = ["-p", "pytest_torchcheck.plugin", "-p", plugin]
    result = pytester.runpytest(*loaded, *arguments, "--torchcheck-devices=cpu")
    result.assert_outcomes(passed=1)


def test_plain_suite_is_the_same_with_and_without_us(outcomes):
    """A suite that asks for nothing of ours has the same tests, order and outcomes."""
    ours, alone = outcomes(
        """
        import pytest

        @pytest.mark.parametrize("x", [1, 2])
        @pytest.mark.parametrize("y", ["a"], scope="module")
        def test_one(x, y): pass

        class TestTwo:
            def test_three(self, tmp_path): assert False
            @pytest.mark.skip
            def test_four(self): pass
        """
    )
    assert ours == alone
    assert len(ours) == 4
