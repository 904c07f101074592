# SPDX-License-Identifier: LGPL-2.1-or-later
"""The services that the invariant is tested with, and what a service sees.

Each is one reader (reader.py) under other settings. Each has a twin of the same settings, which is restarted where
the service is reloaded: what the two see has to be the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.machine import Machine

READER = "/usr/lib/lab/reader.py"
ROOT = "/srv/root"
ROOT_IMAGE = "/srv/root.raw"
# <linux/loop.h>: struct loop_info64 begins with the device that the file is on.
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO_SIZE = 232
# Not /usr itself: that is a hierarchy of sysexts, and where there are extensions, systemd drops a bind mount on it.
_USR = "BindReadOnlyPaths=/usr/bin /usr/lib /usr/lib64\n"

SETTINGS = {
    "plain": "",
    "user": "User=daemon",
    "dynamic-user": "DynamicUser=yes",
    "private-users": "PrivateUsers=yes",
    "private-devices": "PrivateDevices=yes",
    "private-network": "PrivateNetwork=yes\nPrivateTmp=yes\nProtectHome=yes",
    "protect-full": "ProtectSystem=full",
    "protect-strict": "ProtectSystem=strict",
    "no-mount-syscalls": "SystemCallFilter=~@mount",
    "no-new-privileges": "NoNewPrivileges=yes",
    "everything": (
        "DynamicUser=yes\nPrivateUsers=yes\nPrivateDevices=yes\nProtectSystem=strict\nSystemCallFilter=~@mount\n"
        "CapabilityBoundingSet=\nNoNewPrivileges=yes\nInaccessiblePaths=-/etc/demo/secret"
    ),
    "inaccessible": "InaccessiblePaths=-/etc/demo/secret -/etc/cron.d",
    "inaccessible-new": "InaccessiblePaths=-/etc/demo/only-v2 -/etc/demo/secret",
    "read-only": "ReadOnlyPaths=-/etc/demo -/etc/cron.d",
    "read-write": "ProtectSystem=strict\nReadWritePaths=-/etc/demo -/etc/cron.d",
    "bind": "BindPaths=/srv/bound:/etc/lab-mount",
    "bind-read-only": "BindReadOnlyPaths=/srv/bound:/etc/lab-mount",
    "temporary": "TemporaryFileSystem=/etc/lab-mount",
    "configuration-directory": "ConfigurationDirectory=lab-configuration",
    "configuration-directory-dynamic": "DynamicUser=yes\nConfigurationDirectory=lab-configuration",
    "no-exec": "NoExecPaths=/etc /run /srv\nExecPaths=-/etc/demo",
    "root-directory": f"RootDirectory={ROOT}\n{_USR}",
    "root-directory-strict": f"RootDirectory={ROOT}\n{_USR}ProtectSystem=strict\nInaccessiblePaths=-+/etc/demo/secret",
    "root-image": f"RootImage={ROOT_IMAGE}\n{_USR}",
    "exec": "Type=exec",
    "forking": "Type=forking",
    "notify": "Type=notify",
    "notify-reload": "Type=notify-reload",
    "oneshot": "Type=oneshot\nRemainAfterExit=yes",
}  # fmt: skip

HIDES_SECRET = {name for name, text in SETTINGS.items() if "/etc/demo/secret" in text}


def service_type(settings: str) -> str:
    """The Type= among settings."""
    return next((line.partition("=")[2] for line in settings.splitlines() if line.startswith("Type=")), "simple")


def fragment(settings: str, *arguments: str) -> str:
    """The unit file of a reader with these settings."""
    words = " ".join(["/usr/bin/python3 -IS", READER, f"--type={service_type(settings)}", *arguments])
    return f"[Service]\nTimeoutStartSec=20\nExecStart={words}\n{settings}\n"


def prepare(machine: Machine) -> None:
    """Put what the services need into a machine."""
    machine.write(READER, (Path(__file__).parent / "reader.py").read_text(), 0o755)
    machine.sh(f"""
        mkdir -p /srv/bound /etc/lab-mount /etc/lab-configuration
        echo bound >/srv/bound/file
        mkdir -p {ROOT}/etc/cron.d {ROOT}/usr/bin {ROOT}/usr/lib {ROOT}/usr/lib64 {ROOT}/var/tmp
        for directory in run proc sys dev tmp; do mkdir -p {ROOT}/$directory; done
        for link in bin sbin lib lib64; do ln -sfn usr/$link {ROOT}/$link; done
        cp -L /etc/os-release {ROOT}/etc/os-release
        echo rooted >{ROOT}/etc/hostname
        touch {ROOT}/etc/machine-id {ROOT}/etc/resolv.conf
        mksquashfs {ROOT} {ROOT_IMAGE} -quiet -no-progress -noappend >/dev/null
    """)


def entry_directory(unit: str) -> str:
    """Where the confexts of a unit are dropped."""
    return f"/etc/systemd/system/{unit}.confext.d"


def set_entries(machine: Machine, units: Iterable[str], entries: dict[str, str]) -> None:
    """Make symlinks the only entries of each unit: target by name."""
    script = []
    for unit in units:
        directory = entry_directory(unit)
        script.append(f"rm -rf {directory}; mkdir -p {directory}")
        script += [f"ln -s {target} {directory}/{name}" for name, target in entries.items()]
    machine.sh("\n".join(script))


def said_by_guard(machine: Machine, unit: str) -> list[str]:
    """What was said in those reloads of a service for which the hook was not even started."""
    # The hook's own messages are those of the unit as well, but not from its standard output.
    source = f"_SYSTEMD_UNIT=unit-confext-restack@{unit}.service"
    return machine.journal(source, "_TRANSPORT=stdout", "SYSLOG_IDENTIFIER=unit-confext").splitlines()


@dataclass(frozen=True, slots=True)
class View:
    """What a process sees at and below `/etc`: files by path, and mounts from bottom to top."""

    files: dict[str, tuple[object, ...]]
    mounts: list[tuple[str, ...]]


def main_pid(machine: Machine, unit: str) -> int:
    """The PID in the machine of the unit's reader, once it is one.

    Type=simple counts as started while systemd still sets up the namespace of the process.
    """
    found: list[int] = []

    def running() -> bool:
        # Read in the machine: the numbers are those of the reader's PID namespace.
        group = f"/sys/fs/cgroup{machine.show(unit, 'ControlGroup')}/cgroup.procs"
        for pid in machine.run("cat", group, check=False).stdout.split():
            with contextlib.suppress(OSError):
                if READER.encode() in machine.path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return bool(found)

    eventually(running)
    return found[0]


def view(machine: Machine, unit: str) -> View:
    """What the unit's main process sees."""
    process = machine.path(f"/proc/{main_pid(machine, unit)}")
    files: dict[str, tuple[object, ...]] = {}
    top = str(process / "root/etc")
    for directory, names, leaves in os.walk(top):
        for name in [*names, *leaves]:
            path = os.path.join(directory, name)
            files[path[len(top) :]] = _describe(path)
    return View(files, _mounts((process / "mountinfo").read_text()))


