# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext inspect`: what is in an image.

It says what there is, not whether that may be believed: the hash tree is not compared with the data. Only with an image
policy is the image verified first, and its file system not read if that fails.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Sequence

from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import PROGRAM
from confext_helpers.command.output import Color, Output, printable
from confext_helpers.command.verbs.verify import findings_as_data, request_of, signers_as_data, unreadable
from confext_helpers.errors import ConfextError
from confext_helpers.image import contents, dissect, gpt, release, signers, verity
from confext_helpers.image.contents import ContentsError
from confext_helpers.image.dissect import Image
from confext_helpers.image.findings import Code
from confext_helpers.image.naming import image_name, resolve
from confext_helpers.image.verdict import Request, judge
from confext_helpers.image.verity import VerityError

_FACTS = (
    "path", "size", "partition_table", "sector_size", "file_system", "verity", "root_hash", "root_hash_from",
    "release_file", "release", "allowed",
)  # fmt: skip


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show what is in the images that the command line names.

    Returns:
        Exit.ERROR if one of them cannot be opened, or is no image.

    Raises:
        ConfextError: the policy or the trust anchors are no such thing.
        OSError: one of them cannot be read.
    """
    arguments.os_release = None
    status = Exit.OK
    shown: list[dict[str, object]] = []
    request = request_of(arguments)
    for path in arguments.operands:
        try:
            facts = inspect(resolve(path), request, judged=arguments.image_policy is not None)
        except (OSError, ConfextError) as error:
            facts = {"path": path, "findings": findings_as_data([unreadable(error)])}
        shown.append(_EMPTY | facts)
        if not shown[-1]["file_system"]:
            status = Exit.ERROR
    if output.json != "off":
        output.data(shown)
        return status
    for number, facts in enumerate(shown):
        if number:
            output.line()
        _show(facts, output)
    return status


_EMPTY: dict[str, object] = {
    "path": None, "size": None, "partition_table": None, "sector_size": None, "disk_uuid": None, "partitions": [],
    "file_system": None, "verity": None, "root_hash": None, "root_hash_from": None, "signers": [], "certificates": [],
    "release_file": None, "release": None, "etc": [], "allowed": None, "findings": [],
}  # fmt: skip


def inspect(path: str, request: Request, *, judged: bool) -> dict[str, object]:
    """What is in an image, for JSON.

    Args:
        path: of the image.
        request: what it is held to.
        judged: whether it has to be verified before its file system is read.

    Raises:
        ConfextError: it is no file and no block device.
        OSError: it cannot be opened.
    """
    with dissect.open_image(path, request.policy, request.native) as image:
        facts: dict[str, object] = {
            "path": path,
            "size": image.source.size,
            "file_system": image.file_system.kind if image.file_system else None,
            "root_hash": image.root_hash.hex() if image.root_hash else None,
            "root_hash_from": image.root_hash_origin or None,
        }
        facts |= _table(image) | _verity(image)
        if judged:
            verdict = judge(image, request)
            found, facts["allowed"] = verdict.signers, verdict.good
        else:
            found, findings = signers.check(image, request.anchors, request.now)
            image.findings += findings
        facts["signers"] = signers_as_data(found)
        facts["certificates"] = [
            {"subject": one.subject, "fingerprint": one.fingerprint, "not_after": one.not_after.isoformat()}
            for one in signers.certificates(image)
        ]
        if facts.get("allowed", True):
            facts |= _contents(image)
        facts["findings"] = findings_as_data(list(dict.fromkeys(image.findings)))
        return facts


def _table(image: Image) -> dict[str, object]:
    if image.table is None:
        return {}
    used = {partition.number for partition in image.chosen.values()}
    return {
        "partition_table": "gpt",
        "sector_size": image.table.sector_size,
        "disk_uuid": image.table.uuid,
        "partitions": [
            {
                "number": one.number,
                "type": one.type.name if one.type else one.type_uuid,
                "type_uuid": one.type_uuid,
                "uuid": one.uuid,
                "label": one.label,
                "offset": one.offset,
                "size": one.size,
                "flags": [name for name, bit in gpt.FLAGS.items() if one.flags & bit],
                "used": one.number in used,
            }
            for one in image.table.partitions
        ],
    }


def _verity(image: Image) -> dict[str, object]:
    if image.tree is None:
        return {}
    try:
        superblock = verity.read_superblock(image.tree, image.sector_size)
    except VerityError as error:
        image.say(Code.VERITY_HEADER, error.problem)
        return {}
    return {
        "verity": {
            "algorithm": superblock.algorithm,
            "data_block_size": superblock.data_block_size,
            "hash_block_size": superblock.hash_block_size,
            "data_blocks": superblock.data_blocks,
            "salt": superblock.salt.hex(),
        }
    }


def _contents(image: Image) -> dict[str, object]:
    if image.data is None or image.file_system is None:
        return {}
    facts: dict[str, object] = {}
    try:
        found = contents.open_contents(image.data, image.file_system.kind)
        facts["etc"] = sorted(entry.path for entry in found.entries if entry.path != "/etc")
        mode = stat.S_IMODE(os.fstat(image.source.fd).st_mode)
        private = next(found.private(), None) if mode & stat.S_IROTH else None
        if private is not None:
            image.say(Code.EXPOSED, f"mode {mode:04o} lets everybody read {private!r}; chmod 0600 the image")
        files = {entry.path for entry in found.entries if entry.kind == "file"}
        name = image_name(image.path)
        path = release.find(name, files)
        if path is None:
            image.findings.append(release.missing(name, files))
        else:
            facts["release_file"] = path
            facts["release"] = dict(release.parse(found.read(path), path))
    except ContentsError as error:
        image.findings.append(error.finding)
    except ConfextError as error:
        image.say(Code.RELEASE_MALFORMED, str(error))
    return facts


def _show(facts: dict[str, object], output: Output) -> None:
    for key in _FACTS:
        value = facts[key]
        if isinstance(value, dict):
            value = [f"{name}={text}" for name, text in value.items()]
        if value is not None:
            output.line(f"{key.replace('_', ' ').capitalize() + ':':<17}{printable(value)}")
    _section("Partitions", ("number", "type", "label", "offset", "size", "flags", "used"), facts["partitions"], output)
    _section("Signed by", ("subject", "fingerprint", "not_before", "not_after", "trusted"), facts["signers"], output)
    paths = facts["etc"]
    if isinstance(paths, list) and paths:
        output.line()
        output.line("Files", Color.BOLD)
        for path in paths:
            output.line(f"  {printable(path)}")
    findings = facts["findings"]
    if isinstance(findings, list):
        for finding in findings:
            output.note(f"{PROGRAM}: {printable(facts['path'])}: {finding['code']}: {printable(finding['message'])}")


def _section(title: str, columns: Sequence[str], rows: object, output: Output) -> None:
    if isinstance(rows, list) and rows:
        output.line()
        output.line(title, Color.BOLD)
        output.table(columns, [{key: "yes" if v is True else v for key, v in row.items()} for row in rows])
