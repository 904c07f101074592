# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verdicts about whole images: what is wrong is found under the right code, and nothing else is."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs7

from confext_helpers.errors import ConfextError
from confext_helpers.image import certificates, findings, policy, signers, verdict
from confext_helpers.image.findings import Code
from confext_helpers.image.release import System
from confext_helpers.image.verdict import Protection, Request, Verdict
from fuzz import ddi

TESTER = ddi.identity("tester")
SIGNED = ddi.image(TESTER)
STRICT = policy.parse("root=signed+absent")
REQUEST = Request(
    anchors=[certificates.parse(TESTER.der)],
    policy=policy.parse(policy.CONFEXT),
    system=None,
    native=ddi.NATIVE,
    now=ddi.NOW,
)

pytestmark = pytest.mark.skipif(shutil.which("unsquashfs") is None, reason="unsquashfs is not installed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo.raw"


def verify(path: Path, raw: bytes | None = None, **changes: Any) -> Verdict:
    if raw is not None:
        path.write_bytes(raw)
    return verdict.verify(str(path), dataclasses.replace(REQUEST, **changes))


def codes(found: Iterable[findings.Finding]) -> set[Code]:
    return {one.code for one in found}


def flip(image: ddi.Ddi, name: str, offset: int = 0) -> bytes:
    at = image.places[name][0] + offset
    return image.raw[:at] + bytes([image.raw[at] ^ 1]) + image.raw[at + 1 :]


@pytest.mark.parametrize("sector", [512, 4096])
def test_signed(path: Path, sector: int) -> None:
    made = ddi.image(TESTER, sector=sector)
    found = verify(path, made.raw, policy=STRICT)
    assert (found.findings, found.protection, found.good) == ([], Protection.SIGNED, True)
    assert found.release == {"ID": "_any"}
    assert found.root_hash == made.root_hash.hex()
    assert [one.certificate and one.certificate.subject for one in found.signers] == ["CN=tester"]


@pytest.mark.parametrize(
    ("name", "offset", "code"),
    [
        ("data", 5000, Code.VERITY_DATA),
        ("tree", 512, Code.VERITY_HASH),
        ("tree", 1600, Code.VERITY_HASH),
        ("tree", 0, Code.VERITY_HEADER),
        ("header", 40, Code.GPT_CRC),
        ("entries", 5, Code.GPT_CRC),
        ("backup entries", 5, Code.GPT_CRC),
        ("signature", 20, Code.VERITY_ROOT),  # a digit of the root hash
        ("signature", 4000, Code.SIGNATURE_MALFORMED),
    ],
)
def test_flipped_bit(path: Path, name: str, offset: int, code: Code) -> None:
    for asked in (REQUEST.policy, STRICT):
        found = verify(path, flip(SIGNED, name, offset), policy=asked)
        assert code in codes(found.findings)
        assert found.release is None
        if name in ("data", "tree"):
            assert found.protection is Protection.UNPROTECTED


def test_flipped_bit_in_the_signature(path: Path) -> None:
    partition = json.loads(ddi.signature_partition(SIGNED.root_hash, TESTER).rstrip(b"\0"))
    raw = bytearray(base64.b64decode(partition["signature"]))
    raw[-1] ^= 1
    partition["signature"] = base64.b64encode(raw).decode()
    image = ddi.image(signature=json.dumps(partition).encode().ljust(4096, b"\0"))
    found = verify(path, image.raw, policy=STRICT)
    assert codes(found.findings) == {Code.SIGNATURE_INVALID, Code.POLICY}
    assert found.protection is Protection.VERITY


def test_unsigned(path: Path) -> None:
    for raw in (ddi.image().raw, ddi.image(verity=False).raw, ddi.squashfs()):
        found = verify(path, raw)
        assert (found.findings, found.protection) == ([], Protection.UNPROTECTED)
        found = verify(path, raw, policy=STRICT)
        assert codes(found.findings) == {Code.SIGNATURE_MISSING, Code.POLICY}
    # A root hash that only the partition table has protects nothing, though a damage is found with it.
    found = verify(path, ddi.image().raw, policy=policy.parse("root=verity"))
    assert [one.message for one in found.findings] == ["root is unprotected, allowed is verity"]
    assert codes(verify(path, flip(ddi.image(), "data", 9000)).findings) == {Code.VERITY_DATA}
    found = verify(path, ddi.squashfs(), policy=policy.parse("-"))
    assert [one.message for one in found.findings] == ["root is unprotected, allowed is unused+absent"]


def test_unknown_key(path: Path) -> None:
    for asked in (REQUEST.policy, STRICT):
        found = verify(path, ddi.image(ddi.identity("other", 2)).raw, policy=asked)
        assert Code.SIGNATURE_UNKNOWN_KEY in codes(found.findings)
        assert found.protection is Protection.VERITY
    assert Code.SIGNATURE_UNKNOWN_KEY in codes(verify(path, SIGNED.raw, anchors=[]).findings)


def test_expired(path: Path) -> None:
    who = ddi.identity("tester", years=(2020, 2025))
    found = verify(path, ddi.image(who).raw, anchors=[certificates.parse(who.der)])
    assert codes(found.findings) == {Code.SIGNATURE_EXPIRED}
    assert found.protection is Protection.VERITY


def test_signature_of_another_image(path: Path) -> None:
    other = bytes(4096) + ddi.squashfs()[4096:]
    _, root_hash = ddi.hash_tree(other)
    found = verify(path, ddi.image(signature=ddi.signature_partition(root_hash, TESTER)).raw, policy=STRICT)
    assert {Code.VERITY_ROOT, Code.POLICY} <= codes(found.findings)
    assert found.protection is Protection.UNPROTECTED


@pytest.mark.parametrize(
    "change",
    [
        {"certificateFingerprint": "00" * 32}, {"rootHash": "00"}, {"rootHash": 5}, {"rootHash": None},
        {"signature": "***"}, {"signature": ""}, {"signature": None}, {"signature": "AAAA"},
    ],
    ids=str,
)  # fmt: skip
def test_signature_partition(path: Path, change: dict[str, object]) -> None:
    fields = json.loads(ddi.signature_partition(SIGNED.root_hash, TESTER).rstrip(b"\0")) | change
    found = verify(path, ddi.image(signature=json.dumps(fields).encode().ljust(4096, b"\0")).raw)
    wanted = Code.SIGNATURE_FINGERPRINT if "certificateFingerprint" in change else Code.SIGNATURE_MALFORMED
    assert wanted in codes(found.findings)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"nonsense", b"\xff", b"[" * 4000, b"1" * 4096])
