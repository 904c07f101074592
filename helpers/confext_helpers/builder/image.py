# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build a confext from a directory tree: a signed DDI, a plain file system, or a directory.

systemd-repart and the mkfs tools write the file formats. This module passes them a tree that is the same on every
machine (sourcetree.py), a seed derived from its contents, and a single timestamp. So the same tree always becomes the
same bytes, and a changed tree gets another root hash.

The timestamp is derived from the contents, too. cron(8) reloads a table when its mtime changes, nginx a certificate
when inode number or mtime change, and the inode numbers in an image follow from its layout: with a fixed timestamp, or
one derived from anything else, these programs would miss changes. All files share the timestamp, so that no file looks
older than a file it was made from. The timestamp is long past, since programs consider future timestamps a mistake.

The result is written to a hidden directory and renamed into place (delivery.py), since a reload may read a
`.confext.d/` at any moment. Until then only the user who builds can read the result and the copy of the tree, which may
contain private keys. Building does not require root, except for the owners of the files in a directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from confext_helpers.builder import delivery, sourcetree
from confext_helpers.builder.sourcetree import Allow, Scan
from confext_helpers.errors import ConfextError
from confext_helpers.image import releasefile
from confext_helpers.system import programs

REPART_VERSION_MIN = 255
_TOOL_TIMEOUT_SEC = 900.0
_EROFS_OPTIONS = ("--all-root", "-x-1")
_SEC_NS = 1_000_000_000
# The range of timestamps derived from the contents: 2001-09-09 to 2017-07-14.
_FIRST_SEC = 1_000_000_000
_SPAN_SEC = 500_000_000


class Format(StrEnum):
    """The formats that can be built."""

    DDI = "ddi"
    EROFS = "erofs"
    SQUASHFS = "squashfs"
    DIRECTORY = "directory"


class Times(StrEnum):
    """The timestamps of the files in an image: one derived from the contents, or those of the tree."""

    CONTENT = "content"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to build a confext.

    Attributes:
        tree: the directory that contains `etc/`.
        output: the path of the result; its name is the name of the confext.
        format: see Format.
        key: the path of a private key in PEM for signing a DDI, or None.
        certificate: the path of the certificate that belongs to the key, or None.
        os_release: the path of the target system's os-release file, or None.
        release: fields of the release file, as `NAME=VALUE`.
        allow: kinds of offences to accept.
        architecture: the architecture of a DDI, as in systemd.unit(5), ConditionArchitecture=; None for this machine's.
        force: whether to replace an existing image.
        mode: the mode of the image file; None for 0600 if a file in the tree is private, else for 0666 less the umask.
        times: see Times.
    """

    tree: str
    output: str
    format: Format = Format.DDI
    key: str | None = None
    certificate: str | None = None
    os_release: str | None = None
    release: Sequence[str] = ()
    allow: Collection[Allow] = ()
    architecture: str | None = None
    force: bool = False
    mode: int | None = None
    times: Times = Times.CONTENT


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request; nothing is built yet.

    Attributes:
        request: the request.
        scan: the tree, and the offences in it.
        name: the name of the confext.
        release_file: the path of the release file in the tree.
        release: the contents of the release file to add; None if the tree has a release file.
    """

    request: Request
    scan: Scan
    name: str
    release_file: str
    release: str | None


@dataclass(frozen=True, slots=True)
class Built:
    """The result of a build.

    Attributes:
        path: the path of the confext.
        size: the size of the image in bytes; 0 for a directory.
        root_hash: the dm-verity root hash in hexadecimal; empty if there is none.
        mode: the mode of the image file; 0755 for a directory.
        time_sec: the timestamp of all files in it, or the newest of them, in seconds since 1970.
    """

    path: str
    size: int
    root_hash: str
    mode: int
    time_sec: int


