# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs that look at running services, as far as they need no systemd.

What runs is faked where it is asked of the kernel; tests/real/test_command.py has the real one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from confext_helpers.command.output import Output
from confext_helpers.command.verbs import diff, which
from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import image_name
from confext_helpers.service.entries import Disk, Entry, Unit, Verdict
from confext_helpers.service.layers import Layer, LayerChange
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.mountinfo import Mount
from confext_helpers.view import running, services, status
from confext_helpers.view.origin import Kind, Origin, Place
from confext_helpers.view.preview import FileChange, Preview, Side
from confext_helpers.view.runningstack import Running, RunningStack, Since
from confext_helpers.view.services import Service
from confext_helpers.view.status import State, status_of
from unit.command.invocation import run

IMAGES = "ExtensionImages"
UNIT = "foo.service"
DROP = f"etc/systemd/system/{UNIT}.confext.d"


# ---- status ----


def service(*, processes: bool = True, hosted: bool = False, dropins: tuple[str, ...] = (), **values: Any) -> Service:
    properties = {
        IMAGES: ("a(sba(ss))", [(path, True, []) for path in values.get("images", ())]),
        "ExtensionDirectories": ("as", [f"-{path}" for path in values.get("directories", ())]),
        "RootEphemeral": ("b", values.get("ephemeral", False)),
        "ReloadResult": ("s", values.get("reload_result", "success")),
    }
    return Service(
        name=UNIT,
        state="active",
        need_daemon_reload=values.get("stale", False),
        properties=ServiceProperties(properties),
        dropins=list(dropins),
        processes=[Process(1, os.open(os.devnull, os.O_PATH), os.open(os.devnull, os.O_PATH), "1:1")]
        if processes
        else [],
        namespace_problem=ConfextError("it runs in the host's namespace") if hosted else None,
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Running]:
    """What runs, to be filled in by the test."""
    found: list[Running] = []
    view = services.View(Process(1, -1, -1, "1:1"), -1, [])

    class Seen:
        def __init__(self, _: Service) -> None:
            pass

        def __enter__(self) -> services.View:
            return view

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(status, "view_of", Seen)
    stack = RunningStack(found, Since(1_800_000_000_000_000, True, True), True)
    monkeypatch.setattr(running, "read", lambda service, view: stack)
    return found


