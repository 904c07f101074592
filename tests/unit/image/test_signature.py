# SPDX-License-Identifier: LGPL-2.1-or-later
"""PKCS#7: what openssl makes is accepted, in all of its forms, and whatever differs by a bit is not."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from confext_helpers.errors import ConfextError
from confext_helpers.image import certificates, der, signature, trust
from confext_helpers.image.certificates import Certificate
from confext_helpers.image.der import DerError
from confext_helpers.image.findings import Code
from confext_helpers.image.signature import AlgorithmError
from fuzz import ddi

CONTENT = ("ab" * 32).encode()
TESTER = ddi.identity("tester")
ANCHOR = certificates.parse(TESTER.der)
PLAIN = ddi.sign(CONTENT, TESTER, pkcs7.PKCS7Options.NoAttributes)
ATTRIBUTES = ddi.sign(CONTENT, TESTER)
NOCERTS = ddi.sign(CONTENT, TESTER, pkcs7.PKCS7Options.NoAttributes, pkcs7.PKCS7Options.NoCerts)


def judge(raw: bytes, anchors: list[Certificate], content: bytes = CONTENT) -> list[Code]:
    """The codes of the findings; SIGNATURE_MALFORMED and SIGNATURE_ALGORITHM also where parsing ends with them."""
    try:
        verdicts, findings = signature.verify(signature.parse(raw), content, anchors, ddi.NOW)
    except DerError:
        return [Code.SIGNATURE_MALFORMED]
    except AlgorithmError:
        return [Code.SIGNATURE_ALGORITHM]
    assert all(one.valid for one in verdicts) == (not findings)
    return [one.code for one in findings]


@pytest.mark.parametrize("raw", [PLAIN, ATTRIBUTES, NOCERTS], ids=["plain", "attributes", "nocerts"])
def test_good(raw: bytes) -> None:
    assert judge(raw, [ANCHOR]) == []
    assert judge(raw, [ANCHOR], b"ac" * 32) == [Code.SIGNATURE_INVALID]
    assert judge(raw, [ANCHOR], CONTENT.upper()) == [Code.SIGNATURE_INVALID]
    assert judge(raw, []) == [Code.SIGNATURE_UNKNOWN_KEY]


def test_unknown_key() -> None:
    # Another name and number; the same name and number with another key; the key is in a certificate of another name.
    for who, code in (
        (ddi.identity("other", 2), Code.SIGNATURE_UNKNOWN_KEY),
        (ddi.identity("tester", 2), Code.SIGNATURE_INVALID),
        (ddi.identity("other", 1), Code.SIGNATURE_UNKNOWN_KEY),
        (ddi.identity("tester", 1, serial=2), Code.SIGNATURE_UNKNOWN_KEY),
    ):
        assert judge(PLAIN, [certificates.parse(who.der)]) == [code]
    # Of two of the same name and number OpenSSL takes the first.
    other = certificates.parse(ddi.identity("tester", 2).der)
    assert judge(PLAIN, [other, ANCHOR]) == [Code.SIGNATURE_INVALID]
    assert judge(PLAIN, [ANCHOR, other]) == []


def test_expired() -> None:
    for years, words in (((2020, 2025), "expired on 2025-01-01"), ((2027, 2040), "not valid before 2027-01-01")):
        who = ddi.identity("tester", years=years)
        raw = ddi.sign(CONTENT, who)
        _, findings = signature.verify(signature.parse(raw), CONTENT, [certificates.parse(who.der)], ddi.NOW)
        assert [one.code for one in findings] == [Code.SIGNATURE_EXPIRED]
        assert words in findings[0].message
    # Nothing else than the date is wrong with them.
    assert signature.verify(
        signature.parse(raw), CONTENT, [certificates.parse(who.der)], ddi.NOW + datetime.timedelta(days=400)
    )[1] == []  # fmt: skip


def covered(raw: bytes) -> set[int]:
    """The offsets of a signature's bytes that may change without harm: those of the certificates in it."""
    certificate = TESTER.der
    start = raw.find(certificate)
    return set(range(start, start + len(certificate))) if start >= 0 else set()


