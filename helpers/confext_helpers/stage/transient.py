# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage: a short-lived transient unit whose `/etc` is the one that a restart would give the service.

systemd itself builds the stage, from the very properties that the service has: dissection, dm-verity, image policies,
`.v/` directories, release files and every sandbox setting are systemd's business. This module only hands those
properties over, and keeps the mount namespace alive for as long as it is needed.

The stage's process is the host's dynamic loader, which is told to run a program whose name is too long for any file.
The loader complains about that to a pipe of the hook's. As the message is longer than what the pipe holds, the loader
waits there for as long as the hook lives. The first bytes in the pipe show that the loader runs, so the namespace is
complete. If the hook dies, the loader's write fails, the stage fails, and its OnFailure= unit completes the swap, if
one had begun (exchange.finish()). When the hook is done, it sends the loader a signal.

No other program may run in a stage: whoever can write to the service's root directory could load a library into it
(ld.so(8), `/etc/ld.so.preload`). If somebody has another program executed instead of the loader, that program can do
nothing (stage/confinement.py), and the hook does not use its namespace.
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
    """The settings that make the stage's mounts, without those of the layers."""
    selected = {} if places is None else targets.select(properties, places)
    found = {name: [entry.item for entry in entries] for name, entries in selected.items()}
    found.setdefault("BindReadOnlyPaths", []).append((host_loader(), LOADER, False, 0))
    if found.get("NoExecPaths"):
        found["ExecPaths"].append(LOADER)
    if properties.has_root and not properties.mount_api_vfs:
        # Otherwise systemd would create the loader's mount point in the service's root directory, and leave it there.
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
        stderr: the end of the pipe that the stage's process writes to.
        places: where the paths in the properties lead; None if there are no paths.
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
        # systemd takes this into account to mount the root image read-only; /etc does not depend on it.
        stage.append(("ProtectHome", bus.text("yes")))
    mounts = _mounts(properties, places).items()
    stage += [(name, mount_setting(name, items)) for name, items in mounts if items]
    # A layer that exists loses its "-", with which systemd accepts a missing release file: see image/naming.py.
    layers = properties.layer_settings(may_be_missing=lambda layer: not has_strict_name(layer))
    return [*stage, *(shaping | layers).items()]


def begin(manager: ServiceManager, unit: str, properties: ServiceProperties, namespace: int | None = None) -> Pending:
    """Have the manager start the stage of the service `unit`.

    Args:
        namespace: the service's mount namespace, to look at the root directory in if that is an image.

    Raises:
        ConfextError: the manager refuses, or the service cannot have a stage.
    """
    with Descriptors() as opened:
        root = _open_root(properties, namespace)
        if root is not None:
            opened.add(root)
        # A root directory can be changed by others, a root image cannot.
        uid = confinement.uid(root, properties.root_directory + properties.root_mstack)
        try:
            places = _find_places(properties, root)
            selected = {} if places is None else targets.select(properties, places)
            rootimage.check(properties, [entry.source for entry in selected.get("MountImages", [])])
            loader.check_path(properties, LOADER, places)
        except OSError as error:
            problem = f"the new /etc cannot be built: {error.strerror}"
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
    """Open the service's own root directory (O_PATH); None if it has none, or that fails."""
    directory = properties.root_directory
    with contextlib.suppress(OSError):
        if directory:
            return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if namespace is not None and properties.has_root:
            from confext_helpers.system.namespaces import Namespaces  # Only needed for root images.

            with Namespaces() as namespaces:
                namespaces.enter(namespace)
                return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _find_places(properties: ServiceProperties, root: int | None) -> Places | None:
    """Where the paths in a service's settings lead; None if the settings have no paths. Raises OSError."""
    if not properties.entries(*targets.NAMES):
        return None
    directory = None if properties.has_root else ""
    return Places(properties, directory if root is None else f"/proc/self/fd/{root}")
