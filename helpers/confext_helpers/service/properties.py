# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the manager says about a service, typed: org.freedesktop.systemd1(5).

Here alone it is known what the manager's answers are made of: which signature a property has, what an item of a list
is, and what a version of systemd means that does not tell a property. Everybody else asks an object of this module.
What is handed on to another unit, the settings that shape `/etc` and the context of a check, leaves it as it came.

An answer has some three hundred properties, of which an unchanged reload needs thirty. So each is looked at when it is
asked for, and nothing before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from confext_helpers.paths import ETC
from confext_helpers.system.bus import Properties, Value

# Every property that shapes /etc, and nothing that has an effect beyond the mounts of the stage: RuntimeDirectory=,
# StateDirectory= and their like are removed or change owner with the unit that has them. ConfigurationDirectory= does
# neither (systemd.exec(5)). NoNewPrivileges= makes every mount nosuid. See build_properties() in stage/transient.py for
# those that need a word more.
SHAPING_PROPERTIES = (
    "RootDirectory", "RootImage", "RootImageOptions", "RootImagePolicy", "RootHash", "RootHashPath",
    "RootHashSignature", "RootHashSignaturePath", "RootVerity", "RootMStack", "MountAPIVFS", "MountFlags",
    "MountImages", "MountImagePolicy", "ExtensionImages", "ExtensionImagePolicy", "ExtensionDirectories", "BindPaths",
    "BindReadOnlyPaths", "TemporaryFileSystem", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths",
    "NoExecPaths", "ProtectSystem", "NoNewPrivileges", "ConfigurationDirectory", "ConfigurationDirectoryMode",
)  # fmt: skip
# Of these, those that name layers, in the order of the stack.
_LAYERS = ("ExtensionImages", "ExtensionDirectories")
# Those that name one file or directory each, which the root file system is made of.
_ROOT_PATHS = ("RootDirectory", "RootImage", "RootVerity", "RootHashPath", "RootHashSignaturePath")
_UNSET: tuple[object, ...] = ("", [], b"", False, "no", 0)

# What the items are of settings that make mounts. Those of settings that change what may be done there are paths.
_ITEMS = {
    "BindPaths": "a(ssbt)",
    "BindReadOnlyPaths": "a(ssbt)",
    "MountImages": "a(ssba(ss))",
    "TemporaryFileSystem": "a(ss)",
}
Item = tuple[object, ...] | str


class Entry(NamedTuple):
    """An item of a setting that makes mounts, or that changes what may be done there.

    Attributes:
        source: the path of what is mounted, on the host; empty if that is nothing of the host's.
        target: where in the service's file system, as it is written.
        in_root: whether there is a `+` in front of it: systemd.exec(5), ReadWritePaths=.
        item: as it was read, and as StartTransientUnit() takes it.
    """

    source: str
    target: str
    in_root: bool
    item: Item


def mount_setting(name: str, items: list[Item]) -> Value:
    """The value of a setting of which entries() has the items, for StartTransientUnit()."""
    return _ITEMS.get(name, "as"), items


def _entry(name: str, item: Item) -> Entry:
    if isinstance(item, str):
        path = item.lstrip("-+")
        return Entry(path, path, "+" in item[: len(item) - len(path)], item)
    if name == "TemporaryFileSystem":
        return Entry("", str(item[0]), False, item)
    return Entry(str(item[0]), str(item[1]), False, item)


