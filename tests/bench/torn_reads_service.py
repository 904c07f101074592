# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the machine as a service: reads a pair of files again and again, and counts what it saw.

On SIGUSR1 it prints the counts as a line of JSON: pairs by version, `torn` for two files of different versions, `base`
where the layer is not there at all, `failed` for all other errors.
"""

import json
import os
import signal
import time

# Leaves the processor to the reload that is watched.
PAUSE_SEC = 0.002

counts = {"torn": 0, "base": 0, "failed": 0}


def read_at(directory: int, name: str) -> str:
    """The contents of a small file."""
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(fd, 100).decode().strip()
    finally:
        os.close(fd)


def look() -> str:
    """What is seen now."""
    try:
        directory = os.open("/etc/demo", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return "base"
    except OSError:
        return "failed"
    try:
        # Both through one directory, which is of one tree: a path would be of the tree that is there at that moment.
        first, second = read_at(directory, "a"), read_at(directory, "b")
    except OSError:
        return "failed"
    finally:
        os.close(directory)
    return first if first == second else "torn"


def main() -> None:
    """Look until the service is stopped."""
    signal.signal(signal.SIGUSR1, lambda *_: print("counts", json.dumps(counts), flush=True))
    while True:
        seen = look()
        counts[seen] = counts.get(seen, 0) + 1
        time.sleep(PAUSE_SEC)


if __name__ == "__main__":
    main()
