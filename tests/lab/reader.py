#!/usr/bin/python3 -IS
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service of the tests: reads its configuration as fast as it can and counts what it saw.

Runs in the machines, under any sandbox and as any Type=. Options: --type=TYPE as in the unit; --idle does not read;
--hold keeps the first directories open.
On SIGUSR1 it prints its counts as a line of JSON and starts anew; on SIGHUP it says which version it reads then.
"""

import json
import os
import signal
import socket
import sys
import time

counts: dict[str, int] = {}
wanted: list[str] = []
held: list[int] = []
SIGNALS: dict[int, str] = {signal.SIGUSR1: "report", signal.SIGHUP: "reload"}


def notify(text: str) -> None:
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(text.encode())


def read_at(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(fd, 100).decode().strip()
    finally:
        os.close(fd)


def peek(directory: int) -> None:
    """Count a secret that can be read."""
    try:
        if read_at(directory, "secret"):
            counts["secret"] = counts.get("secret", 0) + 1
    except OSError:
        pass


def look() -> str:
    """What is seen now: the version of the pair, or what is wrong with it."""
    for directory in held:
        peek(directory)
    try:
        directory = os.open("/etc/demo", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        return "base" if isinstance(error, FileNotFoundError) else f"error {error.errno}"
    try:
        first, second = read_at(directory, "a"), read_at(directory, "b")
        peek(directory)
        if "--hold" in sys.argv and len(held) < 3:
            # A directory that stays open while the tree that it is in is replaced.
            held.append(os.dup(directory))
        return first if first == second else "torn"
    except OSError as error:
        return f"error {error.errno}"
    finally:
        os.close(directory)


def main() -> None:
    kind = next((word.partition("=")[2] for word in sys.argv if word.startswith("--type=")), "simple")
    for number in SIGNALS:
        signal.signal(number, lambda number, _: wanted.append(SIGNALS[number]))
    if kind in ("forking", "oneshot") and os.fork():
        os._exit(0)
    if kind.startswith("notify"):
        notify("READY=1")
    idle = "--idle" in sys.argv
    if idle:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    while True:
        if idle:
            wanted.append(SIGNALS[signal.sigwait(SIGNALS)])
        else:
            seen = look()
            counts[seen] = counts.get(seen, 0) + 1
            # Leave something of the machine to those who make the changes.
            time.sleep(0.05)
        while wanted:
            if wanted.pop(0) == "report":
                print("counts", json.dumps(counts), flush=True)
                counts.clear()
            else:
                if kind == "notify-reload":
                    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
                print("reloaded", look(), flush=True)
                if kind == "notify-reload":
                    notify("READY=1")


if __name__ == "__main__":
    main()