class Answer:
    """All properties of an object of the manager's, as it told them: never changed."""

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
        name: of it.
        untold: what it is if this version of systemd does not tell it.
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
    """A property that is a number, or a mask; None if this version of systemd does not tell it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, answer: Answer, _: type) -> int | None:
        value = answer._value(self._name)
        return value if isinstance(value, int) else None


class ServiceProperties(Answer):
    """What services have: the interface org.freedesktop.systemd1.Service, from Manager.service_properties().

    A property that this version of systemd does not tell is as if it was not set, if nothing else is said.

    Attributes:
        reload_result: what came of its last reload, such as "success".
        root_directory: RootDirectory=, or an empty text.
        root_image: RootImage=, likewise.
        root_mstack: RootMStack=, likewise.
        root_ephemeral: whether each run has a root file system of its own, which goes with it.
        extension_image_policy: ExtensionImagePolicy=, systemd.image-policy(7), or an empty text.
        mount_api_vfs: whether a root file system of its own gets /proc, /sys, /dev and /run.
        mount_flags: MountFlags=, mount(2); 0 if none is set, and None if it is not told.
        protect_system: such as "strict".
        protect_home: such as "tmpfs".
        private_tmp: whether it has a /tmp of its own.
        private_users: whether it has a user namespace of its own.
        capability_bounding_set: as a mask, capabilities(7); None if it is not told.
        ambient_capabilities: likewise.
        restrict_namespaces: those that it may make, as a mask, clone(2); None if it is not told.
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
        """The PID of its main process; 0 if there is none."""
        main = self._raw["MainPID"][1]
        assert isinstance(main, int)
        return main

    @property
    def control_group(self) -> str:
        """The path of its control group, as in /proc/PID/cgroup; empty if it has none."""
        # There is no default: every process is below the group with the empty name.
        return str(self._raw["ControlGroup"][1])

    @property
    def start_usec(self) -> int:
        """When its main process was started, in microseconds since the epoch; 0 if that is not known."""
        started = self._value("ExecMainStartTimestamp")
        return started if isinstance(started, int) else 0

    @property
    def has_root(self) -> bool:
        """Whether it has a root file system of its own."""
        return any((self.root_directory, self.root_image, self.root_mstack))

    @property
    def root_paths(self) -> list[str]:
        """The files and directories that its root file system is made of, as far as settings name them."""
        return [path for path in (str(self._value(name, "")) for name in _ROOT_PATHS) if path]

    @property
    def has_root_hash(self) -> bool:
        """Whether it is said which hash its root image has."""
        return any(self._value(name) for name in ("RootHash", "RootHashPath"))

    @property
    def root(self) -> str | None:
        """The directory that its root file system is, maybe the host's; None if it is in an image."""
        return None if self.root_image or self.root_mstack else self.root_directory or "/"

    @property
    def base(self) -> str | None:
        """The `/etc` that lies below all layers; None if it is in an image that only systemd mounts."""
        return f"{self.root.rstrip('/')}{ETC}" if self.root is not None else None

    @property
    def image_layers(self) -> list[str]:
        """The paths that ExtensionImages= names, bottom to top."""
        return self._layers("ExtensionImages")

    @property
    def directory_layers(self) -> list[str]:
        """The paths that ExtensionDirectories= names, bottom to top."""
        return self._layers("ExtensionDirectories")

    def _layers(self, name: str) -> list[str]:
        return [str(item[0]) if isinstance(item, tuple) else item.lstrip("-+") for item in self._list(name)]

    @property
    def layers(self) -> list[str]:
        """The layers of its stack, bottom to top."""
        return [*self.image_layers, *self.directory_layers]

    def layer_settings(self, may_be_missing: Callable[[str], bool]) -> dict[str, Value]:
        """The settings that name layers, as far as they are set, as StartTransientUnit() takes them.

        Args:
            may_be_missing: whether a layer may go on to be missing, of one that has a `-` in front.
        """

        def rewritten(item: Item) -> Item:
            if isinstance(item, str):
                return item if may_be_missing(item.lstrip("-+")) else item.removeprefix("-")
            return (item[0], item[1] and may_be_missing(str(item[0])), *item[2:])

        set_ones = ((name, self._list(name)) for name in _LAYERS)
        return {name: (self._raw[name][0], [*map(rewritten, items)]) for name, items in set_ones if items}

    def entries(self, *names: str) -> list[Entry]:
        """The items of settings that make mounts, or that change what may be done there."""
        return [_entry(name, item) for name in names for item in self._list(name)]

    @property
    def configuration_directories(self) -> list[str]:
        """The directories that ConfigurationDirectory= names, relative to `/etc`."""
        return [str(item) for item in self._list("ConfigurationDirectory")]

    @property
    def nosuid_directories(self) -> list[str]:
        """The mounts below `/etc` that systemd makes nosuid for a dynamic user only.

        The stage has no DynamicUser= (see SHAPING_PROPERTIES), so its ConfigurationDirectory= mounts lack that flag.
        """
        return [f"/etc/{name}" for name in self.configuration_directories] if self._value("DynamicUser") else []

    @property
    def working_directory(self) -> str:
        """WorkingDirectory=, without what may be in front of the path."""
        return str(self._value("WorkingDirectory", "")).lstrip("!-")

    @property
    def user(self) -> str:
        """User=, or "root"."""
        return str(self._value("User") or "root")

    @property
    def has_system_call_filter(self) -> bool:
        """Whether SystemCallFilter= forbids it anything."""
        found = self._value("SystemCallFilter")
        return bool(isinstance(found, tuple) and found[1])

    @property
    def has_privileged_start(self) -> bool:
        """Whether an ExecStart= command has a `+` in front: systemd.service(5)."""
        return "privileged" in str(self._value("ExecStartEx"))

    @property
    def has_command_as_root(self) -> bool:
        """Whether any command has a `!` in front: User= is not for it, and all else that confines the service is."""
        return any(name.endswith("Ex") and "'no-setuid'" in repr(value) for name, (_, value) in self._raw.items())

    def shaping(self) -> dict[str, Value]:
        """All settings that its `/etc` depends on, as far as they are set, as StartTransientUnit() takes them."""
        told = ((name, self._raw[name]) for name in SHAPING_PROPERTIES if name in self._raw)
        # The default of one is not False: what the manager says is what it does, where it does anything at all.
        return {
            name: value for name, value in told if (self.has_root if name == "MountAPIVFS" else value[1] not in _UNSET)
        }
