# SPDX-License-Identifier: LGPL-2.1-or-later
"""Refuse layers for reasons that neither the kernel nor systemd checks.

The kernel mounts an erofs that has lost its end, and only when the service reads a file does that fail. The same is
true of a GPT image whose last partition is cut short. So the size that an image claims is compared with that of the
file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from confext_generator.tree import Tree
from confext_helpers.errors import ConfextError
from confext_helpers.image import superblocks
from confext_helpers.image.naming import is_block_device, is_there, layer_name, release_names, resolve
from confext_helpers.paths import RELEASE_PREFIX, RELEASES, sidecars
from confext_helpers.system import regular

_SECTOR = 512
_HEAD = 4096


def claimed_size(head: bytes) -> int:
    """The size in bytes that an image claims in its first 4096 bytes; 0 if not known.

    GPT: UEFI specification, "GPT Header" (AlternateLBA is the last sector).
    """
    if head[_SECTOR : _SECTOR + 8] == b"EFI PART":
        return (superblocks.number(head, _SECTOR + 32, 8) + 1) * _SECTOR
    return superblocks.squashfs_size(head) or superblocks.erofs_size(head) or 0


def check_picked(unit: str, layers: Sequence[str]) -> None:
    """Refuse a reload if a version that the generator picked is gone, and a daemon-reload would pick another one.

    systemd ignores a missing layer. But this layer is not missing: on 255, 258 and 259 the generator picks the newest
    version, and without a daemon-reload it has not run since. The service would lose the layer.

    Args:
        layers: the paths that the manager has loaded for the service.

    Raises:
        ConfextError: there is such a layer.
    """
    for layer in layers:
        directory, _, name = layer.rpartition("/")
        if not directory.endswith(".v") or os.path.lexists(layer):
            continue
        try:
            from confext_generator import vpick  # Only needed for `.v/` directories.

            picked = vpick.pick(Tree(), os.fsencode(directory), image=name.endswith(".raw"))
        except OSError:
            continue
        from confext_helpers.service.entries import Disk  # Only needed if a version is gone.

        known = Disk().find(unit) if picked is not None else None
        if picked is not None and known is not None and known.stale:
            problem = f"its version {name} is gone, and {os.path.basename(os.fsdecode(picked))} is not loaded"
            raise ConfextError(problem, path=directory, hint="run systemctl daemon-reload first")


def _is_odd(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def check_whole(path: str) -> None:
    """Refuse an image file that has lost its end, and a FIFO or the like, for which systemd may wait forever.

    Args:
        path: from ExtensionImages=. Directories, devices, and what cannot be read, are left to systemd.

    Raises:
        ConfextError: the image claims to be larger than it is, or the image or a file that belongs to it is a FIFO, a
            socket or a character device.
    """
    path = resolve(path)
    for part in (path, *sidecars(path)):
        if _is_odd(part):
            hint = "replace or remove it, and reload again"
            raise ConfextError("this is a FIFO, a socket or a character device, not a file", path=part, hint=hint)
    try:
        with open(regular.open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            claimed = claimed_size(file.read(_HEAD))
    except OSError:
        return
    if claimed > size:
        raise ConfextError(
            f"the image is cut short: it has {size} of {claimed} bytes",
            path=path,
            hint="replace it and reload again",
        )


def check_releases(layers: list[str], namespace: int) -> None:
    """Refuse a layer without a release file of its name (systemd-confext(8)) if systemd did not check that.

    Args:
        layers: those for which has_strict_name() was false when the stage was begun; missing ones are ignored.
        namespace: descriptor of the stage's mount namespace, which has all layers in place.

    Raises:
        ConfextError: a layer has no such file.
    """
    if not layers:
        return
    from confext_helpers.service import releases
    from confext_helpers.stage import etcmount  # Only needed for block devices and for layers that came late.

    with etcmount.open_stage(namespace) as etc:
        seen = releases.of_etc(etc)
    names = {one.name for one in seen}
    lax = any(one.lax for one in seen)
    for layer in layers:
        path = resolve(layer)
        if lax and is_block_device(path):
            continue
        if is_there(layer) and names.isdisjoint(release_names(layer_name(path))):
            raise no_release(path)


def no_release(path: str) -> ConfextError:
    """The error for a layer at `path` without a release file of its name."""
    return ConfextError(
        f"the layer has no {RELEASE_PREFIX}{layer_name(path)} in its {RELEASES}",
        path=path,
        hint="give the image the name that it was built with, or build it anew, and reload again",
    )


def wants_signature(policy: str) -> bool:
    """Whether an image policy requires a signature for the root file system: systemd.image-policy(7)."""
    # Parse only a policy that may require one: image/policy.py takes longer to load than all else here. A rule that
    # begins with "=" is for all other partitions.
    rules = [rule for rule in policy.split(":") if rule.startswith(("root=", "="))]
    if not any("signed" in rule and "unprotected" not in rule for rule in rules):
        return False
    from confext_helpers.image import policy as policies

    return policies.wants_signature(policies.parse(policy))


def check_directories(directories: list[str], policy: str) -> None:
    """Refuse a directory layer if the image policy requires a signature: a directory cannot be signed.

    systemd has no policy for directories. The generator leaves them out already, but does not know all of them.

    Args:
        directories: from ExtensionDirectories=; missing ones are ignored.
        policy: the service's ExtensionImagePolicy=, systemd.image-policy(7).

    Raises:
        ConfextError: there is such a directory.
    """
    for path in directories:
        if os.path.exists(path) and wants_signature(policy):
            raise ConfextError(
                "a directory cannot be signed, and ExtensionImagePolicy= asks for a signature",
                path=path,
                hint="use a signed image, run systemctl daemon-reload, and reload again",
            )


def check_signers(layers: list[str], policy: str) -> bool:
    """Refuse an image whose signature is expired or not understood, if the image policy requires a signature.

    systemd has mounted the image by now: the kernel verified the signature, or OpenSSL did, which ignores the clock. So
    a signer whom no certificate here knows must be one whose key the kernel has; only this finding passes. If others
    passed, an image with an expired certificate could come back, changed so that only OpenSSL finds the certificate.

    Args:
        layers: from ExtensionImages= and ExtensionDirectories=.
        policy: the service's ExtensionImagePolicy=, systemd.image-policy(7).

    Returns:
        Whether the images were looked at. If so, the caller has to make sure afterwards that they are those mounted.

    Raises:
        ConfextError: there is such an image, an image cannot be read, or the policy is not understood.
    """
    if not wants_signature(policy):
        return False
    from confext_helpers.image import policy as policies
    from confext_helpers.image import signers, trust
    from confext_helpers.image.findings import Code

    asked = policies.parse(policy)
    anchors = trust.load(())
    for layer in layers:
        path = resolve(layer)
        if not os.path.exists(path) or (path.endswith(".v") and os.path.isdir(path)):
            # This is no layer: systemd ignores what is missing.
            continue
        hint = "have the image signed anew and reload again"
        try:
            found = signers.read(path, anchors, asked=asked)
        except (OSError, ConfextError) as error:
            problem = f"it is not signed as the image policy requires: {error}"
            raise ConfextError(problem, path=layer, hint=hint) from error
        for finding in found.findings:
            if finding.code is Code.SIGNATURE_EXPIRED:
                problem = f"the signer's certificate is not valid now: {finding.message}"
            elif finding.code is Code.SIGNATURE_ANCHOR:
                problem = f"its signature cannot be checked: {finding.message}"
                hint = "repair this certificate and reload again"
            elif finding.code is not Code.SIGNATURE_UNKNOWN_KEY:
                problem = f"it is not signed as the image policy requires: {finding.message}"
            else:
                continue
            raise ConfextError(problem, path=layer, hint=hint)
        if not found.signers:
            problem = "the image policy asks for a signature, and there is none"
            raise ConfextError(problem, path=layer, hint=hint)
    return True


def signature_problem(path: str) -> str:
    """What is wrong with the signature of an image that systemd refused; empty if nothing is."""
    from confext_helpers.image import signers, trust

    try:
        findings = signers.read(resolve(path), trust.load(())).findings
    except (OSError, ConfextError):
        return ""
    return findings[0].message if findings else ""
