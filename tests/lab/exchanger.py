# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exchanges two directories as fast as it can: systemd makes a mount in one, and executes what is in the other.

    exchanger.py TOP NAME PROGRAM [leave]

Below TOP there are NAME and NAME.x, and in both a file `unit-confext/loader` with what is in PROGRAM, or just a file
`loader` if NAME is `unit-confext`. With `leave`, the process first leaves the mounts of its service behind, as root in
a user namespace, and works on the directory that is below them.
"""

import ctypes
import os
import sys
import time

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_BIND, MNT_DETACH, RENAME_EXCHANGE = 0x1000, 2, 2

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    """Raise what went wrong in a call of libc."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(top: str, name: str, program: str, *flags: str) -> None:
    """Do it, for good."""
    with open(program, "rb") as file:
        content = file.read()
    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    if "leave" in flags:
        # The main process stays where it is: the hook does not touch a namespace that systemd has not made.
        if os.fork():
            time.sleep(1_000_000)
        os.makedirs("/new", exist_ok=True)
        check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
        check(libc.mount(b"/new", b"/new", None, MS_BIND, None))
        os.chdir("/new")
        check(libc.pivot_root(b".", b"."))
        check(libc.umount2(b".", MNT_DETACH))
    for place in (name, f"{name}.x"):
        path = place
        for part in [place] if name == "unit-confext" else [place, "unit-confext"]:
            path = part if part == place else f"{place}/{part}"
            try:
                os.mkdir(path, 0o755, dir_fd=directory)
            except FileExistsError:
                continue
        try:
            loader = os.open(f"{path}/loader", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o755, dir_fd=directory)
        except OSError:
            continue  # Something is mounted there.
        os.write(loader, content)
        os.close(loader)
    one, other = name.encode(), f"{name}.x".encode()
    while True:
        libc.renameat2(directory, one, directory, other, RENAME_EXCHANGE)
        time.sleep(0.0007)


if __name__ == "__main__":
    main(*sys.argv[1:])
