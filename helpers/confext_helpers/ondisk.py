"""What lies in the `.confext.d/` directories, and what the next daemon-reload would make of each entry.

The generator decides, here as there: this calls its functions in the order of `confext_generator.cli.generate()` and
keeps what they return and what they complain about. All that is added is a word for each entry that does not become
a layer, since the generator passes over many of them without one. The files are those of now; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from confext_generator import config, entrynames, manager, names, unitdirs
from confext_generator.decide import Decider, Dropin, Systemd
from confext_generator.layers import Layer, LayerReader
from confext_generator.render import render
from confext_generator.report import ConfextError as Complaint
from confext_generator.report import Reporter, printable
from confext_generator.settings import SettingsReader
from confext_generator.sources import Stack, find_stacks
from confext_generator.tree import DEV_NULL, Tree
from confext_generator.unitdirs import Source, UnitDirs
from confext_helpers.errors import ConfextError


class Verdict(StrEnum):
    """What became of an entry."""

    IMAGE = "image"
    DIRECTORY = "directory"
    MASK = "mask"
    MASKED = "masked"
    SHADOWED = "shadowed"
    REFUSED = "refused"
    SIDECAR = "sidecar"
    DUPLICATE = "duplicate"
    NOT_AN_IMAGE = "not-an-image"
    IGNORED = "ignored"


# How layers.py says that two entries lead to one file; it names that file, and not the entries.
_SAME = " are the same, "

LAYERS = (Verdict.IMAGE, Verdict.DIRECTORY)


class Entry(NamedTuple):
    """One name in a `.confext.d/` directory.

    Attributes:
        name: in the directory.
        path: of the entry itself.
        verdict: what became of it.
        layer: the path that systemd is given; empty if it is no layer.
        reason: why it is none, or what is odd about it; empty if there is nothing to say.
    """

    name: str
    path: str
    verdict: Verdict
    layer: str = ""
    reason: str = ""


class Unit(NamedTuple):
    """A unit with `.confext.d/` directories.

    Attributes:
        name: its name, a template's perhaps; empty where a directory's name means none.
        directories: its `.confext.d/` directories, the first one first.
        entries: the layers from bottom to top, then what is none, by name.
        problem: why it is left alone; empty if it gets a drop-in.
        dropin: the text of that; None if it gets none.
        warnings: what is odd about the whole of it.
        replaced_by: a file of the drop-in's name that systemd reads instead; empty if there is none.
    """

    name: str
    directories: list[str]
    entries: list[Entry]
    problem: str = ""
    dropin: bytes | None = None
    warnings: tuple[str, ...] = ()
    replaced_by: str = ""

    @property
    def layers(self) -> list[str]:
        """The layers that a daemon-reload would bring, from bottom to top."""
        return [entry.layer for entry in self.entries if entry.verdict in LAYERS]


class _Listener(Reporter):
    """Keeps what the generator says instead of printing it."""

    __slots__ = ("complaints",)

    def __init__(self) -> None:
        super().__init__(emit=lambda line: None)
        self.complaints: list[Complaint] = []

    def warn(self, error: Complaint) -> None:
        self.complaints.append(error)

    def about(self, path: bytes) -> list[Complaint]:
        return [one for one in self.complaints if one.path == path]


def _words(complaint: Complaint) -> str:
    return f"{complaint.text}; {complaint.hint}" if complaint.hint else complaint.text


class Disk:
    """The units with `.confext.d/` directories of one system.

    Args:
        root: where that system is; empty for the running one.
        environ: $SYSTEMD_UNIT_PATH and $UNIT_CONFEXT_SYSTEMD_VERSION count, as for the generator.

    Attributes:
        units: all of them, by name, and last the directories that are for no unit.

    Raises:
        ConfextError: this systemd knows no confexts of services.
    """

    def __init__(self, root: str = "", environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._tree = Tree(os.fsencode(root))
        self._listener = _Listener()
        self._path = unitdirs.search_path(environ.get("SYSTEMD_UNIT_PATH"))
        self._dirs = UnitDirs(self._tree, self._path, self._listener)
        stacks = find_stacks(self._dirs, self._listener) if self._dirs.sources else []
        unplaced = list(self._listener.complaints)
        self.units: list[Unit] = []
        if stacks:
            try:
                systemd = Systemd(manager.find_version(self._tree, environ), self._listener)
            except Complaint as error:
                raise ConfextError(_words(error)) from None
            settings = SettingsReader(self._tree, self._dirs, shell_prefix=systemd.has_shell_prefix)
            layers = LayerReader(
                self._tree, self._listener, resolve=systemd.resolve_versions, versions=systemd.has_versions
            )
            decider = Decider(systemd, self._dirs, settings, layers, self._listener)
            self.units = [self._read(stack, decider, layers) for stack in stacks]
        self.units += [
            Unit(os.fsdecode(one.unit), [os.fsdecode(one.path)], [], _words(one)) for one in unplaced if one.path
        ]
        self.units += self._masked()

    def find(self, name: str) -> Unit | None:
        """The unit called `name`, which may be an alias or an instance of a template; None if there is none."""
        asked = os.fsencode(name)
        unit = self._dirs.unit_id(asked) or asked
        for candidate in (unit, names.template_of(unit)):
            for one in self.units:
                if candidate and one.name == os.fsdecode(candidate):
                    return one
        return None

    def _masked(self) -> list[Unit]:
        """Directories that nobody looks into, since a link to /dev/null has their name."""
        told = {directory for unit in self.units for directory in unit.directories}
        found = []
        for directory, counts in self._path:
            try:
                listed = sorted(os.listdir(self._tree.real(directory))) if counts else []
            except OSError:
                continue
            for name in listed:
                path = directory + b"/" + name
                hidden = name.startswith(b".") or not name.endswith(unitdirs.CONFEXT_SUFFIX)
                if hidden or os.fsdecode(path) in told:
                    continue
                is_mask = self._leads_to_null(path)
                reason = "masks the directories of this name" if is_mask else "masked by a link to /dev/null"
                unit = name.removesuffix(unitdirs.CONFEXT_SUFFIX)
                unit = unit if unit.endswith(names.SERVICE) else unit + names.SERVICE
                found.append(Unit(os.fsdecode(unit), [os.fsdecode(path)], [], reason))
        return found

    def _leads_to_null(self, path: bytes) -> bool:
        try:
            return self._tree.chase(path) == DEV_NULL
        except OSError:
            return False

    def _read(self, stack: Stack, decider: Decider, reader: LayerReader) -> Unit:
        unit = os.fsdecode(stack.unit)
        directories = [os.fsdecode(source.path) for source in stack.sources]
        first = len(self._listener.complaints)
        try:
            dropin = decider.decide(stack)
            text = render(dropin)
            of_this_unit = self._listener.complaints[first:]
            found = reader.read(stack.unit, stack.sources)
        except Complaint as error:
            return Unit(unit, directories, [], _words(error))
        except OSError as error:
            return Unit(unit, directories, [], f"the unit is left alone: {error.strerror or error}")
        del self._listener.complaints[first + len(of_this_unit) :]
        entries = self._entries(stack, dropin, {layer.name: layer for layer in found}, of_this_unit)
        said = "\n".join(entry.reason for entry in entries)
        warnings = tuple(text for text in map(_words, of_this_unit) if text not in said)
        return Unit(unit, directories, entries, "", text, warnings, self._replacement(stack.unit))

    def _replacement(self, unit: bytes) -> str:
        """The first file that hides the drop-in: in a directory that comes before the generator's, systemd.unit(5)."""
        for directory in self._dirs.dropin_dirs(unit):
            there = os.path.lexists(self._tree.real(directory) + b"/" + config.DROPIN)
            if there and not directory.startswith(b"/usr/"):
                return os.fsdecode(directory + b"/" + config.DROPIN)
        return ""

    def _entries(
        self, stack: Stack, dropin: Dropin, layers: Mapping[bytes, Layer], complaints: list[Complaint]
    ) -> list[Entry]:
        """Every name in the unit's directories, with what became of it."""
        order = [*dropin.images, *dropin.directories]
        seen: dict[bytes, Entry] = {}
        used: dict[bytes, Entry] = {}
        others = []
        for source in stack.sources:
            for name in self._names(source):
                path = source.path + b"/" + name
                entry = self._passed_over(path, name, seen.get(name))
                if entry is None:
                    entry = seen[name] = self._judge(path, name, layers.get(name), order, complaints)
                if entry.verdict in LAYERS:
                    used[layers[name].path] = entry
                else:
                    others.append(entry)
        return [*(used[path] for path in order), *sorted(others, key=lambda entry: (entry.name, entry.path))]

    def _names(self, source: Source) -> list[bytes]:
        try:
            return sorted(os.listdir(self._tree.real(source.path)))
        except OSError:
            return []  # A link into a file system that is not mounted; the unit has a drop-in all the same.

    def _passed_over(self, path: bytes, name: bytes, first: Entry | None) -> Entry | None:
        """The verdict on an entry that the generator does not even look at; None if it does."""
        if entrynames.is_temporary(name):
            return _entry(name, path, Verdict.IGNORED, "hidden or temporary")
        if name.endswith(entrynames.SIDECAR_SUFFIXES):
            return _entry(name, path, Verdict.SIDECAR, "belongs to the image of this name")
        if first is None:
            return None
        verdict = Verdict.MASKED if first.verdict is Verdict.MASK else Verdict.SHADOWED
        return _entry(name, path, verdict, f"{verdict} by {first.path}")

    def _judge(
        self, path: bytes, name: bytes, layer: Layer | None, order: list[bytes], complaints: list[Complaint]
    ) -> Entry:
        same = [one for one in complaints if _SAME in one.text]
        about = [_words(one) for one in self._listener.about(path) if _SAME not in one.text]
        if layer is not None and layer.path in order:
            verdict = Verdict.IMAGE if layer.image else Verdict.DIRECTORY
            return Entry(os.fsdecode(name), os.fsdecode(path), verdict, os.fsdecode(layer.path), "; ".join(about))
        if layer is not None:
            # decide.py leaves it out, and complains about what the entry leads to.
            dropped = [_words(one) for one in complaints if one.path == layer.path and one not in same]
            return _entry(name, path, Verdict.IGNORED, "; ".join(dropped))
        if self._leads_to_null(path):
            return _entry(name, path, Verdict.MASK, "masks the entries of this name")
        if not about:
            # Two entries that lead to the same file.
            start = f"'{printable(name)}' and "
            reasons = [_words(one) for one in same if one.text.startswith(start)]
            return _entry(name, path, Verdict.DUPLICATE, "; ".join(reasons))
        verdict = Verdict.IGNORED
        if about[0].startswith("refused"):
            verdict = Verdict.REFUSED
        elif about[0].startswith("ignored, is ") and "loop" not in about[0]:
            verdict = Verdict.NOT_AN_IMAGE
        return _entry(name, path, verdict, about[0])


def _entry(name: bytes, path: bytes, verdict: Verdict, reason: str) -> Entry:
    return Entry(os.fsdecode(name), os.fsdecode(path), verdict, reason=reason)
