# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd calls machines, all of them: architecture.c and architecture.h of systemd 257.

tests/real/test_tables.py asks the programs of systemd for the names.
"""

from __future__ import annotations

import sys

import pytest

from confext_generator import architectures

# By name: the machines of uname(2), and the second choice.
ALL = {
    "alpha": ("alpha", ""),
    "arc": ("arc", ""),
    "arc-be": ("arceb", ""),
    "arm": ("armv4l armv4tl armv5tejl armv5tel armv5tl armv6l armv7l armv7ml armv8l", ""),
    "arm-be": ("armv4b armv4tb armv5tb armv5teb armv5tejb armv6b armv7b armv7mb armv8b", ""),
    "arm64": ("aarch64", "arm"),
    "arm64-be": ("aarch64_be", ""),
    "cris": ("crisv32", ""),
    "ia64": ("ia64", ""),
    "loongarch64": ("loongarch64", ""),
    "m68k": ("m68k", ""),
    "mips": ("mips", ""),
    "mips-le": ("", ""),
    "mips64": ("mips64", ""),
    "mips64-le": ("", ""),
    "nios2": ("nios2", ""),
    "parisc": ("parisc", ""),
    "parisc64": ("parisc64", ""),
    "ppc": ("ppc", ""),
    "ppc-le": ("ppcle", ""),
    "ppc64": ("ppc64", "ppc"),
    "ppc64-le": ("ppc64le", "ppc-le"),
    "riscv32": ("riscv32", ""),
    "riscv64": ("riscv64", ""),
    "s390": ("s390", ""),
    "s390x": ("s390x", "s390"),
    "sh": ("sh2 sh2a sh3 sh4 sh4a", ""),
    "sh64": ("sh5", ""),
    "sparc": ("sparc", ""),
    "sparc64": ("sparc64", ""),
    "tilegx": ("tilegx", ""),
    "x86": ("i386 i486 i586 i686", ""),
    "x86-64": ("x86_64", "x86"),
}


def test_no_other_names() -> None:
    assert set(ALL) == architectures.NAMES
    machines = {machine for told, _ in ALL.values() for machine in told.split()}
    assert machines | {"riscv"} == set(architectures._MACHINES)


@pytest.mark.parametrize("name", ALL)
def test_machines(name: str) -> None:
    machines, second = ALL[name]
    assert architectures.secondary(name) == second
    for machine in machines.split():
        assert architectures.of_kernel(machine) == name
        assert architectures.native(machine, "big") == name
        little = f"{name}-le" if name in ("mips", "mips64") else name
        assert architectures.native(machine, "little") == little


def test_what_is_none() -> None:
    for machine in ("", "arm64", "mips64-le", "x86-64", "vax"):
        assert architectures.of_kernel(machine) == architectures.native(machine) == ""
    assert architectures.secondary("") == ""
    bits = 64 if sys.maxsize > 1 << 32 else 32
    assert architectures.of_kernel("riscv") == f"riscv{bits}"
