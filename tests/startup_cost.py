"""Measure what the installed and unused plugin adds to the start of pytest.

    python tests/startup_cost.py [--pairs 60] [--limit 1.03]

Two fresh environments hold pytest, one of them this plugin's wheel too. Whole pytest processes on a suite of one
empty test run in pairs, one in each environment, in alternating order. What counts is the ratio within a pair: both
runs see the same machine. The figures are the median of the ratios and its 95% interval (order statistics, no
assumption about the distribution), for the time on the clock and for the processor time, which a busy machine disturbs
less. The exit status is 1 when the whole interval of the processor time lies above the limit.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SUITE = "def test_nothing():\n    pass\n"
WARM_UP = 3


class Cost(NamedTuple):
    """What one process took, in seconds."""

    clock_s: float
    processor_s: float


def make_environment(place: Path, *packages: str) -> Path:
    """Create an environment with pytest and the packages, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "pytest", "packaging", *packages], check=True)
    return python


def run_once(command: Sequence[str], directory: Path) -> Cost:
    """Run one pytest to its end.

    Raises:
        RuntimeError: when it does not pass.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    clock_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return Cost(clock_s, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def measure(without: Sequence[str], with_plugin: Sequence[str], directory: Path, pairs: int) -> list[tuple[Cost, Cost]]:
    """Run the two commands in pairs, in alternating order, after a warm-up that fills the caches of compiled code."""
    for command in (without, with_plugin) * WARM_UP:
        run_once(command, directory)
    costs = []
    for number in range(pairs):
        if number % 2:
            second, first = run_once(with_plugin, directory), run_once(without, directory)
        else:
            first, second = run_once(without, directory), run_once(with_plugin, directory)
        costs.append((first, second))
    return costs


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval for the median between two order statistics that holds it with this confidence.

    The number of values below the median follows the binomial law of fair coins; the whole range is returned where
    the values are too few for the confidence.
    """
    ordered, n = sorted(values), len(values)
    rank, below = 0, math.comb(n, 0) / 2**n
    while rank + 1 < n / 2 and 2 * (below + math.comb(n, rank + 1) / 2**n) <= 1 - confidence:
        rank += 1
        below += math.comb(n, rank) / 2**n
    return ordered[rank], ordered[n - 1 - rank]


def summary(what: str, pairs: Sequence[tuple[float, float]]) -> str:
    """Say what the ratio of the second to the first is, and how sure that is."""
    ratios = [second / first for first, second in pairs]
    low, high = median_interval(ratios)
    return (
        f"{what:<10} {median(ratios):.4f}x  (95% interval {low:.4f} to {high:.4f}; {len(pairs)} pairs; "
        f"{1e3 * median(first for first, _ in pairs):.0f} ms without, "
        f"{1e3 * median(second for _, second in pairs):.0f} ms with the plugin)"
    )


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--limit", type=float, default=1.03, help="largest ratio that passes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        suite = Path(place, "suite")
        suite.mkdir()
        (suite / "test_nothing.py").write_text(SUITE)
        pythons = make_environment(Path(place, "without")), make_environment(Path(place, "with"), str(ROOT))
        without, with_plugin = ([str(python), "-m", "pytest", "-q"] for python in pythons)
        costs = measure(without, with_plugin, suite, options.pairs)
    print(summary("clock", [(first.clock_s, second.clock_s) for first, second in costs]))
    processor = [(first.processor_s, second.processor_s) for first, second in costs]
    print(summary("processor", processor))
    low, _ = median_interval([second / first for first, second in processor])
    return int(low > options.limit)


if __name__ == "__main__":
    sys.exit(main())
