# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide what the drop-in of a unit contains."""

from __future__ import annotations

from confext_generator import ownlayers
from confext_generator.constants import (
    DOT_PATHS_SYSTEMD,
    OLDEST_SYSTEMD,
    PROJECT_PREFIX,
    REFRESH_ON_RELOAD_SYSTEMD,
    SHELL_PREFIX_SYSTEMD,
    UNIT_NAME_MAX,
    VPICK_SYSTEMD,
)
from confext_generator.report import Complaint, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.layers import Entries, Layer, LayerReader
    from confext_generator.report import Reporter
    from confext_generator.settings import Settings, SettingsReader
    from confext_generator.sources import Target
    from confext_generator.unitdirs import UnitDirs

_MODPROBE = b"modprobe@"

# The list that systemd itself uses for RootImage= (unit_patch_contexts() in unit.c).
_MODULES = (b"modprobe@loop.service", b"modprobe@dm_mod.service", b"modprobe@dm_verity.service")

# These must never see a `.v/` path: 255 takes the path literally; 258 and 259 refresh a service with such a path
# natively at reload, and have no setting to turn that off.
_UNVERSIONED_SYSTEMDS = (255, 258, 259)

_REFRESHING_SYSTEMDS = (258, 259)


class Dropin:
    """The contents of one drop-in, in the order of writing."""

    __slots__ = (
        "access",
        "after",
        "device_allow",
        "directories",
        "entries",
        "images",
        "make_reloadable",
        "mounts",
        "own",
        "refresh_off",
        "source_path",
        "sources",
        "unit",
        "unread",
        "wants",
    )

    # The outcome of each entry in the directories.
    entries: Entries

    def __init__(self, unit: bytes, sources: list[bytes]) -> None:
        self.unit = unit
        self.sources = sources
        self.source_path = b""
        self.mounts: list[bytes] = []
        self.wants: tuple[bytes, ...] = ()
        self.after: list[bytes] = []
        self.images: list[bytes] = []
        self.directories: list[bytes] = []
        # Setting to new values: the unit's own ExtensionImages= and ExtensionDirectories=, if rewritten.
        self.own: dict[bytes, list[bytes]] = {}
        self.access = False
        self.device_allow = False
        self.refresh_off = False
        self.make_reloadable = False
        # Directories that could not be read because their file system does not answer.
        self.unread: list[bytes] = []


class Systemd:
    """The features and defects of the running version of systemd."""

    __slots__ = (
        "has_dot_paths",
        "has_refresh_on_reload",
        "has_shell_prefix",
        "knows_vpick",
        "pick_here",
        "refreshes_versions",
    )

    def __init__(self, version: int | None, reporter: Reporter) -> None:
        """Treat an unknown `version` as a recent one; raises Complaint if it is too old."""
        if version is None:
            reporter.warn(Complaint("noted", "systemd-unknown", b"", b""))
        elif version < OLDEST_SYSTEMD:
            raise Complaint("left-alone", "systemd-too-old", b"", b"", str(version))
        self.has_dot_paths = version is not None and version <= DOT_PATHS_SYSTEMD
        self.has_refresh_on_reload = version is None or version >= REFRESH_ON_RELOAD_SYSTEMD
        self.has_shell_prefix = version is None or version >= SHELL_PREFIX_SYSTEMD
        self.knows_vpick = version is None or version >= VPICK_SYSTEMD
        self.refreshes_versions = version in _REFRESHING_SYSTEMDS
        self.pick_here = version in _UNVERSIONED_SYSTEMDS


