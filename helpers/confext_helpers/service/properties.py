# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manager's properties of a service, typed: org.freedesktop.systemd1(5).

Only this module knows what the manager's answers look like: the signature of a property, the items of a list, and the
value to assume if a version of systemd does not have a property. All other modules use the objects of this one. What
is handed to another unit (the settings that shape `/etc`, and the context of a check) is passed on unchanged.

An answer has some three hundred properties, of which an unchanged reload needs thirty. So a property is only looked at
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from confext_helpers.paths import ETC
from confext_helpers.system.bus import Properties, Value

# Every property that shapes /etc, but none that has an effect beyond the stage's mounts. The directories of
# RuntimeDirectory=, StateDirectory= and the like would be removed with the stage, or change owner; those of
# ConfigurationDirectory= would not (systemd.exec(5)). NoNewPrivileges= makes every mount nosuid. build_properties() in
# stage/transient.py treats some of them specially.
SHAPING_PROPERTIES = (
    "RootDirectory", "RootImage", "RootImageOptions", "RootImagePolicy", "RootHash", "RootHashPath",
    "RootHashSignature", "RootHashSignaturePath", "RootVerity", "RootMStack", "MountAPIVFS", "MountFlags",
    "MountImages", "MountImagePolicy", "ExtensionImages", "ExtensionImagePolicy", "ExtensionDirectories", "BindPaths",
    "BindReadOnlyPaths", "TemporaryFileSystem", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths",
    "NoExecPaths", "ProtectSystem", "NoNewPrivileges", "ConfigurationDirectory", "ConfigurationDirectoryMode",
)  # fmt: skip
# Those of them with layers, in the order of the stack.
_LAYERS = ("ExtensionImages", "ExtensionDirectories")
# Those of them with one file or directory of the root file system each.
_ROOT_PATHS = ("RootDirectory", "RootImage", "RootVerity", "RootHashPath", "RootHashSignaturePath")
_UNSET: tuple[object, ...] = ("", [], b"", False, "no", 0)

# The signatures of the settings that make mounts. Settings that restrict access are lists of paths, "as".
_ITEMS = {
    "BindPaths": "a(ssbt)",
    "BindReadOnlyPaths": "a(ssbt)",
    "MountImages": "a(ssba(ss))",
    "TemporaryFileSystem": "a(ss)",
}
Item = tuple[object, ...] | str


class Entry(NamedTuple):
    """An item of a setting that makes mounts, or that restricts access.

    Attributes:
        source: the path on the host of what is mounted; empty if this is nothing of the host's.
        target: the path in the service's file system, as written in the setting.
        in_root: whether the path has a `+` in front: systemd.exec(5), ReadWritePaths=.
        item: as it was read, and as StartTransientUnit() takes it.
    """

    source: str
    target: str
    in_root: bool
    item: Item


def mount_setting(name: str, items: list[Item]) -> Value:
    """The value of a setting with these items, which are from entries(), for StartTransientUnit()."""
    return _ITEMS.get(name, "as"), items


def _entry(name: str, item: Item) -> Entry:
    if isinstance(item, str):
        path = item.lstrip("-+")
        return Entry(path, path, "+" in item[: len(item) - len(path)], item)
    if name == "TemporaryFileSystem":
        return Entry("", str(item[0]), False, item)
    return Entry(str(item[0]), str(item[1]), False, item)


class Answer:
    """All properties of an object of the manager, as received; frozen."""

    __slots__ = ("_raw",)
    _raw: Properties

    def __init__(self, raw: Properties) -> None:
        object.__setattr__(self, "_raw", dict(raw))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def _value(self, name: str, untold: object = None) -> object:
        found = self._raw.get(name)
        return untold if found is None else found[1]

    def _list(self, name: str) -> list[Item]:
        value = self._value(name, [])
        assert isinstance(value, list)
        return value


