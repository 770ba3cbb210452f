"""The command ``torchcheck``: compare | fleet | env | report.

Exit status: 0 fine, 1 a gate failed, 2 the command could not do what it was asked to (with the reason, one sentence).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_torchcheck import __version__
from pytest_torchcheck.command import CommandError

FINE, GATE_FAILED, UNUSABLE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; ``arguments`` are those of the command line by default."""
    options = _parser().parse_args(arguments)
    status: int | None = None
    try:
        status = options.run(options)
        sys.stdout.flush()  # here, where a closed pipe is caught, and not when the interpreter exits
        return status
    except CommandError as error:
        print(f"torchcheck {options.command}: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:  # the reader of a pipe has seen enough; nothing may be flushed into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return options.run(options) if status is None else status  # a gate that fails has failed, read or not


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torchcheck", description="Compare benchmarks and reports; tell the machine.")
    parser.add_argument("--version", action="version", version=f"pytest-torchcheck {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_fleet(commands)
    _add_env(commands)
    _add_report(commands)
    return parser


_Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add_compare(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare benchmark files, or conformance reports, with a baseline",
        description="Compare result files of pytest-benchmark, or reports of the conformance suite, with a baseline. "
        "A folder or a quoted pattern stands for several runs of one side.",
    )
    parser.add_argument("baseline", metavar="BASE", help="the file or folder that the others are compared with")
    parser.add_argument("candidates", metavar="NEW", nargs="+", help="a file or folder to compare")
    parser.add_argument("--margin", default="5%", help="the change that matters, 0.05 or 5%% (default)")
    parser.add_argument(
        "--by",
        default="argument",
        choices=("argument", "file", "device", "torch"),
        help="what makes files one candidate (default: argument)",
    )
    parser.add_argument(
        "--fail-on",
        metavar="LIST",
        help="verdicts that make the exit status 1: slower,invalid,missing (default), faster, inconclusive, "
        "incomparable, none; for conformance reports: broken,not-run (default)",
    )
    _add_outputs(parser)
    parser.set_defaults(run=_compare)


def _add_fleet(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "fleet",
        help="find the slow devices among many of one model",
        description="Compare the result files in a folder, one per device, with the middle of their like.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder with the files")
    _add_outputs(parser)
    parser.set_defaults(run=_fleet)


def _add_env(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("env", help="tell what this machine and this torch are")
    parser.add_argument("--json", nargs="?", const="-", metavar="PATH", help="as JSON, to PATH or to standard output")
    parser.add_argument(
        "--uuids",
        action="store_true",
        help="the UUID of each GPU that is visible here, one a line, as CUDA_VISIBLE_DEVICES takes them",
    )
    parser.set_defaults(run=_env)


def _add_report(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="turn a saved JSON report of the conformance suite into another form",
        description="Show a saved JSON report of the conformance suite, or write it in another form.",
    )
    parser.add_argument("report", metavar="REPORT", help="the .json file that --torchcheck-report has written")
    parser.add_argument("output", metavar="PATH", nargs="*", help="what to write: .md, .html, .xml or .json")
    parser.set_defaults(run=_report)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="PATH", help="write the result as JSON")
    parser.add_argument("--html", metavar="PATH", help="write one self-contained page with the plots inside")
    parser.add_argument("--plot", metavar="PATH", help="write the plots: to a folder, or to a .png, .svg or .pdf file")


def _compare(options: argparse.Namespace) -> int:
    from pytest_torchcheck.benchmark import commands

    return commands.compare(options)


def _fleet(options: argparse.Namespace) -> int:
    from pytest_torchcheck.benchmark import commands

    return commands.fleet(options)


def _env(options: argparse.Namespace) -> int:
    from pytest_torchcheck import command_env

    return command_env.run(options)


def _report(options: argparse.Namespace) -> int:
    from pytest_torchcheck.report import command

    return command.run(options)


if __name__ == "__main__":
    sys.exit(main())
