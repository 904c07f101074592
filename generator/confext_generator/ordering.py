"""Whether a unit may be ordered after udev.

systemd waits for udev before it sets up a loop device for RootImage=; the drop-in asks for the same. Units
with default dependencies start long after it. Only for the others, such as what udev itself waits for, can
the ordering be a cycle, which systemd would break by leaving some unit of the boot out; so only for them are
other units read.
"""

from __future__ import annotations

from confext_generator import names, unitfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.settings import Settings, SettingsReader
    from confext_generator.unitdirs import UnitDirs

UDEVD = b"systemd-udevd.service"


class Ordering:
    """The ordering between services, as far as it has been asked for."""

    __slots__ = ("_before_udevd", "_dependencies", "_dirs", "_reader")

    def __init__(self, dirs: UnitDirs, reader: SettingsReader) -> None:
        self._dirs = dirs
        self._reader = reader
        self._dependencies: dict[bytes, list[tuple[bytes, bytes]]] = {}
        self._before_udevd: set[bytes] | None = None

    def is_before_udevd(self, unit: bytes, settings: Settings) -> bool:
        """Return whether `unit` is udevd, or ordered before it by Before= and After= of services between."""
        if self._before_udevd is None:
            self._before_udevd = self._reachable([UDEVD], b"After")
        if unit in self._before_udevd:
            return True
        later = [name for value in settings.before for name in value.split()]
        return not self._before_udevd.isdisjoint(self._reachable(later, b"Before"))

    def _reachable(self, todo: list[bytes], key: bytes) -> set[bytes]:
        seen = set()
        while todo:
            unit = todo.pop()
            if names.is_valid_service(unit):
                unit = self._dirs.unit_id(unit) or unit
                if unit not in seen:
                    seen.add(unit)
                    todo += [n for k, value in self._read(unit) if k == key for n in value.split()]
        return seen

    def _read(self, unit: bytes) -> list[tuple[bytes, bytes]]:
        found = self._dependencies.get(unit)
        if found is None:
            fragment = self._dirs.fragment(unit)
            found = [] if fragment is None else self._reader.assignments(unit, fragment, unitfile.DEPENDENCIES)
            self._dependencies[unit] = found
        return found
