# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swap `/etc`, from the stage into one mount namespace of the service; complete the swap of a hook that was killed.

The stage's topmost mount on `/etc` is copied with all mounts below it (open_tree(2)), and put in place in the service's
namespace as plan() decides. One system call attaches the new tree, beneath the old mount or on top of it, and one takes
the old mount away, so a reader sees either the old tree or the new one (move_mount(2), "MOVE_MOUNT_BENEATH", Linux
6.5). No change propagates to other namespaces, see swap/propagation.py. A tree with mounts in it is moved aside as a
whole, see swap/detachpoint.py.

A note tells how to complete the swap, from before the first of these system calls until after the last. If the hook is
killed, the recovery that its stage starts completes the swap, or the next hook, whichever comes first.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from confext_helpers.paths import ETC
from confext_helpers.service.notes import Notes, PendingSwap
from confext_helpers.service.processes import Process
from confext_helpers.stage import etcmount
from confext_helpers.stage.process import Stage
from confext_helpers.swap import propagation
from confext_helpers.swap.detachpoint import PARENTS, DetachPoint, new_name
from confext_helpers.swap.plan import Shape, plan, tree
from confext_helpers.system import syscalls
from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.mountinfo import Mount, chain
from confext_helpers.system.namespaces import Namespaces
from confext_helpers.system.syscalls import (
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOVE_MOUNT_BENEATH,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
)

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree(NamedTuple):
    """A detached copy of a stage's `/etc`: its descriptor, and the mounts of the stage's namespace."""

    fd: int
    mounts: list[Mount]

    @property
    def shared(self) -> bool:
        """Whether the root of the copy is a shared mount."""
        top = chain(self.mounts)
        # If nothing is mounted on /etc, the tree is a copy of a part of the root mount.
        return (top[-1] if top else _root(self.mounts)).shared


@contextlib.contextmanager
def copy_tree(namespaces: Namespaces, stage: int, nosuid: list[str]) -> Iterator[Tree]:
    """Copy the stage's `/etc` with every mount below it; close the copy at the end of the with statement.

    Args:
        stage: descriptor of the stage's mount namespace.
        nosuid: paths of mounts below `/etc` that get MOUNT_ATTR_NOSUID first (see service/properties.py).

    Raises:
        OSError: a system call fails, or something else is at `/etc` by now.
    """
    namespaces.enter(stage)
    for path in nosuid:
        syscalls.mount_setattr(AT_FDCWD, path, attributes=syscalls.MOUNT_ATTR_NOSUID)
    with Descriptors() as opened:
        with etcmount.open_etc(namespaces) as etc:
            tree = opened.add(syscalls.open_tree(etc, "", OPEN_TREE_CLONE | AT_RECURSIVE))
            mounts = namespaces.mounts()
        yield Tree(tree, mounts)


def _root(mounts: list[Mount]) -> Mount:
    """The topmost mount on the root directory."""
    return chain(mounts, "/")[-1]


