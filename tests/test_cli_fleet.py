"""``torchcheck fleet``: the slow are named, the healthy are not, and of a few nothing is claimed."""

from __future__ import annotations

import json
import random
from time import process_time

import pytest

from pytest_torchcheck import cli

from . import benchmark_files as files

pytest.importorskip("rich", reason="needs rich: it prints the tables")


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """Return a function that reads a folder and returns the exit code and the cohorts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run():
        code = cli.main(["fleet", "gpus", "--json", "out.json"])
        return code, json.loads((tmp_path / "out.json").read_text())

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gpus"


def member(source, factor=1.0, noise=0.008, names=("test_a",)):
    """Return the benchmarks of one device, all moved by its own noise, as a device is."""
    own = source.gauss(1, noise)
    return [files.entry(name, files.rounds(source, 1e-3 * factor * own, count=20)) for name in names]


@pytest.mark.parametrize("seed", range(5))
def test_five_slow_of_five_hundred_are_named(fleet, folder, seed):
    """500 devices at 0.8% noise, 5 of them 8% slow: all 5 are named, at most one more, in at most 10 s of CPU time."""
    source = random.Random(seed)
    slow = {f"{number:03}.json" for number in source.sample(range(500), 5)}
    for number in range(500):
        name = f"{number:03}.json"
        files.write(folder / name, member(source, 1.08 if name in slow else 1.0))
    start = process_time()
    code, data = fleet()
    assert process_time() - start <= 10
    [cohort] = data["cohorts"]
    found = {place["file"] for place in cohort["slow"]}
    assert slow <= found
    assert len(found - slow) <= 1
    assert (code, cohort["enough"], len(cohort["members"])) == (1, True, 500)
    for place in cohort["slow"]:
        assert place["effect"] == pytest.approx(0.08, abs=0.04)
        assert place["robust_z"] > 3.5


def test_json_is_that_of_the_contract(fleet, folder):
    """Keys and names are those of the documented format, and a plain file's cohort is its CPU and Python."""
    source = random.Random(1)
    for number in range(9):
        files.write(folder / f"{number}.json", member(source, 1.2 if number == 4 else 1))
    code, data = fleet()
    assert list(data) == ["schema_version", "cohorts"]
    [cohort] = data["cohorts"]
    assert (code, data["schema_version"], cohort["device"]) == (1, 1, "AMD EPYC, Python 3.11.7")
    assert cohort["members"] == [f"{number}.json" for number in range(9)]
    [place] = cohort["slow"]
    assert list(place) == ["file", "benchmark", "effect", "robust_z"]
    assert (place["file"], place["benchmark"]) == ("4.json", "test_speed.py::test_a")


def test_healthy_fleet_raises_no_alarm(fleet, folder):
    """100 devices at 3% noise, twice what hardware shows: at most one is named, although many lie 5% off."""
    source = random.Random(2)
    for number in range(100):
        files.write(folder / f"{number:03}.json", member(source, noise=0.03))
    _, data = fleet()
    assert len(data["cohorts"][0]["slow"]) <= 1


@pytest.mark.parametrize("count", [3, 7])
def test_few_members_get_ratios_and_no_verdict(fleet, folder, capsys, count):
    """With fewer than 8 members nobody is slow and nobody is called healthy; the ratios are shown."""
    source = random.Random(3)
    for number in range(count):
        files.write(folder / f"{number}.json", member(source, 2.0 if number == 1 else 1.0))
    code, data = fleet()
    [cohort] = data["cohorts"]
    assert (code, cohort["enough"], cohort["slow"]) == (0, False, [])
    shown = capsys.readouterr().out
    assert f"{count} members, at least 8 are needed to judge one by the others: ratios only" in shown
    assert any("1.json" in line and ("2.0" in line or "1.9" in line) for line in shown.splitlines())
    assert "SLOW" not in shown
    assert "healthy" not in shown


def test_second_model_is_a_cohort_of_its_own(fleet, folder):
    """A model that is twice as slow is not measured against the other."""
    source = random.Random(4)
    for number in range(20):
        cpu = "Other CPU" if number % 2 else files.CPU
        files.write(folder / f"{number:02}.json", member(source, 2.0 if number % 2 else 1.0), cpu=cpu)
    code, data = fleet()
    assert code == 0
    assert {cohort["device"]: len(cohort["members"]) for cohort in data["cohorts"]} == {
        "AMD EPYC, Python 3.11.7": 10,
        "Other CPU, Python 3.11.7": 10,
    }


