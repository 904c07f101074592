# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of machines and partition types are those of systemd, as its own programs print and take them.

No system is booted: the programs run in its root file system.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from confext_generator import architectures
from confext_helpers.image import partitiontypes
from lab import machine, rootfs
from lab.requirements import need

pytestmark = pytest.mark.real


@pytest.fixture(params=list(rootfs.SUITES))
def root(request: pytest.FixtureRequest) -> Path:
    need(machine.missing_capability())
    return rootfs.ensure(request.param)


def _run(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(["chroot", root, *argv], capture_output=True, text=True, check=False, env=environment)


def test_partition_types(root: Path) -> None:
    """All that it knows, under the same names, and no other. It lists some under further names as well."""
    listed = json.loads(_run(root, "systemd-id128", "show", "--json=short").stdout)
    theirs = {one["name"]: one["id"] for one in listed}
    ours = {kind.name: identifier for identifier, kind in partitiontypes.TYPES.items()}
    assert {name: theirs.get(name) for name in ours} == ours
    assert set(theirs.values()) == set(ours.values())
    native = partitiontypes.native_architecture()
    assert native
    for place in ("root", "usr"):
        assert theirs[place] == ours[f"{place}-{native}"]
        second = architectures.secondary(native)
        assert theirs.get(f"{place}-secondary") == (ours[f"{place}-{second}"] if second else None)


def test_names_of_machines(root: Path) -> None:
    """systemd-vpick takes the name of a machine, and nothing else."""
    names = {*architectures.NAMES, *architectures._MACHINES, "x32", "riscv128", "mips64le"}
    assert {
        name for name in names if not _run(root, "systemd-vpick", "-A", name, "/").returncode
    } == architectures.NAMES
