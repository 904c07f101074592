# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images to verify, made of nothing but bytes: no tool, no rights, the same every time but for the signatures.

What they are made by is written a second time here on purpose, from the specifications and not with the code that is
tested: a hash tree that is computed level by level in memory, a partition table packed field by field. The signatures
are those of `cryptography`.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
SECTOR = 512
ENTRIES = 128
NATIVE = "x86-64"
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
ROOT_VERITY_SIG = "41092b05-9fc8-4523-994f-2def0408b176"
HOME = "933ac7e1-2eb4-4f13-b844-0e14e2aef915"
READ_ONLY = 1 << 60

# `mksquashfs` of /etc/extension-release.d/extension-release.demo ("ID=_any") and /etc/demo/a, without its padding.
_SQUASHFS = (
    "c-qS-E-YqafB_~3Mj*+^Ajsgr#K^z`WG{fq=rclSbtwHG3UZ+GTcNZhntXm<Dwn5=ZG2*0C6_xx#jWI|h(jkBSkLgRXkhJ-l)QK7"
    ">C6ckoEv01dM}*sS~i{8*PeS)T`XJRhPsqWH<i*fo^L!k8J}`I-c3o;NJ?P8#1OuPZD|0=po9j7G>x+?M>+${n6(A08(3W>gS5SZ"
    "K6e>^{#?=>R2(GS9sD&YsQ9zw#4VZ(hRPQdCR8v5v`lp5n5{SCp~70;gjt=6TU8_(cBP8^7idU;dVq%k90m;RP>--QfJj9~02ioO"
    "Lj"
)


@functools.cache
def squashfs(size: int = 16384) -> bytes:
    """A file system with a release file for the name "demo", followed by zeros."""
    return zlib.decompress(base64.b85decode(_SQUASHFS)).ljust(size, b"\0")