def test_signature_partition_of_something_else(path: Path, text: bytes) -> None:
    found = verify(path, ddi.image(signature=text.ljust(4096, b"\0")).raw)
    assert Code.SIGNATURE_MALFORMED in codes(found.findings)


def test_a_field_twice(path: Path) -> None:
    text = ddi.signature_partition(SIGNED.root_hash, TESTER).rstrip(b"\0")
    twice = text.replace(b"{", b'{"rootHash": "' + b"00" * 32 + b'", ', 1)
    found = verify(path, ddi.image(signature=twice.ljust(4096, b"\0")).raw)
    assert Code.SIGNATURE_MALFORMED in codes(found.findings)


def test_two_things_at_once(path: Path) -> None:
    raw = bytearray(SIGNED.raw)
    raw[:4] = b"XFSB"
    assert codes(verify(path, bytes(raw)).findings) == {Code.AMBIGUOUS}
    data = bytearray(ddi.squashfs())
    data[1024:1028] = b"\xe2\xe1\xf5\xe0"
    assert codes(verify(path, ddi.image(TESTER, data=bytes(data)).raw).findings) == {Code.AMBIGUOUS}


def test_no_image(path: Path) -> None:
    for raw in (b"", b"x", bytes(8192), os.urandom(8192)):
        assert codes(verify(path, raw).findings) == {Code.FORMAT}
    with pytest.raises(ConfextError, match="directory"):
        verify(path.parent)
    with pytest.raises(FileNotFoundError):
        verify(path.parent / "gone.raw")
    os.mkfifo(path.parent / "fifo.raw")
    with pytest.raises(ConfextError, match="no file"):
        verify(path.parent / "fifo.raw")


def test_file_system_larger_than_its_place(path: Path) -> None:
    data = bytearray(ddi.squashfs())
    data[40:48] = (1 << 20).to_bytes(8, "little")
    assert codes(verify(path, bytes(data)).findings) == {Code.SIZE}
    assert codes(verify(path, ddi.image(TESTER, data=bytes(data)).raw).findings) >= {Code.SIZE}


