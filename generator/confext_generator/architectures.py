# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd's names of architectures, as in architecture.c and architecture.h of systemd: the only table of them.

systemd distinguishes two architectures. uname_architecture() is the kernel's; `%a` and `ARCHITECTURE=` of a release
file refer to it. native_architecture() is the one that systemd was compiled for: it selects versions and partitions,
and includes the byte order, which the kernel does not report for MIPS.
"""

from __future__ import annotations

import sys

# Machine as in uname(2) to systemd's name.
_MACHINES = {
    "aarch64": "arm64", "aarch64_be": "arm64-be", "alpha": "alpha", "arc": "arc", "arceb": "arc-be",
    "armv4b": "arm-be", "armv4l": "arm", "armv4tb": "arm-be", "armv4tl": "arm", "armv5tb": "arm-be",
    "armv5teb": "arm-be", "armv5tejb": "arm-be", "armv5tejl": "arm", "armv5tel": "arm", "armv5tl": "arm",
    "armv6b": "arm-be", "armv6l": "arm", "armv7b": "arm-be", "armv7l": "arm", "armv7mb": "arm-be", "armv7ml": "arm",
    "armv8b": "arm-be", "armv8l": "arm", "crisv32": "cris", "i386": "x86", "i486": "x86", "i586": "x86",
    "i686": "x86", "ia64": "ia64", "loongarch64": "loongarch64", "m68k": "m68k", "mips": "mips", "mips64": "mips64",
    "nios2": "nios2", "parisc": "parisc", "parisc64": "parisc64", "ppc": "ppc", "ppc64": "ppc64",
    "ppc64le": "ppc64-le", "ppcle": "ppc-le", "riscv": "riscv64" if sys.maxsize > 1 << 32 else "riscv32",
    "riscv32": "riscv32", "riscv64": "riscv64", "s390": "s390", "s390x": "s390x", "sh2": "sh", "sh2a": "sh",
    "sh3": "sh", "sh4": "sh", "sh4a": "sh", "sh5": "sh64", "sparc": "sparc", "sparc64": "sparc64",
    "tilegx": "tilegx", "x86_64": "x86-64",
}  # fmt: skip

# No kernel reports mips-le and mips64-le.
NAMES = frozenset((*_MACHINES.values(), "mips-le", "mips64-le"))

# ARCHITECTURE_SECONDARY: the second architecture whose programs a machine runs.
_SECONDARY = {"arm64": "arm", "ppc64": "ppc", "ppc64-le": "ppc-le", "s390x": "s390", "x86-64": "x86"}


def of_kernel(machine: str) -> str:
    """Return systemd's name for a uname(2) machine, empty if systemd has none: uname_architecture()."""
    return _MACHINES.get(machine, "")


def native(machine: str, byteorder: str = sys.byteorder) -> str:
    """Return the architecture systemd is compiled for on a uname(2) machine, empty if none: native_architecture()."""
    name = of_kernel(machine)
    return f"{name}-le" if name in ("mips", "mips64") and byteorder == "little" else name


def secondary(name: str) -> str:
    """Return the secondary architecture of a machine whose native one is `name`, empty if there is none."""
    return _SECONDARY.get(name, "")
