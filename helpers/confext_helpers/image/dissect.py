# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the parts of an image: the partition that systemd would mount, its protection, and the source of its root hash.

This follows dissect_image() in systemd's dissect-image.c, as called for ExtensionImages=. Nothing is verified here.
Much that systemd would accept is refused, since all tools have to agree about the contents of an image.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from confext_generator import vercmp
from confext_helpers.image import bytesource, filesystems, gpt, partitiontypes, sidecars, signedhash
from confext_helpers.image import policy as policies
from confext_helpers.image.bytesource import ShortReadError, Source
from confext_helpers.image.filesystems import FileSystem, Kind
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.gpt import Partition, Table
from confext_helpers.image.partitiontypes import Designator
from confext_helpers.image.policy import Flag, Policy
from confext_helpers.image.sidecars import Sidecars

# systemd refuses a larger signature partition, too.
_SIGNATURE_PARTITION_MAX = 4 << 20
# The label of partitions that systemd-sysupdate(8) may write the next version into.
_EMPTY = "_empty"


@dataclass(slots=True)
class Image:
    """An image and its parts.

    Attributes:
        path: the path, as given by the caller.
        source: the whole image.
        sidecars: the files beside the image.
        table: the partition table, if there is one.
        chosen: the partitions that systemd would use.
        ignored: partitions that exist, but are unused because of the policy.
        file_system: the file system of the root partition or of the whole image.
        data: the root partition or the whole image; None if there is no root partition.
        tree: the hash tree, with the superblock in front; None if there is none.
        root_hash: the stated or signed root hash; None if there is none.
        root_hash_origin: the source of the root hash: "attribute", "sidecar", "signature" or "partition UUIDs".
        signature: a PKCS#7 signature of the root hash; None if there is none.
        fingerprint: SHA-256 of the signer's certificate, from the signature partition; empty if not stated there.
        findings: the problems found.
    """

    path: str
    source: Source
    sidecars: Sidecars = sidecars.NO_SIDECARS
    table: Table | None = None
    chosen: dict[Designator, Partition] = field(default_factory=dict)
    ignored: set[Designator] = field(default_factory=set)
    file_system: FileSystem | None = None
    data: Source | None = None
    tree: Source | None = None
    root_hash: bytes | None = None
    root_hash_origin: str = ""
    signature: bytes | None = None
    fingerprint: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def sector_size(self) -> int:
        """The sector size of the loop device that systemd would set up for the image, in bytes."""
        return self.table.sector_size if self.table is not None else 512

    def say(self, code: Code, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(code, message))

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.source.fd)
        if self.sidecars.tree is not None:
            os.close(self.sidecars.tree.fd)


@contextlib.contextmanager
def open_image(path: str, policy: Policy, native: str) -> Iterator[Image]:
    """Open an image and find its parts.

    Args:
        path: the path of the image.
        policy: the image policy, which says which partitions may be used.
        native: the architecture of the target machine, in systemd's spelling.

    Raises:
        ConfextError: `path` is neither a file nor a block device.
        OSError: `path` cannot be opened.
    """
    image = Image(path, bytesource.open_source(path))
    try:
        image.sidecars = sidecars.load(path, image.source)
        image.findings += image.sidecars.findings
        image.table, findings = gpt.read(image.source)
        image.findings += findings
        systems = filesystems.probe(image.source)
        if image.table is not None:
            if systems:
                image.say(Code.AMBIGUOUS, f"there are a partition table and a superblock of {systems[0].kind}")
            _choose(image, policy, native)
            _take_partitions(image)
        elif not findings:
            _take_whole(image, systems)
        _look_into(image)
        yield image
    finally:
        image.close()


