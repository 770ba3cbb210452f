"""``torchcheck compare``: the JSON contract, exit codes, and input that is hard, broken or foreign."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys

import pytest

from pytest_torchcheck import cli

from . import benchmark_files as files

pytest.importorskip("scipy", reason="needs scipy: it gives the distributions")
pytest.importorskip("rich", reason="needs rich: it prints the tables")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def compare(folder):
    """Return a function that compares and returns the exit code and the JSON."""

    def run(*arguments):
        code = cli.main(["compare", *map(str, arguments), "--json", "out.json"])
        return code, json.loads((folder / "out.json").read_text())

    return run


@pytest.fixture
def source():
    return random.Random(1)


def pair(folder, base, new, base_machine=None, new_machine=None):
    files.write(folder / "base.json", base, **(base_machine or {}))
    files.write(folder / "new.json", new, **(new_machine or {}))
    return "base.json", "new.json"


def verdicts(data):
    return {row["benchmark"].rpartition("::")[2]: row["verdict"] for row in data["rows"]}


def test_json_is_that_of_the_contract(folder, compare, source):
    """Keys, types and names are those of the documented format, and a slower benchmark makes the exit code 1."""
    new = [files.entry("test_a", files.rounds(source, 1.3e-3)), files.entry("test_b", files.rounds(source))]
    base = [files.entry("test_a", files.rounds(source)), files.entry("test_b", files.rounds(source))]
    code, data = compare(*pair(folder, base, new))
    assert code == 1
    assert list(data) == ["schema_version", "baseline", "margin", "rows", "geometric_mean"]
    assert (data["schema_version"], data["baseline"], data["margin"]) == (1, "base.json", 0.05)
    first, second = data["rows"]
    assert list(first) == ["benchmark", "candidate", "ratio", "interval", "verdict", "reason"]
    assert (first["benchmark"], first["candidate"]) == ("test_speed.py::test_a", "new.json")
    assert (first["verdict"], second["verdict"]) == ("SLOWER", "SAME")
    assert first["interval"][0] < 1.3 < first["interval"][1]
    assert first["reason"] == "bootstrap within one run"
    mean = math.sqrt(first["ratio"] * second["ratio"])
    assert data["geometric_mean"] == {"new.json": pytest.approx(mean)}


def test_swapped_arguments_give_the_inverse(folder, compare, source):
    """The first argument is the baseline, whatever the files are called."""
    names = pair(
        folder,
        [files.entry("test_a", files.rounds(source))],
        [files.entry("test_a", files.rounds(source, 1.3e-3))],
    )
    _, there = compare(*names)
    code, back = compare(*reversed(names))
    assert code == 0
    assert (back["baseline"], back["rows"][0]["verdict"]) == ("new.json", "FASTER")
    assert back["rows"][0]["ratio"] == pytest.approx(1 / there["rows"][0]["ratio"])


def test_folders_are_runs_of_one_side(folder, compare, source):
    """Five files a side in two folders are compared run by run."""
    for side, middle in (("base", 1e-3), ("new", 1.3e-3)):
        for number in range(5):
            times = files.rounds(source, middle, run=0.005)
            files.write(folder / side / f"{number}.json", [files.entry("test_a", times)])
    code, data = compare("base", "new")
    assert (code, data["baseline"], list(data["geometric_mean"])) == (1, "base", ["new"])
    assert data["rows"][0]["reason"] == "Welch's t-test on 5 and 5 runs"
    assert compare("base/*.json", "new/*.json")[1]["rows"][0]["ratio"] == data["rows"][0]["ratio"]


def test_two_runs_a_side_decide_nothing(folder, compare, source):
    """Two runs show no scatter between runs to rely on: INCONCLUSIVE, with the ratio and what to do."""
    for side in ("base", "new"):
        for number in range(2):
            files.write(folder / side / f"{number}.json", [files.entry("test_a", files.rounds(source))])
    code, data = compare("base", "new")
    [row] = data["rows"]
    assert (code, row["verdict"], row["interval"]) == (0, "INCONCLUSIVE", None)
    assert row["reason"] == "2 against 2 runs: give one a side, or at least 3"
    assert row["ratio"] == pytest.approx(1, abs=0.02)


def test_other_parameters_are_missing_on_the_side_that_lacks_them(folder, compare, source):
    """Each side's own parameter sets are MISSING, with the side's name; only what the candidate lacks fails."""

    def entries(*names):
        return [files.entry(name, files.rounds(source)) for name in names]

    code, data = compare(*pair(folder, entries("test_a[1]", "test_a[2]"), entries("test_a[2]", "test_a[3]")))
    assert verdicts(data) == {"test_a[1]": "MISSING", "test_a[2]": "SAME", "test_a[3]": "MISSING"}
    reasons = [row["reason"] for row in data["rows"]]
    assert reasons[0] == "the candidate new.json lacks it"
    assert reasons[2] == "the baseline base.json lacks it"
    assert [row["ratio"] is None for row in data["rows"]] == [True, False, True]
    assert code == 1
    assert compare(*pair(folder, entries("test_a[1]"), entries("test_a[1]", "test_a[2]")))[0] == 0


def test_index_of_the_device_does_not_matter(folder, compare, source):
    """cuda:0 in one file and cuda:1 in the other are one benchmark; where a file has both, they are two."""

    def on(*names):
        return [
            files.entry(f"test_a[{name}]", files.rounds(source), params={"device": name}, param=name) for name in names
        ]

    assert list(verdicts(compare(*pair(folder, on("cuda:0"), on("cuda:1")))[1]).values()) == ["SAME"]
    _, data = compare(*pair(folder, on("cuda:0", "cuda:1"), on("cuda:1", "cuda:0")))
    assert verdicts(data) == {"test_a[cuda:0]": "SAME", "test_a[cuda:1]": "SAME"}


def test_order_of_parameters_does_not_matter(folder, compare, source):
    """Parameters are matched by name and value, not by the text of the test's id."""
    base = files.entry("test_a[1-x]", files.rounds(source), params={"n": 1, "m": "x"}, param="1-x")
    new = files.entry("test_a[x-1]", files.rounds(source), params={"m": "x", "n": 1}, param="x-1")
    assert verdicts(compare(*pair(folder, [base], [new]))[1]) == {"test_a[1-x]": "SAME"}


