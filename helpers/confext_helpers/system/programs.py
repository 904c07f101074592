# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run programs. No other module starts any."""

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
        timeout_sec: after so many seconds the program is killed, and its output is lost.
    """
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_sec
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def page(text: str) -> bool:
    """Show `text` on the terminal in less(1), with systemd's options; return whether less is installed.

    As in systemd, less must not run commands or write files (less(1), "SECURITY"): the user may have become root by a
    sudo(8) rule that allows only this command.
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
        status: the exit status; the negative signal number if a signal killed the program, as in subprocess.
        stdout: the standard output.
        stderr: the standard error.
    """

    status: int
    stdout: str
    stderr: str


def complete(*argv: str, timeout_sec: float, environment: Mapping[str, str] | None = None, umask: int = -1) -> Done:
    """Run a program with no input, and wait for its end.

    Args:
        argv: the program and its arguments; no shell is involved.
        timeout_sec: after so many seconds the program is killed.
        environment: the program's whole environment; None for this process's own.
        umask: the program's umask; -1 for this process's own.

    Raises:
        ConfextError: the program took too long.
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
    """A program that has ended, or was killed because it exceeded its limits.

    Attributes:
        status: the exit status; the negative signal number if a signal killed the program; None if it took too long.
        stdout: the standard output.
        stderr: the standard error.
    """

    status: int | None
    stdout: bytes
    stderr: str


def run_confined(
    *argv: str, timeout_sec: float, output_max: int, memory_max: int, descriptors: Sequence[int] = ()
) -> Bounded:
    """Run a program on untrusted data: with no input, and with limits on all resources.

    Args:
        argv: the program and its arguments, in which /proc/self/fd/N may name one of `descriptors`. The program is also
            searched for in the sbin directories, which are not in the $PATH of normal users.
        timeout_sec: after so many seconds the program is killed.
        output_max: the maximum size of its output and of any file it writes, in bytes; a signal kills it beyond that.
        memory_max: the maximum size of its address space, in bytes.
        descriptors: file descriptors that the program inherits, under the same numbers.

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
    # Use memfds instead of pipes: nobody has to read them while the program runs, and RLIMIT_FSIZE applies to them.
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
            # Kill the process group, for the program's children. Until the program is reaped, its ID is not reused.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        return Bounded(status, out.read(), err.read().decode(errors="replace"))
