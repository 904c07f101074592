# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that systemd-repart, veritysetup and openssl have made, verified and shown where they were made.

Our side runs in the machine as well, as a user without rights, with the libraries and the tools that its Debian has.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from lab import jsonshape
from lab.machine import Machine

pytestmark = pytest.mark.real

WORK = "/var/lib/verify"
_KEYS = f"""
mkdir -p {WORK}/tree/etc/extension-release.d {WORK}/tree/etc/demo/dir {WORK}/definitions && cd {WORK}
echo ID=_any >tree/etc/extension-release.d/extension-release.demo
echo hello >tree/etc/demo/file; ln -s file tree/etc/demo/link; touch 'tree/etc/demo/dir/a name'
head -c 30000 /dev/urandom >tree/etc/demo/large
for who in signer other; do
    openssl req -x509 -newkey rsa:2048 -nodes -keyout $who.key -out $who.crt -days 30 -subj /CN=$who 2>/dev/null
done
printf '[Partition]\\nType=root-verity\\nVerity=hash\\nVerityMatchKey=root\\nMinimize=best\\n' >definitions/20.conf
printf '[Partition]\\nType=root-verity-sig\\nVerity=signature\\nVerityMatchKey=root\\n' >definitions/30.conf
"""
_RUN = (
    "import sys; sys.path[:0] = ['/run/host/share/helpers', '/run/host/share/generator']; "
    "from confext_helpers.command.main import main; sys.exit(main(sys.argv[1:]))"
)
ETC = {
    "/etc/demo", "/etc/demo/dir", "/etc/demo/dir/a name", "/etc/demo/file", "/etc/demo/large", "/etc/demo/link",
    "/etc/extension-release.d", "/etc/extension-release.d/extension-release.demo",
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop(bare_machine: Machine) -> Machine:
    bare_machine.sh(_KEYS)
    return bare_machine


def ours(machine: Machine, verb: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and what is said about the one image."""
    drop = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = ("python3", "-B", "-W", "error", "-c", _RUN, verb, "--json=short", *arguments)
    done = machine.run(*drop, *command, check=False)
    assert done.stderr == ""
    (said,) = jsonshape.check(verb, json.loads(done.stdout))
    return done.returncode, said


def codes(said: dict[str, Any]) -> set[str]:
    return {one["code"] for one in said["findings"]}


def build(machine: Machine, file_system: str) -> str:
    """A signed image; returns its path."""
    machine.sh(f"""
cd {WORK} && rm -f demo.raw
printf '[Partition]\\nType=root\\nFormat={file_system}\\nCopyFiles=/etc\\nMinimize=best\\nVerity=data\\n' \
    >definitions/10.conf
echo VerityMatchKey=root >>definitions/10.conf
systemd-repart --definitions=definitions --empty=create --size=auto --offline=yes --private-key=signer.key \
    --certificate=signer.crt -s tree demo.raw >/dev/null 2>&1
chmod 644 demo.raw signer.crt other.crt
""")
    return f"{WORK}/demo.raw"


@pytest.mark.parametrize("file_system", ["erofs", "squashfs"])
def test_repart(workshop: Machine, file_system: str) -> None:
    path = build(workshop, file_system)
    strict = ("--image-policy=root=signed", path)
    status, said = ours(workshop, "verify", f"--trust={WORK}/signer.crt", *strict)
    assert (status, said["findings"], said["protection"], said["release"]) == (0, [], "signed", {"ID": "_any"})
    status, said = ours(workshop, "verify", f"--trust={WORK}/other.crt", *strict)
    assert (status, codes(said)) == (4, {"signature-unknown-key", "policy"})

    status, shown = ours(workshop, "inspect", f"--trust={WORK}/signer.crt", path)
    assert (status, shown["findings"], set(shown["etc"]), shown["file_system"]) == (0, [], ETC, file_system)
    # systemd-dissect has to see the same partitions as we do.
    theirs = json.loads(workshop.sh(f"systemd-dissect --json=short {path}"))["mounts"]
    assert {(one["designator"], one["partition_uuid"].replace("-", "")) for one in theirs} == {
        (one["label"].replace("-x86-64", "").replace("-arm64", ""), one["uuid"].replace("-", ""))
        for one in shown["partitions"] if one["used"]
    }  # fmt: skip

    places = {one["number"]: one for one in shown["partitions"]}
    for number, at, code in ((1, 200, "verity-data"), (2, 4096 + 7, "verity-hash"), (2, 9, "verity-header")):
        offset = places[number]["offset"] + at
        raw = workshop.path(path).read_bytes()
        broken = workshop.write(path, raw[:offset] + bytes([raw[offset] ^ 4]) + raw[offset + 1 :])
        status, said = ours(workshop, "verify", f"--trust={WORK}/signer.crt", *strict)
        assert (status, codes(said)) == (4, {code, "policy"})
        broken.write_bytes(raw)
    assert ours(workshop, "verify", f"--trust={WORK}/signer.crt", *strict)[0] == 0


def test_veritysetup(workshop: Machine) -> None:
    """A bare file system with all three sidecars, and trees of other shapes."""
    workshop.sh(f"cd {WORK} && rm -f demo.* && mkfs.erofs -T0 demo.raw tree >/dev/null 2>&1 && chmod 644 demo.raw")
    for options in ("", "--hash=sha512", "--data-block-size=512 --hash-block-size=1024", "--salt=-"):
        workshop.sh(f"""
cd {WORK} && rm -f demo.verity demo.roothash demo.roothash.p7s
veritysetup format {options} --root-hash-file=demo.roothash demo.raw demo.verity >/dev/null
openssl smime -sign -binary -noattr -in demo.roothash -signer signer.crt -inkey signer.key -outform DER \
    -out demo.roothash.p7s
chmod 644 demo.*
""")
        arguments = (f"--trust={WORK}/signer.crt", "--image-policy=root=signed", f"{WORK}/demo.raw")
        status, said = ours(workshop, "verify", *arguments)
        assert (said["findings"], status) == ([], 0), options
        root_hash = workshop.path(f"{WORK}/demo.roothash").read_text().strip()
        assert said["root_hash"] == root_hash
        workshop.sh(f"veritysetup verify {WORK}/demo.raw {WORK}/demo.verity {shlex.quote(root_hash)}")
    workshop.sh(f"rm {WORK}/demo.roothash.p7s")
    status, said = ours(workshop, "verify", f"{WORK}/demo.raw", "--image-policy=root=signed")
    assert (status, codes(said)) == (4, {"signature-missing", "policy"})
    status, said = ours(workshop, "verify", f"{WORK}/demo.raw", "--image-policy=root=verity")
    assert (status, said["protection"]) == (0, "verity")