@pytest.mark.parametrize("fact", ["hardware", "power_limit_w", "mig", "driver_version"])
def test_cohort_is_one_model_limit_mode_and_driver(fleet, folder, fact):
    """Devices that differ in model, power limit, MIG mode or driver are not measured against each other."""
    source = random.Random(5)
    facts = {"name": "cuda:0", "hardware": "Fake A", "power_limit_w": 700, "mig": False, "driver_version": "570"}
    other = {"hardware": "Fake B", "power_limit_w": 350, "mig": True, "driver_version": "580"}[fact]
    for number in range(4):
        own = {"device": "cuda:0", "clock": "device"}
        entries = [files.entry("test_a", files.rounds(source), torchcheck=own)]
        device = facts | ({fact: other} if number % 2 else {})
        files.write(folder / f"{number}.json", entries, torch="2.13.0", devices=[device])
    _, data = fleet()
    names = [cohort["device"] for cohort in data["cohorts"]]
    assert len(names) == 2
    assert "Fake A, 700 W, MIG off, driver 570, torch 2.13.0" in names


def test_throttled_member_is_named_with_the_cause(fleet, folder, capsys):
    """A device that is slow because it is throttled is what the search is for: it is named, with the reason."""
    source = random.Random(6)
    for number in range(10):
        [entry] = member(source, 1.5 if number == 3 else 1.0)
        if number == 3:
            entry["extra_info"] = {"torchcheck": {"throttle_reasons": ["hardware thermal slowdown"]}}
        files.write(folder / f"{number}.json", [entry])
    code, data = fleet()
    assert code == 1
    assert [place["file"] for place in data["cohorts"][0]["slow"]] == ["3.json"]
    assert "the device was throttled (hardware thermal slowdown)" in capsys.readouterr().out


def test_wrong_numbers_are_left_out_and_told(fleet, folder, capsys):
    """A failed benchmark, a NaN, a result over the peak and a duplicate are INVALID, spoil nothing, and fail."""
    source = random.Random(7)
    for number in range(12):
        files.write(folder / f"{number:02}.json", member(source))
    for number, own in ((1, {"outcome": "failed"}), (2, {"share_of_peak": 1.3})):
        files.write(folder / f"{number:02}.json", [files.entry("test_a", files.rounds(source), torchcheck=own)])
    files.write(folder / "03.json", [files.entry("test_a", [float("nan")] * 20)])
    files.write(folder / "04.json", member(source) * 2)
    code, data = fleet()
    [cohort] = data["cohorts"]
    assert (code, cohort["slow"]) == (1, [])
    assert [(one["file"], one["reason"]) for one in cohort["invalid"]] == [
        ("01.json", "its test failed"),
        ("02.json", "it reaches 130% of the peak: its time or its count of work is wrong"),
        ("03.json", "a sample is nan, not a time above zero"),
        ("04.json", "the file has this benchmark more than once"),
        ("04.json", "the file has this benchmark more than once"),
    ]
    assert "5 INVALID results" in capsys.readouterr().out


def test_members_that_agree_to_the_last_bit_make_json(fleet, folder):
    """A scatter of zero makes the z of the only other member infinite, which JSON does not have: it is cut."""
    for number in range(8):
        files.write(folder / f"{number}.json", [files.entry("test_a", [2e-3 if number == 5 else 1e-3] * 20)])
    _, data = fleet()
    assert data["cohorts"][0]["slow"][0]["robust_z"] == 1e6


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gpus/x.json", "{", "gpus/x.json is not valid JSON at line 1, column 2"),
        ("gpus/x.json", "{}", "gpus/x.json is no result file of pytest-benchmark"),
        ("gpus/x.txt", "", "gpus is a folder without any .json file"),
        ("x", "", "gpus is not a folder; name the one that holds the result files"),
    ],
)
def test_unreadable_fleet_is_exit_code_2(tmp_path, monkeypatch, capsys, name, text, message):
    """A broken file, an empty folder and none at all end the command with the name and exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert cli.main(["fleet", "gpus"]) == 2
    assert capsys.readouterr().err.startswith(f"torchcheck fleet: {message}")
