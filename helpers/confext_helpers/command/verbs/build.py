# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext build`: make a confext from a directory tree."""

from __future__ import annotations

import argparse
import datetime
import re
import sys

from confext_helpers.builder.image import Format, Plan, Request, Times, build, image_mode, plan
from confext_helpers.builder.sourcetree import Allow, Offence
from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import PROGRAM
from confext_helpers.command.output import Output, printable
from confext_helpers.errors import ConfextError


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Build what the command line asks for.

    Returns:
        Exit.REFUSED if the tree contains a file that cannot be part of a confext.

    Raises:
        ConfextError: the image cannot be built.
        OSError: a file cannot be read or written.
    """
    if arguments.output is None:
        raise ConfextError("there is no name for the image", hint="give one with -o, such as -o site.raw")
    planned = plan(
        Request(
            tree=arguments.operands[0],
            output=arguments.output,
            format=Format(arguments.format),
            key=arguments.key,
            certificate=arguments.certificate,
            os_release=arguments.os_release,
            release=arguments.release,
            allow=[_allow(word) for word in arguments.allow],
            architecture=arguments.architecture,
            force=arguments.force,
            mode=_mode(arguments.mode),
            times=Times(arguments.times),
        )
    )
    if planned.scan.offences:
        _show_offences(planned, output)
        return Exit.REFUSED
    facts = _facts(planned)
    if arguments.certificate is not None:
        from confext_helpers.builder import keypair

        if doubt := keypair.expiry(arguments.certificate, datetime.datetime.now(datetime.UTC).replace(tzinfo=None)):
            output.note(f"{doubt}: nobody will accept the image")
    if not arguments.dry_run:
        built = build(planned)
        time = datetime.datetime.fromtimestamp(built.time_sec, datetime.UTC).isoformat()
        facts["size"], facts["root_hash"], facts["time"] = built.size or None, built.root_hash or None, time
        if facts["mode"] is not None:
            facts["mode"] = f"{built.mode:04o}"
    _say_mode(planned, facts, output)
    if output.json != "off":
        output.data([facts])
    else:
        for key, value in facts.items():
            if value is not None and value != []:
                output.line(f"{key.replace('_', ' ').capitalize() + ':':<14}{printable(value)}")
    return Exit.OK


def _mode(text: str | None) -> int | None:
    """The mode that --mode= asks for."""
    if text is None:
        return None
    if not re.fullmatch("0?[0-7]{3}", text) or int(text, 8) & ~0o666 or not int(text, 8) & 0o400:
        hint = "give an octal mode that lets the owner read and nobody execute, such as --mode=0600"
        raise ConfextError(f"--mode={printable(text)} is not a valid mode of an image", hint=hint)
    return int(text, 8)


def _say_mode(planned: Plan, facts: data.Build, output: Output) -> None:
    """Tell the user if the mode gives private files away, was tightened because of them, or lets others write."""
    if facts["mode"] is None:
        return
    mode = int(facts["mode"], 8)
    image = f"{PROGRAM}: {printable(planned.request.output)}"
    private = planned.scan.private
    if private:
        what = printable(private[0]) + (f" and {len(private) - 1} more" if len(private) > 1 else "")
        if mode & 0o044:
            who = "everybody" if mode & 0o004 else "its group"
            output.note(f"{image}: mode {mode:04o} lets {who} read {what}, which not everybody may read in the tree")
        else:
            output.note(f"{image}: mode {mode:04o}, since not everybody may read {what}; see --mode=")
    if mode & 0o022:
        output.note(f"{image}: mode {mode:04o} lets others write it, and such an image is no layer; chmod go-w it")


def _allow(word: str) -> Allow:
    if word not in list(Allow):
        raise ConfextError(f"--allow={printable(word)} is not known", hint=f"there are: {', '.join(Allow)}")
    return Allow(word)


def _show_offences(planned: Plan, output: Output) -> None:
    offences = planned.scan.offences
    if output.json != "off":
        output.data([_offence(one) for one in offences])
        return
    for offence in offences:
        print(f"{PROGRAM}: {printable(offence.path)}: {offence.problem}; {offence.hint}", file=sys.stderr)


def _offence(offence: Offence) -> data.Offence:
    return {"path": offence.path, "problem": offence.problem, "hint": offence.hint}


def _facts(planned: Plan) -> data.Build:
    """The facts that are known before the image is built."""
    request = planned.request
    release = (planned.release or "").strip().replace("\n", " ")
    mode = image_mode(bool(planned.scan.private)) if request.mode is None else request.mode
    return {
        "output": request.output,
        "format": str(request.format),
        "name": planned.name,
        "files": planned.scan.files + (planned.release is not None),
        "content": planned.scan.size + len(planned.release or ""),
        "release": release if planned.release is not None else f"as in {planned.release_file}",
        "signed_by": request.certificate,
        "left_out": planned.scan.left_out,
        "mode": None if request.format is Format.DIRECTORY else f"{mode:04o}",
        "private": planned.scan.private,
        "size": None,
        "root_hash": None,
        "time": None,
    }
