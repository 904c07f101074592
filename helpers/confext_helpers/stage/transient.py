# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage: a short-lived transient unit whose `/etc` is the one that a restart would give the service.

systemd itself builds it, from the very properties that the service has: dissection, dm-verity, image policies,
`.v/` directories, release files and every sandbox setting are its business. All that this module does is to hand
those properties over, and to keep the mount namespace alive for as long as it is needed.

Its process is the dynamic loader of the host, which is told to run a program whose name is too long for any file. It
says so on a pipe that the hook holds, and since its words are longer than what fits into that pipe, it waits there for
as long as there is a hook. That there is something in the pipe shows that it runs, hence that the namespace is
complete. If the hook dies, however it dies, the words cannot be written, the loader fails, the stage goes away and its
OnFailure= unit finishes what was begun (swapping.finish()). To be told to end, it is sent a signal.

Nothing else is ever meant to be executed in a stage: whoever can write into the service's root directory could slip a
library into any other program (ld.so(8), `/etc/ld.so.preload`). Where somebody succeeds in having something else
executed in the loader's place, it can do nothing (stage/confinement.py), and no namespace is taken from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import has_strict_name
from confext_helpers.paths import RUN_DIRECTORY
from confext_helpers.service.properties import Item, ServiceProperties, mount_setting
from confext_helpers.stage import confinement, loader, rootimage, targets
from confext_helpers.stage.process import LOADER, PAGE, PROGRAM, TIMEOUT_SEC, Pending, host_loader
from confext_helpers.stage.targets import Places
from confext_helpers.system import bus
from confext_helpers.system.bus import Value
from confext_helpers.system.descriptors import Descriptors

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

NAME_PREFIX = "unit-confext-stage-"
RECOVER_UNIT = "unit-confext-recover@{}.service"


def _mounts(properties: ServiceProperties, places: Places | None) -> dict[str, list[Item]]:
    """The settings with which the stage's mounts are made, but for images of layers."""
    selected = {} if places is None else targets.select(properties, places)
    found = {name: [entry.item for entry in entries] for name, entries in selected.items()}
    found.setdefault("BindReadOnlyPaths", []).append((host_loader(), LOADER, False, 0))
    if found.get("NoExecPaths"):
        found["ExecPaths"].append(LOADER)
    if properties.has_root and not properties.mount_api_vfs:
        # Else the place of the loader would be made in the service's own root directory, and left there.
        found.setdefault("TemporaryFileSystem", []).append(("/run", "mode=0755,nosuid,nodev"))
    return found


def _images(properties: ServiceProperties) -> list[str]:
    """The paths of all images that are mounted in a stage."""
    mounted = [entry.source for entry in properties.entries("MountImages")]
    return [*properties.layers, *mounted, properties.root_image]


def build_properties(
    unit: str, properties: ServiceProperties, stderr: int, places: Places | None = None, *, is_root: bool = False
) -> list[tuple[str, Value]]:
    """The properties of the stage of `unit`, for StartTransientUnit().

    Args:
        unit: the service.
        properties: those that it has.
        stderr: where the stage's process writes to.
        places: where the paths in these properties lead; not needed where there is none.
        is_root: see confinement.properties().
    """
    shaping = properties.shaping()
    for name in targets.NAMES:
        shaping.pop(name, None)
    has_sys = properties.mount_api_vfs or not properties.has_root
    stage: list[tuple[str, Value]] = [
        ("Description", bus.text(f"Future /etc of {unit}")),
        ("DefaultDependencies", bus.flag(False)),
        ("CollectMode", bus.text("inactive-or-failed")),
        ("OnFailure", bus.texts([RECOVER_UNIT.format(unit)])),
        ("Type", bus.text("exec")),
        ("LogLevelMax", bus.signed(5)),
        ("TimeoutStartUSec", bus.number(TIMEOUT_SEC * 1_000_000)),
        ("PrivateMounts", bus.flag(True)),
        ("StandardInput", bus.text("null")),
        ("StandardOutput", bus.text("null")),
        ("StandardErrorFileDescriptor", bus.descriptor(stderr)),
        ("ExecStart", bus.commands([(LOADER, [LOADER, PROGRAM], False)])),
        *confinement.properties(_images(properties), is_root=is_root, has_sys=has_sys),
    ]
    if rootimage.is_read_only(properties):
        # It is what systemd decides by, and says nothing about /etc.
        stage.append(("ProtectHome", bus.text("yes")))
    mounts = _mounts(properties, places).items()
    stage += [(name, mount_setting(name, items)) for name, items in mounts if items]
    # A layer that is there may not be missing, so that systemd looks at its release file: see image/naming.py.
    layers = properties.layer_settings(may_be_missing=lambda layer: not has_strict_name(layer))
    return [*stage, *(shaping | layers).items()]


def begin(manager: ServiceManager, unit: str, properties: ServiceProperties, namespace: int | None = None) -> Pending:
    """Have the manager start the stage of the service `unit`.

    Args:
        manager: who starts it.
        unit: the service.
        properties: those that it has.
        namespace: the mount namespace that it has now, where its root directory can be looked at if that is an image.

    Raises:
        ConfextError: the manager does not want to, or the service cannot have a stage.
    """
    with Descriptors() as opened:
        root = _open_root(properties, namespace)
        if root is not None:
            opened.add(root)
        # All but images can be changed.
        uid = confinement.uid(root, properties.root_directory + properties.root_mstack)
        try:
            places = _find_places(properties, root)
            selected = {} if places is None else targets.select(properties, places)
            rootimage.check(properties, [entry.source for entry in selected.get("MountImages", [])])
            loader.check_path(properties, LOADER, places)
        except OSError as error:
            problem = f"the new one cannot be built: {error.strerror}"
            raise ConfextError(problem, path=str(error.filename or "")) from error
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}.service"
        pipe, stderr = os.pipe()
        opened.add(stderr)
        with Descriptors() as kept:
            kept.add(pipe)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PAGE)
            manager.start_transient(name, build_properties(unit, properties, stderr, places, is_root=uid == 0))
            kept.pop_all()
    return Pending(name, properties, uid, pipe)


def _open_root(properties: ServiceProperties, namespace: int | None) -> int | None:
    """A descriptor of a service's own root directory; None if it has none, or nothing is known about it."""
    directory = properties.root_directory
    with contextlib.suppress(OSError):
        if directory:
            return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if namespace is not None and properties.has_root:
            from confext_helpers.system.namespaces import Namespaces  # Hardly any service has a root image.

            with Namespaces() as namespaces:
                namespaces.enter(namespace)
                return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _find_places(properties: ServiceProperties, root: int | None) -> Places | None:
    """Where the paths in a service's settings lead; None if there are no paths in them. Raises OSError."""
    if not properties.entries(*targets.NAMES):
        return None
    directory = None if properties.has_root else ""
    return Places(properties, directory if root is None else f"/proc/self/fd/{root}")
