# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make demo`: the way of an image into a running nginx, on a throwaway Debian 13, with every claim checked.

Boots the tree that the tests use, installs this checkout in it, and does what an administrator would do. The standard
library is enough to run it. What it prints is for people; what it returns is for scripts: 0 only if everything was as
it said.
"""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import NoReturn

from lab import images, rootfs
from lab.machine import Machine, missing_capability

SUITE = "trixie"
UNIT = "nginx.service"
LAYERS = f"/etc/systemd/system/{UNIT}.confext.d"
CHECKOUT = Path(__file__).parents[2]
URL = "http://localhost:8080"

# nginx finishes a reload after `systemctl reload` has returned: it starts new workers, then lets the old ones go.
ANSWER_TIMEOUT_SEC = 10.0

_SERVER = """\
server {{
    listen 8080;
    location = / {{ default_type text/plain; return 200 "{text}\\n"; }}
    include /etc/nginx/site.d/*.conf;
}}
"""
_LOCATION = 'location = /hello { default_type text/plain; return 200 "hello\\n"; }\n'


class DemoError(Exception):
    """Something was not as the demo said."""


def site(text: str) -> dict[str, str]:
    """The files of the first image: a server that answers `text`."""
    return {"nginx/conf.d/site.conf": _SERVER.format(text=text)}


class Demo:
    """Runs commands in the machine, tells about them, and checks what comes of them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._process = ""

    def command(self, *argv: str) -> None:
        """Show a command and run it."""
        print(f"   # {' '.join(argv)}", flush=True)
        done = self._machine.run(*argv, check=False)
        if done.returncode != 0:
            raise DemoError(f"`{' '.join(argv)}` failed: {(done.stderr or done.stdout).strip()}")

    def refused(self, *argv: str) -> None:
        """Show a command, run it, and show how it fails."""
        print(f"   # {' '.join(argv)}", flush=True)
        done = self._machine.run(*argv, check=False)
        if done.returncode == 0:
            raise DemoError(f"`{' '.join(argv)}` should have failed")
        print(f"   {done.stderr.strip().splitlines()[0]}")

    def image(self, name: str, files: dict[str, str], verb: str) -> None:
        """Build an image and have it appear under its final name in one rename, as every image should."""
        images.build(self._machine, f"{LAYERS}/{name}.raw", files)
        print(f"   {verb} {name}.raw, an erofs image with {', '.join(f'/etc/{path}' for path in files)}")

    def broken_image(self, name: str) -> None:
        """Have an image appear that is none."""
        self._machine.sh(f"head -c 65536 /dev/urandom >{LAYERS}/.{name} && mv {LAYERS}/.{name} {LAYERS}/{name}.raw")
        print(f"   new: {name}.raw, 64 KiB of noise")

    def remember_process(self) -> None:
        """Note which process nginx is, for check_process()."""
        self._process = self._identify()
        print(f"   nginx runs, its main PID is {self._machine.show(UNIT, 'MainPID')}")

    def check_process(self) -> None:
        """Check that nginx was never restarted."""
        if self._identify() != self._process:
            raise DemoError(f"nginx was restarted: {self._process} became {self._identify()}")
        print(f"   the main PID is still {self._machine.show(UNIT, 'MainPID')}")

    def _identify(self) -> str:
        names = ("MainPID", "ExecMainStartTimestampMonotonic", "InvocationID", "ActiveState")
        return " ".join(f"{name}={self._machine.show(UNIT, name)}" for name in names)

    def expect(self, path: str, text: str, *, status: int = 200) -> None:
        """Check that nginx answers `path` with `status` and `text` (any text if that is empty)."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_SEC
        while (answer := self._get(path)) != (status, text) and not (answer[0] == status and not text):
            if time.monotonic() > deadline:
                raise DemoError(f"{path} should answer {status} {text!r}, but answers {answer[0]} {answer[1]!r}")
            time.sleep(0.05)
        print(f"   # curl {URL}{path}  ->  {text or status}", flush=True)

    def _get(self, path: str) -> tuple[int, str]:
        form = "\n%{http_code}"
        done = self._machine.run("curl", "-s", "-m", "5", "-w", form, f"{URL}{path}", check=False)
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body.strip()

    def check_host(self) -> None:
        """Check that nobody but the service sees the files."""
        found = self._machine.sh("ls -A /etc/nginx/conf.d /etc/nginx/site.d 2>/dev/null || true")
        if "site.conf" in found or "hello.conf" in found:
            raise DemoError(f"the files are in the machine's own /etc:\n{found}")
        print("   the machine's own /etc/nginx has none of these files")

    def journal(self) -> None:
        """Show the last thing that the hook said in the service's journal."""
        said = [line for line in self._machine.journal("-u", UNIT, "-t", "unit-confext").splitlines() if line]
        if not said:
            raise DemoError("the hook left no line in the journal of nginx")
        print(f"   # journalctl -u nginx  ->  {textwrap.shorten(said[-1], 120, placeholder=' ...')}", flush=True)


def show(machine: Machine) -> None:
    """Tell the story.

    Raises:
        DemoError: something was not as told.
    """
    demo = Demo(machine)
    print("1. nginx gets a site from an image.", flush=True)
    demo.image("10-site", site("version 1"), "new:")
    demo.command("systemctl", "daemon-reload")
    demo.command("systemctl", "start", "nginx")
    demo.remember_process()
    demo.expect("/", "version 1")
    demo.check_host()

    print("2. The image is replaced. nginx goes on running.")
    demo.image("10-site", site("version 2"), "replaced:")
    demo.expect("/", "version 1")
    demo.command("systemctl", "daemon-reload")
    demo.command("systemctl", "reload", "nginx")
    demo.expect("/", "version 2")
    demo.check_process()
    demo.journal()

    print("3. A second image is laid over the first.")
    demo.image("20-hello", {"nginx/site.d/hello.conf": _LOCATION}, "new:")
    demo.command("systemctl", "daemon-reload")
    demo.command("systemctl", "reload", "nginx")
    demo.expect("/hello", "hello")
    demo.expect("/", "version 2")

    print("4. It is taken away again.")
    demo.command("rm", f"{LAYERS}/20-hello.raw")
    demo.command("systemctl", "daemon-reload")
    demo.command("systemctl", "reload", "nginx")
    demo.expect("/hello", "", status=404)

    print("5. An image that is broken is refused, and nginx goes on with what it has.")
    demo.broken_image("30-broken")
    demo.command("systemctl", "daemon-reload")
    demo.refused("systemctl", "reload", "nginx")
    demo.journal()
    demo.expect("/", "version 2")
    demo.check_process()


def fail(text: str) -> NoReturn:
    """End with one line."""
    print(f"demo: {text}", file=sys.stderr)
    sys.exit(1)


def main() -> int:
    """Run the demo; return 0, or exit with 1 and a line that says what was not as told."""
    # A stop from outside must clean up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if (missing := missing_capability()) is not None:
        fail(f"cannot boot a systemd here: {missing}")
    if not rootfs.path_of(SUITE).is_dir():
        print("Fetching Debian 13 (once, a minute or two).", flush=True)
    started = time.monotonic()
    try:
        with Machine(SUITE, share=CHECKOUT, udev=True) as machine:
            version = machine.run("systemctl", "--version").stdout.split()[1]
            machine.run("make", "-s", "-C", "/run/host/share", "install")
            print(f"A throwaway Debian 13 runs, with systemd {version}; `make install` has put this build into it.")
            print(f"Images for nginx go into {LAYERS}/.", flush=True)
            try:
                show(machine)
            except DemoError:
                print(machine.journal("-n", "20", "-p", "info"), file=sys.stderr)
                raise
    except (DemoError, AssertionError, RuntimeError) as error:
        fail(f"FAILED: {error}")
    except KeyboardInterrupt:
        return 130
    print(f"All as said, in {time.monotonic() - started:.0f} s. The machine is gone again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
