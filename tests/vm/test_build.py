# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext build` with the real systemd-repart: reproducible, and usable by those who are not root."""

from __future__ import annotations

import hashlib
import json

import pytest

from lab import signed
from lab.signed import Key
from lab.vm import Vm

pytestmark = pytest.mark.real

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def make_trees(vm: Vm) -> list[str]:
    """Two trees of the same content, of different owners, times, and order of creation."""
    names = ["etc/demo/a", "etc/demo/b", "etc/c"]
    for number in range(2):
        top = f"/var/tmp/reproducible-{number}/some where"
        script = [f'rm -rf "{top}"; mkdir -p "{top}/etc/demo"; cd "{top}"; umask 022']
        script += [f"echo {name} >{name}" for name in (names if number == 0 else reversed(names))]
        script.append("ln -s demo/a etc/link; touch -d @1000 etc/c; head -c 100000 /dev/zero >etc/demo/zeros")
        if number == 1:
            script.append("chown -R 65534:65534 .; rm etc/demo/b; sleep 0.01; echo etc/demo/b >etc/demo/b")
        vm.native("sh", "-euc", "; ".join(script))
    return [f"/var/tmp/reproducible-{number}/some where" for number in range(2)]


@pytest.mark.parametrize("form", ["signed", "unsigned", "erofs", "squashfs"])
def test_reproducible(furnished: Vm, form: str) -> None:
    options = ["--format", form] if form in ("erofs", "squashfs") else []
    if form == "signed":
        options += ["--key", f"{signed.KEYS}/trusted.key", "--certificate", f"{signed.KEYS}/trusted.crt"]
    sums = []
    for number, tree in enumerate(make_trees(furnished)):
        output = f"/var/tmp/built-{number}/site.raw"
        furnished.native("mkdir", "-p", f"/var/tmp/built-{number}")
        command = ["unit-confext", "build", "--force", *options, "-o", output, tree]
        furnished.native("env", f"TMPDIR=/run/odd{number}", *command)
        sums.append(hashlib.sha256(furnished.path(output).read_bytes()).hexdigest())
        assert [path.name for path in furnished.path(output).parent.iterdir()] == ["site.raw"]
    assert sums[0] == sums[1]


def test_without_privileges(furnished: Vm) -> None:
    """What somebody else builds is the same as what root builds: all files are root's."""
    tree = make_trees(furnished)[1]
    furnished.native("mkdir", "-p", "-m", "1777", "/var/tmp/everyone", "/var/tmp/root")
    furnished.native(*NOBODY, "unit-confext", "build", "--force", "-o", "/var/tmp/everyone/site.raw", tree)
    furnished.native("unit-confext", "build", "--force", "-o", "/var/tmp/root/site.raw", tree)
    built = [furnished.path(f"/var/tmp/{who}/site.raw").read_bytes() for who in ("everyone", "root")]
    assert built[0] == built[1]


def test_root_hash_is_told(furnished: Vm) -> None:
    furnished.native("mkdir", "-p", "/var/tmp/told")
    said = furnished.native(
        "unit-confext", "--json=short", "build", "--force", "-o", "/var/tmp/told/site.raw", make_trees(furnished)[0]
    )
    (told,) = json.loads(said.stdout)
    image = furnished.path("/var/tmp/told/site.raw").read_bytes()
    assert told["root_hash"] == signed.root_hash(image)
    assert told["size"] == len(image)


def test_key_of_another_certificate(furnished: Vm) -> None:
    said = furnished.native(
        "unit-confext", "build", "--key", f"{signed.KEYS}/{Key.TRUSTED}.key", "--certificate",
        f"{signed.KEYS}/{Key.UNKNOWN}.crt", "-o", "/var/tmp/told/other.raw", make_trees(furnished)[0], check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert said.stderr == (
        f"unit-confext: the certificate does not belong to the key {signed.KEYS}/trusted.key "
        f"({signed.KEYS}/unknown.crt); give the certificate that was issued for this key\n"
    )
    assert not furnished.path("/var/tmp/told/other.raw").exists()