def plan(request: Request) -> Plan:
    """Check a request before anything is built.

    Raises:
        ConfextError: the request cannot be carried out. Offences in the tree are not raised; they are in Plan.scan.
        OSError: a file cannot be read.
    """
    name = releasefile.name_of(request.output, image=request.format is not Format.DIRECTORY)
    if os.path.lexists(request.output):
        if request.format is Format.DIRECTORY:
            hint = "choose another name with -o, or remove it first: a directory is not replaced atomically"
            raise ConfextError("the output is there already", path=request.output, hint=hint)
        if not request.force:
            raise ConfextError("the output is there already", path=request.output, hint="replace it with --force")
        if not os.path.isfile(request.output):
            raise ConfextError("the output is no file", path=request.output, hint="choose another name with -o")
    if request.format is Format.DIRECTORY and request.mode is not None:
        raise ConfextError("a directory has the modes of the tree", path=request.output, hint="leave out --mode=")
    if not os.path.isdir(_directory_of(request.output)):
        raise ConfextError("no such directory", path=_directory_of(request.output), hint="make it first")
    _check_signing(request)
    _check_tools(request)
    _given_time_sec()
    scan = sourcetree.scan(request.tree, request.allow)
    there = releasefile.existing(request.tree, name)
    if there is None:
        content = releasefile.compose(request.os_release, request.release)
        return Plan(request, scan, name, releasefile.path_of(name), content)
    if request.os_release is not None or request.release:
        hint = "remove it, or leave out --os-release and --release"
        raise ConfextError("the tree has a release file of its own", path=f"{request.tree}/{there}", hint=hint)
    return Plan(request, scan, name, there, None)


