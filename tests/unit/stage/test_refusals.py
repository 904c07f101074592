# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook finds out about images that systemd does not."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs7

from confext_helpers.errors import ConfextError
from confext_helpers.image import trust
from confext_helpers.service import entries
from confext_helpers.service.entries import Unit
from confext_helpers.stage import refusals
from fuzz import ddi, libcrypto, structures

EXPIRED = ddi.identity("expired", years=(2000, 2001))
OPEN = "verity+signed+encrypted+unprotected+absent"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image by a signer whose time is over, but who is trusted."""
    (tmp_path / "demo.raw").write_bytes(ddi.image(EXPIRED).raw)
    (tmp_path / "trust.pem").write_bytes(EXPIRED.pem)
    anchors = trust.load([str(tmp_path / "trust.pem")])
    monkeypatch.setattr(trust, "load", lambda _: anchors)
    return str(tmp_path / "demo.raw")


@pytest.mark.parametrize(
    "policy",
    [
        "root=signed", "root=signed:usr=unprotected", "swap=unprotected:root=signed", "root=signed:=unprotected",
        "root=signed+absent", "=signed",
    ],
)  # fmt: skip
def test_signer_whose_time_is_over(image: str, policy: str) -> None:
    with pytest.raises(ConfextError, match="is not valid now"):
        refusals.check_signers([image], policy)
    # Below a `.v/`, and by a link, it is the same image.
    (Path(image).parent / "demo.raw.v").mkdir()
    (Path(image).parent / "demo.raw.v/demo_1.raw").symlink_to(image)
    with pytest.raises(ConfextError, match="is not valid now"):
        refusals.check_signers([f"{image}.v"], policy)


@pytest.mark.parametrize(
    "policy", ["", f"root={OPEN}:usr={OPEN}", f"root={OPEN}:usr=signed", "root=verity+signed", "root=absent:=signed"]
)
def test_signature_that_nobody_asked_for(image: str, policy: str) -> None:
    assert not refusals.check_signers([image], policy)


def _ber(raw: bytes) -> bytes:
    """The same with a length that is not stated."""
    return b"\x30\x80" + raw[2 + (raw[1] & 0x7F) * (raw[1] > 0x80) :] + b"\0\0"


def _other(raw: bytes, *path: int, **change: Any) -> bytes:
    """The same with attributes of the element at `path` changed."""
    (top,) = structures.parse(raw)
    node = top
    for number in path:
        node = node.members[number]
    for name, value in change.items():
        setattr(node, name, value)
    return top.encode()


SIGNED_DATA = (1, 0)
SIGNER = (*SIGNED_DATA, 4, 0)
# What takes nothing from a signature, as OpenSSL sees it, and would have hidden from us how old it is.
DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "a byte behind it": lambda raw: raw + b"\0",
    "BER": _ber,
    "version 3": lambda raw: _other(raw, *SIGNED_DATA, 0, content=b"\3"),
    "version of the signer": lambda raw: _other(raw, *SIGNER, 0, content=b"\3"),
    "a long length": lambda raw: _other(raw, *SIGNER, form="long"),
    "other letters": lambda raw: _other(raw, *SIGNER, 1, 0, 0, 0, 1, content=b"EXPIRED"),
    "another type of string": lambda raw: _other(raw, *SIGNER, 1, 0, 0, 0, 1, tag=0x13),
    "no certificates, a revocation list": lambda raw: _other(raw, *SIGNED_DATA, 3, tag=0xA1, members=[]),
    "another algorithm": lambda raw: _other(raw, *SIGNER, 3, 0, content=bytes.fromhex("2a864886f70d01010a")),
}


@pytest.mark.parametrize("way", DISGUISES)
def test_old_signature_in_disguise(image: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not understood is refused, and by no change does a signer become one who is not known."""
    root_hash = ddi.image(EXPIRED).root_hash.hex().encode()
    raw = DISGUISES[way](ddi.sign(root_hash, EXPIRED, pkcs7.PKCS7Options.NoAttributes))
    text = json.dumps({"rootHash": root_hash.decode(), "signature": base64.b64encode(raw).decode()}).encode()
    Path(image).write_bytes(ddi.image(signature=text.ljust(4096, b"\0")).raw)
    with pytest.raises(ConfextError, match="not signed as the image policy requires"):
        refusals.check_signers([image], "root=signed")
    if libcrypto.missing() is None:
        assert libcrypto.Libcrypto().verify(raw, root_hash, [EXPIRED.pem])


def test_signer_whom_only_the_kernel_knows(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd has mounted it, so somebody knew the key; but not if there is a file of which nobody can say whose."""
    monkeypatch.setattr(trust, "load", lambda _: [])
    assert refusals.check_signers([image], "root=signed")
    monkeypatch.setattr(trust, "load", lambda _: trust.first_certificate(b"-----BEGIN CERTIFICATE-----\n", "/x.crt"))
    with pytest.raises(ConfextError, match=r"since the anchor /x\.crt cannot be parsed"):
        refusals.check_signers([image], "root=signed")


def test_what_is_not_signed(image: str, tmp_path: Path) -> None:
    (tmp_path / "demo.raw").write_bytes(ddi.image().raw)
    with pytest.raises(ConfextError, match="there is none"):
        refusals.check_signers([image], "root=signed")
    for content in (b"", bytes(10000), ddi.image(EXPIRED).raw[:-600]):
        (tmp_path / "demo.raw").write_bytes(content)
        with pytest.raises(ConfextError, match="not signed as the image policy requires"):
            refusals.check_signers([image], "root=signed")
    (tmp_path / "demo.raw").unlink()
    # That is no layer.
    (tmp_path / "empty.raw.v").mkdir()
    assert refusals.check_signers([image, str(tmp_path / "empty.raw.v")], "root=signed")
    for make in (os.mkdir, os.mkfifo):
        make(image)
        with pytest.raises(ConfextError, match="not signed as the image policy requires"):
            refusals.check_signers([image], "root=signed")
        (os.rmdir if make is os.mkdir else os.unlink)(image)


@pytest.mark.parametrize("stale", [True, False])
def test_picked_version_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: bool) -> None:
    """Only a daemon-reload brings the other one; if it would not, the path was somebody's own choice."""
    versions = tmp_path / "site.raw.v"
    versions.mkdir()
    disk = Unit("foo.service", [], [], stale=stale)
    monkeypatch.setattr(entries, "Disk", lambda: SimpleNamespace(find=lambda name: disk))
    gone = f"{versions}/site_2.raw"
    refusals.check_picked("foo.service", [gone])  # No other is there.
    (versions / "site_1.raw").touch()
    refusals.check_picked("foo.service", [f"{tmp_path}/gone.raw", f"{versions}/site_1.raw", f"{tmp_path}/no.v/x.raw"])
    if not stale:
        refusals.check_picked("foo.service", [gone])
        return
    text = "its version site_2.raw is gone, and site_1.raw is not loaded"
    with pytest.raises(ConfextError, match=text) as raised:
        refusals.check_picked("foo.service", [gone])
    assert raised.value.hint == "run systemctl daemon-reload first"
