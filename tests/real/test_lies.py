# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layers that lie about themselves, or cannot be told apart; and those that are no business of the hook's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from lab import images, services
from lab.images import Format
from lab.machine import Machine

UNIT = "lies.service"
STORE = "/var/lib/confexts/lies"
DROP = services.entry_directory(UNIT)
FRAGMENT = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n"
STRICT = "user.extension-release.strict"


@pytest.fixture
def place(machine: Machine) -> Iterator[Machine]:
    """The machine, without a trace of the test before."""
    machine.write(f"/etc/systemd/system/{UNIT}", FRAGMENT)
    machine.sh(f"mkdir -p {STORE} {DROP}")
    yield machine
    machine.systemctl("stop", UNIT, check=False)
    machine.sh(f"rm -rf /etc/systemd/system/{UNIT}* {STORE}; systemctl daemon-reload; systemctl reset-failed")


def tree(machine: Machine, name: str, releases: dict[str, bool], *, what: str = "erofs", more: str = "true") -> str:
    """Make a layer with these release files (name, and whether it goes with any), and a file that is called like it."""
    # No whiteout can be made on an overlay.
    where = f"{'/tmp' if what == 'erofs' else STORE}/tree-{name}"
    directory = f"{where}/etc/extension-release.d"
    script = [f"rm -rf {where}; mkdir -p {directory} {where}/etc/lies; echo {name} >{where}/etc/lies/{name}"]
    for release, lax in releases.items():
        script.append(f"echo ID=_any >{directory}/extension-release.{release}")
        if lax:
            code = f"import os; os.setxattr('{directory}/extension-release.{release}', '{STRICT}', b'0')"
            script.append(f"python3 -c {shlex.quote(code)}")
    script += [f"chmod -R u=rwX,go=rX {where}", f"cd {where}/etc", more]
    path = f"{STORE}/{name}.raw" if what == "erofs" else f"{STORE}/{name}"
    if what == "erofs":
        script.append(f"mkfs.erofs -T0 {path}.new {where} >/dev/null 2>&1; mv -T {path}.new {path}")
    else:
        script.append(f"rm -rf {path}; mv -T {where} {path}")
    machine.sh("\n".join(script))
    return path


def start(machine: Machine, *layers: str) -> None:
    services.set_entries(machine, [UNIT], {path.rpartition("/")[2]: path for path in layers})
    machine.sh(f"systemctl daemon-reload; systemctl restart {UNIT}")


def which(machine: Machine, name: str) -> str:
    """The layer that the file is said to be from, or what is said instead."""
    (found,) = json.loads(machine.run("unit-confext", "which", "--json=short", UNIT, f"/etc/lies/{name}").stdout)
    return str(found["layer"]["name"] if found["layer"] else found["from"] or "unknown")


def status(machine: Machine) -> dict[str, Any]:
    (found,) = json.loads(machine.run("unit-confext", "status", "--json=short", UNIT, check=False).stdout)
    assert isinstance(found, dict)
    return found


GOOD, OWN = {"good": False}, {"evil": False}
LIARS: dict[str, tuple[str, dict[str, bool], str]] = {
    "another name that goes with any": ("erofs", {"good": True}, "true"),
    "two names": ("erofs", {"evil": False, "good": False}, "true"),
    "two names, both for any": ("erofs", {"evil": True, "good": True}, "true"),
    "a name of its own for any": ("erofs", {"x": True}, "true"),
    "a directory": ("tree", {"evil": False, "good": False}, "true"),
    "a directory that hides": (
        "tree", OWN, "python3 -c \"import os; os.setxattr('extension-release.d', 'trusted.overlay.opaque', b'y')\"",
    ),
    "an image with a whiteout": ("erofs", OWN, "mknod extension-release.d/extension-release.good c 0 0"),
}  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("kind", list(LIARS))
def test_no_file_is_from_the_layer_that_a_name_says(place: Machine, kind: str) -> None:
    what, releases, more = LIARS[kind]
    good, evil = tree(place, "good", GOOD), tree(place, "evil", releases, what=what, more=more)
    start(place, good, evil)
    assert (which(place, "good"), which(place, "evil")) == ("good", "evil")
    found = status(place)
    assert {layer["name"]: (layer["state"], layer["running"]) for layer in found["layers"]} == {
        "good": ("current", True),
        "evil": ("current", True),
    }
    assert (found["complete"], found["reasons"], found["commands"]) == (True, [], [])
    # The report of the first reload is as certain.
    tree(place, "evil", releases, what=what, more=f"{more}; echo 2 >lies/new")
    place.systemctl("reload", UNIT)
    said = place.journal("-u", UNIT, "-t", "unit-confext", "-n", "1")
    assert "removed" not in said.partition(";")[0]
    assert "good" not in said.partition(";")[0]
    assert (which(place, "good"), which(place, "evil")) == ("good", "evil")