def test_file_system_larger_than_its_tree(path: Path) -> None:
    """What the tree does not cover must not be read, and is not there once the image is mounted."""
    data = bytearray(ddi.squashfs())
    data[40:48] = (8193).to_bytes(8, "little")
    tree, root_hash = ddi.hash_tree(bytes(data[:8192]))
    sidecars(path, verity=tree, roothash=root_hash.hex().encode())
    found = verify(path, bytes(data))
    assert (codes(found.findings), found.protection) == ({Code.SIZE}, Protection.UNPROTECTED)


def test_other_partitions(path: Path) -> None:
    home = ddi.Entry(ddi.HOME, str(uuid.UUID(int=9)), "home", bytes(512))
    raw = ddi.image(TESTER, more=[home]).raw
    assert verify(path, raw).good
    found = verify(path, raw, policy=policy.parse("*"))
    assert codes(found.findings) == {Code.PARTITIONS}
    found = verify(path, raw, policy=policy.parse("root=signed:home=absent"))
    assert codes(found.findings) == {Code.POLICY}


def test_the_newest_root_counts(path: Path) -> None:
    """Two roots: systemd takes the newest label, so the hash tree of the other one does not fit."""
    other = ddi.Entry(ddi.ROOT, str(uuid.UUID(int=9)), "zz_2", ddi.squashfs()[:4096], ddi.READ_ONLY)
    assert not verify(path, ddi.image(TESTER, more=[other]).raw, policy=STRICT).good
    older = other._replace(label="aa")
    assert verify(path, ddi.image(TESTER, more=[older]).raw, policy=STRICT).good


def test_no_root(path: Path) -> None:
    found = verify(path, ddi.partitioned([ddi.Entry(ddi.HOME, str(uuid.UUID(int=9)), "home", bytes(512))])[0])
    assert codes(found.findings) == {Code.PARTITIONS}
    found = verify(path, SIGNED.raw, policy=policy.parse("root=unused:=open"))
    assert Code.PARTITIONS in codes(found.findings)


def sidecars(path: Path, **files: bytes) -> None:
    for name, content in files.items():
        path.with_suffix("." + name.replace("_", ".")).write_bytes(content)


def test_sidecars(path: Path) -> None:
    data = ddi.squashfs()
    tree, root_hash = ddi.hash_tree(data)
    text = root_hash.hex().encode()
    sidecars(path, verity=tree, roothash=text + b"\n")
    found = verify(path, data)
    assert (found.findings, found.protection, found.root_hash) == ([], Protection.VERITY, root_hash.hex())
    assert codes(verify(path, data, policy=STRICT).findings) == {Code.SIGNATURE_MISSING, Code.POLICY}
    sidecars(path, roothash_p7s=ddi.sign(text, TESTER))
    found = verify(path, data, policy=STRICT)
    assert (found.findings, found.protection) == ([], Protection.SIGNED)
    assert verify(path, data, policy=policy.parse("root=signed")).good
    assert signers.read(str(path), REQUEST.anchors, ddi.NOW).trusted
    assert codes(verify(path, data[:-1] + b"x", policy=STRICT).findings) == {Code.VERITY_DATA, Code.POLICY}
    sidecars(path, roothash_p7s=ddi.sign(text, ddi.identity("other", 2)))
    assert codes(verify(path, data).findings) == {Code.SIGNATURE_UNKNOWN_KEY}
    sidecars(path, roothash_p7s=ddi.sign(text[::-1], TESTER))
    assert codes(verify(path, data).findings) == {Code.SIGNATURE_INVALID}
    sidecars(path, roothash_p7s=ddi.sign(text, TESTER), roothash=text[::-1])
    assert codes(verify(path, data).findings) == {Code.VERITY_ROOT, Code.SIGNATURE_INVALID}
    sidecars(path, roothash_p7s=b"")
    assert Code.SIGNATURE_MALFORMED in codes(verify(path, data).findings)


@pytest.mark.parametrize(
    "files",
    [
        {"roothash": b"nonsense"}, {"roothash": b"ab" * 20}, {"roothash": b"ab" * 32}, {"roothash": b"x" * 10000},
        {"verity": b""}, {"roothash_p7s": b"x"}, {"usrhash": b"ab" * 32},
    ],
    ids=lambda files: " ".join(files),
)  # fmt: skip
def test_sidecars_that_do_not_belong_together(path: Path, files: dict[str, bytes]) -> None:
    sidecars(path, **files)
    assert Code.SIDECAR in codes(verify(path, ddi.squashfs()).findings)