def test_parameters_that_json_lost_are_matched_by_the_id(folder, compare, source):
    """Where pytest-benchmark could not write the values, the id of the test tells the sets apart."""
    params = {"dtype": "UNSERIALIZABLE[torch.float32 at 0x7f]"}
    other = {"dtype": "UNSERIALIZABLE[torch.float32 at 0x8a]"}
    base = files.entry("test_a[f32]", files.rounds(source), params=params, param="f32")
    new = files.entry("test_a[f32]", files.rounds(source), params=other, param="f32")
    assert verdicts(compare(*pair(folder, [base], [new]))[1]) == {"test_a[f32]": "SAME"}


INVALID = {
    "failed": ({"torchcheck": {"outcome": "failed"}}, None, "its test failed"),
    "over the peak": (
        {"torchcheck": {"share_of_peak": 1.3}},
        None,
        "it reaches 130% of the peak: its time or its count of work is wrong",
    ),
    "throttled": (
        {"torchcheck": {"throttle_reasons": ["power brake"]}},
        None,
        "the device was throttled (power brake)",
    ),
    "not alone": ({"torchcheck": {"other_processes": 2}}, None, "other processes used the device (2)"),
    "NaN": ({}, [math.nan] + [1e-3] * 30, "a sample is nan, not a time above zero"),
    "infinite": ({}, [1e-3] * 30 + [math.inf], "a sample is inf, not a time above zero"),
    "zero": ({}, [0.0] * 30, "a sample is 0.0, not a time above zero"),
    "negative": ({}, [1e-3, -1e-3] * 20, "a sample is -0.001, not a time above zero"),
    "text": ({}, ["fast"] * 30, "a sample is 'fast', not a time above zero"),
    "huge": ({}, [10**400] * 30, f"a sample is 1{'0' * 17}...{'0' * 19}, not a time above zero"),
    "no samples": ({}, [], "it holds no samples"),
    "few rounds": ({}, [1e-3] * 19, "19 rounds, at least 20 are needed"),
    "noisy": ({}, [1e-3, 1.2e-3] * 20, "its IQR is 18% of the median, over 10%"),
}


