# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables and parsers are those of systemd, as its own programs print, take and read it.

No system is booted but for what the programs have to write: they run in its root file system.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from confext_generator import architectures
from confext_helpers.image import partitiontypes
from confext_helpers.system import envfile
from lab import machine, rootfs
from lab.machine import Machine
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


_TEXTS = (
    "a", "b c", " ", "\t", "'", '"', "\\", "$", "`", "#", ";", "=", "\n", "\r", "ID=", "BUILD_ID=", "\\n", "'x y'",
    '"z"', "é",
)  # fmt: skip
_KEYS = {"o": "ID", "B": "BUILD_ID", "w": "VERSION_ID"}
# Each directory gets a file with what systemd has read.
_READ = """
cd /run/tables && for place in *; do
    echo "f /read 0644 - - - <%o|%B|%w>" >conf; systemd-tmpfiles --root=/run/tables/$place --create - <conf 2>/dev/null
done; :
"""


@pytest.mark.real
def test_os_release(bare_machine: Machine) -> None:
    """What systemd reads in an os-release file is what we read."""
    texts: dict[str, None] = {}

    @settings(max_examples=250, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.lists(st.sampled_from(_TEXTS), max_size=7).map("".join))
    def collect(text: str) -> None:
        texts[f"VERSION_ID=1\nID={text}"] = None
        texts[f"{text}\nID=2\n"] = None

    collect()
    for number, text in enumerate(texts):
        bare_machine.write(f"/run/tables/{number}/etc/os-release", text)
    bare_machine.sh(_READ)
    wrong = []
    for number, text in enumerate(texts):
        found = {one.key: one.value for one in envfile.parse(text)}
        read = bare_machine.path(f"/run/tables/{number}/read")
        theirs = read.read_bytes().decode() if read.exists() else None
        ours = "<" + "|".join(found.get(key, "") for key in _KEYS.values()) + ">"
        if theirs != ours:
            wrong.append(f"{text!r}: {theirs!r}, not {ours!r}")
    assert not wrong, "\n".join(wrong)
