# SPDX-License-Identifier: LGPL-2.1-or-later
"""The swap's order of system calls, and every way in which one of them can fail.

The kernel is a fake that fails once; what it would do is proved in booted systems. Here it counts that nothing stays
open, that this process goes home, that propagation is given back, and that the note of a swap stays for its recovery.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from confext_helpers.service.notes import Notes, PendingSwap
from confext_helpers.service.processes import Process
from confext_helpers.stage import etcmount
from confext_helpers.stage.process import Stage
from confext_helpers.swap import detachpoint, exchange
from confext_helpers.system import syscalls
from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.mountinfo import Mount, chain, parse_mountinfo
from confext_helpers.system.namespaces import Namespaces
from confext_helpers.system.syscalls import MOVE_MOUNT_BENEATH, MOVE_MOUNT_SET_GROUP, MS_SLAVE
from unit.fakemanager import descriptors

ROOT = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
OLD = "10 1 0:50 / /etc ro - overlay overlay ro,lowerdir=/run/systemd/unit-extensions/0/etc:/etc"
NEW = OLD.replace("10 1 0:50", "20 1 0:60")
NEW_SHARED = NEW.replace(" ro - overlay", " ro shared:7 - overlay")
HIDDEN = "11 10 0:30 /x /etc/secret ro - tmpfs tmpfs rw"
NEW_HIDDEN = "21 20 0:30 /x /etc/secret ro - tmpfs tmpfs rw"
SERVICE, STAGE = 1001, 1002
# Before, in the stage, and the calls that show.
SHAPES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "nothing": ([OLD], [OLD], []),
    "on top": ([], [NEW], ["attach on top"]),
    "replace": ([OLD], [NEW], ["attach beneath", "umount"]),
    "replace, shared": ([OLD], [NEW_SHARED], ["attach beneath", "umount"]),
    "replace, aside": ([OLD, HIDDEN], [NEW, NEW_HIDDEN], ["attach beneath", "move aside", "umount detach point"]),
    "take away": ([OLD], [], ["umount"]),
}


class Kernel:
    """What is asked of it, and whether that is answered by an error.

    Attributes:
        calls: in order.
        fails: the number of the call that fails.
        error: how.
    """

    def __init__(self, tmp: Path, before: list[str], stage: list[str]) -> None:
        self.calls: list[str] = []
        self.fails = -1
        self.error = errno.EPERM
        self.where = 0
        self.slaves = 0
        self._tmp = tmp
        self.views = {SERVICE: before, STAGE: stage, 0: []}
        self._new: set[int] = set()

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if len(self.calls) == self.fails + 1:
            raise OSError(self.error, os.strerror(self.error))

    def setns(self, fd: int, kind: int) -> None:
        # Who cannot go home is lost.
        self.where = fd if fd in (SERVICE, STAGE) else 0
        if self.where:
            self._call("enter service" if fd == SERVICE else "enter stage")

    def open_tree(self, dir_fd: int, path: str, flags: int) -> int:
        self._call("open tree")
        fd = os.open(path, os.O_PATH) if path else os.dup(dir_fd)
        if self.where == STAGE:
            self._new.add(fd)
        return fd

    def fsmount(self, kind: str, attributes: int) -> int:
        self._call("fsmount")
        place = self._tmp / "tmpfs"
        place.mkdir()
        return os.open(place, os.O_PATH | os.O_DIRECTORY)

    def mount_setattr(self, fd: int, path: str, *, propagation: int = 0, **others: Any) -> None:
        self._call(f"set {propagation}")
        if fd not in self._new:
            self.slaves += propagation == MS_SLAVE

    def move_mount(self, fd: int, to: int, flags: int) -> None:
        if flags == MOVE_MOUNT_SET_GROUP:
            self._call("join")
            return
        if fd in self._new:
            self._call("attach beneath" if flags == MOVE_MOUNT_BENEATH else "attach on top")
        else:
            self._call("move aside" if os.readlink(f"/proc/self/fd/{fd}") == "/etc" else "mount detach point")

    def umount2(self, path: str, flags: int) -> None:
        self._call("umount" if path == "/etc" else "umount detach point")

    def mounts(self) -> list[Mount]:
        return parse_mountinfo("\n".join([ROOT, *self.views[self.where]]))


class FakeNamespaces(Namespaces):
    """Moves this process in the fake."""

    kernel: Kernel

    def mounts(self) -> list[Mount]:
        return self.kernel.mounts()

    def mount_of(self, fd: int) -> int:
        return chain(self.kernel.mounts())[-1].id if os.readlink(f"/proc/self/fd/{fd}") == "/etc" else 1


class FakeNotes:
    """Remembers a swap that is under way."""

    def __init__(self) -> None:
        self.swap: PendingSwap | None = None

    def write_swap(self, swap: PendingSwap) -> None:
        self.swap = swap

    def clear_swap(self) -> None:
        self.swap = None


class FakeProcess:
    """A process of the service."""

    key = "7:1"
    namespace = SERVICE


class FakeStage:
    """What has the new `/etc`."""

    namespace = STAGE


@contextlib.contextmanager
def open_etc(namespaces: Namespaces) -> Iterator[int]:
    with Descriptors() as opened:
        yield opened.add(os.open("/etc", os.O_PATH))


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Kernel]:
    def make(shape: str) -> Kernel:
        kernel = Kernel(tmp_path, *SHAPES[shape][:2])
        parent = tmp_path / "run"
        parent.mkdir()
        FakeNamespaces.kernel = kernel
        for name in ("setns", "open_tree", "fsmount", "mount_setattr", "move_mount", "umount2"):
            monkeypatch.setattr(syscalls, name, getattr(kernel, name))
        monkeypatch.setattr(exchange, "Namespaces", FakeNamespaces)
        monkeypatch.setattr(exchange, "PARENTS", (str(parent),))
        monkeypatch.setattr(detachpoint, "PARENTS", (str(parent),))
        monkeypatch.setattr(etcmount, "open_etc", open_etc)
        return kernel

    return make


def swap(notes: FakeNotes) -> str:
    return exchange.swap(cast(Notes, notes), cast(Process, FakeProcess()), cast(Stage, FakeStage()), [])


def shown(kernel: Kernel) -> list[str]:
    return [call for call in kernel.calls if call.startswith(("attach", "umount", "move aside"))]


@pytest.mark.parametrize("shape", SHAPES)
def test_calls(boot: Callable[[str], Kernel], tmp_path: Path, shape: str) -> None:
    kernel, notes, before = boot(shape), FakeNotes(), descriptors()
    assert swap(notes) == ""
    assert shown(kernel) == SHAPES[shape][2]
    assert (notes.swap, kernel.where, descriptors()) == (None, 0, before)
    assert [*(tmp_path / "run").iterdir()] == []
    # Each mount that was a slave for a moment is in its group again.
    assert kernel.slaves == kernel.calls.count("join") - kernel.calls.count("join") // 2


def failures() -> list[Any]:
    numbers = {"nothing": 3, "on top": 12, "replace": 13, "replace, shared": 15, "replace, aside": 30, "take away": 12}
    return [pytest.param(shape, number, id=f"{shape} {number}") for shape in SHAPES for number in range(numbers[shape])]


@pytest.mark.parametrize(("shape", "number"), failures())
def test_each_call_fails_once(boot: Callable[[str], Kernel], shape: str, number: int) -> None:
    kernel, notes, before = boot(shape), FakeNotes(), descriptors()
    kernel.fails = number
    failed = left = ""
    try:
        left = swap(notes)
    except OSError as error:
        failed = str(error)
    assert len(kernel.calls) > number, "there is no such call"
    assert (kernel.where, descriptors()) == (0, before)
    call = kernel.calls[number]
    done = shown(kernel)
    if not failed:
        # There was another way, or only what is left behind is worth a word.
        assert notes.swap is None
        assert left or done in (["attach on top"], ["attach on top", "umount detach point"], SHAPES[shape][2])
    elif notes.swap is None:
        assert done == []  # Nothing had been changed.
    else:
        assert notes.swap.process == "7:1"
    if kernel.slaves and not call.startswith(("set", "join")):
        assert "join" in kernel.calls[len(kernel.calls) - kernel.calls[::-1].index(f"set {MS_SLAVE}") :]


def test_kernel_without_beneath(boot: Callable[[str], Kernel]) -> None:
    """Linux before 6.5: on top, which is as atomic."""
    kernel, notes = boot("replace"), FakeNotes()
    swap(FakeNotes())
    number = kernel.calls.index("attach beneath")
    kernel.calls.clear()
    kernel.fails, kernel.error = number, errno.EINVAL
    assert swap(notes) == ""
    assert shown(kernel) == ["attach beneath", "attach on top"]
    assert notes.swap is None


def test_a_swap_that_was_cut_off_is_completed(boot: Callable[[str], Kernel]) -> None:
    """Whatever is still on top is taken away, once."""
    kernel = boot("replace")
    pending = PendingSwap("7:1", 10, 1, "", False, [])
    # With the new one beneath it, there is one more.
    views = {"cut": [NEW, OLD.replace("10 1", "10 20")], "done": [NEW]}
    for name, expected in (("cut", True), ("done", False)):
        kernel.views[SERVICE] = views[name]
        kernel.calls.clear()
        with FakeNamespaces() as namespaces:
            assert exchange.finish(namespaces, SERVICE, pending) is expected
        assert shown(kernel) == (["umount"] if expected else [])
        assert kernel.where == 0
