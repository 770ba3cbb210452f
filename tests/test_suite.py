"""A conformance run: what makes one, what stops it, and what its exit status says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.minisuite import PASSING, suite

__all__ = ["suite"]

ROOT = Path(__file__).resolve().parents[1]


def test_passing_suite_is_conformant(suite):
    """All rows checked and passed: conformant, exit 0, one line with the numbers."""
    result = suite.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*conformance of torch *",
            "tensor * 2 / 2 / 0 / 0*",
            "data * 1 / 1 / 0 / 0*",
            "conformant: 3 of 3 behaviors checked on cpu, 3 passed, 0 failed, 0 not run",
        ]
    )
    assert suite.report()["verdict"] == "conformant"


def test_failing_check_tells_its_claim(suite):
    """A failure shows the row, what must hold and where that is promised."""
    suite.checks(PASSING.replace("ndim == 1", "ndim == 2"))
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*--- behavior tensor.ranks ---*",
            "tensor.ranks holds.",
            "https://docs.pytorch.org/tensor.ranks",
            "FAILED tensor.ranks on cpu",
            "  must hold   tensor.ranks holds.",
            "  failed      conformance/test_checks.py::test_ranks?cpu?",
            "not conformant: *",
        ]
    )
    failed = next(entry for entry in suite.report()["results"] if entry["outcome"] == "failed")
    assert (failed["behavior"], failed["device"]) == ("tensor.ranks", "cpu")
    assert failed["message"].startswith("AssertionError: assert 1 == 2")


def test_cuda_variants_are_told_on_a_machine_without_a_gpu(suite, no_cuda):
    """The devices that were not checked are named loudly, and do not lower the verdict of what was."""
    result = suite.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["DEVICE NOT CHECKED: cuda: torch 2.13.0+cpu is built without CUDA*", "conformant: *"])
    skipped = [entry for entry in suite.report()["results"] if entry["device"] == "cuda"]
    assert {entry["outcome"] for entry in skipped} == {"skipped"}
    assert list(suite.report()["summary"]["devices"]) == ["cpu"]


def test_unusable_device_is_told_once_per_row(suite, no_cuda):
    """Of the CUDA variants of a row one is skipped with the reason; the others would only take time."""
    suite.checks("""
        import pytest
        @pytest.mark.parametrize("size", range(5))
        @pytest.mark.behavior("tensor.ranks")
        def test_ranks(device, size):
            pass
        @pytest.mark.behavior("tensor.rand")
        def test_rand(device):
            pass
    """)
    result = suite.run()
    result.assert_outcomes(passed=6, skipped=2)
    assert suite.report()["problems"] == []


def test_row_without_a_check_is_not_run_and_the_verdict_partial(suite):
    """A catalogue row that no test names is in the report, and exit 0: nothing failed."""
    suite.rows(**{"tensor.ranks": "", "tensor.rand": "", "data.batches": "", "optim.sgd": ""})
    result = suite.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  the suite has no check of it: optim.sgd on cpu", "partial: 3 of 4 *"])
    assert suite.outcomes()["optim.sgd", "cpu"] == ["not_run"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def test_a(device): pass", "test_a[cpu] has 0 behavior markers; give it exactly one, *"),
        (
            "@pytest.mark.behavior('tensor.rand')\n@pytest.mark.behavior('tensor.ranks')\ndef test_a(device): pass",
            "test_a[cpu] has 2 behavior markers; give it exactly one, *",
        ),
        ("@pytest.mark.behavior()\ndef test_a(device): pass", "test_a[cpu] has a behavior marker without a plain id*"),
        ("@pytest.mark.behavior(1)\ndef test_a(device): pass", "test_a[cpu] has a behavior marker without a plain id*"),
        (
            "@pytest.mark.behavior('tensor.rank')\ndef test_a(device): pass",
            "test_a[cpu] names the unknown behavior 'tensor.rank'; did you mean 'tensor.ranks'*",
        ),
        (
            "@pytest.mark.behavior('tensor.ranks')\ndef test_a(): pass",
            "test_a checks tensor.ranks, which holds on devices; take the device fixture*",
        ),
        (
            "@pytest.mark.behavior('data.batches')\ndef test_a(device): pass",
            "test_a[cpu] checks data.batches, which is of the host only; do without the device fixture",
        ),
        (
            "@pytest.fixture\ndef device(): return 'cpu'\n"
            "@pytest.mark.behavior('tensor.ranks')\ndef test_a(device): pass",
            "test_a checks tensor.ranks on a device that is not this plugin's; let its device fixture request *",
        ),
    ],
    ids=["none", "two", "no-id", "number", "unknown", "device-missing", "device-on-host", "device-of-others"],
)
def test_rule_broken_stops_collection(suite, code, sentence):
    """A check that breaks a rule ends the run before any check, with a sentence and exit 4."""
    suite.checks(f"import pytest\n{code}\n")
    result = suite.run("--torchcheck-devices=cpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: conformance/test_checks.py::{sentence}".replace("[", "[[]")])
    assert not suite.report_path.exists()


def test_check_in_the_file_of_another_area_stops_collection(suite):
    """A file that is named after an area has the checks of that area alone."""
    suite.checks("import pytest\n@pytest.mark.behavior('data.batches')\ndef test_a(): pass\n", name="test_tensor_ranks")
    result = suite.run("--torchcheck-devices=cpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*test_a checks data.batches in a file about tensor, which a run of data leaves out; move it to another file"]
    )


def test_file_of_an_area_that_is_not_selected_is_not_imported(suite):
    """A run of one area does not wait for the files of the others."""
    suite.checks("raise RuntimeError('imported')", name="test_tensor_ranks")
    result = suite.run("--torchcheck-behaviors=data")
    assert result.ret == 0
    assert suite.run("--torchcheck-behaviors=tensor").ret == pytest.ExitCode.TESTS_FAILED


def test_device_of_another_plugin_does_not_reach_the_checks(suite):
    """A plugin beside us with a fixture called device changes nothing about the devices of the suite."""
    code = "import pytest\n@pytest.fixture\ndef device(): return 'theirs'\n"
    suite.pytester.makepyfile(other_plugin=code)
    suite.pytester.syspathinsert()
    result = suite.run("-p", "other_plugin")
    assert result.ret == 0
    assert suite.outcomes() == {
        ("tensor.ranks", "cpu"): ["passed"],
        ("tensor.rand", "cpu"): ["passed"],
        ("data.batches", None): ["passed"],
    }


def test_many_broken_rules_are_counted(suite):
    """Ten sentences are enough to start with."""
    suite.checks("\n".join(f"def test_{number}(): pass" for number in range(13)))
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert str(result.stderr).count("has 0 behavior markers") == 10
    result.stderr.fnmatch_lines(["and 3 more"])


def test_rule_broken_is_told_by_workers_too(suite):
    """Under xdist the sentence reaches the user as well, with exit 4."""
    suite.checks("def test_a(): pass")
    result = suite.run_apart("-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: conformance/test_checks.py::test_a has 0 behavior markers*"])


def test_duplicate_row_stops_the_run(suite):
    """A catalogue with a row twice is refused before any check."""
    path = suite.directory / "behaviors.toml"
    path.write_text(path.read_text() + path.read_text())
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *behaviors.toml, behavior 'tensor.ranks': the id is there twice*"])


def test_tests_beside_the_suite_obey_no_rule(suite):
    """Other tests are none of the suite's business; the benchmarks beside the checks are not even collected."""
    suite.pytester.makepyfile("def test_other(): pass")
    (suite.directory / "benchmarks").mkdir()
    (suite.directory / "benchmarks" / "test_speed.py").write_text("def test_speed(): pass\n")
    result = suite.run(str(suite.pytester.path))
    assert result.ret == 0
    result.assert_outcomes(passed=4, skipped=2)
    assert len(suite.report()["results"]) == 5


