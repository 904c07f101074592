# SPDX-License-Identifier: LGPL-2.1-or-later
"""Building a confext from a directory tree: a signed DDI, a plain file system, or a directory.

The file formats are systemd-repart's and the mkfs tools' business; this module gives them a tree that is the same
everywhere (sourcetree.py), a seed that is made of its content, and one time. So the same tree becomes the same bytes,
and a changed tree another root hash.

That time is made of the content, too. cron(8) reads a table again if its time is another one, nginx a certificate if
inode number or time are, and inode numbers of images follow from the layout: with a fixed time, or one that depends on
anything else, they would miss what has changed. One time for all, so that nothing in an image looks older than what it
was made from; and one that is long past, since times to come are taken for mistakes.

The result is written in a hidden directory and comes into its place in one rename (delivery.py): a `.confext.d/` may
be read by a reload at any moment. Until then it is for the eyes of the one alone who builds, and so are copies of the
tree: there may be keys in it. Nothing here needs to be root, but for the owners in a directory.
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
# The times that are made of the content: from 2001-09-09 to 2017-07-14.
_FIRST_SEC = 1_000_000_000
_SPAN_SEC = 500_000_000


class Format(StrEnum):
    """What can be built."""

    DDI = "ddi"
    EROFS = "erofs"
    SQUASHFS = "squashfs"
    DIRECTORY = "directory"


class Times(StrEnum):
    """Which times things in an image have."""

    CONTENT = "content"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be built.

    Attributes:
        tree: the directory with `etc/` in it.
        output: where to; the name is the confext's.
        format: see Format.
        key: path of a private key in PEM to sign a DDI with, or None.
        certificate: path of the certificate that belongs to it.
        os_release: path of the os-release file of the system that it is for, or None.
        release: fields of the release file, `NAME=VALUE`.
        allow: offences of the tree that are none.
        architecture: of a DDI, as in systemd.unit(5), ConditionArchitecture=; None for this machine's.
        force: whether to replace an image that is there.
        mode: of the image's file; None for what the umask leaves, or 0600 if there is anything private in the tree.
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
    """A request that was looked at; nothing is built yet.

    Attributes:
        request: what was asked for.
        scan: the tree and what is wrong with it.
        name: of the confext.
        release_file: path in the tree of the release file.
        release: content of the release file that is added; None if the tree has one.
    """

    request: Request
    scan: Scan
    name: str
    release_file: str
    release: str | None


@dataclass(frozen=True, slots=True)
class Built:
    """What was built.

    Attributes:
        path: where it is.
        size: in bytes; 0 for a directory.
        root_hash: of dm-verity, in hexadecimal digits; empty if it has none.
        mode: of its file, or 0755 for a directory.
        time_sec: the time of everything in it, or the newest one, in seconds since 1970.
    """

    path: str
    size: int
    root_hash: str
    mode: int
    time_sec: int


def plan(request: Request) -> Plan:
    """Look at everything that can be wrong before anything is built.

    Raises:
        ConfextError: it cannot be built as asked for. What is wrong with the tree is no error but in Plan.scan.
        OSError: something cannot be read.
    """
    name = releasefile.name_of(request.output, image=request.format is not Format.DIRECTORY)
    if os.path.lexists(request.output):
        if request.format is Format.DIRECTORY:
            hint = "choose another name with -o, or remove it first: a directory is not replaced at one blow"
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
    """Build it and put it into its place.

    Raises:
        ConfextError: the tree has offences, or a tool failed.
        OSError: something cannot be read or written.
    """
    request = planned.request
    if planned.scan.offences:
        problem = f"there are {len(planned.scan.offences)} things in the tree that cannot be part of a confext"
        raise ConfextError(problem, path=request.tree, hint="see --dry-run")
    place = delivery.place(_directory_of(request.output), anywhere=request.format is not Format.DIRECTORY)
    # A directory of mode 0700: nobody else reaches what is in it, whatever modes that has.
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
    """The mode of an image for which none is asked.

    Args:
        private: whether there is anything in it that not everybody may read.
    """
    umask = os.umask(0o077)  # It cannot be asked for otherwise.
    os.umask(umask)
    return 0o600 if private else 0o666 & ~umask


def _directory_of(output: str) -> str:
    return os.path.dirname(output.rstrip("/")) or "."


def _given_time_sec() -> int | None:
    """The time that is asked for: reproducible-builds.org, "SOURCE_DATE_EPOCH"."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return None
    if not re.fullmatch("[0-9]{1,10}", given):
        raise ConfextError(f"$SOURCE_DATE_EPOCH is {given!r}", hint="set it to seconds since 1970, or unset it")
    return int(given)


def _time_sec(digest: bytes) -> int:
    """The time of everything in an image of which this is the digest."""
    given = _given_time_sec()
    return _FIRST_SEC + int.from_bytes(digest, "big") % _SPAN_SEC if given is None else given


def _clamped(times: Mapping[str, int]) -> dict[str, int]:
    """Times of their own, in nanoseconds, of which none is later than the one that is asked for."""
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
    """Make the image; return its root hash, if it has one."""
    seed = str(uuid.UUID(bytes=digest[:16], version=4))
    # Where times are kept, $SOURCE_DATE_EPOCH is the newest one, and says that nothing may be newer.
    erofs_options = _EROFS_OPTIONS if request.times is Times.KEEP else (*_EROFS_OPTIONS, f"-T{time_sec}")
    # These alone, so that nothing of the caller's environment gets into the image.
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
            # It takes its own time from $SOURCE_DATE_EPOCH, and refuses an option for it besides.
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
        # There is a hash tree all the same: the root hash can be given out of band.
        command.append("--exclude-partitions=root-verity-sig")
    return [*command, image]


def _root_hash(printed: str) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        for partition in json.loads(printed):
            if found := partition.get("roothash"):
                return str(found)
    return ""
