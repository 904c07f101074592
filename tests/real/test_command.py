# SPDX-License-Identifier: LGPL-2.1-or-later
"""list, status, which, cat and diff of a service that a real systemd has started and reloaded.

What is expected is what was put there, and what the service's own process sees. Every image has a name of this
module's own: loop devices are shared with all other systems that are booted meanwhile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from lab import images, jsonshape, services
from lab.images import Format
from lab.machine import Machine

pytestmark = pytest.mark.real

UNIT = "cmd-demo.service"
STORE = "/var/lib/cmd-confexts"
DROP = f"/etc/systemd/system/{UNIT}.confext.d"
FRAGMENT = """[Service]\nType=exec
ExecStart=sleep infinity
InaccessiblePaths=-/etc/cmd/secret
BindReadOnlyPaths=/etc/hostname:/etc/cmd/bound
ConfigurationDirectory=cmd/own
"""


def ours(machine: Machine, verb: str, *arguments: str) -> tuple[int, Any]:
    """Exit status and JSON of the command as it is installed."""
    done = machine.run("unit-confext", verb, "--json=short", *arguments, check=False)
    assert done.stderr == ""
    return done.returncode, jsonshape.check(verb, json.loads(done.stdout))


def failing(machine: Machine, *arguments: str, user: str = "") -> tuple[int, str]:
    """Exit status and standard error; nothing else is printed."""
    become = ("setpriv", f"--reuid={user}", "--clear-groups") if user else ()
    done = machine.run(*become, "unit-confext", *arguments, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def entry(name: str) -> str:
    return f"{DROP}/{name}"


def fill(machine: Machine) -> None:
    """A stack of every kind of layer, of which each has the file `top` of those below it, and one of its own."""
    machine.sh(f"systemctl stop {UNIT} 2>/dev/null || :; rm -rf {STORE} {DROP}; mkdir -p {STORE} {DROP}")
    mounted = {"cmd/bound": "", "cmd/secret": "secret\n", "cmd/own/": ""}
    images.build(machine, f"{STORE}/cmd-10.raw", {"cmd/top": "10\n", "cmd/of-10": "10\n"})
    machine.sh(f"ln -s {STORE}/cmd-10.raw {DROP}/")
    images.build(machine, entry("cmd-20.raw"), {"cmd/top": "20\n", "cmd/of-20": "20\n"}, Format.SQUASHFS)
    versions = entry("cmd-30.raw.v")
    files = {"cmd/top": "30\n", "cmd/of-30": "30\n"}
    images.build(machine, f"{versions}/cmd-30_1.raw", files, Format.GPT, name="cmd-30")
    for number in ("40", "50"):
        files = {f"cmd/of-{number}": f"{number}\n"} | ({"cmd/top": "40\n", **mounted} if number == "40" else {})
        images.build(machine, f"{STORE}/cmd-{number}", files, Format.DIRECTORY)
        machine.sh(f"ln -s {STORE}/cmd-{number} {DROP}/")
    machine.write(f"{STORE}/cmd-50/etc/cmd/bytes", bytes(range(256)))
    machine.sh(f"ln -s /etc/cmd/of-20 {STORE}/cmd-50/etc/cmd/link; ln -s ../../../srv/x {STORE}/cmd-50/etc/cmd/out")
    machine.write(f"/etc/systemd/system/{UNIT}", FRAGMENT)
    machine.sh(f"mkdir -p /srv; echo srv >/srv/x; systemctl daemon-reload; systemctl start {UNIT}")


@pytest.fixture
def stack(machine: Machine) -> Iterator[Machine]:
    """The machine with the service running on such a stack."""
    fill(machine)
    yield machine
    machine.systemctl("stop", UNIT)


def status(machine: Machine) -> tuple[int, dict[str, Any]]:
    code, (found,) = ours(machine, "status", UNIT)
    return code, found


def states(found: dict[str, Any]) -> dict[str, str]:
    return {layer["label"]: layer["state"] for layer in found["layers"]}


def replace(machine: Machine, path: str, text: str, format: Format = Format.EROFS, *, name: str | None = None) -> None:
    images.build(machine, path, {"cmd/top": text, "cmd/new": text}, format, name=name)


def mounts(machine: Machine) -> list[str]:
    pid = machine.show(UNIT, "MainPID")
    lines = machine.path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [line for line in lines if f"{line.split()[4]}/".startswith("/etc/")]


CURRENT = dict.fromkeys(("cmd-10.raw", "cmd-20.raw", "cmd-30_1.raw", "cmd-40", "cmd-50"), "current")


def test_status(stack: Machine) -> None:
    code, found = status(stack)
    layers, since = found.pop("layers"), found.pop("since")
    assert code == 0
    assert found == {
        "unit": UNIT, "active_state": "active", "pid": int(stack.show(UNIT, "MainPID")), "since_is": "start",
        "namespaces": 1, "in_host_namespace": False, "complete": True, "base_changed": None,
        "reload_result": "success", "differs": False, "reasons": [], "commands": [],
    }  # fmt: skip
    assert since.endswith("+00:00")
    unsigned: dict[str, Any] = {"root_hash": None, "signature": "unsigned", "signers": []}
    runs = {"state": "current", "running": True, "loaded": True, "on_disk": True, "changed": False, **unsigned}

    def layer(name: str, kind: str, path: str, file: str = "", version: str | None = None) -> dict[str, Any]:
        file = file or path
        label = file.rpartition("/")[2]
        enforced = False if kind == "image" else None
        return {
            "label": label, "name": name, "version": version, "kind": kind, "path": path, "file": file,
            "enforced": enforced, **runs,
        }  # fmt: skip

    assert layers == [
        layer("cmd-10", "image", f"{STORE}/cmd-10.raw"),
        layer("cmd-20", "image", entry("cmd-20.raw")),
        layer("cmd-30", "image", entry("cmd-30.raw.v"), f"{entry('cmd-30.raw.v')}/cmd-30_1.raw", "1"),
        layer("cmd-40", "directory", f"{STORE}/cmd-40"),
        layer("cmd-50", "directory", f"{STORE}/cmd-50"),
    ]
    # list says the same of the disk.
    code, (listed,) = ours(stack, "list", "cmd-demo")
    assert (code, [one["layer"]["path"] for one in listed["entries"]]) == (0, [one["path"] for one in layers])
    assert [one["reason"] for one in listed["entries"]] == [None] * 5


def test_status_follows_every_step(stack: Machine) -> None:
    assert states(status(stack)[1]) == CURRENT
    replace(stack, f"{STORE}/cmd-10.raw", "new\n")
    stack.sh(f"rm {DROP}/cmd-20.raw")
    replace(stack, f"{entry('cmd-30.raw.v')}/cmd-30_2.raw", "new\n", name="cmd-30")
    stack.write(f"{STORE}/cmd-40/etc/cmd/later", "")
    replace(stack, entry("cmd-60.raw"), "new\n")
    on_disk = {**CURRENT, "cmd-10.raw": "changed", "cmd-20.raw": "not-on-disk", "cmd-30_1.raw": "changed"}
    on_disk |= {"cmd-40": "changed", "cmd-60.raw": "not-loaded"}
    code, found = status(stack)
    assert (code, states(found)) == (3, on_disk)
    assert found["commands"] == ["systemctl daemon-reload", f"systemctl reload {UNIT}"]
    # What is said about files is about those that run, and not about those that have their names now.
    assert [one["version"] for one in found["layers"] if one["label"] == "cmd-30_1.raw"] == ["1"]

    stack.systemctl("daemon-reload")
    code, found = status(stack)
    loaded = {**on_disk, "cmd-60.raw": "not-running", "cmd-20": "unloaded"}
    del loaded["cmd-20.raw"]
    assert (code, states(found)) == (3, loaded)
    assert found["commands"] == [f"systemctl reload {UNIT}"]
    said = stack.run("unit-confext", "status", UNIT, check=False).stdout.splitlines()
    assert said[-2:] == ["Differs: cmd-20 runs, but is not loaded any more", f"Run: systemctl reload {UNIT}"]

    stack.systemctl("reload", UNIT)
    code, found = status(stack)
    expected = ("cmd-10.raw", "cmd-30_2.raw", "cmd-60.raw", "cmd-40", "cmd-50")
    assert (code, list(states(found).items())) == (0, [(label, "current") for label in expected])
    assert (found["since_is"], found["reasons"], found["complete"]) == ("swap", [], True)
    # Replaced after a swap.
    replace(stack, f"{STORE}/cmd-10.raw", "newer\n")
    assert states(status(stack)[1])["cmd-10.raw"] == "changed"
    # A process of its own time: the note about the swap is void.
    stack.systemctl("restart", UNIT)
    code, found = status(stack)
    assert (code, found["since_is"]) == (0, "start")
    stack.systemctl("stop", UNIT)
    code, found = status(stack)
    assert (code, found["pid"], found["since"], found["active_state"]) == (0, None, None, "inactive")
    assert set(states(found).values()) == {"not-running"}
    stack.systemctl("start", UNIT)


def which(machine: Machine, path: str) -> tuple[str, str | None, str | None, list[str]]:
    """Where it is from, the layer's name, what proves it, and what it hides."""
    code, (found,) = ours(machine, "which", UNIT, path)
    assert code == 0
    assert found["unsure"] == []
    layer = found["layer"]["name"] if found["layer"] else None
    return found["from"], layer, found["evidence"], [one["name"] for one in found["hidden"]]


