# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place where programs are run."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from confext_helpers.errors import ConfextError


def output_of(*argv: str, timeout_sec: float = 10) -> str:
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


def page(text: str) -> bool:
    """Show `text` on the terminal in less(1), with the options that systemd uses; return whether it is installed.

    As in systemd, it is told not to run commands or to write files (less(1), "SECURITY"): it may have been root's only
    by a sudo(8) that allows nothing but this command.
    """
    environment = {**os.environ, "LESSSECURE": "1"}
    try:
        subprocess.run(["less", "-FRSXMK"], input=text.encode(errors="backslashreplace"), check=False, env=environment)
    except FileNotFoundError:
        return False
    return True


class Done(NamedTuple):
    """A program that has ended.

    Attributes:
        status: its exit status; negative if a signal ended it, as in subprocess.
        stdout: what it printed.
        stderr: what it complained about.
    """

    status: int
    stdout: str
    stderr: str


def complete(*argv: str, timeout_sec: float, environment: Mapping[str, str] | None = None, umask: int = -1) -> Done:
    """Run a program with no input to its end.

    Args:
        argv: the program and its arguments; no shell is involved.
        timeout_sec: after so many seconds it is killed.
        environment: all that it gets; None for this process's own.
        umask: that it gets; -1 for this process's own.

    Raises:
        ConfextError: it took too long.
        FileNotFoundError: there is no such program.
    """
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=timeout_sec, env=environment, umask=umask,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ConfextError(f"{argv[0]} was killed, it took longer than {timeout_sec:.0f} s") from None
    return Done(done.returncode, done.stdout, done.stderr)


class Bounded(NamedTuple):
    """A program that has ended, or was ended, within its bounds.

    Attributes:
        status: its exit status; negative if a signal ended it; None if it took too long.
        stdout: what it printed.
        stderr: what it complained about.
    """

    status: int | None
    stdout: bytes
    stderr: str


def run_confined(
    *argv: str, timeout_sec: float, output_max: int, memory_max: int, descriptors: Sequence[int] = ()
) -> Bounded:
    """Run a program that reads data which nobody trusts: with no input, and with limits on all that it may take.

    Args:
        argv: the program and its arguments; /proc/self/fd/N in them is a descriptor that is handed on. Looked for in
            the directories for administrators as well, which other users do not have in their $PATH.
        timeout_sec: after so many seconds it is killed.
        output_max: how much it may print or write, in bytes; a signal ends it when it goes on.
        memory_max: its address space, in bytes.
        descriptors: descriptors that it gets, under their own numbers.

    Raises:
        FileNotFoundError: there is no such program.
    """
    limits = (
        (resource.RLIMIT_FSIZE, output_max),
        (resource.RLIMIT_AS, memory_max),
        (resource.RLIMIT_CPU, int(timeout_sec) + 1),
        (resource.RLIMIT_CORE, 0),
    )

    def limit() -> None:
        for kind, most in limits:
            resource.setrlimit(kind, (most, most))

    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    environment = {"PATH": path, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    # Files in memory and not pipes: nobody has to read while the program runs, and the limit on files holds for them.
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(os.fdopen(os.memfd_create("stdout"), "rb"))
        err = stack.enter_context(os.fdopen(os.memfd_create("stderr"), "rb"))
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, pass_fds=tuple(descriptors),
            preexec_fn=limit, start_new_session=True,
        )  # fmt: skip
        status: int | None = None
        try:
            status = process.wait(timeout_sec)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # What it may have started is in the same group, which nothing else can be in while it is not reaped.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        return Bounded(status, out.read(), err.read().decode(errors="replace"))
