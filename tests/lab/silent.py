# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file system that does not answer: of a server that is gone, say, or of a program that is stuck.

It is FUSE, with a program behind it that takes every request and answers none but the first, so that who asks is kept
waiting and cannot be killed. It ends with stop(), or by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.machine import Machine

# <linux/fuse.h>: FUSE_INIT, struct fuse_in_header and struct fuse_init_out.
_PROGRAM = """\
import ctypes, os, select, struct, sys
place = sys.argv[1].encode()
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
os.makedirs(place, exist_ok=True)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fuse
if libc.mount(b"silent", place, b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
if os.fork():
    sys.exit()
os.setsid()
poll = select.poll()
poll.register(fuse, select.POLLIN)
while poll.poll(float(sys.argv[2]) * 1000):
    request = os.read(fuse, 1 << 17)
    _, operation, unique = struct.unpack_from("<IIQ", request)
    if operation == 26:
        out = struct.pack("<IIIIHHI", 7, 31, 65536, 0, 0, 0, 65536).ljust(64, b"\\0")
        os.write(fuse, struct.pack("<IiQ", 16 + len(out), 0, unique) + out)
"""
_PATH = "/run/silent.py"


@contextlib.contextmanager
def mounted(machine: Machine, *places: str, seconds: float = 60) -> Iterator[None]:
    """Have such a file system mounted at each of `places`, for `seconds` after the last request at most."""
    machine.write(_PATH, _PROGRAM)
    for place in places:
        machine.sh(f"python3 {_PATH} {place} {seconds} </dev/null >/dev/null 2>&1")
    try:
        yield
    finally:
        for place in places:
            # Lazily, and all who wait are let go.
            machine.sh(f"""
                dev=$(awk '$5 == "{place}" {{ sub(/.*:/, "", $3); print $3 }}' /proc/self/mountinfo | tail -n 1)
                echo 1 >/sys/fs/fuse/connections/$dev/abort || :
                umount -l {place} || :
            """)
