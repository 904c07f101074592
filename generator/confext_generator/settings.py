# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the settings of a unit from its unit file and drop-ins, and find drop-ins that undo the generator's.

systemd reads the unit file first, then the drop-ins of all directories, sorted by file name; of drop-ins with the same
name only the one in the first directory counts (systemd.unit(5)). The generator's own drop-in has its place in that
order, and drop-ins after it may undo it.
"""

from __future__ import annotations

from confext_generator import imagepolicy, unitfile, words
from confext_generator.constants import DROPIN
from confext_generator.lookout import SilentError
from confext_generator.report import Complaint, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.tree import Tree
    from confext_generator.unitdirs import UnitDirs

_TYPES = (b"simple", b"exec", b"forking", b"oneshot", b"dbus", b"notify", b"notify-reload", b"idle")
_DEVICE_POLICIES = (b"auto", b"closed", b"strict")
_LAYERS = (b"ExtensionImages", b"ExtensionDirectories")
_TRUE = (b"1", b"yes", b"y", b"true", b"t", b"on")
_FALSE = (b"0", b"no", b"n", b"false", b"f", b"off")


class Settings:
    """The settings of one unit on which the contents of the drop-in depend."""

    __slots__ = (
        "bound_devices",
        "default_dependencies",
        "device_allow",
        "device_policy",
        "exec_reload",
        "mount_images",
        "overridden",
        "own_layers",
        "private_devices",
        "roots",
        "silent",
        "source_path",
        "type",
        "unsafe_device_allow",
        "wants_signature",
    )

    def __init__(self) -> None:
        self.exec_reload: list[bytes] = []
        self.type = b""
        # Those of RootDirectory=, RootImage= and RootMStack= that are set.
        self.roots: set[bytes] = set()
        self.source_path = b""
        self.private_devices = False
        self.device_policy = b"auto"
        self.device_allow = False
        # Those of BindPaths= and BindReadOnlyPaths= that make block devices of the host visible to the service.
        self.bound_devices: set[bytes] = set()
        self.mount_images = False
        self.unsafe_device_allow = False
        self.wants_signature = False
        self.default_dependencies = True
        # The unit's own ExtensionImages= and ExtensionDirectories=, in order:
        # (file, setting, value, whether systemd reads the file after our drop-in).
        self.own_layers: list[tuple[bytes, bytes, bytes, bool]] = []
        # Drop-ins and drop-in directories that could not be read, as (path, reason).
        self.silent: list[tuple[bytes, str]] = []
        # Drop-ins read after ours that undo one of our settings, as (path, setting).
        self.overridden: list[tuple[bytes, str]] = []

    @property
    def is_reloadable(self) -> bool:
        """Whether systemd can reload the service without our drop-in (service_can_reload() in service.c)."""
        return bool(self.exec_reload) or self.type == b"notify-reload"

    @property
    def has_root(self) -> bool:
        """Whether the service has its own root directory or image."""
        return bool(self.roots)

    @property
    def restricts_devices(self) -> bool:
        """Whether the service may use only listed devices, and no loop devices (systemd.resource-control(5)).

        For a unit with RootImage= or MountImages= systemd itself allows loop devices (unit_patch_contexts() in unit.c).
        """
        if b"RootImage" in self.roots or self.mount_images:
            return False
        return self.private_devices or self.device_policy != b"auto" or self.device_allow

    @property
    def hides_devices(self) -> bool:
        """Whether the service has no block device node and cannot create one, whatever DeviceAllow= allows."""
        return self.private_devices and not self.bound_devices


class SettingsReader:
    """Reads the settings of units; reads each file and directory once, however many units share it."""

    __slots__ = ("_dirs", "_files", "_grammar", "_listings", "_silent", "_tree")

    def __init__(self, tree: Tree, dirs: UnitDirs, *, shell_prefix: bool = True, dot_paths: bool = False) -> None:
        """`shell_prefix` and `dot_paths` are passed to unitfile.parse()."""
        self._tree = tree
        self._grammar = {"shell_prefix": shell_prefix, "dot_paths": dot_paths}
        self._dirs = dirs
        self._files: dict[bytes, list[tuple[bytes, bytes]]] = {}
        self._listings: dict[bytes, list[bytes]] = {}
        self._silent: dict[bytes, str] = {}

    def read(self, unit: bytes, fragment: bytes) -> Settings:
        """Return the settings of `unit`; raises Complaint if its unit file is a mask or cannot be read."""
        try:
            data = self._tree.read(fragment)
        except OSError as e:
            raise Complaint("left-alone", "unit-file-unreadable", unit, fragment, reason_of(e)) from None
        if not data:
            raise Complaint("left-alone", "unit-file-masked", unit, fragment)

        settings = Settings()
        _apply(
            settings,
            unitfile.parse(data, **self._grammar),
            ours_seen=False,
            path=fragment,
        )
        dropins = self.dropins(unit)
        for name in sorted(dropins):
            # A drop-in of our name in another directory replaces ours or is replaced by ours; never are both read.
            if name != DROPIN:
                path = dropins[name]
                _apply(settings, self._parse(path), ours_seen=name > DROPIN, path=path)
        if self._silent:
            read = (*self._dirs.dropin_dirs(unit), *dropins.values())
            settings.silent = [(path, self._silent[path]) for path in read if path in self._silent]
        return settings

    def dropins(self, unit: bytes) -> dict[bytes, bytes]:
        """Return the drop-ins of `unit`, file name to path."""
        found: dict[bytes, bytes] = {}
        for directory in self._dirs.dropin_dirs(unit):
            for name in self._list(directory):
                if name not in found:
                    found[name] = directory + b"/" + name
        return found

    def _list(self, directory: bytes) -> list[bytes]:
        listing = self._listings.get(directory)
        if listing is None:
            try:
                listing = [
                    name
                    for name in self._tree.listdir(self._tree.directory(directory))
                    if name.endswith(b".conf") and not name.startswith(b".")
                ]
            except SilentError as e:
                listing = []
                self._silent[directory] = self._tree.excuse(e.filename)
            except OSError:
                listing = []
            self._listings[directory] = listing
        return listing

    def _parse(self, path: bytes) -> list[tuple[bytes, bytes]]:
        assignments = self._files.get(path)
        if assignments is None:
            try:
                assignments = unitfile.parse(self._tree.read(path), dropin=True, **self._grammar)
            except SilentError as e:
                assignments = []
                self._silent[path] = self._tree.excuse(e.filename)
            except OSError:
                assignments = []  # systemd ignores an unreadable drop-in, too.
            self._files[path] = assignments
        return assignments


def _apply(settings: Settings, assignments: list[tuple[bytes, bytes]], *, ours_seen: bool, path: bytes) -> None:
    """Apply the assignments of the file at `path`, ignoring those that systemd ignores with a warning."""
    for key, value in assignments:
        if key == b"ExecReload":
            if value:
                settings.exec_reload.append(value)
            else:
                settings.exec_reload.clear()
                if ours_seen:
                    settings.overridden.append((path, "ExecReload="))
        elif key == b"Type":
            if value in _TYPES:
                settings.type = value
        elif key in (b"RootDirectory", b"RootImage", b"RootMStack"):
            if value:
                settings.roots.add(key)
            else:
                settings.roots.discard(key)
        elif key == b"SourcePath":
            if not value or value.startswith((b"/", b"%")):
                settings.source_path = value
        elif key == b"PrivateDevices":
            settings.private_devices = _boolean(value, settings.private_devices)
        elif key == b"DevicePolicy":
            if value in _DEVICE_POLICIES:
                settings.device_policy = value
        elif key == b"DeviceAllow":
            settings.device_allow = bool(value) and (settings.device_allow or _is_device(value))
        elif key in _LAYERS and value:
            settings.own_layers.append((path, key, value, ours_seen))
        elif key in (b"BindPaths", b"BindReadOnlyPaths"):
            if not value:
                settings.bound_devices.discard(key)
            elif _binds_devices(value):
                settings.bound_devices.add(key)
        elif key == b"MountImages":
            settings.mount_images = bool(value)
        elif key == b"ExtensionImagePolicy":
            settings.wants_signature = imagepolicy.wants_signature(value, settings.wants_signature)
        elif key == b"UnsafeDeviceAllow":
            settings.unsafe_device_allow = _boolean(value, False)
        elif key == b"DefaultDependencies":
            settings.default_dependencies = _boolean(value, settings.default_dependencies)
        elif key == b"PrivateMounts":
            if ours_seen and not _boolean(value, True):
                settings.overridden.append((path, "PrivateMounts="))
        elif key in _LAYERS and not ours_seen:
            settings.own_layers = [one for one in settings.own_layers if one[1] != key]
        elif ours_seen and (not value or key == b"RefreshOnReload"):
            # ExtensionImages=, ExtensionDirectories=: a later drop-in may append to our lists, but must not reset them.
            settings.overridden.append((path, key.decode() + "="))


def _boolean(value: bytes, otherwise: bool) -> bool:
    lower = value.lower()
    return lower in _TRUE or (otherwise and lower not in _FALSE)


def _is_device(value: bytes) -> bool:
    """Return whether systemd accepts `value` for DeviceAllow=; a value that systemd ignores restricts nothing."""
    try:
        path, rights = words.first_word(value)
    except ValueError:
        return False
    if rights.translate(None, b"rwm"):
        return False
    if path.startswith((b"block-", b"char-")) or b"%" in path:
        return True
    return path.startswith((b"/dev/", b"/run/systemd/inaccessible/")) and b".." not in path.split(b"/")


# Directories that contain block device nodes, and prefixes of the nodes that our DeviceAllow= covers.
_BLOCK_DEVICES = (b"/", b"/dev", b"/dev/block", b"/dev/disk", b"/dev/mapper")
_BLOCK_DEVICE_PREFIXES = (b"/dev/block/", b"/dev/disk/", b"/dev/mapper/", b"/dev/loop", b"/dev/dm-", b"/dev/nvme")


def _binds_devices(value: bytes) -> bool:
    """Return whether a BindPaths= value makes block devices of the host visible; true if `value` cannot be parsed."""
    while value:
        try:
            word, value = words.first_word(value)
        except ValueError:
            return True
        source = word.lstrip(b"-+").partition(b":")[0]
        source = b"/" + b"/".join(part for part in source.split(b"/") if part not in (b"", b"."))
        if source in _BLOCK_DEVICES or source.startswith(_BLOCK_DEVICE_PREFIXES):
            return True
    return False
