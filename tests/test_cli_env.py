"""``torchcheck env``, and the command as such: help, usage, exit codes, no import of torch where none is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pytest_torchcheck import __version__, cli, command_env, environment
from pytest_torchcheck.devices import probe


def test_facts_are_those_of_the_reports(capsys, no_cuda):
    """The JSON has every fact that a report has, with the same value."""
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = json.loads(json.dumps(environment.facts([probe("cpu")])))
    assert {name: found[name] for name in expected} == expected
    assert found["precision"]["float32_matmul"] == torch.get_float32_matmul_precision()


def test_facts_are_shown_as_text(capsys, no_cuda):
    """The text names torch, Python, each device, and why a device cannot be used."""
    assert cli.main(["env"]) == 0
    shown = capsys.readouterr().out
    assert f"torch           {torch.__version__}" in shown
    assert "\ncpu\n  type                  cpu\n" in shown
    assert "cuda            cannot be used: torch 2.13.0+cpu is built without CUDA" in shown


def test_facts_of_a_gpu_are_shown(capsys, fake_cuda):
    """A CUDA device has its hardware, memory and compute capability."""
    fake_cuda()
    assert cli.main(["env", "--json"]) == 0
    cpu, gpu = json.loads(capsys.readouterr().out)["devices"]
    assert (cpu["name"], gpu["name"], gpu["hardware"]) == ("cpu", "cuda:0", "Fake V100")


def test_uuids_are_listed_for_one_process_per_gpu(capsys, fake_cuda, monkeypatch):
    """--uuids prints what CUDA_VISIBLE_DEVICES takes, one GPU a line, of those that are visible here."""
    fake_cuda(2)
    properties = [SimpleNamespace(name="Fake", total_memory=1, major=9, minor=0, uuid=f"uuid-{n}") for n in range(2)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[torch.device(device).index])
    assert cli.main(["env", "--uuids"]) == 0
    assert capsys.readouterr().out == "GPU-uuid-0\nGPU-uuid-1\n"


def test_no_uuid_is_exit_code_2(capsys, no_cuda):
    """Without a GPU a loop over them must not run once with an empty name."""
    assert cli.main(["env", "--uuids"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(
        "torchcheck env: no GPU with a UUID is visible; cuda: torch 2.13.0+cpu is built without"
    )


def test_facts_are_written_to_a_file(tmp_path, capsys, no_cuda):
    """--json PATH writes there and prints nothing."""
    path = tmp_path / "env.json"
    assert cli.main(["env", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["torch"] == torch.__version__
    assert capsys.readouterr().out == ""


def test_file_that_cannot_be_written_is_exit_code_2(tmp_path, capsys):
    """A missing folder is named before anything is looked up."""
    assert cli.main(["env", "--json", str(tmp_path / "no" / "env.json")]) == 2
    assert "is not a folder; create it first" in capsys.readouterr().err


def test_missing_torch_is_one_sentence(monkeypatch, capsys):
    """Without torch the command says so, with exit code 2."""
    monkeypatch.setattr(command_env, "torch_problem", lambda: "torch is not installed")
    assert cli.main(["env"]) == 2
    assert capsys.readouterr().err == "torchcheck env: torch is not installed\n"


def test_links_and_pipes_are_written_through(tmp_path, no_cuda):
    """A link stays a link and its target gets the JSON: replaced, /dev/stdout would be a file from then on."""
    (tmp_path / "link.json").symlink_to("target.json")
    assert cli.main(["env", "--json", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text())["torch"] == torch.__version__


def test_full_disk_is_exit_code_2(tmp_path, capsys, no_cuda):
    """What cannot be written is told in one sentence."""
    (tmp_path / "full.json").symlink_to("/dev/full")
    assert cli.main(["env", "--json", str(tmp_path / "full.json")]) == 2
    assert capsys.readouterr().err.endswith("full.json cannot be written: No space left on device\n")


def test_reader_that_has_seen_enough_is_no_error():
    """A pipe that is closed early makes no traceback."""
    command = f"{sys.executable} -m pytest_torchcheck.cli env | true"
    found = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in found.stderr
    assert "BrokenPipe" not in found.stderr


def test_version_is_told(capsys):
    """--version names the distribution and its version."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pytest-torchcheck {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["compare"], ["compare", "one.json"], ["fleet"], ["measure"]])
def test_incomplete_command_is_exit_code_2(arguments, capsys):
    """A command, a baseline or a candidate that is missing is a usage error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: torchcheck" in capsys.readouterr().err


def test_comparing_imports_no_torch(tmp_path):
    """Reading and comparing files needs no torch: a laptop without one can compare what a cluster measured."""
    from . import benchmark_files as files

    path = files.write(tmp_path / "a.json", [files.entry("test_a", [1e-3 + n * 1e-6 for n in range(30)])])
    code = (
        "import sys; from pytest_torchcheck import cli; "
        f"code = cli.main(['compare', {str(path)!r}, {str(path)!r}]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0