def test_which(stack: Machine) -> None:
    assert which(stack, "/etc/cmd/top") == ("layer", "cmd-40", "inode", ["cmd-30", "cmd-20", "cmd-10"])
    assert which(stack, "/etc/cmd/of-10") == ("layer", "cmd-10", "device", [])
    assert which(stack, "/etc/cmd/of-20") == ("layer", "cmd-20", "device", [])
    assert which(stack, "/etc/cmd/of-30") == ("layer", "cmd-30", "device", [])
    assert which(stack, "/etc/cmd/of-50") == ("layer", "cmd-50", "inode", [])
    assert which(stack, "/etc/hostname")[:2] == ("host", None)
    assert which(stack, "/etc/cmd/out")[:2] == ("host", None)

    (directory,) = ours(stack, "which", UNIT, "/etc/cmd")[1]
    assert (directory["from"], directory["hidden"]) == ("merged", [])
    assert [one["name"] for one in directory["merged"]] == ["cmd-50", "cmd-40", "cmd-30", "cmd-20", "cmd-10"]

    (link,) = ours(stack, "which", UNIT, "/etc/cmd/link")[1]
    assert (link["resolved"], link["layer"]["name"]) == ("/etc/cmd/of-20", "cmd-20")
    assert [(one["path"], one["target"], one["layer"]["name"]) for one in link["links"]] == [
        ("/etc/cmd/link", "/etc/cmd/of-20", "cmd-50")
    ]

    by = {"secret": "InaccessiblePaths=", "bound": "BindReadOnlyPaths=", "own": "ConfigurationDirectory="}
    for name, setting in by.items():
        (found,) = ours(stack, "which", UNIT, f"/etc/cmd/{name}")[1]
        point, hidden = found["mount"]["point"], [one["name"] for one in found["hidden"]]
        assert (found["from"], point, found["mount"]["setting"]) == ("mount", f"/etc/cmd/{name}", setting)
        assert hidden == ["cmd-40"]