@pytest.mark.parametrize(("more", "times", "reason"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("side", ["base", "new"])
def test_what_cannot_be_judged_is_invalid(folder, compare, source, capsys, side, more, times, reason):
    """A number that is wrong or too doubtful, on either side, is INVALID with its reason and file, and fails."""
    bad = files.entry("test_a", files.rounds(source) if times is None else times, **dict(more))
    good = files.entry("test_a", files.rounds(source))
    code, data = compare(*pair(folder, *([[bad], [good]] if side == "base" else [[good], [bad]])))
    [row] = data["rows"]
    assert (code, row["verdict"], row["ratio"], row["interval"]) == (1, "INVALID", None, None)
    assert data["geometric_mean"] == {"new.json": None}
    assert row["reason"] == f"{side}.json: {reason}"
    assert "1 INVALID; geometric mean: nothing to compare" in capsys.readouterr().out


def test_statistics_without_samples_cannot_be_compared_within_one_run(folder, compare, source):
    """A file saved without its samples is INVALID alone, and usable as one of several runs."""
    bare = files.entry("test_a", files.rounds(source))
    del bare["stats"]["data"]
    [row] = compare(*pair(folder, [bare], [bare]))[1]["rows"]
    assert row["verdict"] == "INVALID"
    assert row["reason"] == "the file holds no samples: write it with --benchmark-json or --benchmark-save-data"
    for number in range(3):
        for side in ("left", "right"):
            entry = files.entry("test_a", files.rounds(source, run=0.001))
            del entry["stats"]["data"]
            files.write(folder / side / f"{number}.json", [entry])
    assert compare("left", "right")[1]["rows"][0]["verdict"] == "SAME"


def test_faults_among_several_runs_name_folder_and_file(folder, compare, source, capsys):
    """Two folders may have files of one name; the reason, and the line below the table, tell which is meant."""
    for side in ("base", "new"):
        for number in range(3):
            times = [1e-3, 2e-3] * 20 if (side, number) == ("new", 1) else files.rounds(source)
            files.write(folder / side / f"{number}.json", [files.entry("test_a", times)])
    [row] = compare("base", "new")[1]["rows"]
    assert row["reason"] == "new/1.json: its IQR is 67% of the median, over 10%"
    assert "INVALID test_speed.py::test_a: new/1.json: its IQR is 67% of the median" in capsys.readouterr().out
    noisy = files.entry("test_a", [1e-3, 2e-3] * 20)
    for side in ("one", "other"):
        files.write(folder / side / "bench.json", [noisy])
    [row] = compare("one/bench.json", "other/bench.json")[1]["rows"]
    assert row["reason"] == "; ".join(
        f"{side}/bench.json: its IQR is 67% of the median, over 10%" for side in ("one", "other")
    )


def test_duplicates_do_not_win_silently(folder, compare, source):
    """A benchmark that a file has twice is INVALID, unless both are runs with ids of their own."""
    twice = [files.entry("test_a", files.rounds(source)) for _ in range(2)]
    [row] = compare(*pair(folder, twice[:1], twice))[1]["rows"]
    assert (row["verdict"], row["reason"]) == ("INVALID", "new.json: it has this benchmark more than once")
    runs = [
        files.entry("test_a", files.rounds(source, run=0.002), torchcheck={"run_id": str(number)})
        for number in range(3)
    ]
    [row] = compare(*pair(folder, runs, runs))[1]["rows"]
    assert (row["verdict"], row["reason"]) == ("SAME", "Welch's t-test on 3 and 3 runs")


@pytest.mark.parametrize(
    ("base", "new"),
    [
        ({"torchcheck": {"clock": "device"}}, {"torchcheck": {"clock": "host"}}),
        ({}, {"options": {"timer": "cpu_time"}}),
    ],
    ids=["device and host", "another timer"],
)
def test_clocks_are_never_mixed(folder, compare, source, base, new):
    """Times by different clocks are INCOMPARABLE, without a ratio."""
    entries = [files.entry("test_a", files.rounds(source), **dict(more)) for more in (base, new)]
    code, data = compare(*pair(folder, entries[:1], entries[1:]))
    [row] = data["rows"]
    assert (code, row["verdict"], row["ratio"]) == (0, "INCOMPARABLE", None)
    assert row["reason"].startswith("the clocks differ: ")


def test_other_device_models_get_a_ratio_and_no_verdict(folder, compare, source):
    """Different models are INCOMPARABLE, with the ratio and the shares of peak, and do not fail."""

    def one(hardware, share, middle):
        own = {"clock": "device", "device": "cuda:0", "share_of_peak": share}
        machine = {"torch": "2.13.0", "devices": [{"name": "cuda:0", "hardware": hardware}]}
        return [files.entry("test_a", files.rounds(source, middle), torchcheck=own)], machine

    (base, base_machine), (new, new_machine) = one("Fake A", 0.71, 1e-3), one("Fake B", 0.5, 2e-3)
    code, data = compare(*pair(folder, base, new, base_machine, new_machine))
    [row] = data["rows"]
    assert (code, row["verdict"], row["interval"]) == (0, "INCOMPARABLE", None)
    assert row["ratio"] == pytest.approx(2, rel=0.02)
    assert row["reason"] == (
        "different device models: Fake A (71% of its peak) against Fake B (50% of its peak); no verdict on a regression"
    )


def test_side_of_several_models_gets_no_verdict(folder, compare, source):
    """Runs of one side on two models are no runs of one thing."""
    for side in ("base", "new"):
        for number, cpu in enumerate(["Fake A", "Fake B", "Fake B"]):
            files.write(folder / side / f"{number}.json", [files.entry("test_a", files.rounds(source))], cpu=cpu)
    [row] = compare("base", "new")[1]["rows"]
    assert row["verdict"] == "INCOMPARABLE"
    assert row["reason"].startswith("different device models: Fake A, Fake B against Fake A, Fake B")


def test_other_torch_is_compared_and_named(folder, compare, source):
    """Another torch is what is compared, not an obstacle; the reason names both."""
    entries = [files.entry("test_a", files.rounds(source))]
    machines = {"torch": "2.13.0", "threads": 2}, {"torch": "2.14.1", "threads": 1}
    [row] = compare(*pair(folder, entries, entries, *machines))[1]["rows"]
    assert row["verdict"] == "SAME"
    assert row["reason"] == "bootstrap within one run; torch 2.13.0 against 2.14.1; threads 2 against 1"


BROKEN = {
    "truncated": ('{"benchmarks": [{"name": ', "new.json is not valid JSON at line 1, column 26 (*): is it whole?"),
    "foreign": ('{"a": 1}', 'new.json is no result file of pytest-benchmark: it has no list "benchmarks"'),
    "list": ("[1, 2]", 'new.json is no result file of pytest-benchmark: it has no list "benchmarks"'),
    "number": ("3", 'new.json is no result file of pytest-benchmark: it has no list "benchmarks"'),
    "strange entries": (
        '{"benchmarks": [3]}',
        "new.json is no result file of pytest-benchmark: an entry has no name or no stats",
    ),
    "empty": ("", "new.json is not valid JSON at line 1, column 1 (*): is it whole?"),
    "nothing in it": ('{"benchmarks": []}', "new.json holds no benchmark"),
    "endless number": (f'{{"benchmarks": {"9" * 5000}}}', "new.json is not valid JSON: Exceeds*"),
    "nested": ("[" * 100_000, "new.json is not valid JSON*"),
    "report": (
        '{"schema_version": 1, "verdict": "conformant", "results": []}',
        "new.json is a conformance report, and benchmarks are asked for: compare like with like",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_unreadable_input_is_exit_code_2_with_the_name(folder, source, capsys, text, message):
    """A file that is not whole, or no result file, ends the command with its name, one sentence and exit code 2."""
    files.write(folder / "base.json", [files.entry("test_a", files.rounds(source))])
    (folder / "new.json").write_text(text)
    assert cli.main(["compare", "base.json", "new.json"]) == 2
    error = capsys.readouterr().err
    start, _, end = f"torchcheck compare: {message}".partition("*")
    assert error.startswith(start)
    assert error.rstrip("\n").endswith(end)
    assert error.count("\n") == 1


def test_absent_and_binary_files_are_named(folder, source, capsys):
    """So are a file that is not there, a folder without files, a pattern that matches none, and bytes."""
    files.write(folder / "base.json", [files.entry("test_a", files.rounds(source))])
    (folder / "empty").mkdir()
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "nowhere.json": "nowhere.json cannot be read: No such file or directory",
        "empty": "empty is a folder without any .json file",
        "no*.json": "no*.json matches no file",
        "bytes.json": "bytes.json is not valid JSON: 'utf-8' codec",
    }.items():
        assert cli.main(["compare", "base.json", name]) == 2
        assert capsys.readouterr().err.startswith(f"torchcheck compare: {message}")


MISUSE = {
    "margin text": (["--margin", "much"], "--margin much is not valid; give a share from 0 up, below 1, such as*"),
    "margin over 1": (["--margin", "5"], "--margin 5 is not valid; give a share*"),
    "margin nan": (["--margin", "nan"], "--margin nan is not valid; give a share*"),
    "verdict": (
        ["--fail-on", "slow"],
        "--fail-on slow is not valid; choose from slower, faster, same, inconclusive, invalid, missing, "
        "incomparable, or none",
    ),
    "json": (["--json", "no/out.json"], "no/out.json cannot be written: no is not a folder; create it first"),
    "html": (["--html", "."], ". is a folder; name a file"),
    "plot": (["--plot", "base.json"], "--plot base.json is a file; name a folder, or a file that ends with*"),
    "plot folder": (["--plot", "no/plots"], "--plot no/plots cannot be made: no is not a folder; create it first"),
}


@pytest.mark.parametrize(("arguments", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_exit_code_2_before_any_work(folder, source, capsys, arguments, message):
    """An option that is not valid is named with its remedy."""
    files.write(folder / "base.json", [files.entry("test_a", files.rounds(source))])
    assert cli.main(["compare", "base.json", "base.json", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"torchcheck compare: {message.partition('*')[0]}")


@pytest.mark.parametrize("package", ["rich", "scipy", "matplotlib"])
def test_missing_package_is_told_before_any_work(folder, source, capsys, monkeypatch, package):
    """Without a package that the command needs it ends at once, with what to install, and has written nothing."""
    files.write(folder / "base.json", [files.entry("test_a", files.rounds(source))])
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ["compare", "base.json", "base.json", "--json", "out.json", "--html", "out.html"]
    assert cli.main(arguments) == 2
    start = f"torchcheck compare: {package} is needed: pip install 'pytest-torchcheck[benchmark]'"
    assert capsys.readouterr().err.startswith(start)
    assert not (folder / "out.json").exists()


def test_margin_decides_what_matters(folder, compare, source):
    """A true 1.10x is SLOWER at 5% and SAME at 20%, given either way."""
    names = pair(
        folder,
        [files.entry("test_a", files.rounds(source))],
        [files.entry("test_a", files.rounds(source, 1.1e-3))],
    )
    assert compare(*names)[1]["rows"][0]["verdict"] == "SLOWER"
    for text in ("0.2", "20%"):
        code, data = compare(*names, "--margin", text)
        assert (code, data["margin"], data["rows"][0]["verdict"]) == (0, 0.2, "SAME")


def test_gates_can_be_chosen(folder, source, capsys):
    """--fail-on says which verdicts make the exit code 1."""
    names = pair(
        folder,
        [files.entry("test_a", files.rounds(source))],
        [files.entry("test_a", files.rounds(source, 1.3e-3))],
    )
    codes = {text: cli.main(["compare", *names, "--fail-on", text]) for text in ("none", "slower", "faster,same")}
    assert codes == {"none": 0, "slower": 1, "faster,same": 0}
    assert "failed: 1 SLOWER" in capsys.readouterr().out


@pytest.mark.parametrize("benchmarks", [1, 300], ids=["short output", "output longer than a buffer"])
@pytest.mark.parametrize(("gate", "status"), [("slower", 1), ("none", 0)])
def test_gate_counts_where_nobody_reads_the_output(folder, source, benchmarks, gate, status):
    """A reader that went away (``| head``) makes no traceback, and the exit code is that of the gate."""
    names = [f"test_{number}" for number in range(benchmarks)]
    base = [files.entry(name, files.rounds(source)) for name in names]
    new = [files.entry(name, files.rounds(source, 1.3e-3)) for name in names]
    command = [sys.executable, "-m", "pytest_torchcheck.cli", "compare", *pair(folder, base, new), "--fail-on", gate]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (status, "")


def test_candidates_are_named_and_grouped(folder, compare, source):
    """Several candidates have rows and means of their own; --by makes files of one torch runs of one candidate."""
    base = [files.entry("test_a", files.rounds(source))]
    for side in ("base", "x", "y"):
        for number in range(3):
            files.write(folder / side / f"{number}.json", base, torch={"x": "2.13.0", "y": "2.14.1"}.get(side, "2.12"))
    _, data = compare("base", "x", "y")
    assert list(data["geometric_mean"]) == ["x", "y"]
    _, data = compare("base", "x", "y", "--by", "torch")
    assert list(data["geometric_mean"]) == ["torch 2.13.0", "torch 2.14.1"]
    _, data = compare("base/0.json", "x", "y", "--by", "file")
    assert list(data["geometric_mean"]) == ["x/0.json", "x/1.json", "x/2.json", "y/0.json", "y/1.json", "y/2.json"]
    _, data = compare("base", "x", "y", "--by", "device")
    assert list(data["geometric_mean"]) == [files.CPU]


def test_geometric_mean_is_over_what_all_candidates_have(folder, compare, source):
    """A benchmark that one candidate lacks counts for none, so that the means can be compared."""
    both = [files.entry("test_a", files.rounds(source)), files.entry("test_b", files.rounds(source, 5e-3))]
    files.write(folder / "base.json", [both[0], files.entry("test_b", files.rounds(source))])
    files.write(folder / "x.json", both)
    files.write(folder / "y.json", both[:1])
    means = compare("base.json", "x.json", "y.json")[1]["geometric_mean"]
    assert means["x.json"] == pytest.approx(1, abs=0.02)
    assert means["y.json"] == pytest.approx(1, abs=0.02)


def test_long_names_are_shown_in_full(folder, source, capsys, monkeypatch):
    """Names that differ after 120 equal characters can be told apart on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"test_{'x' * 120}_{end}" for end in ("one", "two")]
    entries = [files.entry(name, files.rounds(source)) for name in names]
    assert cli.main(["compare", *pair(folder, entries, entries)]) == 0
    shown = capsys.readouterr().out
    cells = "".join(line.split()[0] for line in shown.splitlines() if line.strip() and not line.startswith("  ─"))
    assert names[0] in cells
    assert names[1] in cells


def test_hostile_names_do_not_reach_the_terminal(folder, source, capsys):
    """Escape sequences, markup and line breaks in a name are shown as text."""
    name = "test_\x1b[31m[bold]red[/bold]\n:smile:"
    entries = [files.entry("test_a", files.rounds(source), fullname=name, param=None)]
    assert cli.main(["compare", *pair(folder, entries, entries)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "test_\\x1b[31m[bold]red[/bold]\\n:smile:" in shown


def test_many_candidates_are_compared_in_time(folder, compare, source):
    """500 files of ten benchmarks with 100 rounds each are read and compared in at most 10 s of CPU time."""
    from time import process_time

    for number in range(500):
        entries = [files.entry(f"test_{n}", [round(t, 9) for t in files.rounds(source)]) for n in range(10)]
        files.write(folder / "all" / f"{number:03}.json", entries)
    start = process_time()
    _, data = compare("all/000.json", "all", "--by", "file", "--fail-on", "none")
    assert process_time() - start <= 10
    assert len(data["rows"]) == 5000