def test_all_skipped_is_not_a_success(suite):
    """A run in which every check was skipped ends with exit 1 and says why."""
    suite.checks(
        PASSING.replace("    @pytest.mark.behavior", "    @pytest.mark.skip(reason='lazy')\n    @pytest.mark.behavior")
    )
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["  lazy: *", "problem: no check ran, so nothing is known about this torch", "partial: 0 of 3*"]
    )


@pytest.mark.parametrize("arguments", [["-k", "nothing"], ["-m", "nothing"]], ids=["-k", "-m"])
def test_all_deselected_is_not_a_success(suite, arguments):
    """A run in which nothing was left to run is not exit 0."""
    result = suite.run(*arguments)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert suite.report()["verdict"] == "partial"
    assert "no check ran, so nothing is known about this torch" in suite.report()["problems"]


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("conformance/test_checks.py::test_batches", []),
        ("conformance", ["-k", "batches"]),
        ("conformance", ["--deselect", "conformance/test_checks.py::test_rand"]),
        ("conformance", ["--ignore", "conformance/test_other.py"]),
        ("conformance", ["-p", "cacheprovider", "--lf"]),
    ],
    ids=["node-id", "-k", "--deselect", "--ignore", "--lf"],
)
def test_narrowed_run_is_never_conformant(suite, target, arguments):
    """What the command line leaves out was not checked: partial, with exit 0."""
    result = suite.run(*arguments, target=target)
    assert result.ret == 0
    assert suite.report()["verdict"] == "partial"
    assert suite.report()["problems"] == ["the command line left out a part of the suite"]