def test_which_is_about_what_runs(stack: Machine) -> None:
    """Also if the image has been replaced, or is not loaded any more."""
    replace(stack, f"{STORE}/cmd-10.raw", "new\n")
    stack.sh(f"rm {DROP}/cmd-20.raw")
    assert which(stack, "/etc/cmd/of-10") == ("layer", "cmd-10", "device", [])
    # The replaced image is still read, from its loop device.
    assert which(stack, "/etc/cmd/top") == ("layer", "cmd-40", "inode", ["cmd-30", "cmd-20", "cmd-10"])
    stack.systemctl("daemon-reload")
    (found,) = ours(stack, "which", UNIT, "/etc/cmd/of-20")[1]
    assert (found["from"], found["evidence"]) == ("layer", "device")
    assert (found["layer"]["name"], found["layer"]["path"]) == ("cmd-20", None)
    stack.systemctl("reload", UNIT)
    assert which(stack, "/etc/cmd/new") == ("layer", "cmd-10", "device", [])


def test_cat(stack: Machine) -> None:
    said = stack.run("unit-confext", "cat", UNIT, "/etc/cmd/top", "/etc/cmd/link", "/etc/cmd/out").stdout
    assert said == "40\n20\nsrv\n"
    stack.sh(f"unit-confext cat {UNIT} /etc/cmd/bytes >/tmp/cmd-bytes")
    assert stack.path("/tmp/cmd-bytes").read_bytes() == bytes(range(256))
    code, found = ours(stack, "cat", UNIT, "/etc/cmd/top", "/etc/cmd/bytes")
    assert (code, [(one["path"], one["size"], one["encoding"]) for one in found]) == (
        0, [("/etc/cmd/top", 3, "utf-8"), ("/etc/cmd/bytes", 256, "base64")],
    )  # fmt: skip
    assert found[0]["content"] == "40\n"
    assert failing(stack, "cat", UNIT, "/etc/cmd/secret") == (
        1, "unit-confext: the service cannot see it, InaccessiblePaths= hides it (/etc/cmd/secret)\n",
    )  # fmt: skip