@pytest.mark.real
def test_what_cannot_be_told_is_not_said(place: Machine) -> None:
    """A layer has nothing of its own that is seen, and two directories have one file."""
    good = tree(place, "good", GOOD, more="rm -r lies")
    evil = tree(place, "evil", {"good": True})
    low = tree(place, "low", {"low": False}, what="tree")
    high = tree(place, "high", {"high": False}, what="tree", more=f"ln -f {low}/etc/lies/low lies/low")
    start(place, good, evil, low, high)
    assert which(place, "evil") in ("evil", "unknown")
    assert which(place, "low") == "unknown"
    assert which(place, "high") == "high"
    found = status(place)
    assert {layer["name"]: layer["state"] for layer in found["layers"]}["good"] is None
    assert (found["complete"], found["commands"]) == (False, [])
    assert {layer["running"] for layer in found["layers"] if layer["name"] == "good"} == {None}


@pytest.mark.real
def test_layers_that_agree_on_a_lie(place: Machine) -> None:
    """Each shows one name, and that of the other; the lower one's own is hidden by the topmost layer's."""
    top = tree(place, "9-top", {"9-top": False})
    one = tree(place, "one", {"9-top": True, "two": False})
    two = tree(place, "two", {"9-top": True, "one": False})
    start(place, top, one, two)
    machine_says = {name: which(place, name) for name in ("one", "two", "9-top")}
    assert all(said in (name, "unknown") for name, said in machine_says.items())


def sysext(machine: Machine, name: str, what: str, *, both: bool = False, etc: bool = False) -> str:
    path, where = f"{STORE}/{name}", f"{STORE}/tree-{name}"
    release = f"usr/lib/extension-release.d/extension-release.{name}"
    script = [f"mkdir -p {where}/usr/lib/extension-release.d; echo ID=_any >{where}/{release}"]
    script.append(f"touch {where}/usr/{name}")
    if etc or both:
        script.append(f"mkdir -p {where}/etc/lies; echo {name} >{where}/etc/lies/{name}")
    if both:
        script.append(f"mkdir {where}/etc/extension-release.d; cp {where}/{release} {where}/etc/extension-release.d/")
    script.append(f"chmod -R u=rwX,go=rX {where}")
    if what == "tree":
        script.append(f"mv {where} {path}")
    else:
        script.append(f"mksquashfs {where} {path}.raw -quiet -no-progress -noappend >/dev/null")
    machine.sh("\n".join(script))
    return path if what == "tree" else f"{path}.raw"


@pytest.mark.real
@pytest.mark.parametrize("kind", ["-image", "tree", "both", "etc"])
def test_sysexts_of_the_unit_s_own(place: Machine, kind: str) -> None:
    what = "tree" if kind == "tree" else "image"
    path = sysext(place, "sys", what, both=kind == "both", etc=kind == "etc")
    setting = "ExtensionDirectories" if kind == "tree" else "ExtensionImages"
    prefix = "-" if kind.startswith("-") else ""
    place.write(f"/etc/systemd/system/{UNIT}", f"{FRAGMENT}{setting}={prefix}{path}\n")
    images.build(place, f"{STORE}/a.raw", {"lies/a": "1\n"})
    start(place, f"{STORE}/a.raw")
    images.build(place, f"{STORE}/a.raw", {"lies/a": "2\n"})
    place.systemctl("reload", UNIT)
    root = place.path(f"/proc/{place.show(UNIT, 'MainPID')}/root")
    assert (root / "etc/lies/a").read_text() == "2\n"
    assert (root / "usr/sys").exists()
    found = status(place)
    expected = ["a", "sys"] if kind in ("both", "etc") else ["a"]
    assert sorted(layer["name"] for layer in found["layers"]) == expected
    assert {layer["state"] for layer in found["layers"]} == {"current"}
    assert found["commands"] == []
    reloaded = sorted(one.name for one in (root / "etc/lies").iterdir())
    place.systemctl("restart", UNIT)
    root = place.path(f"/proc/{place.show(UNIT, 'MainPID')}/root")
    assert sorted(one.name for one in (root / "etc/lies").iterdir()) == reloaded