def test_suite_behind_a_symbolic_link_is_the_suite(suite):
    """Whatever name leads to the suite, its checks are its checks."""
    (suite.pytester.path / "link").symlink_to(suite.directory, target_is_directory=True)
    assert suite.run(target="link").ret == 0
    assert suite.report()["verdict"] == "conformant"


def test_suite_met_while_collecting_is_a_suite(suite):
    """A run of a folder above the suite checks it too, and says what naming the suite would add."""
    result = suite.pytester.runpytest_inprocess(".", "-p", "no:cacheprovider")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["not isolated, *: name the suite, pytest conformance", "conformant: 3 of 3 *"])


def test_suite_met_by_workers_only_is_refused(suite):
    """With -n such a run would have no report, so it is refused with the remedy."""
    result = suite.pytester.runpytest_subprocess(".", "-n", "1", "-p", "no:cacheprovider")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["name the suite itself to run it in worker processes: pytest conformance -n 2"])


def test_narrowed_run_is_noticed_under_xdist(suite):
    """Workers deselect, the controller knows."""
    suite.run_apart("-n", "2", "-k", "batches")
    assert suite.report()["problems"] == ["the command line left out a part of the suite"]


def test_file_that_cannot_be_imported_costs_its_own_rows(suite):
    """An import error is a problem of the report; the other files are checked."""
    suite.rows(**{"tensor.ranks": "", "tensor.rand": "", "data.batches": "", "optim.sgd": ""})
    suite.checks("import a_module_that_is_not_there", "test_broken")
    result = suite.run()
    assert result.ret == 1
    report = suite.report()
    assert report["verdict"] == "not conformant"
    assert report["summary"]["passed"] == 3
    assert report["problems"] == [
        "conformance/test_broken.py could not be collected: "
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    ]
    reasons = {entry["reason"] for entry in report["results"] if entry["behavior"] == "optim.sgd"}
    assert reasons == {"no check collected, and conformance/test_broken.py could not be"}


def test_same_results_under_xdist(suite):
    """Whatever process ran a check, the results are the same, durations apart."""
    suite.checks(PASSING.replace("ndim == 1", "ndim == 2"))

    def results():
        return [
            {key: value for key, value in entry.items() if key != "duration_s"} for entry in suite.report()["results"]
        ]

    suite.run_apart()
    alone = results()
    assert suite.run_apart("-n", "2").ret == 1
    assert results() == alone


def test_row_outside_its_torch_range_is_skipped_with_the_reason(suite):
    """A release that lacks a behavior is not blamed for it: skipped, with the catalogue's reason."""
    gate = 'torch = ">=99"\ntorch_reason = "older releases lack it"'
    suite.rows(**{"tensor.ranks": gate, "tensor.rand": "", "data.batches": ""})
    result = suite.run()
    assert result.ret == 0
    assert suite.outcomes()["tensor.ranks", "cpu"] == ["skipped"]
    result.stdout.fnmatch_lines(["  needs torch >=99, this is *: older releases lack it: tensor.ranks on cpu"])
    assert suite.report()["verdict"] == "conformant"


