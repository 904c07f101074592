# SPDX-License-Identifier: LGPL-2.1-or-later
"""Services that do nothing but sleep, to see what systemd itself makes of their settings."""

from __future__ import annotations

import contextlib

from lab import images
from lab.images import STORE
from lab.machine import Machine


def define(machine: Machine, unit: str, settings: str) -> None:
    """Write a service that sleeps, and load it. Type=exec: a start ends when the namespace is there, or failed."""
    text = f"[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n{settings}\n"
    machine.write(f"/etc/systemd/system/{unit}", text)
    machine.systemctl("daemon-reload")


def drop_in(machine: Machine, unit: str, text: str) -> None:
    """Write a drop-in for a service, and load it."""
    machine.write(f"/etc/systemd/system/{unit}.d/10-lab.conf", text)
    machine.systemctl("daemon-reload")


def start_status(machine: Machine, unit: str) -> str:
    """Start a service; return the exit status of its process if that fails, or else nothing."""
    if machine.systemctl("restart", unit, check=False).returncode == 0:
        return ""
    return machine.show(unit, "ExecMainStatus")


def read(machine: Machine, unit: str, path: str) -> str | None:
    """What the main process of a service reads from a file, None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return machine.path(f"/proc/{machine.show(unit, 'MainPID')}/root{path}").read_text().strip()
    return None


def reload_error(machine: Machine, unit: str) -> str:
    """Reload a service; return what systemctl says if that fails, or else nothing."""
    done = machine.systemctl("reload", unit, check=False)
    return done.stderr if done.returncode else ""


def image(name: str) -> str:
    return f"{STORE}/{name}.raw"


def build_versions(machine: Machine, name: str, version: int) -> str:
    """Add one version to a directory of versions of an image; return the directory."""
    directory = f"{STORE}/{name}.raw.v"
    images.build(machine, f"{directory}/{name}_{version}.raw", images.pair(f"v{version}"))
    return directory