class Decider:
    """Decides on the drop-in, one unit at a time."""

    __slots__ = ("_dirs", "_layers", "_reporter", "_settings", "_systemd")

    def __init__(
        self,
        systemd: Systemd,
        dirs: UnitDirs,
        settings: SettingsReader,
        layers: LayerReader,
        reporter: Reporter,
    ) -> None:
        self._systemd = systemd
        self._dirs = dirs
        self._settings = settings
        self._layers = layers
        self._reporter = reporter

    def decide(self, target: Target) -> Dropin:
        """Return the drop-in for `target`, outcomes of its entries included.

        Raises Complaint if the unit is to be left alone.
        """
        unit = target.unit
        if unit.startswith(PROJECT_PREFIX) or len(unit) > UNIT_NAME_MAX:
            raise Complaint("left-alone", "unit-name", unit, target.sources[0].path)
        settings = self._settings.read(unit, target.fragment)
        entries = self._layers.read(unit, target.sources)
        layers = entries.layers
        for path, setting in settings.overridden:
            if setting == "RefreshOnReload=" and not self._systemd.has_refresh_on_reload:
                continue
            if setting == "ExecReload=" and settings.is_reloadable:
                continue  # Our drop-in has no ExecReload= then, so nothing of ours is reset.
            self._reporter.warn(Complaint("noted", "taken-back", unit, path, setting))

        for path, excuse in settings.silent:
            self._reporter.warn(Complaint("noted", "dropin-silent", unit, path, excuse))

        sources = [source.path for source in target.sources]
        dropin = Dropin(unit, sources)
        dropin.entries = entries
        dropin.images = self._images(unit, settings, entries)
        dropin.directories = self._directories(unit, settings, entries)
        if self._systemd.refreshes_versions:
            dropin.own = self._own_layers(unit, settings)
        dropin.unread = self._layers.listings.unread(target.sources)
        dropin.access = bool(dropin.unread) or any(_leads_out(layer, sources) for layer in layers)
        if not settings.source_path:
            dropin.source_path = self._layers.listings.safe_source(target.sources)
        if layers:
            dropin.mounts = _mounts(layers, sources)
        if dropin.images:
            self._order(dropin, settings)
            dropin.device_allow = settings.restricts_devices
        dropin.refresh_off = self._systemd.has_refresh_on_reload
        dropin.make_reloadable = not settings.is_reloadable
        return dropin

    def _images(self, unit: bytes, settings: Settings, entries: Entries) -> list[bytes]:
        """Return the images among the layers, none if they would let the service open other services' devices.

        The loop device of an image must stay allowed for the lifetime of the service, since systemd mounts the image
        anew for each of the service's commands. Such a rule covers all loop devices, those of other services included.
        """
        images = [layer for layer in entries.layers if layer.image]
        if not settings.restricts_devices or settings.hides_devices:
            return [layer.path for layer in images]
        for layer in images:
            if settings.unsafe_device_allow:
                entries.note(layer, Complaint("noted", "devices-opened", unit, layer.path))
            else:
                entries.leave_out(layer, Complaint("ignored", "devices-restricted", unit, layer.path))
        return [layer.path for layer in images] if settings.unsafe_device_allow else []

    def _directories(self, unit: bytes, settings: Settings, entries: Entries) -> list[bytes]:
        """Return the directories among the layers that systemd can use; report the others.

        overlayfs refuses a directory inside another directory of the same stack, and `/etc` is always in the stack.
        systemd stacks the `etc/` of each layer, which for the layer `/` is `/etc` itself.
        """
        etc = self._dirs.tree.chase(b"/etc")
        usable = []
        for layer in entries.layers:
            if layer.image:
                continue
            if settings.wants_signature:
                entries.leave_out(layer, Complaint("ignored", "unsigned", unit, layer.path))
                continue
            is_below = layer.path.startswith(b"/etc/")
            if (is_below or layer.place in (b"/", etc) or layer.place.startswith(etc + b"/")) and not settings.has_root:
                if is_below:
                    complaint = Complaint("ignored", "below-etc", unit, layer.path)
                else:
                    complaint = Complaint("ignored", "leads-to-etc", unit, layer.path, quoted(layer.place))
                entries.leave_out(layer, complaint)
                continue
            usable.append(layer.path)
        return usable

    def _own_layers(self, unit: bytes, settings: Settings) -> dict[bytes, list[bytes]]:
        """Return the unit's own layer settings that have `.v/` paths, with these replaced by the newest versions.

        Report each assignment that cannot be rewritten.
        """
        own: dict[bytes, list[bytes]] = {}
        changed = set()
        for path, key, value, is_later in settings.own_layers:
            new = value
            if ownlayers.may_name_versions(value):
                resolve = ownlayers.resolve_images if key == b"ExtensionImages" else ownlayers.resolve_directories
                try:
                    new = resolve(self._dirs.tree, unit, value)
                    if is_later and new != value:
                        raise ownlayers.Inexact("is read after the generated drop-in")
                except ownlayers.Inexact as e:
                    self._reporter.warn(Complaint("noted", "own-versions", unit, path, key.decode(), str(e)))
            if not is_later:
                # Drop an empty value: written down, it would reset the assignments before it.
                own.setdefault(key, []).extend([new] if new else [])
                if new != value:
                    changed.add(key)
        return {key: values for key, values in own.items() if key in changed}

    def _order(self, dropin: Dropin, settings: Settings) -> None:
        """Order the unit after the kernel modules and udev, as systemd itself does for RootImage=.

        A unit without default dependencies is not ordered after udev: udev may itself wait for the unit, which only the
        dependencies of all units would tell, and systemd would break the cycle by dropping some job of the boot. udev
        is started by its sockets anyway.
        """
        if dropin.unit.startswith(_MODPROBE):
            return
        dropin.wants = _MODULES
        dropin.after = [*_MODULES]
        if settings.default_dependencies:
            dropin.after.append(b"systemd-udevd.service")


def _mounts(layers: list[Layer], sources: list[bytes]) -> list[bytes]:
    """Return the paths for RequiresMountsFor=.

    The `.confext.d/` directories are left out: they have been read, so they are mounted.
    """
    found = dict.fromkeys(mount for layer in layers for mount in layer.mounts)
    there = (*(source + b"/" for source in sources), b"/dev/", b"/proc/", b"/sys/")
    return sorted(m for m in found if m not in (b"", b"/") and not (m + b"/").startswith(there))


def _leads_out(layer: Layer, sources: list[bytes]) -> bool:
    """Return whether write access to the layer has to be checked again at start, because the path to it may change.

    An entry directly in a `.confext.d/` is checked by this run for good: only root can change that directory.
    """
    return bool(layer.mounts) or layer.versioned or layer.path.rpartition(b"/")[0] not in sources