@pytest.mark.real
@pytest.mark.parametrize("format", [Format.EROFS, Format.DIRECTORY])
def test_directory_without_a_version(place: Machine, format: Format) -> None:
    """The last version goes while the service runs, and what is left does not fit."""
    suffix = ".raw" if format is Format.EROFS else ""
    versions = f"{STORE}/a{suffix}.v"
    images.build(place, f"{versions}/a_1{suffix}", {"lies/a": "1\n"}, format)
    start(place, versions)
    file = place.path(f"/proc/{place.show(UNIT, 'MainPID')}/root/etc/lies/a")
    assert file.read_text() == "1\n"
    for script in (f"rm -r {versions}/*", f"mkdir {versions}/b_1{suffix}; touch {versions}/a{suffix}"):
        place.sh(script)
        place.systemctl("reload", UNIT)
        assert not file.exists()
        assert [layer["state"] for layer in status(place)["layers"]] in ([], ["missing"], ["not-on-disk"])
        assert f"systemctl reload {UNIT}" not in status(place)["commands"]
    place.systemctl("restart", UNIT)
    place.systemctl("reload", UNIT)
    images.build(place, f"{versions}/a_2{suffix}", {"lies/a": "2\n"}, format)
    place.systemctl("reload", UNIT)
    pid = place.show(UNIT, "MainPID")
    assert place.path(f"/proc/{pid}/root/etc/lies/a").read_text() == "2\n"


@pytest.mark.real
def test_block_device_that_was_written_to(place: Machine) -> None:
    images.build(place, f"{STORE}/a.raw", {"lies/a": "1\n"})
    device = place.sh(f"truncate -s 1M {STORE}/disk; losetup -f --show {STORE}/disk").strip()
    try:
        write = f"dd if={STORE}/a.raw of={device} conv=notrunc,fsync status=none"
        place.sh(write)
        start(place)
        place.sh(f"ln -s {device} {DROP}/a.raw; systemctl daemon-reload; systemctl restart {UNIT}")
        images.build(place, f"{STORE}/a.raw", {"lies/a": "2\n"})
        place.sh(write)
        assert place.systemctl("reload", UNIT, check=False).returncode == 1
        said = place.journal("-u", UNIT, "-t", "unit-confext", "-n", "1")
        assert "the block device was written to while it is mounted" in said
        assert "restart the service instead" in said
        assert status(place)["commands"] == [f"systemctl restart {UNIT}"]
        place.systemctl("restart", UNIT)
        assert place.path(f"/proc/{place.show(UNIT, 'MainPID')}/root/etc/lies/a").read_text() == "2\n"
    finally:
        place.systemctl("stop", UNIT)
        place.run("losetup", "-d", device)


@pytest.mark.real
def test_root_whose_etc_is_a_link(place: Machine) -> None:
    services.prepare(place)
    root = f"{STORE}/root"
    place.sh(f"cp -a {services.ROOT} {root}; mv {root}/etc {root}/real-etc; ln -s real-etc {root}/etc")
    settings = services.SETTINGS["root-directory"].replace(services.ROOT, root)
    place.write(f"/etc/systemd/system/{UNIT}", FRAGMENT + settings)
    images.build(place, f"{STORE}/a.raw", {"lies/a": "1\n"})
    start(place, f"{STORE}/a.raw")
    assert which(place, "a") == "a"
    assert status(place)["commands"] == []
    images.build(place, f"{STORE}/a.raw", {"lies/a": "2\n"})
    assert place.systemctl("reload", UNIT, check=False).returncode == 1
    problem = "it cannot be re-stacked: in its root directory /etc is a symbolic link"
    assert problem in place.journal("-u", UNIT, "-t", "unit-confext", "-n", "1")
    done = place.run("unit-confext", "diff", UNIT, check=False)
    assert problem in done.stdout + done.stderr
    assert "Errno" not in done.stdout + done.stderr
    assert status(place)["commands"] == [f"systemctl restart {UNIT}"]
