# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext verify`: check that an image is whole, signed and allowed.

Any user who may read the image can run this; nothing is mounted.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import sys
from collections.abc import Sequence

from confext_generator import architectures
from confext_generator.tree import Tree
from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import PROGRAM
from confext_helpers.command.output import Color, Output, printable
from confext_helpers.errors import ConfextError
from confext_helpers.image import partitiontypes, policy, release, trust
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.naming import resolve
from confext_helpers.image.release import System
from confext_helpers.image.signature import Verified
from confext_helpers.image.verdict import Protection, Request, Verdict, verify

_PROGRESS_FROM = 64 << 20
_BAR_WIDTH = 40


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Verify the images that the command line names.

    Returns:
        Exit.REFUSED if there is a finding, Exit.ERROR if an image cannot be opened.

    Raises:
        ConfextError: the image policy, a trust anchor or the os-release file is invalid.
        OSError: a trust anchor or the os-release file cannot be read.
    """
    verdicts = []
    status = Exit.OK
    request = request_of(arguments)
    for path in arguments.operands:
        # No progress bar if standard error is a file or a pipe.
        bar = Bar(path, sys.stderr.isatty() and not output.quiet)
        try:
            verdicts.append(verify(resolve(path), dataclasses.replace(request, progress=bar)))
        except (OSError, ConfextError) as error:
            verdicts.append(Verdict(path, findings=[unreadable(error)]))
            status = Exit.ERROR
        finally:
            bar.end()
        if not verdicts[-1].good and status == Exit.OK:
            status = Exit.REFUSED
    if not output.quiet:
        _show(verdicts, output)
    return status


class Bar:
    """A progress bar on standard error, for large images.

    Args:
        path: of the image.
        wanted: whether to show a bar at all.
    """

    def __init__(self, path: str, wanted: bool) -> None:
        self._name = printable(os.path.basename(path))
        self._wanted = wanted
        self._percent = -1

    def __call__(self, done: int, of: int) -> None:
        """Show that `done` of `of` bytes were read."""
        percent = done * 100 // of
        if not self._wanted or of < _PROGRESS_FROM or percent == self._percent:
            return
        self._percent = percent
        filled = "#" * (percent * _BAR_WIDTH // 100)
        sys.stderr.write(f"\r{self._name}: [{filled:<{_BAR_WIDTH}}] {percent:3} %")
        sys.stderr.flush()

    def end(self) -> None:
        """Remove the bar."""
        if self._percent >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def unreadable(error: OSError | ConfextError) -> Finding:
    """The finding for an image that cannot be opened."""
    if isinstance(error, ConfextError):
        return Finding(Code.UNREADABLE, error.problem)
    return Finding(Code.UNREADABLE, error.strerror or str(error))


def request_of(arguments: argparse.Namespace) -> Request:
    """What the options require of an image.

    Raises:
        ConfextError: the value of an option is invalid.
        OSError: a file on the command line cannot be read.
    """
    given: str | None = arguments.architecture
    native = given or partitiontypes.native_architecture()
    return Request(
        anchors=trust.load(arguments.trust, arguments.root or ""),
        policy=policy.parse(policy.CONFEXT if arguments.image_policy is None else arguments.image_policy),
        system=_system(arguments, given or architectures.of_kernel(os.uname().machine)),
        native=native,
        now=datetime.datetime.now(datetime.UTC),
    )


def _system(arguments: argparse.Namespace, architecture: str) -> System | None:
    """The system that the release file must match: from --os-release=, or from --root=; None without both."""
    if arguments.os_release is not None:
        return release.read_system(arguments.os_release, architecture)
    if not arguments.root:
        return None
    tree = Tree(os.fsencode(arguments.root))
    for path in (b"/etc/os-release", b"/usr/lib/os-release"):
        host = os.fsdecode(tree.real(path))
        if os.path.exists(host):
            return release.read_system(host, architecture)
    raise ConfextError("there is no os-release file", path=arguments.root, hint="name one with --os-release=")


def signers_as_data(signers: Sequence[Verified]) -> list[data.Signer]:
    """Signers for JSON, and for tables."""
    return [
        {
            "subject": one.certificate.subject if one.certificate else None,
            "issuer": one.certificate.issuer if one.certificate else None,
            "fingerprint": one.certificate.fingerprint if one.certificate else None,
            "not_before": one.certificate.not_before.isoformat() if one.certificate else None,
            "not_after": one.certificate.not_after.isoformat() if one.certificate else None,
            "digest": one.signer.digest or None,
            "trusted": one.trusted,
            "valid": one.valid,
            "anchor": (one.certificate.origin or None) if one.certificate else None,
        }
        for one in signers
    ]


def findings_as_data(findings: Sequence[Finding]) -> list[data.Finding]:
    """Findings for JSON."""
    return [{"code": one.code, "message": one.message} for one in findings]


def _as_data(verdict: Verdict) -> data.Verdict:
    """A verdict for JSON; facts about an image that cannot be opened are None."""
    opened = all(one.code is not Code.UNREADABLE for one in verdict.findings)
    return {
        "path": verdict.path,
        "good": verdict.good,
        "protection": verdict.protection if opened else None,
        "root_hash": verdict.root_hash or None,
        "signers": signers_as_data(verdict.signers) if opened else None,
        "release": dict(verdict.release) if verdict.release is not None else None,
        "findings": findings_as_data(verdict.findings),
    }


def _show(verdicts: Sequence[Verdict], output: Output) -> None:
    if output.json != "off":
        output.data([_as_data(one) for one in verdicts])
        return
    for verdict in verdicts:
        path = printable(verdict.path)
        for finding in verdict.findings:
            output.line(f"{path}: {finding.code}: {printable(finding.message)}", Color.RED)
        if verdict.good:
            by = ", ".join(one.certificate.subject for one in verdict.signers if one.certificate and one.valid)
            what = {
                Protection.SIGNED: f"whole and signed by {printable(by)}",
                Protection.VERITY: "whole, as its stated root hash says; not signed",
            }.get(verdict.protection, "not protected: it has neither a signature nor a stated root hash")
            output.line(f"{path}: {what}", Color.GREEN if verdict.protection is Protection.SIGNED else Color.YELLOW)
    refused = sum(not one.good for one in verdicts)
    if refused and len(verdicts) > 1:
        output.note(f"{PROGRAM}: {refused} of {len(verdicts)} images refused")
