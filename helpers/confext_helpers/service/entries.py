# SPDX-License-Identifier: LGPL-2.1-or-later
"""The entries of the `.confext.d/` directories, and what the next daemon-reload would make of each.

The generator itself decides: this module runs it (`confext_generator.cli.Run`) without writing anything, and keeps what
it returns and complains about. Only a reason is added for entries that the generator ignores without a complaint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from confext_generator import cli, constants, names, unitdirs
from confext_generator.decide import Dropin
from confext_generator.report import Complaint, Reporter
from confext_generator.sources import Target
from confext_helpers.errors import ConfextError
from confext_helpers.paths import GENERATED

if TYPE_CHECKING:
    from confext_generator.layers import Became, Layer


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


# The reasons for verdicts about which the generator does not complain.
_REASONS = {
    Verdict.IMAGE: "",
    Verdict.DIRECTORY: "",
    Verdict.MASK: "masks the entries of this name",
    Verdict.MASKED: "masked by {}",
    Verdict.SHADOWED: "shadowed by {}",
    Verdict.SIDECAR: "belongs to the image of this name",
    Verdict.IGNORED: "hidden or temporary",
}

LAYERS = (Verdict.IMAGE, Verdict.DIRECTORY)


class Entry(NamedTuple):
    """One name in a `.confext.d/` directory.

    Attributes:
        name: in the directory.
        path: of the entry itself.
        verdict: what becomes of the entry.
        layer: the path that systemd gets; empty if the entry is no layer.
        reason: why the entry is no layer, or what is wrong with the layer; empty if nothing.
        code: the code of the generator's complaint; empty if it has none.
    """

    name: str
    path: str
    verdict: Verdict
    layer: str = ""
    reason: str = ""
    code: str = ""


class Unit(NamedTuple):
    """A unit with `.confext.d/` directories.

    Attributes:
        name: of the unit, which may be a template; empty for a directory whose name means no unit.
        directories: the `.confext.d/` directories, in the generator's order.
        entries: the layers from bottom to top, then the other entries by name.
        problem: why the generator leaves the unit alone; empty if the unit gets a drop-in.
        code: the code of the generator's complaint; empty if it has none.
        dropin: the text of the drop-in; None if the unit gets none.
        warnings: complaints that are not about a single entry.
        replaced_by: a file of the drop-in's name that systemd reads instead; empty if there is none.
        stale: whether the last daemon-reload wrote another drop-in; None for another system than the running one.
    """

    name: str
    directories: list[str]
    entries: list[Entry]
    problem: str = ""
    code: str = ""
    dropin: bytes | None = None
    warnings: tuple[str, ...] = ()
    replaced_by: str = ""
    stale: bool | None = None

    @property
    def layers(self) -> list[str]:
        """The layers that a daemon-reload would bring, from bottom to top."""
        return [entry.layer for entry in self.entries if entry.verdict in LAYERS]


class _Listener(Reporter):
    """Keeps the generator's complaints instead of printing them."""

    __slots__ = ("complaints",)

    def __init__(self) -> None:
        super().__init__(emit=lambda line: None)
        self.complaints: list[Complaint] = []

    def warn(self, complaint: Complaint) -> None:
        self.complaints.append(complaint)


class Disk:
    """The units with `.confext.d/` directories of one system.

    Args:
        root: the root directory of that system; empty for the running one.
        environ: as for the generator, $SYSTEMD_UNIT_PATH and $UNIT_CONFEXT_SYSTEMD_VERSION count.

    Attributes:
        units: the units by name, and last the directories that belong to no unit.

    Raises:
        ConfextError: the system's systemd does not support confexts for services.
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
                raise ConfextError(error.text) from None
            self.units = [self._read(target) for target in run.targets]
        if not root:
            self.units = [unit._replace(stale=_written(unit.name) != unit.dropin) for unit in self.units]
        self.units += [Unit(os.fsdecode(one.unit), [os.fsdecode(one.path)], [], one.text, one.code) for one in unplaced]
        self.units += [_masked(path, is_mask) for path, is_mask in run.dirs.passed_over]
        self._tree.close()

    def find(self, name: str) -> Unit | None:
        """The unit `name`, which may be an alias or an instance of a template; None if there is none."""
        asked = os.fsencode(name)
        unit = self._dirs.unit_id(asked) or asked
        for candidate in (unit, names.template_of(unit)):
            for one in self.units:
                if candidate and one.name == os.fsdecode(candidate):
                    return one
        return None

    def _read(self, target: Target) -> Unit:
        unit = os.fsdecode(target.unit)
        directories = [os.fsdecode(source.path) for source in target.sources]
        first = len(self._listener.complaints)
        try:
            dropin, text = self._run.decide(target)
        except Complaint as error:
            return Unit(unit, directories, [], error.text, error.code)
        of_entries = {complaint for _, _, known in dropin.entries.outcomes() for complaint in known[2]}
        others = [one for one in self._listener.complaints[first:] if one not in of_entries]
        return Unit(
            unit,
            directories,
            _in_order(dropin),
            dropin=text,
            warnings=tuple(complaint.text for complaint in others),
            replaced_by=self._replacement(target.unit),
        )

    def _replacement(self, unit: bytes) -> str:
        """The file that hides the drop-in, in a directory with precedence over the generator's: systemd.unit(5)."""
        for directory in self._dirs.dropin_dirs(unit):
            try:
                self._tree.lstat(self._tree.directory(directory) + b"/" + constants.DROPIN)
            except OSError:
                continue
            if not directory.startswith(b"/usr/"):
                return os.fsdecode(directory + b"/" + constants.DROPIN)
        return ""


def _in_order(dropin: Dropin) -> list[Entry]:
    """The entries: the layers from bottom to top, then the others by name."""
    entries = [_entry(path, name, *known) for path, name, known in dropin.entries.outcomes()]
    layers = {entry.layer: entry for entry in entries if entry.verdict in LAYERS}
    others = sorted((entry for entry in entries if entry.verdict not in LAYERS), key=lambda entry: entry[:2])
    return [*(layers[os.fsdecode(path)] for path in (*dropin.images, *dropin.directories)), *others]


def _entry(
    path: bytes, name: bytes, became: Became, layer: Layer | None, complaints: tuple[Complaint, ...], hiding: bytes
) -> Entry:
    verdict = Verdict(became)
    return Entry(
        os.fsdecode(name),
        os.fsdecode(path),
        verdict,
        os.fsdecode(layer.path) if layer is not None else "",
        "; ".join(one.text for one in complaints) or _REASONS[verdict].format(os.fsdecode(hiding)),
        complaints[0].code if complaints else "",
    )


def _masked(path: bytes, is_mask: bool) -> Unit:
    """A directory that is not read, since it is a link to /dev/null, or masked by one of the same name."""
    reason = "masks the directories of this name" if is_mask else "masked by a link to /dev/null"
    unit = path.rpartition(b"/")[2].removesuffix(unitdirs.CONFEXT_SUFFIX)
    unit = unit if unit.endswith(names.SERVICE) else unit + names.SERVICE
    return Unit(os.fsdecode(unit), [os.fsdecode(path)], [], reason)


def _written(unit: str) -> bytes | None:
    """The drop-in that the last daemon-reload wrote for a unit; None if there is none."""
    try:
        with open(f"{GENERATED}/{unit}.d/{constants.DROPIN.decode()}", "rb") as file:
            return file.read()
    except OSError:
        return None