def test_lax_name(machine: Machine) -> None:
    """A release file that goes with any name, as its attribute says."""
    machine.sh(f"rm -rf {STORE} {DROP}; mkdir -p {STORE} {DROP}; ln -s {STORE}/cmd-10 {DROP}/")
    images.build(machine, f"{STORE}/cmd-10", {"cmd/top": "10\n"}, Format.DIRECTORY, name="cmd-lax")
    release = f"{STORE}/cmd-10/etc/extension-release.d/extension-release.cmd-lax"
    os.setxattr(machine.path(release), "user.extension-release.strict", b"0")
    machine.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=exec\nExecStart=sleep infinity\n")
    machine.sh(f"systemctl daemon-reload; systemctl restart {UNIT}")
    assert states(status(machine)[1]) == {"cmd-10": "current"}
    machine.systemctl("stop", UNIT)


def test_root_directory(machine: Machine) -> None:
    """Links are those of the service's own root directory, and never lead out of it."""
    services.prepare(machine)
    machine.sh(f"rm -rf {STORE} {DROP}; mkdir -p {STORE} {DROP}; echo host >/srv/x; echo rooted >{services.ROOT}/x")
    images.build(machine, entry("cmd-10.raw"), {"cmd/out": "-> ../../../../../x", "cmd/abs": "-> /x"})
    machine.write(
        f"/etc/systemd/system/{UNIT}",
        f"[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\nRootDirectory={services.ROOT}\n"
        "BindReadOnlyPaths=/usr/bin /usr/lib /usr/lib64\n",
    )
    machine.sh(f"systemctl daemon-reload; systemctl restart {UNIT}")
    said = machine.run("unit-confext", "cat", UNIT, "/etc/cmd/out", "/etc/cmd/abs", "/etc/hostname").stdout
    assert said == "rooted\n" * 3
    assert which(machine, "/etc/hostname") == ("host", None, "inode", [])
    assert status(machine)[0] == 0
    machine.systemctl("stop", UNIT)