class Text:
    """A property that is a text.

    Args:
        name: of the property.
        untold: the value to assume if this version of systemd does not have the property.
    """

    __slots__ = ("_name", "_untold")

    def __init__(self, name: str, untold: str = "") -> None:
        self._name, self._untold = name, untold

    def __get__(self, answer: Answer, _: type) -> str:
        return str(answer._value(self._name, self._untold))


class Flag:
    """A property that is true or false; see Text."""

    __slots__ = ("_name", "_untold")

    def __init__(self, name: str, untold: bool = False) -> None:
        self._name, self._untold = name, untold

    def __get__(self, answer: Answer, _: type) -> bool:
        return bool(answer._value(self._name, self._untold))


class _Number:
    """A property that is a number, or a mask; None if this version of systemd does not have it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, answer: Answer, _: type) -> int | None:
        value = answer._value(self._name)
        return value if isinstance(value, int) else None


class ServiceProperties(Answer):
    """The properties of a service: the interface org.freedesktop.systemd1.Service, from Manager.service_properties().

    A property that this version of systemd does not have counts as not set, unless stated otherwise.

    Attributes:
        reload_result: ReloadResult=, such as "success".
        root_directory: RootDirectory=; empty if not set.
        root_image: RootImage=, likewise.
        root_mstack: RootMStack=, likewise.
        root_ephemeral: RootEphemeral=: whether each run gets its own copy of the root file system.
        extension_image_policy: ExtensionImagePolicy=, systemd.image-policy(7); empty if not set.
        mount_api_vfs: whether the service's own root file system gets /proc, /sys, /dev and /run.
        mount_flags: MountFlags=, mount(2); 0 if not set, None if systemd does not have the property.
        protect_system: such as "strict".
        protect_home: such as "tmpfs".
        private_tmp: whether the service has its own /tmp.
        private_users: whether the service has its own user namespace.
        capability_bounding_set: a mask, capabilities(7); None if systemd does not have the property.
        ambient_capabilities: likewise.
        restrict_namespaces: a mask of the namespaces that the service may make, clone(2); None likewise.
    """

    __slots__ = ()

    reload_result = Text("ReloadResult", "success")
    root_directory = Text("RootDirectory")
    root_image = Text("RootImage")
    root_mstack = Text("RootMStack")
    root_ephemeral = Flag("RootEphemeral")
    extension_image_policy = Text("ExtensionImagePolicy")
    mount_api_vfs = Flag("MountAPIVFS", True)
    mount_flags = _Number("MountFlags")
    protect_system = Text("ProtectSystem", "no")
    protect_home = Text("ProtectHome", "no")
    private_tmp = Flag("PrivateTmp")
    private_users = Flag("PrivateUsers")
    capability_bounding_set = _Number("CapabilityBoundingSet")
    ambient_capabilities = _Number("AmbientCapabilities")
    restrict_namespaces = _Number("RestrictNamespaces")

    @property
    def main_pid(self) -> int:
        """The PID of the main process; 0 if there is none."""
        main = self._raw["MainPID"][1]
        assert isinstance(main, int)
        return main

    @property
    def control_group(self) -> str:
        """The path of the control group, as in /proc/PID/cgroup; empty if there is none."""
        # An empty default would be dangerous: every process is below the group with the empty name.
        return str(self._raw["ControlGroup"][1])

    @property
    def start_usec(self) -> int:
        """When the main process was started, in microseconds since the epoch; 0 if not known."""
        started = self._value("ExecMainStartTimestamp")
        return started if isinstance(started, int) else 0

    @property
    def has_root(self) -> bool:
        """Whether the service has its own root file system."""
        return any((self.root_directory, self.root_image, self.root_mstack))

    @property
    def root_paths(self) -> list[str]:
        """The files and directories of the root file system that are in settings."""
        return [path for path in (str(self._value(name, "")) for name in _ROOT_PATHS) if path]

    @property
    def has_root_hash(self) -> bool:
        """Whether the settings have the root hash of the root image."""
        return any(self._value(name) for name in ("RootHash", "RootHashPath"))

    @property
    def root(self) -> str | None:
        """The root directory of the service, which may be the host's; None if it is in an image."""
        return None if self.root_image or self.root_mstack else self.root_directory or "/"

    @property
    def base(self) -> str | None:
        """The `/etc` below all layers; None if it is in an image, which only systemd mounts."""
        return f"{self.root.rstrip('/')}{ETC}" if self.root is not None else None

    @property
    def image_layers(self) -> list[str]:
        """The paths in ExtensionImages=, bottom to top."""
        return self._layers("ExtensionImages")

    @property
    def directory_layers(self) -> list[str]:
        """The paths in ExtensionDirectories=, bottom to top."""
        return self._layers("ExtensionDirectories")

    def _layers(self, name: str) -> list[str]:
        return [str(item[0]) if isinstance(item, tuple) else item.lstrip("-+") for item in self._list(name)]

    @property
    def layers(self) -> list[str]:
        """The paths of all layers, bottom to top."""
        return [*self.image_layers, *self.directory_layers]

    def layer_settings(self, may_be_missing: Callable[[str], bool]) -> dict[str, Value]:
        """The settings with layers that are set, for StartTransientUnit().

        Args:
            may_be_missing: tells for the path of a layer whether a `-` in front of it stays.
        """

        def rewritten(item: Item) -> Item:
            if isinstance(item, str):
                return item if may_be_missing(item.lstrip("-+")) else item.removeprefix("-")
            return (item[0], item[1] and may_be_missing(str(item[0])), *item[2:])

        set_ones = ((name, self._list(name)) for name in _LAYERS)
        return {name: (self._raw[name][0], [*map(rewritten, items)]) for name, items in set_ones if items}

    def entries(self, *names: str) -> list[Entry]:
        """The items of settings that make mounts, or that restrict access."""
        return [_entry(name, item) for name in names for item in self._list(name)]

    @property
    def configuration_directories(self) -> list[str]:
        """The directories in ConfigurationDirectory=, relative to `/etc`."""
        return [str(item) for item in self._list("ConfigurationDirectory")]

    @property
    def nosuid_directories(self) -> list[str]:
        """The mounts below `/etc` that systemd makes nosuid because of DynamicUser=.

        The stage has no DynamicUser= (see SHAPING_PROPERTIES), so its ConfigurationDirectory= mounts lack this flag.
        """
        return [f"/etc/{name}" for name in self.configuration_directories] if self._value("DynamicUser") else []

    @property
    def working_directory(self) -> str:
        """WorkingDirectory=, without a prefix."""
        return str(self._value("WorkingDirectory", "")).lstrip("!-")

    @property
    def user(self) -> str:
        """User=, or "root"."""
        return str(self._value("User") or "root")

    @property
    def has_system_call_filter(self) -> bool:
        """Whether SystemCallFilter= forbids anything."""
        found = self._value("SystemCallFilter")
        return bool(isinstance(found, tuple) and found[1])

    @property
    def has_privileged_start(self) -> bool:
        """Whether an ExecStart= command has a `+` in front: systemd.service(5)."""
        return "privileged" in str(self._value("ExecStartEx"))

    @property
    def has_command_as_root(self) -> bool:
        """Whether any command has a `!` in front: User= does not apply to it, while all other confinement does."""
        return any(name.endswith("Ex") and "'no-setuid'" in repr(value) for name, (_, value) in self._raw.items())

    def shaping(self) -> dict[str, Value]:
        """All settings that shape `/etc` and are set, for StartTransientUnit()."""
        told = ((name, self._raw[name]) for name in SHAPING_PROPERTIES if name in self._raw)
        # MountAPIVFS= is true by default, so False counts as set; it only has an effect with an own root file system.
        return {
            name: value for name, value in told if (self.has_root if name == "MountAPIVFS" else value[1] not in _UNSET)
        }