def _describe(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    content = ""
    if stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    return (oct(status.st_mode), status.st_uid, status.st_gid, content)


def _mounts(mountinfo: str) -> list[tuple[str, ...]]:
    """Place, root, flags, propagation, type, source and layers of each mount that can be seen at or below `/etc`.

    A mount that another one covers cannot be seen, nor can what hangs on it. The numbers that always differ are left
    out.
    """
    lines = [line.split(" ") for line in mountinfo.splitlines()]
    by_id = {fields[0]: fields for fields in lines}
    covered = {fields[1] for fields in lines if fields[4] == "/etc"}
    tops = {fields[0] for fields in lines if fields[4] == "/etc" and fields[0] not in covered}
    # Where nothing is mounted on /etc itself, what is mounted below it hangs on the mount that /etc is a part of.
    roots = tops or {fields[1] for fields in lines if fields[4].startswith("/etc/")}
    found = []
    for fields in lines:
        if fields[4].startswith("/etc/") and fields[1] in roots | tops:
            tops = tops | {fields[0]}
        elif fields[0] not in tops:
            continue
        if fields[4] == "/etc" and _shows_what_it_covers(fields, by_id):
            continue  # As in mounts.Shape.REPLACE.
        end = fields.index("-")
        propagation = ",".join(field.partition(":")[0] for field in fields[6:end])
        found.append((fields[4], fields[3], fields[5], propagation, *fields[end + 1 :]))
    return sorted(found)


def _shows_what_it_covers(fields: list[str], by_id: dict[str, list[str]]) -> bool:
    """Whether a mount on `/etc` is that of a directory onto itself, with the flags that it has without it."""
    below = by_id[fields[1]]
    while below[4] == "/etc":
        below = by_id[below[1]]
    return [fields[2], fields[3], fields[5]] == [below[2], below[3].rstrip("/") + "/etc", below[5]]


def version(machine: Machine, unit: str) -> str:
    """The version of the pair that the unit's main process sees."""
    return machine.path(f"/proc/{main_pid(machine, unit)}/root/etc/demo/a").read_text().strip()


def counts(machine: Machine, unit: str) -> dict[str, int]:
    """Ask a reader for its counts since the last time."""
    before = len(_reports(machine, unit))
    machine.run("kill", "-USR1", str(main_pid(machine, unit)))
    eventually(lambda: len(_reports(machine, unit)) > before)
    result: dict[str, int] = json.loads(_reports(machine, unit)[-1])
    return result


def _reports(machine: Machine, unit: str) -> list[str]:
    lines = machine.journal("-u", unit).splitlines()
    return [line.removeprefix("counts ") for line in lines if line.startswith("counts ")]


def eventually(predicate: Callable[[], bool], timeout_sec: float = 10) -> None:
    """Wait until something is true of which nothing tells when it becomes so.

    Raises:
        AssertionError: it did not within `timeout_sec`.
    """
    deadline = time.monotonic() + timeout_sec
    pause_sec = 0.02
    while not predicate():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause_sec)
        # To ask takes some processes, and a processor from what is waited for.
        pause_sec = min(2 * pause_sec, 0.2)


