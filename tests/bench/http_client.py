# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the machine: asks a web server all the time, changes it, and says how long that took until it was seen.

Reads from standard input, as JSON, a list of [preparation, command, version]: run the first, which takes no part in the
time, then the second, and wait for an answer that is `version`. Prints for each, as JSON, the seconds from the start of
the command to the end of the first such answer, and the seconds in which requests failed: from the first one that
failed to the next one that was answered.

A request is a connection of its own, and the next one is sent as soon as the last one was answered.
"""

import json
import socket
import subprocess
import sys
import threading
import time

ADDRESS = ("127.0.0.1", 8080)
WAIT_SEC = 30


class Client(threading.Thread):
    """The client."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        # The last answer, and when it was there.
        self.last = ("", 0.0)
        self.failed_sec = 0.0
        self.requests = 0

    def run(self) -> None:
        """Send requests until the program ends."""
        failing_since = 0.0
        while True:
            begin = time.monotonic()
            answer = _ask()
            end = time.monotonic()
            self.requests += 1
            if answer is None:
                failing_since = failing_since or begin
                time.sleep(0.001)
                continue
            if failing_since:
                self.failed_sec += end - failing_since
                failing_since = 0.0
            self.last = (answer, end)


def _ask() -> str | None:
    try:
        with socket.create_connection(ADDRESS, timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode().strip() if head.startswith(b"HTTP/1.1 200") else None


def main() -> int:
    """Do as the docstring says; return 1 if a version never came."""
    client = Client()
    client.start()
    results = []
    for preparation, command, version in json.load(sys.stdin):
        subprocess.run(["sh", "-euc", preparation], check=True)
        failed_before, requests_before = client.failed_sec, client.requests
        begin = time.monotonic()
        subprocess.run(command, check=True)
        while client.last[0] != version:
            if time.monotonic() > begin + WAIT_SEC:
                print(f"no answer {version!r} after {command}, but {client.last[0]!r}", file=sys.stderr)
                return 1
            time.sleep(0.0005)
        seen = client.last[1]
        # What the server does after its first new answer counts as well: old workers that go.
        time.sleep(0.2)
        results.append((seen - begin, client.failed_sec - failed_before, client.requests - requests_before))
    json.dump(results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
