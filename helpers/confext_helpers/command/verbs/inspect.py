# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext inspect`: show what is in an image.

Nothing is verified: the data is not compared with the hash tree. Only with --image-policy= is the image verified first,
and if that fails, its file system is not read.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Literal

from confext_helpers.command import data
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
from confext_helpers.paths import ETC

_Fact = Literal[
    "path", "size", "partition_table", "sector_size", "file_system", "verity", "root_hash", "root_hash_from",
    "release_file", "release", "allowed",
]  # fmt: skip
_FACTS: tuple[_Fact, ...] = (
    "path", "size", "partition_table", "sector_size", "file_system", "verity", "root_hash", "root_hash_from",
    "release_file", "release", "allowed",
)  # fmt: skip


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show what is in the images that the command line names.

    Returns:
        Exit.ERROR if a file cannot be opened, or is not an image.

    Raises:
        ConfextError: the image policy or a trust anchor is invalid.
        OSError: a trust anchor cannot be read.
    """
    arguments.os_release = None
    status = Exit.OK
    shown: list[data.Image] = []
    request = request_of(arguments)
    for path in arguments.operands:
        try:
            shown.append(inspect(resolve(path), request, judged=arguments.image_policy is not None))
        except (OSError, ConfextError) as error:
            facts = _nothing(path)
            facts["findings"] = findings_as_data([unreadable(error)])
            shown.append(facts)
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


def _nothing(path: str) -> data.Image:
    """The facts about an image of which nothing is known."""
    return {
        "path": path, "size": None, "partition_table": None, "sector_size": None, "disk_uuid": None,
        "partitions": None, "file_system": None, "verity": None, "root_hash": None, "root_hash_from": None,
        "signers": None, "certificates": None, "release_file": None, "release": None, "etc": None, "allowed": None,
        "findings": [],
    }  # fmt: skip


def inspect(path: str, request: Request, *, judged: bool) -> data.Image:
    """What is in an image, for JSON.

    Args:
        request: what the image must fulfil.
        judged: whether to verify the image before reading its file system.

    Raises:
        ConfextError: the path is neither a file nor a block device.
        OSError: the image cannot be opened.
    """
    with dissect.open_image(path, request.policy, request.native) as image:
        facts = _nothing(path)
        facts["size"] = image.source.size
        facts["file_system"] = image.file_system.kind if image.file_system else None
        facts["root_hash"] = image.root_hash.hex() if image.root_hash else None
        facts["root_hash_from"] = image.root_hash_origin or None
        facts["partitions"] = _partitions(image)
        if image.table is not None:
            facts["partition_table"] = "gpt"
            facts["sector_size"], facts["disk_uuid"] = image.table.sector_size, image.table.uuid
        facts["verity"] = _verity(image)
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
        if facts["allowed"] is not False:
            _add_contents(facts, image)
        facts["findings"] = findings_as_data(list(dict.fromkeys(image.findings)))
        return facts


def _partitions(image: Image) -> list[data.Partition]:
    if image.table is None:
        return []
    used = {partition.number for partition in image.chosen.values()}
    return [
        {
            "number": one.number,
            "type": one.type.name if one.type else one.type_uuid,
            "type_uuid": one.type_uuid,
            "uuid": one.uuid,
            "label": one.label or None,
            "offset": one.offset,
            "size": one.size,
            "flags": [name for name, bit in gpt.FLAGS.items() if one.flags & bit],
            "used": one.number in used,
        }
        for one in image.table.partitions
    ]


def _verity(image: Image) -> data.Verity | None:
    if image.tree is None:
        return None
    try:
        superblock = verity.read_superblock(image.tree, image.sector_size)
    except VerityError as error:
        image.say(Code.VERITY_HEADER, error.problem)
        return None
    return {
        "algorithm": superblock.algorithm,
        "data_block_size": superblock.data_block_size,
        "hash_block_size": superblock.hash_block_size,
        "data_blocks": superblock.data_blocks,
        "salt": superblock.salt.hex() or None,
    }


def _add_contents(facts: data.Image, image: Image) -> None:
    if image.data is None or image.file_system is None:
        return
    try:
        found = contents.open_contents(image.data, image.file_system.kind)
        facts["etc"] = sorted(entry.path for entry in found.entries if entry.path != ETC)
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


def _show(facts: data.Image, output: Output) -> None:
    for key in _FACTS:
        value: object = facts[key]
        if isinstance(value, dict):
            value = [f"{name}={text}" for name, text in value.items()]
        if value is not None:
            output.line(f"{key.replace('_', ' ').capitalize() + ':':<17}{printable(value)}")
    _section("Partitions", ("number", "type", "label", "offset", "size", "flags", "used"), facts["partitions"], output)
    _section("Signed by", ("subject", "fingerprint", "not_before", "not_after", "trusted"), facts["signers"], output)
    if facts["etc"]:
        output.line()
        output.line("Files", Color.BOLD)
        for path in facts["etc"]:
            output.line(f"  {printable(path)}")
    for finding in facts["findings"]:
        output.note(f"{PROGRAM}: {printable(facts['path'])}: {finding['code']}: {printable(finding['message'])}")


def _section(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]] | None, output: Output) -> None:
    if rows:
        output.line()
        output.line(title, Color.BOLD)
        output.table(columns, [{key: "yes" if v is True else v for key, v in row.items()} for row in rows])