def test_what_the_machine_lacks_is_listed_and_lowers_nothing(suite):
    """A row whose need is not met, and not expected, is not applicable here."""
    suite.rows(**{"tensor.ranks": 'needs = ["tensorrt"]', "tensor.rand": "", "data.batches": ""})
    suite.checks(PASSING.replace("assert torch.zeros", "pytest.skip('no tensorrt')\n        assert torch.zeros"))
    result = suite.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  no tensorrt: tensor.ranks on cpu", "conformant: 2 of 3*"])


def test_what_the_machine_lacks_and_should_have_is_a_failure(suite):
    """--torchcheck-expect turns an absent package into a failure in report and exit status."""
    suite.rows(**{"tensor.ranks": 'needs = ["tensorrt"]', "tensor.rand": "", "data.batches": ""})
    result = suite.run("--torchcheck-expect=tensorrt")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["problem: tensorrt was expected: tensorrt is not installed: *", "not conformant: *"])


def test_expected_thing_that_is_there_and_was_not_checked_is_a_failure(suite):
    """An expectation that is met and whose checks did not run is a failure too."""
    suite.rows(**{"tensor.ranks": 'needs = ["numpy"]', "tensor.rand": "", "data.batches": ""})
    suite.checks(PASSING.replace("assert torch.zeros", "pytest.skip('too lazy')\n        assert torch.zeros"))
    result = suite.run("--torchcheck-expect=numpy")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["problem: numpy was expected, and tensor.ranks on cpu was not checked: too lazy"])


@pytest.mark.parametrize("need", ["accelerator", "cuda"])
def test_need_of_a_device_is_a_need_of_the_device_under_test(suite, need):
    """A row that needs an accelerator is not applicable to the CPU, whatever else the machine has."""
    suite.rows(**{"tensor.ranks": f'needs = ["{need}"]', "tensor.rand": "", "data.batches": ""})
    suite.checks(PASSING.replace("assert torch.zeros", "pytest.skip('not on cpu')\n        assert torch.zeros"))
    assert suite.run().ret == 0
    assert suite.report()["verdict"] == "conformant"


def test_xfail_marker_accepts_nothing(suite):
    """Only the file of known failures accepts a failure; a marker in a check does not."""
    code = PASSING.replace("ndim == 1", "ndim == 2").replace("def test_ranks", "@pytest.mark.xfail\n    def test_ranks")
    suite.checks(code)
    assert suite.run().ret == 1
    failed = next(entry for entry in suite.report()["results"] if entry["outcome"] == "failed")
    assert failed["reason"] == "expected to fail by a marker in the test; list it in known-failures.toml instead"


def test_setup_only_run_checks_nothing(suite):
    """Options under which no check runs make no conformance run, and no report."""
    for option in ("--setup-only", "--setup-plan", "--collect-only"):
        result = suite.pytester.runpytest_inprocess("conformance", option, "-p", "no:cacheprovider")
        assert result.ret == 0
        result.stdout.no_fnmatch_line("*conformant*")


def test_check_that_leaks_global_state_fails(suite):
    """In a conformance run a leak is a failure, also of a check without any fixture, whatever the settings say."""
    suite.checks(PASSING.replace("assert len", "torch.set_default_dtype(torch.float64)\n        assert len"))
    result = suite.run("--torchcheck-state=restore")
    assert result.ret == 1
    assert suite.outcomes()["data.batches", None] == ["error"]
    result.stdout.fnmatch_lines(["*the test left torch's global state changed*"])


def test_report_properties_reach_junit_xml(suite):
    """pytest's own JUnit file says which behavior and device each case is of."""
    from xml.etree import ElementTree

    suite.run("--junitxml=junit.xml")
    tree = ElementTree.parse(suite.pytester.path / "junit.xml")
    found = {
        item.get("name"): item.get("value") for item in tree.findall(".//testcase[@name='test_ranks[cpu]']//property")
    }
    assert found == {"torchcheck_behavior": "tensor.ranks", "torchcheck_device": "cpu"}
    host = [item.get("name") for item in tree.findall(".//testcase[@name='test_batches']//property")]
    assert host == ["torchcheck_behavior"]


