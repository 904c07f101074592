# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `unit-confext build` makes, as others see it: who may read it, and whether services notice what is new."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

import pytest

from lab import jsonshape, services
from lab.machine import Machine

pytestmark = pytest.mark.real

PLACE = "/srv/test-build"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SITE = """\
server {
    listen 127.0.0.1:8443 ssl;
    ssl_certificate /etc/nginx/test-build/crt.pem;
    ssl_certificate_key /etc/nginx/test-build/key.pem;
}
"""


def make_tree(machine: Machine, name: str, files: dict[str, tuple[str, int]]) -> str:
    """A tree of files below etc/, each with its content and mode."""
    tree = f"{PLACE}/{name}"
    for path, (content, mode) in files.items():
        machine.write(f"{tree}/etc/{path}", content, mode)
    return tree


def build(machine: Machine, tree: str, output: str, *options: str, who: tuple[str, ...] = ()) -> dict[str, object]:
    """Build an erofs image and return what is said about it."""
    command = ("unit-confext", "build", "--json=short", "--force", "-o", output, *options, tree)
    done = machine.run(*who, "sh", "-c", 'umask 022; exec "$@"', "-", *command)
    (told,) = jsonshape.check("build", json.loads(done.stdout))
    assert isinstance(told, dict)
    return told


def put(machine: Machine, image: str, unit: str) -> None:
    """Put an image into its place by a rename."""
    directory, name = services.entry_directory(unit), PurePath(image).name
    machine.sh(f"mkdir -p {directory}; cp {image} {directory}/.new; mv {directory}/.new {directory}/{name}")


@pytest.mark.parametrize("form", ["ddi", "erofs", "squashfs"])
def test_others_cannot_read_what_is_private(machine: Machine, form: str) -> None:
    secret = f"a key of {form}, {'x' * 100}\n"
    tree = make_tree(machine, f"private-{form}", {"app/key": (secret, 0o600), "app/conf": ("conf\n", 0o644)})
    machine.sh(f"chmod 755 {PLACE} {tree}")
    image = f"{PLACE}/10-private-{form}.raw"
    told = build(machine, tree, image, f"--format={form}")
    assert (told["mode"], told["private"]) == ("0600", ["etc/app/key"])
    assert machine.run("cat", image, check=False).returncode == 0
    assert "Permission denied" in machine.run(*NOBODY, "cat", image, check=False).stderr
    assert "exposed" not in machine.run("unit-confext", "inspect", image).stderr

    # Opened to everybody on request, it gives the key away, and is warned about from then on.
    opened = machine.run("unit-confext", "build", "--force", f"--format={form}", "--mode=0644", "-o", image, tree)
    assert f"{image}: mode 0644 lets everybody read etc/app/key" in opened.stderr
    assert machine.run(*NOBODY, "head", "-c", "4", image).returncode == 0
    found = f"{image}: exposed: mode 0644 lets everybody read '/etc/app/key'; chmod 0600 the image\n"
    assert found in machine.run("unit-confext", "inspect", image).stderr

    machine.run("chmod", "644", f"{tree}/etc/app/key")
    assert build(machine, tree, image, f"--format={form}")["mode"] == "0644"
    assert "exposed" not in machine.run("unit-confext", "inspect", image).stderr


def test_somebody_else_builds_the_same(machine: Machine) -> None:
    tree = make_tree(machine, "other", {"app/key": ("secret\n", 0o600)})
    machine.sh(f"chown -R 65534 {tree}; mkdir -p {PLACE}/theirs {PLACE}/mine; chown 65534 {PLACE}/theirs")
    built = []
    for place, who in (("theirs", NOBODY), ("mine", ())):
        image = f"{PLACE}/{place}/10-other.raw"
        assert build(machine, tree, image, "--format=erofs", who=who)["mode"] == "0600"
        built.append(machine.path(image).read_bytes())
        assert machine.sh(f"ls -A {PLACE}/{place}") == "10-other.raw\n"
    assert built[0] == built[1]


def test_nginx_serves_a_renewed_certificate(machine: Machine) -> None:
    """Since 1.27.4 it keeps one that has the inode number and the time of the one before."""
    image, tree = f"{PLACE}/10-renewed.raw", f"{PLACE}/renewed"
    machine.write(f"{tree}/etc/nginx/conf.d/test-build.conf", SITE)
    served: list[str] = []
    seen: list[list[str]] = []
    for name in ("first.example", "other.example"):
        pair = f"{tree}/etc/nginx/test-build"
        request = f"-newkey rsa:2048 -nodes -keyout {pair}/key.pem -out {pair}/crt.pem -days 10 -subj /CN={name}"
        machine.sh(f"mkdir -p {pair}; openssl req -x509 {request} 2>/dev/null")
        build(machine, tree, image, "--format=erofs")
        put(machine, image, "nginx.service")
        if not served:
            machine.systemctl("daemon-reload")
            machine.systemctl("restart", "nginx.service")
        else:
            machine.systemctl("reload", "nginx.service")
        pid = machine.show("nginx.service", "MainPID")
        seen.append(machine.sh(f"stat -c '%i %Y' /proc/{pid}/root/etc/nginx/test-build/crt.pem").split())
        # Workers of before may answer until they have been told.
        services.eventually(lambda name=name: name in subject(machine))  # type: ignore[misc]
        served.append(name)
    assert seen[0][0] == seen[1][0], "the inode number is another one: this shows nothing about times"
    assert seen[0][1] != seen[1][1]
    machine.systemctl("stop", "nginx.service")
    machine.sh(f"rm -r {services.entry_directory('nginx.service')}")


def subject(machine: Machine) -> str:
    """Whose certificate is served."""
    said = machine.sh("openssl s_client -connect 127.0.0.1:8443 </dev/null 2>/dev/null | openssl x509 -noout -subject")
    found = re.search("CN ?= ?(.*)", said)
    assert found is not None
    return found[1]


def test_cron_sees_other_times(machine: Machine) -> None:
    """It reads its tables again if the directory's time is another one, and looks at each file's if it is not."""
    image, tree = f"{PLACE}/10-cron.raw", f"{PLACE}/cron"
    seen: list[list[str]] = []
    for hour in (1, 2):
        machine.write(f"{tree}/etc/cron.d/test-build", f"0 {hour} * * * root true\n")
        build(machine, tree, image, "--format=erofs")
        put(machine, image, "cron.service")
        if not seen:
            machine.systemctl("daemon-reload")
            machine.systemctl("restart", "cron.service")
        else:
            machine.systemctl("reload", "cron.service")
        directory = f"/proc/{machine.show('cron.service', 'MainPID')}/root/etc/cron.d"
        # A service of its type is up before it has its mounts.
        services.eventually(lambda path=f"{directory}/test-build": machine.path(path).exists())  # type: ignore[misc]
        seen.append(machine.sh(f"stat -c %Y {directory} {directory}/test-build").split())
    assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1]
    machine.systemctl("stop", "cron.service")
    machine.sh(f"rm -r {services.entry_directory('cron.service')}")
