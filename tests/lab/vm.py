# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual machine to test against: one of the lab's trees with its own kernel, booted from the first instruction on.

What it has and a container of machine.py has not is a device mapper, hence dm-verity and signed images; memory and
pids controllers; and a boot in which the generators run before anything is mounted.

- The root directory is an overlay over the cached tree, shared with the guest by virtiofs: no disk image is made, and
  before the boot everything can be put into it at the host's speed, see native().
- QEMU emulates the processor. That is some thirty times slower than the machine it runs on, so one boot serves many
  tests. KVM is not used where it is there: not every place that has /dev/kvm can run a stock kernel on it.
- Commands go through a virtio port to an agent in the guest, agent.sh.
"""

from __future__ import annotations

import base64
import contextlib
import os
import platform
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from lab import rootfs

ROOT = "/run/unit-confext-vm/root"
MEMORY = "1G"
BOOT_TIMEOUT_SEC = 600
_SCRIPT = Path(__file__).with_name("vm.sh")
_AGENT = Path(__file__).with_name("agent.sh")
# Of qemu-system-common in Debian 12, and of virtiofsd since.
_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
_QEMU = "qemu-system-x86_64"

_AGENT_UNIT = """\
[Unit]
Description=Runs the commands of the tests
After=multi-user.target dev-virtio\\x2dports-unit\\x2dconfext.agent.device
Requires=dev-virtio\\x2dports-unit\\x2dconfext.agent.device
[Service]
Type=exec
ExecStart=/usr/lib/lab/agent.sh
Environment=LC_ALL=C.UTF-8 SYSTEMD_PAGER= HOME=/root
OOMScoreAdjust=-900
"""


def missing_capability() -> str | None:
    """Say which capability for running a virtual machine is missing here, or None if all are there."""
    if os.geteuid() != 0:
        return "not root"
    if platform.machine() != "x86_64":
        return f"the lab has no kernel for {platform.machine()}"
    for tool in (_QEMU, "unshare", "nsenter", "setpriv", "chroot"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    if _virtiofsd() is None:
        return "no virtiofsd"
    cached = all(path(s).is_dir() for s in rootfs.SUITES for path in (rootfs.path_of, rootfs.kernel_path_of))
    if shutil.which("mmdebstrap") is None and not cached:
        return "no mmdebstrap(1) and no cached root file systems and kernels"
    return None


def _virtiofsd() -> str | None:
    return next((path for path in _VIRTIOFSD if os.access(path, os.X_OK)), None)


class Vm:
    """One virtual machine; use as a context manager. It is not booted yet then, so that it can be furnished.

    Args:
        suite: "trixie" or "forky", see rootfs.SUITES.
        share: a directory that native commands see as /run/host/share. The guest does not see it.
    """

    def __init__(self, suite: str, *, share: Path) -> None:
        self.suite = suite
        self.version = rootfs.SUITES[suite]
        self._share = share
        self._kernel = Path()
        self._holder: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._agent: socket.socket | None = None
        self._received = b""
        self._scratch = tempfile.TemporaryDirectory(prefix="unit-confext-vm-")
        self._console = Path(self._scratch.name) / "console"

    def __enter__(self) -> Vm:
        try:
            self._mount()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _mount(self) -> None:
        tree, self._kernel = rootfs.ensure(self.suite), rootfs.ensure_kernel(self.suite)
        environment = {
            "PATH": os.environ["PATH"],
            "LOWER": str(tree),
            "KERNEL": str(self._kernel / "tree"),
        }
        self._holder = subprocess.Popen([str(_SCRIPT)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise RuntimeError("the tree for the virtual machine cannot be mounted")
        (modules,) = (self._kernel / "tree/usr/lib/modules").iterdir()
        self.native("depmod", modules.name)
        self.write("/usr/lib/lab/agent.sh", _AGENT.read_bytes(), 0o755)
        self.write("/etc/systemd/system/lab-agent.service", _AGENT_UNIT)
        # As if it had been booted before: no caches are made anew, systemd-update-done.service(8).
        self.native("touch", "/etc/.updated", "/var/.updated")
        self.write("/etc/hostname", f"vm-{self.suite}\n")
        self.write("/etc/systemd/system/multi-user.target.d/lab.conf", "[Unit]\nWants=lab-agent.service\n")

    def _in_namespace(self, *argv: str) -> list[str]:
        assert self._holder is not None
        return ["nsenter", "--target", str(self._holder.pid), "--mount", "--wdns=/", "--", *argv]

    def path(self, inside: str | Path) -> Path:
        """The outside path of the absolute path `inside`. Absolute links in it would lead out of the tree."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root{ROOT}") / str(inside).lstrip("/")

    def write(self, inside: str | Path, content: str | bytes, mode: int = 0o644) -> Path:
        """Write a file, with the directories above it; return its outside path. Before the boot only."""
        assert self._agent is None, "the guest would not notice"
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)
        return target

    def native(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `argv` with the guest's root directory, but outside of it and at the host's speed.

        Raises:
            AssertionError: it failed and `check` is set; the message has all of its output.
        """
        script = (
            f"mount --bind {shlex.quote(str(self._share))} {ROOT}/run/host/share; mount -t proc proc {ROOT}/proc; "
            f"mount --rbind /dev {ROOT}/dev; exec chroot {ROOT} /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/root "
            'LC_ALL=C.UTF-8 "$@"'
        )
        words = [str(word) for word in argv]
        inner = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "native", *words]
        done = subprocess.run(
            self._in_namespace(*inner), capture_output=True, text=True, errors="surrogateescape", check=False,
            stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        return _checked(words, done, check)

    def boot(self) -> None:
        """Boot it, and wait until multi-user.target is reached.

        Raises:
            RuntimeError: it does not boot; the message has the end of its console.
        """
        scratch = Path(self._scratch.name)
        shared, port = scratch / "fs", scratch / "agent"
        virtiofsd = _virtiofsd()
        assert virtiofsd is not None
        source = ["--shared-dir", ROOT, "--cache=auto"]
        if "qemu" in virtiofsd:
            source = ["-o", f"source={ROOT}", "-o", "cache=auto", "-o", "sandbox=chroot"]
        self._start(*self._in_namespace(virtiofsd, f"--socket-path={shared}", *source))
        self._await(shared.exists, 10)
        self._start(
            _QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35,memory-backend=memory", "-accel", "tcg",
            # A processor without AVX, whose emulation costs half of the speed. QEMU 7.2 gets the flags after cmpxchg16b
            # wrong, of which the memory allocator of Linux 6.12 dies; Debian runs on processors that do not have it.
            # One processor: of two, each emulated by a thread of its own, one may execute the int3 with which the other
            # one patches the kernel after that has forgotten it, and the kernel panics.
            "-cpu", "Nehalem,cx16=off", "-smp", "1",
            "-m", MEMORY, "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on",
            "-chardev", f"socket,id=fs,path={shared}", "-device", "vhost-user-fs-pci,chardev=fs,tag=root",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={port},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=unit-confext.agent",
            "-chardev", f"file,id=console,path={self._console}", "-serial", "chardev:console",
            "-kernel", str(self._kernel / "vmlinuz"),
            "-append", "console=ttyS0 root=root rootfstype=virtiofs rw init=/usr/lib/systemd/systemd quiet "
            "panic=-1 mitigations=off systemd.default_device_timeout_sec=600",
        )  # fmt: skip
        self._await(port.exists, 10)
        self._agent = socket.socket(socket.AF_UNIX)
        self._agent.connect(str(port))
        try:
            said = self._receive_line(BOOT_TIMEOUT_SEC)
        except TimeoutError:
            said = b""
        if said != b"ready":
            raise RuntimeError(f"{self.suite} does not boot:\n{self.console()}")

    def _start(self, *argv: str) -> None:
        log = self._console.with_name(f"log-{len(self._processes)}")
        with log.open("wb") as output:
            # Nobody stops it if the test runner is killed.
            self._processes.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            )

    def _await(self, predicate: object, timeout_sec: float) -> None:
        deadline = time.monotonic() + timeout_sec
        assert callable(predicate)
        while not predicate():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                logs = [log.read_text(errors="replace") for log in self._console.parent.glob("log-*")]
                raise RuntimeError("a part of the virtual machine does not start:\n" + "\n".join(logs))
            time.sleep(0.02)

    def _receive_line(self, timeout_sec: float) -> bytes:
        assert self._agent is not None
        deadline = time.monotonic() + timeout_sec
        while b"\n" not in self._received:
            readable, _, _ = select.select([self._agent], [], [], max(0.0, deadline - time.monotonic()))
            received = self._agent.recv(1 << 16) if readable else b""
            if not received:
                raise TimeoutError
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line

    def sh(self, script: str, *, check: bool = True, timeout: float = 120) -> str:
        """Run a shell script in the guest; return its standard output."""
        return self._run(["sh"], script, check, timeout).stdout

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the guest and return what it printed.

        Raises:
            AssertionError: it failed and `check` is set, or took too long; the message has all of its output.
        """
        words = [str(word) for word in argv]
        return self._run(words, f"exec {shlex.join(words)}", check, timeout)

    def _run(self, words: list[str], script: str, check: bool, timeout: float) -> subprocess.CompletedProcess[str]:
        assert self._agent is not None, "it is not booted"
        self._agent.sendall(base64.b64encode(script.encode(errors="surrogateescape")) + b"\n")
        try:
            status, stdout, stderr = (self._receive_line(timeout) for _ in range(3))
        except TimeoutError:
            raise AssertionError(f"{shlex.join(words)}: no answer\n{self.console()}") from None
        texts = [base64.b64decode(text).decode(errors="surrogateescape") for text in (stdout, stderr)]
        return _checked(words, subprocess.CompletedProcess(words, int(status), *texts), check)

    def systemctl(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """systemctl(1) in the guest."""
        return self.run("systemctl", *argv, check=check)

    def show(self, unit: str, name: str) -> str:
        """The value of one property of a unit, as systemctl shows it."""
        return self.systemctl("show", "--value", "-p", name, "--", unit).stdout.removesuffix("\n")

    def console(self) -> str:
        """The end of what the guest's kernel said."""
        return self._console.read_text(errors="replace")[-4000:] if self._console.exists() else ""

    def stop(self) -> None:
        """Switch it off and remove everything that was written."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self._processes.clear()
        if self._holder is not None:
            self._holder.communicate()
            self._holder = None
        self._scratch.cleanup()


def _checked(words: list[str], done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done
