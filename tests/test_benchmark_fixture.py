"""The fixture torchcheck_benchmark over pytest-benchmark: what is kept, what is refused, what goes on working."""

from __future__ import annotations

import importlib.util
import io
import json
from types import SimpleNamespace

import pytest
import torch

from pytest_torchcheck import cli
from pytest_torchcheck.benchmark import clocks, session
from pytest_torchcheck.benchmark.timing import DeviceClock

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark: the fixture stands on it")
# Loaded here because pytester forgets what first comes in during a test of its own, and these cannot come in twice.
for _name in ("scipy.special", "rich.console", "rich.table", "rich.box", "torch.utils.flop_counter"):
    if importlib.util.find_spec(_name.partition(".")[0]):
        importlib.import_module(_name)

QUICK = ("--torchcheck-devices=cpu", "--benchmark-max-time=0.02")
SUITE = """
    import pytest, torch

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_mm(torchcheck_benchmark, device, dtype):
        a = torch.full((16, 16), 2.0, dtype=dtype, device=device)
        result = torchcheck_benchmark(torch.mm, (a, a), flops=2 * 16**3, bytes=3 * 16 * 16 * dtype.itemsize)
        assert torch.equal(result, torch.full_like(a, 64.0))
"""
ONE = """
    def test_sum(torchcheck_benchmark):
        assert torchcheck_benchmark(sum, ([1, 2],)) == 3
"""


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Let the inner pytest measure also where these tests run in a worker of pytest-xdist."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def measured(run, pytester, no_cuda):
    """Return a function that runs code with --benchmark-json and returns the result and the content of the file."""

    def run_and_read(code, *arguments):
        result = run(code, *QUICK, "--benchmark-json=out.json", *arguments)
        return result, json.loads((pytester.path / "out.json").read_text())

    return run_and_read


def test_every_measurement_says_what_it_is(measured):
    """The file has, per benchmark, clock, device, dtype, shape, counts, rates, warm-up, threads, outcome and run id."""
    result, data = measured(SUITE)
    result.assert_outcomes(passed=2)
    first, second = data["benchmarks"]
    facts = first["extra_info"]["torchcheck"]
    assert sorted(facts) == [
        *("byte_per_s", "bytes", "clock", "device", "dtype", "flop_per_s", "flops", "flush_bytes", "iterations"),
        *("outcome", "peak_memory_bytes", "peak_source", "rounds", "run_id", "shape", "share_of_peak", "threads"),
        "warm_up",
    ]
    assert (facts["clock"], facts["device"], facts["dtype"]) == ("host", "cpu", "float32")
    assert (facts["shape"], facts["flops"], facts["bytes"]) == ([[16, 16], [16, 16]], 8192, 3072)
    assert facts["rounds"] == first["stats"]["rounds"] == len(first["stats"]["data"]) >= 20
    assert facts["iterations"] == first["stats"]["iterations"]
    assert facts["flop_per_s"] == pytest.approx(8192 / first["stats"]["median"])
    assert facts["byte_per_s"] == pytest.approx(3072 / first["stats"]["median"])
    assert (facts["share_of_peak"], facts["peak_source"], facts["peak_memory_bytes"]) == (None, None, None)
    assert facts["outcome"] == "passed"
    assert facts["threads"] == torch.get_num_threads()
    assert facts["run_id"] == second["extra_info"]["torchcheck"]["run_id"]
    assert first["options"]["timer"] == "torchcheck_host"


def test_parameters_are_kept_as_json_has_them(measured):
    """Devices and dtypes among the parameters are their names, not UNSERIALIZABLE."""
    _, data = measured(SUITE)
    assert [one["params"] for one in data["benchmarks"]] == [
        {"dtype": "float32", "device": "cpu"},
        {"dtype": "float64", "device": "cpu"},
    ]


def test_machine_is_kept(measured):
    """The file says what torch, devices and flags these are, beside what pytest-benchmark keeps."""
    _, data = measured(ONE)
    own = data["machine_info"]["torchcheck"]
    assert own["torch"] == torch.__version__
    assert [device["name"] for device in own["devices"]] == ["cpu"]
    assert own["precision"]["float32_matmul"] == torch.get_float32_matmul_precision()
    assert own["at_the_end"] == {}
    assert data["machine_info"]["cpu"]


