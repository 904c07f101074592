# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies in the `.confext.d/` directories, and what the next daemon-reload would make of each entry.

The generator decides, here as there: this is one of its runs (`confext_generator.cli.Run`), which sees what it would
see and has its patience, and of which what it returns and complains about is kept. All that is added is a word for each
entry that does not become a layer, since the generator passes over many of them without one. The files are those of
now; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from confext_generator import cli, constants, entrynames, names, unitdirs
from confext_generator.decide import Dropin
from confext_generator.layers import Layer
from confext_generator.render import render
from confext_generator.report import ConfextError as Complaint
from confext_generator.report import Reporter
from confext_generator.sources import Target
from confext_generator.tree import DEV_NULL
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


# How layers.py says that two entries lead to one file.
_SAME = " are the same, "

# Where systemd has it written.
GENERATED = "/run/systemd/generator"

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
        stale: whether the last daemon-reload came to another result; None for another system than the running one.
    """

    name: str
    directories: list[str]
    entries: list[Entry]
    problem: str = ""
    dropin: bytes | None = None
    warnings: tuple[str, ...] = ()
    replaced_by: str = ""
    stale: bool | None = None

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
        self._listener = _Listener()
        self._tree = cli.open_tree(os.fsencode(root), environ)
        self._run = run = cli.Run(self._tree, environ, self._listener)
        self._dirs = run.dirs
        unplaced = list(self._listener.complaints)
        self.units: list[Unit] = []
        if run.targets:
            try:
                run.prepare()
            except Complaint as error:
                raise ConfextError(_words(error)) from None
            self.units = [self._read(target) for target in run.targets]
        if not root:
            self.units = [unit._replace(stale=_written(unit.name) != unit.dropin) for unit in self.units]
        self.units += [
            Unit(os.fsdecode(one.unit), [os.fsdecode(one.path)], [], _words(one)) for one in unplaced if one.path
        ]
        self.units += self._masked()
        self._tree.close()

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
        for directory, counts in self._run.path:
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

    def _read(self, target: Target) -> Unit:
        unit = os.fsdecode(target.unit)
        directories = [os.fsdecode(source.path) for source in target.sources]
        first = len(self._listener.complaints)
        try:
            dropin = self._run.decider.decide(target)
            text = render(dropin)
        except Complaint as error:
            return Unit(unit, directories, [], _words(error))
        except OSError as error:
            return Unit(unit, directories, [], f"the unit is left alone: {error.strerror or error}")
        of_this_unit = self._listener.complaints[first:]
        entries = self._entries(target, dropin)
        said = "\n".join(entry.reason for entry in entries)
        warnings = tuple(text for text in map(_words, of_this_unit) if text not in said)
        return Unit(unit, directories, entries, "", text, warnings, self._replacement(target.unit))

    def _replacement(self, unit: bytes) -> str:
        """The first file that hides the drop-in: in a directory that comes before the generator's, systemd.unit(5)."""
        for directory in self._dirs.dropin_dirs(unit):
            try:
                self._tree.lstat(self._tree.directory(directory) + b"/" + constants.DROPIN)
            except OSError:
                continue
            if not directory.startswith(b"/usr/"):
                return os.fsdecode(directory + b"/" + constants.DROPIN)
        return ""

    def _entries(self, target: Target, dropin: Dropin) -> list[Entry]:
        """Every name in the unit's directories, with what became of it."""
        seen: dict[bytes, Entry] = {}
        used: dict[str, Entry] = {}
        others = []
        for source in target.sources:
            for name in sorted(self._run.layers.listings.names(source)):
                path = source.path + b"/" + name
                entry = self._passed_over(path, name, seen.get(name))
                if entry is None:
                    outcome = self._run.layers.outcome(source, name)
                    entry = seen[name] = self._judge(path, name, outcome, dropin.left_out.get(name))
                if entry.verdict in LAYERS:
                    used[entry.layer] = entry
                else:
                    others.append(entry)
        order = [os.fsdecode(path) for path in (*dropin.images, *dropin.directories)]
        return [*(used[path] for path in order), *sorted(others, key=lambda entry: (entry.name, entry.path))]

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

    def _judge(self, path: bytes, name: bytes, outcome: Layer | Complaint | None, left_out: Complaint | None) -> Entry:
        """The verdict of the generator on an entry."""
        if outcome is None:
            return _entry(name, path, Verdict.MASK, "masks the entries of this name")
        if isinstance(outcome, Complaint):
            verdict = Verdict.IGNORED
            if outcome.text.startswith("refused"):
                verdict = Verdict.REFUSED
            elif outcome.text.startswith("ignored, is ") and "loop" not in outcome.text:
                verdict = Verdict.NOT_AN_IMAGE
            return _entry(name, path, verdict, _words(outcome))
        if left_out is not None:
            verdict = Verdict.DUPLICATE if _SAME in left_out.text else Verdict.IGNORED
            return _entry(name, path, verdict, _words(left_out))
        about = "; ".join(_words(one) for one in self._listener.about(path) if _SAME not in one.text)
        verdict = Verdict.IMAGE if outcome.image else Verdict.DIRECTORY
        return Entry(os.fsdecode(name), os.fsdecode(path), verdict, os.fsdecode(outcome.path), about)


def _written(unit: str) -> bytes | None:
    """The drop-in that the last daemon-reload has written for a unit."""
    try:
        with open(f"{GENERATED}/{unit}.d/{constants.DROPIN.decode()}", "rb") as file:
            return file.read()
    except OSError:
        return None


def _entry(name: bytes, path: bytes, verdict: Verdict, reason: str) -> Entry:
    return Entry(os.fsdecode(name), os.fsdecode(path), verdict, reason=reason)
