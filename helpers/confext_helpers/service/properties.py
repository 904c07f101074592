# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the manager says about a service, as far as its `/etc` depends on it."""

from __future__ import annotations

from collections.abc import Iterator

from confext_helpers.system.bus import Properties, Value

# Every property that shapes /etc, and nothing that has an effect beyond the mounts of the stage: RuntimeDirectory=,
# StateDirectory= and their like are removed or change owner with the unit that has them. ConfigurationDirectory= does
# neither (systemd.exec(5)). See build_properties() for those that need a word more.
SHAPING_PROPERTIES = (
    "RootDirectory",
    "RootImage",
    "RootImageOptions",
    "RootImagePolicy",
    "RootHash",
    "RootHashPath",
    "RootHashSignature",
    "RootHashSignaturePath",
    "RootVerity",
    "RootMStack",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "MountImagePolicy",
    "ExtensionImages",
    "ExtensionImagePolicy",
    "ExtensionDirectories",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths",
    "ProtectSystem",
    "NoNewPrivileges",  # makes every mount nosuid
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
)  # fmt: skip
# Of these, those that name layers, in the order of the stack.
LAYER_PROPERTIES = ("ExtensionImages", "ExtensionDirectories")
_UNSET: tuple[object, ...] = ("", [], b"", False, "no", 0)


def has_root(properties: Properties) -> bool:
    """Whether a service has a root file system of its own."""
    return any(properties.get(name, ("s", ""))[1] for name in ("RootDirectory", "RootImage", "RootMStack"))


def _shaping(properties: Properties) -> Iterator[tuple[str, Value]]:
    """The properties to copy that are set at all."""
    for name in SHAPING_PROPERTIES:
        value = properties.get(name)
        if value is None:
            continue
        # The one whose default is not False: what the manager says is what it does, where it does anything at all.
        if has_root(properties) if name == "MountAPIVFS" else value[1] not in _UNSET:
            yield name, value


def shaping_properties(properties: Properties) -> dict[str, Value]:
    """The part of a service's `properties` (from Manager.service_properties()) that its `/etc` depends on."""
    return dict(_shaping(properties))


def nosuid_directories(properties: Properties) -> list[str]:
    """The mounts below `/etc` that systemd makes nosuid for a dynamic user only.

    The stage has no DynamicUser= (see above), so its ConfigurationDirectory= mounts lack that flag.
    """
    if not properties.get("DynamicUser", ("b", False))[1]:
        return []
    directories = properties.get("ConfigurationDirectory", ("as", []))[1]
    assert isinstance(directories, list)
    return [f"/etc/{directory}" for directory in directories]


def layer_paths(properties: Properties) -> list[str]:
    """The layers of a service's stack, bottom to top."""
    return [path for name in LAYER_PROPERTIES for path in layers_in(properties, name)]


def layers_in(properties: Properties, name: str) -> list[str]:
    """The layers that one of LAYER_PROPERTIES names, bottom to top."""
    value = properties.get(name, ("", []))[1]
    assert isinstance(value, list)
    return [str(item[0]) if isinstance(item, tuple) else str(item).lstrip("-+") for item in value]


def base_of(properties: Properties) -> str | None:
    """The `/etc` that lies below all layers; None if it is in an image that only systemd mounts."""
    if properties.get("RootImage", ("s", ""))[1] or properties.get("RootMStack", ("s", ""))[1]:
        return None
    return str(properties.get("RootDirectory", ("s", ""))[1]).rstrip("/") + "/etc"