def test_failed_benchmark_is_stamped_and_invalid(measured, pytester, capsys):
    """The numbers of a test that fails after it was measured say so, and a comparison does not use them."""
    result, data = measured(
        """
        def test_fails(torchcheck_benchmark):
            torchcheck_benchmark(sum, ([1, 2],))
            assert False
        """
    )
    result.assert_outcomes(failed=1)
    assert data["benchmarks"][0]["extra_info"]["torchcheck"]["outcome"] == "failed"
    pytest.importorskip("rich", reason="needs rich: it prints the tables")
    path = str(pytester.path / "out.json")
    assert cli.main(["compare", path, path]) == 1
    assert "its test failed" in capsys.readouterr().out.replace("\n", " ")


def test_failure_in_teardown_is_stamped_too(measured):
    """A fixture that fails after the test makes the outcome failed."""
    _, data = measured(
        """
        import pytest

        @pytest.fixture
        def breaks():
            yield
            raise OSError

        def test_passes(breaks, torchcheck_benchmark):
            torchcheck_benchmark(sum, ([1, 2],))
        """
    )
    assert data["benchmarks"][0]["extra_info"]["torchcheck"]["outcome"] == "failed"


def test_files_of_two_sessions_can_be_compared(measured, pytester, capsys):
    """What the fixture writes is what the command reads."""
    pytest.importorskip("rich", reason="needs rich: it prints the tables")
    pytest.importorskip("scipy", reason="needs scipy: it gives the distributions")
    measured(ONE)
    path, output = str(pytester.path / "out.json"), str(pytester.path / "compared.json")
    assert cli.main(["compare", path, path, "--fail-on", "slower", "--json", output]) == 0
    [row] = json.loads((pytester.path / "compared.json").read_text())["rows"]
    assert row["benchmark"].endswith("::test_sum")
    # A busy machine may spoil the rounds, and then that is said.
    assert row["verdict"] in ("SAME", "INCONCLUSIVE", "INVALID")


def test_pinned_rounds_and_iterations(measured):
    """rounds and iterations are kept as given."""
    _, data = measured("def test_it(torchcheck_benchmark): torchcheck_benchmark(sum, ([1],), rounds=25, iterations=4)")
    stats = data["benchmarks"][0]["stats"]
    assert (stats["rounds"], stats["iterations"], len(stats["data"])) == (25, 4, 25)


