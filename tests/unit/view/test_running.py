# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs, and where a file comes from: from an `/etc` that is made up here, with the numbers that a kernel gives."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service import notes, releases
from confext_helpers.service.fingerprint import Fingerprint
from confext_helpers.service.notes import LastSwap as Note
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.service.releases import Release
from confext_helpers.system import loopdevices
from confext_helpers.system.bus import Properties
from confext_helpers.system.loopdevices import Loop
from confext_helpers.system.mountinfo import Mount
from confext_helpers.view import running, services
from confext_helpers.view.runningstack import Since
from confext_helpers.view.services import Service, View

UNIT = "foo.service"
LOWER = "lowerdir=/run/systemd/unit-extensions/1/etc:/run/systemd/unit-extensions/0/etc:/run/systemd/mount-rootfs/etc"
OVERLAY = Mount(20, 1, "0:99", "/", "/etc", "ro", False, "overlay", "overlay", f"ro,{LOWER}")
BEFORE, AFTER = Since(1_000_000, True, True), Since(4_000_000_000_000_000, True, True)


def service(properties: Properties) -> Service:
    return Service(UNIT, "active", False, ServiceProperties(properties), [], [Process(1, -1, -1, "1:1")], None)


def extensions(images: list[str], directories: list[str]) -> Properties:
    return {
        "ExtensionImages": ("a(sba(ss))", [(path, True, []) for path in images]),
        "ExtensionDirectories": ("as", [f"-{path}" for path in directories]),
        "RootDirectory": ("s", ""),
        "RootImage": ("s", ""),
        "MainPID": ("u", 1),
        "ExecMainStartTimestamp": ("t", 5_000_000),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc/extension-release.d").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def view(root: Path) -> Iterator[View]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield View(Process(1, -1, -1, "1:1"), fd, [OVERLAY])
    os.close(fd)


# ---- layers ----


def test_lower_count() -> None:
    assert running.lower_count(OVERLAY) == 2
    assert running.lower_count(OVERLAY._replace(super_options="lowerdir=/a:/b")) == 0
    added = "lowerdir+=/run/systemd/unit-extensions/0/etc,lowerdir+=/run/systemd/mount-rootfs/etc"
    assert running.lower_count(OVERLAY._replace(super_options=added)) == 1
    assert running.lower_count(None) == 0


@pytest.mark.parametrize(
    ("paths", "seen", "expected"),
    [
        (["/a.raw", "/b"], ["b", "a"], {"/a.raw": "a", "/b": "b"}),
        # Without a version, which the release file need not have.
        (["/a_1.raw", "/b+2.raw"], ["a", "b"], {"/a_1.raw": "a", "/b+2.raw": "b"}),
        # Another version is the same confext, but the exact one comes first.
        (["/a_2.raw"], ["a_1"], {"/a_2.raw": "a_1"}),
        (["/a_2.raw", "/a_1.raw"], ["a_1", "a_2"], {"/a_2.raw": "a_2", "/a_1.raw": "a_1"}),
        (["/a_2.raw", "/a_1.raw"], ["a_1"], {"/a_1.raw": "a_1"}),
        # A directory's name is taken as it is.
        (["/a.raw/"], ["a.raw"], {"/a.raw/": "a.raw"}),
        (["/c.raw"], ["a"], {}),
        ([], ["a"], {}),
    ],
)
def test_match(paths: list[str], seen: list[str], expected: dict[str, str]) -> None:
    found = releases.match(paths, [Release(name, 1, (number,)) for number, name in enumerate(seen)])
    assert {path: release.name for path, release in found.items()} == expected


def test_match_of_names_that_do_not_matter() -> None:
    lax = Release("x", 1, (1,), True)
    assert releases.match(["/a.raw"], [lax]) == {"/a.raw": lax}
    assert releases.match(["/a.raw"], [lax._replace(lax=False)]) == {}
    assert releases.match(["/a.raw", "/b.raw"], [lax]) == {}
    assert releases.match(["/a.raw"], [lax, lax._replace(name="y")]) == {}


def test_releases(root: Path, view: View) -> None:
    directory = root / "etc/extension-release.d"
    for name in ("extension-release.b", "extension-release.a_1", "extension-release.", "other"):
        (directory / name).touch()
    (directory / "extension-release.link").symlink_to("/nowhere")
    assert [one.name for one in running.releases(view.root)] == ["a_1", "b", "link"]


def test_releases_does_not_follow_links_out_of_the_root(root: Path, view: View, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/extension-release.x").touch()
    (root / "etc/extension-release.d").rmdir()
    (root / "etc/extension-release.d").symlink_to(tmp_path / "outside")
    assert running.releases(view.root) == []


def test_loops(tmp_path: Path) -> None:
    for name, backing in {"loop0": "/a.raw", "loop1": "/a.raw (deleted)", "dm-0": "/b", "loop2": None}.items():
        (tmp_path / name / "loop").mkdir(parents=True)
        if backing is not None:
            (tmp_path / name / "loop/backing_file").write_text(f"{backing}\n")
    found = [one._replace(inode=0) for one in loopdevices.loops(str(tmp_path))]
    assert found == [Loop("/dev/loop0", "/a.raw", False), Loop("/dev/loop1", "/a.raw", True)]


def test_loop_of_another_container(tmp_path: Path) -> None:
    file = tmp_path / "a.raw"
    file.touch()
    number = file.stat().st_ino
    assert Loop("/dev/loop0", str(file), False, number).may_have(str(tmp_path))
    assert Loop("/dev/loop0", str(file), False).may_have(str(tmp_path))
    assert Loop("/dev/loop0", str(file), True, number + 1).may_have(str(tmp_path))
    assert not Loop("/dev/loop0", str(file), False, number + 1).may_have(str(tmp_path))
    assert not Loop("/dev/loop0", str(file) + "gone", False, number).may_have(str(tmp_path))
    assert not Loop("/dev/loop0", str(file), False, number).may_have("/")


def test_verity_is_what_the_kernel_has(tmp_path: Path) -> None:
    for path in ("loop0/holders/dm-0", "loop1/loop1p1/holders/dm-1", "loop2/loop2p1/holders/dm-2", "loop3/loop3p1"):
        (tmp_path / path).mkdir(parents=True)
    for name, number in {"dm-0": "CRYPT-VERITY-1-x", "dm-1": "CRYPT-VERITY-2-x", "dm-2": "CRYPT-LUKS2-3-x"}.items():
        (tmp_path / name / "dm").mkdir(parents=True)
        (tmp_path / name / "dm/uuid").write_text(f"{number}\n")
    found = {f"loop{n}": loopdevices.is_verity(f"/dev/loop{n}", str(tmp_path)) for n in range(4)}
    assert found == {"loop0": True, "loop1": True, "loop2": False, "loop3": False}


UNCERTAIN = BEFORE._replace(by_swap=False, certain=False)


@pytest.mark.parametrize(
    ("stacked", "attached", "changed", "source"),
    [
        # Nothing changed since; and the loop device is that of the file.
        (AFTER, ["a.raw"], False, "a.raw"),
        # Older than the stack, but what runs is another one: a directory on the way was another one.
        (AFTER, ["a.raw deleted"], True, "loop"),
        (AFTER, [], True, ""),
        # Two services use it: it cannot be told which device is whose.
        (AFTER, ["a.raw", "a.raw deleted"], False, "a.raw"),
        (BEFORE, ["a.raw deleted", "a.raw deleted"], True, ""),
        (BEFORE, ["a.raw deleted"], True, "loop"),
        # Written in place.
        (BEFORE, ["a.raw"], True, "loop"),
        # It is not known when it was stacked.
        (UNCERTAIN, ["a.raw"], False, "a.raw"),
        (UNCERTAIN, ["a.raw deleted"], True, "loop"),
        (UNCERTAIN, ["a.raw", "a.raw deleted"], None, ""),
        (UNCERTAIN, [], None, ""),
        # The device of something else.
        (AFTER, ["a.raw", "b.raw"], False, "a.raw"),
    ],
)
def test_changed_image(stacked: Since, attached: list[str], changed: bool | None, source: str, tmp_path: Path) -> None:
    (tmp_path / "a.raw").touch()
    loops = [
        Loop(f"/dev/loop{number}", f"{tmp_path}/{word.split()[0]}", "deleted" in word)
        for number, word in enumerate(attached)
    ]
    path = str(tmp_path / "a.raw")
    found = running._running(path, True, Release("a", 7, ()), stacked, loops)
    expected = {"loop": "/dev/loop0", "a.raw": path, "": ""}[source]
    assert (found.changed, found.source, found.release, found.device) == (changed, expected, "a", 7)
    assert found.file == (path if source else "")


def test_changed_version(tmp_path: Path) -> None:
    versions = tmp_path / "a.raw.v"
    versions.mkdir()
    for name in ("a_1.raw", "a_2.raw"):
        (versions / name).touch()
    path = str(versions)
    first = Loop("/dev/loop0", f"{versions}/a_1.raw", False)
    second = Loop("/dev/loop1", f"{versions}/a_2.raw", False)
    # The release file has no version: the device tells.
    found = running._running(path, True, Release("a", 7, ()), BEFORE, [first])
    assert (found.changed, found.file, found.version, found.label) == (True, first.file, "1", "a_1.raw")
    found = running._running(path, True, Release("a", 7, ()), AFTER, [second])
    assert (found.changed, found.file, found.version) == (False, second.file, "2")
    # It has one, and there are several devices.
    found = running._running(path, True, Release("a_1", 7, ()), AFTER, [first, second])
    assert (found.changed, found.file, found.version, found.label) == (True, "", "1", "a_1")


def test_changed_directory(tmp_path: Path) -> None:
    releases = tmp_path / "a/etc/extension-release.d"
    releases.mkdir(parents=True)
    (releases / "extension-release.a").touch()
    path = str(tmp_path / "a")
    (seen,) = running._releases_of(f"{path}/etc")
    found = running._running(path, False, seen, AFTER, [])
    assert (found.changed, found.source) == (False, path)
    found = running._running(path, False, seen, BEFORE, [])
    assert (found.changed, found.source) == (True, path)
    found = running._running(path, False, seen, UNCERTAIN, [])
    assert (found.changed, found.source) == (None, path)
    # Another directory of that name: what runs cannot be looked at.
    other = seen._replace(key=(seen.key[0], 1, 2, 3))
    found = running._running(path, False, other, AFTER, [])
    assert (found.changed, found.source) == (True, "")


def test_read(root: Path, view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = tmp_path / "host"
    for name in ("own", "gone", "b"):
        (root / f"etc/extension-release.d/extension-release.{name}").touch()
    (host / "etc/extension-release.d").mkdir(parents=True)
    # The host's own confext is seen through the overlay as it is.
    own = "etc/extension-release.d/extension-release.own"
    os.link(root / own, host / own)
    (tmp_path / "b.raw").touch()
    properties = extensions([str(tmp_path / "a.raw"), str(tmp_path / "b.raw")], [])
    properties["RootDirectory"] = ("s", str(host))
    monkeypatch.setattr(running, "loops", lambda: [])
    monkeypatch.setattr(running, "RUN_DIRECTORY", str(tmp_path / "run"))

    def of_etc(etc: int) -> list[Release]:
        """Each layer of an overlay has a device number of its own, if it is no directory."""
        return [one._replace(device=number) for number, one in enumerate(releases.of_etc(etc))]

    monkeypatch.setattr(running, "of_etc", of_etc)

    found = running.read(service(properties), view)

    assert [(one.layer.name, one.release) for one in found.layers] == [("a", ""), ("b", "b"), ("gone", "gone")]
    assert [one.layer.path for one in found.layers] == [str(tmp_path / "a.raw"), str(tmp_path / "b.raw"), ""]
    assert found.since == Since(5_000_000, False, True)
    assert found.complete
    assert not (tmp_path / "run").exists(), "looking leaves no traces"
    (root / "etc/extension-release.d/extension-release.gone").unlink()
    assert not running.read(service(properties), view).complete
    # Without a stack, nothing that is seen is a layer.
    bare = running.read(service(properties), view._replace(mounts=[]))
    assert [(one.layer.name, one.release) for one in bare.layers] == [("a", ""), ("b", "")]
    assert bare.complete


def test_since(view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RUN_DIRECTORY", str(tmp_path))
    given = service(extensions([], []))
    noted = {"note": Note(["1:1"], 9, [], Fingerprint({}, "", "", "", 0, 0), True)}

    class Notes:
        def __init__(self, unit: str) -> None:
            assert unit == UNIT

        def __exit__(self, *_: object) -> None:
            pass

        def read_stack(self) -> Note | None:
            return noted.get("note")

    monkeypatch.setattr(running, "Notes", Notes)
    assert running.since(given, view) == Since(5_000_000, False, True)
    (tmp_path / f"{UNIT}.lock").touch()
    assert running.since(given, view) == Since(9, True, True)
    # About an earlier process: this one was never re-stacked.
    noted["note"] = noted["note"]._replace(processes=["1:0"])
    assert running.since(given, view) == Since(5_000_000, False, True)
    # There was a hook, and what it did is not known.
    noted.clear()
    assert running.since(given, view) == Since(5_000_000, False, False)


def test_looking_waits_for_no_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (running, notes):
        monkeypatch.setattr(module, "RUN_DIRECTORY", str(tmp_path))
    note = Note(["1:1"], 9, [], Fingerprint({}, "", "", "", 0, 0), True)

    def late(*_: object) -> None:
        raise AssertionError("it waits for the lock")

    monkeypatch.setattr(fcntl, "flock", late)
    assert running.last_swap(UNIT) is None
    assert os.listdir(tmp_path) == []
    reload = notes.Notes(UNIT)
    reload.write_stack(note)
    before = len(os.listdir("/proc/self/fd"))
    assert running.last_swap(UNIT) == note
    (tmp_path / f"{UNIT}.stack").write_text("{}")
    assert running.last_swap(UNIT) is None
    assert len(os.listdir("/proc/self/fd")) == before
    reload.__exit__()


def test_start_of_a_process_that_is_not_the_main_one(view: View) -> None:
    given = service({**extensions([], []), "MainPID": ("u", 0)})
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    process = view.process._replace(key=f"1:{fields[19]}")
    started = running.start_of(given, view._replace(process=process)) / 1_000_000
    assert started <= time.time() + 2
    assert started > time.time() - float(Path("/proc/uptime").read_text().split()[0]) - 2


# ---- services ----


@pytest.mark.parametrize(("word", "name"), [("nginx", "nginx.service"), ("a@b.service", "a@b.service")])
def test_unit_name(word: str, name: str) -> None:
    assert services.unit_name(word) == name


@pytest.mark.parametrize("word", ["", "a/b", "a b", "\udcff", "a\n", "@x"])
def test_no_unit_name(word: str) -> None:
    with pytest.raises(ConfextError) as caught:
        services.unit_name(word)
    assert str(caught.value) == f"{word!a} is not a valid service name"


def test_nothing_to_see() -> None:
    stopped = service({})._replace(processes=[], state="inactive")
    with pytest.raises(ConfextError) as caught, services.view_of(stopped):
        pass
    assert str(caught.value) == f"{UNIT}: no process of the service is running; run 'systemctl start {UNIT}'"
    hosted = service({})._replace(namespace_problem=ConfextError("shared"))
    with pytest.raises(ConfextError, match="shared"), services.view_of(hosted):
        pass
    # A PID that is another process's by now.
    with pytest.raises(ConfextError, match="no process of the service is running"):
        wrong = Process(os.getpid(), -1, -1, f"{os.getpid()}:0")
        with services.view_of(service({})._replace(processes=[wrong])):
            pass


def test_base_of() -> None:
    assert ServiceProperties({}).base == "/etc"
    assert ServiceProperties({"RootDirectory": ("s", "/srv/root/")}).base == "/srv/root/etc"
    assert ServiceProperties({"RootImage": ("s", "/x.raw")}).base is None