def test_sidecars_of_a_partitioned_image(path: Path) -> None:
    sidecars(path, roothash=SIGNED.root_hash.hex().encode())
    assert verify(path, SIGNED.raw, policy=STRICT).good
    found = verify(path, ddi.image().raw, policy=policy.parse("root=verity"))
    assert (found.findings, found.protection) == ([], Protection.VERITY)
    sidecars(path, roothash=b"ab" * 32)
    assert codes(verify(path, SIGNED.raw).findings) >= {Code.PARTITIONS}
    path.with_suffix(".roothash").unlink()
    sidecars(path, verity=b"x")
    assert codes(verify(path, SIGNED.raw).findings) == {Code.SIDECAR}


def test_release(path: Path) -> None:
    other = path.with_name("other.raw")
    assert codes(verify(other, SIGNED.raw).findings) == {Code.RELEASE_MISSING}
    assert verify(path.with_name("demo_7.raw"), SIGNED.raw).good
    debian = System({"ID": "debian", "VERSION_ID": "13"}, "x86-64", "")
    assert verify(path, SIGNED.raw, system=debian).good


def test_unreadable_contents(path: Path) -> None:
    data = bytearray(ddi.squashfs())
    data[64:96] = bytes(32)  # where its tables are
    found = verify(path, ddi.image(TESTER, data=bytes(data)).raw, policy=STRICT)
    assert codes(found.findings) == {Code.CONTENTS}
    assert found.protection is Protection.SIGNED


def test_no_tool(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from confext_helpers.system import programs

    def missing(*argv: str, **options: object) -> programs.Bounded:
        raise FileNotFoundError

    monkeypatch.setattr(programs, "run_confined", missing)
    (finding,) = verify(path, SIGNED.raw).findings
    assert finding == (Code.CONTENTS_TOOL, "unsquashfs is not installed; install squashfs-tools")


def test_signers(path: Path) -> None:
    path.write_bytes(SIGNED.raw)
    found = signers.read(str(path), REQUEST.anchors, ddi.NOW)
    assert (found.trusted, found.root_hash) == (True, SIGNED.root_hash.hex())
    assert not signers.read(str(path), [], ddi.NOW).trusted
    path.write_bytes(ddi.image().raw)
    assert signers.read(str(path), REQUEST.anchors, ddi.NOW)[1:] == ((), [])


def test_attributes_of_a_signature_partition(path: Path) -> None:
    """With signed attributes, as `openssl smime -sign` makes it without -noattr."""
    partition = ddi.signature_partition(SIGNED.root_hash, TESTER, pkcs7.PKCS7Options.NoCapabilities)
    assert verify(path, ddi.image(signature=partition).raw, policy=STRICT).good


def test_codes() -> None:
    assert set(findings.MEANINGS) == set(Code)
    assert all(code == code.lower() and " " not in code for code in Code)
    assert len(set(findings.MEANINGS.values())) == len(Code)
    assert not any(text.endswith(".") for text in findings.MEANINGS.values())


def test_partition_that_only_some_versions_use(path: Path) -> None:
    """Since 262 systemd takes none of this name; of one that is not used anyway, that does not matter."""
    empty = ddi.Entry(ddi.HOME, str(uuid.UUID(int=5)), "_empty", ddi.squashfs())
    assert verify(path, ddi.image(TESTER, more=[empty]).raw, policy=STRICT).good
    raw = SIGNED.raw.replace("data\0\0".encode("utf-16-le"), "_empty".encode("utf-16-le"))
    for one in (ddi.seal(raw), ddi.image(TESTER, more=[empty._replace(type=ddi.ROOT)]).raw):
        messages = [finding.message for finding in verify(path, one, policy=STRICT).findings]
        assert "a partition is called _empty, which systemd ignores since 262, and does not before" in messages


@pytest.mark.parametrize(
    ("offset", "magic"),
    [(4086, b"SWAP-SPACE"), (8182, b"S1SUSPEND"), (65526, b"SWAPSPACE2"), (32769, b"CD001"), (32, b"NXSB")],
)
def test_another_superblock_beside(path: Path, offset: int, magic: bytes) -> None:
    data = bytearray(ddi.squashfs(1 << 17))
    data[offset : offset + len(magic)] = magic
    found = verify(path, ddi.image(TESTER, data=bytes(data)).raw, policy=STRICT)
    assert codes(found.findings) == {Code.AMBIGUOUS}