def test_signer(machine: Machine) -> None:
    """The policy lets it run without dm-verity, which not every test system has; that is told as well."""
    machine.sh(f"""
rm -rf {STORE} {DROP} /tmp/cmd-tree; mkdir -p {STORE} {DROP} /tmp/cmd-tree/etc/cmd /etc/verity.d; cd {STORE}
echo 10 >/tmp/cmd-tree/etc/cmd/top
for who in known other; do
    openssl req -x509 -newkey rsa:2048 -nodes -keyout $who.key -out $who.crt -days 30 -subj /CN=cmd-$who 2>/dev/null
    unit-confext build -q /tmp/cmd-tree -o cmd-$who.raw --key $who.key --certificate $who.crt
    ln -s {STORE}/cmd-$who.raw {DROP}/
done
cp known.crt /etc/verity.d/cmd-known.crt
printf '[Service]\\nExecStart=sleep infinity\\nExtensionImagePolicy=root=unprotected\\n' >/etc/systemd/system/{UNIT}
systemctl daemon-reload; systemctl restart {UNIT}
""")
    code, found = status(machine)
    assert code == 0
    for layer, word in zip(found["layers"], ("trusted", "untrusted"), strict=True):
        (signer,) = layer["signers"]
        assert layer["signature"] == word
        assert signer["subject"] == f"CN={layer['name']}"
        assert layer["enforced"] is False
        (inspected,) = ours(machine, "inspect", layer["path"])[1]
        assert layer["root_hash"] == inspected["root_hash"] is not None
    said = machine.run("unit-confext", "which", UNIT, "/etc/cmd/top").stdout
    assert said == (
        f"/etc/cmd/top: from {STORE}/cmd-other.raw\n  signed by CN=cmd-other, which is not trusted\n"
        "  the signature does not protect its data, since it runs without dm-verity\n"
        f"  hidden below it: {STORE}/cmd-known.raw\n"
    )
    machine.sh(f"systemctl stop {UNIT}; rm /etc/verity.d/cmd-known.crt")


def diff(machine: Machine, *options: str) -> tuple[int, dict[str, Any]]:
    code, (found,) = ours(machine, "diff", UNIT, *options)
    return code, found


def test_diff(stack: Machine) -> None:
    code, found = diff(stack)
    nothing: dict[str, list[Any]] = {"added": [], "replaced": [], "removed": []}
    same = {"unit": UNIT, "daemon_reload_needed": False, "differs": False, "base_changed": None, "refused": None}
    assert (code, found) == (0, {**same, "layers": nothing, "files": []})
    stack.write(f"{STORE}/cmd-40/etc/cmd/top", "40\nmore\n")
    images.build(stack, f"{STORE}/cmd-10.raw", {"cmd/new": "new\n"})
    images.build(stack, entry("cmd-60.raw"), {"cmd/of-50": "-> /x"})
    before = mounts(stack)
    code, found = diff(stack)
    assert (code, found["differs"], found["daemon_reload_needed"], found["refused"]) == (3, True, True, None)
    # What is written into a directory shows through at once, and cmd-60 is not loaded.
    changes = {one["path"]: (one["change"], (one["layer"] or {}).get("name"), one["diff"]) for one in found["files"]}
    assert changes == {
        "/etc/cmd/new": ("added", "cmd-10", "--- /dev/null\n+++ /etc/cmd/new\n@@ -0,0 +1 @@\n+new\n"),
        "/etc/cmd/of-10": ("removed", None, "--- /etc/cmd/of-10\n+++ /dev/null\n@@ -1 +0,0 @@\n-10\n"),
    }
    assert [one["name"] for one in found["layers"]["replaced"]] == ["cmd-10", "cmd-40"]
    # Nothing has happened.
    assert (mounts(stack), status(stack)[0]) == (before, 3)
    services.eventually(lambda: services.leftovers(stack) == [])

    # What it said comes true.
    stack.systemctl("reload", UNIT)
    assert diff(stack)[1]["files"] == []
    pid = stack.show(UNIT, "MainPID")
    assert stack.path(f"/proc/{pid}/root/etc/cmd/new").read_text() == "new\n"
    assert not os.path.lexists(stack.path(f"/proc/{pid}/root/etc/cmd/of-10"))