def build(planned: Plan) -> Built:
    """Build the confext and put it in place.

    Raises:
        ConfextError: the tree has offences, or a tool failed.
        OSError: a file cannot be read or written.
    """
    request = planned.request
    if planned.scan.offences:
        problem = f"there are {len(planned.scan.offences)} things in the tree that cannot be part of a confext"
        raise ConfextError(problem, path=request.tree, hint="see --dry-run")
    place = delivery.place(_directory_of(request.output), anywhere=request.format is not Format.DIRECTORY)
    # The temporary directory has mode 0700, so nobody else reaches the files in it, whatever their modes.
    with tempfile.TemporaryDirectory(prefix=".unit-confext-build-", dir=place) as scratch:
        tree = os.path.join(scratch, "tree")
        own_times = sourcetree.copy(request.tree, tree)
        private = bool(planned.scan.private or sourcetree.private_files(tree))
        if planned.release is not None:
            _add_release(tree, planned.release_file, planned.release)
        digest = sourcetree.digest(tree)
        if request.times is Times.KEEP:
            own_times = _clamped(own_times)
            time_ns = max(own_times.values())
        else:
            own_times = {}
            time_ns = _time_sec(digest) * _SEC_NS
        sourcetree.stamp(tree, time_ns, own_times)
        time_sec = -(-time_ns // _SEC_NS)
        if request.format is Format.DIRECTORY:
            os.rename(tree, request.output)
            return Built(request.output, 0, "", 0o755, time_sec)
        image = os.path.join(scratch, "image.raw")
        root_hash = _make(request, tree, image, digest, time_sec)
        mode = image_mode(private) if request.mode is None else request.mode
        size = delivery.deliver(image, request.output, mode, force=request.force)
    return Built(request.output, size, root_hash, mode, time_sec)


def image_mode(private: bool) -> int:
    """The default mode of an image.

    Args:
        private: whether a file in the image is not world-readable.
    """
    umask = os.umask(0o077)  # The umask can be read only by setting it.
    os.umask(umask)
    return 0o600 if private else 0o666 & ~umask


def _directory_of(output: str) -> str:
    return os.path.dirname(output.rstrip("/")) or "."


def _given_time_sec() -> int | None:
    """The time in $SOURCE_DATE_EPOCH (reproducible-builds.org), None if unset."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return None
    if not re.fullmatch("[0-9]{1,10}", given):
        raise ConfextError(f"$SOURCE_DATE_EPOCH is {given!r}", hint="set it to seconds since 1970, or unset it")
    return int(given)


def _time_sec(digest: bytes) -> int:
    """The timestamp of all files in an image: $SOURCE_DATE_EPOCH, or else derived from the digest of the contents."""
    given = _given_time_sec()
    return _FIRST_SEC + int.from_bytes(digest, "big") % _SPAN_SEC if given is None else given


def _clamped(times: Mapping[str, int]) -> dict[str, int]:
    """The given times, in nanoseconds, none of them later than $SOURCE_DATE_EPOCH."""
    given = _given_time_sec()
    return {path: time_ns if given is None else min(time_ns, given * _SEC_NS) for path, time_ns in times.items()}


def _add_release(tree: str, path: str, content: str) -> None:
    directory = os.path.join(tree, os.path.dirname(path))
    if not os.path.isdir(directory):
        os.mkdir(directory)
        os.chmod(directory, 0o755)
    with open(os.path.join(tree, path), "x", encoding="utf-8") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)


def _check_signing(request: Request) -> None:
    if (request.key is None) != (request.certificate is None):
        raise ConfextError("a signature needs both a key and its certificate", hint="give --key and --certificate")
    if request.key is None or request.certificate is None:
        return
    if request.format is not Format.DDI:
        hint = "leave out --key and --certificate, or build with --format=ddi"
        raise ConfextError(f"an image of the format {request.format} cannot carry a signature", hint=hint)
    from confext_helpers.builder import keypair

    keypair.check(request.key, request.certificate)


def _check_tools(request: Request) -> None:
    needed = {
        Format.DDI: (("systemd-repart", "systemd-repart"), ("mkfs.erofs", "erofs-utils")),
        Format.EROFS: (("mkfs.erofs", "erofs-utils"),),
        Format.SQUASHFS: (("mksquashfs", "squashfs-tools"),),
        Format.DIRECTORY: (),
    }
    for program, package in needed[request.format]:
        if shutil.which(program) is None:
            hint = f"install the package {package}"
            if program == "systemd-repart":
                hint += " (255 or newer), or build without a signature: --format=erofs"
            raise ConfextError(f"{program} is not installed", hint=hint)
    if request.format is not Format.DDI:
        return
    said = programs.complete("systemd-repart", "--version", timeout_sec=10).stdout
    found = re.match(r"systemd (\d+)", said)
    if found is None or int(found[1]) < REPART_VERSION_MIN:
        version = found[1] if found else "unknown"
        hint = f"build where systemd is {REPART_VERSION_MIN} or newer, or without a signature: --format=erofs"
        raise ConfextError(f"systemd-repart {version} cannot make a confext DDI", hint=hint)


def _make(request: Request, tree: str, image: str, digest: bytes, time_sec: int) -> str:
    """Make the image; return its root hash, empty if there is none."""
    seed = str(uuid.UUID(bytes=digest[:16], version=4))
    # If times are kept, mkfs.erofs gets no -T, and clamps them to $SOURCE_DATE_EPOCH, which is the newest of them.
    erofs_options = _EROFS_OPTIONS if request.times is Times.KEEP else (*_EROFS_OPTIONS, f"-T{time_sec}")
    # No other variables, so that the caller's environment does not influence the image.
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": os.path.dirname(image),
        "SOURCE_DATE_EPOCH": str(time_sec),
        "SYSTEMD_REPART_MKFS_OPTIONS_EROFS": " ".join(erofs_options),
    }
    match request.format:
        case Format.EROFS:
            command = ["mkfs.erofs", *erofs_options, f"-U{seed}", image, tree]
        case Format.SQUASHFS:
            # mksquashfs uses $SOURCE_DATE_EPOCH, and refuses an option for the time in addition.
            command = ["mksquashfs", tree, image, "-all-root", "-no-xattrs", "-noappend", "-no-progress", "-quiet"]
        case _:
            command = _repart(request, tree, image, seed)
    done = programs.complete(*command, timeout_sec=_TOOL_TIMEOUT_SEC, environment=environment, umask=0o077)
    if done.status != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit status {done.status}"
        raise ConfextError(f"{command[0]} failed: {reason}", path=request.output)
    return _root_hash(done.stdout) if request.format is Format.DDI else ""


def _repart(request: Request, tree: str, image: str, seed: str) -> list[str]:
    command = [
        "systemd-repart", "--make-ddi=confext", "--offline=yes", "--no-pager", "--json=short", "--dry-run=no",
        f"--seed={seed}", f"--copy-source={tree}",
    ]  # fmt: skip
    if request.architecture is not None:
        command.append(f"--architecture={request.architecture}")
    if request.key is not None and request.certificate is not None:
        command += [f"--private-key={request.key}", f"--certificate={request.certificate}"]
    else:
        # The image still gets a hash tree: the root hash can be passed on out of band.
        command.append("--exclude-partitions=root-verity-sig")
    return [*command, image]


def _root_hash(printed: str) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        for partition in json.loads(printed):
            if found := partition.get("roothash"):
                return str(found)
    return ""
