"""The one place where programs are run."""

from __future__ import annotations

import subprocess


def run(*argv: str, timeout_sec: float = 10) -> str:
    """Run a program with no input and return its standard output, whatever its exit status.

    Args:
        argv: the program and its arguments; no shell is involved.
        timeout_sec: after so many seconds it is killed, and what it printed until then is lost.
    """
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_sec
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
