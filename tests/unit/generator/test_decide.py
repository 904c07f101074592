# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run gives back: the drop-in of a unit, and what became of each entry."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from confext_generator import cli
from confext_generator.decide import Decider, Dropin
from confext_generator.report import Complaint
from confext_generator.sources import Target
from golden.recorder import Recorder

ENVIRON = {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"}
UNITS = "etc/systemd/system"

# Of an entry: what became of it, the layer's path, the codes of the complaints, and what hides it.
Outcome = tuple[str, bytes, list[str], bytes]


def decide(root: Path) -> dict[bytes, dict[bytes, Outcome] | str]:
    """What becomes of the entries of each unit, by their paths, or the code for which it is left alone."""
    recorder = Recorder()
    tree = cli.open_tree(os.fsencode(root), ENVIRON)
    run = cli.Run(tree, ENVIRON, recorder)
    run.prepare()
    found: dict[bytes, dict[bytes, Outcome] | str] = {}
    for target in run.targets:
        try:
            dropin, _ = run.decide(target)
        except Complaint as complaint:
            assert complaint.effect == "left-alone"
            found[target.unit] = complaint.code
            continue
        found[target.unit] = {
            path.removeprefix(b"/etc/systemd/system/"): (
                became, layer.path if layer else b"", [complaint.code for complaint in complaints], hiding
            )
            for path, _, (became, layer, complaints, hiding) in dropin.entries.outcomes()
        }  # fmt: skip
    tree.close()
    return found


def test_instances_share_entries_and_not_what_becomes_of_them(tmp_path: Path) -> None:
    units = tmp_path / UNITS
    (units / "foo@.service.confext.d").mkdir(parents=True)
    (units / "foo@.service").write_text("[Service]\nExecStart=/bin/true\n")
    settings = {
        "a": "DevicePolicy=closed",
        "b": "DevicePolicy=closed\n[X-Confext]\nUnsafeDeviceAllow=yes",
        "c": "Nice=1",
    }
    for instance, setting in settings.items():
        (units / f"foo@{instance}.service.d").mkdir()
        (units / f"foo@{instance}.service.d/10.conf").write_text(f"[Service]\n{setting}\n")
    for name in ("1.raw", "2.raw"):
        (units / "foo@.service.confext.d" / name).touch()
    (units / "foo@d.service.confext.d").mkdir()
    (units / "foo@d.service.confext.d/1.raw").touch()
    directory = b"foo@.service.confext.d/"
    whole = b"/etc/systemd/system/" + directory
    used: dict[bytes, Outcome] = {directory + name: ("image", whole + name, [], b"") for name in (b"1.raw", b"2.raw")}
    own = b"foo@d.service.confext.d/1.raw"
    assert decide(tmp_path) == {
        b"foo@.service": used,
        b"foo@a.service": dict.fromkeys(used, ("ignored", b"", ["devices-restricted"], b"")),
        b"foo@b.service": {path: (*used[path][:2], ["devices-opened"], b"") for path in used},
        b"foo@c.service": used,
        b"foo@d.service": {
            own: ("image", b"/etc/systemd/system/" + own, [], b""),
            directory + b"1.raw": ("shadowed", b"", [], b"/etc/systemd/system/" + own),
            directory + b"2.raw": used[directory + b"2.raw"],
        },
    }


def test_units_that_are_left_alone(tmp_path: Path) -> None:
    units = tmp_path / UNITS
    for unit in ("masked", "open"):
        (units / f"{unit}.service.confext.d").mkdir(parents=True)
        (units / f"{unit}.service.confext.d/a.raw").touch()
        (units / f"{unit}.service").write_text("[Service]\nExecStart=/bin/true\n")
    (units / "masked.service").write_text("")
    (units / "open.service.confext.d").chmod(0o777)
    assert decide(tmp_path) == {b"masked.service": "unit-file-masked", b"open.service": "everybody-writes"}


def test_list_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at again for it, neither unit directories nor entries."""
    from confext_helpers.service.entries import Disk

    units = tmp_path / UNITS
    for name in ("foo.service.confext.d", "usr"):
        (units / name).mkdir(parents=True)
    (units / "foo.service").write_text("[Service]\nExecStart=/bin/true\n")
    (units / "foo.service.confext.d/a.raw").touch()
    (units / "off.service.confext.d").symlink_to("/dev/null")
    calls: list[Counter[str]] = []

    def count(function: str) -> None:
        real = getattr(os, function)

        def counted(path: str | bytes, *arguments: object) -> object:
            calls[-1][os.fsdecode(path)] += 1
            return real(path, *arguments)

        monkeypatch.setattr(f"posix.{function}", counted)
        monkeypatch.setattr(os, function, counted)

    count("listdir")
    count("scandir")
    calls.append(Counter())
    tree = cli.open_tree(os.fsencode(tmp_path), ENVIRON)
    assert [unit for unit, _ in cli.generate(tree, ENVIRON, Recorder())] == [b"foo.service"]
    calls.append(Counter())
    assert [unit.name for unit in Disk(str(tmp_path), ENVIRON).units] == ["foo.service", "off.service"]
    assert calls[0] == calls[1]
    assert calls[0][str(units)] == calls[0][str(units / "foo.service.confext.d")] == 1


def test_what_goes_away_is_said_of_instances_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an instance without a `.confext.d/` of its own, all other complaints are the template's."""
    units = tmp_path / UNITS
    (units / "bar@.service.confext.d").mkdir(parents=True)
    (units / "bar@.service").write_text("[Service]\n")
    for name in ("bar@1.service.d", "bar@2.service.d"):
        (units / name).mkdir()
        (units / name / "10.conf").touch()
    (units / "bar@2.service").symlink_to("/dev/null")
    decide = Decider.decide

    def go_away(decider: Decider, target: Target) -> Dropin:
        if target.unit == b"bar@1.service":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", b"/gone")
        return decide(decider, target)

    monkeypatch.setattr(Decider, "decide", go_away)
    recorder = Recorder()
    tree = cli.open_tree(os.fsencode(tmp_path), ENVIRON)
    assert [unit for unit, _ in cli.generate(tree, ENVIRON, recorder)] == [b"bar@.service"]
    tree.close()
    assert recorder.codes == [("left-alone", "went-away", b"/gone")]
