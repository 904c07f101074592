# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted systemd to test against: a Debian tree run as PID 1 of namespaces of its own.

The machine that the tests run on may have another init, the old cgroup layout, or be a container itself, so neither
nspawn's nor machined's conveniences are taken for granted. What matters is:

- The starting process sits in a cgroup of its own before the cgroup namespace is made. Two systemds in one cgroup
  would clean up each other's services.
- Everything is mounted in a mount namespace that dies with PID 1; the cached tree is only ever a lower directory.
- Readiness is systemd's own READY=1 on `$NOTIFY_SOCKET`, as for any container manager: nothing is polled.
- Files are read and written through `/proc/PID/root`, commands run through nsenter(1).
- Several may run at a time. What the kernel has once for all of them is theirs alone as far as it goes: the log (see
  kernellog.py) and the lock of /dev/loop-control. Loop devices everybody sees; `file_systems` tells whose.
- udevd runs only where it is asked for: it opens each loop device of every machine, and PID 1 makes a unit of it. That
  is half of what a reload costs here, and systemd needs it for no image of a service.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from lab import rootfs
from lab.kernellog import KernelLog

BOOT = Path(__file__).with_name("boot.sh")
READY_TIMEOUT_SEC = 120


def missing_capability() -> str | None:
    """Say which capability for booting a systemd is missing here, or None if all are there."""
    if os.geteuid() != 0:
        return "not root"
    if not os.path.exists("/dev/loop-control"):
        return "no /dev/loop-control"
    if _cgroup2() is None:
        return "no cgroup2 mount"
    for tool in ("unshare", "nsenter", "pivot_root", "ip"):
        if shutil.which(tool) is None:
            return f"no {tool}(8)"
    if shutil.which("mmdebstrap") is None and not all(rootfs.path_of(s).is_dir() for s in rootfs.SUITES):
        return "no mmdebstrap(1) and no cached root file systems"
    return None


def _cgroup2() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


class Machine:
    """One booted system; use as a context manager.

    Args:
        suite: "trixie" or "forky", see rootfs.SUITES.
        copy: boot a full copy on a tmpfs instead of an overlay (slower; where `/` must not be an overlay, since
            overlays nest two deep at most).
        share: a directory of the host to show at /run/host/share.
        more: packages to have besides those of every machine, see rootfs.ensure().
        udev: run udevd in it.
    """

    def __init__(
        self,
        suite: str,
        *,
        copy: bool = False,
        share: Path | None = None,
        more: tuple[str, ...] = (),
        udev: bool = False,
    ) -> None:
        self.suite = suite
        self.version = rootfs.SUITES[suite]
        self.pid = 0
        self._copy = copy
        self._share = share
        self._more = more
        self._udev = udev
        self._root_device = 0
        self._log: KernelLog | None = None
        self._unshare: subprocess.Popen[bytes] | None = None
        self._cgroup: Path | None = None

    def __enter__(self) -> Machine:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _start(self) -> None:
        lower = rootfs.ensure(self.suite, self._more)
        cgroup2 = _cgroup2()
        assert cgroup2 is not None
        self._cgroup = Path(tempfile.mkdtemp(prefix="unit-confext-lab-", dir=cgroup2))
        self._log = KernelLog()
        with tempfile.TemporaryDirectory(prefix="unit-confext-lab-") as scratch:
            notify = Path(scratch) / "notify"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
                ready.bind(str(notify))
                environment = {
                    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "LOWER": str(lower),
                    "CGROUP": str(self._cgroup),
                    "NOTIFY": str(notify),
                    "KMSG": self._log.path,
                    "NAME": f"lab-{self.suite}",
                }
                if self._copy:
                    environment["COPY"] = "1"
                if self._udev:
                    environment["UDEV"] = "1"
                if self._share is not None:
                    environment["SHARE"] = str(self._share)
                console = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the machine
                self._unshare = subprocess.Popen(
                    [str(BOOT)], env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console
                )
                try:
                    self._await_ready(ready)
                except TimeoutError:
                    console.seek(0)
                    output = console.read().decode(errors="replace")[-3000:]
                    raise RuntimeError(f"{self.suite} did not boot:\n{output}") from None
        self.pid = self._find_pid1()
        # Of a file in an overlay, the device is that of the directory it is written to.
        with tempfile.NamedTemporaryFile(dir=self.path("/var/tmp")) as file:
            self._root_device = os.fstat(file.fileno()).st_dev

    def _await_ready(self, ready: socket.socket) -> None:
        assert self._unshare is not None
        deadline = time.monotonic() + READY_TIMEOUT_SEC
        while time.monotonic() < deadline:
            ready.settimeout(1)
            with contextlib.suppress(TimeoutError):
                if "READY=1" in ready.recv(4096).decode().split("\n"):
                    return
            if self._unshare.poll() is not None:
                break
        raise TimeoutError

    def _find_pid1(self) -> int:
        assert self._unshare is not None
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        return int(children.read_text().split()[0])

    def stop(self) -> None:
        """Kill the machine's PID 1, and with it everything in its PID namespace; remove its cgroups."""
        if self._unshare is not None:
            if self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            else:
                self._unshare.kill()
            self._unshare.wait()
            self._unshare = None
            self.pid = 0
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._cgroup is not None:
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            self._cgroup = None

    @property
    def root(self) -> Path:
        """The machine's root directory, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def file_systems(self) -> set[str]:
        """The file systems that its files are on, as MAJOR:MINOR."""
        mounted = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        root = f"{os.major(self._root_device)}:{os.minor(self._root_device)}"
        return {root, *(line.split()[2] for line in mounted)}

    def path(self, inside: str | Path) -> Path:
        """The outside path of the absolute path `inside`. Absolute links in it would lead out of the machine."""
        return self.root / str(inside).lstrip("/")

    def command(self, *argv: str | Path) -> list[str]:
        """The command line that runs `argv` in the machine, for subprocess."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER="]
        return [*enter, "--root", "--wdns=/", "--", *clean, *(str(word) for word in argv)]

    def run(
        self, *argv: str | Path, check: bool = True, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the machine and return what it printed.

        Raises:
            AssertionError: it failed and `check` is set; the message has all of its output.
        """
        done = subprocess.run(
            self.command(*argv), capture_output=True, text=True, errors="surrogateescape", check=False,
            timeout=timeout, **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
        )  # fmt: skip
        if check and done.returncode != 0:
            words = " ".join(str(word) for word in argv)
            raise AssertionError(f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script in the machine; return its standard output."""
        return self.run("sh", "-euc", script, check=check).stdout

    def systemctl(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """systemctl(1) in the machine."""
        return self.run("systemctl", *argv, check=check)

    def show(self, unit: str, name: str) -> str:
        """The value of one property of a unit, as systemctl shows it."""
        return self.systemctl("show", "--value", "-p", name, "--", unit).stdout.removesuffix("\n")

    def write(self, inside: str | Path, content: str | bytes, mode: int = 0o644) -> Path:
        """Write a file in the machine, with the directories above it; return its outside path."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)
        return target

    def journal(self, *argv: str) -> str:
        """The journal's messages (short-less: the text alone), after everything logged so far is in it."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-b", "--no-pager", "-q", "-o", "cat", *argv).stdout
