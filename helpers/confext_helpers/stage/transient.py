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

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import has_strict_name
from confext_helpers.paths import RUN_DIRECTORY
from confext_helpers.service.properties import LAYER_PROPERTIES, has_root, layer_paths, shaping_properties
from confext_helpers.stage import confinement, loader, rootimage, targets
from confext_helpers.stage.process import LOADER, PAGE, PROGRAM, TIMEOUT_SEC, Pending, host_loader
from confext_helpers.stage.targets import Places
from confext_helpers.system.bus import Manager, Properties, Value

NAME_PREFIX = "unit-confext-stage-"
RECOVER_UNIT = "unit-confext-recover@{}.service"


def _with_strict_names(layers: dict[str, Value]) -> dict[str, Value]:
    """The same, but layers that are there may not be missing, so that systemd looks at their release files.

    See image/naming.py.

    Args:
        layers: ExtensionImages= and ExtensionDirectories=, as far as they are set.
    """
    strict: dict[str, Value] = {}
    for name, (kind, value) in layers.items():
        assert isinstance(value, list)
        strict[name] = (
            kind,
            [
                (item[0], item[1] and not has_strict_name(str(item[0])), *item[2:])
                if isinstance(item, tuple)
                else item.removeprefix("-" if has_strict_name(str(item).lstrip("-+")) else "")
                for item in value
            ],
        )
    return strict


def _mounts(properties: Properties, places: Places | None) -> dict[str, list[object]]:
    """The settings with which the stage's mounts are made, but for images of layers."""
    selected = {} if places is None else targets.select(properties, places)
    found: dict[str, list[object]] = {name: [*entries] for name, entries in selected.items()}
    found.setdefault("BindReadOnlyPaths", []).append((host_loader(), LOADER, False, 0))
    if found.get("NoExecPaths"):
        found["ExecPaths"].append(LOADER)
    if has_root(properties) and not properties.get("MountAPIVFS", ("b", True))[1]:
        # Else the place of the loader would be made in the service's own root directory, and left there.
        found.setdefault("TemporaryFileSystem", []).append(("/run", "mode=0755,nosuid,nodev"))
    return found


def _images(properties: Properties) -> list[str]:
    """The paths of all images that are mounted in a stage."""
    mounted = [str(entry[0]) for entry in targets.entries(properties, "MountImages")]
    return [*layer_paths(properties), *mounted, str(properties.get("RootImage", ("s", ""))[1])]


_MOUNT_TYPES = {
    "BindPaths": "a(ssbt)",
    "BindReadOnlyPaths": "a(ssbt)",
    "MountImages": "a(ssba(ss))",
    "TemporaryFileSystem": "a(ss)",
}


def build_properties(
    unit: str, properties: Properties, stderr: int, places: Places | None = None, *, is_root: bool = False
) -> list[tuple[str, Value]]:
    """The properties of the stage of `unit`, for StartTransientUnit().

    Args:
        unit: the service.
        properties: those that it has.
        stderr: where the stage's process writes to.
        places: where the paths in these properties lead; not needed where there is none.
        is_root: see confinement.properties().
    """
    shaping = shaping_properties(properties)
    for name in targets.NAMES:
        shaping.pop(name, None)
    has_sys = bool(shaping.get("MountAPIVFS", ("b", True))[1])
    stage: list[tuple[str, Value]] = [
        ("Description", ("s", f"Future /etc of {unit}")),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("OnFailure", ("as", [RECOVER_UNIT.format(unit)])),
        ("Type", ("s", "exec")),
        ("LogLevelMax", ("i", 5)),
        ("TimeoutStartUSec", ("t", TIMEOUT_SEC * 1_000_000)),
        ("PrivateMounts", ("b", True)),
        ("StandardInput", ("s", "null")),
        ("StandardOutput", ("s", "null")),
        ("StandardErrorFileDescriptor", ("h", stderr)),
        ("ExecStart", ("a(sasb)", [(LOADER, [LOADER, PROGRAM], False)])),
        *confinement.properties(_images(properties), is_root=is_root, has_sys=has_sys),
    ]
    if rootimage.is_read_only(properties):
        # It is what systemd decides by, and says nothing about /etc.
        stage.append(("ProtectHome", ("s", "yes")))
    mounts = _mounts(properties, places).items()
    stage += [(name, (_MOUNT_TYPES.get(name, "as"), value)) for name, value in mounts if value]
    layers = {name: shaping[name] for name in LAYER_PROPERTIES if name in shaping}
    return [*stage, *(shaping | _with_strict_names(layers)).items()]


def begin(manager: Manager, unit: str, properties: Properties, namespace: int | None = None) -> Pending:
    """Have the manager start the stage of the service `unit`.

    Args:
        manager: who starts it.
        unit: the service.
        properties: those that it has.
        namespace: the mount namespace that it has now, where its root directory can be looked at if that is an image.

    Raises:
        ConfextError: the manager does not want to, or the service cannot have a stage.
    """
    root = _open_root(properties, namespace)
    try:
        # All but images can be changed.
        changeable = (properties.get(name, ("s", ""))[1] for name in ("RootDirectory", "RootMStack"))
        uid = confinement.uid(unit, root, "".join(map(str, changeable)))
        try:
            places = _find_places(properties, root)
            selected = {} if places is None else targets.select(properties, places)
            rootimage.check(unit, properties, [str(entry[0]) for entry in selected.get("MountImages", [])])
            loader.check(unit, properties, LOADER, places)
        except OSError as error:
            problem = f"the new one cannot be built: {error.strerror}"
            raise ConfextError(problem, unit=unit, path=str(error.filename or "")) from error
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}.service"
        pipe, stderr = os.pipe()
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PAGE)
            manager.start_transient(name, build_properties(unit, properties, stderr, places, is_root=uid == 0))
        except BaseException:
            os.close(pipe)
            raise
        finally:
            os.close(stderr)
    finally:
        if root is not None:
            os.close(root)
    return Pending(name, unit, properties, uid, pipe)


def _open_root(properties: Properties, namespace: int | None) -> int | None:
    """A descriptor of a service's own root directory; None if it has none, or nothing is known about it."""
    directory = str(properties.get("RootDirectory", ("s", ""))[1])
    with contextlib.suppress(OSError):
        if directory:
            return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if namespace is not None and has_root(properties):
            from confext_helpers.system.namespaces import Namespaces  # Hardly any service has a root image.

            with Namespaces() as namespaces:
                namespaces.enter(namespace)
                return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _find_places(properties: Properties, root: int | None) -> Places | None:
    """Where the paths in a service's settings lead; None if there are no paths in them. Raises OSError."""
    if not any(targets.entries(properties, name) for name in targets.NAMES):
        return None
    directory = None if has_root(properties) else ""
    return Places(properties, directory if root is None else f"/proc/self/fd/{root}")
