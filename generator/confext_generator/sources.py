# SPDX-License-Identifier: LGPL-2.1-or-later
"""Map `.confext.d/` directories to units."""

from __future__ import annotations

from confext_generator import names
from confext_generator.report import Complaint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.report import Reporter
    from confext_generator.unitdirs import Source, UnitDirs


class Target:
    """A unit that gets a drop-in, its unit file, and its `.confext.d/` directories in order of precedence."""

    __slots__ = ("fragment", "has_own_directory", "sources", "unit")

    def __init__(self, unit: bytes, fragment: bytes, sources: list[Source], has_own_directory: bool) -> None:
        self.unit = unit
        self.fragment = fragment
        self.sources = sources
        # False for an instance with its own unit file or drop-in, but without its own `.confext.d/`.
        self.has_own_directory = has_own_directory


def find_targets(dirs: UnitDirs, reporter: Reporter) -> list[Target]:
    """Return a target for each unit that has a `.confext.d/` directory under any of its names.

    The contents of a drop-in depend on the rest of the unit. So each instance of a template that has its own unit file,
    drop-in or `.confext.d/` gets a complete drop-in, which replaces the template's drop-in by having the same name.
    """
    by_name: dict[bytes, list[Source]] = {}
    units: dict[bytes, bool] = {}
    for source in dirs.sources:
        unit = dirs.unit_id(source.name)
        if unit is None:
            reporter.warn(Complaint("left-alone", "unit-file-missing", source.name, source.path))
            continue
        by_name.setdefault(source.name, []).append(source)
        units[unit] = True

    for unit in list(units):
        if names.is_template(unit):
            for instance in dirs.instances(unit):
                units.setdefault(instance, False)

    targets = []
    for unit, has_own_directory in sorted(units.items()):
        found: list[Source] = []
        for name in _names_of(dirs, unit):
            found += sorted(by_name.get(name, ()), key=_precedence)
        fragment = dirs.fragment(unit)
        if found and fragment is not None:
            targets.append(Target(unit, fragment, found, has_own_directory))
    return targets


def _precedence(source: Source) -> tuple[int, bool]:
    return source.rank, source.without_type


def _names_of(dirs: UnitDirs, unit: bytes) -> list[bytes]:
    """Return the names whose `.confext.d/` directories `unit` uses: first the instance's, then the template's."""
    found = [unit, *dirs.aliases(unit)]
    for name in list(found):
        template = names.template_of(name)
        if template and template not in found:
            found.append(template)
    return found