class _Exchange:
    """A swap in the mount namespace that this process is in.

    Args:
        new: the tree to put in place. Once attached, it cannot be used again.
        point: where the old tree is moved to, if there are mounts in it.
    """

    def __init__(self, namespaces: Namespaces, new: Tree, point: DetachPoint) -> None:
        self._namespaces = namespaces
        self._new = new
        self._mounts = namespaces.mounts()
        self._have = chain(self._mounts)
        self.shape = plan(self._mounts, new.mounts)
        self._point = point

    def run(self, announce: Callable[[PendingSwap], None]) -> None:
        """Do the swap.

        Args:
            announce: called right before the first system call that changes something.
        """
        if self.shape is Shape.NOTHING:
            return
        old = self._have[-1] if self._have else _root(self._mounts)
        beneath = self.shape in (Shape.REPLACE, Shape.TAKE_AWAY)
        aside = self.shape is Shape.REPLACE and len(tree(self._mounts, len(self._have))) > 1
        name = self._point.name if aside else ""
        affected = [old.parent if beneath else old.id, old.id]
        affected += self._mounts_of(PARENTS) if aside else []
        touched = propagation.touched(self._namespaces, self._mounts, affected)
        announce(PendingSwap("", old.id, len(self._have), name, self._new.shared, touched))
        etc = os.open(ETC, _PATH)
        try:
            if self.shape is Shape.TAKE_AWAY:
                with self._quiet(old.parent):
                    syscalls.umount2(ETC, MNT_DETACH | UMOUNT_NOFOLLOW)
                return
            if aside:
                self._point.create(self._mounts)
            if (
                self.shape is Shape.REPLACE
                and (not aside or self._point.target is not None)
                and self._replace(old, etc)
            ):
                return
            # Before Linux 6.5, or without a detach point, mount on top; a reader does not see a difference. The old
            # tree stays below, hidden and whole, until the service stops.
            self.shape = Shape.ON_TOP
            with self._quiet(old.id):
                syscalls.move_mount(self._new.fd, etc, 0)
        finally:
            os.close(etc)

    def _quiet(self, number: int) -> contextlib.AbstractContextManager[None]:
        return propagation.quiet(self._namespaces, self._mounts, number)

    def _mounts_of(self, places: tuple[str, ...]) -> list[int]:
        found = []
        for place in places:
            with contextlib.suppress(OSError), Descriptors() as opened:
                found.append(self._namespaces.mount_of(opened.add(os.open(place, _PATH))))
        return found

    def _replace(self, old: Mount, etc: int) -> bool:
        """Attach the new tree beneath the mount at `etc`, and take that mount away; False if this is not possible."""
        new = self._new
        with self._quiet(old.parent):
            # No mount can be moved away from a parent that is shared.
            if new.shared:
                syscalls.mount_setattr(new.fd, "", propagation=MS_SLAVE)
            done = False
            try:
                syscalls.move_mount(new.fd, etc, MOVE_MOUNT_BENEATH)
                done = True
                _move_aside(etc, self._point)
            except OSError as error:
                if done or error.errno != errno.EINVAL:
                    raise
            if new.shared:
                syscalls.mount_setattr(new.fd, "", propagation=MS_SHARED)
        return done


def _move_aside(etc: int, point: DetachPoint) -> None:
    """Move the topmost mount on `/etc`, whose root is `etc`, to the detach point; unmount it if there is none."""
    if point.target is not None:
        syscalls.move_mount(etc, point.target, 0)
    else:
        syscalls.umount2(ETC, MNT_DETACH | UMOUNT_NOFOLLOW)


def swap(notes: Notes, process: Process, stage: Stage, nosuid: list[str]) -> str:
    """Give the mount namespace of one process of the service the `/etc` of the stage.

    Args:
        process: any process in that namespace.
        stage: the stage.
        nosuid: see copy_tree().

    Returns:
        The directory that could not be removed because the service put something into it; empty if none.

    Raises:
        OSError: a system call failed. The service has its old `/etc`; or the new one, if the call came after the swap,
            and then the note tells complete() how to go on.
    """

    def announce(swap: PendingSwap) -> None:
        notes.write_swap(swap._replace(process=process.key))

    with (
        Namespaces() as namespaces,
        copy_tree(namespaces, stage.namespace, nosuid) as tree,
        DetachPoint(namespaces, process.namespace, new_name()) as point,
    ):
        namespaces.enter(process.namespace)
        _Exchange(namespaces, tree, point).run(announce)
    notes.clear_swap()
    return point.left


def finish(namespaces: Namespaces, service: int, swap: PendingSwap) -> bool:
    """Complete a swap that was cut off between its system calls, and leave the service's mount namespace.

    Args:
        service: descriptor of the service's mount namespace.
        swap: the note about the swap.

    Returns:
        Whether the old `/etc` still had to be taken away.
    """
    with DetachPoint(namespaces, service, swap.detach_point) as point:
        namespaces.enter(service)
        mounts = namespaces.mounts()
        current = chain(mounts)
        if swap.detach_point:
            point.find(mounts)
        unfinished = len(current) == swap.length + 1 and current[-1].id == swap.old_top
        if unfinished:
            with Descriptors() as opened:
                _move_aside(opened.add(os.open(ETC, _PATH)), point)
        now = chain(namespaces.mounts())
        if now and swap.shared and not now[-1].shared:
            with Descriptors() as opened:
                syscalls.mount_setattr(opened.add(os.open(ETC, _PATH)), "", propagation=MS_SHARED)
        propagation.restore(namespaces, service, swap.propagation)
    return unfinished


def complete(notes: Notes, processes: list[Process], swap: PendingSwap) -> bool:
    """Complete the swap of a hook that was killed; return whether the old `/etc` still had to be taken away."""
    done = False
    for process in processes:
        if process.key == swap.process:
            with Namespaces() as namespaces:
                done = finish(namespaces, process.namespace, swap) or done
    notes.clear_swap()
    notes.write_stack(None)
    return done
