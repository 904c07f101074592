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
    from confext_generator.settings import SettingsReader
    from confext_generator.unitdirs import UnitDirs

UDEVD = b"systemd-udevd.service"


class Ordering:
    """What is ordered before udevd by After= and Before= of all services, over units of any type between."""

    __slots__ = ("_before", "_dirs", "_read", "_reader")

    def __init__(self, dirs: UnitDirs, reader: SettingsReader) -> None:
        self._dirs = dirs
        self._reader = reader
        # What comes right before each unit, and the units that have been read for that.
        self._before: dict[bytes, set[bytes]] = {}
        self._read: set[bytes] = set()
        self._read_all(dirs.units())

    def is_before_udevd(self, unit: bytes) -> bool:
        """Return whether `unit` is udevd, or ordered before it; a template if this is so for one of its instances."""
        self._read_all([unit])
        seen = set()
        todo = [UDEVD]
        while todo:
            name = todo.pop()
            if name == unit or (names.is_valid_service(name) and names.template_of(name) == unit):
                return True
            if name not in seen:
                seen.add(name)
                todo += self._before.get(name, ())
        return False

    def _read_all(self, units: list[bytes]) -> None:
        """Read what `units` say, and the instances that they name, which have a template's file."""
        todo = list(units)
        while todo:
            unit = todo.pop()
            fragment = None if unit in self._read else self._dirs.fragment(unit)
            self._read.add(unit)
            if fragment is None:
                continue
            for key, value in self._reader.assignments(unit, fragment, unitfile.DEPENDENCIES):
                for name in value.split():
                    if names.is_valid_service(name):
                        name = self._dirs.unit_id(name) or name
                        todo.append(name)
                    first, then = (name, unit) if key == b"After" else (unit, name)
                    self._before.setdefault(then, set()).add(first)