def leftovers(machine: Machine) -> list[str]:
    """The stages and recoveries that are still there."""
    patterns = ("unit-confext-stage-*", "unit-confext-recover@*")
    listed = machine.systemctl("list-units", "--all", "--no-legend", "--plain", *patterns).stdout
    return [line.split()[0] for line in listed.splitlines()]


def loop_devices(machine: Machine, image: str) -> int:
    """How many loop devices an image of this machine is attached to; other machines have files of the same path."""
    found = 0
    ours = machine.file_systems
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        # Any of them may be gone by now.
        with contextlib.suppress(OSError):
            if image in entry.read_text(errors="surrogateescape"):
                found += _backing_device(f"/dev/{entry.parts[3]}") in ours
    return found


def _backing_device(loop: str) -> str:
    """The file system that the file of a loop device is on, as MAJOR:MINOR."""
    with open(loop, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as device:
        status = fcntl.ioctl(device, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_SIZE))
    (number,) = struct.unpack_from("Q", status)
    return f"{os.major(number)}:{os.minor(number)}"


def mounts_total(machine: Machine, unit: str) -> int:
    """How many mounts there are at and below `/etc`, covered ones too, for a unit's main process."""
    lines = machine.path(f"/proc/{main_pid(machine, unit)}/mountinfo").read_text().splitlines()
    return sum(f"{line.split()[4]}/".startswith("/etc/") for line in lines)