class Identity(NamedTuple):
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@functools.cache
def identity(name: str, secret: int = 1, *, serial: int = 1, years: tuple[int, int] = (2020, 2040)) -> Identity:
    """A self-signed certificate for the key with this number."""
    key = ec.derive_private_key(secret, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.datetime(years[0], 1, 1))
        .not_valid_after(datetime.datetime(years[1], 1, 1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Identity(key, builder.sign(key, hashes.SHA256()))


def sign(content: bytes, who: Identity, *options: pkcs7.PKCS7Options) -> bytes:
    """A detached PKCS#7 signature in DER."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content).add_signer(who.certificate, who.key, hashes.SHA256())
    all_options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary, *options]
    return builder.sign(serialization.Encoding.DER, all_options)


def hash_tree(
    data: bytes, *, block: int = 512, hash_block: int = 512, salt: bytes = b"salt", algorithm: str = "sha256"
) -> tuple[bytes, bytes]:
    """Superblock and hash tree of `data`, and the root hash."""

    def digest(content: bytes) -> bytes:
        return hashlib.new(algorithm, salt + content).digest()

    size = hashlib.new(algorithm).digest_size
    slot = 1 << (size - 1).bit_length()
    level = [digest(data[start : start + block]) for start in range(0, len(data), block)]
    count = len(level)
    levels = []
    while len(level) > 1:
        fan_out = hash_block // slot
        blocks = [
            b"".join(one.ljust(slot, b"\0") for one in level[start : start + fan_out]).ljust(hash_block, b"\0")
            for start in range(0, len(level), fan_out)
        ]
        levels.append(b"".join(blocks))
        level = [digest(one) for one in blocks]
    head = struct.pack(
        "<8sII16s32sIIQH6s256s", b"verity\0\0", 1, 1, bytes(range(16)), algorithm.encode(), block, hash_block, count,
        len(salt), b"", salt,
    )  # fmt: skip
    return head.ljust(max(512, hash_block), b"\0") + b"".join(reversed(levels)), level[0]


class Entry(NamedTuple):
    """A partition to be."""

    type: str
    uuid: str
    label: str
    content: bytes
    flags: int = 0


def seal(raw: bytes, *, sector: int = SECTOR) -> bytes:
    """The same image with the checksums that its partition tables need, as far as they can be found in it."""
    image = bytearray(raw)
    for header in (sector, len(image) - sector):
        if header < 0 or header + 92 > len(image) or image[header : header + 8] != b"EFI PART":
            continue
        entries, count, size = struct.unpack_from("<QII", image, header + 72)
        start, length = entries * sector, count * size
        if size == 128 and count <= 4096 and start + length <= len(image):
            struct.pack_into("<I", image, header + 88, zlib.crc32(image[start : start + length]))
        (header_size,) = struct.unpack_from("<I", image, header + 12)
        if 92 <= header_size <= sector:
            struct.pack_into("<I", image, header + 16, 0)
            struct.pack_into("<I", image, header + 16, zlib.crc32(image[header : header + header_size]))
    return bytes(image)


class Ddi(NamedTuple):
    """An image with partitions.

    Attributes:
        raw: all of it.
        places: offset and size in bytes of its parts, by name.
        root_hash: of its hash tree.
    """

    raw: bytes
    places: Mapping[str, tuple[int, int]]
    root_hash: bytes


def partitioned(entries: Sequence[Entry], *, sector: int = SECTOR) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """An image with these partitions, and where they are."""
    table_sectors = ENTRIES * 128 // sector
    first = 2 + table_sectors
    table, body, places = b"", b"", {}
    position = first
    for entry in entries:
        sectors = -(-len(entry.content) // sector)
        table += struct.pack(
            "<16s16sQQQ72s", uuid.UUID(entry.type).bytes_le, uuid.UUID(entry.uuid).bytes_le, position,
            position + sectors - 1, entry.flags, entry.label.encode("utf-16-le"),
        )  # fmt: skip
        places[entry.label] = (position * sector, len(entry.content))
        body += entry.content.ljust(sectors * sector, b"\0")
        position += sectors
    table = table.ljust(ENTRIES * 128, b"\0")
    last = position + table_sectors

    def header(own: int, other: int, at: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, own, other, first, position - 1, bytes(range(16)), at,
            ENTRIES, 128, 0,
        ).ljust(sector, b"\0")  # fmt: skip

    mbr = bytes(446) + struct.pack("<4sB3sII", b"\0\0\2\0", 0xEE, b"\xff\xff\xff", 1, last) + bytes(48) + b"\x55\xaa"
    raw = mbr.ljust(sector, b"\0") + header(1, last, 2) + table + body + table + header(last, 1, position)
    places |= {"mbr": (0, 512), "header": (sector, 92), "entries": (2 * sector, 128 * len(entries))}
    places |= {"backup header": (last * sector, 92), "backup entries": (position * sector, 128 * len(entries))}
    return seal(raw, sector=sector), places


def signature_partition(root_hash: bytes, who: Identity, *options: pkcs7.PKCS7Options) -> bytes:
    """What systemd-repart writes into a signature partition."""
    text = json.dumps({
        "rootHash": root_hash.hex(),
        "certificateFingerprint": who.certificate.fingerprint(hashes.SHA256()).hex(),
        "signature": base64.b64encode(sign(root_hash.hex().encode(), who, *options)).decode(),
    })  # fmt: skip
    return text.encode().ljust(4096, b"\0")


def image(
    who: Identity | None = None, *, data: bytes | None = None, sector: int = SECTOR, verity: bool = True,
    signature: bytes | None = None, more: Sequence[Entry] = (),
) -> Ddi:  # fmt: skip
    """An image with a root partition, its hash tree if `verity`, and a signature of `who` if there is one."""
    data = squashfs() if data is None else data
    tree, root_hash = hash_tree(data, block=sector, hash_block=sector, salt=b"\1" * 32)
    first, second = str(uuid.UUID(bytes=root_hash[:16])), str(uuid.UUID(bytes=root_hash[-16:]))
    entries = [Entry(ROOT, first, "data", data, READ_ONLY)]
    if verity:
        entries.append(Entry(ROOT_VERITY, second, "tree", tree, READ_ONLY))
    if who is not None:
        signature = signature_partition(root_hash, who, pkcs7.PKCS7Options.NoAttributes)
    if signature is not None:
        entries.append(Entry(ROOT_VERITY_SIG, str(uuid.UUID(int=7)), "signature", signature, READ_ONLY))
    raw, places = partitioned([*entries, *more], sector=sector)
    if signature is not None:
        places["signature text"] = (places["signature"][0], len(signature.rstrip(b"\0")))
    return Ddi(raw, places, root_hash)