def _take_whole(image: Image, systems: list[FileSystem]) -> None:
    """Use the whole image as the root file system: the image has no partition table."""
    if not systems:
        image.say(Code.FORMAT, "there is neither a partition table nor a file system that is known")
        return
    image.data = image.source
    image.tree = image.sidecars.tree
    image.root_hash, image.root_hash_origin = image.sidecars.root_hash, image.sidecars.origin
    image.signature = image.sidecars.signature
    if (image.tree is None) != (image.root_hash is None):
        there, missing = ("a hash tree", "no root hash") if image.tree else ("a root hash", "no hash tree")
        image.say(Code.SIDECAR, f"there is {there} for the image, but {missing}")


def _choose(image: Image, policy: Policy, native: str) -> None:
    """Choose the partitions that systemd would use; add a finding if the choice depends on systemd's version."""
    assert image.table is not None
    chosen, findings = _pick(image, image.table.partitions, policy, native)
    used = [one for one in image.table.partitions if one.label != _EMPTY]
    if len(used) < len(image.table.partitions) and _pick(image, used, policy, native)[0] != chosen:
        what = f"a partition is called {_EMPTY}, which systemd ignores since 262, and does not before"
        findings.append(Finding(Code.PARTITIONS, what))
    image.chosen = chosen
    image.findings += findings


def _pick(
    image: Image, partitions: Sequence[Partition], policy: Policy, native: str
) -> tuple[dict[Designator, Partition], list[Finding]]:
    """Pick one partition per designator: of the best architecture, then with the newest version in its label."""
    chosen: dict[Designator, Partition] = {}
    findings = []
    root_hash = image.sidecars.root_hash
    for partition in partitions:
        kind = partition.type
        if kind is None or kind.designator is None:
            continue
        designator = kind.designator
        skip = gpt.FLAG_NO_BLOCK_IO_PROTOCOL if designator is Designator.ESP else gpt.FLAG_NO_AUTO
        if partition.flags & skip:
            continue
        if root_hash is not None:
            half = {Designator.ROOT: root_hash[:16], Designator.ROOT_VERITY: root_hash[-16:]}.get(designator)
            if half is not None and half.hex() != partition.uuid.replace("-", ""):
                continue
        allowed = policies.may_use(policy, designator)
        if allowed is None:
            what = f"partition {partition.number} is {designator}, which must not be there"
            findings.append(Finding(Code.POLICY, what))
            continue
        if not allowed:
            image.ignored.add(designator)
            continue
        other = chosen.get(designator)
        if other is not None and other.type is not None:
            better = partitiontypes.better_architecture(kind.architecture, other.type.architecture, native)
            if better == 0 and designator.versioned:
                better = vercmp.compare(partition.label.encode(), other.label.encode())
            if better <= 0:
                continue
        chosen[designator] = partition
    return chosen, findings


def _take_partitions(image: Image) -> None:
    """Check that the chosen partitions fit together, and take data, hash tree and signature from them."""
    chosen = image.chosen
    root, verity = chosen.get(Designator.ROOT), chosen.get(Designator.ROOT_VERITY)
    signature = chosen.get(Designator.ROOT_VERITY_SIG)
    if root is None:
        image.say(Code.PARTITIONS, "there is no root partition that may be used")
    if image.sidecars.tree is not None:
        image.say(Code.SIDECAR, "there is a hash tree beside an image that has a partition table")
    if verity is None and (signature is not None or image.sidecars.root_hash is not None):
        image.say(Code.PARTITIONS, "there is no hash partition for the root hash")
    for designator, partition in chosen.items():
        if designator not in (Designator.ROOT, Designator.ROOT_VERITY, Designator.ROOT_VERITY_SIG):
            what = f"partition {partition.number} ({designator}) would be used as well, and nothing checks it"
            image.say(Code.PARTITIONS, what)
    architectures = {p.type.architecture for p in (root, verity, signature) if p is not None and p.type is not None}
    if len(architectures) > 1:
        image.say(Code.PARTITIONS, "data, hash tree and signature are for different architectures")
    image.data = _part(image, root)
    image.tree = _part(image, verity)
    image.root_hash, image.root_hash_origin = image.sidecars.root_hash, image.sidecars.origin
    image.signature = image.sidecars.signature if image.root_hash is not None else None
    if signature is not None and image.signature is None:
        _take_signature(image, signature)
    if image.root_hash is None and root is not None and verity is not None:
        image.root_hash = bytes.fromhex((root.uuid + verity.uuid).replace("-", ""))
        image.root_hash_origin = "partition UUIDs"