def test_diff_says_what_would_be_refused(stack: Machine) -> None:
    directory = f"/etc/systemd/system/{UNIT}.d"
    stack.write(f"{directory}/check.conf", "[X-Confext]\nCheck=sh -c 'echo wrong; ! grep new /etc/cmd/new'\n")
    stack.systemctl("daemon-reload")
    assert diff(stack, "--check")[0] == 0
    replace(stack, f"{STORE}/cmd-10.raw", "new\n")
    before = mounts(stack)
    assert diff(stack)[0] == 3
    code, found = diff(stack, "--check")
    assert code == 4
    assert found["refused"].startswith(f"{UNIT}: the check 'sh -c ")
    assert "wrong" in found["refused"]
    assert "/etc/cmd/new" in [one["path"] for one in found["files"]]
    stack.sh(f"rm -r {directory}; systemctl daemon-reload; truncate -s 2000 {STORE}/cmd-10.raw")
    code, found = diff(stack)
    assert (code, found["files"], found["layers"], found["differs"]) == (4, None, None, None)
    assert f"({STORE}/cmd-10.raw)" in found["refused"]
    assert mounts(stack) == before
    services.eventually(lambda: services.leftovers(stack) == [])


def test_errors(stack: Machine) -> None:
    for verb, *operands in (("status",), ("which", "/etc/cmd/top"), ("cat", "/etc/cmd/top"), ("diff",)):
        assert failing(stack, verb, "cmd-gone", *operands) == (
            1, "unit-confext: cmd-gone.service: there is no such unit\n",
        )  # fmt: skip
        assert failing(stack, verb, UNIT, *operands, user="65534") == (
            1, f"unit-confext: only root can look into running services; run '{verb}' as root\n",
        )  # fmt: skip
    for verb, *operands in (("which", "/etc/hostname"), ("cat", "/etc/hostname"), ("diff",)):
        code, said = failing(stack, verb, "dbus.service", *operands)
        assert (code, "the service runs in the host's mount namespace" in said) == (1, True)
    assert failing(stack, "cat", UNIT, "/etc/cmd/gone") == (
        1, f"unit-confext: {UNIT}: the service has no such file (/etc/cmd/gone)\n",
    )  # fmt: skip
    stack.systemctl("stop", UNIT)
    for verb, *operands in (("which", "/etc/cmd/top"), ("cat", "/etc/cmd/top"), ("diff",)):
        assert failing(stack, verb, UNIT, *operands) == (
            1, f"unit-confext: {UNIT}: no process of the service is running; run 'systemctl start {UNIT}'\n",
        )  # fmt: skip
    # Everybody may look at what lies in directories that everybody can read.
    done = stack.run("setpriv", "--reuid=65534", "--clear-groups", "unit-confext", "list", "--no-legend", UNIT)
    assert len(done.stdout.splitlines()) == 5


def test_service_in_the_host_s_namespace(machine: Machine) -> None:
    machine.sh(f"rm -rf {STORE} {DROP}; systemctl stop {UNIT} 2>/dev/null || :")
    machine.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=exec\nExecStart=sleep infinity\n")
    machine.sh(f"systemctl daemon-reload; systemctl start {UNIT}")
    code, found = status(machine)
    assert (code, found["in_host_namespace"], found["layers"]) == (0, True, [])
    images.build(machine, entry("cmd-10.raw"), {"cmd/top": "10\n"})
    code, found = status(machine)
    assert (code, states(found)) == (3, {"cmd-10.raw": "not-loaded"})
    assert found["commands"] == ["systemctl daemon-reload", f"systemctl restart {UNIT}"]
    machine.sh(f"systemctl daemon-reload; systemctl restart {UNIT}")
    assert status(machine)[0] == 0
    machine.systemctl("stop", UNIT)
