# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signed images for the virtual machines: keys, images by `unit-confext build`, and what can be wrong with them."""

from __future__ import annotations

import base64
import datetime
import json
import random
import struct
import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fuzz import structures
from lab.vm import Vm

STORE = "/var/lib/confexts"
KEYS = "/var/lib/keys"
ANCHORS = "/etc/verity.d"
_BLOCK = 4096
_HASHES_PER_BLOCK = _BLOCK // 32
# So much that the hash tree has two levels: of one level, every block is read when the device is set up.
_FILLER_SIZE = 1536 * 1024
# UAPI.2 Discoverable Partitions Specification, of x86-64.
_ROOT = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
_ROOT_VERITY = uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
_ROOT_VERITY_SIG = uuid.UUID("41092b05-9fc8-4523-994f-2def0408b176")


class Key(StrEnum):
    """Who signs."""

    TRUSTED = "trusted"
    UNKNOWN = "unknown"  # no trust anchor
    EXPIRED = "expired"  # a trust anchor, but no longer valid


class Case(StrEnum):
    """What is wrong with an image."""

    DATA = "data"
    HASH_TREE = "hash-tree"
    ROOT_HASH = "root-hash"
    SIGNATURE = "signature"
    UNKNOWN_KEY = "unknown-key"
    EXPIRED = "expired"
    DISGUISED = "disguised"  # expired, with a byte behind the signature that is nothing to OpenSSL
    ATTRIBUTES = "attributes"  # garbage in attributes that are not signed, which OpenSSL parses nevertheless
    UNSIGNED = "unsigned"


class Partition(NamedTuple):
    """Where a partition is in an image, in bytes."""

    offset: int
    size: int


def make_keys(vm: Vm) -> None:
    """Put the keys and their certificates into the machine, and the trusted ones where systemd looks for them."""
    now = datetime.datetime.now(datetime.UTC)
    for who in Key:
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"unit-confext {who}")])
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=30))
        builder = builder.not_valid_after(now + datetime.timedelta(days=-1 if who is Key.EXPIRED else 365))
        certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        vm.write(f"{KEYS}/{who}.key", key.private_bytes(*form), 0o600)
        vm.write(f"{KEYS}/{who}.crt", certificate)
        if who is not Key.UNKNOWN:
            vm.write(f"{ANCHORS}/{who}.crt", certificate)


def build(vm: Vm, path: str, version: str, key: Key | None = Key.TRUSTED) -> Path:
    """Build an image with `unit-confext build`, outside of the guest but with its tools; return its outside path.

    Args:
        vm: the machine, not booted yet.
        path: of the image in it.
        version: what `/etc/demo/version` says.
        key: who signs it.
    """
    tree = f"/var/tmp/tree-{version}"
    vm.write(f"{tree}/etc/demo/version", f"{version}\n")
    vm.write(f"{tree}/etc/demo/filler", random.Random(version).randbytes(_FILLER_SIZE))
    for directory in (tree, f"{tree}/etc", f"{tree}/etc/demo"):
        vm.path(directory).chmod(0o755)
    vm.path(path).parent.mkdir(parents=True, exist_ok=True)
    signature = ["--key", f"{KEYS}/{key}.key", "--certificate", f"{KEYS}/{key}.crt"] if key is not None else []
    vm.native("unit-confext", "build", "--force", "-o", path, *signature, tree)
    return vm.path(path)


# ---- What can be wrong ----


def partitions(image: bytes) -> dict[uuid.UUID, Partition]:
    """The partitions of a GPT with sectors of 512 bytes, by their type."""
    assert image[512:520] == b"EFI PART"
    (start,) = struct.unpack_from("<Q", image, 512 + 72)
    count, size = struct.unpack_from("<II", image, 512 + 80)
    found = {}
    for number in range(count):
        entry = image[start * 512 + number * size :][:48]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]):
            found[uuid.UUID(bytes_le=entry[:16])] = Partition(first * 512, (last - first + 1) * 512)
    return found