def _part(image: Image, partition: Partition | None) -> Source | None:
    return None if partition is None else image.source.part(partition.offset, partition.size)


def _take_signature(image: Image, partition: Partition) -> None:
    """Read the signature partition, like dissected_image_load_verity_sig_partition()."""
    if partition.size > _SIGNATURE_PARTITION_MAX:
        image.say(Code.SIGNATURE_MALFORMED, f"the signature partition has {partition.size} bytes")
        return
    try:
        raw = b"".join(
            image.source.read(partition.offset + start, min(bytesource.READ_MAX, partition.size - start))
            for start in range(0, partition.size, bytesource.READ_MAX)
        )
    except ShortReadError as error:
        image.say(Code.UNREADABLE, f"the signature partition: {error}")
        return
    text, _, rest = raw.partition(b"\0")
    if rest.strip(b"\0"):
        image.say(Code.SIGNATURE_MALFORMED, "there is something behind the text in the signature partition")
        return
    try:
        said = signedhash.parse(text)
    except ValueError as error:
        what = f"the signature partition is no JSON object with rootHash and signature, as systemd reads it: {error}"
        image.say(Code.SIGNATURE_MALFORMED, what)
        return
    root_hash, image.signature, image.fingerprint = said
    if image.root_hash is not None and image.root_hash != root_hash:
        image.say(
            Code.VERITY_ROOT, f"the stated root hash is {image.root_hash.hex()}, the signed one is {root_hash.hex()}"
        )
    image.root_hash, image.root_hash_origin = root_hash, "signature"


def _look_into(image: Image) -> None:
    """Find out the type of the root file system, and whether the file system fits into its partition."""
    if image.data is None:
        return
    systems = filesystems.probe(image.data)
    if len(systems) > 1:
        image.say(Code.AMBIGUOUS, f"there are superblocks of {' and '.join(one.kind for one in systems)}")
    if not systems:
        image.say(Code.FORMAT, "the root partition has no file system that is known")
        return
    image.file_system = systems[0]
    if image.file_system.kind is Kind.LUKS:
        image.say(Code.ENCRYPTED, "the file system is encrypted")
    elif image.file_system.kind not in filesystems.MOUNTABLE:
        image.say(Code.FORMAT, f"systemd does not mount {image.file_system.kind}")
    if image.file_system.size > image.data.size:
        what = f"the file system takes {image.file_system.size} bytes, there are {image.data.size}"
        image.say(Code.SIZE, what)


def parts(image: Image, protection: Flag) -> dict[Designator, policies.Part]:
    """The state of each partition, for policy.judge().

    Args:
        image: the image.
        protection: the verified protection of its root: SIGNED, VERITY, ENCRYPTED or UNPROTECTED.
    """
    found = {}
    # For an image without partitions, systemd applies the policy to the root only.
    for designator in Designator if image.table is not None else (Designator.ROOT,):
        partition = image.chosen.get(designator)
        root = designator is Designator.ROOT and image.data is not None
        if partition is None and not root:
            found[designator] = policies.Part(Flag.UNUSED if designator in image.ignored else Flag.ABSENT)
            continue
        kind = image.file_system.kind if root and image.file_system is not None else ""
        if partition is not None and not root and designator.data is None:
            systems = filesystems.probe(image.source.part(partition.offset, partition.size))
            kind = systems[0].kind if systems else ""
        locked = Flag.ENCRYPTED if kind == Kind.LUKS else Flag.UNPROTECTED
        flags = partition.flags if partition is not None else 0
        found[designator] = policies.Part(protection if root else locked, flags, kind)
    return found
