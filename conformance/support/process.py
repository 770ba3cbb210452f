"""Run a piece of Python in a fresh interpreter, with a time limit and its output in the failure message."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path


def run_python(
    code: str,
    *args: str,
    timeout_s: float = 120.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    expect_failure: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with ``sys.argv[1:] == args`` in a child of this interpreter and return what it printed.

    Raises:
        AssertionError: when the child exits non-zero (or zero, with ``expect_failure``) or outlasts ``timeout_s``
            seconds; the message holds the end of its output.
    """
    __tracebackhide__ = True
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=cwd, check=False
        )
    except subprocess.TimeoutExpired as error:
        tail = error.stderr.decode(errors="replace")[-2000:] if error.stderr else "(nothing)"
        raise AssertionError(f"the child process was still running after {timeout_s} s; it printed: {tail}") from None
    if (done.returncode != 0) is not expect_failure:
        raise AssertionError(
            f"the child process ended with status {done.returncode}\n"
            f"--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}"
        )
    return done