# ---- what stops a run


def test_suite_without_its_plugin_says_so(suite):
    """Under -p no:torchcheck one sentence says what is missing; nothing runs."""
    result = suite.pytester.runpytest_subprocess("-p", "no:torchcheck", "conformance")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "the conformance suite needs its plugin: install pytest-torchcheck, and run without -p no:torchcheck"
    assert str(result.stderr).strip() == f"ERROR: {text}"


def test_late_suite_without_its_plugin_says_so(suite):
    """Also when pytest meets the suite only while it collects."""
    result = suite.pytester.runpytest_subprocess("-p", "no:torchcheck", ".")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["the conformance suite needs its plugin: install pytest-torchcheck, *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def hide(pytester, *names):
    """Make modules impossible to import in the processes that a test starts; return the environment's folder."""
    code = f"""
        import sys
        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {names!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Hidden())
    """
    folder = pytester.mkdir("hidden")
    (folder / "sitecustomize.py").write_text("\n".join(line[8:] for line in code.splitlines()))
    return folder


def test_missing_torch_is_one_sentence(suite, monkeypatch):
    """Without torch one sentence says so, with a status that is not zero."""
    code = """
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "torch" else found(name, package)
    """
    (suite.pytester.mkdir("hidden") / "sitecustomize.py").write_text("\n".join(x[8:] for x in code.splitlines()))
    monkeypatch.setenv("PYTHONPATH", str(suite.pytester.path / "hidden"))
    result = suite.run_apart()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert str(result.stderr).strip() == (
        "ERROR: torch is not installed for this Python: install the release that is to be checked, then run again"
    )


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["here", "worker"])
def test_broken_torch_is_one_sentence_with_the_cause(suite, monkeypatch, workers):
    """A torch that does not import stops the run with what the import said."""
    package = suite.pytester.mkdir("broken") / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    result = suite.run_apart(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: torch is installed and cannot be imported: libcudart.so.13: cannot open *"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("name", "arguments"), [("numpy", ()), ("numpy", ("-W", "error", "-n", "1")), ("scipy", ())], ids=str
)
def test_missing_reference_leaves_the_checks_of_the_install(suite, monkeypatch, name, arguments):
    """Without NumPy or SciPy the install's own checks run; every other row is not run, with that reason."""
    monkeypatch.setenv("PYTHONPATH", str(hide(suite.pytester, name)))
    suite.rows(**{"tensor.ranks": "", "install.numpy": ""})
    suite.checks("raise RuntimeError('imported')")
    suite.checks(
        """
        import pytest
        @pytest.mark.behavior("install.numpy")
        def test_bridge(device):
            import numpy, scipy
        """,
        "test_install_numpy",
    )
    result = suite.run_apart(*arguments)
    assert result.ret == 1
    assert suite.outcomes() == {("install.numpy", "cpu"): ["failed"], ("tensor.ranks", "cpu"): ["not_run"]}
    reasons = {entry["reason"] for entry in suite.report()["results"] if entry["outcome"] == "not_run"}
    assert reasons == {f"{name}, which the expected values come from, cannot be imported: No module named '{name}'"}


def test_optimized_python_keeps_the_checks_armed(suite):
    """Under python -O a wrong result still fails; -O with --assert=plain is refused."""
    suite.checks(PASSING.replace("ndim == 1", "ndim == 2"))
    arguments = ["-p", "no:cacheprovider", "-p", "no:randomly", "--torchcheck-isolate=no", "conformance"]

    def run(*more):
        command = [sys.executable, "-O", "-m", "pytest", *arguments, *more]
        return subprocess.run(command, cwd=suite.pytester.path, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED tensor.ranks on cpu" in done.stdout
    refused = run("--assert=plain")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: python -O with --assert=plain removes the checks' assertions" in refused.stderr


def test_nothing_outside_the_checks_relies_on_assert():
    """pytest arms the assert statements of test files only: support and plugin code raise by themselves."""
    package = [*(ROOT / "pytest_torchcheck").rglob("*.py"), *(ROOT / "conformance" / "support").rglob("*.py")]
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in package
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert len(package) > 20
    assert bare == []