def layer(path: str, **values: Any) -> Running:
    """A layer that runs."""
    name = image_name(path)
    given: dict[str, Any] = {"image": True, "release": name, "file": path, "changed": False, "source": path}
    return Running(Layer(name, path, path), **{**given, **values})


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A system with nothing in it; tests add units."""
    return Disk(str(tmp_path / "empty"), {})


def generated(tmp_path: Path, *paths: str) -> tuple[str, bytes]:
    """A drop-in that is loaded, with these images, and its text."""
    text = b"[Service]\n" + b"".join(b"ExtensionImages=-" + os.fsencode(path) + b"\n" for path in paths)
    path = tmp_path / "zz-unit-confext.conf"
    path.write_bytes(text)
    return str(path), text


def on_disk(disk: Disk, text: bytes, *paths: str) -> None:
    entries = [Entry(os.path.basename(path), path, Verdict.IMAGE, path) for path in paths]
    disk.units.append(Unit(UNIT, [f"/{DROP}"], entries, dropin=text))


@pytest.fixture(autouse=True)
def generators_write_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "GENERATED", str(tmp_path))


def states(found: status.Status) -> list[tuple[str, State]]:
    return [(row.running.label, row.state) for row in found.rows]


def test_status_up_to_date(tmp_path: Path, disk: Disk, runs: list[Running]) -> None:
    dropin, text = generated(tmp_path, "/a.raw")
    on_disk(disk, text, "/a.raw")
    runs.append(layer("/a.raw"))
    found = status_of(service(images=["/a.raw"], dropins=(dropin,)), disk)
    assert states(found) == [("a.raw", State.CURRENT)]
    assert (found.reasons, found.commands, found.pid) == ([], [], 1)


def test_status_of_everything_that_can_differ(tmp_path: Path, disk: Disk, runs: list[Running]) -> None:
    there = tmp_path / "e.raw"
    there.touch()
    loaded = ["/own.raw", "/b.raw", "/c.raw", "/d.raw", str(there), "/f.raw"]
    dropin, _ = generated(tmp_path, *loaded[1:])
    on_disk(disk, b"another\n", "/b.raw", "/c.raw", str(there), "/f.raw", "/h.raw")
    runs += [
        layer("/own.raw"),
        layer("/b.raw", changed=True, file="", source=""),
        layer("/c.raw", changed=None),
        layer("/d.raw"),
        Running(Layer("e", str(there), str(there)), True),
        Running(Layer("f", "/f.raw", "/f.raw"), True),
        Running(Layer("g"), None, "g"),
    ]
    found = status_of(service(images=loaded, dropins=(dropin,)), disk)
    assert states(found) == [
        ("own.raw", State.CURRENT),  # The unit's own setting; no daemon-reload takes it away.
        ("b", State.CHANGED),
        ("c.raw", State.UNKNOWN),
        ("d.raw", State.NOT_ON_DISK),
        ("e.raw", State.NOT_RUNNING),
        ("f.raw", State.MISSING),
        ("g", State.UNLOADED),
        ("h.raw", State.NOT_LOADED),
    ]
    assert [(row.loaded, row.on_disk) for row in found.rows] == [
        (True, True), (True, True), (True, True), (True, False), (True, True), (True, True), (False, False),
        (False, True),
    ]  # fmt: skip
    assert found.reasons == [
        "b runs, but is not the same on disk any more",
        "c.raw runs, but it cannot be known whether it is still what is on disk",
        "d.raw is loaded, but not on disk any more",
        "e.raw is loaded, but does not run",
        "g runs, but is not loaded any more",
        "h.raw is on disk, but not loaded",
    ]
    assert found.commands == ["systemctl daemon-reload", f"systemctl reload {UNIT}"]


def test_status_names_the_command_that_mends(tmp_path: Path, disk: Disk, runs: list[Running]) -> None:
    dropin, text = generated(tmp_path, "/a.raw")
    on_disk(disk, text, "/a.raw")
    runs.append(layer("/a.raw", changed=True))

    def commands(**values: Any) -> list[str]:
        return status_of(service(images=["/a.raw"], dropins=(dropin,), **values), disk).commands

    assert commands() == [f"systemctl reload {UNIT}"]
    assert commands(ephemeral=True) == [f"systemctl restart {UNIT}"]
    assert commands(stale=True) == ["systemctl daemon-reload", f"systemctl reload {UNIT}"]
    assert commands(hosted=True, processes=False) == [f"systemctl restart {UNIT}"]
    # Where nothing runs, nothing has to be brought to it.
    assert commands(processes=False) == []


@pytest.mark.parametrize("changed", [False, True])
def test_status_of_a_service_whose_reload_failed(
    tmp_path: Path, disk: Disk, runs: list[Running], changed: bool
) -> None:
    dropin, text = generated(tmp_path, "/a.raw")
    on_disk(disk, text, "/a.raw")
    runs.append(layer("/a.raw", changed=changed))
    given = service(images=["/a.raw"], dropins=(dropin,), reload_result="exit-code")
    found = status_of(given, disk)
    assert (found.reload_result, found.reload_failed, bool(found.reasons)) == ("exit-code", True, changed)
    assert found.commands == [f"systemctl reload {UNIT}"]
    # It is that of a process that has ended.
    assert not status_of(given._replace(processes=[]), disk).reload_failed


def test_status_of_a_unit_that_does_not_run(tmp_path: Path, disk: Disk) -> None:
    dropin, text = generated(tmp_path, "/a.raw")
    on_disk(disk, text, "/a.raw", "/b.raw")
    found = status_of(service(processes=False, images=["/a.raw"], dropins=(dropin,)), disk)
    assert (found.pid, found.since) == (None, None)
    assert states(found) == [("a.raw", State.MISSING), ("b.raw", State.NOT_LOADED)]
    assert found.reasons == ["b.raw is on disk, but not loaded"]


def test_status_of_a_version_that_the_generator_has_picked(tmp_path: Path, disk: Disk, runs: list[Running]) -> None:
    """What is loaded is another version than what runs, and than what is the newest."""
    versions = tmp_path / "a.raw.v"
    versions.mkdir()
    one, two, three = (str(versions / f"a_{number}.raw") for number in (1, 2, 3))
    Path(two).touch()
    dropin, _ = generated(tmp_path, two)
    on_disk(disk, b"another\n", three)
    running_layer = Running(Layer("a", two, two), True, "a", one, changed=True, source=one)
    runs.append(running_layer)
    found = status_of(service(images=[two], dropins=(dropin,)), disk)
    assert states(found) == [("a_1.raw", State.SUPERSEDED), ("a_3.raw", State.NOT_LOADED)]
    assert found.reasons[0] == "a_2.raw is loaded, but another version of it is the newest now"
    # Without the file it is gone; and one that lies elsewhere is another one.
    Path(two).unlink()
    assert states(status_of(service(images=[two], dropins=(dropin,)), disk))[0][1] is State.NOT_ON_DISK


def test_status_leaves_a_dropin_of_somebody_s_own_alone(tmp_path: Path, disk: Disk, runs: list[Running]) -> None:
    on_disk(disk, b"generated\n", "/b.raw")
    runs.append(layer("/a.raw"))
    dropin = f"/etc/systemd/system/{UNIT}.d/zz-unit-confext.conf"
    found = status_of(service(images=["/a.raw"], dropins=(dropin,)), disk)
    assert (states(found), found.reasons) == ([("a.raw", State.CURRENT)], [])


def test_status_says_that_only_the_dropin_differs(tmp_path: Path, disk: Disk, runs: list[Running]) -> None:
    dropin, _ = generated(tmp_path, "/a.raw")
    on_disk(disk, b"other settings\n", "/a.raw")
    runs.append(layer("/a.raw"))
    found = status_of(service(images=["/a.raw"], dropins=(dropin,)), disk)
    assert found.reasons == ["the unit or its drop-ins changed on disk since they were loaded"]
    assert found.commands == ["systemctl daemon-reload"]


# ---- which, cat, diff ----


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"json": "off", "no_legend": False, "quiet": False, "no_pager": True, **values})


OVERLAY = Mount(2, 1, "0:9", "/", "/etc", "ro", False, "overlay", "overlay", "lowerdir=/unit-extensions/0/etc:/etc")
BOUND = OVERLAY._replace(point="/etc/b", type="ext4", super_options="", root="/srv/b")
PLACE = Place("/etc/a", -1, os.stat("/"), OVERLAY)


@pytest.mark.parametrize(
    ("origin", "lines"),
    [
        (
            Origin(Kind.LAYER, layer("/b.raw", source=""), "device", hidden=(layer("/a.raw"),), hides_host=True),
            [
                "/etc/a: from /b.raw",
                "  it is not known who signed it",
                "  hidden below it: /a.raw",
                "  hidden below it: the file in the /etc below all layers",
            ],
        ),
        (
            Origin(Kind.LAYER, layer("/b\x1b.raw", image=False, changed=True), "inode", unsure=(layer("/a.raw"),)),
            [
                "/etc/a: from /b\\x1b.raw",
                "  the layer on disk is another one by now; this one runs",
                "  not signed",
                "  these may have it, too: /a.raw",
            ],
        ),
        (
            Origin(Kind.HOST, None, "inode", hides_host=True),
            ["/etc/a: not from a layer, but from the /etc below all layers"],
        ),
        (
            Origin(Kind.MOUNT, None, "device", "BindPaths=", "/srv/b", (layer("/a.raw"),)),
            ["/etc/a: mounted over all layers at /etc/b by BindPaths=", "  hidden below it: /a.raw"],
        ),
        (
            Origin(Kind.MERGED, hidden=(layer("/b.raw"), layer("/a.raw"))),
            ["/etc/a: a directory, merged from /b.raw, /a.raw"],
        ),
        (Origin(Kind.UNKNOWN), ["/etc/a: it cannot be known which layer it is from"]),
    ],
)
def test_which(origin: Origin, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    place = PLACE._replace(mount=BOUND) if origin.kind is Kind.MOUNT else PLACE
    output = Output(options())
    which._show(which._as_data(UNIT, "/etc/a", place, origin, [], []), output)
    output.flush()
    assert capsys.readouterr().out.splitlines() == lines


def side(text: str | None, **values: Any) -> Side:
    return Side(**{"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "size": len(text or ""), "text": text, **values})


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            FileChange("/etc/a", side("one\ntwo\n"), side("one\n\tthree\x1b"), "x"),
            [
                "changed: /etc/a (from x)", "--- /etc/a", "+++ /etc/a", "@@ -1,2 +1,2 @@", " one", "-two",
                "+\tthree\\x1b", "\\ No newline at end of file",
            ],
        ),
        (
            FileChange("/etc/a\n", None, side("new\n")),
            ["added: /etc/a\\n", "--- /dev/null", "+++ /etc/a\\n", "@@ -0,0 +1 @@", "+new"],
        ),
        (
            FileChange("/etc/a", side("old\n"), None),
            ["removed: /etc/a", "--- /etc/a", "+++ /dev/null", "@@ -1 +0,0 @@", "-old"],
        ),
        (
            FileChange("/etc/a", side(None, size=7), side(None, size=9, mode=0o600, uid=3)),
            [
                "changed: /etc/a", "  mode: 0644 -> 0600", "  owner: 0:0 -> 3:0",
                "  no text, or too long to show: 7 -> 9 bytes",
            ],
        ),
        (FileChange("/etc/a", side("same\n"), side("same\n", gid=4)), ["changed: /etc/a", "  owner: 0:0 -> 0:4"]),
        (
            FileChange("/etc/a", side("was"), side("../b", kind="symlink")),
            ["changed: /etc/a", "  type: file -> symlink", "+-> ../b", "  no text, or too long to show: 3 -> - bytes"],
        ),
        (FileChange("/etc/a", None, side(None, kind="other")), ["added: /etc/a"]),
    ],
)  # fmt: skip
def test_diff_of_a_file(change: FileChange, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = Preview(LayerChange([], [], [], []), [change], None)
    assert found.differs
    diff._show(UNIT, found, Output(options()))
    assert capsys.readouterr() == ("".join(f"{line}\n" for line in lines), "")


def test_diff_in_other_cases(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = Layer("a", "/a.raw", "/a.raw"), Layer("b")
    found = Preview(LayerChange([one], [one], [], [two]), [], None)
    assert found.differs
    diff._show(UNIT, found, Output(options()))
    assert capsys.readouterr() == ("layer added: a.raw\nlayer removed: b\n", "")

    nothing = Preview(LayerChange([one], [], [], []), [], None)
    assert not nothing.differs
    diff._show(UNIT, nothing, Output(options()))
    assert capsys.readouterr() == ("", f"unit-confext: {UNIT}: a reload would change nothing\n")

    diff._show(UNIT, Preview(None, [], ConfextError("bad", unit=UNIT)), Output(options(quiet=True)))
    assert capsys.readouterr() == ("", f"unit-confext: the reload would be refused: {UNIT}: bad\n")


@pytest.mark.parametrize("arguments", ["status foo", "which foo /etc/a", "cat foo /etc/a", "diff foo"])
def test_only_root(arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    verb, *_ = arguments.split()
    assert run(capsys, *arguments.split()) == (
        1, "", f"unit-confext: only root can look into running services; run '{verb}' as root\n",
    )  # fmt: skip
