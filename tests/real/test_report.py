# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said about a reload: the line, the fields, the catalog; and that no change is taken for none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import images, services
from lab.images import STORE, Format
from lab.machine import Machine

UNIT = "report.service"
RESTACKED = "a58e9b10bcb34b7f8a171c9429e8d1e3"
UNCHANGED = "d1c5c5cd3b1b4fd881ba828550fb8362"
REFUSED = "9ef028b935724563872b7e37858be453"
RELOAD_FAILED = "4796ce3a55b442e2ad0f053c98dd379f"
SECTION = "4b4fb5e1518043768fd00a4ac2072dd5"


@pytest.fixture
def unit(machine: Machine) -> Iterator[str]:
    """A service without layers that does not run."""
    services.prepare(machine)
    machine.sh(f"rm -rf {STORE}; mkdir {STORE}; rm -rf /etc/systemd/system/{UNIT}.d")
    machine.write(f"/etc/systemd/system/{UNIT}", services.fragment("ExecReload=/bin/kill -HUP $MAINPID", "--idle"))
    yield UNIT
    machine.systemctl("stop", UNIT)


def start(machine: Machine, entries: dict[str, str]) -> None:
    services.set_entries(machine, [UNIT], entries)
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    services.main_pid(machine, UNIT)


def entries_about(machine: Machine) -> list[dict[str, Any]]:
    """Everything that the hook has said about the unit."""
    machine.run("journalctl", "--sync")
    lines = machine.run("journalctl", "-b", "-u", UNIT, "-t", "unit-confext", "-o", "json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def reload(machine: Machine, *, fails: bool = False) -> dict[str, Any]:
    """Reload; return the one entry that the hook wrote."""
    before = len(entries_about(machine))
    status = machine.systemctl("reload", UNIT, check=False).returncode
    assert status == (1 if fails else 0)
    (entry,) = entries_about(machine)[before:]
    return entry


def names(entry: dict[str, Any], kind: str) -> list[str]:
    return [layer["name"] for layer in json.loads(entry[f"CONFEXT_LAYERS_{kind}"])]


def files(entry: dict[str, Any], kind: str) -> list[str]:
    paths: list[str] = json.loads(entry[f"CONFEXT_FILES_{kind}"])
    assert entry[f"CONFEXT_FILES_{kind}_COUNT"] == str(len(paths))
    return paths


def dated(machine: Machine, path: str) -> None:
    """Let the clock tick: a file that has just changed proves nothing, see service/fingerprint.py."""
    services.eventually(lambda: machine.path(path).stat().st_ctime + 0.1 < float(machine.sh("date +%s.%N")))


@pytest.mark.real
@pytest.mark.parametrize("noted", [False, True], ids=["first", "second"])
def test_what_changed(machine: Machine, unit: str, noted: bool) -> None:
    """Whether the service was started with the old stack, or has got it by a reload."""
    images.build(machine, f"{STORE}/a.raw", {"demo/a": "1\n", "demo/gone": "", "demo/same": "same\n"})
    images.build(machine, f"{STORE}/b.raw.v/b_1.raw", {"b": "1\n"}, name="b_1")
    images.build(machine, f"{STORE}/c", {"c": "1\n", "own/c": "1\n"}, Format.DIRECTORY)
    images.build(machine, f"{STORE}/d.raw", {"d": "1\n", "fstab": "from d\n"}, Format.SQUASHFS)
    images.build(machine, f"{STORE}/k.raw", {"k": "1\n"})
    old = {"10-a.raw": f"{STORE}/a.raw", "20-b.raw.v": f"{STORE}/b.raw.v", "30-c": f"{STORE}/c"}
    old |= {"40-d.raw": f"{STORE}/d.raw", "50-k.raw": f"{STORE}/k.raw"}
    start(machine, old)
    if noted:
        machine.write(f"/etc/systemd/system/{UNIT}.d/x.conf", "[Service]\nProtectSystem=no\nReadOnlyPaths=-/etc/x\n")
        machine.systemctl("daemon-reload")
        entry = reload(machine)
        assert entry["MESSAGE"] == f"{unit}: /etc re-stacked: no layer changed; no file differs"

    images.build(machine, f"{STORE}/a.raw", {"demo/a": "2\n", "demo/come": "", "demo/same": "same\n"})
    images.build(machine, f"{STORE}/b.raw.v/b_2.raw", {"b": "2\n"}, name="b_2")
    machine.sh(f"echo 2 >{STORE}/c/etc/own/c; touch {STORE}/c/etc/own")
    images.build(machine, f"{STORE}/e.raw", {"demo/a": "3\n", "e/e": "1\n"}, Format.GPT)
    new = {"10-a.raw": f"{STORE}/a.raw", "20-b.raw.v": f"{STORE}/b.raw.v", "30-c": f"{STORE}/c"}
    new |= {"50-k.raw": f"{STORE}/k.raw", "60-e.raw": f"{STORE}/e.raw"}
    services.set_entries(machine, [UNIT], new)
    machine.systemctl("daemon-reload")
    entry = reload(machine)

    # A change in a directory is seen by the service at once, so it is no difference any more when it is looked for.
    gone = "d.raw" if noted else "d"
    changed = ["b", "demo/a", "fstab"]
    assert (entry["MESSAGE_ID"], entry["PRIORITY"]) == (RESTACKED, "6")
    assert files(entry, "ADDED") == ["demo/come", "e/e", "extension-release.d/extension-release.b_2",
                                     "extension-release.d/extension-release.e"]  # fmt: skip
    assert files(entry, "CHANGED") == changed
    assert files(entry, "REMOVED") == ["d", "demo/gone", "extension-release.d/extension-release.b_1",
                                       "extension-release.d/extension-release.d"]  # fmt: skip
    assert names(entry, "REPLACED") == ["a", "b", "c"]
    assert (names(entry, "ADDED"), names(entry, "REMOVED")) == (["e"], ["d"])
    assert entry["MESSAGE"] == (
        f"{unit}: /etc re-stacked: a.raw replaced, b_2.raw replaced, c replaced, e.raw added, {gone} removed; "
        "4 files added, 3 changed, 4 removed"
    )
    layers = json.loads(entry["CONFEXT_LAYERS"])
    assert [(layer["name"], layer["version"], layer["file"]) for layer in layers] == [
        ("a", None, f"{STORE}/a.raw"),
        ("b", "2", f"{STORE}/b.raw.v/b_2.raw"),
        ("k", None, f"{STORE}/k.raw"),
        ("e", None, f"{STORE}/e.raw"),
        ("c", None, f"{STORE}/c"),
    ]
    for step in ("PREPARE", "STAGE", "CHECKS", "COMPARE", "SWAP"):
        assert 0 < int(entry[f"CONFEXT_{step}_USEC"]) < 60_000_000
    assert "CONFEXT_FILES_ADDED_REST" not in entry


@pytest.mark.real
def test_long_lists(machine: Machine, unit: str) -> None:
    images.build(machine, f"{STORE}/a.raw", {"demo/a": "1\n"})
    start(machine, {"a.raw": f"{STORE}/a.raw"})
    images.build(machine, f"{STORE}/a.raw", {"demo/a": "1\n"} | {f"many/{i:03}": "" for i in range(250)})
    entry = reload(machine)
    assert entry["MESSAGE"].endswith("a.raw replaced; 250 files added")
    assert json.loads(entry["CONFEXT_FILES_ADDED"]) == [f"many/{i:03}" for i in range(200)]
    assert (entry["CONFEXT_FILES_ADDED_COUNT"], entry["CONFEXT_FILES_ADDED_REST"]) == ("250", "50")


def _image_in_place(machine: Machine, path: str, name: str) -> None:
    """Write other bytes into the file that is there, as many as before, and set its times back."""
    images.build(machine, f"{STORE}/other.raw", images.pair("v2"), name=name)
    machine.sh(
        f"test $(stat -c %s {path}) = $(stat -c %s {STORE}/other.raw); touch -r {path} /tmp/times; "
        f"cat {STORE}/other.raw 1<>{path}; touch -r /tmp/times {path}; rm {STORE}/other.raw"
    )


def _file_in_place(machine: Machine, directory: str) -> None:
    path = f"{directory}/etc/demo/a"
    machine.sh(f"touch -r {path} /tmp/times; printf 'v2\\n' 1<>{path}; touch -r /tmp/times {path}")


KINDS: dict[str, tuple[str, str, Format, Callable[[Machine], None]]] = {
    "image": ("l.raw", "l.raw", Format.EROFS, lambda m: _image_in_place(m, f"{STORE}/l.raw", "l")),
    "image-version": (
        "l.raw.v", "l.raw.v/l_1.raw", Format.EROFS,
        lambda m: _image_in_place(m, f"{STORE}/l.raw.v/l_1.raw", "l_1"),
    ),
    "directory": ("l", "l", Format.DIRECTORY, lambda m: _file_in_place(m, f"{STORE}/l")),
    "directory-version": ("l.v", "l.v/l_1", Format.DIRECTORY, lambda m: _file_in_place(m, f"{STORE}/l.v/l_1")),
}  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("kind", list(KINDS))
def test_change_in_place_is_never_nothing(machine: Machine, unit: str, kind: str) -> None:
    entry, path, form, change = KINDS[kind]
    images.build(machine, f"{STORE}/{path}", images.pair("v1"), form)
    start(machine, {entry: f"{STORE}/{entry}"})
    dated(machine, f"{STORE}/{path}")
    assert reload(machine)["MESSAGE_ID"] == RESTACKED
    # These are: there is no other way to tell that the last one is not. First it is the guard who knows, then, since
    # systemd may have loaded other settings, the hook.
    told, quiet = len(entries_about(machine)), len(services.said_by_guard(machine, unit))
    machine.systemctl("reload", UNIT)
    assert (len(entries_about(machine)), len(services.said_by_guard(machine, unit))) == (told, quiet + 1)
    machine.systemctl("daemon-reload")
    said = reload(machine)
    assert (said["MESSAGE_ID"], said["PRIORITY"]) == (UNCHANGED, "7")
    machine.systemctl("reload", UNIT)
    assert len(services.said_by_guard(machine, unit)) == quiet + 2
    change(machine)
    said = reload(machine)
    assert said["MESSAGE_ID"] == RESTACKED
    assert names(said, "REPLACED") == ["l"]
    assert services.version(machine, unit) == "v2"


@pytest.mark.real
def test_swapped_but_not_reloaded(machine: Machine, unit: str) -> None:
    """Not the same as a refusal: the new /etc is there."""
    images.build(machine, f"{STORE}/a.raw", images.pair("v1"))
    machine.write(f"/etc/systemd/system/{UNIT}.d/x.conf", "[Service]\nExecReload=/bin/false\n")
    start(machine, {"a.raw": f"{STORE}/a.raw"})
    images.build(machine, f"{STORE}/a.raw", images.pair("v2"))
    done = machine.systemctl("reload", UNIT, check=False)
    assert done.returncode == 1
    assert "canceled" not in done.stderr
    assert services.version(machine, unit) == "v2"
    services.eventually(lambda: [entry["MESSAGE_ID"] for entry in entries_about(machine)][-1] == RELOAD_FAILED)
    *_, restacked, failed = entries_about(machine)
    assert restacked["MESSAGE_ID"] == RESTACKED
    assert failed["PRIORITY"] == "3"
    assert failed["CONFEXT_RESULT"] == "exit-code"
    # That is neither a difference nor all right.
    done = machine.run("unit-confext", "status", UNIT, check=False)
    assert done.returncode == 5
    assert done.stdout.splitlines()[-2:] == [
        "Failed: its last reload (exit-code), so the service may not have read its /etc",
        f"Run: systemctl reload {UNIT}",
    ]
    assert failed["MESSAGE"] == (
        f"{unit}: /etc is the new one, but the service's own reload failed (exit-code); see journalctl -u {unit}, "
        "mend the configuration in the image and reload again"
    )
    # What became of the last reload is not said of a re-stack that comes without one.
    images.build(machine, f"{STORE}/a.raw", images.pair("v2"))
    said = len(entries_about(machine))
    machine.run("/usr/lib/unit-confext/restack", "--alone", UNIT)
    assert [entry["MESSAGE_ID"] for entry in entries_about(machine)[said:]] == [RESTACKED]
    assert not machine.systemctl("list-units", "--no-legend", f"unit-confext-report@{UNIT}*").stdout
    # And none is said of a reload that works.
    machine.sh(f"rm /etc/systemd/system/{UNIT}.d/x.conf")
    images.build(machine, f"{STORE}/a.raw", images.pair("v3"))
    machine.systemctl("daemon-reload")
    said = len(entries_about(machine))
    machine.systemctl("reload", UNIT)
    pattern = f"unit-confext-report@{UNIT}*"
    services.eventually(lambda: not machine.systemctl("list-units", "--no-legend", pattern).stdout)
    assert [entry["MESSAGE_ID"] for entry in entries_about(machine)[said:]] == [RESTACKED]


@pytest.mark.real
def test_refusals_have_their_reason(machine: Machine, unit: str) -> None:
    image = f"{STORE}/a.raw"
    images.build(machine, image, images.pair("v1"))
    start(machine, {"a.raw": image})
    machine.sh(f"head -c 8192 /dev/urandom >{image}.new; mv {image}.new {image}")
    entry = reload(machine, fails=True)
    reason = (
        "the new /etc cannot be built: the image has no partition table or file system that systemd knows "
        "(Package not installed)"
    )
    expected = {
        "MESSAGE_ID": REFUSED,
        "PRIORITY": "3",
        "MESSAGE": f"{unit}: /etc is unchanged, {reason} ({image}); replace it and reload again",
        "CONFEXT_STEP": "stage",
        "CONFEXT_REASON": reason,
        "CONFEXT_LAYER": image,
        "CONFEXT_HINT": "replace it and reload again",
    }
    assert {name: entry.get(name) for name in expected} == expected

    machine.write(f"/etc/systemd/system/{UNIT}.d/x.conf", "[X-Confext]\nCheck=/bin/sh -c 'echo no; exit 3'\nX=1\n")
    images.build(machine, image, images.pair("v2"))
    machine.systemctl("daemon-reload")
    before = len(entries_about(machine))
    assert machine.systemctl("reload", UNIT, check=False).returncode == 1
    section, entry = entries_about(machine)[before:]
    assert (section["MESSAGE_ID"], section["PRIORITY"]) == (SECTION, "4")
    expected = {
        "MESSAGE_ID": REFUSED,
        "CONFEXT_STEP": "checks",
        "CONFEXT_CHECK": "/bin/sh -c echo no; exit 3",
        "CONFEXT_REASON": "the check '/bin/sh -c echo no; exit 3' exited with status 3: no",
    }
    assert {name: entry.get(name) for name in expected} == expected
    assert "CONFEXT_LAYER" not in entry
    assert services.version(machine, unit) == "v1"


@pytest.mark.real
def test_damage_is_found_before_the_service_finds_it(machine: Machine, unit: str) -> None:
    """An image that can be mounted, with a file in it that cannot be read to its end."""
    image, tree = f"{STORE}/a.raw", f"{STORE}/tree/a"
    images.build(machine, image, images.pair("v1"))
    start(machine, {"a.raw": image})
    images.build(machine, tree, images.pair("v2"), Format.DIRECTORY)
    # The data come first in a squashfs, short files together in a block of their own.
    machine.sh(
        f"seq 100000 >{tree}/etc/demo/large; mksquashfs {tree} {image}.new -quiet -no-progress -noappend >/dev/null; "
        f"printf 'damage damage damage' | dd of={image}.new bs=1 seek=200 conv=notrunc status=none; "
        f"mv {image}.new {image}"
    )
    entry = reload(machine, fails=True)
    assert entry["MESSAGE"] == (
        f"{unit}: /etc is unchanged, the new /etc/demo/large cannot be read: Input/output error ({image}); "
        "replace the image and reload again"
    )
    assert (entry["CONFEXT_STEP"], entry["CONFEXT_LAYER"]) == ("compare", image)
    assert services.version(machine, unit) == "v1"


@pytest.mark.real
def test_good_image_right_after_a_bad_one(machine: Machine, unit: str) -> None:
    """The next reload may come before the units of the last one are gone."""
    image = f"{STORE}/a.raw"
    images.build(machine, image, images.pair("v1"))
    start(machine, {"a.raw": image})
    images.build(machine, f"{STORE}/good.raw", images.pair("v2"), name="a")
    replace = f"cp {STORE}/$which.raw {image}.new; mv {image}.new {image}"
    machine.sh(f"head -c 8192 /dev/urandom >{STORE}/bad.raw")
    script = f"""for round in 1 2 3 4 5; do
        which=bad; {replace}; systemctl reload {UNIT} 2>/dev/null && echo taken || echo refused
        which=good; {replace}; systemctl reload {UNIT} && echo taken || echo refused
    done"""
    assert machine.sh(script).split() == ["refused", "taken"] * 5
    assert services.version(machine, unit) == "v2"


@pytest.mark.real
def test_catalog_explains_it(machine: Machine, unit: str) -> None:
    images.build(machine, f"{STORE}/a.raw", images.pair("v1"))
    start(machine, {"a.raw": f"{STORE}/a.raw"})
    images.build(machine, f"{STORE}/a.raw", images.pair("v2"))
    reload(machine)
    text = machine.run("journalctl", "-b", "-x", "-u", UNIT, "-t", "unit-confext", "-n", "1", "--no-pager").stdout
    assert f"Subject: The service {unit} has a new /etc" in text
    assert 'Files that were added (1): ["demo/only-v2"]' in text