@pytest.mark.parametrize("raw", [PLAIN, ATTRIBUTES, NOCERTS], ids=["plain", "attributes", "nocerts"])
def test_every_bit(raw: bytes) -> None:
    free = covered(raw)
    for offset in range(len(raw)):
        if offset not in free:
            for bit in range(8):
                changed = raw[:offset] + bytes([raw[offset] ^ 1 << bit]) + raw[offset + 1 :]
                assert judge(changed, [ANCHOR]), f"bit {bit} of byte {offset}"


def rebuilt(raw: bytes, *path: int, change: dict[int, bytes | None]) -> bytes:
    """`raw` with members of the element at `path` replaced, or taken out; all lengths are right afterwards."""
    (element,) = der.elements(raw)
    parts = [one.raw for one in der.elements(element.content)]
    if path:
        parts[path[0]] = rebuilt(parts[path[0]], *path[1:], change=change)
    else:
        parts = [change.get(number, part) or b"" for number, part in enumerate(parts)]
    return encode(element.tag, b"".join(parts))


def encode(tag: int, content: bytes) -> bytes:
    size = len(content)
    octets = (size.bit_length() + 7) // 8
    length = bytes([size]) if size < 128 else bytes([0x80 | octets]) + size.to_bytes(octets, "big")
    return bytes([tag]) + length + content


# Places in a signature without certificates: ContentInfo, [0], SignedData, its fields.
BODY = (1, 0)
SIGNERS = (*BODY, 3)
SIGNER = (*SIGNERS, 0)
SIGNED = ddi.sign(CONTENT, TESTER, pkcs7.PKCS7Options.NoCerts)


def member(raw: bytes, *path: int) -> bytes:
    for number in path:
        (element,) = der.elements(raw)
        raw = list(der.elements(element.content))[number].raw
    return raw


def test_rebuilding_changes_nothing_by_itself() -> None:
    assert rebuilt(NOCERTS, *SIGNER, change={}) == NOCERTS
    assert rebuilt(SIGNED, *SIGNER, 3, change={}) == SIGNED
    assert judge(SIGNED, [ANCHOR]) == []


def test_refused() -> None:
    one = member(NOCERTS, *SIGNER)
    other = member(ddi.sign(CONTENT, ddi.identity("other", 2), pkcs7.PKCS7Options.NoCerts), *SIGNER)
    both = encode(der.SET, b"".join(sorted((one, other))))
    malformed = {
        "trailing garbage": NOCERTS + b"\0",
        "trailing element": NOCERTS + b"\5\0",
        "cut off": NOCERTS[:-1],
        "empty": b"",
        "too large": NOCERTS.ljust(2 << 20, b"\0"),
        "no signer": rebuilt(NOCERTS, *BODY, change={3: encode(der.SET, b"")}),
        "a signer twice": rebuilt(NOCERTS, *BODY, change={3: encode(der.SET, one + one)}),
        "signers out of order": rebuilt(
            NOCERTS, *BODY, change={3: encode(der.SET, b"".join(sorted((one, other), reverse=True)))}
        ),
        "a revocation list": rebuilt(NOCERTS, *BODY, change={2: member(NOCERTS, *BODY, 2) + b"\xa1\0"}),
        "content of its own": rebuilt(
            NOCERTS, *BODY, 2, change={0: member(NOCERTS, *BODY, 2, 0) + encode(0xA0, encode(4, CONTENT))}
        ),
        "another type": rebuilt(NOCERTS, change={0: bytes.fromhex("06092a864886f70d010703")}),
        "another version": rebuilt(NOCERTS, *BODY, change={0: b"\2\1\2"}),
        "a signer's other version": rebuilt(NOCERTS, *SIGNER, change={0: b"\2\1\3"}),
        "a digest that is not announced": rebuilt(NOCERTS, *BODY, change={1: encode(der.SET, b"")}),
        "no signature": rebuilt(NOCERTS, *SIGNER, change={4: None}),
        "indefinite length": b"\x30\x80" + NOCERTS[4:] + b"\0\0",
    }
    for name, raw in malformed.items():
        assert judge(raw, [ANCHOR]) == [Code.SIGNATURE_MALFORMED], name
    # The second signer is not trusted, so the first one is of no use.
    several = rebuilt(NOCERTS, *BODY, change={3: both})
    assert judge(several, [ANCHOR]) == [Code.SIGNATURE_UNKNOWN_KEY]