def root_hash(image: bytes) -> str:
    """The root hash that the identifiers of the partitions stand for, as systemd reads them."""
    (start,) = struct.unpack_from("<Q", image, 512 + 72)
    (size,) = struct.unpack_from("<I", image, 512 + 84)
    halves = {}
    for number in range(2):
        entry = image[start * 512 + number * size :][:32]
        halves[uuid.UUID(bytes_le=entry[:16])] = uuid.UUID(bytes_le=entry[16:32]).hex
    return halves[_ROOT] + halves[_ROOT_VERITY]


def _flip(image: bytes, offset: int) -> bytes:
    return image[:offset] + bytes([image[offset] ^ 1]) + image[offset + 1 :]


def _filler_block(image: bytes, version: str) -> int:
    """The number of a block of the file system that has nothing but the middle of the large file in it."""
    offset = image.index(random.Random(version).randbytes(_FILLER_SIZE)[_FILLER_SIZE // 2 :][:64])
    return (offset - partitions(image)[_ROOT].offset) // _BLOCK


def _flip_data(image: bytes, version: str) -> bytes:
    """One bit in the middle of a file."""
    return _flip(image, partitions(image)[_ROOT].offset + _filler_block(image, version) * _BLOCK + 7)


def _flip_hash_tree(image: bytes, version: str) -> bytes:
    """One bit in the hash of that block."""
    # In the hash partition are a superblock, the top of the tree, and its leaves.
    block = _filler_block(image, version)
    leaf = partitions(image)[_ROOT_VERITY].offset + 2 * _BLOCK + block // _HASHES_PER_BLOCK * _BLOCK
    return _flip(image, leaf + block % _HASHES_PER_BLOCK * 32)


def _flip_root_hash(image: bytes, version: str) -> bytes:
    """One bit of the root hash beside the signature."""
    return _change_signature(image, lambda said: said | {"rootHash": _other_digit(str(said["rootHash"]))})


def _flip_signature(image: bytes, version: str) -> bytes:
    """The last bit of the signature proper."""

    return _change_signature_bytes(image, lambda raw: _flip(raw, len(raw) - 1))


def _disguise(image: bytes, version: str) -> bytes:
    """A byte behind the signature."""
    return _change_signature_bytes(image, lambda raw: raw + b"\0")


def _add_attributes(image: bytes, version: str) -> bytes:
    """Attributes that are not signed, and are none."""

    def change(raw: bytes) -> bytes:
        (top,) = structures.parse(raw)
        signed_data = top.members[1].members[0]
        signed_data.members[-1].members[0].members.append(structures.Node(0xA1, b"garbage"))
        return top.encode()

    return _change_signature_bytes(image, change)


def _change_signature_bytes(image: bytes, change: Callable[[bytes], bytes]) -> bytes:
    def change_all(said: dict[str, object]) -> dict[str, object]:
        return said | {"signature": base64.b64encode(change(base64.b64decode(str(said["signature"])))).decode()}

    return _change_signature(image, change_all)


def _other_digit(digits: str) -> str:
    return ("1" if digits[0] == "0" else "0") + digits[1:]


def _change_signature(image: bytes, change: Callable[[dict[str, object]], dict[str, object]]) -> bytes:
    where = partitions(image)[_ROOT_VERITY_SIG]
    said = json.loads(image[where.offset : where.offset + where.size].rstrip(b"\0"))
    changed = json.dumps(change(said), separators=(",", ":")).encode()
    return image[: where.offset] + changed.ljust(where.size, b"\0") + image[where.offset + where.size :]


FLIPS: dict[Case, Callable[[bytes, str], bytes]] = {
    Case.DATA: _flip_data,
    Case.HASH_TREE: _flip_hash_tree,
    Case.ROOT_HASH: _flip_root_hash,
    Case.SIGNATURE: _flip_signature,
    Case.DISGUISED: _disguise,
    Case.ATTRIBUTES: _add_attributes,
}