def test_work_runs_on_the_rounds_and_not_for_pytest_benchmark(measured):
    """pytest-benchmark takes the rounds over without running the work again."""
    result, _ = measured(
        """
        calls = []

        def test_it(torchcheck_benchmark):
            result = torchcheck_benchmark(lambda: calls.append(1) or len(calls), rounds=30, iterations=1000)
            assert result == len(calls)
            assert 30_000 <= len(calls)
            measured = len(calls)
            assert measured < 130_000 + 60_000  # warm-up is bounded too
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "outcome"),
    [("--benchmark-disable", {"passed": 1}), ("--benchmark-skip", {"skipped": 1}), ("--benchmark-only", {"passed": 1})],
)
def test_options_of_pytest_benchmark_work(run, no_cuda, option, outcome):
    """--benchmark-disable runs the work once, --benchmark-skip skips the test, --benchmark-only keeps it."""
    code = """
        calls = []

        def test_it(torchcheck_benchmark):
            torchcheck_benchmark(lambda: calls.append(1))
            assert (len(calls) == 1) is {once}
    """
    result = run(code.format(once=option == "--benchmark-disable"), *QUICK, option)
    result.assert_outcomes(**outcome)


def test_storage_and_table_of_pytest_benchmark_work(run, pytester, no_cuda):
    """--benchmark-save keeps a file in the storage, --benchmark-compare shows it beside the new one."""
    run(ONE, *QUICK, "--benchmark-save=first").assert_outcomes(passed=1)
    assert list((pytester.path / ".benchmarks").rglob("0001_first.json"))
    result = run(ONE, *QUICK, "--benchmark-compare=0001")
    result.stdout.fnmatch_lines(["*test_sum (NOW)*"])


def test_profile_runs_the_work_itself(run, no_cuda):
    """Under --benchmark-cprofile the profiler sees the work, not its replay."""
    code = """
        def slow_part():
            return sorted(range(1000))

        def test_it(torchcheck_benchmark):
            torchcheck_benchmark(slow_part)
    """
    result = run(code, *QUICK, "--benchmark-cprofile=cumtime")
    result.stdout.fnmatch_lines(["*slow_part*"])


def test_missing_folder_stops_the_run_before_the_first_test(run_apart):
    """A path that could not be written in the end is refused before anything runs."""
    result = run_apart(ONE, *QUICK, "--benchmark-json=no/such/out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--benchmark-json=no/such/out.json cannot be written: no/such is no folder; create it"]
    )


def test_folder_as_a_file_stops_the_run(run_apart, pytester):
    """So is a path that is a folder."""
    pytester.mkdir("out")
    result = run_apart(ONE, *QUICK, "--benchmark-json=out")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--benchmark-json=out is a folder; name a file"])


def test_suite_of_plain_benchmarks_gets_nothing_from_us(measured):
    """A suite without our fixture has no facts and no stamp of ours in its file."""
    _, data = measured("def test_it(benchmark): benchmark(sum, [1])")
    assert "torchcheck" not in data["machine_info"]
    assert data["benchmarks"][0]["extra_info"] == {}


def test_workers_that_would_write_nothing_fail(run_apart):
    """Under pytest-xdist, where pytest-benchmark silently writes no file, a test fails with what to do."""
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    result = run_apart(ONE, *QUICK, "-n1", "--benchmark-json=out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*--benchmark-json is given, and in workers of pytest-xdist*run the benchmarks without -n*"]
    )


def test_workers_run_the_work_once_when_no_file_is_asked_for(run_apart):
    """Without a file to write a worker runs the work once, as pytest-benchmark does."""
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    result = run_apart(ONE, *QUICK, "-n1", "-W", "ignore")
    result.assert_outcomes(passed=1)


def test_missing_pytest_benchmark_is_told(run, no_cuda):
    """Without pytest-benchmark the fixture fails the test with what to install."""
    result = run("def test_it(torchcheck_benchmark): pass", "-p", "no:benchmark")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*torchcheck_benchmark needs pytest-benchmark: pip install 'pytest-torchcheck[[]benchmark]'"]
    )


MISUSE = {
    "flops": ("flops=0", "ValueError: flops is 0; give a whole number from 1 up, or None where it is not known"),
    "bytes": ("bytes=1.5", "ValueError: bytes is 1.5; give a whole number from 1 up, or None where it is not known"),
    "rounds": ("rounds=0", "ValueError: rounds is 0; give a whole number from 1 up, or None where it is not known"),
    "clock": ("clock='gpu'", "ValueError: clock is 'gpu'; choose one of auto, host, device"),
    "no events": ("clock='device'", "ValueError: clock is 'device', and cpu has no events that tell times: use 'host'"),
}


@pytest.mark.parametrize(("option", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_names_the_input(run, no_cuda, option, message):
    """A count or a clock that cannot be is refused by name."""
    result = run(f"def test_it(torchcheck_benchmark): torchcheck_benchmark(sum, ([1],), {option})", *QUICK)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E*{message}"])


def test_second_use_is_refused(run, no_cuda):
    """One test is one benchmark."""
    result = run("def test_it(torchcheck_benchmark): [torchcheck_benchmark(sum, ([1],)) for _ in '12']", *QUICK)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*torchcheck_benchmark was used already: one test is one benchmark, parametrize it*"])


def test_arguments_must_be_a_tuple_or_a_tensor(run, no_cuda):
    """A list of arguments is refused as everywhere."""
    result = run("def test_it(torchcheck_benchmark): torchcheck_benchmark(sum, [1])", *QUICK)
    result.stdout.fnmatch_lines(["E*TypeError: args must be a tuple of positional arguments or one tensor, not list"])


def test_flops_can_be_counted(measured):
    """flops="count" lets torch count; where it knows nothing of the work, the count is null, not zero."""
    _, data = measured(
        """
        import torch

        def test_mm(torchcheck_benchmark):
            torchcheck_benchmark(torch.mm, (torch.ones(4, 5), torch.ones(5, 6)), flops="count")

        def test_add(torchcheck_benchmark):
            torchcheck_benchmark(torch.add, (torch.ones(4), torch.ones(4)), flops="count")
        """
    )
    facts = [one["extra_info"]["torchcheck"] for one in data["benchmarks"]]
    assert [fact["flops"] for fact in facts] == [240, None]
    assert facts[1]["flop_per_s"] is None


def test_model_and_keywords(measured):
    """A module is called with its arguments, and its parameters tell the dtype where no argument does."""
    _, data = measured(
        """
        import torch

        def test_model(torchcheck_benchmark):
            model = torch.nn.Linear(3, 2, dtype=torch.float64)
            torchcheck_benchmark(lambda x, scale: model(x) * scale, torch.ones(1, 3).double(), {"scale": 2})

        def test_embedding(torchcheck_benchmark):
            torchcheck_benchmark(torch.nn.Embedding(5, 2), torch.tensor([1, 2]))
        """
    )
    facts = [one["extra_info"]["torchcheck"] for one in data["benchmarks"]]
    assert [(fact["dtype"], fact["shape"]) for fact in facts] == [("float64", [[1, 3]]), ("float32", [[2]])]


def test_unknown_device_is_refused_where_there_is_an_accelerator(run, fake_cuda):
    """Where work could be anywhere, waiting for the wrong device would time nothing: the device has to be named."""
    fake_cuda()
    code = "def test_it(torchcheck_benchmark): torchcheck_benchmark(lambda: 1{})"
    result = run(code.format(""), *QUICK)
    result.stdout.fnmatch_lines(
        ["E*no argument tells the device: give device=, or let the test use the device fixture"]
    )
    run(code.format(", device='cpu'"), *QUICK).assert_outcomes(passed=1)


@pytest.fixture
def events(monkeypatch):
    """Make the CPU a device with events, whose every round takes 2 ms by its own clock."""
    log = []

    def clock(device):
        ticks = iter(range(10**6))
        return DeviceClock(
            wait=lambda: log.append("wait"),
            record=lambda: next(ticks),
            elapsed_s=lambda start, end: 0.002 * (end - start),
            flush=lambda: log.append("flush"),
        )

    monkeypatch.setattr(clocks, "has_events", lambda device: True)
    monkeypatch.setattr(clocks, "device_clock", clock)
    return log


def test_events_are_used_where_there_are_any(measured, events):
    """On a device with events the times are the device's own, one iteration a round, the cache flushed before each."""
    _, data = measured(ONE)
    [one] = data["benchmarks"]
    facts = one["extra_info"]["torchcheck"]
    assert (facts["clock"], facts["iterations"], facts["flush_bytes"]) == ("device", 1, 2**26)
    assert one["stats"]["median"] == pytest.approx(0.002)
    assert one["options"]["timer"] == "torchcheck_device"
    assert events.count("flush") >= facts["rounds"]


def test_host_clock_can_be_asked_for(measured, events):
    """clock="host" gives end-to-end time on a device with events too."""
    _, data = measured("def test_it(torchcheck_benchmark): torchcheck_benchmark(sum, ([1],), clock='host')")
    assert data["benchmarks"][0]["extra_info"]["torchcheck"]["clock"] == "host"
    assert events == []


def test_open_file_of_older_releases_is_left_alone():
    """pytest-benchmark up to 5.1 opens the file itself while it reads its options: there is no path to check."""
    registered = []
    plugins = SimpleNamespace(has_plugin=lambda name: False, register=lambda *plugin: registered.append(plugin))
    session.prepare(SimpleNamespace(option=SimpleNamespace(benchmark_json=io.BytesIO()), pluginmanager=plugins))
    assert len(registered) == 1


def test_parameters_become_plain():
    """Devices, dtypes and functions by name, in lists too; what JSON has stays, and nothing is made of None."""
    params = {"a": torch.device("cuda:1"), "b": [torch.bfloat16, 3], "c": torch.relu, "d": None, "e": 0.5}
    assert session.plain_params(params) == {"a": "cuda:1", "b": ["bfloat16", 3], "c": "relu", "d": None, "e": 0.5}
    assert session.plain_params(None) is None


def test_xla_like_device_without_times_falls_back_to_the_host():
    """A device whose events raise, or that has none, is timed by the host."""
    assert not clocks.has_events(torch.device("cpu"))
    assert not clocks.has_events(torch.device("meta"))
    assert clocks.clock_of(torch.device("cpu")).name == "host"