def test_attributes() -> None:
    attributes = [one.raw for one in der.elements(next(der.elements(member(SIGNED, *SIGNER, 3))).content)]
    assert len(attributes) >= 3

    def signed_with(*chosen: bytes) -> bytes:
        return rebuilt(SIGNED, *SIGNER, change={3: encode(0xA0, b"".join(chosen))})

    assert signed_with(*attributes) == SIGNED
    # In another order, with one of them missing, or twice, or with none.
    assert judge(signed_with(*reversed(attributes)), [ANCHOR]) == [Code.SIGNATURE_MALFORMED]
    for number in range(len(attributes)):
        kept = attributes[:number] + attributes[number + 1 :]
        assert judge(signed_with(*kept), [ANCHOR]) == [Code.SIGNATURE_INVALID]
        assert judge(signed_with(*sorted([*attributes, attributes[number]])), [ANCHOR]) == [Code.SIGNATURE_MALFORMED]
    assert judge(rebuilt(SIGNED, *SIGNER, change={3: None}), [ANCHOR]) == [Code.SIGNATURE_INVALID]
    # The signed attributes are no root hash themselves.
    whole = encode(der.SET, b"".join(attributes))
    assert judge(rebuilt(SIGNED, *SIGNER, change={3: None}), [ANCHOR], whole) == []
    assert judge(SIGNED, [ANCHOR], whole) == [Code.SIGNATURE_INVALID]


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_ed25519(digest: str) -> None:
    """RFC 8419, which neither the kernel nor PKCS7_verify() knows; put together by hand, as is the certificate."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    name = TESTER.certificate.subject
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    dates = builder.not_valid_before(datetime.datetime(2020, 1, 1)).not_valid_after(datetime.datetime(2040, 1, 1))
    certificate = dates.sign(key, None).public_bytes(serialization.Encoding.DER)
    number = {"sha256": "01", "sha512": "03"}[digest]
    algorithm = encode(der.SEQUENCE, bytes.fromhex("06096086480165030402" + number))
    raw = rebuilt(NOCERTS, *BODY, change={1: encode(der.SET, algorithm)})
    change = {
        2: algorithm, 3: encode(der.SEQUENCE, bytes.fromhex("06032b6570")), 4: encode(4, key.sign(CONTENT)),
    }  # fmt: skip
    anchor = certificates.parse(certificate)
    assert judge(rebuilt(raw, *SIGNER, change=dict(change)), [anchor]) == [Code.SIGNATURE_ALGORITHM]
    assert judge(rebuilt(raw, *SIGNER, change=dict(change)), [ANCHOR]) == [Code.SIGNATURE_ALGORITHM]


@pytest.mark.parametrize("name", ["md5", "sha1", "unknown"])
def test_weak_digests(name: str) -> None:
    identifier = {"md5": "06082a864886f70d0205", "sha1": "06052b0e03021a", "unknown": "0603550406"}[name]
    weak = encode(der.SEQUENCE, bytes.fromhex(identifier))
    raw = rebuilt(NOCERTS, *BODY, change={1: encode(der.SET, weak)})
    assert judge(rebuilt(raw, *SIGNER, change={2: weak}), [ANCHOR]) == [Code.SIGNATURE_ALGORITHM]


@pytest.mark.parametrize(
    "raw",
    [
        "", "30", "3080", "308000000000", "30820001", "3081050101010101", "308201", "1f0101", "02810101", "0500ff",
        "300205", "30840000000102",
    ],
)  # fmt: skip
def test_no_der(raw: str) -> None:
    with pytest.raises(DerError):
        der.parse(bytes.fromhex(raw), der.SEQUENCE)


def test_der_values() -> None:
    assert der.oid(der.parse(bytes.fromhex("06092a864886f70d010702"), der.OID)) == "1.2.840.113549.1.7.2"
    assert der.oid(der.parse(bytes.fromhex("0603883703"), der.OID)) == "2.999.3"
    assert [der.integer(der.parse(bytes.fromhex(one), der.INTEGER)) for one in ("020100", "0201ff", "02020080")] == [
        0, -1, 128,
    ]  # fmt: skip
    for bad in ("0200", "02020001", "0202ff80"):
        with pytest.raises(DerError):
            der.integer(der.parse(bytes.fromhex(bad), der.INTEGER))
    for bad in ("0600", "06012a80", "06028001", "060180"):
        with pytest.raises(DerError):
            der.oid(der.parse(bytes.fromhex(bad), der.OID))


@settings(max_examples=500, deadline=1000)
@given(st.integers(0, len(ATTRIBUTES)), st.binary(max_size=40), st.integers(0, 40))
def test_garbage(offset: int, content: bytes, dropped: int) -> None:
    judge(ATTRIBUTES[:offset] + content + ATTRIBUTES[offset + dropped :], [ANCHOR])


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    (directory / "content").write_bytes(CONTENT)
    for name, kind in (("rsa", "rsa:2048"), ("short", "rsa:1024")):
        openssl(directory, "req", "-x509", "-newkey", kind, "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt",
                "-days", "3650", "-subj", f"/CN={name}")  # fmt: skip
    (directory / "ec.crt").write_bytes(TESTER.pem)
    (directory / "ec.key").write_bytes(
        TESTER.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return directory


SMIME = ["smime", "-sign", "-binary"]
CMS = ["cms", "-sign", "-binary"]
RSA = ["-signer", "rsa.crt", "-inkey", "rsa.key"]


@needs_openssl
@pytest.mark.parametrize(
    ("who", "command", "code"),
    [
        ("rsa", SMIME, None),
        ("rsa", [*SMIME, "-noattr"], None),
        ("rsa", [*SMIME, "-nocerts", "-md", "sha512"], None),
        ("rsa", [*CMS, "-keyid"], Code.SIGNATURE_MALFORMED),
        ("rsa", [*CMS, "-md", "sha384", "-nosmimecap"], None),
        ("rsa", [*CMS, *RSA, "-keyopt", "rsa_padding_mode:pss"], Code.SIGNATURE_ALGORITHM),
        ("ec", SMIME, None),
        ("ec", [*CMS, "-noattr", "-md", "sha512"], None),
        ("rsa", [*CMS, "-signer", "ec.crt", "-inkey", "ec.key"], None),
        ("rsa", [*CMS, "-stream"], Code.SIGNATURE_MALFORMED),
        ("rsa", [*SMIME, "-nodetach"], Code.SIGNATURE_MALFORMED),
        ("rsa", [*CMS, "-md", "sha1"], Code.SIGNATURE_ALGORITHM),
        ("rsa", [*CMS, "-md", "md5"], Code.SIGNATURE_ALGORITHM),
        ("short", SMIME, Code.SIGNATURE_ALGORITHM),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_openssl(keys: Path, who: str, command: list[str], code: Code | None) -> None:
    signer = [] if "-keyopt" in command else ["-signer", f"{who}.crt", "-inkey", f"{who}.key"]
    openssl(keys, *command, *signer, "-in", "content", "-outform", "DER", "-out", "out")
    raw = (keys / "out").read_bytes()
    anchors = trust.load([str(keys / f"{name}.crt") for name in ("rsa", "ec", "short")])
    now = datetime.datetime.now(datetime.UTC)
    try:
        verdicts, findings = signature.verify(signature.parse(raw), CONTENT, anchors, now)
    except DerError:
        assert code is Code.SIGNATURE_MALFORMED
        return
    except AlgorithmError:
        assert code is Code.SIGNATURE_ALGORITHM
        return
    assert [one.code for one in findings] == ([code] if code else [])
    assert all(one.trusted for one in verdicts)
    if code is None:
        again, wrong = signature.verify(signature.parse(raw), CONTENT[::-1], anchors, now)
        assert {one.code for one in wrong} == {Code.SIGNATURE_INVALID}
        assert not any(one.valid for one in again)


def test_trust_files(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"some words\n" + TESTER.pem + ddi.identity("other", 2).pem)
    assert [one.subject for one in trust.load([str(bundle)])] == ["CN=tester", "CN=other"]
    (tmp_path / "der").write_bytes(TESTER.der)
    (anchor,) = trust.load([str(tmp_path / "der")])
    assert anchor == ANCHOR._replace(origin=str(tmp_path / "der"), public_key=anchor.public_key)
    assert (anchor.not_before.year, anchor.not_after.year, anchor.serial) == (2020, 2040, 1)
    block = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for content in (b"", b"nothing", block, block.replace(b"AAAA", b"AAA"), TESTER.der[:-1]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ConfextError):
            trust.load([str(tmp_path / "bad")])
    with pytest.raises(FileNotFoundError):
        trust.load([str(tmp_path / "gone")])


def test_trust_directories(tmp_path: Path) -> None:
    """As systemd reads them: *.crt, the first of a name wins, one certificate of each file, a mask hides."""
    for directory, name, content in (
        ("etc", "a.crt", TESTER.pem + ddi.identity("second", 3).pem),
        ("run", "a.crt", ddi.identity("hidden", 4).pem),
        ("usr/lib", "b.crt", ddi.identity("vendor", 5).pem),
        ("usr/lib", "masked.crt", ddi.identity("masked", 6).pem),
        ("usr/lib", "c.pem", ddi.identity("no suffix", 7).pem),
        ("usr/local/lib", "bad.crt", b"nothing"),
    ):
        (tmp_path / directory / "verity.d").mkdir(parents=True, exist_ok=True)
        (tmp_path / directory / "verity.d" / name).write_bytes(content)
    (tmp_path / "etc/verity.d/masked.crt").symlink_to("/dev/null")
    assert [one.subject for one in trust.load([], str(tmp_path))] == ["CN=tester", "CN=vendor"]
    assert [one.subject for one in trust.load([str(tmp_path / "run/verity.d")])] == ["CN=hidden"]
    assert trust.load([], str(tmp_path / "nowhere")) == []


def test_trust_directories_in_detail(tmp_path: Path) -> None:
    """conf_files_list_nulstr(): what is no regular file hides nothing, what cannot be resolved neither; PEM only."""
    for directory in ("etc", "run", "usr/lib"):
        (tmp_path / directory / "verity.d").mkdir(parents=True)
    vendor, etc = tmp_path / "usr/lib/verity.d", tmp_path / "etc/verity.d"
    for number, name in enumerate(("a", "b", "c", "d", "e", "f", "Z", "g"), 10):
        (vendor / f"{name}.crt").write_bytes(ddi.identity(name, number).pem)
    (etc / "a.crt").mkdir()
    os.mkfifo(etc / "b.crt")
    (etc / "c.crt").symlink_to("nowhere")
    (etc / "d.crt").symlink_to("d.crt")
    (etc / "e.crt").write_bytes(b"")
    (etc / "f.crt").write_bytes(TESTER.der)
    # A link is one within that root, and leads to the same file in there.
    (etc / "g.crt").symlink_to("/usr/lib/verity.d/Z.crt")
    (etc / "h.crt").write_bytes(TESTER.pem[:-60])
    (etc / ".i.crt").write_bytes(TESTER.pem)
    found = trust.load([], str(tmp_path))
    # What is DER is none, but hides one.
    assert [one.subject for one in found] == ["CN=Z", "CN=a", "CN=b", "CN=c", "CN=d", "CN=Z", ""]
    assert (found[-1].origin, bool(found[-1].problem)) == (str(etc / "h.crt"), True)
    # Sorted as bytes are, so that what is in front of the signer's is known.
    raw = ddi.sign(CONTENT, ddi.identity("c", 12))
    assert judge(raw, found) == []
    assert judge(raw, found[::-1]) == [Code.SIGNATURE_ANCHOR]
    assert judge(PLAIN, found) == [Code.SIGNATURE_ANCHOR]


def test_key_of_a_kind_that_may_not_sign() -> None:
    """A curve that the kernel does not know."""
    key = ec.derive_private_key(7, ec.SECP256K1())
    name = TESTER.certificate.subject
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    dates = builder.not_valid_before(datetime.datetime(2020, 1, 1)).not_valid_after(datetime.datetime(2040, 1, 1))
    certificate = dates.sign(key, hashes.SHA256())
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
    signer = pkcs7.PKCS7SignatureBuilder().set_data(CONTENT).add_signer(certificate, key, hashes.SHA256())
    raw = signer.sign(serialization.Encoding.DER, options)
    anchor = certificates.parse(certificate.public_bytes(serialization.Encoding.DER))
    assert judge(raw, [anchor]) == [Code.SIGNATURE_ALGORITHM]
